"""Two checks for a sceptic: are these the data they should be, and do the predictions give the score that the run says?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchecg.predictions import read_predictions
from benchecg.results import PREDICTIONS_FILE, read_result
from benchecg.running import LoadedTask
from benchecg.scoring import score

__all__ = ["rescore", "verify"]


def rescore(folder: Path) -> dict[str, Any] | None:
    """The headline of a run computed again from its predictions alone; `same`: everything equals what the run stored.

    None when the run gave no score. Raises ReadError when the result or the predictions cannot be read.
    """
    result = read_result(folder)
    if result.predictions is None:
        return None
    again = score(read_predictions(folder / PREDICTIONS_FILE))
    same = all(again[name] == getattr(result, name) for name in again)
    headline = again["metrics"][result.task["metric"]]
    facts = {"task": result.task["id"], "model": result.model["id"], "metric": result.task["metric"]}
    return {**facts, **headline, "same": same}


def verify(loaded: LoadedTask) -> Iterator[dict[str, Any]]:
    """One row per part of the data: its label counts, and a verdict against the published ones ("DIFFERS: …" when they differ)."""
    task, data = loaded.task, loaded.data
    base = {"task": task.id, "complete": data.complete, "split_sha256": loaded.split_sha256}
    for part in task.expected:
        counts = task.counts(data, *part.splits)
        different = {n: want for n, want in part.counts.items() if counts[n] != want}
        verdict = f"equal to {part.source}"
        if different and data.complete:
            verdict = (
                "DIFFERS: expected " + " ".join(f"{n} {want:,}" for n, want in different.items()) + f" ({part.source})"
            )
        elif different:
            verdict = f"a subset: {len(data.records):,} of {task.full_records or 0:,} records"
        yield {**base, "part": part.part, "counts": counts, "verdict": verdict}
    if not task.expected:
        whole = "synthetic" if task.synthetic else "no published counts to compare with"
        yield from (
            {**base, "part": split, "counts": task.counts(data, split), "verdict": whole}
            for split in ("train", "val", "test")
        )
