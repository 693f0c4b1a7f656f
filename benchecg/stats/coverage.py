"""How often the benchmark's intervals hold the truth when there are few patients, by simulation (`python -m bench intervals`).

A nominal 95 % interval from some twenty patients is too narrow, whichever bootstrap makes it: the resamples cannot know the patients
that were not drawn. The share that it really holds is said beside it.
"""

from __future__ import annotations

__all__ = ["COVERAGE", "FEW", "coverage_note", "simulated_coverage"]

FEW = 50  # patients from which on nothing is said
# Percentile intervals. "beats": macro F1 of classes as concentrated as in the MIT-BIH Arrhythmia Database; "exams": AUROC of one to
# three exams a patient, a fifth of them positive.
COVERAGE = {"beats": {16: 0.690, 22: 0.739}, "exams": {16: 0.745, 22: 0.803}}
_LIKE = {"multiclass": "beats", "peaks": "beats"}  # kind of task → population, "exams" for all others
_WORDS = {"beats": "classes as concentrated as in MIT-BIH", "exams": "one to three exams a patient"}


def simulated_coverage(kind: str, patients: int) -> float | None:
    """Share of 95 % intervals that held the truth with the nearest simulated number of patients that is no larger (of fewer than
    16: with 16, which flatters). None from `FEW` patients on. kind: of a task."""
    if patients >= FEW:
        return None
    table = COVERAGE[_LIKE.get(kind, "exams")]
    return table[max((n for n in table if n <= patients), default=min(table))]


def coverage_note(kind: str, patients: int) -> str | None:
    """One line for readers; None from `FEW` patients on."""
    held = simulated_coverage(kind, patients)
    if held is None:
        return None
    n = max((n for n in COVERAGE["beats"] if n <= patients), default=16)
    return (
        f"{patients} patients: in simulation 95 % intervals from {n} patients held the truth in {held:.0%} of studies "
        f"({_WORDS[_LIKE.get(kind, 'exams')]})"
    )
