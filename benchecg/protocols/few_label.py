"""Few labels: fixed subsets of the training patients, drawn by a hash, the same for every model and on every machine."""

from __future__ import annotations

import hashlib
import math

import numpy as np

from benchecg.tasks.base import Task, TaskData

__all__ = ["SUBSETS", "few_label_train"]

SUBSETS = 5  # fixed subsets of each size, numbered from 0


def few_label_train(task: Task, data: TaskData, *, fraction: float, subset: int = 0) -> np.ndarray:
    """bool (n,): the training units of `fraction` of the training patients, rounded up.

    Patients come in the order of blake2b(task|subset|patient). A class without a positive unit among them gets the next patient
    of that order who has one, where training has any: a subset may so be a few patients larger than asked for.
    """
    train = data.in_split("train")
    patient = np.array([r.patient for r in data.records])[data.record]
    order = sorted(set(patient[train].tolist()), key=lambda p: _rank(f"{task.id}|{subset}|{p}"))
    chosen = set(order[: math.ceil(fraction * len(order))])
    for positive in _positives(task, data):
        with_one = set(patient[train & positive].tolist())
        if with_one and not with_one & chosen:
            chosen.add(next(p for p in order if p in with_one))
    return train & np.isin(patient, sorted(chosen))


def _rank(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def _positives(task: Task, data: TaskData) -> list[np.ndarray]:
    """Per class the units that show it; nothing for a number."""
    if task.kind in ("multilabel", "panel"):
        return [data.label[:, c] == 1 for c in range(len(task.classes))]
    if task.kind in ("multiclass", "binary"):
        return [data.label == c for c in range(len(task.classes))]
    return [data.label[:, 1] == 1] if task.kind == "survival" else []
