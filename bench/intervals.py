"""How often a 95 % interval over patients holds the truth, by simulation: the benchmark's own, and those it was chosen from.

`python -m bench intervals --json FILE`, some two minutes on one thread. Patients are drawn from populations again and again; truth is
the statistic of a very large draw.

beats     records of about 2,300 beats in three classes as concentrated as in the MIT-BIH Arrhythmia Database: share of records that
          show a class, mean and deviation of the log of its share of a record's beats, and largest share are those of its 44 records
          that are not paced. The classifier's sensitivity differs from record to record. Macro F1, F1 of S and of V, accuracy.
compare   the same beats, and a second classifier half of whose sensitivity is the first's: difference of macro F1, and of F1 of S.
peaks     records in which a detector misses and invents few peaks, but in few records most: pooled F1.
exams     patients with one to three exams, a fifth of them positive; what a patient's exams share moves the score: AUROC.
ages      patients with one to a dozen exams and an age, guessed with an error that differs between patients: RSMAPE, MAE, correlation.
survival  one exam a patient, most censored: C-index.

Chosen from (Efron and Tibshirani 1993, chapters 12-14), on macro F1 of beats and AUROC of exams: percentile; the same drawn out by t
over normal, t of the degrees of freedom of `benchecg.stats.jackknife`; BCa (acceleration by leaving out one patient); studentised
(standard error of each replicate by the infinitesimal jackknife); logit (normal, standard deviation of the replicates on the logit
scale); studentised logit (both); jackknife with normal quantiles, and with Student's t of n - 1. `jackknife` is what results print.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from bench.harness import commit, machine
from benchecg.metrics import REGRESSION_NAMES, SCALES, Statistic, macro, precision_recall_f1, regression
from benchecg.stats import GROUPS, Spread, left_out, spread

__all__ = [
    "CLUSTERS",
    "COMPARED",
    "METHODS",
    "POPULATIONS",
    "Sample",
    "beats",
    "draw_weights",
    "exams",
    "intervals",
    "study",
]

CLUSTERS = {
    16: 4_000,
    22: 4_000,
    54: 4_000,
    200: 2_000,
    2_000: 1_000,
}  # patients → simulated studies of the benchmark's interval
COMPARED = {16: 1_000, 22: 1_000, 54: 2_000, 200: 1_000}  # of the others, which take a thousand resamples each
_RESAMPLES = 1_000
_LEVEL, _NORMAL = 0.95, 1.959963984540054
_CELLS = 2_000_000
_SMALL = 1e-6
_EDGE, _LEAST_ERROR = (
    1e-3,
    4.0,
)  # of the studentised logit: replicates near 0 or 1 have no error of their own to speak of


@dataclass(frozen=True, eq=False)
class Left:
    """Studies of n patients. value: (studies, metrics); left: (studies, metrics, groups) without each group.

    rarest: mean number of units of the rarest class, infinite without classes.
    """

    value: np.ndarray
    left: np.ndarray
    rarest: float = np.inf


@dataclass(frozen=True, eq=False)
class Population:
    """metrics: name → scale of `benchecg.metrics.scales`. draw: generator, studies, patients → `Left`.

    truth: draws whose mean it is, and patients of each. share: of the studies.
    """

    metrics: dict[str, str]
    draw: Callable[[np.random.Generator, int, int], Left]
    truth: tuple[int, int] = (10, 40_000)
    share: float = 1.0


# Populations of which everything is a sum over patients


def _additive(
    sums: Callable[[np.random.Generator, tuple[int, int]], np.ndarray], values: Callable[[np.ndarray], np.ndarray],
    rarest: Callable[[np.ndarray], float], rng: np.random.Generator, studies: int, n: int,
) -> Left:  # fmt: skip
    drawn = sums(rng, (studies, n))
    groups = drawn.reshape(studies, min(n, GROUPS), -1, drawn.shape[-1]).sum(2) if n % GROUPS == 0 else drawn
    pooled = groups.sum(1)
    return Left(values(pooled), np.moveaxis(values(pooled[:, None] - groups), -1, 1), rarest(pooled))


def _share(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Of each record's beats in N, S and V."""
    share = np.zeros((*shape, 3))
    for column, (present, centre, spread_, most) in ((1, (0.73, -5.1, 2.0, 0.78)), (2, (0.75, -3.9, 2.3, 0.34))):
        drawn = np.exp(rng.normal(centre, spread_, shape)).clip(0, most)
        share[..., column] = np.where(rng.random(shape) < present, drawn, 0)
    share[..., 0] = 1 - share[..., 1:].sum(-1).clip(0, 0.95)
    return share / share.sum(-1, keepdims=True)


def _found(rng: np.random.Generator, truth: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(…, 3, 4) counts by true and found class; the last column, no prediction, stays empty."""
    counts = np.zeros((*truth.shape, 4))
    for c in range(3):
        hit = rng.binomial(truth[..., c], right[..., c])
        others = [k for k in range(3) if k != c]
        first = rng.binomial(truth[..., c] - hit, (0.6, 0.8, 0.8)[c])
        counts[..., c, c], counts[..., c, others[0]], counts[..., c, others[1]] = (
            hit,
            first,
            truth[..., c] - hit - first,
        )
    return counts


def _sensitivity(rng: np.random.Generator, shape: tuple[int, ...], *, poor: float = 1.0) -> np.ndarray:
    return np.stack([rng.beta(a / poor, b, shape) for a, b in ((40, 1), (3, 2), (8, 1.5))], -1)


def _beat_counts(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    total = rng.normal(2_290, 470, shape).clip(1_500, 3_400)
    truth = rng.poisson(total[..., None] * _share(rng, shape))
    return _found(rng, truth, _sensitivity(rng, shape))


def _beat_sums(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return _beat_counts(rng, shape).reshape(*shape, 12)


def _beat_values(sums: np.ndarray) -> np.ndarray:
    counts = sums.reshape(*sums.shape[:-1], 3, 4)
    f1 = precision_recall_f1(counts)[2]
    accuracy = np.trace(counts[..., :3], axis1=-2, axis2=-1) / counts.sum((-2, -1))
    return np.stack([macro(f1), f1[..., 1], f1[..., 2], accuracy], -1)


def _two_sums(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    one = _beat_counts(rng, shape)
    truth = one.sum(-1).astype(int)
    shared = np.diagonal(one[..., :3], axis1=-2, axis2=-1) / np.maximum(truth, 1)
    other = _found(rng, truth, (shared + _sensitivity(rng, shape, poor=1.2)) / 2)
    return np.concatenate([one.reshape(*shape, 12), other.reshape(*shape, 12)], -1)


def _two_values(sums: np.ndarray) -> np.ndarray:
    return (_beat_values(sums[..., :12]) - _beat_values(sums[..., 12:]))[..., :2]


def _peak_sums(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """(…, 3): found, invented, missed."""
    total = rng.normal(2_290, 470, shape).clip(1_500, 3_400).astype(int)
    missed = rng.binomial(total, np.exp(rng.normal(-7.5, 2.2, shape)).clip(0, 0.6))
    invented = rng.poisson(total * np.exp(rng.normal(-7.5, 2.0, shape)).clip(0, 0.6))
    return np.stack([total - missed, invented, missed], -1).astype(float)


def _peak_values(sums: np.ndarray) -> np.ndarray:
    hit, invented, missed = np.moveaxis(sums, -1, 0)
    return (2 * hit / (2 * hit + invented + missed))[..., None]


def _age_sums(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """(…, 11), as `benchecg.metrics.regression_sums` of a patient's exams, ages about 58."""
    count = 1 + rng.poisson(np.exp(rng.normal(0, 1, shape)).clip(0, 12))
    age = rng.normal(58, 16, shape).clip(18, 95)
    steady, wild = rng.normal(0, 7, shape), 5 * np.exp(rng.normal(0, 0.5, shape))
    sums = np.zeros((*shape, 11))
    for k in range(int(count.max())):
        there = (k < count).astype(float)
        error = 55 + 0.6 * (age - 58) + steady + wild * rng.normal(size=shape) - age
        y, p = age - 58, age + error - 58
        term = np.abs(error) / (age + np.abs(age + error))
        each = (np.ones(shape), term, np.ones(shape), np.abs(error), error, error**2, y, y * y, p, p * p, y * p)
        sums += there[..., None] * np.stack(each, -1)
    return sums


def _age_values(sums: np.ndarray) -> np.ndarray:
    return regression(sums)[..., [REGRESSION_NAMES.index(n) for n in ("rsmape", "mae", "pearson_r")]]


# Populations scored by pairs of exams


def _exam_draw(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """score, positive and negative, each (…, 3): a patient has one to three exams, which may differ."""
    there = np.arange(3) < rng.integers(1, 4, shape)[..., None]
    ill = np.repeat((rng.random(shape) < 0.2)[..., None], 3, -1)
    truth = np.where(rng.random((*shape, 3)) < 0.1, rng.random((*shape, 3)) < 0.2, ill)
    score = rng.normal(0, 0.7, shape)[..., None] + rng.normal(0, 0.7, (*shape, 3)) + 1.8 * truth
    return score, truth & there, ~truth & there


def _exam_left(rng: np.random.Generator, studies: int, n: int) -> Left:
    """All pairs less those that a group has a part in, those within it counted once."""
    score, positive, negative = _exam_draw(rng, (studies, n))
    groups = min(n, GROUPS)
    score, positive, negative = (x.reshape(studies, groups, -1) for x in (score, positive, negative))
    flat = score.reshape(studies, -1)
    order = np.argsort(flat, axis=1)
    p, q = (np.take_along_axis(x.reshape(studies, -1), order, 1).astype(float) for x in (positive, negative))
    won = p * np.cumsum(q, 1) + q * (p.sum(1, keepdims=True) - np.cumsum(p, 1))
    back = np.empty_like(won)
    np.put_along_axis(back, order, won, 1)
    inside = ((score[..., :, None] > score[..., None, :]) & positive[..., :, None] & negative[..., None, :]).sum(
        (-2, -1)
    )
    pairs = won.sum(1) / 2
    up, down = positive.sum(-1), negative.sum(-1)
    left = pairs[:, None] - back.reshape(studies, groups, -1).sum(-1) + inside
    ups, downs = up.sum(1, keepdims=True), down.sum(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        value = pairs / (ups * downs)[:, 0]
        return Left(value[:, None], (left / ((ups - up) * (downs - down)))[:, None], float(ups.mean()))


def _survival_draw(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """time, event and risk of one exam a patient."""
    hazard = rng.normal(0, 1, shape)
    death, end = rng.exponential(np.exp(-hazard)), rng.exponential(0.6, shape)
    return np.minimum(death, end), death <= end, hazard + rng.normal(0, 1.2, shape)


def _survival_left(rng: np.random.Generator, studies: int, n: int) -> Left:
    time, event, risk = _survival_draw(rng, (studies, n))
    comparable = (time[:, :, None] < time[:, None]) & event[:, :, None]
    right = comparable & (risk[:, :, None] > risk[:, None])
    groups = min(n, GROUPS)
    totals = []
    for pairs in (right, comparable):
        blocks = pairs.reshape(studies, groups, n // groups, groups, n // groups).sum((2, 4))
        own = np.diagonal(blocks, axis1=1, axis2=2)
        whole = blocks.sum((1, 2))
        totals.append((whole, whole[:, None] - blocks.sum(1) - blocks.sum(2) + own))
    (good, good_left), (all_, all_left) = totals
    with np.errstate(invalid="ignore", divide="ignore"):
        return Left((good / all_)[:, None], (good_left / all_left)[:, None], float(event.sum(1).mean()))


POPULATIONS = {
    "beats": Population(
        {"macro_f1": "share", "f1/S": "share", "f1/V": "share", "accuracy": "share"},
        partial(_additive, _beat_sums, _beat_values, lambda s: float(s.reshape(-1, 3, 4).sum(-1).mean(0).min())),
    ),
    "compare": Population(
        {"macro_f1": "any", "f1/S": "any"},
        partial(
            _additive, _two_sums, _two_values, lambda s: float(s[:, :12].reshape(-1, 3, 4).sum(-1).mean(0).min())
        ),
    ),
    "peaks": Population({"f1": "share"}, partial(_additive, _peak_sums, _peak_values, lambda s: float(s[:, 0].mean()))),
    "ages": Population(
        {"rsmape": "share", "mae": "positive", "pearson_r": "correlation"},
        partial(_additive, _age_sums, _age_values, lambda s: np.inf),
    ),
    "exams": Population({"auroc": "rank"}, _exam_left),
    "survival": Population({"c_index": "rank"}, _survival_left, truth=(100, 2_000), share=0.5),
}  # fmt: skip


# The intervals that the benchmark's was chosen from, one study at a time


@dataclass(frozen=True, eq=False)
class Sample:
    """values: weights (B, n) → statistic and its standard error, each (B,), NaN where undefined. n: patients."""

    n: int
    values: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def draw_weights(n_clusters: int, *, resamples: int = _RESAMPLES, seed: int = 0) -> np.ndarray:
    """float64 (resamples, n_clusters): how often each cluster was drawn; every row sums to n_clusters."""
    drawn = np.random.Generator(np.random.Philox(key=seed)).integers(0, n_clusters, (resamples, n_clusters))
    flat = drawn + n_clusters * np.arange(resamples)[:, None]
    return np.bincount(flat.ravel(), minlength=resamples * n_clusters).reshape(resamples, n_clusters).astype(float)


def beats(rng: np.random.Generator, n: int) -> Sample:
    """n records: counts of beats by true and found class, N S V."""
    counts = _beat_counts(rng, (n,)).reshape(n, 12)

    def values(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        pooled = (weights @ counts).reshape(-1, 3, 4)
        influence = _gradient(pooled).reshape(len(weights), -1) @ counts.T
        return macro(precision_recall_f1(pooled)[2]), np.sqrt((weights * influence**2).sum(1))

    return Sample(n, values)


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
    score, positive, negative = (x.reshape(-1) for x in _exam_draw(rng, (n,)))
    rows = np.flatnonzero(positive | negative)
    rows = rows[np.argsort(score[rows])]
    truth, patient = positive[rows], rows // 3
    back = np.argsort(patient, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(patient[back]) > 0])

    def values(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        w = weights[:, patient]
        up, down = w * truth, w * ~truth
        below = np.cumsum(down, 1)
        above = up.sum(1, keepdims=True) - np.cumsum(up, 1)
        p, q = up.sum(1), down.sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            area = (up * below).sum(1) / (p * q)
            unit = np.where(
                truth,
                (below / q[:, None] - area[:, None]) / p[:, None],
                (above / p[:, None] - area[:, None]) / q[:, None],
            )
        influence = np.add.reduceat(unit[:, back], starts, axis=1)
        return area, np.sqrt((weights * influence**2).sum(1))

    return Sample(n, values)


@dataclass(frozen=True, eq=False)
class _Study:
    """Of one sample: point and error, replicates and theirs, the values without each patient and the benchmark's interval of them."""

    point: float
    error: float
    replicates: np.ndarray
    errors: np.ndarray
    left: np.ndarray
    spread: Spread


def intervals(
    sample: Sample, *, resamples: int = _RESAMPLES, seed: int = 0, scale: str = "share"
) -> dict[str, tuple[float, float]]:
    """Low and high end by each method; NaN where there is none. scale: of the benchmark's interval."""
    (point,), (error,) = sample.values(np.ones((1, sample.n)))
    replicates, errors = sample.values(draw_weights(sample.n, resamples=resamples, seed=seed))
    known = np.isfinite(replicates) & np.isfinite(errors)
    left = left_out(Statistic(("x",), sample.n, lambda w: sample.values(w)[0][:, None]))[:, 0]
    if not np.isfinite(point) or known.sum() < resamples / 2:
        return dict.fromkeys(METHODS, (float("nan"), float("nan")))
    own = spread(np.array(point), left, scale)
    s = _Study(float(point), float(error), replicates[known], errors[known], left, own)
    ends = {name: method(s) for name, method in METHODS.items()}
    ends["jackknife, normal"], ends["jackknife, t of n - 1"] = _plain(s, scale, _NORMAL), _plain(s, scale, None)
    return ends


def _tails() -> np.ndarray:
    return np.array([(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])


def _percentile(s: _Study) -> tuple[float, float]:
    low, high = np.quantile(s.replicates, _tails())
    return float(low), float(high)


def _drawn_out(s: _Study) -> tuple[float, float]:
    from scipy.special import stdtrit

    low, high = _percentile(s)
    factor = 1.0 if np.isnan(s.spread.df) else float(stdtrit(s.spread.df, _tails()[1])) / _NORMAL
    return s.point - factor * (s.point - low), s.point + factor * (high - s.point)


def _bca(s: _Study) -> tuple[float, float]:
    from scipy.special import ndtr, ndtri

    away = np.nanmean(s.left) - s.left[np.isfinite(s.left)]
    total = (away**2).sum()
    bend = (away**3).sum() / (6 * total**1.5) if total > 0 else 0.0
    share = ((s.replicates < s.point).mean() + (s.replicates <= s.point).mean()) / 2
    shift = ndtri(np.clip(share, 1 / len(s.replicates), 1 - 1 / len(s.replicates)))
    z = shift + ndtri(_tails())
    low, high = np.quantile(s.replicates, ndtr(shift + z / (1 - bend * z)))
    return float(low), float(high)


def _studentised(s: _Study) -> tuple[float, float]:
    low, high = np.quantile((s.replicates - s.point) / np.maximum(s.errors, _SMALL), _tails())
    return float(s.point - high * s.error), float(s.point - low * s.error)


def _logit(s: _Study) -> tuple[float, float]:
    from scipy.special import expit, logit

    inside = np.clip(s.replicates, _SMALL, 1 - _SMALL)
    low, high = expit(
        logit(np.clip(s.point, _SMALL, 1 - _SMALL)) + _NORMAL * np.array([-1, 1]) * logit(inside).std(ddof=1)
    )
    return float(low), float(high)


def _studentised_logit(s: _Study) -> tuple[float, float]:
    from scipy.special import expit, logit

    p, r = (np.clip(v, _EDGE, 1 - _EDGE) for v in (s.point, s.replicates))
    scale = s.error / (p * (1 - p))
    if not scale > 0:
        return s.point, s.point
    t = (logit(r) - logit(p)) / np.maximum(s.errors / (r * (1 - r)), scale / _LEAST_ERROR)
    low, high = np.quantile(t, _tails())
    return float(expit(logit(p) - high * scale)), float(expit(logit(p) - low * scale))


def _jackknife(s: _Study) -> tuple[float, float]:
    return float(s.spread.low), float(s.spread.high)


def _plain(s: _Study, scale: str, quantile: float | None) -> tuple[float, float]:
    """About the value itself, without the shift; Student's t of n - 1 where there is no quantile."""
    from scipy.special import stdtrit

    onto, back = SCALES[scale]
    reach = float(s.spread.error) * (quantile or float(stdtrit(len(s.left) - 1, _tails()[1])))
    return float(back(onto(np.array(s.point)) - reach)), float(back(onto(np.array(s.point)) + reach))


METHODS = {
    "percentile": _percentile,
    "percentile, drawn out": _drawn_out,
    "BCa": _bca,
    "studentised": _studentised,
    "logit": _logit,
    "studentised logit": _studentised_logit,
    "jackknife, normal": _jackknife,
    "jackknife, t of n - 1": _jackknife,
    "jackknife": _jackknife,
}


# The study


def study(*, repeats: float = 1.0, report: Callable[[dict[str, Any]], None] = lambda row: None) -> dict[str, Any]:
    """Coverage of every interval by population, metric and number of patients. repeats: of the simulated studies."""
    rows = []
    for row in _rows(repeats):
        rows.append(row)
        report(row)
    return {"level": _LEVEL, "resamples": _RESAMPLES, "rows": rows, "machine": machine(), "commit": commit()}


def _rows(repeats: float) -> Iterator[dict[str, Any]]:
    truths = {}
    for name, population in POPULATIONS.items():
        truth = _truth(population)
        truths[name] = truth[0]
        for n, times in CLUSTERS.items():
            times = max(2, round(repeats * population.share * times))
            done, ends, rarest = 0, [], []
            step = max(1, _CELLS // (n * (n if name == "survival" else 12)))
            while done < times:
                drawn = population.draw(np.random.default_rng([1, n, done]), min(step, times - done), n)
                done += len(drawn.value)
                rarest.append(drawn.rarest)
                ends.append(
                    [spread(drawn.value[:, i], drawn.left[:, i], s) for i, s in enumerate(population.metrics.values())]
                )
            for i, metric in enumerate(population.metrics):
                both = np.concatenate([np.stack([each[i].low, each[i].high], 1) for each in ends])
                yield _row(name, metric, n, "jackknife", float(truth[i]), both, float(np.mean(rarest)))
    for name, sample, metric, scale in (("beats", beats, "macro_f1", "share"), ("exams", exams, "auroc", "rank")):
        for n, times in COMPARED.items():
            found: dict[str, list[tuple[float, float]]] = {method: [] for method in METHODS if method != "jackknife"}
            for number in range(max(2, round(repeats * times))):
                drawn_ends = intervals(sample(np.random.default_rng([2, n, number]), n), seed=number, scale=scale)
                for method in found:
                    found[method].append(drawn_ends[method])
            for method, each in found.items():
                yield _row(name, metric, n, method, float(truths[name]), np.array(each), None)


def _truth(population: Population) -> np.ndarray:
    draws, n = population.truth
    return np.mean([population.draw(np.random.default_rng([0, k]), 1, n).value[0] for k in range(draws)], 0)


def _row(
    population: str, metric: str, n: int, method: str, truth: float, ends: np.ndarray, rarest: float | None
) -> dict[str, Any]:
    """Shares are of the intervals that could be made; undefined: of those that could not, for want of a class. width: the median."""
    made = np.isfinite(ends).all(1)
    undefined, ends = float(1 - made.mean()), ends[made]
    held = (ends[:, 0] <= truth) & (truth <= ends[:, 1])
    below, above = (ends[:, 1] < truth).mean(), (ends[:, 0] > truth).mean()
    coverage = float(held.mean())
    return {
        "population": population, "metric": metric, "clusters": n, "method": method, "studies": len(ends), "truth": truth,
        "coverage": coverage, "standard_error": float(np.sqrt(coverage * (1 - coverage) / len(ends))), "too_low": float(below),
        "too_high": float(above), "width": float(np.median(ends[:, 1] - ends[:, 0])), "undefined": undefined,
        "rarest": rarest if rarest is not None and np.isfinite(rarest) else None,
    }  # fmt: skip
