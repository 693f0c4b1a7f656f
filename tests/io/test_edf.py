"""EDF and EDF+: samples at their time and scale, or a refusal that names the field. Ids: row numbers of the table of cases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.io.conftest import ecg_counts
from xecg.errors import ReadError
from xecg.io import read

COUNTS = ecg_counts(1000)  # (samples, leads); 1,000 counts per mV
TOL_ULP = 1  # float32 steps; physical values are computed in float64 and rounded once, here and in the oracle


def _channel(label: str, counts: np.ndarray, **changes: str) -> dict[str, object]:
    """A signal of an EDF file: header fields as text, counts."""
    fields = {
        "label": label,
        "transducer": "",
        "dimension": "uV",
        "physical minimum": "-32768",
        "physical maximum": "32767",
        "digital minimum": "-32768",
        "digital maximum": "32767",
        "prefiltering": "",
        "samples per record": "100",
        "reserved": "",
    }
    return {"fields": {**fields, **changes}, "counts": np.asarray(counts, "<i2")}


_WIDTHS = (16, 80, 8, 8, 8, 8, 8, 80, 8, 32)


def edf_bytes(
    channels: list[dict[str, object]], *, records: str = "10", record_s: str = "0.4", **changes: str
) -> bytes:
    main = {
        "version": ("0", 8),
        "patient": ("X F 02-FEB-1931 ZZDOE", 80),
        "recording": ("Startdate 02-MAR-2002 X X X", 80),
        "date": ("02.03.02", 8),
        "time": ("10.00.00", 8),
        "size": (str(256 * (1 + len(channels))), 8),
        "reserved": ("", 44),
        "records": (records, 8),
        "record_s": (record_s, 8),
        "signals": (str(len(channels)), 4),
    }
    text = b"".join(changes.get(name, value).encode("latin-1").ljust(width) for name, (value, width) in main.items())
    for index, width in enumerate(_WIDTHS):
        text += b"".join(list(c["fields"].values())[index].encode("latin-1").ljust(width) for c in channels)
    blocks = [c["counts"].reshape(10, -1) for c in channels]
    return text + np.concatenate(blocks, axis=1).astype("<i2").tobytes()


def edf_two(**changes: str) -> list[dict[str, object]]:
    return [_channel("ECG II", COUNTS[:, 0], **changes), _channel("V1", COUNTS[:, 1])]


def _stamps(times: list[float]) -> dict[str, object]:
    texts = [f"+{time:g}\x14\x14\0".encode().ljust(40, b"\0") for time in times]
    changes = {"samples per record": "20", "dimension": "", "physical minimum": "-1", "physical maximum": "1"}
    return _channel("EDF Annotations", np.frombuffer(b"".join(texts), "<i2"), **changes)


def _write(folder: Path, data: bytes) -> Path:
    (folder / "r.edf").write_bytes(data)
    return folder / "r.edf"


def test_plain_edf_is_read_exactly(tmp_path):
    recording = read(_write(tmp_path, edf_bytes(edf_two())))
    np.testing.assert_array_equal(recording.signal, (COUNTS.T / 1000).astype(np.float32))
    assert recording.leads == ("II", "V1") and recording.rate == 250 and recording.mask.all() and recording.start == 0
    assert "ZZDOE" not in repr(recording) and "1931" not in repr(recording)


@pytest.mark.parametrize("scale", [("-5", "5", "-2048", "2047"), ("-3.2767", "3.2768", "-32768", "32767")])
def test_samples_equal_those_of_edfio(tmp_path, scale):
    edfio = pytest.importorskip("edfio", reason="edfio is the oracle here (pip install xecg[formats])")
    names = ("physical minimum", "physical maximum", "digital minimum", "digital maximum")
    changes = {**dict(zip(names, scale)), "dimension": "mV"}
    path = _write(tmp_path, edf_bytes(edf_two(**changes)))
    ours, theirs = read(path), edfio.read_edf(path)
    truth = theirs.signals[0].data.astype(np.float32)
    assert np.abs(ours.signal[0] - truth).max() <= TOL_ULP * np.spacing(np.abs(truth).max())
    assert ours.rate == theirs.signals[0].sampling_frequency


def test_leads_of_two_rates_are_brought_to_the_higher(tmp_path):
    slow = _channel("I", COUNTS[:500, 0], **{"samples per record": "50"})
    recording = read(_write(tmp_path, edf_bytes([slow, _channel("II", COUNTS[:, 1])])))
    assert recording.signal.shape == (2, 1000) and any(entry.field == "rate" for entry in recording.log)
    np.testing.assert_array_equal(recording.signal[1], (COUNTS[:, 1] / 1000).astype(np.float32))


def test_other_channels_are_dropped_by_name(tmp_path):
    recording = read(_write(tmp_path, edf_bytes([_channel("EEG Fpz-Cz", COUNTS[:, 0]), _channel("EKG", COUNTS[:, 1])])))
    assert recording.leads == ("EKG",) and any("EEG Fpz-Cz" in entry.text for entry in recording.log)


def test_a_window_equals_the_cut_whole(tmp_path):
    path = _write(tmp_path, edf_bytes(edf_two()))
    part = read(path, start=0.5, end=1.7)
    np.testing.assert_array_equal(part.signal, read(path).signal[:, 125:425])


_REFUSED = [
    ("54", edf_bytes(edf_two(**{"digital minimum": "32767"})), {}, ["digital range", "32767..32767"]),
    (
        "54b",
        edf_bytes(edf_two(**{"digital minimum": "100", "digital maximum": "-100"})),
        {},
        ["digital range", "100..-100"],
    ),
    ("55", edf_bytes(edf_two(**{"physical minimum": "5", "physical maximum": "5"})), {}, ["physical range", "5..5"]),
    ("polarity", edf_bytes(edf_two(**{"physical minimum": "5", "physical maximum": "-5"})), {}, ["polarity", "5..-5"]),
    ("56", edf_bytes(edf_two(), record_s="0"), {}, ["duration", "0 s"]),
    ("56b", edf_bytes(edf_two(), record_s="-1"), {}, ["duration", "-1 s"]),
    ("57", edf_bytes(edf_two(), size="1024"), {}, ["header bytes is 1024", "768"]),
    ("57b", edf_bytes(edf_two(), size="abc"), {}, ["header bytes", "'abc'"]),
    ("59", edf_bytes([_channel("II", COUNTS[:, 0]), _channel("II", COUNTS[:, 1])]), {}, ["'II' twice"]),
    ("60", edf_bytes([_channel("EEG", COUNTS[:, 0]), _channel("EOG", COUNTS[:, 1])]), {}, ["EEG, EOG", "no ECG lead"]),
    ("61-strict", edf_bytes(edf_two())[:-100], {"strict": True}, ["4,668 bytes", "4,768"]),
    ("61-more", edf_bytes(edf_two())[:-500], {}, ["4,268 bytes", "partial=True"]),
    ("105", edf_bytes(edf_two(), records="5"), {}, ["4,768 bytes", "2,768"]),
    ("106", edf_bytes(edf_two(**{"samples per record": "-5"})), {}, ["samples per record", "-5"]),
    ("106b", edf_bytes(edf_two(**{"samples per record": "0"})), {}, ["samples per record", "is 0"]),
    ("106c", edf_bytes(edf_two(**{"samples per record": "99999999"})), {}, ["sampling rate", "2.5e+08 Hz"]),
    ("107", edf_bytes(edf_two(**{"physical minimum": "nan"})), {}, ["physical minimum", "'nan'"]),
    ("107b", edf_bytes(edf_two(**{"physical maximum": "5,0"})), {}, ["physical maximum", "'5,0'", "point"]),
    ("108", edf_bytes(edf_two(dimension="")), {}, ["dimension", "absent", "unit="]),
    ("109", edf_bytes(edf_two(), records="1000000"), {}, ["4,768 bytes", "1,000,000 data records"]),
    ("109b", edf_bytes(edf_two(), records="-2"), {}, ["data records is -2"]),
    ("empty", edf_bytes(edf_two(), records="0"), {}, ["data records is 0"]),
    ("signals", edf_bytes(edf_two(), signals="0"), {}, ["number of signals is 0"]),
    ("cut", edf_bytes(edf_two())[:700], {}, ["700 bytes", "768"]),
    ("rate", edf_bytes(edf_two(), record_s="100"), {}, ["1 Hz", "25..20,000"]),
    ("81", edf_bytes(edf_two(dimension="mV")), {}, ["amplitude"]),
    ("58-no-times", edf_bytes(edf_two(), reserved="EDF+D"), {}, ["EDF Annotations", "times"]),
]


@pytest.mark.parametrize(("data", "wishes", "words"), [row[1:] for row in _REFUSED], ids=[row[0] for row in _REFUSED])
def test_broken_edf_is_refused_with_value_and_rule(tmp_path, data, wishes, words):
    with pytest.raises(ReadError) as caught:
        read(_write(tmp_path, data), **wishes)
    for word in words:
        assert word in str(caught.value)


def test_row_58_a_gap_in_a_discontinuous_file_is_masked(tmp_path):
    times = [0.4 * index + (100 if index >= 4 else 0) for index in range(10)]
    path = _write(tmp_path, edf_bytes([*edf_two(), _stamps(times)], reserved="EDF+D"))
    recording = read(path)
    assert recording.signal.shape == (2, 26_000) and recording.mask.sum() == 2000
    np.testing.assert_array_equal(recording.signal[:, :400], (COUNTS[:400].T / 1000).astype(np.float32))
    np.testing.assert_array_equal(recording.signal[:, 25_400:], (COUNTS[400:].T / 1000).astype(np.float32))
    assert any(entry.field == "gaps" and "100 s" in entry.text for entry in recording.log)
    back = [*times[:5], 0.5, *times[6:]]
    with pytest.raises(ReadError, match="time of data record 6"):
        read(_write(tmp_path, edf_bytes([*edf_two(), _stamps(back)], reserved="EDF+D")))


def test_row_61_a_cut_last_record_is_masked(tmp_path):
    recording = read(_write(tmp_path, edf_bytes(edf_two())[:-100]))
    assert recording.signal.shape == (2, 1000) and recording.mask[:, :900].all() and not recording.mask[:, 900:].any()
    assert ("repaired", "length") in {(entry.kind, entry.field) for entry in recording.log}


def test_row_109_an_unfinished_file_is_read_by_its_size(tmp_path):
    recording = read(_write(tmp_path, edf_bytes(edf_two(), records="-1")))
    assert recording.signal.shape == (2, 1000) and ("repaired", "length") in {(e.kind, e.field) for e in recording.log}


def test_row_110_odd_text_and_dates_are_read_and_logged(tmp_path):
    channels = [_channel("ECG Größe", COUNTS[:, 0]), _channel("V1", COUNTS[:, 1])]
    recording = read(_write(tmp_path, edf_bytes(channels, date="31.02.20")))
    assert recording.leads == ("ECG Größe", "V1") and recording.start is None
    assert {("guessed", "header"), ("dropped", "start")} <= {(e.kind, e.field) for e in recording.log}


def test_row_108_a_given_unit_reads_it(tmp_path):
    recording = read(_write(tmp_path, edf_bytes(edf_two(dimension=""))), unit="uV")
    np.testing.assert_array_equal(recording.signal, (COUNTS.T / 1000).astype(np.float32))


def test_the_sex_is_kept_of_edf_plus_only(tmp_path):
    assert (
        read(_write(tmp_path, edf_bytes([*edf_two(), _stamps([0.4 * i for i in range(10)])], reserved="EDF+C"))).meta[
            "sex"
        ]
        == "F"
    )
    assert "sex" not in read(_write(tmp_path, edf_bytes(edf_two()))).meta
