"""From predictions alone to everything that is printed: metrics with intervals, support, confusion, records, warnings."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from benchecg.metrics import confusion, macro, peak_record_f1, precision_recall_f1
from benchecg.metrics.statistic import predicted_class
from benchecg.predictions import Predictions
from benchecg.profiles import profile_of
from benchecg.stats import Estimate, coverage_note
from benchecg.subgroups import subgroup_table

__all__ = ["FEW_CLUSTERS", "FEW_EFFECTIVE", "FEW_POSITIVES", "score"]

FEW_POSITIVES = 30  # units of a class below which its interval is printed with a warning
FEW_CLUSTERS = 20  # patients below which every interval is
FEW_EFFECTIVE = 2.0  # degrees of freedom below which an interval is said to rest on hardly anybody


def score(predictions: Predictions) -> dict[str, Any]:
    """The scored part of a result: `metrics`, `support`, `confusion`, `per_record`, `subgroups`, `warnings`, of JSON types."""
    profile = profile_of(predictions.facts.profile)
    estimates = profile.estimates(predictions)
    support = _support(predictions)
    return {
        "metrics": {name: asdict(e) for name, e in estimates.items()},
        "support": support,
        "confusion": _confusion(predictions),
        "per_record": _per_record(predictions),
        "subgroups": subgroup_table(predictions, estimates[predictions.facts.metric]) if profile.subgroups else [],
        "warnings": _warnings(predictions, support, estimates),
    }


def _members(p: Predictions) -> dict[str, np.ndarray]:
    """Class → bool (n,), the units of it."""
    if p.facts.kind == "regression":
        return {}
    if p.facts.kind == "survival":
        return {p.facts.classes[1]: p.y[:, 1] == 1}
    if p.facts.kind == "peaks":
        return {p.facts.classes[0]: p.y == 1}
    if p.facts.kind in ("multilabel", "panel"):
        return {name: p.y[:, i] == 1 for i, name in enumerate(p.facts.classes)}
    return {name: p.y == i for i, name in enumerate(p.facts.classes)}


def _support(p: Predictions) -> dict[str, Any]:
    cluster = p.cluster()
    classes = {n: {"units": int(m.sum()), "patients": len(np.unique(cluster[m]))} for n, m in _members(p).items()}
    peaks = p.facts.kind == "peaks"
    return {
        "units": len(p.asked()[0]),
        "without_prediction": 0 if peaks else int((~p.valid).sum()),
        "patients": len(np.unique(cluster)),
        "records": len(np.unique(p.record_id)),
        "classes": classes,
    }


def _confusion(p: Predictions) -> list[list[int]] | None:
    if p.facts.kind != "multiclass":
        return None
    return confusion(p.y.astype(int), predicted_class(p.score, p.valid), len(p.facts.classes)).tolist()


def _per_record(p: Predictions) -> list[dict[str, Any]] | None:
    if p.facts.kind == "peaks":
        return _peak_records(p)
    if not p.facts.per_record or p.facts.kind != "multiclass":
        return None
    truth, found, n = p.y.astype(int), predicted_class(p.score, p.valid), len(p.facts.classes)
    rows = []
    for record in np.unique(p.record_id):
        counts = confusion(truth[p.record_id == record], found[p.record_id == record], n)
        f1 = precision_recall_f1(counts)[2]
        rows.append(
            {
                "record": str(record),
                "units": int(counts.sum()),
                "correct": int(np.trace(counts)),
                "macro_f1": _number(float(macro(f1))),
                "classes": dict(zip(p.facts.classes, counts.sum(1).tolist())),
                "f1": dict(zip(p.facts.classes, [_number(v) for v in f1])),
            }
        )
    return rows


def _peak_records(p: Predictions) -> list[dict[str, Any]]:
    """F1 and hits of each record at ±75 ms."""
    rows = []
    for record in np.unique(p.record_id):
        inside = p.record_id == record
        truth_s, found_s = p.t_start[inside & (p.y == 1)], p.t_start[inside & (p.y != 1)]
        f1 = _number(peak_record_f1(truth_s, found_s))
        hit = 0 if f1 is None else round(f1 * (len(truth_s) + len(found_s)) / 2)
        name = p.facts.classes[0]
        facts = {"record": str(record), "units": len(truth_s), "correct": hit, "macro_f1": f1}
        rows.append({**facts, "classes": {name: len(truth_s)}, "f1": {name: f1}})
    return rows


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _warnings(p: Predictions, support: dict[str, Any], estimates: dict[str, Estimate]) -> list[str]:
    lines = []
    note = coverage_note(p.facts.kind, support["patients"])
    if note and estimates[p.facts.metric].low is not None:
        lines.append(note)
    if support["patients"] < FEW_CLUSTERS:
        lines.append(f"only {support['patients']} patients (fewer than {FEW_CLUSTERS}): read every interval with care")
    for name, n in support["classes"].items():
        if n["units"] < FEW_POSITIVES:
            lines.append(f"class {name} has only {n['units']} test units (fewer than {FEW_POSITIVES})")
        elif n["patients"] < FEW_CLUSTERS:
            lines.append(f"class {name} comes from only {n['patients']} patients (fewer than {FEW_CLUSTERS})")
    if support["without_prediction"]:
        lines.append(f"{support['without_prediction']} units have no prediction and count as wrong")
    for name, e in estimates.items():
        if name != p.facts.metric and name.partition("/")[0] not in ("f1", "auroc"):
            continue
        if e.value is not None and e.undefined:
            lines.append(f"{name} has no interval: without one of its patients it has no value, and means leave it out")
        elif e.df is not None and e.df < FEW_EFFECTIVE:
            lines.append(
                f"the interval of {name} rests on {e.df:.1f} patients in effect: another sample may lie far from it"
            )
    return lines
