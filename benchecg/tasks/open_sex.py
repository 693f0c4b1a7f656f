"""open-sex: recorded sex from one 12-lead exam, trained and tested inside CODE-15 % by patient."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchecg.tasks._code15 import DATASET, FULL_RECORDS, SPLIT_RULE, load
from benchecg.tasks.base import Task, TaskData

__all__ = ["TASK"]

_CLASSES = ("F", "M")


def _sex(meta: Mapping[str, Any]) -> int | None:
    return _CLASSES.index(meta["sex"]) if meta.get("sex") in _CLASSES else None


def _load(root: Path) -> TaskData:
    return load(root, _sex)


TASK = Task(
    id="open-sex",
    version="1",
    title="Recorded sex, inside CODE-15 %",
    dataset=DATASET,
    kind="binary",
    classes=_CLASSES,
    metric="auroc",
    load=_load,
    unit="7-10 s exam",
    leads="12",
    rate_hz=400.0,
    split_rule=SPLIT_RULE,
    label_rule="sex of the exam's header: F = 0, M = 1",
    full_records=FULL_RECORDS,
    hides=("sex",),
)
