"""What random seeds do to a trained model's figure, beside what the choice of patients does."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from benchecg.report.names import interval, metric_name, number, table
from benchecg.results import Result

__all__ = ["seed_table"]


def seed_table(scored: Sequence[Result]) -> str:
    """A row a model that was trained with several seeds; nothing where none was."""
    rows = []
    for r in scored:
        p = r.protocol
        if p.get("seed_sd") is None:
            continue
        both = {"value": p.get("nested_value"), "low": p.get("nested_low"), "high": p.get("nested_high")}
        of = [number(p.get(f"seed_{name}")) for name in ("mean", "sd", "min", "max")]
        rows.append([escape(r.model["id"]), f"{p['seeds']}", *of, interval(dict(r.headline or {})), interval(both)])
    if not rows:
        return ""
    header = [
        "Model",
        "seeds",
        "mean",
        "SD",
        "least",
        "most",
        "seed 0, patients",
        "mean, patients and seeds",
    ]
    return table(header, rows, caption=f"Seeds: {metric_name(scored[0].task['metric'])}")
