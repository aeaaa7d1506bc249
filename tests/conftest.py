"""What every test shares."""

import gc

import pytest
import torch

# Two tests at once, or a browser beside one, should not fight over the cores.
torch.set_num_threads(1)


def pytest_collection_finish(session):
    """Thousands of tests stay to the end: Python need not look through them again and again for what it might free."""
    gc.collect()
    gc.freeze()


def _chapter(request) -> str:
    """tests/test_chapter_mean_field.py -> mean-field."""
    return request.path.stem.removeprefix("test_chapter_").replace("_", "-")


@pytest.fixture(scope="module")
def text(request) -> str:
    """The text of the chapter that this module is about."""
    from chapters import text_of

    return text_of(_chapter(request))


@pytest.fixture(scope="module")
def executed(request):
    """What the cells of the chapter that this module is about print, and what they leave: a ``chapters.Run``."""
    from chapters import run_cells

    return run_cells(_chapter(request))
