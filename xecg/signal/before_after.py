"""A recording before and after preprocessing, lead by lead: what the filters took away, and what a model sees."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xecg.errors import ShapeError, SpecError
from xecg.signal._figures import FOOTER, figure_class, picture_path, save
from xecg.signal.frontend import ECGFrontend, ModelInput
from xecg.signal.leads import canonical_lead
from xecg.signal.recording import Recording
from xecg.signal.spec import PRESETS, SignalSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw"]

_MOST_LEADS = 12
_RAW, _PROCESSED = "#6b6b6b", "#1f4e9c"
_LEAD, _HEAD, _FOOT, _SIDE, _WIDTH = 1.5, 0.85, 0.75, 0.9, 13.0  # inches


def draw(
    recording: Recording,
    result: ModelInput,
    spec: SignalSpec,
    path: str | Path,
    *,
    seconds: float = 10.0,
    dpi: int = 100,
) -> Path:
    """Draw `recording` and `result`, which is `preprocess(recording, spec)`; return the path written (.png, .pdf or
    .svg by its suffix; atomic).

    A panel a lead, at most 12, in the order of the spec; raw in mV above, processed below, each with its own scale
    that holds all that is drawn. Up to 2 × `seconds` are drawn whole; of a longer record the first and the last
    `seconds`, so that both edges show. Masked samples are not drawn. Causal output is drawn when it comes, so it
    lies late by the delay that the title states. The title has no identity. Raises SpecError for a wish that cannot
    be drawn, ShapeError when result and spec do not belong together, XECGError when matplotlib is not installed.
    """
    path = picture_path(path)
    if not (seconds > 0 and np.isfinite(seconds) and 30 <= dpi <= 1200):
        raise SpecError(f"seconds, dpi are {seconds}, {dpi}; needed a positive number of seconds and 30..1200")
    front = ECGFrontend(spec, in_rate=recording.rate, leads=recording.leads)
    wanted = (len(spec.leads), front.output_length(recording.signal.shape[1]))
    if result.x.shape != wanted or result.mask.shape != wanted:
        raise ShapeError(
            f"result has shape {result.x.shape}; the recording and the spec give {wanted}: pass preprocess(recording, spec)"
        )
    return save(_figure(recording, result, front, seconds), path, dpi)


def _pairs(recording: Recording, spec: SignalSpec) -> list[tuple[int, int]]:
    """(input row, output row) of every lead that both have, by name."""
    rows = {canonical_lead(name).lower(): row for row, name in enumerate(recording.leads)}
    names = [canonical_lead(name).lower() for name in spec.leads]
    return [(rows[name], row) for row, name in enumerate(names) if name in rows]


def _spans(duration_s: float, seconds: float) -> list[tuple[float, float]]:
    if duration_s <= 2 * seconds:
        return [(0.0, duration_s)]
    return [(0.0, seconds), (duration_s - seconds, duration_s)]


def _figure(recording: Recording, result: ModelInput, front: ECGFrontend, seconds: float) -> Figure:
    pairs = _pairs(recording, front.spec)
    drawn = pairs[:_MOST_LEADS]
    spans = _spans(recording.duration_s, seconds)
    height = _HEAD + _FOOT + _LEAD * len(drawn)
    figure = figure_class()(figsize=(_WIDTH, height), facecolor="white")
    panels = figure.add_gridspec(
        len(drawn), len(spans), left=_SIDE / _WIDTH, right=1 - 0.2 / _WIDTH, bottom=_FOOT / height,
        top=1 - _HEAD / height, hspace=0.28, wspace=0.04,
    )  # fmt: skip
    unit = "z" if "zscore" in front.spec.normalise else "mV"
    for place, (before, after) in enumerate(drawn):
        strips = (
            (recording.signal[before], recording.mask[before], recording.rate, _RAW, "raw mV"),
            (result.x[after], result.mask[after], front.out_rate, _PROCESSED, f"out {unit}"),
        )
        for column, span in enumerate(spans):
            cell = panels[place, column].subgridspec(2, 1, hspace=0.0)
            for half, (values, mask, rate_hz, colour, label) in enumerate(strips):
                axes = figure.add_subplot(cell[half])
                last = place == len(drawn) - 1 and half == 1
                _strip(axes, np.where(mask, values, np.nan), rate_hz, span, spans, colour=colour, times=last)
                if column == 0:
                    axes.set_ylabel(label, fontsize=7, color=colour)
                else:
                    axes.tick_params(labelleft=False)
                if half == 0:
                    axes.set_title(front.spec.leads[after], loc="left", fontsize=9, fontweight="bold", pad=2)
    _words(figure, recording, front, len(drawn), len(pairs), height)
    return figure


def _piece(values: np.ndarray, rate_hz: float, span: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Times in seconds and values of the samples within `span`."""
    first, end = (int(np.ceil(at * rate_hz - 1e-6)) for at in span)
    part = values[first : max(end, first + 1)]
    return (first + np.arange(len(part))) / rate_hz, part


def _strip(
    axes: Axes,
    values: np.ndarray,
    rate_hz: float,
    span: tuple[float, float],
    spans: list[tuple[float, float]],
    *,
    colour: str,
    times: bool,
) -> None:
    axes.plot(*_piece(values, rate_hz, span), color=colour, linewidth=0.8)
    seen = np.concatenate([_piece(values, rate_hz, s)[1] for s in spans])
    seen = seen[np.isfinite(seen)]
    if seen.size:
        room = max(0.08 * float(np.ptp(seen)), 1e-3)
        axes.set_ylim(float(seen.min()) - room, float(seen.max()) + room)
    else:
        axes.set_ylim(-1, 1)
        axes.text(0.5, 0.5, "masked", transform=axes.transAxes, ha="center", va="center", fontsize=8, color=colour)
    axes.set_xlim(*span)
    axes.grid(True, color="#e4e4e4", linewidth=0.5)
    axes.locator_params(axis="y", nbins=3)
    axes.tick_params(labelsize=6.5, length=2, labelbottom=times)
    if times:
        axes.set_xlabel("s", fontsize=8)


def _words(figure: Figure, recording: Recording, front: ECGFrontend, drawn: int, shared: int, height: float) -> None:
    name = next((n for n, preset in PRESETS.items() if preset == front.spec), "own specification")
    parts = [f"{name} ({front.spec.hash})", f"{front.in_rate:g} Hz to {front.out_rate:g} Hz", _filters(front.spec)]
    if front.delay_s > 0:
        parts.append(f"output late by {front.delay_s * 1000:.0f} ms")
    parts.append(f"{drawn} of {shared} leads" if drawn < shared else f"{drawn} lead{'s' * (drawn != 1)}")
    title = "   ".join(parts)
    if recording.meta.get("synthetic"):
        title = "SYNTHETIC   " + title
    ink: dict[str, Any] = {"va": "center"}
    figure.text(_SIDE / _WIDTH, 1 - 0.28 / height, title, fontsize=11, fontweight="bold", **ink)
    length = f"{recording.duration_s:.5g} s in all; above raw, below processed; masked samples are not drawn"
    figure.text(_SIDE / _WIDTH, 1 - 0.53 / height, length, fontsize=8, **ink)
    figure.text(1 - 0.2 / _WIDTH, 0.15 / height, FOOTER, fontsize=8, ha="right", **ink)


def _filters(spec: SignalSpec) -> str:
    words = []
    for f in spec.filters:
        edges = {"bandpass": f"{f.low_hz}–{f.high_hz} Hz", "lowpass": f"below {f.high_hz} Hz"}
        words.append(edges.get(f.kind, f"above {f.low_hz} Hz" if f.kind == "highpass" else f"without {f.low_hz} Hz"))
    return ", ".join([*words, spec.normalise] if spec.normalise != "none" else words) or "no filter"
