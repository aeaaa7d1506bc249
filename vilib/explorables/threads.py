"""How many processor threads an explorable's answer may take, and a thread of its own for one that takes long.

A computation that runs in a `Worker` is a `Task`. It reports how far it is at each `checkpoint`, and ends there if it was told to
stop; `stage` names what it is about to do. Where no task runs, both do nothing: `compute` is the same function either way.
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

_GATE, _INSIDE, _BEFORE = threading.Lock(), 0, 1


@contextmanager
def one_thread() -> Iterator[None]:
    """torch works on one thread inside, and on as many as before afterwards, when the last of those inside has left.

    A frame is many operations on small tensors: handing each to a second thread costs more than it brings.

    >>> with one_thread():
    ...     torch.get_num_threads()
    1
    """
    global _INSIDE, _BEFORE
    with _GATE:
        if not _INSIDE:
            _BEFORE = torch.get_num_threads()
        _INSIDE += 1
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _GATE:
            _INSIDE -= 1
            if not _INSIDE:
                torch.set_num_threads(_BEFORE)


# ---------------------------------------------------------------- a computation that can be watched and stopped


class Stopped(BaseException):
    """The computation was told to stop. No `except Exception` on its way swallows it."""


class Task:
    """One run of `compute`: what it is doing, how far it is, and whether it should stop.

    Parameters
    ----------
    tell : called with (words, share), share from 0 to 1 or None where it is not known, at most every `pause` seconds.
    """

    def __init__(self, tell: Callable[[str, float | None], None] = lambda words, share: None, pause: float = 0.2) -> None:
        self._tell, self._pause, self._told = tell, pause, time.monotonic()
        self._stop = threading.Event()
        self._words, self._done, self._of = "", 0, 0

    def stop(self) -> None:
        """Let the computation end at its next checkpoint."""
        self._stop.set()

    def stage(self, words: str, count: int) -> None:
        """What comes now, and how many checkpoints it has."""
        self._words, self._done, self._of = words, 0, count
        self.checkpoint(0)

    def checkpoint(self, done: int = 1) -> None:
        """So much more is done. Raises `Stopped` where the task was told to stop."""
        if self._stop.is_set():
            raise Stopped
        self._done += done
        now = time.monotonic()
        if now - self._told >= self._pause:
            self._told = now
            self._tell(self._words, min(self._done / self._of, 1.0) if self._of else None)


_TASK: contextvars.ContextVar[Task | None] = contextvars.ContextVar("vilib_task", default=None)


def stage(words: str, count: int = 0) -> None:
    """Say what a long `compute` does from here on, and over how many checkpoints.

    >>> stage("fitting", 100)                       # where nobody waits, nothing comes of it
    """
    if (task := _TASK.get()) is not None:
        task.stage(words, count)


def checkpoint() -> None:
    """One more piece of a long `compute` is done; it ends here if its reader pressed Stop or asked for something else.

    >>> checkpoint()
    """
    if (task := _TASK.get()) is not None:
        task.checkpoint()


class Worker:
    """A thread that works on what was asked for last: a newer question ends the work on an older one.

    Parameters
    ----------
    work : called in the thread with what was asked for; meets `Stopped` at a checkpoint.
    stopped : called in the thread with what was asked for, when its reader stopped it.
    tell : called in the thread with (what was asked for, words, share) as a task goes on.
    """

    def __init__(self, work: Callable[[Any], None], stopped: Callable[[Any], None],
                 tell: Callable[[Any, str, float | None], None]) -> None:
        self._work, self._stopped, self._tell = work, stopped, tell
        self._lock, self._idle = threading.Lock(), threading.Event()
        self._waiting: list[Any] = []
        self._task: Task | None = None
        self._halt = False
        self._idle.set()

    def ask(self, question: Any) -> None:
        """Work on this instead of anything else."""
        with self._lock:
            self._waiting, self._halt = [question], False
            if self._task is not None:
                self._task.stop()
            elif self._idle.is_set():
                self._idle.clear()
                run = contextvars.copy_context().run
                threading.Thread(target=run, args=(self._run,), name="vilib-explorable", daemon=True).start()

    def stop(self) -> None:
        """End the work, and leave what was there."""
        with self._lock:
            if self._task is not None:
                self._halt = True
                self._task.stop()

    def wait(self, timeout: float | None = None) -> bool:
        """Until there is nothing left to do; False if `timeout` seconds passed first."""
        return self._idle.wait(timeout)

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._idle.set()
                    return
                question, self._halt = self._waiting.pop(), False
                self._task = Task(partial(self._tell, question))
                _TASK.set(self._task)
            try:
                self._work(question)
            except Stopped:
                with self._lock:
                    halted, newest = self._halt, self._waiting.pop() if self._halt and self._waiting else question
                if halted:
                    self._stopped(newest)
            finally:
                with self._lock:
                    self._task = None
