"""What a task is: facts, a loader, and a split that a hash pins. The kinds of scoring live in `benchecg.metrics`, once.

A loader turns the original release's folder into `TaskData`: records (with patient and split) and units (what is scored: a
beat, an exam) with their labels. It reads no more of the signals than the labels need.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from xecg.errors import DataMissing
from xecg.model.head_spec import questions
from xecg.signal import Recording

__all__ = [
    "MIN_UNITS",
    "SPLITS",
    "Dataset",
    "Expected",
    "Published",
    "Record",
    "Task",
    "TaskData",
    "data_hash",
    "data_root",
    "hash_fraction",
    "label_misfit",
    "split_hash",
]

SPLITS = ("train", "val", "test", "dropped")
MIN_UNITS = 30  # test units (and training units) below which no score is printed


@dataclass(frozen=True)
class Dataset:
    """Where the recordings come from. folder: its name under the data root. size: of the full release, in words."""

    name: str
    version: str
    folder: str
    licence: str
    size: str
    url: str
    access: str = "open"

    def find(self, root: Path, *needed: str) -> Path:
        """The data set's folder under `root`. Raises DataMissing when it, or one of the `needed` files in it, is not there."""
        folder = root / self.folder
        absent = [name for name in needed if not (folder / name).exists()] if folder.is_dir() else ["the folder itself"]
        if absent:
            raise DataMissing(
                f"{self.name} {self.version} is not complete at {folder}: {', '.join(absent)} is missing. "
                f"Needed: {self.size}, {self.licence}, {self.access}. Get it from {self.url} and put it there, "
                f"or point --data (or ECG_DATA) at the folder that holds {self.folder}/"
            )
        return folder


@dataclass(frozen=True)
class Published:
    """A number somebody else printed, for the reader to compare with; never computed here."""

    source: str
    model: str
    metric: str
    value: float
    note: str = ""


@dataclass(frozen=True)
class Expected:
    """Counts of labels that the full data set must show: over the units of `splits`, class → number."""

    part: str
    splits: tuple[str, ...]
    counts: Mapping[str, int]
    source: str


@dataclass(frozen=True)
class Record:
    """One recording: `path` is what `xecg.read` is given. patient: identifies the person in memory only, it is never written.

    age (years), sex ("F" | "M"): for subgroups, where a table says them; else the file's header does. source: the data set, where
    it is not the task's own.
    """

    id: str
    patient: str
    split: str
    path: Path
    age: float | None = None
    sex: str | None = None
    source: str | None = None


@dataclass(frozen=True, eq=False)
class TaskData:
    """The labelled records of a task, ordered by record.

    record: int (n,), index into `records` of each unit, ascending. time_s: float64 (n,), NaN when the unit is the whole record,
    else the instant (s from the record's start) whose token is scored. label: (n,) class index, 0/1 or number; (n, C) for
    multilabel; the same with NaN where a question of a panel is not answered; time and event (n, 2) for survival. complete: all
    records of the full release are here. files: what the data hash covers. notes: for the reader.
    span_s: 0, or the length of a unit: then the mean of the tokens that start in [time_s, time_s + span_s) is scored, or the token
    that holds its middle where none does. read: makes the Recording of a record that `xecg.read` would not take as it is.
    """

    records: tuple[Record, ...]
    record: np.ndarray
    time_s: np.ndarray
    label: np.ndarray
    complete: bool
    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()
    span_s: float = 0.0
    read: Callable[[Record], Recording] | None = None

    def in_split(self, *splits: str) -> np.ndarray:
        """bool (n,): units whose record belongs to one of `splits`."""
        return np.array([r.split in splits for r in self.records], dtype=bool)[self.record]

    def clusters(self) -> np.ndarray:
        """int (n,): the patient of each unit, numbered in the order of first appearance."""
        number: dict[str, int] = {}
        each = np.array([number.setdefault(r.patient, len(number)) for r in self.records])
        return each[self.record]


@dataclass(frozen=True, eq=False)
class Task:
    """A task is mostly data; `load(root)` is its loader. See docs/ADDING_A_TASK.md.

    suite: its number in the published BenchECG suite (T1…T10), None for our own. hides: meta entries ("age", "sex") that would
    tell a model the label and are taken away before it sees a recording. class_sets: see `metrics.statistic`.
    split_sha256: of the full data set's split, None where only the rule is pinned. profile, defects: see `benchecg.profiles`.
    shared_patients: True where the rule itself puts a patient into several splits, which no task of our own does.
    """

    id: str
    version: str
    title: str
    dataset: Dataset
    kind: str
    classes: tuple[str, ...]
    metric: str
    load: Callable[[Path], TaskData]
    unit: str
    leads: str
    rate_hz: float
    split_rule: str
    label_rule: str
    suite: str | None = None
    higher_is_better: bool = True
    patient_known: bool = True
    synthetic: bool = False
    full_records: int | None = None
    split_sha256: str | None = None
    hides: tuple[str, ...] = ()
    class_sets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    expected: tuple[Expected, ...] = ()
    published: tuple[Published, ...] = ()
    records_per_call: int = 64
    profile: str = "corrected"
    defects: tuple[str, ...] = ()
    shared_patients: bool = False

    def misfit(self, data: TaskData) -> str | None:
        """What a loader got wrong about its own rows, that would give wrong scores in silence; None when they fit."""
        n, lengths = len(data.record), (len(data.time_s), len(data.label))
        if lengths != (n, n):
            return f"record has {n} rows, time_s {lengths[0]}, label {lengths[1]}; needed one row a unit in each"
        if n and ((np.diff(data.record) < 0).any() or data.record[0] < 0 or data.record[-1] >= len(data.records)):
            return f"record goes from {data.record[0]} to {data.record[-1]}; needed ascending indices into {len(data.records)} records"
        odd = next((r for r in data.records if r.split not in SPLITS), None)
        if odd is not None:
            return f"record {odd.id} has split {odd.split!r}; needed one of {', '.join(SPLITS)}"
        return label_misfit(self.kind, self.classes, data)

    def counts(self, data: TaskData, *splits: str) -> dict[str, int]:
        """Units of each class in the given splits; of a number, only how many ("units")."""
        label = data.label[data.in_split(*splits)]
        if self.kind == "regression":
            return {"units": len(label)}
        if self.kind in ("multilabel", "panel"):
            return dict(zip(self.classes, (int(n) for n in (label == 1).sum(0))))
        if self.kind == "survival":
            return {"units": len(label), self.classes[1]: int(label[:, 1].sum())}
        if self.kind == "peaks":
            return {self.classes[0]: len(label)}
        return {name: int((label == i).sum()) for i, name in enumerate(self.classes)}


def label_misfit(kind: str, classes: tuple[str, ...], data: TaskData) -> str | None:
    """Why the labels, or the times of peaks, are not those of a task of this kind; None when they are. See `TaskData`."""
    label, n, c = np.asarray(data.label), len(data.record), len(classes)
    shape = {"multilabel": (n, c), "panel": (n, c), "survival": (n, 2)}.get(kind, (n,))
    if label.shape != shape:
        return f"label has shape {label.shape}; needed {shape} of a {kind} task"
    if kind in ("multiclass", "binary"):
        return _unknown(label, range(2 if kind == "binary" else c), f"class indices 0 to {c - 1}")
    if kind == "multilabel":
        return _unknown(label, (0, 1), "1 where a label is there and 0 where it is not")
    if kind == "panel":
        return _panel_misfit(label, classes)
    if kind == "peaks":
        return None if np.isfinite(data.time_s).all() else "time_s is not finite; needed the time of every peak, s"
    if not np.isfinite(label).all():
        return f"{int((~np.isfinite(label)).sum())} labels are not finite; needed numbers"
    if kind == "survival" and (label[:, 0] < 0).any():
        return f"label holds the time {label[:, 0].min():g}; needed 0 or more"
    return _unknown(label[:, 1], (0, 1), "1 for an event and 0 without one") if kind == "survival" else None


def _unknown(label: np.ndarray, known: Sequence[int], needed: str) -> str | None:
    odd = sorted({str(v) for v in np.unique(label) if v not in known})
    return f"label holds {', '.join(odd[:5])}; needed {needed}" if odd else None


def _panel_misfit(label: np.ndarray, classes: tuple[str, ...]) -> str | None:
    odd = _unknown(label[~np.isnan(label)], (0, 1), "0, 1, or NaN where a question is not answered")
    if odd:
        return odd
    for question, columns in questions(classes).items():
        answers = label[:, columns]
        given = ~np.isnan(answers)
        wrong = (given.any(1) & ~given.all(1)) | (given.all(1) & (np.nansum(answers, 1) != 1))
        if wrong.any():
            return f"label has {int(wrong.sum())} units with no one answer to {question}; needed one class of it, or NaN in all"
    return None


def data_root(option: str | Path | None = None) -> Path:
    """The folder that holds the data sets: the option, else the environment variable ECG_DATA. Raises DataMissing."""
    value = option or os.environ.get("ECG_DATA")
    if not value:
        raise DataMissing(
            "no data folder was given; pass --data DIR or set ECG_DATA to the folder that holds the data sets"
        )
    root = Path(value)
    if not root.is_dir():
        raise DataMissing(f"the data folder {root} does not exist; pass --data DIR or set ECG_DATA")
    return root


def hash_fraction(dataset: str, patient: str) -> float:
    """blake2b(dataset|patient) as a number in [0, 1): the same on every machine, whatever PYTHONHASHSEED."""
    digest = hashlib.blake2b(f"{dataset}|{patient}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def split_hash(records: Sequence[Record]) -> str:
    """SHA-256 of the sorted lines `record,patient,split`."""
    lines = sorted(f"{r.id},{r.patient},{r.split}\n" for r in records)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def data_hash(files: Sequence[Path], root: Path) -> str:
    """SHA-256 over the sorted lines `path relative to root, SHA-256 of the bytes`: another byte anywhere is another data set."""
    lines = []
    for path in sorted(files):
        with path.open("rb") as handle:
            lines.append(f"{path.relative_to(root).as_posix()},{_sha256(handle)}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _sha256(handle: object) -> str:
    digest = hashlib.sha256()
    while block := handle.read(1 << 20):  # type: ignore[attr-defined]
        digest.update(block)
    return digest.hexdigest()
