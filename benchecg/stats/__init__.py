"""Intervals and comparisons."""

from benchecg.stats.bootstrap import RESAMPLES, Difference, Estimate, draw_weights, estimate, holm, paired_difference
from benchecg.stats.coverage import FEW, coverage_note, simulated_coverage

__all__ = [
    "FEW",
    "RESAMPLES",
    "Difference",
    "Estimate",
    "coverage_note",
    "draw_weights",
    "estimate",
    "holm",
    "paired_difference",
    "simulated_coverage",
]
