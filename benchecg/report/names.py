"""Words and cells that every part of the report shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

__all__ = ["interval", "metric_name", "number", "table"]

_METRIC_NAMES = {
    "macro_f1": "macro F1",
    "macro_f1_4": "macro F1, N S V F",
    "macro_f1_3": "macro F1, N S V",
    "macro_auroc": "macro AUROC",
    "macro_ap": "macro AP",
    "auroc": "AUROC",
    "ap": "average precision",
    "rsmape": "RSMAPE",
    "mae": "MAE",
    "r2": "R²",
    "pearson_r": "Pearson r",
    "bias_slope": "bias slope",
    "bias": "bias",
    "c_index": "C-index",
    "accuracy": "accuracy",
    "f1": "F1",
    "se": "Se",
    "ppv": "PPV",
}


def metric_name(metric: str) -> str:
    """A metric for people to read."""
    if metric.endswith("ms"):
        return _peak_name(metric)
    stem, _, label = metric.partition("/")
    return _METRIC_NAMES.get(stem, stem) + (f" {label}" if label else "")


def _peak_name(metric: str) -> str:
    """Of a peak metric such as aami_f1_75ms."""
    if metric.startswith("timing"):
        return {"timing_bias_ms": "timing bias, ms", "timing_error_ms": "timing error, ms"}[metric]
    *part, stem, tolerance = metric.split("_")
    where = "".join({"aami": " after 300 s", "record": " mean of records"}[p] for p in part)
    return f"{_METRIC_NAMES[stem]} ±{tolerance.removesuffix('ms')} ms{where}"


def number(value: float | None) -> str:
    """Three decimals, one from 10 on, a dash for nothing."""
    if value is None:
        return "–"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def interval(estimate: Mapping[str, Any] | None) -> str:
    """Value in bold and its interval, as HTML."""
    if estimate is None or estimate["value"] is None:
        return "–"
    low, high = number(estimate["low"]), number(estimate["high"])
    return f'<b>{number(estimate["value"])}</b> <span class="ci">[{low}, {high}]</span>'


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str = "") -> str:
    """Cells are HTML already; the first column heads its row."""
    head = "".join(f'<th scope="col">{h}</th>' for h in header)
    lines = "".join(
        f'<tr><th scope="row">{row[0]}</th>' + "".join(f"<td>{cell}</td>" for cell in row[1:]) + "</tr>\n"
        for row in rows
    )
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f'<div class="scroll"><table>{title}<thead><tr>{head}</tr></thead>\n<tbody>\n{lines}</tbody></table></div>\n'
