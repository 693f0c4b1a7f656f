"""Small data sets in the layout of the original releases, made of simulated signals; and runs on them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from bench_data import MeanAdapter, write_record

from benchecg.tasks._mitdb import _DS1, _DS2

MITBIH_LINES = {"N": "N", "S": "A", "V": "V", "F": "F", "Q": "Q"}


def _noise(rng: np.random.Generator, leads: int, n: int, size_mv: float = 0.3) -> np.ndarray:
    return rng.normal(0, size_mv, (leads, n)).astype(np.float32)


@pytest.fixture(scope="session")
def small_mitdb(tmp_path_factory) -> Path:
    """All 44 records of DS1 and DS2 with 10 s each, nine beats and one mark that is not a beat."""
    root = tmp_path_factory.mktemp("mit")
    rng = np.random.default_rng(0)
    for name in (*_DS1, *_DS2):
        leads = ["V5", "MLII"] if name == "114" else ["MLII", "V1"]
        symbols = ["+", *rng.choice(list(MITBIH_LINES.values()), 9, p=(0.6, 0.1, 0.2, 0.05, 0.05))]
        at = [5, *(300 + 340 * np.arange(9))]
        write_record(root / "mitdb", name, _noise(rng, 2, 3600), rate=360, leads=leads, marks=(at, symbols))
    return root


@pytest.fixture(scope="session")
def small_code15(tmp_path_factory) -> Path:
    """200 exams of 160 patients as the Challenge 2025 headers give them; amplitude grows with age, offset tells the sex."""
    root = tmp_path_factory.mktemp("code15")
    rng = np.random.default_rng(1)
    names = ["I", "II", "III", "AVR", "AVL", "AVF", "V1", "V2", "V3", "V4", "V5", "V6"]
    for i in range(200):
        patient = 5000 + i % 160
        age, male = 20 + (patient * 7) % 65, patient % 2
        signal = _noise(rng, 12, 1600, 0.1 + age / 100) + 0.5 * male
        comments = [f"Exam ID: {i}", f"Patient ID: {patient}", f"Age: {age}", f"Sex: {'Male' if male else 'Female'}"]
        write_record(root / "challenge-2025", str(1000 + i), signal, rate=400, leads=names, comments=comments)
    return root


@pytest.fixture(scope="session")
def small_ptbxl(tmp_path_factory) -> Path:
    """24 records, 12 patients: a zero likelihood, a form-only statement, a record without a superclass, AVR-style leads."""
    root = tmp_path_factory.mktemp("ptbxl")
    folder = root / "ptb-xl"
    rng = np.random.default_rng(2)
    names = ["I", "II", "III", "AVR", "AVL", "AVF", "V1", "V2", "V3", "V4", "V5", "V6"]
    codes = {
        1: {"NORM": 0.0, "SR": 0.0},
        2: {"LVOLT": 100.0, "SR": 0.0},
        3: {"IMI": 50.0, "CLBBB": 100.0},
        4: {"NDT": 100.0},
    }
    lines = ["ecg_id,patient_id,age,sex,scp_codes,strat_fold,filename_lr,filename_hr"]
    for i in range(1, 25):
        high, low = f"records500/00000/{i:05d}_hr", f"records100/00000/{i:05d}_lr"
        patient = (i - 1) // 2
        lines.append(f'{i},{patient}.0,60.0,1,"{codes.get(i, {"NORM": 100.0})}",{patient % 10 + 1},{low},{high}')
        write_record(folder / "records500" / "00000", f"{i:05d}_hr", _noise(rng, 12, 1000), rate=500, leads=names)
    (folder / "ptbxl_database.csv").write_text("\n".join(lines) + "\n")
    statements = [
        ",diagnostic,form,rhythm,diagnostic_class,diagnostic_subclass",
        "NORM,1.0,,,NORM,NORM",
        "IMI,1.0,,,MI,IMI",
        "CLBBB,1.0,,,CD,CLBBB",
        "NDT,1.0,1.0,,STTC,STTC",
        "LVOLT,,1.0,,,",
        "SR,,,1.0,,",
    ]
    (folder / "scp_statements.csv").write_text("\n".join(statements) + "\n")
    return root


@pytest.fixture
def mean_adapter() -> MeanAdapter:
    return MeanAdapter()


@pytest.fixture
def real_data() -> Path:
    """The folder with the real data sets; the test is skipped without it."""
    value = os.environ.get("ECG_DATA")
    if not value:
        pytest.skip("ECG_DATA is not set: the real recordings are not part of the project")
    return Path(value)
