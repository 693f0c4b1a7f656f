"""How a score falls when the test recordings are disturbed: the probe is trained once on clean ones and only asked again.

Each condition's metric has its own interval and, with the same patients left out, the interval of its difference from
the undisturbed test set.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchecg.answering import unsuited
from benchecg.disturbing import FAMILIES, NOISE_FOLDER, Condition, conditions
from benchecg.models.base import Adapter, Tokens
from benchecg.predictions import Predictions, peak_predictions_of, predictions_of
from benchecg.protocols import linear_probe, peak_probe, record_tokens, unit_features
from benchecg.protocols.features import recording_of
from benchecg.protocols.linear_probe import LinearMap
from benchecg.running import LoadedTask
from benchecg.stats import Difference, Estimate, estimate, facts, paired_difference
from benchecg.tasks.base import Task, TaskData
from xecg.errors import ReadError, SpecError
from xecg.model.head_spec import questions
from xecg.signal import Recording

__all__ = ["CURVES_FILE", "FORMAT", "find_curves", "lines_of", "linear_scores", "read_curves", "robustness"]

FORMAT = "benchecg-robustness/2"
CURVES_FILE = "robustness.json"
_FIELDS = {
    "format", "task", "task_version", "title", "model", "fingerprint", "metric", "higher_is_better", "noise", "synthetic",
    "complete", "units", "patients", "conditions", "left_out", "intervals",
}  # fmt: skip
_CLEAN = ("none", "undisturbed")


def robustness(
    loaded: LoadedTask,
    adapter: Adapter,
    *,
    out: Path,
    root: Path,
    families: tuple[str, ...] = FAMILIES,
    cache: Path | None = None,
    seed: int = 0,
    progress: Callable[[Iterable], Iterable] = iter,
) -> dict[str, Any]:
    """Train the probe, ask it under every condition that the test recordings allow; writes out/robustness.json, returns its content.

    root: of the data sets; with the MIT-BIH Noise Stress Test Database in it, noise is recorded noise, else synthetic. Raises SpecError
    where the task gives no score for this adapter.
    """
    task, data = loaded.task, loaded.data
    refusal = loaded.refusal() or unsuited(task, adapter)
    if refusal:
        raise SpecError(f"{task.id} · {adapter.id}: {refusal}")
    folder = root / NOISE_FOLDER if (root / NOISE_FOLDER / "em.hea").is_file() else None
    possible, left_out = _possible(task, data, conditions(families, noise=folder))
    ask = _ask_peaks if task.kind == "peaks" else _ask_units
    tables = ask(loaded, adapter, possible, cache, progress)
    names = [_CLEAN, *((c.family, c.label) for c in possible)]
    rows, clean = [], None
    for (family, label), table in zip(names, tables):
        table = replace(table, facts=replace(table.facts, seed=seed))
        clean = table if clean is None else clean
        rows.append({"family": family, "label": label, **_values(table, clean)})
    assert clean is not None
    content = {
        "format": FORMAT,
        "task": task.id,
        "task_version": task.version,
        "title": task.title,
        "model": adapter.id,
        "fingerprint": adapter.fingerprint,
        "metric": task.metric,
        "higher_is_better": task.higher_is_better,
        "noise": "MIT-BIH Noise Stress Test Database" if folder else "synthetic",
        "synthetic": task.synthetic,
        "complete": data.complete,
        "units": len(clean.asked()[0]),
        "patients": len(np.unique(clean.patient_id)),
        "conditions": rows,
        "left_out": left_out,
        "intervals": facts(seed=seed, cluster="patient" if task.patient_known else "record"),
    }
    from xecg.io.atomic import write_json

    out.mkdir(parents=True, exist_ok=True)
    write_json(out / CURVES_FILE, content)
    return content


def _values(table: Predictions, clean: Predictions) -> dict[str, Any]:
    metric, seed = table.facts.metric, table.facts.seed
    found = estimate(table.statistic(), seed=seed)[metric]
    change = paired_difference(table.statistic(), clean.statistic(), metric, seed=seed)
    return {**_ends(found), "change": _ends(change)}


def _ends(found: Estimate | Difference) -> dict[str, float | None]:
    return {"value": found.value, "low": found.low, "high": found.high}


def _possible(task: Task, data: TaskData, wanted: Sequence[Condition]) -> tuple[list[Condition], dict[str, str]]:
    """The conditions that every test recording allows, and why the others are left out."""
    left_out: dict[str, str] = {}
    for record in (r for r in data.records if r.split == "test"):
        recording = recording_of(task, data, record)
        for condition in wanted:
            lack = None if condition.key in left_out else condition.lacks(recording)
            if lack:
                left_out[condition.key] = f"record {record.id}: {lack}"
    return [c for c in wanted if c.key not in left_out], left_out


@dataclass(frozen=True)
class _Disturbed:
    """An adapter that sees every recording through a condition."""

    _adapter: Adapter
    _condition: Condition

    @property
    def fingerprint(self) -> str:
        return f"{self._adapter.fingerprint}~{self._condition.key}"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter, name)

    def features(self, recordings: Sequence[Recording]) -> list[Tokens]:
        return self._adapter.features([self._condition(r) for r in recordings])


def _ask_units(
    loaded: LoadedTask,
    adapter: Adapter,
    possible: Sequence[Condition],
    cache: Path | None,
    progress: Callable[[Iterable], Iterable],
) -> Iterator[Predictions]:
    task, data = loaded.task, loaded.data
    features = unit_features(task, data, adapter, data_sha256=loaded.data_sha256, cache=cache, progress=progress)
    train, val, test = (data.in_split(s) for s in ("train", "val", "test"))
    probe = linear_probe(
        task, features=features.values, valid=features.valid, label=data.label, train=train, val=val, test=test
    )
    assert probe.head is not None

    def table(score: np.ndarray, valid: np.ndarray) -> Predictions:
        return predictions_of(task, data, model=adapter.id, score=score, valid=valid, groups={}, seed=0)

    yield table(probe.score, features.valid[test])
    only_test = replace(
        data, records=tuple(r if r.split == "test" else replace(r, split="dropped") for r in data.records)
    )
    for condition in possible:
        seen: Any = _Disturbed(adapter, condition)
        found = unit_features(task, only_test, seen, data_sha256=loaded.data_sha256, cache=cache, progress=progress)
        yield table(linear_scores(task, probe.head, found.values[test]), found.valid[test])


def linear_scores(task: Task, linear: LinearMap, features: np.ndarray) -> np.ndarray:
    """What the probe with that map says of features (n, D): float32, shaped as `Probe.score`."""
    score = (features - linear.centre) / linear.scale @ linear.weight.T + linear.bias
    if task.kind == "panel":
        from scipy.special import log_softmax

        for columns in questions(task.classes).values():
            score[:, columns] = log_softmax(score[:, columns], axis=1)
    return (score if task.kind in ("multiclass", "multilabel", "panel") else score[:, 0]).astype(np.float32)


class _LazyTokens(Mapping[int, Tokens]):
    """Tokens by record index; index + k · n is the record under condition number k, encoded when asked for."""

    def __init__(self, clean: Mapping[int, Tokens], n: int, encode: Callable[[int, int], Tokens]) -> None:
        self._clean, self._n, self._encode = clean, n, encode

    def __getitem__(self, index: int) -> Tokens:
        k, i = divmod(index, self._n)
        return self._encode(k, i) if k else self._clean[i]

    def __iter__(self) -> Iterator[int]:
        return iter(self._clean)

    def __len__(self) -> int:
        return len(self._clean)


def _ask_peaks(
    loaded: LoadedTask,
    adapter: Any,
    possible: Sequence[Condition],
    cache: Path | None,
    progress: Callable[[Iterable], Iterable],
) -> Iterator[Predictions]:
    task, data = loaded.task, loaded.data
    n = len(data.records)
    train, val, test = ([i for i, r in enumerate(data.records) if r.split == s] for s in ("train", "val", "test"))

    def disturbed(k: int, i: int) -> Recording:
        recording = recording_of(task, data, data.records[i])
        return possible[k - 1](recording) if k else recording

    every = [k * n + i for k in range(len(possible) + 1) for i in test]
    if hasattr(adapter, "peaks_s"):
        at = {
            index: np.sort(np.asarray(adapter.peaks_s(disturbed(*divmod(index, n))), float))
            for index in progress(every)
        }
        found = {index: (times, np.ones(len(times))) for index, times in at.items()}
    else:
        clean = record_tokens(
            task, data, adapter, data_sha256=loaded.data_sha256, cache=cache, progress=progress
        ).tokens
        tokens = _LazyTokens(clean, n, lambda k, i: adapter.features([disturbed(k, i)])[0])
        truth_s = {i: np.sort(data.time_s[data.record == i]) for i in clean}
        found = peak_probe(tokens, truth_s, train=train, val=val, test=list(progress(every))).found
    for k in range(len(possible) + 1):
        mine = {i: found[k * n + i] for i in test}
        yield peak_predictions_of(task, data, model=adapter.id, found=mine, groups={}, seed=0)


def lines_of(curves: Mapping[str, Any]) -> list[str]:
    """The content of a robustness.json as text: the metric with its interval, and the change from undisturbed with its own."""
    lines = [f"{curves['task']} · {curves['model']}: {curves['metric']}, noise {curves['noise']}"]
    for row in curves["conditions"]:
        value = f"{_text(row['value'])} [{_text(row['low'])}, {_text(row['high'])}]"
        c = row["change"]
        change = (
            ""
            if row["family"] == "none"
            else f"  {_text(c['value'], '+')} [{_text(c['low'], '+')}, {_text(c['high'], '+')}]"
        )
        lines.append(f"  {row['family']:<9} {row['label']:<27} {value}{change}")
    return lines + [f"  left out: {key} ({why})" for key, why in curves["left_out"].items()]


def _text(value: float | None, sign: str = "") -> str:
    return "–" if value is None else f"{value:{sign}.3f}"


def read_curves(path: Path) -> dict[str, Any]:
    """The content of a robustness.json. Raises ReadError when it is not one."""
    hint = "Point at a file that `benchecg robustness` wrote."
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReadError(str(path), "robustness", f"unreadable ({error})", "needed JSON", hint) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT or content.keys() != _FIELDS:
        raise ReadError(str(path), "format", "another one", f"needed the fields of {FORMAT}", hint)
    return content


def find_curves(root: Path) -> list[dict[str, Any]]:
    """Every robustness.json under `root`, by path."""
    return [read_curves(path) for path in sorted(root.rglob(CURVES_FILE))]
