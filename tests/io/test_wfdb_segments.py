"""Records of several segments: one time axis, gaps masked, no segment trusted more than its header."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.io.conftest import ecg_counts
from xecg.errors import ReadError
from xecg.io import find_records, read


def _segment(folder: Path, name: str, counts: np.ndarray, leads: tuple[str, ...], gains: tuple[int, ...]) -> None:
    sums = counts.astype(np.int64).sum(0).astype(np.int16)
    lines = [f"{name} {counts.shape[1]} 500 {len(counts)}"]
    for lead, gain, first, total in zip(leads, gains, counts[0], sums):
        lines.append(f"{name}.dat 16 {gain}(0)/mV 16 0 {first} {total} 0 {lead}")
    (folder / f"{name}.hea").write_text("\n".join(lines) + "\n")
    (folder / f"{name}.dat").write_bytes(counts.astype("<i2").tobytes())


@pytest.fixture
def fixed(tmp_path: Path) -> tuple[Path, np.ndarray]:
    counts = ecg_counts(1200)
    for index in range(3):
        _segment(tmp_path, f"m_{index + 1}", counts[400 * index : 400 * index + 400], ("I", "V1"), (1000, 500))
    (tmp_path / "m.hea").write_text("m/3 2 500 1200\nm_1 400\nm_2 400\nm_3 400\n")
    return tmp_path / "m.hea", (counts.T / np.array([[1000], [500]])).astype(np.float32)


def test_fixed_layout_joins_its_segments(fixed):
    path, truth = fixed
    recording = read(path)
    np.testing.assert_array_equal(recording.signal, truth)
    assert recording.mask.all() and recording.leads == ("I", "V1")
    assert find_records(path.parent) == [path]


def test_window_over_a_join_equals_the_cut_whole(fixed):
    path, truth = fixed
    np.testing.assert_array_equal(read(path, start=0.7, end=1.7).signal, truth[:, 350:850])


def test_row_37d_a_gap_in_a_fixed_layout_is_masked(fixed):
    path, truth = fixed
    path.write_text("m/4 2 500 1300\nm_1 400\n~ 100\nm_2 400\nm_3 400\n")
    recording = read(path)
    assert not recording.mask[:, 400:500].any() and recording.mask.sum() == 2 * 1200
    np.testing.assert_array_equal(recording.signal[:, 500:], truth[:, 400:])
    assert any(entry.field == "gaps" and entry.text.startswith("100 of 1,300") for entry in recording.log)


def test_row_44_variable_layout_uses_each_segments_own_leads_and_scale(tmp_path):
    counts = ecg_counts(700, leads=3)
    _segment(tmp_path, "v_0001", counts[:300, :2], ("II", "V1"), (1000, 500))
    _segment(tmp_path, "v_0002", counts[300:, 1:], ("V1", "II"), (200, 400))
    (tmp_path / "v_layout.hea").write_text(
        "v_layout 3 500 0\n~ 0 1000/mV 16 0 0 0 0 II\n~ 0 500/mV 16 0 0 0 0 V1\n~ 0 1/mmHg 16 0 0 0 0 ABP\n"
    )
    (tmp_path / "v.hea").write_text("v/4 3 500 900\nv_layout 0\nv_0001 300\n~ 200\nv_0002 400\n")
    recording = read(tmp_path / "v.hea")
    assert recording.leads == ("II", "V1") and recording.signal.shape == (2, 900)
    assert not recording.mask[:, 300:500].any() and recording.mask[:, 500:].all()
    np.testing.assert_array_equal(recording.signal[0, :300], (counts[:300, 0] / 1000).astype(np.float32))
    np.testing.assert_array_equal(recording.signal[1, 500:], (counts[300:, 1] / 200).astype(np.float32))
    np.testing.assert_array_equal(recording.signal[0, 500:], (counts[300:, 2] / 400).astype(np.float32))
    assert find_records(tmp_path) == [tmp_path / "v.hea"]


_REFUSED = [
    ("37-cycle", "m/2 2 500 1600\nm_1 400\nm 1200\n", ["'m'", "names itself"]),
    ("37-nested", "m/2 2 500 800\nm_1 400\nn 400\n", ["'n'", "plain record"]),
    ("37b-length", "m/3 2 500 1200\nm_1 400\nm_2 300\nm_3 500\n", ["segment m_2", "300", "400"]),
    ("37b-total", "m/3 2 500 1300\nm_1 400\nm_2 400\nm_3 400\n", ["1,300", "1,200"]),
    ("37c", "m/2 2 500 800\nm_1 400\nm_9 400\n", ["m_9.hea", "No such file"]),
    ("37-path", "m/1 2 500 400\n../m_1 400\n", ["segment line", "../m_1"]),
    ("37-count", "m/3 2 500 800\nm_1 400\nm_2 400\n", ["segments is 3", "2 lines"]),
    ("37-rate", "m/2 2 250 800\nm_1 400\nm_2 400\n", ["segment m_1", "500", "250 Hz"]),
    ("37-empty", "m/1 2 500 0\n~ 0\n", ["0"]),
    ("20-gap", "m/2 2 500 1000000000400\nm_1 400\n~ 1000000000000\n", ["decoded size", "at most 4,294,967,296"]),
]


@pytest.mark.parametrize(("text", "words"), [row[1:] for row in _REFUSED], ids=[row[0] for row in _REFUSED])
def test_broken_segment_list_is_refused(fixed, text, words):
    path, _ = fixed
    (path.parent / "n.hea").write_text("n/1 2 500 400\nm_1 400\n")
    path.write_text(text)
    with pytest.raises(ReadError) as caught:
        read(path)
    for word in words:
        assert word in str(caught.value)


def test_row_37c_partial_masks_a_missing_segment(fixed):
    path, truth = fixed
    (path.parent / "m_2.dat").unlink()
    with pytest.raises(ReadError, match=r"m_2\.dat"):
        read(path)
    recording = read(path, partial=True)
    assert not recording.mask[:, 400:800].any() and recording.mask.sum() == 2 * 800
    np.testing.assert_array_equal(recording.signal[:, 800:], truth[:, 800:])
    assert ("repaired", "segment") in {(entry.kind, entry.field) for entry in recording.log}


def test_a_damaged_segment_is_not_masked_by_partial(fixed):
    path, _ = fixed
    data = bytearray((path.parent / "m_2.dat").read_bytes())
    data[101] ^= 0x20
    (path.parent / "m_2.dat").write_bytes(bytes(data))
    with pytest.raises(ReadError, match="checksum"):
        read(path, partial=True)
