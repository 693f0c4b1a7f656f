"""Damaged files: a `ReadError`, or a recording that keeps its promises. Seeded, so that a failure can be repeated."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from tests.io.conftest import Broken, ecg_counts
from tests.io.test_edf import edf_bytes, edf_two
from xecg.errors import ReadError
from xecg.io import annotations, read
from xecg.signal.recording import Recording

_WORDS = [
    b"0",
    b"-1",
    b"1e308",
    b"nan",
    b"2147483648",
    b"99999999999999999999",
    b"\0",
    b"\xff",
    b"~",
    b"/",
    b"#",
    b"\n",
    b" ",
]


def _mutated(data: bytes, rng: random.Random) -> bytes:
    """One to four edits: a byte changed, a stretch removed or doubled, a word from the list put in."""
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(4)
        if kind == 0 and at < len(data):
            data = data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
        elif kind == 1:
            data = data[:at] + data[at + rng.randint(1, 12) :]
        elif kind == 2:
            data = data[:at] + data[at : at + rng.randint(1, 30)] + data[at:]
        else:
            data = data[:at] + rng.choice(_WORDS) + data[at:]
    return data


def _check(path: Path, **wishes: object) -> bool:
    """Is the file read? Then shapes, types and ranges hold, and a second reading gives the same."""
    try:
        recording = read(path, **wishes)
    except ReadError:
        return False
    assert isinstance(recording, Recording) and recording.signal.dtype == np.float32
    assert recording.signal.shape == recording.mask.shape and len(recording.leads) == len(recording.signal)
    assert np.isfinite(recording.signal).all() and np.abs(recording.signal).max(initial=0) <= 1e4
    assert not recording.signal[~recording.mask].any() and 25 <= recording.rate <= 20_000
    again = read(path, **wishes)
    assert again.signal.tobytes() == recording.signal.tobytes() and again.log == recording.log
    return True


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["plain", "frames", "segments"])
def test_damaged_header_gives_an_error_or_a_sound_recording(broken: Broken, kind: str, seed: int):
    path = broken.write()
    if kind == "frames":
        path.write_text("r 2 250 500 10:00:00 01/02/2020\nr.dat 16x2:3 1000/mV\nr.dat 16x2+0 1(0)/uV 16\n# Age: 5\n")
    elif kind == "segments":
        (broken.folder / "s.hea").write_text(broken.header(record="s 2 500 1000"))
        path.write_text("r/3 2 500 2100\ns 1000\n~ 100\ns 1000\n")
    assert _check(path)
    seeded, whole = random.Random(seed), path.read_bytes()
    reads = 0
    for _ in range(150):
        path.write_bytes(_mutated(whole, seeded))
        reads += _check(path)
    assert 0 < reads < 150  # else the mutations do nothing, or only destroy


@pytest.mark.parametrize("seed", range(2))
def test_damaged_annotations_give_an_error_or_ascending_times(broken: Broken, seed: int):
    rng = np.random.default_rng(seed)
    words = (rng.integers(1, 42, 60) << 10 | rng.integers(0, 1000, 60)).astype("<u2")
    whole = words.tobytes() + bytes([2, 0xFC]) + b"(N" + b"\0\0"
    path = broken.folder / "r.atr"
    seeded = random.Random(seed)
    for _ in range(300):
        path.write_bytes(_mutated(whole, seeded))
        try:
            found = annotations(path)
        except ReadError:
            continue
        assert (np.diff(found.sample) >= 0).all() and len(found.sample) == len(found.symbol) == len(found.aux)


def _csv(folder: Path) -> tuple[Path, dict[str, object]]:
    path = folder / "r.csv"
    np.savetxt(path, ecg_counts(120) / 1000, delimiter=",", header="I (mV),V1 (mV)", comments="", fmt="%.3f")
    return path, {"rate": 250}


def _npy(folder: Path) -> tuple[Path, dict[str, object]]:
    np.save(folder / "r.npy", (ecg_counts(120) / 1000).astype(np.float32))
    return folder / "r.npy", {"rate": 250, "unit": "mV", "leads": ["I", "V1"]}


def _npz(folder: Path) -> tuple[Path, dict[str, object]]:
    parts = {"signal": ecg_counts(120), "rate": 250, "unit": "mV", "leads": ["I", "V1"], "gain": 1000}
    np.savez_compressed(folder / "r.npz", **parts)
    return folder / "r.npz", {}


def _edf(folder: Path) -> tuple[Path, dict[str, object]]:
    (folder / "r.edf").write_bytes(edf_bytes(edf_two()))
    return folder / "r.edf", {}


@pytest.mark.parametrize("make", [_csv, _npy, _npz, _edf])
def test_damaged_tables_and_arrays_give_an_error_or_a_sound_recording(tmp_path: Path, make):
    path, wishes = make(tmp_path)
    assert _check(path, **wishes)
    whole, seeded = path.read_bytes(), random.Random(0)
    head = 800  # damage in the samples is only a change of samples: most of it goes to the header
    for turn in range(300):
        cut = head if turn % 4 else len(whole)
        path.write_bytes(_mutated(whole[:cut], seeded) + whole[cut:])
        _check(path, **wishes)
