"""`Result`: what a run says, as JSON with fixed fields. A file with another shape is refused, so a report never guesses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from benchecg.tasks import PARTS, SUITE
from xecg.errors import ReadError, SpecError

__all__ = ["FORMAT", "UNVALIDATED", "Result", "check", "find_results", "read_result", "suite_score", "write_result"]

FORMAT = "benchecg-result/4"
RESULT_FILE = "result.json"
PREDICTIONS_FILE = "predictions.parquet"
UNVALIDATED = "UNVALIDATED"  # first word of the note of a run that is kept out of comparisons

_ESTIMATE = {
    "value": (float, None),
    "low": (float, None),
    "high": (float, None),
    "undefined": float,
    "df": (float, None),
}

# field → type; a tuple lists alternatives (None = null); {"*": t} is an object with free keys; [t] a list.
_SCHEMA: dict[str, Any] = {
    "format": str,
    "status": str,
    "reason": (str, None),
    "profile": str,
    "defects": [str],
    "task": {
        "id": str, "version": str, "title": str, "suite": (str, None), "kind": str, "classes": [str], "metric": str,
        "higher_is_better": bool, "unit": str, "leads": str, "rate_hz": float, "synthetic": bool, "split_rule": str,
        "label_rule": str,
        "published": [{"source": str, "model": str, "metric": str, "value": float, "note": str}],
    },
    "data": {
        "name": str, "version": str, "licence": str, "url": str, "sha256": str, "complete": bool, "records": int,
        "full_records": (int, None), "patient_known": bool,
    },
    "split": {
        "sha256": str, "pinned": (bool, None), "records": {"*": int}, "units": {"*": int}, "patients": {"*": int},
    },
    "model": {
        "id": str, "fingerprint": str, "spec_hash": str, "trained": (bool, None), "about": str,
        "pretrained_on": ([str], None), "contamination": str, "width": (int, None),
    },
    "protocol": {"*": (str, int, float, bool, None, {"*": (float, None)}, [float])},
    "intervals": {"method": str, "level": float, "groups": int, "seed": int, "cluster": str},
    "metrics": {"*": _ESTIMATE},
    "support": {
        "units": int, "without_prediction": int, "patients": int, "records": int,
        "classes": {"*": {"units": int, "patients": int}},
    },
    "confusion": ([[int]], None),
    "per_record": (
        [{"record": str, "units": int, "correct": int, "macro_f1": (float, None), "classes": {"*": int},
          "f1": {"*": (float, None)}}],
        None,
    ),
    "subgroups": [
        {"by": str, "group": str, "units": int, "patients": int, **_ESTIMATE, "few": bool},
    ],
    "warnings": [str],
    "notes": [str],
    "versions": {"*": str},
    "cost": {"*": float},
    "predictions": ({"file": str, "sha256": str}, None),
}  # fmt: skip


@dataclass(frozen=True)
class Result:
    """One model on one task. The fields are those of the JSON; status is "scored" or "no score", with the reason.

    profile: of `benchecg.profiles`; defects: those of the published scripts that it reproduces on this task.
    """

    status: str
    reason: str | None
    task: Mapping[str, Any]
    data: Mapping[str, Any]
    split: Mapping[str, Any]
    model: Mapping[str, Any]
    protocol: Mapping[str, Any]
    intervals: Mapping[str, Any]
    metrics: Mapping[str, Any]
    support: Mapping[str, Any]
    confusion: list[list[int]] | None
    per_record: list[dict[str, Any]] | None
    subgroups: list[dict[str, Any]]
    warnings: list[str]
    notes: list[str]
    versions: Mapping[str, str]
    cost: Mapping[str, float]
    predictions: Mapping[str, str] | None = None
    profile: str = "corrected"
    defects: list[str] = field(default_factory=list)
    format: str = FORMAT

    @property
    def headline(self) -> Mapping[str, Any] | None:
        """value, low, high, undefined, df of the task's own metric; None when there is no score."""
        return self.metrics.get(self.task["metric"])

    @property
    def validated(self) -> bool:
        """False while the model's architecture is not checked against its origin; see `benchecg.models.origin`."""
        return not any(note.startswith(f"{UNVALIDATED}:") for note in self.notes)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return json.loads(json.dumps(asdict(self), allow_nan=False))


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def _matches(value: Any, wanted: Any) -> bool:
    if wanted is None:
        return value is None
    if wanted is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if wanted is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, list if isinstance(wanted, list) else dict if isinstance(wanted, dict) else wanted)


def _check(value: Any, wanted: Any, where: str, file: str) -> None:
    options = wanted if isinstance(wanted, tuple) else (wanted,)
    chosen = next((o for o in options if _matches(value, o)), False)
    if chosen is False:
        names = ["null" if o is None else o.__name__ if isinstance(o, type) else _kind(o) for o in options]
        raise ReadError(file, where, _kind(value), f"needed {' or '.join(names)}", "Run the task again.")
    if isinstance(chosen, list):
        for i, item in enumerate(value):
            _check(item, chosen[0], f"{where}[{i}]", file)
    if isinstance(chosen, dict):
        _check_object(value, chosen, where, file)


def check(value: Any, schema: dict[str, Any], file: str) -> None:
    """Raise ReadError unless a JSON object has the fields of `schema`, which is written as that of a result."""
    if not isinstance(value, dict):
        raise ReadError(file, "content", _kind(value), "needed a JSON object", "Run the task again.")
    _check_object(value, schema, "", file)


def _check_object(value: dict[str, Any], wanted: dict[str, Any], where: str, file: str) -> None:
    if "*" in wanted:
        wanted = dict.fromkeys(value, wanted["*"])
    for key in sorted(wanted.keys() ^ value.keys()):
        found = "missing" if key in wanted else "unknown"
        raise ReadError(
            file, f"{where}.{key}".lstrip("."), found, f"needed the fields of {FORMAT}", "Run the task again."
        )
    for key, kind in wanted.items():
        _check(value[key], kind, f"{where}.{key}".lstrip("."), file)


def _from_dict(data: Any, file: str) -> Result:
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        found = data.get("format") if isinstance(data, dict) else _kind(data)
        raise ReadError(
            file, "format", repr(found), f"needed {FORMAT}", "Point at a result.json that `benchecg run` wrote."
        )
    _check_object(data, _SCHEMA, "", file)
    return Result(**{f.name: data[f.name] for f in fields(Result)})


def read_result(path: Path) -> Result:
    """The result of a run's folder or of its result.json. Raises ReadError when it is absent, not JSON or of another shape."""
    path = path / RESULT_FILE if path.is_dir() else path
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ReadError(str(path), "result", f"unreadable ({error})", "needed a result of `benchecg run`") from None
    return _from_dict(data, str(path))


def write_result(folder: Path, result: Result) -> Path:
    """Write result.json, whole or not at all, after checking it against the schema. Returns its path."""
    from xecg.io.atomic import write_json

    path = folder / RESULT_FILE
    data = result.to_dict()
    _from_dict(data, str(path))
    write_json(path, data)
    return path


def find_results(root: Path) -> list[Path]:
    """Folders of all runs under `root`, sorted. Raises ReadError when there is none."""
    found = sorted(p.parent for p in root.rglob(RESULT_FILE)) if root.is_dir() else []
    if not found:
        raise ReadError(
            str(root), "results", "absent", f"needed a folder with {RESULT_FILE} in it", "Run `benchecg run` first."
        )
    return found


def suite_score(results: list[Result]) -> dict[str, Any]:
    """The published BenchECG score of one model's results, or why there is none.

    The mean over all ten tasks of the corrected headline metric (1 - RSMAPE for age, of the mean over its three test sets). A
    missing task, a subset or synthetic data makes it None; the reference code would take the mean over what is there, which is
    given as `partial_score`. Results of the authors profile are scored as it does (D25). Raises SpecError when profiles are mixed.
    """
    profiles = {r.profile for r in results}
    if len(profiles) > 1:
        raise SpecError(f"results of the profiles {', '.join(sorted(profiles))} have no common score; score each alone")
    by_task = {r.task["id"]: r for r in results if r.task["suite"]}
    values, missing = {}, []
    for number, title in SUITE.items():
        parts = PARTS.get(number) or tuple(i for i, r in by_task.items() if r.task["suite"] == number)[:1] or (None,)
        found = [_suite_value(by_task.get(i)) for i in parts]
        known = [value for value in found if isinstance(value, float)]
        if len(known) == len(parts):
            values[number] = sum(known) / len(known)
        else:
            missing.append(f"{number} {title}: {next(value for value in found if isinstance(value, str))}")
    partial = sum(values.values()) / len(values) if values else None
    score = None if missing and profiles != {"authors"} else partial
    return {"score": score, "partial_score": partial, "n_tasks": len(values), "of": len(SUITE), "missing": missing}


def _suite_value(result: Result | None) -> float | str:
    """What a task adds to the score, or why nothing."""
    value = result.headline["value"] if result is not None and result.headline is not None else None
    if result is None or value is None:
        return "not run"
    if not result.data["complete"] or result.task["synthetic"]:
        return "run on a subset"
    return float(value if result.task["higher_is_better"] else 1 - value)
