"""Every sample format, odd and even lengths, windows: the digits that `wfdb` writes or reads come back, to the bit."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from tests.io.conftest import ecg_counts
from xecg.errors import ReadError
from xecg.io import read
from xecg.io.readers.wfdb_format import FORMATS, bytes_for, decode, samples_in, wrapped_sums

wfdb = pytest.importorskip("wfdb", reason="wfdb is the oracle here")

_RANGE = {8: 60, 80: 120, 310: 500, 311: 500, 212: 2000, 508: 120}
_BY_WFDB = (
    16,
    24,
    32,
    80,
    212,
    508,
    516,
    524,
)  # wfdb writes these; the others are written here, and wfdb reads them back


_FIRST_STEP = 5  # format 8: the first difference, from the initial value to the first sample


def _bits(values: list[int], places: list[list[int]], words: int) -> bytes:
    """Bit i of values[k] goes to bit places[k][i] of a little-endian word."""
    out = 0
    for value, spots in zip(values, places):
        for index, spot in enumerate(spots):
            out |= (value >> index & 1) << spot
    return out.to_bytes(words, "little")


_PLACES = {
    310: [[*range(1, 11)], [*range(17, 27)], [*range(11, 16), *range(27, 32)]],
    311: [[*range(10)], [*range(10, 20)], [*range(20, 30)]],
}


def _encoded(code: int, counts: np.ndarray) -> bytes:
    flat = counts.reshape(-1)
    if code == 8:
        return np.diff(counts, axis=0, prepend=counts[:1] - _FIRST_STEP).astype(np.int8).tobytes()
    if code == 61:
        return flat.astype(">i2").tobytes()
    if code == 160:
        return (flat + 32768).astype("<u2").tobytes()
    padded = [*flat.tolist(), 0, 0]
    parts = [_bits(padded[i : i + 3], _PLACES[code], 4) for i in range(0, len(flat), 3)]
    return b"".join(parts)[: bytes_for(code, len(flat))]


def _written(folder: Path, code: int, samples: int, leads: int) -> np.ndarray:
    """Counts over most of the format's range, the format's code for a missing sample among them."""
    form = FORMATS[code]
    counts = ecg_counts(samples, leads, seed=samples + leads).astype(np.int64)
    counts = counts * _RANGE.get(code, 2 ** (form.bits - 1) - 2) // 2000
    if form.invalid is not None and samples > 4:
        counts[3, 0] = form.invalid
    gain = {24: 1e5, 32: 1e6, 524: 1e5}.get(code, 100.0)
    names = ["I", "II", "V1", "V2", "V3"][:leads]
    if code in _BY_WFDB:
        scale = {"adc_gain": [gain] * leads, "baseline": [0] * leads}
        form_names = [str(code)] * leads
        wfdb.wrsamp("w", 500, ["mV"] * leads, names, d_signal=counts, fmt=form_names, write_dir=str(folder), **scale)
    else:
        sums = counts.sum(0).astype(np.int16)
        heads = counts[0] - (_FIRST_STEP if code == 8 else 0)
        lines = [f"w.dat {code} {gain}(0)/mV 16 0 {heads[i]} {sums[i]} 0 {names[i]}" for i in range(leads)]
        (folder / "w.hea").write_text("\n".join([f"w {leads} 500 {samples}", *lines]) + "\n")
        (folder / "w.dat").write_bytes(_encoded(code, counts))
    return counts


@pytest.mark.parametrize(("samples", "leads"), [(999, 1), (1000, 1), (1001, 1), (1000, 2), (1001, 2), (1000, 5)])
@pytest.mark.parametrize("code", FORMATS)
def test_samples_equal_those_of_wfdb(tmp_path, code, samples, leads):
    counts = _written(tmp_path, code, samples, leads)
    oracle = wfdb.rdrecord(str(tmp_path / "w"))
    gain = oracle.adc_gain[0]
    found = read(tmp_path / "w.hea", unit="mV")
    valid = ~np.isnan(oracle.p_signal.T)
    np.testing.assert_array_equal(found.mask, valid)
    np.testing.assert_array_equal(found.signal[valid], (counts.T / gain).astype(np.float32)[valid])
    np.testing.assert_array_equal(found.signal[valid], oracle.p_signal.T.astype(np.float32)[valid])
    assert not found.signal[~valid].any()


@pytest.mark.parametrize("code", FORMATS)
def test_a_window_equals_the_cut_whole(tmp_path, code):
    _written(tmp_path, code, 1001, 3)
    whole = read(tmp_path / "w.hea", unit="mV")
    for first, last in ((0, 333), (1, 2), (333, 1001), (500, 777), (998, 1001)):
        part = read(tmp_path / "w.hea", unit="mV", start=first / 500, end=last / 500)
        np.testing.assert_array_equal(part.signal, whole.signal[:, first:last])
        np.testing.assert_array_equal(part.mask, whole.mask[:, first:last])


@pytest.mark.parametrize("code", [code for code in FORMATS if not FORMATS[code].flac])
def test_bytes_and_samples_are_inverse(code):
    for samples in range(1, 30):
        size = bytes_for(code, samples)
        assert samples_in(code, size - 1) < samples <= samples_in(code, size)
        assert samples_in(code, size) == samples or (code == 310 and samples % 3 == 2)  # two samples fill the word
        assert decode(code, bytes(size), samples).shape == (samples, 1)


@pytest.mark.parametrize("code", [16, 61, 80, 160, 212, 310, 311])
def test_every_flipped_bit_is_found_by_the_checksum(tmp_path, code):
    _written(tmp_path, code, 9, 2)
    path = tmp_path / "w.dat"
    data = path.read_bytes()
    missed = []
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bytes(damaged))
        try:
            read(tmp_path / "w.hea", unit="mV")
        except ReadError:
            continue
        missed.append(bit)
    unused = {310: {0, 16}, 311: {30, 31}}.get(code, set())
    assert {bit % 32 for bit in missed} <= unused, "a flipped bit that holds data was not noticed"


def test_sums_wrap_at_16_bits():
    rng = np.random.default_rng(0)
    for shape in ((1, 1), (99, 3), (100, 2), (12_345, 5)):
        for dtype in (np.int16, np.int32):
            counts = rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape).astype(dtype)
            truth = (counts.astype(np.int64).sum(0) & 0xFFFF).tolist()
            assert wrapped_sums(counts).tolist() == truth
            assert wrapped_sums(np.asfortranarray(counts)).tolist() == truth


@pytest.mark.parametrize("code", [8, 16, 24, 32, 61, 80, 160, 212, 310, 311])
def test_memory_is_bounded_by_the_size_of_the_file(tmp_path, code):
    _written(tmp_path, code, 500_000, 2)
    read(tmp_path / "w.hea", unit="mV", end=1)  # imports are not what is measured
    tracemalloc.start()
    try:
        read(tmp_path / "w.hea", unit="mV")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= 8 * (tmp_path / "w.dat").stat().st_size + (4 << 20)


@pytest.mark.parametrize("leads", [1, 2, 5])
@pytest.mark.parametrize("code", [8, 16, 24, 80, 212, 311])
def test_long_records_are_decoded_in_blocks_without_a_seam(tmp_path, code, leads):
    counts = _written(tmp_path, code, 70_001, leads)
    gain = {24: 1e5}.get(code, 100.0)
    whole = read(tmp_path / "w.hea", unit="mV")
    truth = np.where(whole.mask, counts.T / gain, 0).astype(np.float32)
    np.testing.assert_array_equal(whole.signal, truth)
    part = read(tmp_path / "w.hea", unit="mV", start=0.002, end=140.0)
    np.testing.assert_array_equal(part.signal, truth[:, 1:70_000])


def test_several_files_keep_the_order_of_the_header(tmp_path):
    counts = ecg_counts(500, 3)
    for index in (0, 1):
        columns = [0, 2] if index == 0 else [1]
        (tmp_path / f"p{index}.dat").write_bytes(np.ascontiguousarray(counts[:, columns]).astype("<i2").tobytes())
    sums = counts.astype(np.int64).sum(0).astype(np.int16)
    lines = [f"p{index}.dat 16 1000/mV 16 0 {counts[0, i]} {sums[i]} 0 V{i + 1}" for i, index in enumerate((0, 1, 0))]
    (tmp_path / "p.hea").write_text("\n".join(["p 3 500 500", *lines]) + "\n")
    recording = read(tmp_path / "p.hea")
    assert recording.leads == ("V1", "V2", "V3")
    np.testing.assert_array_equal(recording.signal, (counts.T / 1000).astype(np.float32))
