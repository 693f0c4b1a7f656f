"""Metrics of peak finding: whole records, times in seconds, one-to-one matching, counts summed over the test set.

The one matcher is `xecg.signal.peaks.match` (inclusive tolerance). F1 = 2TP/(2TP+FP+FN), Se = TP/(TP+FN), PPV = TP/(TP+FP), at
±10, ±75 and ±150 ms (150 ms is the match window of ANSI/AAMI EC57), each for the full record and, as `aami_…`, without the first
300 s, which EC57 leaves for learning. A pair belongs to the scored part when its true peak does.
"""

from __future__ import annotations

import numpy as np

from xecg.signal import peaks

__all__ = ["PEAK_NAMES", "PEAK_SCALES", "TOLERANCES_S", "peak_counts", "peak_metrics", "peak_record_f1"]

TOLERANCES_S = (0.010, 0.075, 0.150)
_SKIPPED_S = {"": 0.0, "aami_": 300.0}
_RECORD_TOLERANCE_S = 0.075  # of the per-record F1 and of the timing errors
_BASE = tuple(
    f"{part}{metric}_{tolerance * 1000:.0f}ms"
    for part in _SKIPPED_S
    for tolerance in TOLERANCES_S
    for metric in ("f1", "se", "ppv")
)
PEAK_NAMES = (*_BASE, "record_f1_75ms", "timing_bias_ms", "timing_error_ms")
PEAK_SCALES = {"timing_bias_ms": "any", "timing_error_ms": "positive"}
_N_COUNTS = 3 * len(TOLERANCES_S) * len(_SKIPPED_S)


def peak_record_f1(truth_s: np.ndarray, found_s: np.ndarray) -> float:
    """F1 of one record at ±75 ms; NaN without any peak."""
    return peaks.match(truth_s, found_s, _RECORD_TOLERANCE_S).f1


def peak_counts(truth_s: np.ndarray, found_s: np.ndarray) -> np.ndarray:
    """All that `peak_metrics` sums of one record, float64 (n,).

    TP, FP, FN of each part and tolerance; then per-record F1 and 1 where it is defined; then sums of found - truth (s), of its
    size, and the number of pairs.
    """
    truth_s, found_s = np.asarray(truth_s, float), np.asarray(found_s, float)
    by_tolerance = [peaks.match(truth_s, found_s, t) for t in TOLERANCES_S]
    counts: list[float] = []
    for skipped in _SKIPPED_S.values():
        for m in by_tolerance:
            lone = np.delete(found_s, m.pairs[:, 1])
            hit = int((truth_s[m.pairs[:, 0]] >= skipped).sum())
            counts += [hit, int((lone >= skipped).sum()), int((truth_s >= skipped).sum()) - hit]
    chosen = by_tolerance[TOLERANCES_S.index(_RECORD_TOLERANCE_S)]
    defined = not np.isnan(chosen.f1)
    errors = chosen.errors_s
    return np.array([*counts, chosen.f1 if defined else 0.0, defined, errors.sum(), np.abs(errors).sum(), len(errors)])


def peak_metrics(sums: np.ndarray) -> np.ndarray:
    """`PEAK_NAMES` as float64 (..., names) from (weighted) sums of `peak_counts` (..., n); 0/0 is NaN."""
    tp, fp, fn = np.moveaxis(sums[..., :_N_COUNTS].reshape(*sums.shape[:-1], -1, 3), -1, 0)
    f1, defined, signed, absolute, pairs = np.moveaxis(sums[..., _N_COUNTS:], -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        rates = np.stack([2 * tp / (2 * tp + fp + fn), tp / (tp + fn), tp / (tp + fp)], axis=-1)
        rest = np.stack([f1 / defined, 1000 * signed / pairs, 1000 * absolute / pairs], axis=-1)
    return np.concatenate([rates.reshape(*sums.shape[:-1], -1), rest], axis=-1)
