"""`write_wfdb`: what is written is read back, by this reader and by `wfdb`."""

from __future__ import annotations

import numpy as np
import pytest

from tests.io.conftest import ecg_counts
from xecg.errors import ShapeError
from xecg.io import read, write_wfdb
from xecg.signal.recording import Recording

TOL_COUNT_MV = 0.5 / 2000 + 1e-6  # half a count at the gain that 12 mV allow, and float32


def _recording(**changes: object) -> Recording:
    signal = (ecg_counts(1001, 3).T / 1000).astype(np.float32)
    signal[1] *= 8  # up to some 8 mV
    mask = np.ones(signal.shape, bool)
    mask[0, 100:120] = False
    signal[~mask] = 0
    meta = {"age": 63.5, "sex": "F", "dx": ("426783006", "59118001")}
    parts = {"signal": signal, "rate": 250.5, "leads": ("I", "II", "V1"), "mask": mask, "meta": meta}
    return Recording(**{**parts, **changes})


def test_write_then_read_is_the_identity_within_a_count(tmp_path):
    before = _recording()
    path = write_wfdb(before, tmp_path, "r_1", comments=("one\nline",))
    after = read(path)
    assert np.abs(after.signal - before.signal).max() <= TOL_COUNT_MV
    np.testing.assert_array_equal(after.mask, before.mask)
    assert after.leads == before.leads and after.rate == before.rate and after.log == ()
    assert after.meta == {"age": 63.5, "sex": "F", "dx": ("426783006", "59118001"), "calibrated": True}
    assert "# one line\n" in path.read_text()


def test_a_second_round_changes_no_bit(tmp_path):
    first = read(write_wfdb(_recording(), tmp_path, "a"))
    second = read(write_wfdb(first, tmp_path, "b"))
    np.testing.assert_array_equal(first.signal, second.signal)
    assert (tmp_path / "a.dat").read_bytes() == (tmp_path / "b.dat").read_bytes()


def test_wfdb_reads_it_and_agrees_with_the_checksums(tmp_path):
    wfdb = pytest.importorskip("wfdb", reason="wfdb is the oracle here")
    ours = read(write_wfdb(_recording(), tmp_path, "r"))
    theirs = wfdb.rdrecord(str(tmp_path / "r"), physical=False)
    assert theirs.calc_checksum() == [value & 0xFFFF for value in theirs.checksum]
    assert theirs.init_value == theirs.d_signal[0].tolist()
    physical = wfdb.rdrecord(str(tmp_path / "r")).p_signal.T
    np.testing.assert_array_equal(ours.signal[ours.mask], physical.astype(np.float32)[ours.mask])


@pytest.mark.parametrize(
    ("changes", "name", "word"),
    [
        ({}, "../r", "letters"),
        ({"signal": np.zeros((3, 0), np.float32), "mask": np.zeros((3, 0), bool)}, "r", "0 samples"),
        ({"signal": np.full((3, 1001), np.nan, np.float32)}, "r", "finite"),
        ({"signal": np.full((3, 1001), 4e4, np.float32)}, "r", "40000 mV"),
    ],
)
def test_what_the_format_cannot_hold_is_refused(tmp_path, changes, name, word):
    with pytest.raises(ShapeError, match=word):
        write_wfdb(_recording(**changes), tmp_path, name)
    assert not list(tmp_path.iterdir())
