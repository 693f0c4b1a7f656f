"""Intervals and comparisons."""

from benchecg.stats.coverage import FEW, coverage_note, simulated_coverage
from benchecg.stats.jackknife import (
    GROUPS,
    Difference,
    Estimate,
    Spread,
    estimate,
    facts,
    holm,
    left_out,
    nested,
    paired_difference,
    spread,
)

__all__ = [
    "FEW",
    "GROUPS",
    "Difference",
    "Estimate",
    "Spread",
    "coverage_note",
    "estimate",
    "facts",
    "holm",
    "left_out",
    "nested",
    "paired_difference",
    "simulated_coverage",
    "spread",
]
