"""Scores as the published scripts compute them. Points only: the scripts print no interval.

The order of the test units is the order of the reference's test loader, which does not shuffle; batches and tiles follow from it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchecg.metrics import auroc, confusion, precision_recall_f1, regression, regression_sums
from benchecg.metrics.statistic import predicted_class
from benchecg.metrics.survival import concordance
from benchecg.predictions import Predictions
from benchecg.reference.settings import SETTINGS
from xecg.model.head_spec import questions
from xecg.signal import peaks

__all__ = [
    "BEAT_TILE_S",
    "GRID_HZ",
    "PEAK_TILE_S",
    "batch_mean_f1",
    "half_probability",
    "on_grid",
    "peak_score",
    "reference_metrics",
    "running_auroc",
]

GRID_HZ = 100.0  # of the published model
BEAT_TILE_S, PEAK_TILE_S = 36.0, 72.0
_PEAK_METRICS = {"f1_10ms": 0.010, "f1_75ms": 0.075}  # called f1_20 and f1_150 by the widths of their windows


def half_probability(logit: np.ndarray, batch: np.ndarray, *, softmax: bool = False) -> np.ndarray:
    """D16: what the reference ranks. logit (n,) or (n, C), batch int (n,) → float16 probabilities as float64.

    Logits are half precision; a batch with a value outside 0..1 is put through a sigmoid (or a softmax over C), others are not.
    """
    from scipy.special import expit
    from scipy.special import softmax as softmax_of

    half = logit.astype(np.float16)
    made = half.copy()
    for number in np.unique(batch):
        rows = batch == number
        if ((half[rows] < 0) | (half[rows] > 1)).any():
            wide = half[rows].astype(np.float32)
            made[rows] = (softmax_of(wide, axis=1) if softmax else expit(wide)).astype(np.float16)
    return made.astype(float)


def _auroc_or_zero(truth: np.ndarray, score: np.ndarray) -> float:
    """0, not undefined, without both classes: torchmetrics keeps it in the mean."""
    return float(np.nan_to_num(auroc(truth, score)[0]))


def batch_mean_f1(truth: np.ndarray, found: np.ndarray, batch: np.ndarray, n_classes: int) -> float:
    """D01: the mean over batches of the mean over classes of the batch's F1, where a class that is not there counts 0."""
    each = []
    for number in np.unique(batch):
        rows = batch == number
        f1 = precision_recall_f1(confusion(truth[rows], found[rows], n_classes))[2]
        each.append(float(np.nan_to_num(f1).mean()))
    return float(np.mean(each)) if each else float("nan")


def running_auroc(truth: np.ndarray, score: np.ndarray, batch: np.ndarray, classes: tuple[str, ...]) -> float:
    """D15: the mean over batches of the metric of everything up to that batch. truth, score (n, C), truth NaN where not asked."""
    asked = questions(classes)
    running = []
    for number in np.unique(batch):
        rows = batch <= number
        per_question = []
        for columns in asked.values():
            known = rows & ~np.isnan(truth[:, columns[0]])
            per_question.append(np.mean([_auroc_or_zero(truth[known, c], score[known, c]) for c in columns]))
        running.append(float(np.mean(per_question)))
    return float(np.mean(running))


def on_grid(time_s: np.ndarray) -> np.ndarray:
    """D12: the nearest sample of the model's own rate, as a time."""
    return np.round(np.asarray(time_s, float) * GRID_HZ) / GRID_HZ


def peak_score(truth_s: np.ndarray, found_s: np.ndarray, tolerance_s: float) -> tuple[int, int, int]:
    """D11: true positives, false positives, true peaks of one tile. Found peaks beside a true one that is taken are not counted as
    false; a tile without true peaks loses its false ones."""
    if not len(truth_s):
        return 0, 0, 0
    pairs = peaks.match(truth_s, found_s, tolerance_s)
    lone = np.delete(np.asarray(found_s, float), pairs.pairs[:, 1])
    far = np.abs(lone[:, None] - np.asarray(truth_s, float)).min(1) > tolerance_s + 1e-9 if len(lone) else np.zeros(0)
    return pairs.true_positive, int(far.sum()), len(truth_s)


def reference_metrics(p: Predictions) -> dict[str, float]:
    """The metrics that the published scripts print of this task, under the names that they have here. NaN: undefined."""
    return _OF_KIND[p.facts.kind](p)


def _batches(p: Predictions) -> np.ndarray:
    return np.arange(len(p.y)) // SETTINGS[p.facts.task].batch


def _tiles(p: Predictions, tile_s: float) -> np.ndarray:
    """Number of the tile of each row, counted through the records; a record's tiles are counted to its last unit."""
    number = np.floor(p.t_start / tile_s).astype(int)
    order = list(dict.fromkeys(p.record_id.tolist()))
    size = {r: int(number[p.record_id == r].max()) + 1 for r in order}
    before = dict(zip(order, np.cumsum([0, *size.values()]).tolist()))
    return number + np.array([before[r] for r in p.record_id.tolist()], dtype=int)


def _multiclass(p: Predictions) -> dict[str, float]:
    found, truth = predicted_class(p.score, p.valid), p.y.astype(int)
    batch = _tiles(p, BEAT_TILE_S) // SETTINGS[p.facts.task].batch
    return {"macro_f1": batch_mean_f1(truth, found, batch, len(p.facts.classes))}


def _multilabel(p: Predictions) -> dict[str, float]:
    score = half_probability(p.score, _batches(p))
    each = {f"auroc/{c}": _auroc_or_zero(p.y[:, i], score[:, i]) for i, c in enumerate(p.facts.classes)}
    return {"macro_auroc": float(np.mean(list(each.values()))), **each}


def _binary(p: Predictions) -> dict[str, float]:
    return {"auroc": _auroc_or_zero(p.y, half_probability(p.score, _batches(p)))}


def _panel(p: Predictions) -> dict[str, float]:
    batch, score = _batches(p), np.empty(p.score.shape)
    for columns in questions(p.facts.classes).values():
        score[:, columns] = half_probability(p.score[:, columns], batch, softmax=True)
    return {"mean_auroc": running_auroc(p.y, score, batch, p.facts.classes)}


def _peaks(p: Predictions) -> dict[str, float]:
    tile = _tiles(p, PEAK_TILE_S)
    result = {}
    for name, tolerance in _PEAK_METRICS.items():
        counts = np.zeros(3)
        for number in np.unique(tile):
            rows = tile == number
            truth, found = on_grid(p.t_start[rows & (p.y == 1)]), on_grid(p.t_start[rows & (p.y != 1)])
            counts += peak_score(truth, found, tolerance)
        result[name] = 2 * counts[0] / counts.sum() if counts.any() else 0.0
    return result


def _regression(p: Predictions) -> dict[str, float]:
    sums = regression_sums(p.y, p.score, np.zeros(len(p.y), int), 1)
    rsmape, mae, r2 = regression(sums)[0, :3].tolist()
    return {"rsmape": rsmape, "mae": mae, "r2": r2}


def _survival(p: Predictions) -> dict[str, float]:
    return {"c_index": concordance(p.y[:, 0], p.y[:, 1], p.score)}


_OF_KIND: dict[str, Callable[[Predictions], dict[str, float]]] = {
    "multiclass": _multiclass,
    "multilabel": _multilabel,
    "binary": _binary,
    "panel": _panel,
    "peaks": _peaks,
    "regression": _regression,
    "survival": _survival,
}
