"""From a table of labels to a head that ships: features, linear probe, score on patients it has not seen, one file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchecg.models.base import Tokens
from benchecg.models.xecg import XECGAdapter
from benchecg.predictions import peak_predictions_of, predictions_of
from benchecg.protocols import linear_probe, peak_probe, record_tokens, unit_features
from benchecg.protocols.linear_probe import LinearMap
from benchecg.running import LoadedTask
from benchecg.scoring import score
from benchecg.subgroups import record_facts
from benchecg.tasks.base import Task, TaskData
from xecg.errors import SpecError
from xecg.model import XECG, Head, HeadSpec
from xecg.model.predict import covariates_of
from xecg.signal import Recording

__all__ = ["Fitted", "card_of", "errors_of", "fit_head"]

_SHOWN = {
    "peaks": ("f1_75ms", "se_75ms", "ppv_75ms", "f1_10ms", "timing_error_ms")
}  # of a kind; else its metric and F1


@dataclass(frozen=True, eq=False)
class Fitted:
    """head: fitted on the training and validation patients. scored: `benchecg.scoring.score` of the test patients."""

    head: Head
    scored: dict[str, Any]
    c: float
    units: dict[str, int]


class _Shifted(XECGAdapter):
    """Tokens `after` places later speak for an instant; covariates of the recording stand beside every token."""

    def __init__(self, model: XECG, *, after: int, covariates: tuple[str, ...]) -> None:
        super().__init__(model, id=model.name)
        self._after, self._covariates = after, covariates

    def features(self, recordings: Any) -> list[Tokens]:
        """As `XECGAdapter.features`."""
        return [self._with(t, r) for t, r in zip(super().features(recordings), recordings)]

    def _with(self, tokens: Tokens, recording: Recording) -> Tokens:
        values = tokens.values[self._after :]
        if self._covariates:
            known = np.tile(covariates_of(recording, self._covariates), (len(values), 1))
            values = np.concatenate([values, known], 1)
        n = len(values)
        return Tokens(values, tokens.start_s[:n], tokens.length_s[:n])


def fit_head(
    task: Task,
    data: TaskData,
    model: XECG,
    *,
    unit: str = "",
    after: int = 0,
    covariates: tuple[str, ...] = (),
    progress: Callable[[Iterable], Iterable] = iter,
) -> Fitted:
    """The linear probe of `task` on the frozen tokens of `model`, as a head. after: see `HeadSpec`. Raises SpecError."""
    refused = LoadedTask(task, data, "", "").refusal()
    if refused:
        raise SpecError(f"{task.title}: {refused}")
    adapter = _Shifted(model, after=after, covariates=covariates)
    groups = record_facts(task, data, data_sha256="")
    facts: dict[str, Any] = {"model": model.name, "groups": groups, "seed": 0}
    known: dict[str, Any] = {"after": after, "encoder": model.name, "fingerprint": model.fingerprint}
    units = {name: int(data.in_split(name).sum()) for name in ("train", "val", "test")}
    if task.kind == "peaks":
        given = record_tokens(task, data, adapter, data_sha256="", progress=progress).tokens
        truth_s = {i: np.sort(data.time_s[data.record == i]) for i in given}
        train_r, val_r, test_r = ([i for i, r in enumerate(data.records) if r.split == name] for name in units)
        found = peak_probe(given, truth_s, train=train_r, val=val_r, test=test_r)
        spec = HeadSpec("peaks", task.classes, of="token", heights=found.outputs, threshold=found.theta, **known)
        scored = score(peak_predictions_of(task, data, found=found.found, **facts))
        return Fitted(_head_of(found.head, spec, model), scored, found.c, units)
    features = unit_features(task, data, adapter, data_sha256="", progress=progress)
    train, val, test = (data.in_split(s) for s in ("train", "val", "test"))
    probe = linear_probe(
        task, features=features.values, valid=features.valid, label=data.label, train=train, val=val, test=test
    )
    assert probe.head is not None
    scored = score(predictions_of(task, data, score=probe.score, valid=features.valid[test], **facts))
    spec = HeadSpec(
        task.kind,
        task.classes if task.kind not in ("regression", "survival") else (),
        of="token" if np.isfinite(data.time_s).all() else "record",
        covariates=covariates,
        unit=unit,
        **known,
    )
    return Fitted(_head_of(probe.head, spec, model), scored, probe.c, units)


def errors_of(task: Task, fitted: Fitted, tested_on: str) -> dict[str, Any]:
    """What the head's file keeps of its errors: `Head.errors`, which `xecg predict` states. tested_on: in words."""
    metrics, rows = fitted.scored["metrics"], fitted.scored["per_record"] or []
    shown = _SHOWN.get(task.kind) or (task.metric, *(name for name in metrics if name.startswith("f1/")))
    peaks = task.kind == "peaks"
    by_record = {Path(r["record"]).name: r["macro_f1"] if peaks else r["correct"] / r["units"] for r in rows}
    return {
        "on": f"{tested_on}: {fitted.units['test']:,} {task.unit}s of patients it has not seen",
        "metrics": {name: [metrics[name][k] for k in ("value", "low", "high")] for name in dict.fromkeys(shown)},
        "each": "F1 at ±75 ms" if peaks else f"share of {task.unit}s that it names rightly",
        "by_record": {name: None if v is None else round(v, 4) for name, v in by_record.items()},
    }


def card_of(task: Task, fitted: Fitted, about: str = "") -> str:
    """`about`, then what the head is and its errors on the test patients, of each record where a record holds many units."""
    spec, units, scored = fitted.head.spec, fitted.units, fitted.scored
    lines = [
        about.strip(),
        f"Linear head ({spec.kind}) on frozen tokens of encoder {spec.encoder!r} ({spec.fingerprint}); {task.label_rule}.",
        f"Fitted on {units['train']:,} training and {units['val']:,} validation {task.unit}s, C = {fitted.c:g}"
        f"{_threshold(spec)} chosen on validation; split: {task.split_rule}. "
        f"Errors below: {units['test']:,} {task.unit}s of patients it has not seen.",
        "Research use only, not a medical device.",
        "\n".join(
            ["| metric | value | 95 % interval by patient |", "|---|---|---|", *map(_row, scored["metrics"].items())]
        ),
    ]
    if scored["per_record"]:
        names = task.classes
        peaks = spec.kind == "peaks"
        columns = [f"F1 {n}{' at ±75 ms' if peaks else ''}" for n in names]
        head = f"| record | {task.unit}s | {'found' if peaks else 'correct'} | {' | '.join(columns)} |"
        rows = [
            f"| {Path(r['record']).name} | {r['units']:,} | {r['correct'] / r['units']:.3f} | "
            f"{' | '.join(_text(r['f1'][n]) for n in names)} |"
            for r in scored["per_record"]
        ]
        lines.append("\n".join([head, "|" + "---|" * (3 + len(names)), *rows]))
    return "\n\n".join(line for line in lines if line) + "\n"


def _threshold(spec: HeadSpec) -> str:
    return f" and threshold {spec.threshold:g}" if spec.kind == "peaks" else ""


def _row(item: tuple[str, dict[str, Any]]) -> str:
    name, e = item
    return f"| {name} | {_text(e['value'])} | {_text(e['low'])} to {_text(e['high'])} |"


def _text(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _head_of(linear: LinearMap, spec: HeadSpec, model: XECG) -> Head:
    head = Head(spec, model.config.dim)
    values = {"weight": linear.weight, "bias": linear.bias, "centre": linear.centre, "scale": linear.scale}
    with torch.no_grad():
        for name, value in values.items():
            getattr(head, name).copy_(torch.from_numpy(np.asarray(value)))
    return head.eval()
