"""How often the benchmark's intervals hold the truth when there are few patients, by simulation (`python -m bench intervals`).

No interval can know the patients that were not drawn: from some twenty of them, with a class in few, it falls short. The share that it
really holds is said beside it.
"""

from __future__ import annotations

__all__ = ["COVERAGE", "FEW", "coverage_note", "simulated_coverage"]

FEW = 50  # patients from which on nothing is said
# population and metric of the study → patients → share of 95 % intervals that held the truth
COVERAGE = {
    ("beats", "macro_f1"): {16: 0.909, 22: 0.921},
    ("peaks", "f1"): {16: 0.917, 22: 0.921},
    ("exams", "auroc"): {16: 0.929, 22: 0.960},
    ("ages", "rsmape"): {16: 0.962, 22: 0.961},
    ("survival", "c_index"): {16: 0.983, 22: 0.988},
}
_LIKE = {
    "multiclass": ("beats", "macro_f1"),
    "peaks": ("peaks", "f1"),
    "regression": ("ages", "rsmape"),
    "survival": ("survival", "c_index"),
}
_EXAMS = ("exams", "auroc")  # for all other kinds
_WORDS = {
    "beats": "classes as concentrated as in MIT-BIH",
    "peaks": "a detector that fails in few records",
    "exams": "one to three exams a patient, a fifth of them positive",
    "ages": "one to a dozen exams a patient",
    "survival": "most patients censored",
}


def _row(kind: str, patients: int) -> tuple[str, int, float]:
    """Population, number of patients and share: of the nearest number that is no larger, of fewer than 16 patients of 16."""
    like = _LIKE.get(kind, _EXAMS)
    n = max((n for n in COVERAGE[like] if n <= patients), default=min(COVERAGE[like]))
    return like[0], n, COVERAGE[like][n]


def simulated_coverage(kind: str, patients: int) -> float | None:
    """Share of 95 % intervals that held the truth with the nearest simulated number of patients that is no larger (of fewer than
    16: with 16, which flatters). None from `FEW` patients on. kind: of a task."""
    return None if patients >= FEW else _row(kind, patients)[2]


def coverage_note(kind: str, patients: int) -> str | None:
    """One line for readers; None from `FEW` patients on."""
    if patients >= FEW:
        return None
    population, n, held = _row(kind, patients)
    return (
        f"{patients} patients: in simulation 95 % intervals from {n} patients held the truth in {held:.0%} of studies "
        f"({_WORDS[population]})"
    )
