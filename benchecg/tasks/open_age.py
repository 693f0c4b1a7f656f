"""open-age: age in years from one 12-lead exam, trained and tested inside CODE-15 % by patient. Not T8 of the suite.

T8 trains on CODE-15 % and tests on MIMIC-IV-ECG, PTB-XL and CPSC2018; this variant needs one open data set.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchecg.tasks._code15 import DATASET, FULL_RECORDS, SPLIT_RULE, load
from benchecg.tasks.base import Task, TaskData

__all__ = ["TASK"]


def _age(meta: Mapping[str, Any]) -> float | None:
    age = meta.get("age")
    return float(age) if age is not None and 0 < float(age) <= 120 else None


def _load(root: Path) -> TaskData:
    return load(root, _age)


TASK = Task(
    id="open-age",
    version="1",
    title="Age in years, inside CODE-15 %",
    dataset=DATASET,
    kind="regression",
    classes=(),
    metric="rsmape",
    higher_is_better=False,
    load=_load,
    unit="7-10 s exam",
    leads="12",
    rate_hz=400.0,
    split_rule=SPLIT_RULE,
    label_rule="age of the exam's header, 0 < age <= 120; above 89 it is read as 90",
    full_records=FULL_RECORDS,
    hides=("age",),
)
