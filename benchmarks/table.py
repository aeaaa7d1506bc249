"""The results as a table that a person reads."""

from __future__ import annotations

from statistics import geometric_mean

from problems import SLOPE, STATISTICS

DASH = "–"

#: After a row of J3 whose log joint is written as in every other job, where its neighbours' is not: see ``run.many_fits``.
PLAIN = ", a term for each observation"


def _show(seconds: float) -> str:
    return f"{1e6 * seconds:.0f} µs" if seconds < 1e-3 else f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def checks(jobs: dict) -> list[tuple[str, str, float, float | None, str]]:
    """(job, what is compared, measured, at most, unit): every aim that the measured jobs allow to check; None where there is none."""
    found = []

    def ratio(job, what, times, a, b, least, first=False):
        key = "first" if first else "median"
        found.append((job, what, times[a][key] / times[b][key], least, "×"))

    for name, case in jobs.get("J1", {}).items():
        own, least = "vilib, all five", 0.7 if "256" in name else 1.0
        ratio("J1", f"{name}: five estimators / NumPyro's pathwise alone", case["times"], own, "NumPyro", least)
        if "S = 16" in name and "256" not in name:
            found.append(("J1", f"{name}: first call", case["times"][own]["first"], 0.1, "s"))
    for name, case in jobs.get("J2", {}).items():
        for peer, least in {"Pyro": 0.2, "NumPyro": 0.4, "PyMC": 0.4}.items():
            ratio("J2", f"{name}: one fit / {peer}", case["times"], "vilib", peer, least)
    growth, against, alike = [], [], []
    for name, case in jobs.get("J3", {}).items():
        times = {label: each["median"] for label, each in case["times"].items()}
        if "vilib, 64" in times:
            ours, theirs = times["vilib, 64"], times["lax.scan, 64"]
            form = case.get("form", "")
            ratio("J3", f"{name}{', ' * bool(form)}{form}: 64 fits / one fit", case["times"], "vilib, 64", "vilib, 1", 1.3)
            growth.append(found[-1][2])
            against.append(ours / theirs)
            short = times.get(f"lax.scan, 64, {STATISTICS}")
            alike.append(times.get("vilib, 64" + PLAIN, ours) / theirs if short is None else ours / short)
    if against:
        found.append(("J3", "64 fits / one fit, geometric mean", geometric_mean(growth), None, "×"))
        found.append(("J3", "64 fits / vmapped lax.scan, geometric mean", geometric_mean(against), 0.8, "×"))
    if alike != against:
        found.append(("J3", "the same, both with the same form of the log joint", geometric_mean(alike), None, "×"))
    for case in jobs.get("J4", {}).values():
        own = "vilib, all five at every S"
        found.append(("J4", "a slider's answer", 1e3 * case["times"][own]["median"], 30.0, "ms"))
        ratio("J4", "five estimators at every S / NumPyro's pathwise alone", case["times"], own, "NumPyro", 0.15)
    for case in jobs.get("J5", {}).values():
        ratio("J5", "an epoch / Pyro", case["times"], "vilib", "Pyro", 0.25)
        ratio("J5", "an epoch / NumPyro, compiled", case["times"], "vilib", "NumPyro", 1.5)
    for case in jobs.get("cold", {}).values():
        if f"vilib, {SLOPE}" in case["times"]:
            ratio("cold", f"cold process to first fit, its {SLOPE} / import torch", case["times"], f"vilib, {SLOPE}", "import torch", 1.3)
            ratio("cold", "the same by autograd / import torch", case["times"], "vilib", "import torch", 1.3)
        for peer, least in {"NumPyro": 0.45, "Pyro": 0.5}.items():
            ratio("cold", f"cold process to first fit / {peer}", case["times"], "vilib", peer, least)
    return found


def aims(*measured: dict) -> str:
    """What was measured where, and each aim beside what was reached: a column for each machine's results."""
    first, forms = measured[0], any(case.get("form") for results in measured for case in results["jobs"].get("J3", {}).values())
    lines = [f"Medians of {first['repeats']} interleaved repeats or more, one thread, Python {first['machine']['python']}, "
             + ", ".join(f"{name} {number}" for name, number in first["machine"]["versions"].items()) + "; ✓ where the aim is reached, ✗ where it is missed.", ""]
    machines = [results["machine"] for results in measured]
    lines += ["| job | compared | aim: at most |" + "".join(f" {m['processor']}, {m['cores']} cores, {m['date']} |" for m in machines),
              "|---|---|---:|" + "---:|" * len(measured)]
    found = [{(job, what): (value, most, unit) for job, what, value, most, unit in checks(results["jobs"])} for results in measured]
    for row in {row: None for rows in found for row in rows}:                                   # in order, each once
        _, most, unit = next(rows[row] for rows in found if row in rows)
        unit = unit if unit == "×" else f" {unit}"
        cells = [f"{rows[row][0]:.3g}{unit}{'' if most is None else ' ✓' if rows[row][0] <= most else ' ✗'}" if row in rows else DASH for rows in found]
        lines.append(" | ".join(["| " + row[0], row[1], DASH if most is None else f"{most:g}{unit}", *cells]) + " |")
    if forms:
        lines += ["", "Every log joint has a term for each observation and is differentiated by autograd, as users of each library write it, but for "
                  "rows that name another form. In J3, where so many fits ask the same, that form is vilib's, and its peer's is the plain one."]
    return "\n".join(lines) + "\n"


def into(readme: str, text: str) -> str:
    """``readme`` with ``text`` between its two marks; without marks, as it is."""
    before, begin, rest = readme.partition("<!-- benchmarks: begin -->\n")
    _, end, after = rest.partition("<!-- benchmarks: end -->")
    return before + begin + text + end + after if begin and end else readme


def markdown(results: dict) -> str:
    """The aims, then every median, then how cost grows."""
    jobs, lines = results["jobs"], [aims(results)]
    lines += ["| job | | first call | then |", "|---|---|---:|---:|"]
    for job, cases in jobs.items():
        if job == "cost":
            continue
        for name, case in cases.items():
            for peer, times in case["times"].items():
                first = _show(times["first"]) if "first" in times else DASH
                lines.append(f"| {job}, {name} | {peer} | {first} | {_show(times['median'])} |")
    if "cost" in jobs:
        lines += ["", "How one step of a fit grows (linear regression; N = 500, D = 10, S = 10 where not varied):", "",
                  "| | | | slope, log–log |", "|---|---|---|---:|"]
        for axis, found in jobs["cost"].items():
            for peer, seconds in found["seconds a step"].items():
                points = ", ".join(f"{v:,}: {_show(s)}" for v, s in zip(found["values"], seconds))
                last = found["slope between neighbours"][peer][-1]
                lines.append(f"| {axis} | {peer} | {points} | {found['slope'][peer]:.2f}, last {last:.2f} |")
    return "\n".join(lines) + "\n"
