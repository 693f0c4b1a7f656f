"""Tables: numbers under lead names with a stated rate and unit, or a refusal with row and column. Ids: row numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.io.conftest import ecg_counts
from xecg.errors import ReadError
from xecg.io import read

SIGNAL = ecg_counts(200) / 1000  # mV, (samples, leads)


def _lines(*, header: str | None = "I (mV),V1 (mV)", separator: str = ",", decimal: str = ".") -> list[str]:
    rows = [separator.join(f"{value:.3f}".replace(".", decimal) for value in row) for row in SIGNAL]
    return rows if header is None else [header, *rows]


def _write(folder: Path, lines: list[str] | str, *, name: str = "r.csv", end: str = "\n") -> Path:
    path = folder / name
    text = lines if isinstance(lines, str) else end.join(lines) + end
    path.write_bytes(text.encode())
    return path


def _with(lines: list[str], row: int, text: str) -> list[str]:
    return [*lines[: row - 1], text, *lines[row:]]


_TIMES = [f"{index / 250:.4f}" for index in range(len(SIGNAL))]


def _timed(times: list[str], name: str = "time (s)") -> list[str]:
    lines = _lines()
    return [f"{name},{lines[0]}", *(f"{at},{row}" for at, row in zip(times, lines[1:]))]


_READ = [
    ("plain", _lines(), {"rate": 250}),
    ("crlf", "\r\n".join(_lines()) + "\r\n", {"rate": 250}),
    ("no-last-newline", "\n".join(_lines()), {"rate": 250}),
    ("bom", "\ufeff" + "\n".join(_lines()), {"rate": 250}),
    ("unit-given", _lines(header="I,V1"), {"rate": 250, "unit": "mV"}),
    ("brackets", _lines(header='"I [mV]",V1 [mV]'), {"rate": 250}),
    ("semicolon", _lines(header="I (mV);V1 (mV)", separator=";"), {"rate": 250}),
    ("tab", _lines(header="I (mV)\tV1 (mV)", separator="\t"), {"rate": 250}),
    ("72-asked", _lines(header="I (mV);V1 (mV)", separator=";", decimal=","), {"rate": 250, "decimal": ","}),
    ("132-leads", _lines(header=None), {"rate": 250, "unit": "mV", "leads": ["I", "V1"]}),
    ("133", _timed(_TIMES), {}),
    ("133-ms", _timed([str(4 * index) for index in range(200)], "time_ms"), {}),
    ("133-by-rate", _timed(_TIMES, "time"), {"rate": 250}),
    ("index", ["," + _lines()[0], *(f"{i},{row}" for i, row in enumerate(_lines()[1:]))], {"rate": 250}),
]


@pytest.mark.parametrize(("lines", "wishes"), [row[1:] for row in _READ], ids=[row[0] for row in _READ])
def test_table_is_read_exactly(tmp_path, lines, wishes):
    recording = read(_write(tmp_path, lines), **wishes)
    np.testing.assert_array_equal(recording.signal, SIGNAL.T.astype(np.float32))
    assert recording.leads == ("I", "V1") and recording.rate == 250 and recording.mask.all()


_REFUSED = [
    ("71", _with(_lines(), 5, "0.1"), {"rate": 250}, ["row 5", "1 cells", "has 2"]),
    ("71b", _with(_lines(), 5, "0.1,0.2,0.3"), {"rate": 250}, ["row 5", "3 cells"]),
    ("72", _lines(decimal=","), {"rate": 250}, ["row 2", "decimal=','"]),
    ("72b", _lines(header="I;V1", separator=";", decimal=","), {"rate": 250}, ["row 2", "decimal=','"]),
    ("73", _with(_lines(), 7, "0.1,bad"), {"rate": 250}, ["row 7, column 2", "'bad'", "number"]),
    ("73-inf", _with(_lines(), 7, "0.1,inf"), {"rate": 250}, ["row 7, column 2", "infinite"]),
    ("76", _lines(), {}, ["sampling rate is absent", "rate="]),
    ("77", [",".join(row) for row in zip(*(line.split(",") for line in _lines()))], {"rate": 250}, ["transposed"]),
    ("77-short", _lines()[:60], {"rate": 250}, ["59 rows", "transposed"]),
    ("132", _lines(header=None), {"rate": 250, "unit": "mV"}, ["header is absent", "leads="]),
    ("133-irregular", _timed([*_TIMES[:100], "0.3981", *_TIMES[101:]]), {}, ["column time", "row 102", "0.004"]),
    ("133-back", _timed([*_TIMES[:100], "0.1", *_TIMES[101:]]), {}, ["ascending", "row 102"]),
    ("133-unit", _timed(_TIMES, "time"), {}, ["unit is not stated", "time (s)"]),
    ("133-conflict", _timed(_TIMES), {"rate": 500}, ["250 Hz", "500 Hz"]),
    ("134", _lines(header="I,V1"), {"rate": 250}, ["unit of I is absent", "unit="]),
    ("27", _lines(header="I (mV),I (mV)"), {"rate": 250}, ["'I' twice"]),
    ("60", _lines(header="PLETH (NU),ABP (mmHg)"), {"rate": 250}, ["PLETH, ABP", "no ECG lead"]),
    ("empty", "", {"rate": 250}, ["0 bytes", "empty"]),
    ("nul", "I (mV)\n0.1\0\n", {"rate": 250}, ["NUL", "text"]),
    ("81", _lines(header="I (V),V1 (V)"), {"rate": 250}, ["amplitude", "0.01..50"]),
]


@pytest.mark.parametrize(("lines", "wishes", "words"), [row[1:] for row in _REFUSED], ids=[row[0] for row in _REFUSED])
def test_broken_table_is_refused_with_its_place(tmp_path, lines, wishes, words):
    with pytest.raises(ReadError) as caught:
        read(_write(tmp_path, lines), **wishes)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("cell", ["", "nan", "NaN"])
def test_row_73_empty_and_nan_cells_are_masked(tmp_path, cell):
    recording = read(_write(tmp_path, _with(_lines(), 7, f"{cell},0.5")), rate=250)
    assert not recording.mask[0, 5] and recording.mask.sum() == recording.mask.size - 1
    assert recording.signal[0, 5] == 0 and recording.signal[1, 5] == np.float32(0.5)


def test_row_133_missing_rows_are_gaps(tmp_path):
    lines = _timed(_TIMES)
    recording = read(_write(tmp_path, [*lines[:51], *lines[61:]]))
    assert recording.signal.shape == (2, 200) and not recording.mask[:, 50:60].any()
    assert recording.mask.sum() == 2 * 190 and ("repaired", "gaps") in {(e.kind, e.field) for e in recording.log}
    np.testing.assert_array_equal(recording.signal[:, 60:], SIGNAL[60:].T.astype(np.float32))


def test_units_are_converted_and_windows_cut(tmp_path):
    lines = ["I (uV)", *(f"{1000 * value:.0f}" for value in SIGNAL[:, 0])]
    recording = read(_write(tmp_path, lines), rate=250, start=0.2, end=0.4)
    np.testing.assert_allclose(recording.signal[0], SIGNAL[50:100, 0], rtol=1e-6)
    assert recording.start == 0.2


def test_a_wrong_unit_given_by_the_caller_is_noted(tmp_path):
    lines = ["I", *(f"{1000 * value:.0f}" for value in SIGNAL[:, 0])]
    recording = read(_write(tmp_path, lines), rate=250, unit="mV")
    assert any(e.field == "amplitude" and "µV read as mV" in e.text for e in recording.log)
