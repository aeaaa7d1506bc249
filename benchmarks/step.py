"""Where the time of one step of a fit goes: each part timed alone, and the step as a whole.

    .venv/bin/python benchmarks/step.py [--fits 64]

J2's problems and settings (S = 10, float32, one thread), pathwise and Adam.  A part timed alone finds its code and numbers in the
processor's caches, so the parts add up to less than the step; what is missing stands under "between the parts".
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "peers"), str(HERE.parent)]

from worker import on_one_core

on_one_core()

import torch

import problems
import vilib
import vilib_models
from problems import SLOPE, STATISTICS, TABULATED
from vilib.draws import step_of
from vilib.fit import _evaluate
from vilib.models import value_and_slope

NUM_SAMPLES, STEPS = 10, 500
CASES = [("linear", ""), ("linear", STATISTICS), ("logistic", ""), ("logistic", TABULATED), ("eight schools", ""), ("eight schools", SLOPE)]


def microseconds(call: Callable[[], object], times: int = STEPS, repeats: int = 9) -> float:
    """The median over the repeats."""
    found = []
    for _ in range(repeats):
        began = perf_counter()
        for _ in range(times):
            call()
        found.append((perf_counter() - began) / times * 1e6)
    return median(found)


def parts(name: str, form: str, fits: int | None) -> dict[str, float]:
    """What a step does -> its microseconds."""
    problem, batch = problems.make(name), () if fits is None else (fits,)
    log_joint, generator = vilib_models.log_joint(problem, form=form), torch.Generator().manual_seed(0)
    q = vilib.MeanFieldGaussian(torch.zeros(*batch, problem.dim), torch.zeros(*batch, problem.dim))
    vector, draw = q.vector(), lambda: vilib.normal(NUM_SAMPLES, batch, problem.dim, generator=generator)
    step, optimizer, eps = step_of(vilib.pathwise, log_joint, q), vilib.adam(0.02), draw()
    z, (value, gradient), state = q.transform(eps), step(vector, eps), optimizer.init(vector)

    def fit() -> object:
        return vilib.fit(vilib.pathwise, log_joint, q, num_samples=NUM_SAMPLES, num_steps=STEPS, optimizer=optimizer, generator=generator)

    with torch.no_grad():
        both, whole_step = microseconds(lambda: value_and_slope(log_joint, z)), microseconds(lambda: step(vector, eps))
        finite = microseconds(lambda: _evaluate(lambda vector, eps: (value, gradient), vector, eps, None))
        found = {
            "noise": microseconds(draw), "log joint, its gradient, checks": both,
            "q's part of the chain rule": whole_step - both, "is it finite": finite,
            "Adam": microseconds(lambda: optimizer.step(vector.clone(), gradient, state, 3)),
        }
    total = microseconds(fit, times=1) / STEPS
    return found | {"between the parts, and the record": total - sum(found.values()), "a step": total}


def main() -> None:
    parse = argparse.ArgumentParser(description="Where the time of one step of a fit goes.")
    parse.add_argument("--fits", type=int, help="this many at once; without it one")
    fits = parse.parse_args().fits
    torch.set_num_threads(1)
    columns = {f"{name}{', ' * bool(form)}{form}": parts(name, form, fits) for name, form in CASES}
    print(f"µs a step, {fits or 1} fit{'s' * bool(fits)}, S = {NUM_SAMPLES}\n")
    print("| |", " | ".join(columns), "|\n|---|" + "---:|" * len(columns))
    for row in next(iter(columns.values())):
        print(f"| {row} |", " | ".join(f"{found[row]:.0f}" for found in columns.values()), "|")


if __name__ == "__main__":
    main()
