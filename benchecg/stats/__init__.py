"""Intervals and comparisons."""

from benchecg.stats.bootstrap import RESAMPLES, Difference, Estimate, draw_weights, estimate, holm, paired_difference

__all__ = ["RESAMPLES", "Difference", "Estimate", "draw_weights", "estimate", "holm", "paired_difference"]
