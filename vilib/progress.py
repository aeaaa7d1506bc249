"""A bar for what takes long."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any


def counted(num_steps: int, unit: str, progress: bool | None = None, patience: float = 2.0) -> Iterator[int]:
    """0, 1, …, num_steps − 1, with a bar by tqdm.

    progress: True for a bar at once, False for none, None for one only if ``patience`` seconds have passed and steps
    are left (and only where tqdm is installed).  unit: what one step is called.

    >>> list(counted(3, "epoch", progress=False))
    [0, 1, 2]
    """
    bar, begun = _bar(num_steps, 0, unit) if progress else None, time.perf_counter()
    waiting = progress is None
    try:
        for step in range(num_steps):
            yield step
            if bar is not None:
                bar.update(1)
            elif waiting and time.perf_counter() - begun > patience and step + 1 < num_steps:
                waiting = False
                try:
                    bar = _bar(num_steps, step + 1, unit)
                except ModuleNotFoundError:
                    pass
    finally:
        if bar is not None:
            bar.close()


def _bar(total: int, done: int, unit: str) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, initial=done, unit=unit)
