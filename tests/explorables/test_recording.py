"""A grid of frames, packed and unpacked: to the stated precision, always the same bytes, and the same in JavaScript."""

from __future__ import annotations

import json
import math
import multiprocessing
import re
import shutil
import subprocess
import zlib
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from importlib.resources import files
from itertools import product

import numpy as np
import pytest
from explorables.toys import PRECISION, compute, toy

from vilib.explorables import Explorable, ExplorableError, Precision, Recording, record
from vilib.explorables.recording import TINY


@pytest.fixture(scope="module")
def recording() -> Recording:
    return record(toy())


def settings():
    axes = {c.name: c.allowed() for c in toy().computed}
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]


def error_allowed(precision: Precision, exact: np.ndarray) -> np.ndarray:
    if precision.step is not None:
        return np.full(exact.shape, precision.step / 2 + 1e-9)
    if precision.relative is not None:
        return precision.relative * np.abs(exact) + TINY
    return 2.0**-23 * np.abs(exact)


@pytest.mark.parametrize("setting", settings()[::5], ids=str)
def test_a_frame_comes_back_to_the_stated_precision(recording, setting):
    exact, kept = toy().frame(**setting), recording.frame(**setting)
    assert set(kept) == set(exact)
    for name, numbers in exact.items():
        if numbers.dtype == object:
            assert kept[name] == numbers.item()
            continue
        assert kept[name].shape == numbers.shape
        assert np.array_equal(np.isnan(kept[name]), np.isnan(numbers)), name
        there = ~np.isnan(numbers)
        assert (np.abs(kept[name] - numbers) <= error_allowed(recording.precision(name), numbers))[there].all(), name


def test_the_stated_precision_is_the_one_asked_for(recording):
    for name in recording.header["channels"]:
        if name != "word":
            assert recording.precision(name) == PRECISION.get(name, Precision())


def test_left_out_controls_stand_at_their_start(recording):
    assert np.array_equal(recording.frame()["y"], recording.frame(slope=1.0, curve="straight", seed=0)["y"])


def test_what_does_not_change_is_kept_once(recording):
    shapes = {name: spec["shape"] for name, spec in recording.header["channels"].items()}
    assert shapes["constant"] == [1, 1, 1, 1]
    assert shapes["x"] == [1, 1, 1, 7]
    assert shapes["of_slope"] == [4, 1, 1, 1]
    assert shapes["of_curve"] == [1, 2, 1, 1]
    assert shapes["word"] == [1, 2, 1]
    assert shapes["y"] == [4, 2, 3, 7]


def test_the_bytes_are_the_same_every_time(recording):
    again = record(toy())
    assert again.payload == recording.payload
    assert json.dumps(again.header) == json.dumps(recording.header)
    assert json.loads(json.dumps(recording.header)) == recording.header
    assert len(recording.base64()) == 4 * math.ceil(len(recording.payload) / 3)


@pytest.mark.parametrize(
    "pool",
    [
        lambda: ThreadPoolExecutor(2),
        lambda: ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("forkserver")),
    ],
    ids=["threads", "processes"],
)
def test_any_executor_gives_the_same_recording(recording, pool):
    with pool() as executor:
        spread = record(toy(), executor)
    assert spread.payload == recording.payload
    assert spread.header == recording.header


def test_an_explorable_records_itself(recording):
    assert Explorable(toy()).record().payload == recording.payload
    assert record(Explorable(toy())).payload == recording.payload


@pytest.mark.parametrize(
    "values",
    [
        np.zeros(5),
        np.full(5, np.nan),
        np.array([np.nan, 0.0, np.nan, -1.0, np.nan]),
        np.array([-3.0, 3.0, -3.0, 3.0, 0.0]),
        np.array([1e-13, -1e-13, 1e-11, 1e6, -1e6]),
        np.arange(5.0) * 1e4,
        np.array([7.0]),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "precision", [Precision(), Precision(step=0.25), Precision(relative=0.01)], ids=["float32", "step", "relative"]
)
def test_odd_numbers_survive(values, precision):
    definition = toy(compute=lambda **c: compute(**c) | {"odd": values * c["slope"]}, precision={"odd": precision})
    kept, there = record(definition).frame(slope=3.0)["odd"], ~np.isnan(values)
    assert np.array_equal(np.isnan(kept), ~there)
    assert (np.abs(kept - 3 * values) <= error_allowed(precision, 3 * values))[there].all()


def test_the_first_control_varies_fastest():
    order = []

    def listen(**controls):
        order.append((controls["slope"], controls["curve"], controls["seed"]))
        return compute(**controls)

    record(toy(compute=listen))
    assert [slope for slope, _, _ in order[:4]] == [0.5, 1.0, 2.0, 3.0]
    assert len(order) == len(set(order)) == 24


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        (
            {"y_float": np.zeros(3)},
            "channel 'y_float' has different lengths in different frames: [(3,), (7,)]; pad the short ones with nan",
        ),
        ({"extra": 1.0}, "channel 'extra' is in some frames and not in others; return the same channels always"),
        ({"y_float": [np.inf] * 7}, "channel 'y_float' holds an infinity at index 0"),
        ({"word": 3.0}, "channel 'word'"),
    ],
)
@pytest.mark.parametrize("where", [0.5, 3.0], ids=["first", "last"])
def test_frames_that_do_not_match_are_refused(odd, message, where):
    definition = toy(compute=lambda **c: compute(**c) | (odd if c["slope"] == where else {}))
    with pytest.raises(ExplorableError, match=re.escape(message)):
        record(definition)


def test_a_missing_channel_is_refused():
    def forgetful(**controls):
        frame = compute(**controls)
        return frame if controls["slope"] < 3 else {k: v for k, v in frame.items() if k != "big"}

    with pytest.raises(ExplorableError, match="'big' is in some frames and not in others"):
        record(toy(compute=forgetful))


def test_a_step_too_fine_for_its_numbers_is_refused():
    """The codes are whole numbers of at most 32 bits; a wrapped one would be a wrong picture."""
    definition = toy(
        compute=lambda **c: compute(**c) | {"big": 1e9 * c["slope"]}, precision={"big": Precision(step=1e-3)}
    )
    with pytest.raises(
        ExplorableError, match=re.escape("step=0.001 is too fine for numbers as large as 3e+09; give a larger step")
    ):
        record(definition)


def test_a_setting_that_was_not_recorded_is_refused(recording):
    with pytest.raises(
        ExplorableError, match=re.escape("slope = 0.7 was not recorded; choose one of [0.5, 1.0, 2.0, 3.0]")
    ):
        recording.frame(slope=0.7)


def test_folding_and_coding_make_it_small(recording):
    raw = sum(
        8 * frame.size for setting in settings() for frame in toy().frame(**setting).values() if frame.dtype != object
    )
    assert len(recording.payload) < raw / 6
    assert len(zlib.decompress(recording.payload, wbits=-15)) == _end_of(recording)


def _end_of(recording: Recording) -> int:
    return max(
        spec["at"] + math.prod(spec["shape"]) * spec.get("width", 4) for spec in recording.header["channels"].values()
    )


# -- the same numbers in JavaScript ------------------------------------------------------------------------------------

_NODE = """
const { readFileSync } = require("node:fs"), { inflateRawSync } = require("node:zlib");
globalThis.document = { readyState: "complete", querySelectorAll: () => [] };
const [script, job] = process.argv.slice(1).map((path) => readFileSync(path, "utf-8"));
const { header, payload, settings } = JSON.parse(job);
// the two functions of the front end that read a recording
const reader = script.match(/\\/\\*\\* The numbers of one channel[^]*?\\n  \\/\\/ -----/)[0];
const player = new Function(reader + "\\nreturn player;")();
const frames = player(header, new Uint8Array(inflateRawSync(Buffer.from(payload, "base64"))));
const plain = (channel) => (typeof channel === "string" ? channel : Array.from(channel, (v) => (isNaN(v) ? null : v)));
console.log(JSON.stringify(settings.map((setting) => {
  const frame = frames(setting);
  return Object.fromEntries(Object.keys(header.channels).map((name) => [name, plain(frame.get(name))]));
})));
"""


def read_by_javascript(recording: Recording, tmp_path) -> list[dict]:
    node = shutil.which("node")
    if not node:
        pytest.skip("node is not here; the browser tests read recordings too")
    (tmp_path / "job.json").write_text(
        json.dumps({"header": recording.header, "payload": recording.base64(), "settings": settings()})
    )
    script = files("vilib.explorables").joinpath("static", "explorable.js")
    run = subprocess.run([node, "-e", _NODE, str(script), str(tmp_path / "job.json")], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_javascript_reads_what_python_reads(recording, tmp_path):
    for setting, shown in zip(settings(), read_by_javascript(recording, tmp_path), strict=True):
        for name, numbers in recording.frame(**setting).items():
            if isinstance(numbers, str):
                assert shown[name] == numbers
            else:
                assert np.allclose(np.array(shown[name], dtype=float), numbers, rtol=1e-12, atol=0, equal_nan=True), (
                    setting,
                    name,
                )
