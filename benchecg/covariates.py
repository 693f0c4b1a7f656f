"""Covariates beside a model's features: what a reader of the ECG knows of the person, given to every probe alike."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchecg.tasks.base import Record, Task, TaskData
from benchecg.versions import library_version
from xecg.errors import SpecError

__all__ = ["COVARIATES", "Covariates", "covariates_of", "parse_covariates", "withheld"]

COVARIATES = ("age", "sex")
_CODED_AGE, _CODED_YEARS = 300.0, 90.0  # PTB-XL: 300 stands for 90 and more
_MOST_YEARS = 120.0


@dataclass(frozen=True, eq=False)
class Covariates:
    """columns: float32 (units, k). Of each covariate its value in deviations from the training units' mean, 0 where it is not known;
    and, where training units lack it, a column of 1 for a unit that does. missing: units of train, val and test without it."""

    names: tuple[str, ...]
    columns: np.ndarray
    missing: dict[str, int]

    def facts(self) -> dict[str, Any]:
        """For the protocol entry of a result."""
        return {"covariates": ",".join(self.names), "covariates_missing": self.missing}


def parse_covariates(text: str) -> tuple[str, ...]:
    """ "age,sex" → names, in the order of `COVARIATES`. Raises SpecError on another name."""
    asked = [part.strip() for part in text.split(",") if part.strip()]
    for name in asked:
        if name not in COVARIATES:
            raise SpecError(f"there is no covariate {name!r}; the covariates are {', '.join(COVARIATES)}")
    return tuple(name for name in COVARIATES if name in asked)


def withheld(task: Task, names: Sequence[str]) -> str | None:
    """Why these covariates cannot be given on this task; None when they can."""
    told = [name for name in names if name in task.hides]
    if told:
        return f"{' and '.join(told)} would tell the label of {task.id}; leave it out of the covariates"
    if names and task.kind == "peaks":
        return f"a peaks task takes no covariates: {' and '.join(names)} tells nothing of a beat's time"
    return None


def covariates_of(
    task: Task,
    data: TaskData,
    names: Sequence[str],
    *,
    fit: np.ndarray,
    data_sha256: str,
    cache: Path | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
) -> Covariates:
    """Columns for every unit. names: of `COVARIATES`. fit: bool (units,), whose mean and deviation are the scale.

    A record's table says them, else its file's header does. cache: folder that keeps what headers said. Raises SpecError when
    `withheld` has a reason, or when no unit of `fit` says one.
    """
    reason = withheld(task, names)
    if reason:
        raise SpecError(reason)
    people = _people(task, data, data_sha256, cache, progress)
    used = data.in_split("train", "val", "test")
    columns, missing = [], {}
    for name in names:
        value = np.array([p[COVARIATES.index(name)] for p in people])[data.record]
        known = np.isfinite(value)
        if not (known & fit).any():
            raise SpecError(f"no training unit of {task.id} says its {name}; leave it out of the covariates")
        centre, scale = value[known & fit].mean(), value[known & fit].std() or 1.0
        columns.append(np.where(known, (value - centre) / scale, 0.0))
        if not known[fit].all():
            columns.append((~known).astype(float))
        missing[name] = int((~known & used).sum())
    return Covariates(tuple(names), np.stack(columns, 1).astype(np.float32), missing)


def _people(
    task: Task, data: TaskData, data_sha256: str, cache: Path | None, progress: Callable[[Iterable], Iterable]
) -> list[tuple[float, float]]:
    """(age in years, 1 for male and 0 for female) of each record, NaN where unknown."""
    said: dict[int, list[Any]] = {i: [r.age, r.sex] for i, r in enumerate(data.records)}
    ask = [i for i, r in enumerate(data.records) if r.split != "dropped" and (r.age is None or r.sex is None)]
    key = json.dumps([library_version("xecg"), task.id, data_sha256, [data.records[i].id for i in ask]])
    path = None if cache is None else cache / f"people-{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
    headers = _stored(path, len(ask))
    if headers is None:
        headers = [_header(data, data.records[i]) for i in progress(ask)]
        if path is not None and ask:
            from xecg.io.atomic import write_json

            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, headers)
    for i, header in zip(ask, headers):
        said[i] = [theirs if table is None else table for table, theirs in zip(said[i], header)]
    return [(_years(age), {"F": 0.0, "M": 1.0}.get(sex, math.nan)) for age, sex in said.values()]


def _header(data: TaskData, record: Record) -> list[Any]:
    from xecg import read

    meta = (read(record.path) if data.read is None else data.read(record)).meta
    age = meta.get("age")
    return [None if age is None or not math.isfinite(age) else float(age), meta.get("sex")]


def _years(age: float | None) -> float:
    if age is None or not math.isfinite(age):
        return math.nan
    years = _CODED_YEARS if age == _CODED_AGE else float(age)
    return years if 0 <= years <= _MOST_YEARS else math.nan


def _stored(path: Path | None, n: int) -> list[list[Any]] | None:
    try:
        rows = None if path is None else json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    whole = isinstance(rows, list) and len(rows) == n and all(isinstance(r, list) and len(r) == 2 for r in rows)
    return rows if whole else None  # a damaged file is made again
