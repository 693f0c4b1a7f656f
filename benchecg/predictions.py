"""The predictions of one run: the only thing a score is computed from, so a run can be scored again by anybody.

On disk: one Parquet file, a row per test unit, with the facts that scoring needs in its schema metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchecg.metrics import Statistic, statistic
from benchecg.tasks.base import Task, TaskData
from xecg.errors import ReadError

__all__ = [
    "GROUPS",
    "Predictions",
    "TaskFacts",
    "peak_predictions_of",
    "predictions_of",
    "read_predictions",
    "write_predictions",
]

GROUPS = ("sex", "age_band", "source", "quality")  # columns that make subgroups, see `benchecg.subgroups`
_META_KEY = b"benchecg"


@dataclass(frozen=True)
class TaskFacts:
    """What scoring needs to know of a task, and which groups of patients its intervals leave out."""

    task: str
    version: str
    model: str
    kind: str
    classes: tuple[str, ...]
    class_sets: dict[str, tuple[str, ...]]
    metric: str
    higher_is_better: bool
    per_record: bool
    seed: int
    profile: str = "corrected"


@dataclass(frozen=True, eq=False)
class Predictions:
    """n test units. unit_id, patient_id, record_id: text (n,); patient_id is a number of this table, not of the person.

    A table of peaks has a row per true peak (y 1, not valid) and one per found peak (y 0, score its height, valid).
    t_start: float64 s (n,), NaN for a whole record. y: float32 (n,) or (n, C). score: float32 (n,) or (n, C). valid: bool (n,).
    groups: column of `GROUPS` → text (n,), of the unit's record.
    """

    facts: TaskFacts
    unit_id: np.ndarray
    patient_id: np.ndarray
    record_id: np.ndarray
    t_start: np.ndarray
    y: np.ndarray
    score: np.ndarray
    valid: np.ndarray
    groups: Mapping[str, np.ndarray]

    def cluster(self) -> np.ndarray:
        """int (n,): the patient of each unit, from 0."""
        return np.unique(self.patient_id, return_inverse=True)[1].reshape(-1)

    def statistic(self) -> Statistic:
        """All metrics of this table as a function of the patients' weights."""
        return statistic(
            self.facts.kind,
            truth=self.y,
            score=self.score,
            valid=self.valid,
            cluster=self.cluster(),
            classes=self.facts.classes,
            class_sets=self.facts.class_sets,
            record=np.unique(self.record_id, return_inverse=True)[1].reshape(-1),
            time_s=self.t_start,
        )

    def asked(self) -> tuple[np.ndarray, np.ndarray]:
        """Ids and labels of what was to be answered, the same for every model: of a peaks task the true peaks."""
        rows = self.y == 1 if self.facts.kind == "peaks" else slice(None)
        return self.unit_id[rows], self.y[rows]


def predictions_of(
    task: Task,
    data: TaskData,
    *,
    model: str,
    score: np.ndarray,
    valid: np.ndarray,
    groups: Mapping[str, np.ndarray],
    seed: int,
) -> Predictions:
    """The table of the test units. score, valid: of the test units, in their order. groups: of the records, by column."""
    rows = np.flatnonzero(data.in_split("test"))
    time_s = data.time_s[rows]
    record = np.array([r.id for r in data.records])[data.record[rows]]
    return Predictions(
        facts=_facts_of(task, model, per_record=bool(len(rows) and not np.isnan(time_s).all()), seed=seed),
        unit_id=np.array([r if np.isnan(t) else f"{r}@{t:.6f}" for r, t in zip(record, time_s)]),
        patient_id=_patients(data)[data.record[rows]],
        record_id=record,
        t_start=time_s,
        y=data.label[rows].astype(np.float32),
        score=score.astype(np.float32),
        valid=valid,
        groups={name: column[data.record[rows]] for name, column in groups.items()},
    )


def peak_predictions_of(
    task: Task,
    data: TaskData,
    *,
    model: str,
    found: Mapping[int, tuple[np.ndarray, np.ndarray]],
    groups: Mapping[str, np.ndarray],
    seed: int,
) -> Predictions:
    """The table of true and found peaks of the test records. found: record index → (time_s, height) of its peaks."""
    true = np.flatnonzero(data.in_split("test"))
    index = np.concatenate([data.record[true], *(np.full(len(at), i) for i, (at, _) in found.items())]).astype(int)
    time_s = np.concatenate([data.time_s[true], *(at for at, _ in found.values())])
    height = np.concatenate([np.zeros(len(true)), *(h for _, h in found.values())])
    is_found = np.arange(len(index)) >= len(true)
    record = np.array([r.id for r in data.records])[index]
    kinds = np.where(is_found, "found", "true")
    return Predictions(
        facts=_facts_of(task, model, per_record=True, seed=seed),
        unit_id=np.array([f"{r}@{t:.6f} {k}" for r, t, k in zip(record, time_s, kinds)]),
        patient_id=_patients(data)[index],
        record_id=record,
        t_start=time_s,
        y=(~is_found).astype(np.float32),
        score=height.astype(np.float32),
        valid=is_found,
        groups={name: column[index] for name, column in groups.items()},
    )


def _patients(data: TaskData) -> np.ndarray:
    """A number of this table for the patient of each record, in the order of the test units."""
    each = [r.patient for r in data.records]
    test = [each[i] for i in dict.fromkeys(data.record[data.in_split("test")].tolist())]
    order = {p: i for i, p in enumerate(dict.fromkeys([*test, *each]))}
    return np.array([f"p{order[p]:06d}" for p in each])


def _facts_of(task: Task, model: str, *, per_record: bool, seed: int) -> TaskFacts:
    return TaskFacts(
        task=task.id,
        version=task.version,
        model=model,
        kind=task.kind,
        classes=task.classes,
        class_sets=dict(task.class_sets),
        metric=task.metric,
        higher_is_better=task.higher_is_better,
        per_record=per_record,
        seed=seed,
        profile=task.profile,
    )


def _columns(stem: str, values: np.ndarray, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    return {stem: values} if values.ndim == 1 else {f"{stem}_{name}": values[:, i] for i, name in enumerate(names)}


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write the table, whole or not at all. The bytes depend on the content alone."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from xecg.io.atomic import replacing

    p = predictions
    columns = {
        "unit_id": p.unit_id.tolist(),
        "patient_id": p.patient_id.tolist(),
        "record_id": p.record_id.tolist(),
        "t_start": p.t_start,
        **_columns("y", p.y, p.facts.classes),
        **_columns("score", p.score, p.facts.classes),
        "valid": p.valid,
        **{name: p.groups[name].tolist() for name in GROUPS},
    }
    table = pa.table(columns).replace_schema_metadata({_META_KEY: json.dumps(asdict(p.facts), sort_keys=True)})
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_predictions(path: Path) -> Predictions:
    """The inverse of `write_predictions`. Raises ReadError when the file is not such a table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    hint = "Score a file that `benchecg run` wrote."
    try:
        table = pq.read_table(path)
        facts = _facts(json.loads((table.schema.metadata or {})[_META_KEY]))
        named = {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}
        return Predictions(
            facts=facts,
            unit_id=named["unit_id"].astype(str),
            patient_id=named["patient_id"].astype(str),
            record_id=named["record_id"].astype(str),
            t_start=named["t_start"],
            y=_stack("y", named, facts.classes),
            score=_stack("score", named, facts.classes),
            valid=named["valid"].astype(bool),
            groups={name: named[name].astype(str) for name in GROUPS},
        )
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise ReadError(
            str(path), "predictions", f"unreadable ({error})", "needed a Parquet table of predictions", hint
        ) from None


def _facts(stored: dict) -> TaskFacts:
    sets = {name: tuple(kept) for name, kept in stored["class_sets"].items()}
    return TaskFacts(**{**stored, "classes": tuple(stored["classes"]), "class_sets": sets})


def _stack(stem: str, named: dict[str, np.ndarray], classes: tuple[str, ...]) -> np.ndarray:
    return named[stem] if stem in named else np.stack([named[f"{stem}_{name}"] for name in classes], axis=1)
