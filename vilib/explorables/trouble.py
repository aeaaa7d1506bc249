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
    """`error`: its kind and message; `where`: the last line of the reader's own code on the way; `advice`: what to do.

    compute : may bring its own `advice`.

    >>> what_happened(ValueError("seven is not for me"))["error"]
    'ValueError: seven is not for me'
    """
    name = "" if isinstance(error, VilibError) else f"{type(error).__name__}: "
    return {"error": f"{name}{error}".strip() or type(error).__name__, "where": "" if isinstance(error, VilibError) else where(error),
            "advice": getattr(compute, "advice", "Move a control to try again, or mend the function and run its cell again.")}


def where(error: Exception) -> str:
    """The last line on the way to the error that is of the reader's own code, as `line 3: return theta["x"]`; "" if there is none.

    >>> where(ValueError("raised nowhere"))
    ''
    """
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if not frame.filename.startswith(_NOT_THEIRS)]
    if not theirs:
        return ""
    last = theirs[-1]
    line = (last.line or linecache.getline(last.filename, last.lineno or 0)).strip()
    return f"line {last.lineno} of {last.name}: {line}" if line else f"line {last.lineno} of {last.name}"
