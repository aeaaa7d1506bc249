"""What every peer's process does: build a job, run it when told, say how long it took, and show what came out.

A peer is a file with ``JOBS``: name -> function(**settings) -> (call, read).  ``call(seed)`` does the work, to the end, and returns what it
made; ``read(made)`` turns that into plain lists for the judge in ``run.py`` and is not timed.  One line of JSON in, one out.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1]
ROOT = BENCHMARKS.parent
PATHS = [str(BENCHMARKS), str(ROOT)]

#: One thread for everyone, said to every library that might ask; must stand before any of them is imported.
ONE_THREAD = {
    "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "NUMEXPR_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false --xla_force_host_platform_device_count=1", "JAX_PLATFORMS": "cpu",
    "CUDA_VISIBLE_DEVICES": "",
}


def on_one_core() -> None:
    """Keep this process on one core, where the system lets us: then no thread pool can hold more than one at work."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def serve(jobs: dict[str, Callable]) -> None:
    """Answer requests from stdin until it closes.  Whatever a library prints goes to stderr."""
    import numpy.random  # noqa: F401 — it makes the data, and numpy imports it when first asked: no part of anyone's first call

    replies, sys.stdout = sys.stdout, sys.stderr
    call = read = made = None
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "prepare":
            made = None
            began = time.perf_counter()
            call, read = jobs[request["job"]](**request["settings"])
            made = call(0)
            reply = {"seconds": time.perf_counter() - began}
        elif request["do"] == "time":
            made = None
            began = time.perf_counter()
            made = call(request["seed"])
            reply = {"seconds": time.perf_counter() - began}
        else:
            reply = read(made)
        print(json.dumps(reply), file=replies, flush=True)


def main(jobs: dict[str, Callable], cold: Callable) -> None:
    """What a peer's process does: with the argument ``cold`` one fit by ``cold``, printed; else :func:`serve`.

    A second argument is the form of the log joint.
    """
    if sys.argv[1:2] == ["cold"]:
        options = {"form": sys.argv[2]} if sys.argv[2:] else {}
        call, read = cold({"name": "eight schools"}, num_samples=10, num_steps=2000, step_size=0.02, **options)
        print(read(call(0))["mean"][0][0])
    else:
        serve(jobs)
