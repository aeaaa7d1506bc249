"""A worker works on the last question, stops when it is told to, and leaves torch's threads as they were."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from vilib.explorables import checkpoint, stage
from vilib.explorables.threads import Stopped, Task, Worker, one_thread

PATIENCE = 60.0


class Desk:
    """A worker whose every piece of work waits until it is let go."""

    def __init__(self, pieces: int = 3) -> None:
        self.gate, self.begun = threading.Semaphore(0), threading.Semaphore(0)
        self.finished, self.stopped, self.told = [], [], []
        self.pieces = pieces
        self.worker = Worker(self.work, self.stopped.append, lambda *said: self.told.append(said))

    def work(self, question) -> None:
        stage("pieces", self.pieces)
        for _ in range(self.pieces):
            self.begun.release()
            assert self.gate.acquire(timeout=PATIENCE)
            checkpoint()
        self.finished.append(question)

    def let(self, pieces: int) -> None:
        for _ in range(pieces):
            self.gate.release()

    def until_begun(self) -> None:
        assert self.begun.acquire(timeout=PATIENCE)


def test_what_is_asked_is_done_and_then_there_is_rest():
    desk = Desk()
    assert desk.worker.wait(0)
    desk.worker.ask("a")
    desk.let(3)
    assert desk.worker.wait(PATIENCE) and desk.finished == ["a"] and desk.stopped == []
    desk.worker.stop()  # there is nothing to stop
    desk.worker.ask("b")
    desk.let(3)
    assert desk.worker.wait(PATIENCE) and desk.finished == ["a", "b"]


def test_only_the_last_of_many_questions_is_finished():
    desk = Desk()
    desk.worker.ask(0)
    desk.until_begun()
    for question in range(1, 20):
        desk.worker.ask(question)
    desk.let(100)
    assert desk.worker.wait(PATIENCE) and desk.finished == [19] and desk.stopped == []


def test_stop_ends_the_work_and_names_it():
    desk = Desk()
    desk.worker.ask("a")
    desk.until_begun()
    desk.worker.stop()
    assert not desk.worker.wait(0), "it ends at a checkpoint, not before"
    desk.let(1)
    assert desk.worker.wait(PATIENCE) and desk.finished == [] and desk.stopped == ["a"]


def test_stop_is_for_what_waits_too_and_a_question_after_it_is_answered():
    desk = Desk()
    desk.worker.ask("a")
    desk.until_begun()
    desk.worker.ask("b")
    desk.worker.stop()
    desk.let(1)
    assert desk.worker.wait(PATIENCE) and desk.stopped == ["b"] and desk.finished == []
    desk.worker.ask("c")
    desk.until_begun()
    desk.worker.stop()
    desk.worker.ask("d")
    desk.let(100)
    assert desk.worker.wait(PATIENCE) and desk.finished == ["d"] and desk.stopped == ["b"]


def test_no_except_on_the_way_swallows_a_stop():
    task = Task()
    task.stop()
    with pytest.raises(Stopped):
        try:
            task.checkpoint()
        except Exception:
            pass


def test_a_task_tells_its_words_and_its_share():
    said = []
    task = Task(lambda words, share: said.append((words, share)), pause=0.0)
    task.checkpoint()
    task.stage("fits", 4)
    for _ in range(6):
        task.checkpoint()
    assert said == [("", None), ("fits", 0.0), *(("fits", k / 4) for k in (1, 2, 3, 4)), ("fits", 1.0), ("fits", 1.0)]
    quiet = Task(lambda *told: said.append(told), pause=1e9)
    quiet.checkpoint()
    assert len(said) == 8


def test_outside_of_a_worker_checkpoints_are_nothing():
    stage("anything", 3)
    checkpoint()


def test_one_thread_in_many_threads_leaves_as_many_as_before():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    meet = threading.Barrier(4)

    def enter(_):
        meet.wait(PATIENCE)
        for _ in range(50):
            with one_thread():
                assert torch.get_num_threads() == 1
        return True

    try:
        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(enter, range(4)))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
