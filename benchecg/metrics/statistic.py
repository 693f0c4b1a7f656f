"""`Statistic`: all metrics of one prediction table as one function of the clusters' weights.

The point estimate is the value at weights of one; without a patient it is the value at a weight of nought there. One code path
computes both, so a score and its interval cannot disagree about what the metric is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from benchecg.metrics.classification import auroc, macro, precision_recall_f1, ranking
from benchecg.metrics.peaks import PEAK_NAMES, PEAK_SCALES, peak_counts, peak_metrics
from benchecg.metrics.regression import REGRESSION_NAMES, REGRESSION_SCALES, regression, regression_sums
from benchecg.metrics.survival import concordance_many
from xecg.errors import SpecError
from xecg.model.head_spec import KINDS, questions

__all__ = ["KINDS", "Statistic", "predicted_class", "statistic"]

_CELLS = 4_000_000  # weights of units held at once: 32 MB of float64


@dataclass(frozen=True, eq=False)
class Statistic:
    """names: one per metric, per-class ones as "f1/V". values: weights (B, clusters) → float64 (B, len(names)), NaN = undefined.

    scales: of `benchecg.metrics.scales`, for the metrics that are not a `share`.
    """

    names: tuple[str, ...]
    n_clusters: int
    values: Callable[[np.ndarray], np.ndarray]
    scales: Mapping[str, str] = field(default_factory=dict)

    def point(self) -> dict[str, float]:
        """The metrics themselves, every cluster once."""
        return dict(zip(self.names, self.values(np.ones((1, self.n_clusters)))[0].tolist()))


def predicted_class(score: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Argmax over columns, int64 (n,); -1 where the unit has no valid prediction. Ties go to the first class."""
    found = np.full(len(score), -1)
    found[valid] = score[valid].argmax(1)
    return found


def statistic(
    kind: str,
    *,
    truth: np.ndarray,
    score: np.ndarray,
    valid: np.ndarray,
    cluster: np.ndarray,
    classes: tuple[str, ...],
    class_sets: Mapping[str, tuple[str, ...]] | None = None,
    record: np.ndarray | None = None,
    time_s: np.ndarray | None = None,
) -> Statistic:
    """The metrics of a task kind over n units.

    truth: class index (n,) for "multiclass", 0/1 (n,) for "binary", 0/1 (n, C) for "multilabel", numbers (n,) for "regression",
    time and event (n, 2) for "survival". A "panel" is several questions with classes of their own, named "question/class": 0/1
    (n, C), NaN in all columns of a question that a unit does not answer.
    score: (n, C), or (n,) where the answer is one number. valid: bool (n,). cluster: int (n,) from 0, the patient of each unit.
    class_sets: extra macro-F1 names → the classes they keep: only units of these true classes count, and a prediction outside
    the set is an error of the true class. For "peaks" a row is a true peak (truth 1) or a found one (truth 0), at `time_s` (s)
    of the record numbered in `record`, each int/float (n,); score and valid are not used.
    Raises SpecError when a kind other than "multiclass" and "peaks" has units without prediction.
    """
    n_clusters = int(cluster.max()) + 1 if len(cluster) else 0
    if kind == "multiclass":
        return _multiclass(
            truth.astype(np.int64), predicted_class(score, valid), cluster, n_clusters, classes, class_sets or {}
        )
    if kind == "peaks":
        if record is None or time_s is None:
            raise SpecError("peaks need the record and the time of every row; pass record and time_s")
        return _peaks(truth == 1, cluster, n_clusters, record, time_s)
    if not valid.all():
        raise SpecError(
            f"{int((~valid).sum())} of {len(valid)} units have no prediction; a {kind} task needs one for every unit, "
            "or the model could leave out what it finds hard"
        )
    if kind == "regression":
        sums = regression_sums(truth, score, cluster, n_clusters)
        return Statistic(REGRESSION_NAMES, n_clusters, lambda w: regression(w @ sums), REGRESSION_SCALES)
    if kind == "survival":
        return _survival(truth.astype(float), score, cluster, n_clusters)
    if kind == "binary":
        return _labels(truth[:, None], score[:, None], cluster, n_clusters, ())
    if kind == "multilabel":
        return _labels(truth, score, cluster, n_clusters, classes)
    if kind == "panel":
        return _panel(truth, score, cluster, n_clusters, classes)
    raise SpecError(f"task kind is {kind!r}; needed one of {', '.join(KINDS)}")


def _multiclass(
    truth: np.ndarray,
    found: np.ndarray,
    cluster: np.ndarray,
    n_clusters: int,
    classes: tuple[str, ...],
    class_sets: Mapping[str, tuple[str, ...]],
) -> Statistic:
    n = len(classes)
    column = np.where(found < 0, n, found)
    cell = (cluster * n + truth) * (n + 1) + column
    counts = np.bincount(cell, minlength=n_clusters * n * (n + 1)).reshape(n_clusters, n, n + 1).astype(float)
    names = ["macro_f1", *class_sets, "accuracy"]
    names += [f"{metric}/{c}" for metric in ("f1", "se", "ppv") for c in classes]
    kept = [[classes.index(c) for c in chosen] for chosen in class_sets.values()]

    def values(weights: np.ndarray) -> np.ndarray:
        pooled = np.einsum("bk,kij->bij", weights, counts)
        ppv, se, f1 = precision_recall_f1(pooled)
        with np.errstate(invalid="ignore"):
            accuracy = np.trace(pooled[..., :n], axis1=-2, axis2=-1) / pooled.sum((-2, -1))
        sets = [macro(precision_recall_f1(_restrict(pooled, keep))[2]) for keep in kept]
        return np.column_stack([macro(f1), *sets, accuracy, f1, se, ppv])

    return Statistic(tuple(names), n_clusters, values)


def _peaks(true: np.ndarray, cluster: np.ndarray, n_clusters: int, record: np.ndarray, time_s: np.ndarray) -> Statistic:
    sums = np.zeros((n_clusters, len(peak_counts(np.zeros(0), np.zeros(0)))))
    for r in np.unique(record):
        rows = record == r
        sums[cluster[rows][0]] += peak_counts(time_s[rows & true], time_s[rows & ~true])
    return Statistic(PEAK_NAMES, n_clusters, lambda w: peak_metrics(w @ sums), PEAK_SCALES)


def _survival(truth: np.ndarray, risk: np.ndarray, cluster: np.ndarray, n_clusters: int) -> Statistic:
    def values(weights: np.ndarray) -> np.ndarray:
        step = max(1, _CELLS // max(1, len(cluster)))
        blocks = [weights[start : start + step, cluster] for start in range(0, len(weights), step)]
        return np.concatenate([concordance_many(truth[:, 0], truth[:, 1], risk, w)[:, None] for w in blocks])

    return Statistic(("c_index",), n_clusters, values, {"c_index": "rank"})


def _restrict(counts: np.ndarray, keep: list[int]) -> np.ndarray:
    rows = counts[..., keep, :]
    inside = rows[..., keep]
    return np.concatenate([inside, (rows.sum(-1) - inside.sum(-1))[..., None]], axis=-1)


def _labels(
    truth: np.ndarray, score: np.ndarray, cluster: np.ndarray, n_clusters: int, classes: tuple[str, ...]
) -> Statistic:
    metrics = ("auroc", "ap")
    names = [f"macro_{m}" for m in metrics] + [f"{m}/{c}" for m in metrics for c in classes]
    if not classes:
        names = list(metrics)

    def values(weights: np.ndarray) -> np.ndarray:
        step = max(1, _CELLS // max(1, len(cluster)))
        blocks = []
        for start in range(0, len(weights), step):
            w = weights[start : start + step, cluster]
            found = [ranking(truth[:, c], score[:, c], w) for c in range(truth.shape[1])]
            each = [np.stack(per_class, 1) for per_class in zip(*found)]
            blocks.append(np.column_stack([*(macro(e) for e in each), *each]) if classes else np.column_stack(each))
        return np.concatenate(blocks)

    return Statistic(tuple(names), n_clusters, values, dict.fromkeys(names, "rank"))


def _panel(
    truth: np.ndarray, score: np.ndarray, cluster: np.ndarray, n_clusters: int, classes: tuple[str, ...]
) -> Statistic:
    """One-vs-rest AUROC of each class over the units that answer its question; their mean per question; the mean of those."""
    asked = questions(classes)
    names = ("mean_auroc", *(f"auroc/{q}" for q in asked), *(f"auroc/{c}" for c in classes))

    def values(weights: np.ndarray) -> np.ndarray:
        step = max(1, _CELLS // max(1, len(cluster)))
        blocks = []
        for start in range(0, len(weights), step):
            each = np.empty((len(weights[start : start + step]), len(classes)))
            for c in range(len(classes)):
                rows = ~np.isnan(truth[:, c])
                each[:, c] = auroc(truth[rows, c], score[rows, c], weights[start : start + step, cluster[rows]])
            per = np.stack([macro(each[:, columns]) for columns in asked.values()], 1)
            blocks.append(np.column_stack([macro(per), per, each]))
        return np.concatenate(blocks)

    return Statistic(names, n_clusters, values, dict.fromkeys(names, "rank"))
