"""Line plots as inline SVG: a few series on one axis, told apart by colour and by the shape of their marks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from textwrap import wrap

from benchecg.report.plot import axis, digits

__all__ = ["MOST_SERIES", "Point", "Series", "curve_plot"]

MOST_SERIES = 6  # more cannot be told apart
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 420, 262, 52, 16, 24, 50  # user units
_LEGEND_ROW = 18
_HAIR = 1e-6
_DODGE = 5  # between series at one named tick, so that no whisker hides another
_TICK_LETTERS, _TICK_ROW = 9, 13  # of a named tick's line


@dataclass(frozen=True)
class Point:
    """x: a number, or the index of a tick label. low, high: whiskers, None without."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Series:
    """name: for the legend. joined: whether a line goes through the points. ranked: where it stands; its colour and mark."""

    name: str
    points: tuple[Point, ...]
    ranked: int = 0
    joined: bool = True


def curve_plot(
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    x_names: Sequence[str] | None = None,
    log_x: bool = False,
    diagonal: bool = False,
    front: Sequence[tuple[float, float]] = (),
    least: tuple[float, float] | None = None,
) -> str:
    """SVG text. x_names: labels of x = 0, 1, …; log_x: decades; diagonal: y = x, dashed; front: points joined by a dashed line.
    least: what the axes of a diagonal hold at least."""
    points = [p for s in series for p in s.points]
    if not points:
        return ""
    y_ends = [v for p in points for v in (p.y, p.low, p.high) if v is not None]
    x_ends = [p.x for p in points]
    if diagonal:
        x_ends = y_ends = [*x_ends, *y_ends, *(least or ())]
    y_low, y_high, y_step = axis(*_within(y_ends))
    x_ticks, place = _x_axis(x_ends, x_names, log_x)
    more = _TICK_ROW * (max(len(lines) for _, lines in x_ticks) - 1)
    bottom, end = _HEIGHT - _BOTTOM, _HEIGHT + more

    def at_x(x: float) -> float:
        return _LEFT + place(x) * (_WIDTH - _LEFT - _RIGHT)

    def at_y(y: float) -> float:
        return bottom - (y - y_low) / (y_high - y_low) * (bottom - _TOP)

    height = end + _LEGEND_ROW * len(series)
    spoken = "; ".join(f"{s.name}: " + ", ".join(f"{p.y:.3f}" for p in s.points) for s in series)
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(f"{y_label} by {x_label}. {spoken}")}">'
    ]
    for i in range(round((y_high - y_low) / y_step) + 1):
        y = y_low + i * y_step
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at_y(y):.1f}" y2="{at_y(y):.1f}"/>')
        parts.append(f'<text class="tick left" x="{_LEFT - 6}" y="{at_y(y) + 4:.1f}">{y:.{digits(y_step)}f}</text>')
    for x, lines in x_ticks:
        parts += [
            f'<text class="tick" x="{at_x(x):.1f}" y="{bottom + 17 + _TICK_ROW * i}">{escape(line)}</text>'
            for i, line in enumerate(lines)
        ]
    parts.append(
        f'<text class="axis" x="{(_LEFT + _WIDTH - _RIGHT) / 2:.1f}" y="{bottom + 36 + more}">{escape(x_label)}</text>'
    )
    parts.append(f'<text class="axis start" x="4" y="13">{escape(y_label)}</text>')
    if diagonal:
        ends = max(x_ticks[0][0], y_low), min(x_ticks[-1][0], y_high)
        parts.append(_path([(at_x(v), at_y(v)) for v in ends], "front"))
    if front:
        parts.append(_path([(at_x(x), at_y(y)) for x, y in front], "front"))
    for row, s in enumerate(series):
        style = f"s{s.ranked % MOST_SERIES}"
        aside = _DODGE * (row - (len(series) - 1) / 2) if x_names is not None else 0.0
        places = [(at_x(p.x) + aside, at_y(p.y)) for p in s.points]
        if s.joined and len(places) > 1:
            parts.append(_path(places, f"line {style}"))
        for p, (x, y) in zip(s.points, places):
            if p.low is not None and p.high is not None:
                parts.append(
                    f'<line class="bar {style}" x1="{x:.1f}" x2="{x:.1f}" y1="{at_y(p.low):.1f}" y2="{at_y(p.high):.1f}"/>'
                )
            parts.append(_mark(x, y, s.ranked, style))
        y = end + _LEGEND_ROW * row + 4
        parts.append(_mark(_LEFT + 5, y, s.ranked, style))
        parts.append(f'<text x="{_LEFT + 16}" y="{y + 4:.1f}">{escape(s.name)}</text>')
    return "".join(parts) + "</svg>"


def _path(places: Sequence[tuple[float, float]], css: str) -> str:
    text = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return f'<polyline class="{css}" points="{text}"/>'


def _mark(x: float, y: float, kind: int, css: str) -> str:
    """Circle, square, diamond, triangle up, triangle down, cross of corners, in turn."""
    shapes = (
        (),
        ((-4, -4), (4, -4), (4, 4), (-4, 4)),
        ((0, -5.5), (5.5, 0), (0, 5.5), (-5.5, 0)),
        ((0, -5), (5, 4), (-5, 4)),
        ((0, 5), (5, -4), (-5, -4)),
        ((-5, -2), (5, -2), (5, 2), (-5, 2)),
    )
    shape = shapes[kind % len(shapes)]
    if not shape:
        return f'<circle class="dot {css}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'
    corners = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in shape)
    return f'<polygon class="dot {css}" points="{corners}"/>'


def _within(ends: Sequence[float]) -> tuple[float, float]:
    """Lowest and highest, this one short of a tick that it would be on: the axis may end there."""
    return min(ends), max(ends) - _HAIR * (max(ends) - min(ends))


def _x_axis(
    ends: Sequence[float], names: Sequence[str] | None, log_x: bool
) -> tuple[list[tuple[float, list[str]]], _Place]:
    """Ticks (value, lines of text) and the map from x to 0…1."""
    if names is not None:
        ticks = [(float(i), wrap(name.replace(",", ""), _TICK_LETTERS)) for i, name in enumerate(names)]
        return ticks, _Place(-0.4, max(len(names) - 1, 1) + 0.4, False)
    if log_x:
        low = math.floor(math.log10(min(ends)))
        high = max(math.ceil(math.log10(max(ends)) - 1e-9), low + 1)
        return [(10.0**k, [f"{10.0**k:g}"]) for k in range(low, high + 1)], _Place(10.0**low, 10.0**high, True)
    start, stop, step = axis(*_within(ends))
    values = [start + i * step for i in range(round((stop - start) / step) + 1)]
    return [(t, [f"{t:.{digits(step)}f}"]) for t in values], _Place(start, stop, False)


@dataclass(frozen=True)
class _Place:
    low: float
    high: float
    log: bool

    def __call__(self, x: float) -> float:
        low, high = (math.log10(self.low), math.log10(self.high)) if self.log else (self.low, self.high)
        return ((math.log10(x) if self.log else x) - low) / (high - low)
