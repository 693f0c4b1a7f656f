"""The MIT-BIH Arrhythmia Database for the tasks that share it: records, de Chazal's split without what leaks, AAMI beats."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchecg.tasks.base import Dataset, Expected, Record, TaskData

__all__ = ["CLASSES", "DATASET", "EXPECTED", "RATE_HZ", "SPLIT_RULE", "SPLIT_SHA256", "load"]

DATASET = Dataset(
    name="MIT-BIH Arrhythmia Database",
    version="1.0.0",
    folder="mitdb",
    licence="ODC-By 1.0 (Moody and Mark 2001; PhysioNet)",
    size="48 records, 104 MB",
    url="https://physionet.org/content/mitdb/1.0.0/",
)
RATE_HZ = 360.0
CLASSES = ("N", "S", "V", "F", "Q")  # AAMI EC57
_SYMBOLS = {"N": "NLRej", "S": "AaJS", "V": "VE", "F": "F", "Q": "/fQ"}
_CLASS_OF = {symbol: i for i, name in enumerate(CLASSES) for symbol in _SYMBOLS[name]}

_VAL = ("114", "203")  # of DS1
_DS1 = (
    "101", "106", "108", "109", "112", "114", "115", "116", "118", "119", "122",
    "124", "201", "203", "205", "207", "208", "209", "215", "220", "223", "230",
)  # fmt: skip
_DS2 = (
    "100", "103", "105", "111", "113", "117", "121", "123", "200", "202", "210",
    "212", "213", "214", "219", "221", "222", "228", "231", "232", "233", "234",
)  # fmt: skip
_SUBJECT = {"202": "201"}  # 201 and 202 are one person: 201 may not teach what 202 tests
_NOTE_201 = "record 201 is counted but not trained on: its subject is also test record 202"
_SOURCE = "de Chazal et al. 2004, IEEE TBME 51(7), table of DS1 and DS2"

SPLIT_RULE = (
    "DS1 trains (114, 203 choose the head's settings, 201 dropped), DS2 tests; 102, 104, 107, 217 (paced) are left out"
)
SPLIT_SHA256 = "e7eec3c6e3ed003b747d467a557feff4d73755a6f420b853688b831a998e0c20"
EXPECTED = (
    Expected("DS1", ("train", "val", "dropped"), {"N": 45866, "S": 944, "V": 3788, "F": 415, "Q": 8}, _SOURCE),
    Expected("DS2", ("test",), {"N": 44259, "S": 1837, "V": 3221, "F": 388, "Q": 7}, _SOURCE),
)


def _split_of(record: str) -> str:
    if record == "201":
        return "dropped"
    if record in _DS2:
        return "test"
    return "val" if record in _VAL else "train"


def load(root: Path, *, keep_201: bool = False) -> TaskData:
    """Every annotated beat of the 44 records that are not paced, with its class of `CLASSES`. keep_201: it trains, as in DS1."""
    from xecg.io import annotations

    names = sorted(_DS1 + _DS2)
    folder = DATASET.find(root, *(f"{name}.{end}" for name in names for end in ("hea", "dat", "atr")))
    records, record, time_s, label = [], [], [], []
    for i, name in enumerate(names):
        path = folder / f"{name}.hea"
        split = "train" if keep_201 and name == "201" else _split_of(name)
        records.append(Record(name, _SUBJECT.get(name, name), split, path))
        marks = annotations(path)
        beats = [
            (s, _CLASS_OF[symbol]) for s, symbol in zip(marks.sample.tolist(), marks.symbol) if symbol in _CLASS_OF
        ]
        record += [i] * len(beats)
        time_s += [s / RATE_HZ for s, _ in beats]
        label += [c for _, c in beats]
    return TaskData(
        records=tuple(records),
        record=np.array(record),
        time_s=np.array(time_s),
        label=np.array(label),
        complete=True,
        files=tuple(folder / f"{name}.{end}" for name in names for end in ("hea", "dat", "atr")),
        notes=() if keep_201 else (_NOTE_201,),
    )
