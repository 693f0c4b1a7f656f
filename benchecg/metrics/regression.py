"""Metrics of a number per unit, from sums per cluster: the value without a patient is that of a difference of sums."""

from __future__ import annotations

import numpy as np

__all__ = ["REGRESSION_NAMES", "REGRESSION_SCALES", "regression", "regression_sums", "rsmape_terms"]

REGRESSION_NAMES = ("rsmape", "mae", "r2", "pearson_r", "bias_slope", "bias")
REGRESSION_SCALES = {
    "mae": "positive",
    "r2": "explained",
    "pearson_r": "correlation",
    "bias_slope": "any",
    "bias": "any",
}


def rsmape_terms(truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    """|y - p| / (|y| + |p|) per unit, the terms of RSMAPE; NaN only where both are 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.abs(truth - found) / (np.abs(truth) + np.abs(found))


def regression_sums(truth: np.ndarray, found: np.ndarray, cluster: np.ndarray, n_clusters: int) -> np.ndarray:
    """Sums float64 (n_clusters, 11) over the units of each cluster, all that `regression` needs.

    truth is taken about its mean over all units, for the sums of squares to keep their digits.
    """
    truth, found = truth.astype(float), found.astype(float)
    term = rsmape_terms(truth, found)
    centre = truth.mean() if len(truth) else 0.0
    y, p, error = truth - centre, found - centre, found - truth
    columns = (
        np.ones_like(y), np.nan_to_num(term), ~np.isnan(term), np.abs(error), error, error**2, y, y * y, p, p * p, y * p,
    )  # fmt: skip
    return np.stack([np.bincount(cluster, weights=c, minlength=n_clusters) for c in columns], axis=1)


def regression(sums: np.ndarray) -> np.ndarray:
    """`REGRESSION_NAMES` as float64 (..., 6) from (weighted) sums (..., 11).

    r2 = 1 - SSE/SST. bias_slope = slope of (p - y) on y: -1 for a constant prediction, 0 for none. NaN where undefined.
    """
    n, term, n_term, absolute, error, squared, y, yy, p, pp, yp = np.moveaxis(sums, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        var_y, var_p, cov = yy - y * y / n, pp - p * p / n, yp - y * p / n
        values = (
            term / n_term,
            absolute / n,
            1 - squared / var_y,
            cov / np.sqrt(var_y * var_p),
            cov / var_y - 1,
            error / n,
        )
    return np.where(np.isfinite(np.stack(values, -1)), np.stack(values, -1), np.nan)
