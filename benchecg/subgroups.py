"""For whom a model works: facts of every test record, and the headline metric in each group that they make.

The facts are coarse on purpose (an age band, not an age), so that a table of predictions names nobody.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchecg.predictions import GROUPS, Predictions
from benchecg.stats import Estimate, estimate
from benchecg.tasks.base import Record, Task, TaskData
from benchecg.versions import library_version

__all__ = ["AGE_BANDS", "FEW_PATIENTS", "FEW_UNITS", "age_band", "record_facts", "subgroup_table"]

AGE_BANDS = ("<40", "40–59", "60–74", ">=75")
FEW_UNITS, FEW_PATIENTS = 30, 20  # of a group, below which its row is flagged
_UNKNOWN = "unknown"
_ORDER = {
    "sex": ("F", "M", _UNKNOWN),
    "age_band": (*AGE_BANDS, _UNKNOWN),
    "source": (),
    "quality": ("ok", "abstain"),
}


def age_band(age: float | None) -> str:
    """One of `AGE_BANDS`, or "unknown"; age in years."""
    if age is None or not math.isfinite(age) or age < 0:
        return _UNKNOWN
    return AGE_BANDS[sum(age >= edge for edge in (40, 60, 75))]


def record_facts(
    task: Task,
    data: TaskData,
    *,
    data_sha256: str,
    cache: Path | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
) -> dict[str, np.ndarray]:
    """Column of `GROUPS` → text (records,), of the test records; "" of the others. cache: folder that keeps them."""
    test = [i for i, r in enumerate(data.records) if r.split == "test"]
    key = json.dumps([library_version("xecg"), task.id, data_sha256, [data.records[i].id for i in test]])
    path = None if cache is None else cache / f"facts-{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
    rows = _stored(path, len(test))
    if rows is None:
        rows = [_facts(task, data, data.records[i]) for i in progress(test)]
        if path is not None:
            from xecg.io.atomic import write_json

            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, rows)
    columns = {}
    for k, name in enumerate(GROUPS):
        each = [""] * len(data.records)
        for i, row in zip(test, rows):
            each[i] = row[k]
        columns[name] = np.array(each, dtype=str)
    return columns


def _stored(path: Path | None, n: int) -> list[list[str]] | None:
    try:
        rows = None if path is None else json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    whole = isinstance(rows, list) and len(rows) == n and all(len(row) == len(GROUPS) for row in rows)
    return rows if whole else None  # a damaged file is made again


def _facts(task: Task, data: TaskData, record: Record) -> list[str]:
    from xecg import read
    from xecg.signal import quality

    recording = read(record.path) if data.read is None else data.read(record)
    sex = record.sex or recording.meta.get("sex")
    age = recording.meta.get("age") if record.age is None else record.age
    judged = "abstain" if quality.assess(recording).abstain else "ok"
    return [sex if sex in ("F", "M") else _UNKNOWN, age_band(age), record.source or task.dataset.name, judged]


def subgroup_table(p: Predictions, headline: Estimate) -> list[dict[str, Any]]:
    """A row per group with test units: `by`, `group`, `units`, `patients`, value and interval of the task's metric, `few`.

    The interval leaves out the group's own patients in turn; a group of all units has the task's own. Classes that a group
    lacks leave its mean. few: fewer than `FEW_UNITS` units or `FEW_PATIENTS` patients.
    """
    rows = []
    for by in GROUPS:
        column = p.groups[by]
        present = np.unique(column).tolist()
        for group in sorted(present, key=lambda g: (_ORDER[by].index(g) if g in _ORDER[by] else 0, g)):
            part = _part(p, column == group)
            units, patients = len(part.asked()[0]), len(np.unique(part.patient_id))
            found = headline if len(present) == 1 else _estimate(part)
            few = units < FEW_UNITS or patients < FEW_PATIENTS
            rows.append({"by": by, "group": group, "units": units, "patients": patients, **asdict(found), "few": few})
    return rows


def _part(p: Predictions, inside: np.ndarray) -> Predictions:
    names = ("unit_id", "patient_id", "record_id", "t_start", "y", "score", "valid")
    groups: Mapping[str, np.ndarray] = {name: column[inside] for name, column in p.groups.items()}
    return replace(p, groups=groups, **{name: getattr(p, name)[inside] for name in names})


def _estimate(part: Predictions) -> Estimate:
    return estimate(part.statistic(), seed=part.facts.seed)[part.facts.metric]
