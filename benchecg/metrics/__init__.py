"""Metrics pooled over the test set, with weights, undefined values as NaN."""

from benchecg.metrics.classification import auroc, average_precision, confusion, macro, precision_recall_f1
from benchecg.metrics.peaks import PEAK_NAMES, TOLERANCES_S, peak_counts, peak_metrics, peak_record_f1
from benchecg.metrics.regression import REGRESSION_NAMES, regression, regression_sums, rsmape_terms
from benchecg.metrics.statistic import KINDS, Statistic, statistic
from benchecg.metrics.survival import concordance, concordance_many

__all__ = [
    "KINDS",
    "PEAK_NAMES",
    "REGRESSION_NAMES",
    "TOLERANCES_S",
    "Statistic",
    "auroc",
    "average_precision",
    "concordance",
    "concordance_many",
    "confusion",
    "macro",
    "peak_counts",
    "peak_metrics",
    "peak_record_f1",
    "precision_recall_f1",
    "regression",
    "regression_sums",
    "rsmape_terms",
    "statistic",
]
