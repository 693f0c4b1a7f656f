"""The audit finds copies however they were changed, and says nothing of recordings that are not copies."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bench_data import write_record
from click.testing import CliRunner
from scipy.signal import resample_poly

from benchecg.auditing import audit
from benchecg.cli import main
from xecg.signal import simulate


@pytest.fixture(scope="module")
def original():
    return simulate.ecg(seed=5, rate_hz=500, duration_s=30, rhythm="sinus", ectopy=0.1, noise=0.5)


def _write(folder, name, recording, comments=()):
    write_record(folder, name, recording.signal, rate=recording.rate, leads=list(recording.leads), comments=comments)


def _changed(recording, signal, rate=None, leads=None):
    signal = np.ascontiguousarray(signal, np.float32)
    return replace(
        recording,
        signal=signal,
        mask=np.ones(signal.shape, bool),
        rate=rate or recording.rate,
        leads=leads or recording.leads,
    )


def _cut(r, start_s, end_s):
    return _changed(r, r.signal[:, int(start_s * r.rate) : int(end_s * r.rate)])


def _resampled(r, up, down):
    return _changed(r, resample_poly(r.signal, up, down, axis=1), rate=r.rate * up / down)


def _noisy(r, snr_db):
    power = (r.signal**2).mean(1, keepdims=True) / 10 ** (snr_db / 10)
    return _changed(r, r.signal + np.random.default_rng(0).normal(0, 1, r.signal.shape) * np.sqrt(power))


COPIES = {
    "whole": (lambda r: r, "identical", 0.0),
    "cut": (lambda r: _cut(r, 7.3, 17.3), "shared samples", None),
    "gain and offset": (lambda r: _changed(r, 0.37 * r.signal + 0.4), "altered copy", 0.0),
    "upside down": (lambda r: _changed(r, -1.3 * r.signal), "altered copy", 0.0),
    "360 Hz": (lambda r: _resampled(r, 18, 25), "altered copy", 0.0),
    "100 Hz, cut": (lambda r: _cut(_resampled(r, 1, 5), 11, 21), "altered copy", -11.0),
    "noise of 15 dB": (lambda r: _noisy(r, 15), "altered copy", 0.0),
    "one lead, 250 Hz, 6.5 s, gain, noise": (
        lambda r: _noisy(_changed(x := _cut(_resampled(r, 1, 2), 14, 20.5), 2 * x.signal[7:8], leads=("V2",)), 20),
        "altered copy",
        -14.0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", COPIES)
def test_a_changed_copy_is_found(original, tmp_path, how):
    change, kind, offset_s = COPIES[how]
    _write(tmp_path / "a", "x", original)
    _write(tmp_path / "b", "y", change(original))
    (pair,) = audit(tmp_path / "a", tmp_path / "b").pairs
    assert (Path(pair.a).stem, Path(pair.b).stem, pair.kind) == ("x", "y", kind)
    if kind == "altered copy":
        assert pair.offset_s == pytest.approx(offset_s, abs=0.021)
        assert pair.correlation * pair.gain > 0 and abs(pair.correlation) >= 0.95 and pair.matched_s >= 4
    if how == "upside down":
        assert pair.gain == pytest.approx(-1.3, rel=1e-3)


def test_a_copy_cut_out_of_a_long_record_is_found(tmp_path):
    long = simulate.ecg(seed=9, rate_hz=200, duration_s=400, leads=("I", "II"), rhythm="sinus")
    _write(tmp_path / "a", "long", long)
    for start in (20, 190, 310):
        _write(tmp_path / "b", f"cut{start}", _noisy(_resampled(_cut(long, start, start + 10), 5, 4), 25))
    found = audit(tmp_path / "a", tmp_path / "b").pairs
    assert {(Path(p.b).stem, round(p.offset_s)) for p in found} == {(f"cut{s}", -s) for s in (20, 190, 310)}


def test_other_recordings_are_not_accused(tmp_path):
    for seed in range(24):
        rhythm = simulate.RHYTHMS[seed % 4]
        _write(
            tmp_path, f"r{seed:02d}", simulate.ecg(seed=seed, rate_hz=250, rhythm=rhythm, leads=("I", "II", "V1", "V5"))
        )
    found = audit(tmp_path)
    assert found.recordings == 24 and found.pairs == ()


def test_flat_empty_and_broken_files_accuse_nobody(original, tmp_path):
    for name in ("flat", "also-flat"):
        _write(tmp_path, name, _changed(original, original.signal * 0))
    for seed in (1, 2):
        _write(tmp_path, f"short{seed}", _cut(simulate.ecg(seed=seed), 1, 1.2))
    (tmp_path / "broken.hea").write_text("broken 2 500\n")
    found = audit(tmp_path)
    assert found.pairs == () and len(found.refused) == 1 and "broken" in found.refused[0]


def test_one_patient_in_two_folders_is_found_and_not_named(tmp_path):
    for folder, seed, patient in (("a", 1, 777111), ("a", 2, 888222), ("b", 3, 777111), ("b", 4, 999333)):
        comments = [f"Exam ID: {seed}", f"Patient ID: {patient}"]
        _write(tmp_path / folder, f"e{seed}", simulate.ecg(seed=seed, rate_hz=400), comments)
    result = CliRunner().invoke(main, ["audit", str(tmp_path / "a"), str(tmp_path / "b"), "--json"])
    found = json.loads(result.output)
    assert result.exit_code == 0 and found["with_patient"] == 4
    assert [(Path(p["a"]).stem, Path(p["b"]).stem, p["kind"]) for p in found["pairs"]] == [("e1", "e3", "same patient")]
    assert "777111" not in result.output


def test_patients_of_the_ptbxl_table_are_known(small_ptbxl):
    found = audit(small_ptbxl / "ptb-xl")
    pairs = {(Path(p.a).stem, Path(p.b).stem) for p in found.pairs if p.kind == "same patient"}
    assert found.with_patient == 24 and pairs == {(f"{i:05d}_hr", f"{i + 1:05d}_hr") for i in range(1, 24, 2)}


def test_two_folders_are_compared_with_each_other_only(original, tmp_path):
    for folder, name in (("a", "x"), ("a", "x2"), ("b", "y")):
        _write(tmp_path / folder, name, original)
    across = audit(tmp_path / "a", tmp_path / "b").pairs
    assert {(Path(p.a).stem, Path(p.b).stem) for p in across} == {("x", "y"), ("x2", "y")}
    assert len(audit(tmp_path / "a").pairs) == 1 and len(audit(tmp_path).pairs) == 3


def test_the_command_prints_pairs_with_evidence(original, tmp_path):
    _write(tmp_path, "x", original)
    _write(tmp_path, "y", _changed(original, 2 * original.signal))
    result = CliRunner().invoke(main, ["audit", str(tmp_path)])
    assert result.exit_code == 0
    assert "altered copy" in result.output and "over 30 s" in result.output and "gain 2" in result.output
    assert "2 recordings compared, 0 refused" in result.output


def test_known_duplicates_of_the_real_data_are_found(real_data):
    prefix = real_data / "challenge-2021" / "HR", real_data / "ptb-xl" / "records500"
    found = audit(*prefix).pairs
    wanted = {(f"HR{i:05d}", f"{i:05d}_hr") for i in (1, 2, 3, 4, 5, 6, 7, 9, 10)}
    assert {(Path(p.a).stem, Path(p.b).stem) for p in found} == wanted
    samples = audit(real_data / "wfdb-formats").pairs
    names = {frozenset((Path(p.a).stem, Path(p.b).stem)) for p in samples}
    for pair in (("a103l", "a103l-no-len"), ("310derive", "311derive"), ("test01_00s", "test01_00s_skew")):
        assert frozenset(pair) in names
    assert Counter(p.kind for p in samples if "v102s" in p.a) == {"shared samples": 1}


def test_a_piece_of_a_real_long_record_is_found(real_data):
    pairs = audit(real_data / "mitdb" / "100.hea", real_data / "wfdb-formats").pairs
    assert {Path(p.b).stem for p in pairs} >= {"100_3chan"}


@pytest.mark.parametrize(
    ("a", "b"), [("challenge-2021/E/E07505", "challenge-2025/919096"), ("challenge-2025/919744", "mitdb/121")]
)
def test_regular_hearts_that_correlate_by_chance_are_not_accused(real_data, a, b):
    found = audit(real_data / f"{a}.hea", real_data / f"{b}.hea")
    assert found.recordings == 2 and found.pairs == ()
