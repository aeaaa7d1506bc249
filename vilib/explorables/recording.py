"""A grid of frames → compact bytes, and back.

`record` runs `compute` over every combination of the computed controls. A channel that does not change
along a control's axis is stored once for that axis, so a curve that depends on the cost alone costs
nothing for each sample count. What is left becomes whole numbers (see `Precision`), differences along
whichever axis compresses best, byte planes, and one deflate stream. `static/explorable.js` undoes the
same steps; `Recording.frame` undoes them in Python, so a test can hold the two to each other.
"""

from __future__ import annotations

import base64
import itertools
import json
import math
import zlib
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import numpy as np

from .core import Definition, ExplorableError, Frame, Precision

TINY = 1e-12  # what a relative channel rounds to zero


@dataclass(frozen=True)
class Recording:
    """Frames over the grid of a definition's computed controls, packed.

    `header` is JSON-ready: the grid's axes and, a channel, its shape, coding and place in the stream.
    `payload` is the deflate stream.
    """

    header: dict[str, Any]
    payload: bytes

    def base64(self) -> str:
        """The payload as ASCII, ready to stand in a page."""
        return base64.b64encode(self.payload).decode("ascii")

    def precision(self, channel: str) -> Precision:
        """How exactly `channel` was kept."""
        spec = self.header["channels"][channel]
        return Precision(step=spec.get("step"), relative=spec.get("relative"))

    def frame(self, **values: Any) -> Frame:
        """The frame at these computed controls, as the front end will see it."""
        place = []
        for axis in self.header["axes"]:
            value = values.get(axis["name"], axis["value"])
            if value not in axis["values"]:
                raise ExplorableError(f"{axis['name']} = {value!r} was not recorded; choose one of {axis['values']}")
            place.append(axis["values"].index(value))
        return {name: grid[tuple(i if n > 1 else 0 for i, n in zip(place, grid.shape, strict=False))]
                for name, grid in self._decoded().items()}

    def _decoded(self) -> dict[str, np.ndarray]:
        raw = zlib.decompress(self.payload, wbits=-15)
        return {name: _decode(spec, raw) for name, spec in self.header["channels"].items()}


def record(definition: Definition | Any, executor: Executor | None = None) -> Recording:
    """Run `compute` over the whole grid of controls and pack the frames.

    Parameters
    ----------
    definition : a `Definition`, or anything with a `definition` attribute (a live explorable).
    executor : any `concurrent.futures` executor. A process pool needs a `compute` that can be pickled
        (a function at the top level of a module). None computes here, one frame after the other.

    Notes
    -----
    The *first* control varies fastest, so put first what `compute` answers from a cache.

    Raises
    ------
    ExplorableError : a channel whose length or kind differs between frames, or whose step is too fine for its numbers.
    """
    definition = getattr(definition, "definition", definition)
    controls = definition.computed
    names = [control.name for control in controls]
    axes = [control.allowed() for control in controls]
    settings = [dict(zip(names, reversed(values), strict=True)) for values in itertools.product(*reversed(axes))]
    compute = partial(_frame_at, definition)
    if executor is None:
        frames = [compute(setting) for setting in settings]
    else:
        frames = list(executor.map(compute, settings, chunksize=max(1, len(settings) // 64)))
    for frame in frames:
        if odd := set(frame) ^ set(frames[0]):
            raise ExplorableError(f"channel {min(odd)!r} is in some frames and not in others; return the same channels always")
    shape = tuple(len(values) for values in axes)
    grids = {name: _grid(name, frames, shape) for name in frames[0]}
    specs, stream = {}, b""
    for name, grid in grids.items():
        spec, data = _encode(grid, _precision_of(name, definition.precision), len(shape))
        specs[name] = spec | {"at": len(stream)}
        stream += data
    header = {"axes": [{"name": c.name, "values": c.allowed(), "value": c.value} for c in controls], "channels": specs}
    return Recording(json.loads(json.dumps(header, default=_number)), _deflate(stream))


def _frame_at(definition: Definition, setting: Mapping[str, Any]) -> Frame:
    return definition.frame(**setting)


def _number(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else str(value)


def _grid(name: str, frames: list[Frame], shape: tuple[int, ...]) -> np.ndarray:
    """The frames of one channel as an array (*grid, n), its constant axes folded to length one."""
    lengths = {frame[name].shape for frame in frames}
    if len(lengths) > 1:
        raise ExplorableError(f"channel {name!r} has different lengths in different frames: {sorted(lengths)}; "
                              "pad the short ones with nan")
    stacked = np.stack([frame[name] for frame in frames]).reshape(*reversed(shape), *lengths.pop())
    order = [*reversed(range(len(shape))), *range(len(shape), stacked.ndim)]
    grid = stacked.transpose(order)
    for axis in range(len(shape)):
        first = grid.take([0], axis=axis)
        same = (grid == first) | ((grid != grid) & (first != first))  # nan equals nan here
        if same.all():
            grid = first
    return grid


def _precision_of(name: str, table: Mapping[str, Precision]) -> Precision:
    return next((precision for pattern, precision in table.items() if fnmatchcase(name, pattern)), Precision())


def _deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, 9)
    return packer.compress(data) + packer.flush()


def _encode(grid: np.ndarray, precision: Precision, grid_axes: int) -> tuple[dict[str, Any], bytes]:
    """One channel's coding and bytes."""
    if grid.dtype == object:
        texts = sorted(set(grid.reshape(-1).tolist()))
        codes = np.array([texts.index(text) for text in grid.reshape(-1)], dtype=np.int64).reshape(grid.shape)
        spec: dict[str, Any] = {"coding": "text", "texts": texts}
    elif precision.relative is not None:
        codes, spec = _log_codes(grid, precision.relative), {"coding": "log", "relative": precision.relative, "tiny": TINY}
    elif precision.step is not None:
        with np.errstate(invalid="ignore"):
            codes = np.where(np.isnan(grid), 0, np.rint(np.nan_to_num(grid) / precision.step))
        if np.abs(codes).max(initial=0) >= 2**30:
            raise ExplorableError(f"step={precision.step:g} is too fine for numbers as large as {np.nanmax(np.abs(grid)):.3g}; "
                                  "give a larger step, or relative= instead")
        codes = codes.astype(np.int64)
        spec = {"coding": "step", "step": precision.step}
    else:
        return ({"coding": "float32", "shape": list(grid.shape)}, grid.astype("<f4").tobytes())
    gaps = np.isnan(grid) if grid.dtype != object else np.zeros(grid.shape, bool)
    spec |= {"shape": list(grid.shape)}
    best = None
    for axis in [-1, *range(grid.ndim)]:  # -1: no differences
        if axis >= 0 and grid.shape[axis] < 2:
            continue
        flat = _differences(_carry(codes, gaps, axis), axis).reshape(-1)
        zigzag = np.where(flat >= 0, 2 * flat, -2 * flat - 1) + (1 if gaps.any() else 0)
        zigzag = np.where(gaps.reshape(-1), 0, zigzag).astype(np.uint32)
        width = max(1, math.ceil(int(zigzag.max(initial=0)).bit_length() / 8))
        planes = b"".join(((zigzag >> (8 * k)) & 255).astype(np.uint8).tobytes() for k in range(width))
        size = len(_deflate(planes))
        if best is None or size < best[0]:
            best = (size, {"axis": axis, "width": width, "gaps": bool(gaps.any())}, planes)
    assert best is not None
    return spec | best[1], best[2]


def _log_codes(grid: np.ndarray, relative: float) -> np.ndarray:
    """Whole numbers k with x ≈ sign(k) · TINY · (1 + 2·relative)^(|k|), 0 for |x| ≤ TINY."""
    with np.errstate(divide="ignore", invalid="ignore"):
        size = np.rint(np.log(np.abs(np.nan_to_num(grid)) / TINY) / math.log1p(2 * relative))
    return np.where(np.abs(np.nan_to_num(grid)) <= TINY, 0, np.sign(np.nan_to_num(grid)) * np.maximum(size, 1)).astype(np.int64)


def _carry(codes: np.ndarray, gaps: np.ndarray, axis: int) -> np.ndarray:
    """A gap takes the code before it along `axis`, so that its difference is 0."""
    if axis < 0 or not gaps.any():
        return codes
    steps = np.arange(codes.shape[axis]).reshape([-1 if k == axis else 1 for k in range(codes.ndim)])
    last = np.maximum.accumulate(np.where(gaps, -1, steps), axis=axis)
    carried = np.take_along_axis(codes, np.maximum(last, 0), axis=axis)
    return np.where(last < 0, 0, carried)


def _differences(codes: np.ndarray, axis: int) -> np.ndarray:
    if axis < 0:
        return codes
    return np.diff(codes, axis=axis, prepend=np.zeros_like(codes.take([0], axis=axis)))


def _decode(spec: Mapping[str, Any], raw: bytes) -> np.ndarray:
    """The inverse of `_encode`, to the stated precision."""
    shape = tuple(spec["shape"])
    count = math.prod(shape)
    if spec["coding"] == "float32":
        return np.frombuffer(raw, "<f4", count, spec["at"]).reshape(shape).astype(np.float64)
    planes = np.frombuffer(raw, np.uint8, count * spec["width"], spec["at"]).reshape(spec["width"], count).astype(np.int64)
    packed = sum(planes[k] << (8 * k) for k in range(spec["width"]))
    gaps = (packed == 0) & spec["gaps"]
    zigzag = np.where(gaps, 0, packed - (1 if spec["gaps"] else 0))
    codes = np.where(zigzag % 2 == 0, zigzag // 2, -(zigzag + 1) // 2).reshape(shape)
    if spec["axis"] >= 0:
        codes = np.cumsum(codes, axis=spec["axis"])
    if spec["coding"] == "text":
        return np.array(spec["texts"], dtype=object)[codes]
    if spec["coding"] == "log":
        values = np.where(codes == 0, 0.0, np.sign(codes) * spec["tiny"] * (1 + 2 * spec["relative"]) ** np.abs(codes))
    else:
        values = codes * spec["step"]
    return np.where(gaps.reshape(shape), np.nan, values)
