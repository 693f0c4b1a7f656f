"""Two models on the same units: paired differences per task, Holm over the tasks."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchecg.predictions import Predictions, read_predictions
from benchecg.profiles import profile_of
from benchecg.results import PREDICTIONS_FILE, find_results, read_result
from benchecg.stats import holm
from xecg.errors import SpecError

__all__ = ["compare"]


def compare(root: Path, a: str, b: str, *, profile: str = "corrected") -> list[dict[str, Any]]:
    """One row per task that both models have predictions for: the difference a - b of its headline metric.

    root: folder of runs; those of `profile` count. The authors profile has no intervals. Rows: task, profile, metric,
    higher_is_better, value, low, high, p, p_holm, better ("a", "b" or None: unresolved).
    Raises SpecError when they share no task, or when the predictions are not of the same units.
    """
    runs = {model: _runs_of(root, model, profile) for model in (a, b)}
    shared = sorted(runs[a].keys() & runs[b].keys())
    if not shared:
        raise SpecError(f"{a} and {b} have no scored task in common under {root}; run both on one task first")
    rows = [_row(read_predictions(runs[a][task]), read_predictions(runs[b][task])) for task in shared]
    known = [row for row in rows if row["p"] is not None]
    for row, adjusted in zip(known, holm([row["p"] for row in known])):
        row["p_holm"] = adjusted
        if adjusted < 0.05:
            row["better"] = "a" if (row["value"] > 0) == row["higher_is_better"] else "b"
    return rows


def _runs_of(root: Path, model: str, profile: str) -> dict[str, Path]:
    results = [(folder, read_result(folder)) for folder in find_results(root)]
    results = [(folder, r) for folder, r in results if r.profile == profile]
    found = {
        r.task["id"]: folder / PREDICTIONS_FILE for folder, r in results if r.model["id"] == model and r.predictions
    }
    if not found:
        scored = ", ".join(sorted({r.model["id"] for _, r in results if r.predictions})) or "none"
        raise SpecError(
            f"there is no scored run of {model!r} in the {profile} profile under {root}; models with scores there: {scored}"
        )
    if not all(r.validated for _, r in results if r.model["id"] == model):
        raise SpecError(
            f"{model} is not validated against its origin: its features may not be the published model's. Run "
            "`benchecg validate-adapter` on it with --reference, then run it again (its features come from the cache)"
        )
    return found


def _row(a: Predictions, b: Predictions) -> dict[str, Any]:
    facts = a.facts
    same = all(np.array_equal(x, y, equal_nan=x.dtype.kind == "f") for x, y in zip(a.asked(), b.asked()))
    if not same or (a.facts.task, a.facts.version) != (b.facts.task, b.facts.version):
        raise SpecError(
            f"the runs of {facts.task} were not scored on the same units; run both models on the same data and task version"
        )
    difference = profile_of(facts.profile).difference(a, b)
    row = {
        "task": facts.task,
        "profile": facts.profile,
        "metric": facts.metric,
        "higher_is_better": facts.higher_is_better,
    }
    return {**row, **asdict(difference), "p_holm": None, "better": None}
