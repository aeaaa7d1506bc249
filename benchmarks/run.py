"""vilib beside Pyro, NumPyro and PyMC: how long each takes for the same answer.

    make bench                                    the agreement, then every job; writes benchmarks/latest.json and latest.md
    .venv-bench/bin/python benchmarks/run.py --jobs J1 J4        some jobs; the others keep what latest.json has, if of such a machine
    .venv-bench/bin/python benchmarks/run.py --quick             a smoke test: small sizes, two repeats, nothing is written

Every peer lives in a process of its own, on one core and one thread (peers/worker.py).  Within a job the peers take turns, repeat by
repeat, so that a busy minute of the machine hits all alike; a figure is the median of the repeats.  Building, tracing, compiling and
running a first time is timed apart (*first call*).  Each job ends with a verdict on the answers: the same gradient within its standard
error, the same ELBO of the fitted q.  Where that fails the run ends with an error: a time for something else is no time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
from datetime import date
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from statistics import median

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "peers")]

import numpy as np

import problems
import table
from problems import SLOPE, STATISTICS, TABULATED
from worker import ONE_THREAD

RESULTS, TABLE, README = HERE / "latest.json", HERE / "latest.md", HERE.parent / "README.md"
ELSEWHERE = HERE / "elsewhere"                                  # what other machines measured, a file each
REPEATS = 7


class Peer:
    """One library's process and the job it has in hand."""

    def __init__(self, name: str, file: str, job: str, settings: dict):
        self.name, self.job, self.settings, self.seconds = name, job, settings, []
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "peers" / f"{file}.py")], env=os.environ | ONE_THREAD, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE if not os.environ.get("BENCH_DEBUG") else None,
        )

    def __enter__(self) -> Peer:
        self.first = self.ask(do="prepare", job=self.job, settings=self.settings)["seconds"]
        return self

    def __exit__(self, *_) -> None:
        self.process.stdin.close()
        self.process.wait(30)

    def ask(self, **request):
        print(json.dumps(request), file=self.process.stdin, flush=True)
        reply = self.process.stdout.readline()
        if not reply:
            raise SystemExit(f"{self.name} died on {request}:\n{(self.process.stderr.read() if self.process.stderr else '')[-3000:]}")
        return json.loads(reply)

    def time(self, seed: int) -> None:
        self.seconds.append(self.ask(do="time", seed=seed)["seconds"])


def race(entries: list[tuple[str, str, str, dict]], repeats: int) -> tuple[dict, dict]:
    """(times, answers) of each (name, file, job, settings), in turns: name -> {"median", "least", "first"}, name -> what it made.

    All processes are up and have compiled before the first repeat; the idle ones sleep on a pipe.
    """
    peers = []
    try:
        for entry in entries:
            peers.append(Peer(*entry).__enter__())
        for seed in range(1, repeats + 1):
            for peer in peers if seed % 2 else reversed(peers):
                peer.time(seed)
        times = {p.name: {"median": median(p.seconds), "least": min(p.seconds), "first": p.first, "repeats": p.seconds} for p in peers}
        return times, {p.name: p.ask(do="read") for p in peers}
    finally:
        for peer in peers:
            peer.__exit__()


# ---- is it the same answer? ----------------------------------------------------------------------------------------------


def same_gradients(answers: dict, sigmas: float = 6.0) -> str:
    """Every mean gradient of every peer and estimator is NumPyro's, within ``sigmas`` standard errors.  Raises if not."""
    reference, worst = answers["NumPyro"]["pathwise"], 0.0
    for peer, by_estimator in answers.items():
        for name, found in by_estimator.items():
            error = np.hypot(found["error"], reference["error"])
            off = np.abs(np.array(found["mean"]) - reference["mean"]) / error
            worst = np.max([worst, *off])
            if not (off < sigmas).all():
                raise SystemExit(f"{peer}, {name}: its mean gradient is {off.max():.1f} standard errors off. Not the same job.")
    return f"mean gradients agree within {worst:.1f} standard errors"


def same_elbo(problem: problems.Problem, answers: dict, tolerance: float = 0.3) -> tuple[str, dict]:
    """Every peer's fitted q has the same ELBO within ``tolerance`` nats (the median of its fits).  Raises if not.

    The step size is constant, so the last λ still jitters: by some 0.1 nats on the regressions with 10 coefficients.
    """
    reached = {
        peer: median(problems.elbo(problem, *pair, num_samples=4000) for pair in zip(made["mean"][:9], made["sd"][:9]))
        for peer, made in answers.items()
    }
    spread = max(reached.values()) - min(reached.values())
    if not spread < tolerance:
        raise SystemExit(f"{problem.name}: the fits differ by {spread:.2f} nats: {reached}. Not the same job.")
    return f"ELBOs within {spread:.3f} nats", reached


# ---- the jobs ------------------------------------------------------------------------------------------------------------

FIT = {"num_samples": 10, "num_steps": 2000, "step_size": 0.02}
THREE = [{"name": "logistic"}, {"name": "eight schools"}, {"name": "linear"}]
CHOSEN = {p["name"] for p in THREE}
ALONE = {"score function": "score_function", "score + leave-one-out": "leave_one_out", "score + optimal coefficient": "optimal_coefficient",
         "pathwise": "pathwise", "sticking the landing": "sticking_the_landing"}


def gradient_study(quick: bool, repeats: int) -> dict:
    """J1: R = 1000 gradients, Bayesian regression, D = 10, N = 500."""
    results = {}
    for name in [p for p in ("linear", "logistic") if p in CHOSEN]:
        for num_samples in (16,) if quick else (16, 256):
            settings = {
                "problem": {"name": name, "num_data": 500, "dim": 10}, "num_samples": num_samples,
                "num_replicates": 100 if quick else 1000, "q": [[0.1] * 10, [-2.0] * 10],
            }
            alone = ALONE.items() if name == "linear" else ()
            times, answers = race(
                [("vilib, all five", "with_vilib", "study", settings)]
                + [(f"vilib, {label}", "with_vilib", "study", settings | {"estimators": [key]}) for label, key in alone]
                + [("NumPyro", "with_numpyro", "study", settings), ("JAX by hand", "with_numpyro", "study_by_hand", settings)], repeats)
            results[f"{name}, S = {num_samples}"] = {"times": times, "verdict": same_gradients(answers)}
    return results


def one_fit(quick: bool, repeats: int) -> dict:
    """J2: one fit, 2,000 Adam steps, S = 10."""
    results, settings = {}, FIT | ({"num_steps": 1000} if quick else {})
    for problem in [p for p in THREE if p["name"] in CHOSEN]:
        made = settings | {"problem": problem}
        by_hand = [(f"vilib, {SLOPE}", "with_vilib", "fit", made | {"form": SLOPE})] if problem["name"] == "eight schools" else []
        times, answers = race([("vilib", "with_vilib", "fit", made), *by_hand,
            ("Pyro", "with_pyro", "fit", made), ("NumPyro", "with_numpyro", "fit_as_users", made),
            ("PyMC", "with_pymc", "fit", made), ("lax.scan", "with_numpyro", "fit_scan", made)], repeats)
        verdict, reached = same_elbo(problems.make(**problem), answers, 5.0 if quick else 0.3)
        results[problem["name"]] = {"times": times, "verdict": verdict, "elbo": reached}
    return results


#: problem -> the form in which vilib's log joint stands in J3, where it is not the plain one.
FOR_MANY = {"linear": STATISTICS, "logistic": TABULATED}


def many_fits(quick: bool, repeats: int) -> dict:
    """J3: 64 and 512 fits at once, whole path recorded; 512 of the largest model for a quarter of the steps, as they take half a minute.

    A log joint that is asked so often is worth a better form: vilib's linear regression goes by its sufficient statistics here and the
    one-coefficient logistic by a table, NumPyro's as its users write them.  Each is timed the other way too, where there is one.
    """
    results, settings = {}, FIT | ({"num_steps": 1000} if quick else {})
    for problem in [p for p in THREE if p["name"] in CHOSEN]:
        name = problem["name"]
        for counts, steps in [((4,), 1000)] if quick else [((64,), 2000), ((512,), 500)] if name == "linear" else [((64, 512), 2000)]:
            plain = settings | {"problem": problem, "num_steps": steps}
            chosen = plain | {"form": FOR_MANY.get(name, "")}
            entries = [("vilib, 1", "with_vilib", "fit", chosen)]
            for count in counts:
                many = {"num_fits": count}
                entries.append((f"vilib, {count}", "with_vilib", "fit", chosen | many))
                entries.append((f"lax.scan, {count}", "with_numpyro", "fit_scan", plain | many))
                if name in FOR_MANY:
                    entries.append((f"vilib, {count}{table.PLAIN}", "with_vilib", "fit", plain | many))
                if name == "linear":
                    entries.append((f"lax.scan, {count}, {STATISTICS}", "with_numpyro", "fit_scan", chosen | many))
                if name == "eight schools":
                    entries.append((f"vilib, {count}, {SLOPE}", "with_vilib", "fit", plain | many | {"form": SLOPE}))
            times, answers = race(entries, repeats)
            verdict, reached = same_elbo(problems.make(**problem), answers, 5.0 if steps < 2000 else 0.3)
            label = name + ("" if steps == 2000 else f", {steps} steps")
            results[label] = {"times": times, "verdict": verdict, "elbo": reached, "form": chosen["form"]}
    return results


def slider(quick: bool, repeats: int) -> dict:
    """J4: what a slider asks: 1-D logistic regression, N = 100, R = 500, S up to 1024.  It is short: three times the repeats."""
    settings = {"problem": {"name": "logistic"}, "num_samples": 64 if quick else 1024, "num_replicates": 500, "q": [[0.3], [-1.0]]}
    own = lambda fresh, form: settings | {"fresh_noise": fresh, "form": form}  # noqa: E731
    times, answers = race([
        ("vilib, all five at every S", "with_vilib", "slider", own(False, TABULATED)),
        ("vilib, fresh noise too", "with_vilib", "slider", own(True, TABULATED)),
        ("vilib, log joint not tabulated", "with_vilib", "slider", own(False, "")),
        ("NumPyro", "with_numpyro", "study", settings), ("JAX by hand", "with_numpyro", "study_by_hand", settings)], 3 * repeats)
    return {"logistic": {"times": times, "verdict": same_gradients(answers)}}


def autoencoder(quick: bool, repeats: int) -> dict:
    """J5: one epoch of a VAE on the 8 × 8 digits, latent 2, batches of 128."""
    settings = {"num_epochs": 3 if quick else 30, "batch_size": 128, "hidden": 64, "step_size": 5e-3}
    times, answers = race([
        ("vilib", "with_vilib", "autoencoder", settings), ("Pyro", "with_pyro", "autoencoder", settings),
        ("NumPyro", "with_numpyro", "autoencoder", settings)], repeats)
    reached = {peer: made["elbo"] for peer, made in answers.items()}
    spread = max(reached.values()) - min(reached.values())
    if not spread < (3.0 if quick else 0.5):
        raise SystemExit(f"autoencoder: ELBOs per image differ by {spread:.2f} nats: {reached}. Not the same job.")
    for each in times.values():                                 # of one epoch
        each |= {k: each[k] / settings["num_epochs"] for k in ("median", "least")}            # "first" is of all of them
    return {"digits": {"times": times, "verdict": f"ELBOs per image within {spread:.2f} nats", "elbo": reached}}


def cold_process(quick: bool, repeats: int) -> dict:
    """From `python` on the command line to the first fitted q (eight schools, 2,000 steps, S = 10), imports included."""
    files = {"vilib": "with_vilib", "NumPyro": "with_numpyro", "Pyro": "with_pyro"}
    commands = {"import torch": [sys.executable, "-c", "import torch"]}
    commands |= {peer: [sys.executable, str(HERE / "peers" / f"{file}.py"), "cold"] for peer, file in files.items()}
    by_hand = f"vilib, {SLOPE}"
    commands[by_hand] = [*commands["vilib"], SLOPE]
    commands["import vilib"] = [sys.executable, "-c", "import vilib"]
    environment = os.environ | ONE_THREAD | {"PYTHONPATH": str(HERE.parent)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)            # installed packages are compiled once; so be vilib
    seconds = {peer: [] for peer in commands}
    answers = {}
    for repeat in range(repeats + 1):
        for peer, command in commands.items():
            began = time.perf_counter()
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            if repeat:                                          # the first visit warms the disk's cache
                seconds[peer].append(time.perf_counter() - began)
            if peer in files or peer == by_hand:
                answers[peer] = float(done.stdout.split()[-1])
    spread = max(answers.values()) - min(answers.values())
    if not spread < 1.5:
        raise SystemExit(f"cold: the fitted means of mu differ by {spread:.2f}: {answers}. Not the same job.")
    times = {peer: {"median": median(s), "least": min(s), "repeats": s} for peer, s in seconds.items()}
    return {"eight schools": {"times": times, "verdict": f"means of mu within {spread:.2f} (posterior sd 3.3)"}}


def cost(quick: bool, repeats: int) -> dict:
    """J2 against N, D and S, one axis at a time from linear regression with N = 500, D = 10, S = 10: seconds a step."""
    axes = {"N": [10**2, 10**3, 10**4, 10**5], "D": [1, 10, 100, 1000], "S": [1, 4, 16, 64, 256, 1024]}
    results = {}
    for axis, values in axes.items():
        by_peer: dict[str, list[float]] = {"vilib": [], "lax.scan": []}
        for value in values[:2] if quick else values:
            sizes = {"N": 500, "D": 10, "S": 10} | {axis: value}
            work = sizes["N"] * sizes["D"] * sizes["S"]
            steps = int(np.clip(2e8 / work, 20, 400))
            settings = {"problem": {"name": "linear", "num_data": sizes["N"], "dim": sizes["D"]},
                        "num_samples": sizes["S"], "num_steps": steps, "step_size": 0.01}
            times, _ = race([("vilib", "with_vilib", "fit", settings), ("lax.scan", "with_numpyro", "fit_scan", settings)], repeats)
            for peer, found in times.items():
                by_peer[peer].append(found["median"] / steps)
        values = values[:2] if quick else values
        slopes = {peer: [float(np.log(b / a) / np.log(v / u)) for (u, v), (a, b) in zip(pairwise(values), pairwise(seconds))]
                  for peer, seconds in by_peer.items()}
        whole = {peer: float(np.polyfit(np.log(values), np.log(seconds), 1)[0]) for peer, seconds in by_peer.items()}
        results[axis] = {"values": values, "seconds a step": by_peer, "slope": whole, "slope between neighbours": slopes}
    return results


JOBS = {"J1": gradient_study, "J2": one_fit, "J3": many_fits, "J4": slider, "J5": autoencoder, "cold": cold_process, "cost": cost}


def machine() -> dict:
    packages = ("torch", "numpy", "pyro-ppl", "numpyro", "jax", "pymc")
    model = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "") \
        if Path("/proc/cpuinfo").exists() else platform.processor()
    return {"date": date.today().isoformat(), "python": platform.python_version(), "processor": model, "cores": os.cpu_count(),
            "threads": 1, "versions": {p: version(p) for p in packages}}


def earlier(results: Path, elsewhere: Path, processor: str) -> dict:
    """What this kind of machine measured before.  The last results go to ``elsewhere`` if another machine's: theirs and ours never mix."""
    def move(processor: str, away: bool) -> None:
        for ours in (results, results.with_suffix(".md")):
            theirs = elsewhere / f"{'-'.join(re.findall('[a-z0-9]+', processor.lower()))}{ours.suffix}"
            here, there = (ours, theirs) if away else (theirs, ours)
            if here.exists():
                there.parent.mkdir(exist_ok=True)
                here.rename(there)

    if results.exists():
        last = json.loads(results.read_text())
        if last["machine"]["processor"] == processor:
            return last
        move(last["machine"]["processor"], away=True)
    move(processor, away=False)
    return json.loads(results.read_text()) if results.exists() else {"jobs": {}}


def main() -> None:
    parse = argparse.ArgumentParser(description="Time vilib beside its peers; see the head of this file.")
    parse.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    parse.add_argument("--problems", nargs="+", choices=sorted(CHOSEN), default=sorted(CHOSEN), help="of J1, J2 and J3")
    parse.add_argument("--repeats", type=int, default=REPEATS)
    parse.add_argument("--quick", action="store_true")
    chosen = parse.parse_args()
    CHOSEN.intersection_update(chosen.problems)
    results = {"jobs": {}} if chosen.quick else earlier(RESULTS, ELSEWHERE, machine()["processor"])
    others = [json.loads(file.read_text()) for file in sorted(ELSEWHERE.glob("*.json"))]
    for job in chosen.jobs:
        began = time.perf_counter()
        results["jobs"].setdefault(job, {}).update(JOBS[job](chosen.quick, 2 if chosen.quick else chosen.repeats))
        print(f"{job}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        results |= {"machine": machine(), "repeats": chosen.repeats}
        if not chosen.quick:
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")
            TABLE.write_text(table.markdown(results))
            README.write_text(table.into(README.read_text(), table.aims(results, *others)))
    print(table.markdown(results))


if __name__ == "__main__":
    main()
