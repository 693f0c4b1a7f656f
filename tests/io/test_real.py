"""Open archives, where they are at hand: every sample and mark equal to `wfdb`'s."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest

from xecg.errors import ReadError
from xecg.io import annotations, find_records, read
from xecg.signal.leads import canonical_leads

if not os.environ.get("ECG_DATA"):
    pytest.skip("ECG_DATA is not set", allow_module_level=True)

DATA = Path(os.environ["ECG_DATA"])
wfdb = pytest.importorskip("wfdb", reason="wfdb is the oracle here")

# Records in each set, all of which are read.
_WHOLE = {"mitdb": 48, "challenge-2021": 192, "challenge-2025": 283, "cpsc2021": 9, "ptb-xl": 10}
# Samples of the WFDB project that cannot be read, and what the refusal names.
_REFUSED = {
    "100-no-len": r"100\.dat",
    "100skew": r"100\.dat",
    "binformats": r"binformats\.d0",
    "drive02": r"drive02\.dat",
    "drive02-no-len": r"drive02\.dat",
    "flacformats": r"flacformats\.d0",
    "n16": r"n16\.dat",
    "n8_evoked_raw_95_F1_R9": "gain",
    "p000878-2137-10-26-16-57": r"3269321_0003\.hea",
    "s00001-2896-10-09-01-56n": "no ECG lead",
    "s00001-2896-10-10-00-31": r"3975656_0005\.hea",
    "s00001-2896-10-10-00-31n": "no ECG lead",
    "s25047-2704-05-04-10-44n": "no ECG lead",
    "wave_4": r"wave_4\.dat",
}


def _oracle(path: Path, folder: Path):
    """wfdb's reading; the record name ending in .mat, which it cannot parse, is mended in a copy."""
    header = path.read_text(encoding="latin-1")
    if re.match(r"\S+\.mat ", header):
        (folder / path.name).write_text(header.replace(".mat ", " ", 1))
        (folder / f"{path.stem}.mat").write_bytes(path.with_suffix(".mat").read_bytes())
        path = folder / path.name
    return wfdb.rdrecord(str(path.with_suffix("")), smooth_frames=False)


def _assert_equal(path: Path, folder: Path) -> None:
    ours, theirs = read(path), _oracle(path, folder)
    names = canonical_leads(theirs.sig_name)
    fastest = max(theirs.samps_per_frame[names.index(lead)] for lead in ours.leads)
    for lead, row, mask in zip(ours.leads, ours.signal, ours.mask):
        index = names.index(lead)
        if theirs.samps_per_frame[index] == fastest:
            truth = theirs.e_p_signal[index]
            np.testing.assert_array_equal(mask, ~np.isnan(truth))
            np.testing.assert_array_equal(row[mask], truth[mask].astype(np.float32))


@pytest.mark.parametrize("name", _WHOLE)
def test_every_record_is_read_and_equals_wfdb(name, tmp_path):
    if not (DATA / name).is_dir():
        pytest.skip(f"{name} is not in ECG_DATA")
    paths = find_records(DATA / name)
    assert len(paths) == _WHOLE[name]
    for path in paths:
        _assert_equal(path, tmp_path)


@pytest.mark.parametrize("name", ["mitdb", "cpsc2021"])
def test_every_annotation_equals_wfdb(name):
    if not (DATA / name).is_dir():
        pytest.skip(f"{name} is not in ECG_DATA")
    for path in find_records(DATA / name):
        ours, theirs = annotations(path), wfdb.rdann(str(path.with_suffix("")), "atr")
        assert ours.sample.tolist() == theirs.sample.tolist() and list(ours.symbol) == theirs.symbol
        assert list(ours.aux) == [text.rstrip("\0") for text in theirs.aux_note]


def test_format_samples_are_read_or_refused_by_name(tmp_path):
    if not (DATA / "wfdb-formats").is_dir():
        pytest.skip("wfdb-formats is not in ECG_DATA")
    refused = {}
    for path in find_records(DATA / "wfdb-formats"):
        try:
            _assert_equal(path, tmp_path)
        except ReadError as error:
            refused[path.stem] = str(error)
    assert set(refused) == set(_REFUSED)
    for stem, pattern in _REFUSED.items():
        assert re.search(pattern, refused[stem]), refused[stem]


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("edf/short_psg.edf", "EEG Fpz-Cz, EEG Pz-Oz.*no ECG lead"),
        ("edf/test_edfann.edf", "duration of a data record is 0 s"),
        ("dicom/waveform_ecg.dcm", "format is DICOM"),
    ],
)
def test_other_samples_are_refused_by_name(name, pattern):
    if not (DATA / "formats" / name).is_file():
        pytest.skip(f"formats/{name} is not in ECG_DATA")
    with pytest.raises(ReadError, match=pattern):
        read(DATA / "formats" / name)
