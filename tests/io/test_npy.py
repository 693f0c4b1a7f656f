"""NumPy files: plain numbers of a stated size, never objects, never more than the file holds. Ids: row numbers."""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.io.conftest import ecg_counts
from xecg.errors import ReadError
from xecg.io import read

COUNTS = ecg_counts(200).T
SIGNAL = (COUNTS / 1000).astype(np.float32)
WISHES = {"rate": 250, "unit": "mV", "leads": ["I", "V1"]}


def _saved(folder: Path, array: np.ndarray, **options: bool) -> Path:
    np.save(folder / "r.npy", array, **options)
    return folder / "r.npy"


@pytest.mark.parametrize("kind", ["<f4", ">f4", "<f8", "fortran", "samples-first"])
def test_floats_are_read_exactly_in_any_layout(tmp_path, kind):
    array = {"fortran": np.asfortranarray(SIGNAL), "samples-first": SIGNAL.T}.get(kind)
    array = SIGNAL.astype(kind) if array is None else array
    recording = read(_saved(tmp_path, array), **WISHES)
    np.testing.assert_array_equal(recording.signal, SIGNAL)
    assert recording.leads == ("I", "V1") and recording.rate == 250


def test_one_lead_may_be_a_vector(tmp_path):
    recording = read(_saved(tmp_path, SIGNAL[0]), **{**WISHES, "leads": ["I"]})
    np.testing.assert_array_equal(recording.signal, SIGNAL[:1])


def test_nan_is_a_missing_sample(tmp_path):
    array = SIGNAL.copy()
    array[0, 3] = np.nan
    recording = read(_saved(tmp_path, array), **WISHES)
    assert not recording.mask[0, 3] and recording.signal[0, 3] == 0 and recording.mask.sum() == 399


def _claiming(shape: str) -> bytes:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"
    text = text.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


_REFUSED = [
    ("131-bool", SIGNAL > 0, ["type of signal is bool"]),
    ("131-complex", SIGNAL.astype(np.complex64), ["complex64"]),
    ("131-text", SIGNAL.astype("U5"), ["type of signal is <U5"]),
    ("integers", COUNTS, ["gain is absent", "npz"]),
    ("75", SIGNAL[None], ["shape of signal is (1, 2, 200)"]),
    ("empty", SIGNAL[:, :0], ["shape of signal is (2, 0)"]),
    ("inf", np.where(SIGNAL > 0.5, np.inf, SIGNAL), ["infinite"]),
    ("square", SIGNAL[:, :2], ["both sides equal"]),
    ("wrong-leads", np.vstack([SIGNAL, SIGNAL[:1]]), ["(3, 200)", "no side equals the number of leads, 2"]),
    ("81", SIGNAL * 1e5, ["amplitude", "10000 mV"]),
]


@pytest.mark.parametrize(("array", "words"), [row[1:] for row in _REFUSED], ids=[row[0] for row in _REFUSED])
def test_unfit_arrays_are_refused(tmp_path, array, words):
    with pytest.raises(ReadError) as caught:
        read(_saved(tmp_path, array), **WISHES)
    for word in words:
        assert word in str(caught.value)


class _Trap:
    def __reduce__(self):
        return Path.touch, (Path("trap-was-sprung"),)


def test_row_74_objects_are_never_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = _saved(tmp_path, np.array([_Trap()], dtype=object), allow_pickle=True)
    with pytest.raises(ReadError, match="objects are never loaded"):
        read(path, **WISHES)
    assert not Path("trap-was-sprung").exists()
    pickle.loads(pickle.dumps(_Trap()))  # the trap works
    assert Path("trap-was-sprung").exists()


@pytest.mark.parametrize(
    "shape", ["(1000000000000,)", "(2, 201)", "(2, 199)", "(-2, 200)", "(2, 10**9)", "[2]", "('a',)"]
)
def test_row_129_a_shape_that_the_file_does_not_hold_is_refused(tmp_path, shape):
    path = tmp_path / "r.npy"
    path.write_bytes(_claiming(shape) + SIGNAL.tobytes())
    with pytest.raises(ReadError, match=r"size of signal|header of signal"):
        read(path, **WISHES)


def test_npz_carries_rate_unit_leads_gain_and_baseline(tmp_path):
    path = tmp_path / "r.npz"
    np.savez(path, signal=COUNTS + 5, rate=250, unit="mV", leads=["I", "V1"], gain=[1000, 1000], baseline=5)
    recording = read(path)
    np.testing.assert_array_equal(recording.signal, SIGNAL)
    assert recording.leads == ("I", "V1") and recording.rate == 250


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"gain": 0}, "gain"),
        ({"gain": [1, 2, 3]}, "3 numbers"),
        ({"gain": np.nan}, "finite"),
        ({"rate": 1e9}, "25..20,000"),
        ({"rate": [250, 250]}, "2 numbers"),
        ({"unit": "mmHg"}, "mmHg"),
        ({"leads": [1, 2]}, "text"),
        ({"leads": ["I", "I"]}, "twice"),
    ],
)
def test_npz_with_a_wrong_side_array_is_refused(tmp_path, change, word):
    parts = {"signal": COUNTS, "rate": 250, "unit": "mV", "leads": ["I", "V1"], "gain": 1000}
    np.savez(tmp_path / "r.npz", **{**parts, **change})
    with pytest.raises(ReadError, match=word):
        read(tmp_path / "r.npz")


def test_row_130_an_npz_that_unpacks_beyond_the_limit_is_refused(tmp_path):
    np.savez_compressed(
        tmp_path / "r.npz", signal=np.zeros((2, 5_000_000), np.float32), rate=250, unit="mV", leads=["I", "II"]
    )
    assert (tmp_path / "r.npz").stat().st_size < 100_000
    with pytest.raises(ReadError, match=r"decoded size is 40,000,128 bytes; at most 39,000,000"):
        read(tmp_path / "r.npz", max_decoded=39_000_000)


def test_other_zip_archives_and_cut_ones_are_refused(tmp_path):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("word/document.xml", "text")
    (tmp_path / "r.npz").write_bytes(stream.getvalue())
    with pytest.raises(ReadError, match="needed one called signal"):
        read(tmp_path / "r.npz", **WISHES)
    (tmp_path / "r.npz").write_bytes(stream.getvalue()[:40])
    with pytest.raises(ReadError, match="whole npz"):
        read(tmp_path / "r.npz", **WISHES)


def test_a_number_that_float32_cannot_hold_is_refused_without_a_warning(tmp_path: Path) -> None:
    big = _saved(tmp_path, np.full((2, 500), 1e300))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ReadError, match="amplitude is inf mV"):
            read(big, **WISHES)
