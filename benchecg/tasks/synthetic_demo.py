"""demo-synthetic: the rhythm of simulated ECGs. It shows how the benchmark works without any data; it says nothing of patients."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from benchecg.tasks.base import Dataset, Record, Task, TaskData, hash_fraction
from xecg.errors import ReadError

__all__ = ["TASK", "write_archive"]

_DATASET = Dataset(
    name="synthetic archive (xecg.signal.simulate)",
    version="1",
    folder="demo-synthetic",
    licence="made on your machine",
    size="made by `benchecg prepare demo-synthetic`, about 20 MB",
    url="`benchecg prepare demo-synthetic --data DIR`",
    access="no download",
)
_CLASSES = ("sinus", "brady", "tachy", "af")
_TABLE = "labels.csv"
_PATIENTS, _SEED = 120, 1
_TEST, _VAL = 0.40, 0.55  # much to test: the demonstration has few records


def write_archive(root: Path) -> Path:
    """Simulate the archive into its folder under `root`; returns the folder."""
    from xecg.signal import simulate

    folder = root / _DATASET.folder
    simulate.archive(folder, patients=_PATIENTS, seed=_SEED)
    return folder


def _split_of(patient: str) -> str:
    fraction = hash_fraction("demo-synthetic", patient)
    return "test" if fraction < _TEST else "val" if fraction < _VAL else "train"


def _load(root: Path) -> TaskData:
    folder = _DATASET.find(root, _TABLE)
    with (folder / _TABLE).open(newline="") as handle:
        rows = sorted(csv.DictReader(handle), key=lambda r: r["record"])
    for row in rows:
        if row["rhythm"] not in _CLASSES:
            hint = "Make the archive again with `benchecg prepare demo-synthetic`."
            raise ReadError(str(folder / _TABLE), "rhythm", row["rhythm"], f"needed one of {', '.join(_CLASSES)}", hint)
    records = tuple(
        Record(r["record"], r["patient"], _split_of(r["patient"]), folder / f"{r['record']}.hea") for r in rows
    )
    return TaskData(
        records=records,
        record=np.arange(len(records)),
        time_s=np.full(len(records), np.nan),
        label=np.array([_CLASSES.index(r["rhythm"]) for r in rows]),
        complete=True,
        files=(folder / _TABLE, *(f for r in records for f in (r.path, r.path.with_suffix(".dat")))),
    )


TASK = Task(
    id="demo-synthetic",
    version="1",
    title="DEMO on SYNTHETIC recordings: rhythm",
    dataset=_DATASET,
    kind="multiclass",
    classes=_CLASSES,
    metric="macro_f1",
    load=_load,
    unit="10 s synthetic recording",
    leads="12",
    rate_hz=500.0,
    split_rule="blake2b of the synthetic patient as a fraction: below 0.40 tests, below 0.55 validates, the rest trains",
    label_rule="the rhythm that the simulator was asked for",
    synthetic=True,
)
