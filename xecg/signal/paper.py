"""A recording on ECG paper: 25 mm/s, 10 mm/mV, millimetre grid, calibration pulse. Written as PNG, PDF or SVG at true
size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xecg.errors import SpecError
from xecg.signal._figures import FOOTER, figure_class, picture_path, save
from xecg.signal.leads import STANDARD_LEADS
from xecg.signal.recording import Recording

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw"]

_LINE_S = 10.0  # s of signal on a line
_MOST_S = 120.0  # s, longest picture
_COLUMNS = (("I", "II", "III"), ("aVR", "aVL", "aVF"), ("V1", "V2", "V3"), ("V4", "V5", "V6"))
_RHYTHM = "II"
_MARGIN, _PULSE, _HEADER, _FOOT = 8.0, 12.0, 12.0, 8.0  # mm
_LABEL = 5.0  # mm kept free above a trace for its name
_NEAREST, _FARTHEST = 20.0, 60.0  # mm between baselines
_PAPER, _FINE, _BOLD, _INK = "#fffafa", "#f6d5d5", "#e8a3a3", "#1a1a1a"


@dataclass(frozen=True)
class _Piece:
    """A stretch of one lead: the words over it, where it starts on its line (s), and the values in mV (NaN: none)."""

    name: str
    at_s: float
    values: np.ndarray


def draw(
    recording: Recording,
    path: str | Path,
    *,
    start_s: float = 0.0,
    seconds: float | None = None,
    mm_per_s: float = 25.0,
    mm_per_mv: float = 10.0,
    dpi: int = 150,
) -> Path:
    """Draw `recording` from `start_s` on and return the path written (.png, .pdf or .svg by its suffix; atomic).

    All twelve leads: the usual 3 × 4 sheet, a quarter of the time each, over a rhythm strip of lead II. Otherwise one
    row a lead, lines of 10 s under each other. seconds: default 10 for twelve leads, else what there is up to 30; at
    most 120. Each lead is drawn about its median; masked samples are not drawn. The title has no identity: leads,
    time, rate, and "synthetic" if so. Raises SpecError for a wish that cannot be drawn and XECGError when matplotlib
    is not installed.
    """
    path = picture_path(path)
    if not (0 < mm_per_s <= 200 and 0 < mm_per_mv <= 100 and 30 <= dpi <= 1200):
        raise SpecError(
            f"mm_per_s, mm_per_mv, dpi are {mm_per_s}, {mm_per_mv}, {dpi}; needed up to 200, 100 and 30..1200"
        )
    sheet = set(STANDARD_LEADS) <= set(recording.leads)
    seconds = (_LINE_S if sheet else 3 * _LINE_S) if seconds is None else seconds
    if not 0 < seconds <= _MOST_S or not 0 <= start_s < recording.duration_s:
        raise SpecError(
            f"start_s, seconds are {start_s}, {seconds}; needed a start within {recording.duration_s:g} s and up to {_MOST_S:g} s"
        )
    first = round(start_s * recording.rate)
    seconds = min(seconds, (recording.signal.shape[1] - first) / recording.rate)
    lines = _sheet(recording, first, seconds) if sheet else _rows(recording, first, seconds)
    figure = _figure(lines, recording, start_s, seconds, mm_per_s, mm_per_mv)
    return save(figure, path, dpi)


def _values(recording: Recording, row: int, first: int, count: int) -> np.ndarray:
    values = np.where(recording.mask[row], recording.signal[row].astype(np.float64), np.nan)[first : first + count]
    return values - (np.nanmedian(values) if np.isfinite(values).any() else 0.0)


def _sheet(recording: Recording, first: int, seconds: float) -> list[list[_Piece]]:
    """Three lines of four leads, then lead II over the whole width; lines of 10 s."""
    lines: list[list[_Piece]] = []
    total = round(seconds * recording.rate)
    for begin in range(0, total, round(_LINE_S * recording.rate)):
        count = min(total - begin, round(_LINE_S * recording.rate))
        whole = {lead: _values(recording, recording.leads.index(lead), first + begin, count) for lead in STANDARD_LEADS}
        late = f"  {(first + begin) / recording.rate:.4g} s" if begin else ""
        edges = np.linspace(0, count, 5).round().astype(int)
        for k in range(3):
            parts = [(column[k], a, b) for column, a, b in zip(_COLUMNS, edges[:-1], edges[1:])]
            pieces = [_Piece(lead, a / recording.rate, whole[lead][a:b]) for lead, a, b in parts]
            lines.append([replace(pieces[0], name=pieces[0].name + late) if k == 0 else pieces[0], *pieces[1:]])
        lines.append([_Piece(_RHYTHM, 0.0, whole[_RHYTHM])])
    return lines


def _rows(recording: Recording, first: int, seconds: float) -> list[list[_Piece]]:
    total, size = round(seconds * recording.rate), round(_LINE_S * recording.rate)
    lines = []
    for begin in range(0, max(total, 1), size):
        for row, lead in enumerate(recording.leads):
            late = f"  {(first + begin) / recording.rate:.4g} s" if begin and row == 0 else ""
            lines.append([_Piece(lead + late, 0.0, _values(recording, row, first + begin, min(size, total - begin)))])
    return lines


def _figure(
    lines: list[list[_Piece]], recording: Recording, start_s: float, seconds: float, mm_per_s: float, mm_per_mv: float
) -> Figure:
    reach = [_reach(line, mm_per_mv) for line in lines]
    gaps = [float(np.clip(down + up + _LABEL, _NEAREST, _FARTHEST)) for (_, down), (up, _) in pairwise(reach)]
    top = min(max(reach[0][0] + _LABEL, 12.0), _FARTHEST) + _HEADER
    bottom = min(max(reach[-1][1], 8.0), _FARTHEST) + _FOOT
    height = 5 * np.ceil((top + sum(gaps) + bottom) / 5)
    width = 5 * np.ceil((2 * _MARGIN + _PULSE + min(seconds, _LINE_S) * mm_per_s) / 5)
    width = max(width, 120.0)
    figure = figure_class()(figsize=(width / 25.4, height / 25.4), facecolor=_PAPER)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height), facecolor=_PAPER)
    axes.set_axis_off()
    _grid(axes, width, height)
    y = height - top
    for line, gap in zip(lines, [*gaps, 0.0]):
        _line(axes, line, y, recording.rate, mm_per_s, mm_per_mv)
        y -= gap
    _words(axes, width, height, recording, start_s, seconds, f"{mm_per_s:g} mm/s   {mm_per_mv:g} mm/mV")
    return figure


def _reach(line: list[_Piece], mm_per_mv: float) -> tuple[float, float]:
    """How far a line's traces go above and below its baseline, mm; at least the calibration pulse."""
    values = np.concatenate([p.values for p in line])
    values = values[np.isfinite(values)]
    up, down = (max(values.max(), 0.0), max(-values.min(), 0.0)) if values.size else (0.0, 0.0)
    return max(up, 1.0) * mm_per_mv, down * mm_per_mv


def _grid(axes: Axes, width: float, height: float) -> None:
    for step, colour, thick in ((1, _FINE, 0.3), (5, _BOLD, 0.5)):
        axes.vlines(np.arange(0, width + 1, step), 0, height, color=colour, linewidth=thick, zorder=0)
        axes.hlines(np.arange(0, height + 1, step), 0, width, color=colour, linewidth=thick, zorder=0)


def _line(axes: Axes, line: list[_Piece], y: float, rate: float, mm_per_s: float, mm_per_mv: float) -> None:
    ink: dict[str, Any] = {"color": _INK, "linewidth": 0.8, "solid_joinstyle": "round", "zorder": 2}
    pulse = np.array([0, 2, 2, 7, 7, 9]) + _MARGIN
    axes.plot(pulse, y + mm_per_mv * np.array([0, 0, 1, 1, 0, 0]), **ink)
    for piece in line:
        x = _MARGIN + _PULSE + piece.at_s * mm_per_s
        axes.plot(x + np.arange(len(piece.values)) / rate * mm_per_s, y + mm_per_mv * piece.values, **ink)
        if piece.at_s:
            axes.plot([x, x], [y - 4, y + 4], color=_INK, linewidth=0.6, zorder=2)
        start = piece.values[: max(1, round(8 / mm_per_s * rate))]
        clear = np.nanmax(start) * mm_per_mv if np.isfinite(start).any() else 0.0
        axes.text(
            x + 1.0, y + max(clear, 2.0) + 1.5, piece.name, fontsize=9, fontweight="bold", color=_INK, va="bottom", zorder=3,
            bbox={"facecolor": _PAPER, "edgecolor": "none", "pad": 0.6, "alpha": 0.8},
        )  # fmt: skip


def _words(
    axes: Axes, width: float, height: float, recording: Recording, start_s: float, seconds: float, scale: str
) -> None:
    count = len(recording.leads)
    title = f"{count} lead{'s' * (count != 1)}   {start_s:g}–{start_s + seconds:.4g} s   {recording.rate:g} Hz"
    if recording.meta.get("synthetic"):
        title = "SYNTHETIC   " + title
    label: dict[str, Any] = {"color": _INK, "zorder": 3, "bbox": {"facecolor": _PAPER, "edgecolor": "none", "pad": 1.0}}
    axes.text(_MARGIN, height - 5, title, fontsize=10, va="center", **label)
    axes.text(_MARGIN, 4, scale, fontsize=8, va="center", **label)
    axes.text(width - _MARGIN, 4, FOOTER, fontsize=8, va="center", ha="right", **label)
