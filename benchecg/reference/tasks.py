"""Tasks as the published scripts do them: what a loader does differently, and which defects that reproduces.

What the scripts leave to chance is fixed here by seed 0: the random split of records and the order of a Python set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from benchecg.tasks import _mitdb, _ptbxl, age_transfer, apnea_ecg, blood_tests
from benchecg.tasks import ptbxl_superclass as superclass
from benchecg.tasks.base import Task, TaskData

__all__ = ["VARIANTS", "classes_of_split", "patch_labels", "records_at_random"]

_SEED = 0
_TRAIN_SHARE = 0.8
_RATE_HZ, _PATCH, _TILE = 100, 25, 3_600  # of the published beat task: samples a token and a tile of 36 s
_EDGE = 3  # samples: a beat so near a patch's edge also labels its neighbour, in training

_Load = Callable[[Path], TaskData]


def records_at_random(load: _Load) -> _Load:
    """D05: 80 % of the learning records train and the rest validates, whoever they are of; torch's random_split with seed 0."""

    def loaded(root: Path) -> TaskData:
        import torch

        data = load(root)
        learning = [i for i, r in enumerate(data.records) if r.split in ("train", "val")]
        order = torch.randperm(len(learning), generator=torch.Generator().manual_seed(_SEED)).tolist()
        train = {learning[i] for i in order[: int(_TRAIN_SHARE * len(learning))]}
        records = [
            r if r.split not in ("train", "val") else replace(r, split="train" if i in train else "val")
            for i, r in enumerate(data.records)
        ]
        return replace(data, records=tuple(records))

    return loaded


def classes_of_split(load: _Load) -> _Load:
    """D04: the columns of a split's labels are the classes that occur in it, in order; what is left over stays empty."""

    def loaded(root: Path) -> TaskData:
        data = load(root)
        label = np.zeros_like(data.label)
        for split in ("train", "val", "test"):
            rows = np.flatnonzero(data.in_split(split))
            present = np.flatnonzero(data.label[rows].any(0))
            label[np.ix_(rows, np.arange(len(present)))] = data.label[np.ix_(rows, present)]
        return replace(data, label=label)

    return loaded


def patch_labels(
    sample: np.ndarray, label: np.ndarray, patches: int, *, patch: int = _PATCH, extend: bool = False
) -> np.ndarray:
    """D10: class of each patch, int (patches,), −1 without a beat: the highest class index of its beats.

    extend: a beat within three samples of a patch's edge labels the neighbour, too.
    """
    found = np.full(patches, -1)
    for s, c in zip(np.asarray(sample).tolist(), np.asarray(label).tolist()):
        at, offset = divmod(s, patch)
        near = [at - 1] * (extend and offset < _EDGE) + [at + 1] * (extend and offset >= patch - _EDGE)
        for place in (at, *near):
            if 0 <= place < patches:
                found[place] = max(found[place], c)
    return found


def _patches(root: Path) -> TaskData:
    """Labelled patches of 36 s tiles as units; a beat on a tile's last sample is lost."""
    data = _mitdb.load(root, keep_201=True)
    record: list[int] = []
    time_s: list[float] = []
    label: list[int] = []
    for i, r in enumerate(data.records):
        rows = data.record == i
        sample = np.round(data.time_s[rows] * _RATE_HZ).astype(int)
        beats = data.label[rows]
        for tile in np.unique(sample // _TILE).tolist():
            inside = (sample // _TILE == tile) & (sample % _TILE != _TILE - 1)
            found = patch_labels(sample[inside] % _TILE, beats[inside], _TILE // _PATCH, extend=r.split == "train")
            at = np.flatnonzero(found >= 0)
            record += [i] * len(at)
            time_s += ((tile * _TILE + at * _PATCH + _PATCH / 2) / _RATE_HZ).tolist()
            label += found[at].tolist()
    return replace(data, record=np.array(record, int), time_s=np.array(time_s), label=np.array(label, int))


def _peaks(root: Path) -> TaskData:
    """The head here is fitted to a bell of 20 ms, so that the samples beside a peak are above one half, too."""
    data = _mitdb.load(root, keep_201=True)
    return replace(data, label=np.ones(len(data.label), np.int64))


def _last_fifth(records: list[str], subject: dict[str, str]) -> set[str]:
    """D08: the last 20 % of the records in an order without meaning."""
    order = np.random.Generator(np.random.Philox(key=_SEED)).permutation(len(records))
    return {records[i] for i in order[int(_TRAIN_SHARE * len(records)) :].tolist()}


def _latest_first(away: float, at: float) -> tuple[float, float]:
    """D07: differences sorted with their sign, so that the result farthest after the ECG comes first."""
    return away, at


def _superclasses(root: Path) -> TaskData:
    return _ptbxl.load(root, superclass.TASK.classes, superclass.superclass, "superclass", keep_unlabelled=True)


_PATCH_RULE = "highest class among the beats of a quarter second (Q > F > V > S > N); training patches next to a beat take it over"


def _changed(*defects: str, **changes: object) -> Callable[[Task], Task]:
    """A variant: other fields, and no pinned hash or expected counts, which are those of our own rules."""
    return lambda task: replace(
        task,
        profile="authors",
        defects=defects,
        split_sha256=None,
        expected=(),
        **changes,  # type: ignore[arg-type]
    )


def _age(*defects: str, **options: object) -> Callable[[Task], Task]:
    def variant(task: Task) -> Task:
        load = records_at_random(partial(task.load, **options))
        rule = "80 % of the CODE-15 % exams at random train, the rest validates, patients in both"
        return _changed("D05", *defects, load=load, split_rule=rule, shared_patients=True)(task)

    return variant


def _survival(task: Task) -> Task:
    rule = "80 % of the CODE-15 % rows at random train, the rest validates; fold 19 of MIMIC-IV-ECG-ICD tests"
    return _changed("D05", "D09", load=records_at_random(task.load), split_rule=rule)(task)


_DS1 = "DS1 with record 201 trains (114, 203 validate), DS2 tests, its record 202 of the same subject"

VARIANTS: Mapping[str, Callable[[Task], Task]] = {
    "ptbxl-superclass": _changed("D02", "D16", load=_superclasses, full_records=21_799),
    "ptbxl-subdiag": _changed(
        "D02", "D03", "D16", load=_superclasses, classes=superclass.TASK.classes, full_records=21_799,
        label_rule="asked for subclasses, the script gives superclasses",
    ),
    "cpsc2018": lambda task: _changed("D04", "D16", load=classes_of_split(task.load))(task),
    "mitbih-beats": _changed(
        "D01", "D10", "D29", load=_patches, split_rule=_DS1, label_rule=_PATCH_RULE, unit="labelled patch of 0.25 s",
        shared_patients=True,
    ),
    "mitbih-rpeaks": _changed("D11", "D12", "D13", "D29", load=_peaks, split_rule=_DS1, shared_patients=True),
    "exercise-rpeaks": _changed("D11", "D12", "D13"),
    "apnea-ecg": _changed(
        "D08", "D16", load=partial(apnea_ecg.load, validation=_last_fifth), shared_patients=True,
        split_rule="x tests; a random fifth of the other records validates, subjects in both",
    ),
    "deepbeat-af": _changed("D16"),
    "age-mimic": _age(),
    "age-ptbxl": _age("D06", tested=partial(age_transfer.ptbxl_records, unknown=0.0)),
    "age-cpsc": _age(),
    "blood-tests": _changed("D07", "D15", "D16", load=partial(blood_tests.load, order=_latest_first)),
    "survival": _survival,
}  # fmt: skip
