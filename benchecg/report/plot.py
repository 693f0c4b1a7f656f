"""A small interval plot as inline SVG: one row a model, a dot and its 95 % interval on a common axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

__all__ = ["axis", "digits", "interval_plot"]

_WIDTH, _ROW, _LABEL, _MARGIN = 420, 24, 130, 16  # user units: readable at phone width, not huge on a desk


def interval_plot(rows: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """SVG text of rows (name, estimate with value, low, high); estimates without a value are left out."""
    rows = [(name, e) for name, e in rows if e.get("value") is not None]
    if not rows:
        return ""
    ends = [x for _, e in rows for x in (e["value"], e["low"], e["high"]) if x is not None]
    low, high, step = axis(min(ends), max(ends))
    height = _ROW * len(rows) + 34

    def at(x: float) -> float:
        return _LABEL + (x - low) / (high - low) * (_WIDTH - _LABEL - _MARGIN)

    ticks = [low + i * step for i in range(round((high - low) / step) + 1)]
    parts = [f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(_spoken(rows))}">']
    for t in ticks:
        parts.append(f'<line class="grid" x1="{at(t):.1f}" x2="{at(t):.1f}" y1="4" y2="{height - 26}"/>')
        parts.append(f'<text class="tick" x="{at(t):.1f}" y="{height - 8}">{t:.{digits(step)}f}</text>')
    for i, (name, e) in enumerate(rows):
        y = 4 + _ROW * (i + 0.5)
        parts.append(f'<text class="name" x="{_LABEL - 12}" y="{y + 4:.1f}">{escape(_short(name))}</text>')
        if e["low"] is not None:
            parts.append(
                f'<line class="bar" x1="{at(e["low"]):.1f}" x2="{at(e["high"]):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
            )
        parts.append(f'<circle class="dot" cx="{at(e["value"]):.1f}" cy="{y:.1f}" r="4.5"/>')
    return "".join(parts) + "</svg>"


def axis(low: float, high: float) -> tuple[float, float, float]:
    """Round ends and step, with three to seven ticks."""
    span = max(high - low, 1e-3)
    power = 10 ** math.floor(math.log10(span / 3))
    step = next(power * m for m in (1, 2, 5, 10) if span / (power * m) <= 5)
    return math.floor(low / step) * step, math.ceil(high / step + 1e-9) * step, step


def digits(step: float) -> int:
    """Decimals that tell ticks of that step apart."""
    return max(0, -math.floor(math.log10(step) + 1e-9))


def _short(name: str) -> str:
    return name if len(name) <= 15 else name[:14] + "…"


def _spoken(rows: Sequence[tuple[str, dict[str, Any]]]) -> str:
    return "; ".join(f"{name} {e['value']:.3f}" for name, e in rows)
