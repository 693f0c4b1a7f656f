"""Metrics pooled over the test set, with weights, undefined values as NaN."""

from benchecg.metrics.classification import auroc, average_precision, confusion, macro, precision_recall_f1
from benchecg.metrics.peaks import PEAK_NAMES, PEAK_SCALES, TOLERANCES_S, peak_counts, peak_metrics, peak_record_f1
from benchecg.metrics.regression import REGRESSION_NAMES, REGRESSION_SCALES, regression, regression_sums, rsmape_terms
from benchecg.metrics.scales import SCALES
from benchecg.metrics.statistic import KINDS, Statistic, statistic
from benchecg.metrics.survival import concordance, concordance_many

__all__ = [
    "KINDS",
    "PEAK_NAMES",
    "PEAK_SCALES",
    "REGRESSION_NAMES",
    "REGRESSION_SCALES",
    "SCALES",
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
