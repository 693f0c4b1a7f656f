"""How often a 95 % interval holds the truth: five bootstrap intervals over patients, by simulation.

`python -m bench intervals --json FILE`, minutes on one thread. Two populations, patients drawn from each again and again:

beats   records of about 2,300 beats in three classes as concentrated as in the MIT-BIH Arrhythmia Database: share of records that show
        a class, mean and deviation of the log of its share of a record's beats, and largest share are those of its 44 records that are
        not paced. The classifier's sensitivity differs from record to record.
        Statistic: macro F1, pooled over records.
exams   patients with one to three exams, a fifth of them positive; what a patient's exams share moves the score. Statistic: AUROC.

Truth is the statistic of a very large draw. Methods (Efron and Tibshirani 1993, chapters 12-14): percentile; BCa (acceleration by
leaving out one patient); studentised (standard error of each replicate by the infinitesimal jackknife); logit (normal, standard
deviation of the replicates on the logit scale); studentised logit (both). The two studentised ones need a standard error for every
replicate, which most metrics of the benchmark do not have.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.harness import commit, machine
from benchecg.metrics import macro, precision_recall_f1
from benchecg.stats import draw_weights

__all__ = ["CLUSTERS", "METHODS", "Sample", "beats", "exams", "intervals", "study"]

CLUSTERS = {16: 2_000, 22: 2_000, 54: 2_000, 200: 1_000, 2_000: 300}  # patients → simulated studies
_RESAMPLES = 1_000
_LEVEL = 0.95
_TRUTH = 400_000  # patients
_SMALL = 1e-6
_EDGE, _LEAST_ERROR = (
    1e-3,
    4.0,
)  # of the studentised logit: replicates near 0 or 1 have no error of their own to speak of


@dataclass(frozen=True, eq=False)
class Sample:
    """values: weights (B, n) → statistic and its standard error, each (B,), NaN where undefined. n: patients."""

    n: int
    values: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def beats(rng: np.random.Generator, n: int) -> Sample:
    """n records: counts of beats by true and found class, N S V."""
    counts = _beat_counts(rng, n)

    def values(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        pooled = (weights @ counts.reshape(n, -1)).reshape(-1, 3, 4)
        f1 = precision_recall_f1(pooled)[2]
        influence = _gradient(pooled).reshape(len(weights), -1) @ counts.reshape(n, -1).T
        return macro(f1), np.sqrt((weights * influence**2).sum(1))

    return Sample(n, values)


def _beat_counts(rng: np.random.Generator, n: int) -> np.ndarray:
    """(n, 3, 4): the last column, no prediction, stays empty."""
    total = rng.normal(2_290, 470, n).clip(1_500, 3_400)
    share = np.zeros((n, 3))
    for column, (present, centre, spread, most) in ((1, (0.73, -5.1, 2.0, 0.78)), (2, (0.75, -3.9, 2.3, 0.34))):
        drawn = np.exp(rng.normal(centre, spread, n)).clip(0, most)
        share[:, column] = np.where(rng.random(n) < present, drawn, 0)
    share[:, 0] = 1 - share[:, 1:].sum(1).clip(0, 0.95)
    share /= share.sum(1, keepdims=True)
    truth = rng.poisson(total[:, None] * share)
    right = np.stack([rng.beta(a, b, n) for a, b in ((40, 1), (3, 2), (8, 1.5))], 1)
    counts = np.zeros((n, 3, 4))
    for c in range(3):
        hit = rng.binomial(truth[:, c], right[:, c])
        others = [k for k in range(3) if k != c]
        first = rng.binomial(truth[:, c] - hit, (0.6, 0.8, 0.8)[c])
        counts[:, c, c], counts[:, c, others[0]], counts[:, c, others[1]] = hit, first, truth[:, c] - hit - first
    return counts


def _gradient(pooled: np.ndarray) -> np.ndarray:
    """Of the macro F1 with respect to the pooled counts, same shape."""
    square = pooled[..., :3]
    hit = np.diagonal(square, axis1=-2, axis2=-1)
    both = pooled.sum(-1) + square.sum(-2)
    with np.errstate(invalid="ignore", divide="ignore"):
        gain, loss = np.nan_to_num(2 / both, posinf=0), np.nan_to_num(2 * hit / both**2)
    defined = (both > 0).sum(-1)[:, None, None]
    gradient = np.zeros(pooled.shape)
    gradient[..., :3] = -loss[:, None, :]
    gradient -= loss[:, :, None]
    gradient[:, np.arange(3), np.arange(3)] += gain
    return gradient / np.maximum(defined, 1)


def exams(rng: np.random.Generator, n: int) -> Sample:
    """n patients with one to three exams each."""
    count = rng.integers(1, 4, n)
    patient = np.repeat(np.arange(n), count)
    ill = (rng.random(n) < 0.2)[patient]
    truth = np.where(
        rng.random(len(patient)) < 0.1, rng.random(len(patient)) < 0.2, ill
    )  # an exam may differ from the others
    score = rng.normal(0, 0.7, n)[patient] + rng.normal(0, 0.7, len(patient)) + 1.8 * truth
    order = np.argsort(score)
    truth, patient = truth[order], patient[order]
    back = np.argsort(patient, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(patient[back]) > 0])

    def values(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        w = weights[:, patient]
        positive, negative = w * truth, w * ~truth
        below = np.cumsum(negative, 1)
        above = positive.sum(1, keepdims=True) - np.cumsum(positive, 1)
        p, q = positive.sum(1), negative.sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            area = (positive * below).sum(1) / (p * q)
            unit = np.where(
                truth,
                (below / q[:, None] - area[:, None]) / p[:, None],
                (above / p[:, None] - area[:, None]) / q[:, None],
            )
        influence = np.add.reduceat(unit[:, back], starts, axis=1)
        return area, np.sqrt((weights * influence**2).sum(1))

    return Sample(n, values)


def intervals(sample: Sample, *, resamples: int = _RESAMPLES, seed: int = 0) -> dict[str, tuple[float, float]]:
    """Low and high end by each method; NaN where there is none."""
    (point,), (error,) = sample.values(np.ones((1, sample.n)))
    replicates, errors = sample.values(draw_weights(sample.n, resamples=resamples, seed=seed))
    known = np.isfinite(replicates) & np.isfinite(errors)
    replicates, errors = replicates[known], errors[known]
    if not np.isfinite(point) or len(replicates) < resamples / 2:
        return dict.fromkeys(METHODS, (float("nan"), float("nan")))
    return {name: method(sample, point, error, replicates, errors) for name, method in METHODS.items()}


def _tails() -> np.ndarray:
    return np.array([(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])


def _percentile(
    sample: Sample, point: float, error: float, replicates: np.ndarray, errors: np.ndarray
) -> tuple[float, float]:
    low, high = np.quantile(replicates, _tails())
    return float(low), float(high)


def _bca(sample: Sample, point: float, error: float, replicates: np.ndarray, errors: np.ndarray) -> tuple[float, float]:
    from scipy.special import ndtr, ndtri

    left = np.concatenate([sample.values(w)[0] for w in _left_out(sample.n)])
    away = np.nanmean(left) - left[np.isfinite(left)]
    spread = (away**2).sum()
    bend = (away**3).sum() / (6 * spread**1.5) if spread > 0 else 0.0
    share = ((replicates < point).mean() + (replicates <= point).mean()) / 2
    shift = ndtri(np.clip(share, 1 / len(replicates), 1 - 1 / len(replicates)))
    z = shift + ndtri(_tails())
    low, high = np.quantile(replicates, ndtr(shift + z / (1 - bend * z)))
    return float(low), float(high)


def _left_out(n: int) -> list[np.ndarray]:
    """Weights without one patient each, in blocks."""
    step = 100
    blocks = []
    for first in range(0, n, step):
        rows = np.arange(first, min(n, first + step))
        weights = np.ones((len(rows), n))
        weights[np.arange(len(rows)), rows] = 0
        blocks.append(weights)
    return blocks


def _studentised(
    sample: Sample, point: float, error: float, replicates: np.ndarray, errors: np.ndarray
) -> tuple[float, float]:
    t = (replicates - point) / np.maximum(errors, _SMALL)
    low, high = np.quantile(t, _tails())
    return float(point - high * error), float(point - low * error)


def _logit(
    sample: Sample, point: float, error: float, replicates: np.ndarray, errors: np.ndarray
) -> tuple[float, float]:
    from scipy.special import expit, logit, ndtri

    inside = np.clip(replicates, _SMALL, 1 - _SMALL)
    low, high = expit(logit(np.clip(point, _SMALL, 1 - _SMALL)) + ndtri(_tails()) * logit(inside).std(ddof=1))
    return float(low), float(high)


def _studentised_logit(
    sample: Sample, point: float, error: float, replicates: np.ndarray, errors: np.ndarray
) -> tuple[float, float]:
    from scipy.special import expit, logit

    p, r = (np.clip(v, _EDGE, 1 - _EDGE) for v in (point, replicates))
    scale = error / (p * (1 - p))
    if not scale > 0:
        return float(point), float(point)
    t = (logit(r) - logit(p)) / np.maximum(errors / (r * (1 - r)), scale / _LEAST_ERROR)
    low, high = np.quantile(t, _tails())
    return float(expit(logit(p) - high * scale)), float(expit(logit(p) - low * scale))


METHODS = {
    "percentile": _percentile,
    "BCa": _bca,
    "studentised": _studentised,
    "logit": _logit,
    "studentised logit": _studentised_logit,
}
_POPULATIONS: dict[str, Callable[[np.random.Generator, int], Sample]] = {"beats": beats, "exams": exams}


def study(*, repeats: float = 1.0, report: Callable[[dict[str, Any]], None] = lambda row: None) -> dict[str, Any]:
    """Coverage of every method by population and number of patients. repeats: of the simulated studies of `CLUSTERS`."""
    rows = []
    for name, draw in _POPULATIONS.items():
        truth = float(draw(np.random.default_rng(0), _TRUTH).values(np.ones((1, _TRUTH)))[0][0])
        for n, times in CLUSTERS.items():
            found: dict[str, list[tuple[float, float]]] = {method: [] for method in METHODS}
            for number in range(max(2, round(repeats * times))):
                sample = draw(np.random.default_rng([1, n, number]), n)
                for method, ends in intervals(sample, seed=number).items():
                    found[method].append(ends)
            for method, each in found.items():
                rows.append(_row(name, n, method, truth, np.array(each)))
                report(rows[-1])
    return {"level": _LEVEL, "resamples": _RESAMPLES, "rows": rows, "machine": machine(), "commit": commit()}


def _row(name: str, n: int, method: str, truth: float, ends: np.ndarray) -> dict[str, Any]:
    """Shares are of the intervals that could be made; undefined: of those that could not, for want of a class."""
    made = np.isfinite(ends).all(1)
    undefined, ends = float(1 - made.mean()), ends[made]
    held = (ends[:, 0] <= truth) & (truth <= ends[:, 1])
    below, above = (ends[:, 1] < truth).mean(), (ends[:, 0] > truth).mean()
    coverage = float(held.mean())
    return {
        "population": name, "clusters": n, "method": method, "studies": len(ends), "truth": truth, "coverage": coverage,
        "standard_error": float(np.sqrt(coverage * (1 - coverage) / len(ends))), "too_low": float(below),
        "too_high": float(above), "width": float((ends[:, 1] - ends[:, 0]).mean()), "undefined": undefined,
    }  # fmt: skip
