"""Every way a WFDB record can be wrong or odd: refused with value and rule, or read right with a log entry.

The ids are row numbers of the table of cases in the documentation of the reader; `b`, `c`, … are its variants.
"""

from __future__ import annotations

import os
import re
import stat

import numpy as np
import pytest

from xecg.errors import ReadError
from xecg.io import read


def _swap(data: bytes, position: int, value: int) -> bytes:
    return data[:position] + bytes([value]) + data[position + 1 :]


# --- refused: (row, header of b, data of b, words that the message must hold) ---
_HEADERS_REFUSED = [
    (
        "7-strict",
        lambda b: b.header(first=b.line(0, gain="0/mV")),
        {"strict": True},
        ["gain of I", "0", "uncalibrated"],
    ),
    ("8", lambda b: b.header(first=b.line(0, gain="-1000/mV")), {}, ["-1000", "polarity"]),
    ("9", lambda b: b.header(first=b.line(0, gain="nan/mV")), {}, ["nan/mV", "number[(baseline)][/unit]"]),
    ("10", lambda b: b.header(first=b.line(0, gain="1e-30/mV")), {}, ["1e-30", "0.001..1e+07"]),
    ("10b", lambda b: b.header(first=b.line(0, gain="1e308/mV")), {}, ["1e+308", "0.001..1e+07"]),
    ("12-MV", lambda b: b.header(first=b.line(0, gain="1000/MV")), {}, ["MV", "megavolt"]),
    (
        "12-all-others",
        lambda b: b.header(first=b.line(0, gain="1000/mmHg"), second=b.line(1, gain="1/NU")),
        {},
        ["I, V1", "no ECG lead"],
    ),
    ("13", lambda b: b.header(record="r 2 0 1000"), {}, ["0 Hz", "positive"]),
    ("13b", lambda b: b.header(record="r 2 1e-9 1000"), {}, ["1e-09 Hz", "25..20,000"]),
    ("14", lambda b: b.header(record="r 2 -500 1000"), {}, ["-500 Hz", "positive"]),
    ("14b", lambda b: b.header(record="r 2 nan 1000"), {}, ["nan", "positive number of Hz"]),
    ("15", lambda b: b.header(record="r 2 1e9 1000"), {}, ["1e+09 Hz", "25..20,000"]),
    ("16", lambda b: b.header(record="r 2"), {}, ["sampling rate is absent", "rate="]),
    ("16b", lambda b: b.header(record="r 2 100,0 1000"), {}, ["100,0", "number"]),
    ("18", lambda b: b.header(record="r 2 500 0"), {}, ["number of samples is 0", "empty"]),
    ("19", lambda b: b.header(record="r 2 500 -5"), {}, ["-5", "whole number"]),
    ("19b", lambda b: b.header(record="r 2 500 1000.5"), {}, ["1000.5", "whole number"]),
    ("20", lambda b: b.header(record="r 2 500 1000000000000"), {}, ["4,000 bytes", "4,000,000,000,000"]),
    ("20b", lambda b: b.header(record="r 1000000000 500 1000"), {}, ["1000000000", "2 lines"]),
    ("20c", lambda b: b.header(first=b.line(0, fmt="16x1000000000")), {}, ["4,000 bytes", "2,000,000,002,000"]),
    ("20d", lambda b: b.header(first=b.line(0, fmt="16:1000000000")), {}, ["1000000000", "1,000 samples"]),
    ("21", lambda b: b.header(record="r 3 500 1000"), {}, ["number of signals is 3", "2 lines"]),
    ("22", lambda b: b.header(record="r 1 500 1000"), {}, ["number of signals is 1", "2 lines"]),
    ("23", lambda b: "r 0 500 1000\n", {}, ["number of signals is 0", "no signal"]),
    (
        "24",
        lambda b: b.header(first=b.line(0, fmt="17"), second=b.line(1, fmt="17")),
        {},
        ["17", "8, 16, 24, 32, 61, 80"],
    ),
    ("25", lambda b: b.header(first=b.line(0, fmt="212"), second=b.line(1, fmt="212")), {}, ["checksum"]),
    ("25b", lambda b: b.header(first=b.line(0, fmt="61"), second=b.line(1, fmt="61")), {}, ["checksum"]),
    ("25c", lambda b: b.header(first=b.line(0, fmt="160"), second=b.line(1, fmt="160")), {}, ["initial value", "160"]),
    ("25d", lambda b: b.header(first=b.line(0, fmt="80"), second=b.line(1, fmt="80")), {}, ["checksum"]),
    ("26", lambda b: b.header(second=b.line(1, fmt="80")), {}, ["[16, 80]", "one for all signals"]),
    ("27", lambda b: b.header(second=b.line(1, "I")), {}, ["'I' twice", "each lead once", "leads="]),
    ("29", lambda b: b.header().replace("r.dat", "/dev/zero"), {}, ["/dev/zero", "leaves the record's folder"]),
    ("29b", lambda b: b.header().replace("r.dat", "../r.dat"), {}, ["../r.dat", "leaves the record's folder"]),
    ("29e", lambda b: b.header().replace("r.dat", "http://x/r.dat"), {}, ["http://x/r.dat", "local"]),
    (
        "31",
        lambda b: b.header(first=b.line(0, fmt="16+4000"), second=b.line(1, fmt="16+4000")),
        {},
        ["4000", "4,000 bytes"],
    ),
    ("31b", lambda b: b.header(first=b.line(0, fmt="16+-24")), {}, ["16+-24", "format[xframe][:skew][+offset]"]),
    ("32-all", lambda b: b.header(first=b.line(0, fmt="16:1000")), {}, ["1000", "1,000 samples"]),
    ("33", lambda b: b.header(first=b.line(0, fmt="16x0")), {}, ["samples per frame", "is 0", "1 or more"]),
    ("33b", lambda b: b.header(first=b.line(0, fmt="16x2")), {}, ["4,000 bytes", "6,000"]),
    ("34", lambda b: b.header(first=b.line(0, gain="1000(1000000000)/mV")), {}, ["1,000,000,000", "format 16"]),
    ("35", lambda b: "", {}, ["0 bytes", "record line"]),
    ("35b", lambda b: "# only a comment\n", {}, ["record line"]),
    ("36", lambda b: bytes(range(256)) * 4, {}, ["needed"]),
    ("37", lambda b: "r/1 2 500 1000\nr 1000\n", {}, ["'r'", "names itself"]),
    ("103", lambda b: b.header(first=b.line(0, gain="1000(0)/\0mV")), {}, ["gain", "number[(baseline)][/unit]"]),
    ("103b", lambda b: b.header(first=b.line(0, gain="200,5(0)/mV")), {}, ["200,5", "point"]),
    ("103c", lambda b: b.header().replace(f" {b.sums[1]} 0 V1", ""), {}, ["checksum", "absent", "other signals"]),
    ("rate-conflict", lambda b: b.header(), {"rate": 360.0}, ["500 Hz", "360 Hz"]),
]


@pytest.mark.parametrize(
    ("header", "wishes", "words"), [row[1:] for row in _HEADERS_REFUSED], ids=[r[0] for r in _HEADERS_REFUSED]
)
def test_broken_header_is_refused_with_value_and_rule(broken, header, wishes, words):
    path = broken.write(header(broken))
    with pytest.raises(ReadError) as caught:
        read(path, **wishes)
    assert caught.value.file == path.as_posix() and caught.value.field and caught.value.found and caught.value.rule
    for word in words:
        assert word in str(caught.value)


_DATA_REFUSED = [
    ("1", lambda d: d[:3600], ["3,600 bytes", "4,000"]),
    ("3", lambda d: b"", ["0 bytes", "empty"]),
    ("4", lambda d: d + b"x", ["4,001 bytes", "words of 2"]),
    ("4b", lambda d: d[:-1], ["3,999 bytes", "4,000"]),
    ("104", lambda d: _swap(d, 2001, d[2001] ^ 0x40), ["checksum", "header says"]),
]


@pytest.mark.parametrize(("change", "words"), [row[1:] for row in _DATA_REFUSED], ids=[row[0] for row in _DATA_REFUSED])
def test_broken_data_is_refused_with_value_and_rule(broken, change, words):
    path = broken.write(data=change(broken.data))
    with pytest.raises(ReadError) as caught:
        read(path)
    for word in words:
        assert word in str(caught.value)


# --- read: (row, header, wishes, (kind, field) of the log entry that must be there or None) ---
_READ = [
    ("plain", lambda b: b.header(), {}, None),
    ("5-65535", lambda b: b.header().replace(f" {b.sums[0]} 0 I\n", f" {b.sums[0] & 0xFFFF} 0 I\n"), {}, None),
    ("6", lambda b: b.header(first=b.line(0).replace(f" {b.counts[0, 0]} ", " 77 ")), {}, ("noted", "initial value")),
    ("6-unset", lambda b: b.header(first=b.line(0).replace(f" {b.counts[0, 0]} ", " 0 ")), {}, None),
    ("12-absent", lambda b: b.header(first=b.line(0, gain="1000(0)")), {}, ("guessed", "unit")),
    ("12-mv", lambda b: b.header(first=b.line(0, gain="1000(0)/mv")), {}, ("converted", "unit")),
    ("11-uV", lambda b: b.header(first=b.line(0, gain="1(0)/uV")), {}, ("converted", "unit")),
    ("16-given", lambda b: b.header(record="r 2"), {"rate": 500.0}, ("noted", "rate")),
    ("17", lambda b: b.header(record="r 2 500"), {}, ("repaired", "length")),
    ("30", lambda b: b.header(record="other 2 500 1000"), {}, ("repaired", "record name")),
    ("30b", lambda b: b.header(record="r.mat 2 500 1000"), {}, ("repaired", "record name")),
    ("40", lambda b: b.header().replace("\n", "\r\n"), {}, None),
    ("40b", lambda b: b.header().replace("\n", "\r"), {}, None),
    ("41", lambda b: (b.header() + "# Größe\n").encode("latin-1"), {}, ("guessed", "header")),
    (
        "42",
        lambda b: "\ufeff\n  " + b.header().replace(" ", "\t ").replace("\n", "\n\n \t"),
        {},
        ("repaired", "header"),
    ),
    ("101", lambda b: b.header(record="r 2 500 1000 05-May-2020 14:50:55"), {}, ("repaired", "start")),
    ("102", lambda b: b.header(record="r 2 500 1000 10:00:00 31/02/2020"), {}, ("dropped", "start")),
    ("102b", lambda b: b.header(record="r 2 500 1000 2020"), {}, ("dropped", "start")),
    ("104b", lambda b: b.header(first=b.line(0).replace(" 16 0 ", " 200 0 ")), {}, ("noted", "ADC resolution")),
    ("27-mapped", lambda b: b.header(second=b.line(1, "I")), {"leads": ["I", "V1"]}, ("noted", "leads")),
    ("8-allowed", lambda b: b.header(first=b.line(0, gain="-1000(0)/mV")), {"allow_negative_gain": True}, None),
]


@pytest.mark.parametrize(("header", "wishes", "entry"), [row[1:] for row in _READ], ids=[row[0] for row in _READ])
def test_odd_header_is_read_exactly_and_logged(broken, header, wishes, entry):
    recording = read(broken.write(header(broken)), **wishes)
    sign = np.array([[-1 if "allow_negative_gain" in wishes else 1], [1]])
    np.testing.assert_array_equal(recording.signal, (sign * broken.counts.T / 1000).astype(np.float32))
    assert recording.mask.all() and recording.rate == 500 and recording.leads == ("I", "V1")
    found = {(item.kind, item.field) for item in recording.log}
    assert (entry in found) if entry else not found, recording.log


def test_row_2_surplus_bytes_are_ignored_and_logged(broken):
    recording = read(broken.write(data=broken.data + b"\1\2\3\4"))
    np.testing.assert_array_equal(recording.signal, (broken.counts.T / 1000).astype(np.float32))
    assert [entry.text for entry in recording.log] == ["4 bytes after the last frame of r.dat ignored"]


def test_row_1_partial_keeps_what_is_there_and_masks_the_rest(broken):
    recording = read(broken.write(data=broken.data[:3601]), partial=True)
    assert recording.signal.shape == (2, 1000)
    assert recording.mask[:, :900].all() and not recording.mask[:, 900:].any()
    np.testing.assert_array_equal(recording.signal[:, :900], (broken.counts[:900].T / 1000).astype(np.float32))
    assert {(e.kind, e.field) for e in recording.log} == {("repaired", "length"), ("noted", "checksum")}


def test_row_5_wrong_checksum_is_refused_and_ignored_only_when_asked(broken):
    header = broken.header().replace(f" {broken.sums[0]} 0 I\n", f" {broken.sums[0] ^ 1} 0 I\n")
    with pytest.raises(ReadError, match=re.escape(f"{broken.sums[0] & 0xFFFF}; the header says")):
        read(broken.write(header))
    recording = read(broken.write(header), ignore_checksum=True)
    assert ("noted", "checksum") in {(e.kind, e.field) for e in recording.log}


def test_row_6_wrong_initial_value_without_a_checksum_is_refused(broken):
    lines = [f"r.dat 16 1000(0)/mV 16 0 {value}" for value in (broken.counts[0, 0] + 1, broken.counts[0, 1])]
    with pytest.raises(ReadError, match="initial value") as caught:
        read(broken.write(broken.header(first=lines[0], second=lines[1])))
    assert caught.value.found == str(broken.counts[0, 0] + 1)


def test_row_7_gain_zero_means_200_and_uncalibrated(broken):
    recording = read(broken.write(broken.header(first=broken.line(0, gain="0/mV"))))
    np.testing.assert_array_equal(recording.signal[0], (broken.counts[:, 0] / 200).astype(np.float32))
    assert recording.meta["calibrated"] is False
    assert ("guessed", "gain") in {(e.kind, e.field) for e in recording.log}


def test_row_11_microvolts_read_as_millivolts_are_told_by_their_size(broken):
    factor = 7  # a range of some 7 mV per 1,000 counts: within 50 mV after × 5
    counts = (broken.counts.astype(np.int32) * factor).clip(-32767, 32767).astype(np.int16)
    noted = type(broken)(broken.folder, counts)
    header = noted.header(first=noted.line(0, gain="200(0)/mV"), second=noted.line(1, gain="200(0)/mV"))
    recording = read(noted.write(header))
    assert any(e.field == "amplitude" and "µV read as mV" in e.text for e in recording.log)
    with pytest.raises(ReadError, match="amplitude"):
        read(noted.write(header), strict=True)
    far = broken.header(first=broken.line(0, gain="1(0)/mV"), second=broken.line(1, gain="1(0)/mV"))
    with pytest.raises(ReadError, match=r"amplitude is .* mV; .*0\.01\.\.50") as caught:
        read(broken.write(far))
    assert 500 < float(caught.value.found.split()[0]) < 1500
    assert read(broken.write(far), unit="uV").signal.max() < 2


def test_row_12_other_signals_are_skipped_by_name(broken):
    recording = read(broken.write(broken.header(second=broken.line(1, "ABP", gain="10(0)/mmHg"))))
    assert recording.leads == ("I",) and recording.signal.shape == (1, 1000)
    assert any(e.kind == "dropped" and "'ABP'" in e.text and "mmHg" in e.text for e in recording.log)


def test_row_28_a_lead_without_a_name_is_numbered(broken):
    recording = read(broken.write(broken.header(second=broken.line(1, ""))))
    assert recording.leads == ("I", "unknown-2")
    assert ("repaired", "lead name") in {(e.kind, e.field) for e in recording.log}


def test_row_29d_a_link_that_leaves_the_folder_is_refused(broken, tmp_path_factory):
    path = broken.write()
    outside = tmp_path_factory.mktemp("outside") / "secret.dat"
    outside.write_bytes(broken.data)
    (broken.folder / "r.dat").unlink()
    (broken.folder / "r.dat").symlink_to(outside)
    with pytest.raises(ReadError, match=r"'r\.dat'; it leaves the record's folder"):
        read(path)
    (broken.folder / "r.dat").unlink()
    (broken.folder / "real.dat").write_bytes(broken.data)
    (broken.folder / "r.dat").symlink_to("real.dat")
    assert read(path).signal.shape == (2, 1000)


def test_row_31c_a_mat_header_of_24_bytes_must_be_announced(broken):
    (broken.folder / "r.mat").write_bytes(b"\0" * 24 + broken.data)
    announced = broken.header(first=broken.line(0, fmt="16+24"), second=broken.line(1, fmt="16+24")).replace(
        "r.dat", "r.mat"
    )
    np.testing.assert_array_equal(read(broken.write(announced)).signal, (broken.counts.T / 1000).astype(np.float32))
    with pytest.raises(ReadError, match=r"16\+24"):
        read(broken.write(broken.header().replace("r.dat", "r.mat")))
    with pytest.raises(ReadError, match="checksum"):
        read(broken.write(data=b"\0" * 24 + broken.data))


def test_row_32_skew_moves_the_lead_and_masks_its_end(broken):
    recording = read(broken.write(broken.header(first=broken.line(0, fmt="16:500"))))
    np.testing.assert_array_equal(recording.signal[0, :500], (broken.counts[500:, 0] / 1000).astype(np.float32))
    assert not recording.mask[0, 500:].any() and recording.mask[1].all() and not recording.signal[0, 500:].any()
    assert ("repaired", "skew") in {(e.kind, e.field) for e in recording.log}


def test_row_34b_without_a_baseline_the_adc_zero_counts(broken):
    lines = [broken.line(lead, gain="1000/mV", zero=100) for lead in (0, 1)]
    recording = read(broken.write(broken.header(first=lines[0], second=lines[1])))
    np.testing.assert_array_equal(recording.signal, ((broken.counts.T - 100) / 1000).astype(np.float32))
    assert ("guessed", "baseline") in {(e.kind, e.field) for e in recording.log}


def test_row_38_invalid_samples_are_masked(broken):
    broken.counts[10:20, 0] = -32768
    recording = read(broken.write())
    assert not recording.mask[0, 10:20].any() and recording.mask.sum() == 1990 and not recording.signal[0, 10:20].any()
    broken.counts[:] = -32768
    assert not read(broken.write()).mask.any()


def test_row_39_of_the_comments_only_age_sex_and_codes_are_kept(broken):
    secret = ["ZZDOE^JANE", "1931-02-03", "Dr. Who", "P-4711"]
    comments = f"# Age: 97\n# Sex: Female\n#Dx: 426783006,59118001\n# Name: {secret[0]} born {secret[1]}\n"
    comments += f"# {secret[2]}\n# Patient ID: {secret[3]}\n"
    recording = read(broken.write(broken.header() + comments))
    assert recording.meta["age"] == 90 and recording.meta["sex"] == "F"
    assert recording.meta["dx"] == ("426783006", "59118001")
    assert set(recording.meta) == {"age", "sex", "dx", "exam_group", "calibrated"}
    for word in secret:
        assert word not in repr(recording)
    same = read(broken.write(broken.header() + "# Patient ID: P-4711\n"))
    other = read(broken.write(broken.header() + "# Patient ID: P-4712\n"))
    assert same.meta["exam_group"] == recording.meta["exam_group"] != other.meta["exam_group"]


def test_row_41b_a_latin_1_lead_name_is_kept_whole(broken):
    recording = read(broken.write(broken.header(second=broken.line(1, "Ablö")).encode("latin-1")))
    assert recording.leads == ("I", "Ablö") and ("guessed", "header") in {(e.kind, e.field) for e in recording.log}


def test_row_43_leads_of_several_rates_are_brought_to_the_highest(broken):
    slow = np.rint(1000 * np.sin(2 * np.pi * 3 * np.arange(1000) / 500) + 11).astype(np.int16)
    fast = np.rint(800 * np.sin(2 * np.pi * 5 * np.arange(2000) / 1000) + 7).astype(np.int16)
    frames = np.column_stack([slow, fast.reshape(1000, 2)])
    sums = [int(x.astype(np.int64).sum().astype(np.int16)) for x in (slow, fast)]
    header = f"r 2 500 1000\nr.dat 16 1000/mV 16 0 {slow[0]} {sums[0]} 0 I\nr.dat 16x2 1000/mV 16 0 {fast[0]} {sums[1]} 0 II\n"
    recording = read(broken.write(header, frames.astype("<i2").tobytes()))
    assert recording.rate == 1000 and recording.signal.shape == (2, 2000)
    np.testing.assert_array_equal(recording.signal[1], (fast / 1000).astype(np.float32))
    truth = np.sin(2 * np.pi * 3 * np.arange(2000) / 1000) + 0.011
    assert np.abs(recording.signal[0, 50:-50] - truth[50:-50]).max() < 5e-3  # mV; rounding to counts is 5e-4
    assert any(e.field == "rate" and "from 500 to 1000 Hz" in e.text for e in recording.log)


def test_row_49_a_missing_data_file_is_named(broken):
    path = broken.write()
    (broken.folder / "r.dat").unlink()
    with pytest.raises(ReadError, match=r"'r\.dat'.*No such file"):
        read(path)
    (broken.folder / "r.dat").mkdir()
    with pytest.raises(ReadError, match=r"'r\.dat'.*a folder"):
        read(path)


def test_row_51_differences_read_from_16_bit_data_are_refused(broken):
    with pytest.raises(ReadError, match="checksum"):
        read(broken.write(broken.header(first=broken.line(0, fmt="8"), second=broken.line(1, fmt="8"))))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads any file")
def test_row_52_an_unreadable_file_is_refused(broken):
    path = broken.write()
    (broken.folder / "r.dat").chmod(0)
    with pytest.raises(ReadError, match=r"'r\.dat'"):
        read(path)


def test_row_52_flac_with_other_content_is_refused(broken):
    header = broken.header(first=broken.line(0, fmt="516"), second=broken.line(1, fmt="516"))
    with pytest.raises(ReadError, match="FLAC"):
        read(broken.write(header))


@pytest.mark.parametrize("name", ["r.dat", "r.hea"])
def test_row_53_a_fifo_is_refused_and_never_waited_for(broken, name):
    path = broken.write()
    (broken.folder / name).unlink()
    os.mkfifo(broken.folder / name)
    assert stat.S_ISFIFO(os.stat(broken.folder / name).st_mode)
    with pytest.raises(ReadError, match="not a regular file"):
        read(path)


def test_window_reads_only_that_part_and_says_that_the_checksum_was_not_checked(broken):
    data = _swap(broken.data, 3999, broken.data[3999] ^ 1)  # damage outside the window
    recording = read(broken.write(data=data), start=0.5, end=1.0)
    np.testing.assert_array_equal(recording.signal, (broken.counts[250:500].T / 1000).astype(np.float32))
    assert recording.start == 0.5 and ("noted", "checksum") in {(e.kind, e.field) for e in recording.log}
    with pytest.raises(ReadError, match=r"window is 2\.\.3 s; the record holds 2 s"):
        read(broken.write(), start=2, end=3)


def test_wishes_are_checked_before_a_file_is_opened(broken):
    for wishes in ({"rate": 5.0}, {"unit": "MV"}, {"start": -1.0}, {"start": 2.0, "end": 1.0}):
        with pytest.raises(ReadError, match="needed"):
            read(broken.folder / "none.hea", **wishes)
    with pytest.raises(TypeError, match="patial"):
        read(broken.folder / "none.hea", patial=True)


def test_decoded_size_is_limited(broken):
    with pytest.raises(ReadError, match="10,000 bytes; at most 9,999"):
        read(broken.write(), max_decoded=9_999)


def test_row_104_a_spike_that_no_ecg_has_is_refused_where_no_checksum_speaks(broken):
    counts = (broken.counts // 100).astype(np.int16)
    counts[500, 1] = 20_000  # 20,000 mV at 1 per mV; the 1–99 % range is that of an ECG
    lines = ["r.dat 16 1(0)/mV 16 0 0", "r.dat 16 1(0)/mV 16 0 0"]
    small = type(broken)(broken.folder, counts)
    with pytest.raises(ReadError, match=r"amplitude of 'unknown-2' is 2e\+04 mV; at most 10000"):
        read(small.write(small.header(first=lines[0], second=lines[1])))
    counts[500, 1] = 9_000
    assert read(small.write(small.header(first=lines[0], second=lines[1]))).signal.max() == 9_000
