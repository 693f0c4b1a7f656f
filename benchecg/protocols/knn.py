"""k nearest neighbours by cosine: what the features say without any head. k is chosen on the validation units.

Features are centred with the reference units' mean and scaled to length one. A unit's score is the neighbours' mean label, each
weighted by 1 + cosine, so that ties of votes are broken by nearness. Reference units beyond 20,000 are thinned evenly: a full
search over every beat of a data set costs more than the encoder.
"""

from __future__ import annotations

import numpy as np

from benchecg.protocols.linear_probe import Probe, best_setting, metric_of
from benchecg.tasks.base import Task
from xecg.errors import SpecError

__all__ = ["K_GRID", "MOST_REFERENCES", "knn"]

K_GRID = (1, 3, 5, 10, 20, 50)
MOST_REFERENCES = 20_000
_ROWS = 512  # queries at once


def knn(
    task: Task,
    *,
    features: np.ndarray,
    valid: np.ndarray,
    label: np.ndarray,
    train: np.ndarray,
    val: np.ndarray,
    test: np.ndarray,
) -> Probe:
    """As `linear_probe`, with k in place of C: chosen with train as reference, applied with train and val as reference."""
    fit, choose = train & valid, val & valid
    if not fit.any() or not choose.any():
        raise SpecError(
            f"{int(fit.sum())} training and {int(choose.sum())} validation units have features; needed some of each"
        )
    targets = _targets(task, label)
    scores = _scores(features, targets, fit, val)
    validation = {float(k): metric_of(task, label[val], scores[k], valid[val]) for k in scores}
    k = int(best_setting(validation, higher_is_better=task.higher_is_better, fallback=K_GRID[0]))
    final = _scores(features, targets, fit | choose, test, ks=(k,))[k]
    n_fit = min(int((fit | choose).sum()), MOST_REFERENCES)
    return Probe(final.astype(np.float32), float(k), {f"{c:g}": v for c, v in validation.items()}, True, n_fit)


def _targets(task: Task, label: np.ndarray) -> np.ndarray:
    return np.eye(len(task.classes))[label.astype(int)] if task.kind == "multiclass" else label.astype(float)


def _scores(
    features: np.ndarray, targets: np.ndarray, reference: np.ndarray, query: np.ndarray, ks: tuple[int, ...] = K_GRID
) -> dict[int, np.ndarray]:
    """k → scores of the query units, shaped as `targets`."""
    rows = np.flatnonzero(reference)
    rows = rows[:: -(-len(rows) // MOST_REFERENCES)]
    centre = features[rows].mean(0, dtype=np.float64)
    known, asked = (_unit(features[i] - centre) for i in (rows, np.flatnonzero(query)))
    ks = tuple(k for k in ks if k <= len(rows)) or (len(rows),)
    answers: dict[int, list[np.ndarray]] = {k: [] for k in ks}
    for start in range(0, len(asked), _ROWS):
        likeness = asked[start : start + _ROWS] @ known.T
        near = np.argpartition(-likeness, min(max(ks), len(rows)) - 1, axis=1)[:, : max(ks)]
        order = np.take_along_axis(near, np.argsort(-np.take_along_axis(likeness, near, 1), 1, kind="stable"), 1)
        weight = 1 + np.take_along_axis(likeness, order, 1) + 1e-9
        for k in ks:
            answers[k].append(_mean(targets[rows[order[:, :k]]], weight[:, :k]))
    return {k: np.concatenate(parts) if parts else targets[:0] for k, parts in answers.items()}


def _unit(x: np.ndarray) -> np.ndarray:
    size = np.linalg.norm(x, axis=1, keepdims=True)
    return (x / np.where(size > 1e-12, size, 1.0)).astype(np.float32)


def _mean(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    weight = weight / weight.sum(1, keepdims=True)
    return np.einsum("nk,nk...->n...", weight, values)
