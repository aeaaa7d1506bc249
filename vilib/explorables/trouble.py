"""What went wrong in `compute`, in words that stand in the picture."""

from __future__ import annotations

import linecache
import sysconfig
import traceback
from pathlib import Path
from typing import Any

import torch

from vilib.types import VilibError

_NOT_THEIRS = (str(Path(__file__).parents[1]), str(Path(torch.__file__).parent), sysconfig.get_path("stdlib"),
               sysconfig.get_path("purelib"), "<frozen")


def what_happened(error: Exception, compute: Any = None) -> dict[str, str]:
    """`error`: its kind, message and notes; `where`: the last line of the reader's own code on the way; `advice`: what to do.

    compute : may bring its own `advice`.

    >>> what_happened(ValueError("seven is not for me"))["error"]
    'ValueError: seven is not for me'
    """
    ours = isinstance(error, VilibError)
    said = ". ".join([("" if ours else f"{type(error).__name__}: ") + str(error), *getattr(error, "__notes__", ())])
    theirs = error.__cause__ if ours else error                      # what vilib explains was raised by their line
    return {"error": said.strip() or type(error).__name__, "where": where(theirs) if isinstance(theirs, Exception) else "",
            "advice": getattr(compute, "advice", "Move a control to try again, or mend the function and run its cell again.")}


def where(error: Exception) -> str:
    """The last line on the way to the error that is of the reader's own code; "" if there is none.

    As `line 3 of the cell, in f: return theta["x"]`, or of a file.

    >>> where(ValueError("raised nowhere"))
    ''
    """
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if not frame.filename.startswith(_NOT_THEIRS)]
    if not theirs:
        return ""
    last = theirs[-1]
    line = (last.line or linecache.getline(last.filename, last.lineno or 0)).strip().rstrip(":")
    of = "the cell" if "ipykernel_" in last.filename or last.filename.startswith("<") else Path(last.filename).name
    return f"line {last.lineno} of {of}, in {last.name}" + (f": {line}" if line else "")
