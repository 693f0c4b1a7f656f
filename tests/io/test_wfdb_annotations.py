"""Annotation files: every mark at its time, or a refusal that names the byte."""

from __future__ import annotations

import numpy as np
import pytest

from xecg.errors import ReadError
from xecg.io import annotations, read
from xecg.io.readers.wfdb_annotations import SYMBOLS, parse_annotations

wfdb = pytest.importorskip("wfdb", reason="wfdb is the oracle here")


def _words(*words: int) -> bytes:
    return np.array(words, "<u2").tobytes()


def _beat(step: int, code: int = 1) -> int:
    return code << 10 | step


def _skip(ticks: int) -> tuple[int, int, int]:
    ticks &= 0xFFFFFFFF
    return 59 << 10, ticks >> 16, ticks & 0xFFFF


def _aux(text: bytes) -> bytes:
    return _words(63 << 10 | len(text)) + text + b"\0" * (len(text) % 2)


BEATS = _words(*(_beat(10) for _ in range(100)))
END = _words(0)


def test_symbols_are_those_of_the_format():
    from wfdb.io.annotation import ann_labels

    assert {label.label_store: label.symbol for label in ann_labels} == SYMBOLS


def test_marks_equal_those_of_wfdb(tmp_path, monkeypatch):
    rng = np.random.default_rng(3)
    sample = np.cumsum(rng.choice([1, 200, 1023, 1024, 70_000, 3_000_000], 400))
    symbol = rng.choice(["N", "V", "+", "~", "|", "A"], 400).tolist()
    aux = [["", "(AFIB", "(N", "odd"][i] for i in rng.integers(0, 4, 400)]
    wfdb.wrann("r", "atr", sample, symbol, aux_note=aux, subtype=rng.integers(0, 3, 400), write_dir=str(tmp_path))
    found = annotations(tmp_path / "r")
    np.testing.assert_array_equal(found.sample, sample)
    assert found.sample.dtype == np.int64 and list(found.symbol) == symbol and list(found.aux) == aux
    stored = wfdb.rdann(str(tmp_path / "r"), "atr")
    assert list(found.symbol) == stored.symbol and found.sample.tolist() == stored.sample.tolist()


def test_skip_moves_the_time_of_the_next_mark():
    marks, log = parse_annotations(_words(_beat(5), *_skip(70_000), _beat(3, 5)) + _aux(b"(AB") + END, file="r.atr")
    assert marks.sample.tolist() == [5, 70_008] and marks.symbol == ("N", "V") and marks.aux == ("", "(AB") and not log


_REFUSED = [
    ("45", BEATS[:86], ["no end mark after 43"]),
    ("45-odd", BEATS[:87], ["no end mark after 43"]),
    ("45-no-end", BEATS, ["no end mark after 100"]),
    ("47", _words(_beat(10), *_skip(-5), _beat(1)) + END, ["SKIP at byte 2", "-5", "ascending"]),
    ("47b", _words(*_skip(1 << 31), _beat(1)) + END, ["SKIP at byte 0", "ascending"]),
    ("48", _aux(b"(N") + BEATS + END, ["code at byte 0", "63", "none came before"]),
    ("48b", _words(_beat(1), 63 << 10 | 1023) + b"x" * 1024 + END, ["AUX length at byte 2", "1023", "255"]),
    ("48c", _words(_beat(1), 63 << 10 | 100) + b"x" * 20, ["AUX length at byte 2", "100", "ends at byte 24"]),
    ("120-text", b"This is not an annotation file, but some text.\n" * 4, ["188 bytes", "no end mark"]),
    ("120-random", np.random.default_rng(0).bytes(4096), ["at byte"]),
]


@pytest.mark.parametrize(("data", "words"), [row[1:] for row in _REFUSED], ids=[row[0] for row in _REFUSED])
def test_broken_annotations_are_refused_with_the_byte(tmp_path, data, words):
    (tmp_path / "r.atr").write_bytes(data)
    with pytest.raises(ReadError) as caught:
        annotations(tmp_path / "r")
    for word in words:
        assert word in str(caught.value)


def test_row_45_partial_keeps_the_whole_marks(tmp_path):
    (tmp_path / "r.atr").write_bytes(BEATS[:87])
    found = annotations(tmp_path / "r", partial=True)
    assert found.sample.tolist() == list(range(10, 431, 10))
    assert parse_annotations(BEATS[:87], file="r", partial=True)[1][0].kind == "repaired"


def test_row_46_an_unassigned_code_is_kept_as_its_number():
    marks, log = parse_annotations(_words(_beat(1, 15), _beat(1, 45), _beat(1)) + END, file="r.atr")
    assert marks.symbol == ("code:15", "code:45", "N") and "code:15, code:45" in log[0].text


def test_row_48_an_aux_that_is_not_utf_8_is_read_as_latin_1():
    marks, log = parse_annotations(_words(_beat(1)) + _aux("Größe".encode("latin-1")) + END, file="r.atr")
    assert marks.aux == ("Größe",) and log[0].kind == "guessed"


def test_row_120_bytes_after_the_end_and_zeros_are_logged():
    marks, log = parse_annotations(BEATS + END + BEATS[:4], file="r.atr")
    assert len(marks.symbol) == 100 and "4 bytes after the end mark" in log[0].text
    marks, log = parse_annotations(bytes(64), file="r.atr")
    assert marks.symbol == () and "zero" in log[0].text


def test_row_47_a_time_past_the_end_of_the_record_is_refused(broken):
    broken.write()
    (broken.folder / "r.atr").write_bytes(_words(_beat(999), _beat(2)) + END)
    with pytest.raises(ReadError, match=r"time is 1,001; the record ends at sample 1,000"):
        annotations(broken.folder / "r.hea")


def test_row_50_annotations_are_read_without_signals_and_headers(broken):
    path = broken.write()
    (broken.folder / "r.dat").unlink()
    (broken.folder / "r.atr").write_bytes(_words(_beat(9)) + END)
    assert annotations(path).sample.tolist() == [9]
    path.unlink()
    assert annotations(path).sample.tolist() == [9]


def test_read_brings_the_annotations_of_the_window(broken):
    path = broken.write()
    (broken.folder / "r.atr").write_bytes(_words(*(_beat(100, code) for code in (1, 5, 8, 1, 1, 5))) + END)
    assert read(path).annotations.sample.tolist() == [100, 200, 300, 400, 500, 600]
    part = read(path, start=0.4, end=0.8).annotations
    assert part.sample.tolist() == [0, 100] and part.symbol == ("V", "A")


def test_broken_annotations_beside_a_sound_signal_cost_only_the_marks(broken):
    path = broken.write()
    (broken.folder / "r.atr").write_bytes(BEATS)
    recording = read(path)
    assert recording.annotations is None and any("no end mark" in entry.text for entry in recording.log)
    with pytest.raises(ReadError, match="no end mark"):
        read(path, strict=True)


def test_a_stated_time_resolution_is_converted(broken):
    path = broken.write()
    note = _words(_beat(0, 22)) + _aux(b"## time resolution: 1000")
    (broken.folder / "r.atr").write_bytes(note + _words(_beat(400), _beat(200)) + END)
    assert annotations(path).sample.tolist() == [200, 300]
    assert read(path).annotations.sample.tolist() == [200, 300]
