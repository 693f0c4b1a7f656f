"""A run as one page: `write_report(OUT)` makes OUT/report.html of what is in the folder. No script, nothing is fetched."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from xecg.errors import DataMissing
from xecg.io.atomic import write_text
from xecg.pretrain.progress import read_lines

__all__ = ["write_report"]

_POINTS = 240  # of a line; more are averaged in groups
_W, _H, _LEFT, _RIGHT, _TOP, _BOTTOM = 360, 210, 46, 10, 12, 28


class _Chart(NamedTuple):
    """names: of the log's columns, each with what to call it. mark: a level to draw, and what it means."""

    title: str
    names: dict[str, str]
    note: str = ""
    mark: tuple[float, str] | None = None


_CHARTS = (
    _Chart("Loss", {"loss": "total"}, "What is minimised."),
    _Chart(
        "Parts of the loss",
        {
            "compression": "compression",
            "expansion": "expansion",
            "patch": "patch",
            "tokens": "tokens",
            "pooled": "pooled",
        },
        "Before their weights.",
    ),
    _Chart("Beat heads", {"aux_beat": "beat", "aux_kind": "kind", "aux_values": "values"}, "Before their weight."),
    _Chart(
        "Collapse",
        {"rate_share": "coding rate", "rank_share": "RankMe", "token_spread": "spread in time"},
        "Shares of the largest possible; spread: deviation of unit tokens along time.",
        (0.1, "alarm"),
    ),
    _Chart("Gradient norm", {"gradient": "before clipping"}),
    _Chart("Learning rate", {"rate": "AdamW"}),
    _Chart("Speed", {"records_per_s": "records/s"}),
    _Chart("Waiting for data", {"loading_share": "share of time"}),
)
_PROBES = _Chart(
    "Probes on held-out windows",
    {"heart_rate_r2": "heart rate, R²", "knn_source": "source, nearest", "knn_chance": "source, chance"},
    "Frozen features of patients that no step takes.",
)
_STYLE = """
:root { --ink: #1b2733; --soft: #5a6b7b; --line: #d8dfe6; --paper: #fff; --back: #f4f6f8;
  --s0: #0b63b0; --s1: #b5480f; --s2: #1c7a4d; --s3: #7b4aa3; --s4: #8a6d00; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9fb0c0; --line: #334250; --paper: #17202a;
  --back: #0f161d; --s0: #6cb2f2; --s1: #f0945c; --s2: #5fc793; --s3: #c39be6; --s4: #d9b93b; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1160px; margin: 0 auto; padding: 20px 16px 40px; }
h1 { font-size: 1.5rem; margin: 0 0 4px; } h2 { font-size: 1rem; margin: 0; }
p { margin: 4px 0; } .soft { color: var(--soft); } .bad { color: var(--bad); font-weight: 600; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); gap: 12px; margin: 16px 0; }
.facts div, figure { background: var(--paper); border: 1px solid var(--line); border-radius: 8px; padding: 12px; }
.facts b { display: block; font-size: 1.2rem; font-variant-numeric: tabular-nums; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); gap: 12px; }
figure { margin: 0; } figure svg { width: 100%; height: auto; display: block; }
.keys { display: flex; flex-wrap: wrap; gap: 2px 14px; font-size: 13px; margin: 2px 0 4px; }
.keys span::before { content: ""; display: inline-block; width: 14px; height: 3px; margin-right: 5px; vertical-align: middle;
  background: var(--c); }
svg text { font: 11px system-ui, sans-serif; fill: var(--soft); } .grid { stroke: var(--line); }
.mark { stroke: var(--bad); stroke-dasharray: 4 3; } svg text.marked { fill: var(--bad); }
details { margin-top: 16px; } pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 13px; }
"""


def write_report(folder: str | os.PathLike[str]) -> Path:
    """Write FOLDER/report.html, whole or not at all; returns its path. Raises DataMissing where no run is in the folder."""
    place = Path(folder)
    if not (place / "settings.json").is_file():
        raise DataMissing(f"{place}: holds no settings.json; needed the folder of a run")
    settings = json.loads((place / "settings.json").read_bytes())
    log, probes = list(read_lines(place / "log.jsonl")), list(read_lines(place / "probes.jsonl"))
    charts = [_figure(chart, log) for chart in _CHARTS]
    charts.insert(4, _figure(_PROBES, probes))
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Training of {escape(str(settings['model']))}</title><style>{_STYLE}</style></head><body><main>"
        f"<h1>Training of {escape(str(settings['model']))}</h1>{_head(settings, log)}{_facts(settings, log, probes)}"
        f'<section class="charts">{"".join(charts)}</section>'
        f"<details><summary>Settings</summary><pre>{escape(json.dumps(settings, indent=1))}</pre></details>"
        '<p class="soft">Research use only, not a medical device.</p></main></body></html>\n'
    )
    write_text(place / "report.html", page)
    return place / "report.html"


def _head(settings: dict[str, Any], log: Sequence[dict[str, Any]]) -> str:
    if not log:
        return '<p class="soft">No step is logged yet.</p>'
    last, steps = log[-1], settings["steps"]
    state = "Finished" if last["step"] >= steps else "Under way, or stopped"
    text = f"{state}: step {last['step']:,} of {steps:,}, {last['samples']:,} records seen, batches of {settings['batch']:,}."
    alarms = [line for line in log if "alarm" in line]
    bad = [f"{last['skipped']:,} steps skipped as not finite."] if last["skipped"] else []
    bad += [f"Alarm since step {alarms[0]['step']:,}: {alarms[0]['alarm']}."] if alarms and "alarm" in last else []
    return f'<p class="soft">{escape(text)}</p>' + "".join(f'<p class="bad">{escape(line)}</p>' for line in bad)


def _facts(settings: dict[str, Any], log: Sequence[dict[str, Any]], probes: Sequence[dict[str, Any]]) -> str:
    if not log:
        return ""
    last = log[-1]
    facts = [("loss", last["loss"]), ("coding rate, share", last["rate_share"]), ("RankMe, share", last["rank_share"])]
    if probes:
        facts.append(("heart rate, R²", probes[-1]["heart_rate_r2"]))
    facts += [("records a second", last["records_per_s"]), ("waiting for data", last["loading_share"])]
    if last["step"] < settings["steps"]:
        facts.append(("to go, hours", last["eta_s"] / 3600))
    cells = (f"<div><b>{_short(value)}</b>{escape(name)}</div>" for name, value in facts)
    return f'<section class="facts">{"".join(cells)}</section>'


def _short(value: Any) -> str:
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _figure(chart: _Chart, lines: Sequence[dict[str, Any]]) -> str:
    """A chart of those columns that the lines have; nothing where they have none."""
    found = {label: _points(lines, name) for name, label in chart.names.items()}
    found = {label: points for label, points in found.items() if points}
    if not found:
        return ""
    keys = "".join(f'<span style="--c: var(--s{i})">{escape(label)}</span>' for i, label in enumerate(found))
    note = f'<p class="soft">{escape(chart.note)}</p>' if chart.note else ""
    return f'<figure><h2>{escape(chart.title)}</h2><div class="keys">{keys}</div>{_svg(chart, list(found.values()))}{note}</figure>'


def _points(lines: Iterable[dict[str, Any]], name: str) -> list[tuple[float, float]]:
    pairs = [(line["step"], line.get(name)) for line in lines]
    whole = [(float(x), float(y)) for x, y in pairs if isinstance(y, (int, float)) and math.isfinite(y)]
    size = -(-len(whole) // _POINTS) if whole else 1
    groups = [whole[i : i + size] for i in range(0, len(whole), size)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def _svg(chart: _Chart, series: Sequence[Sequence[tuple[float, float]]]) -> str:
    xs = [x for points in series for x, _ in points]
    ys = [y for points in series for _, y in points] + ([chart.mark[0]] if chart.mark else [])
    ticks = _ticks(min(ys), max(ys))
    low, high = min([*ys, *ticks]), max([*ys, *ticks])
    left, right = min(xs), max(xs)

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - left) / (right - left) if right > left else 0.5
        up = (y - low) / (high - low) if high > low else 0.5
        return _LEFT + across * (_W - _LEFT - _RIGHT), _H - _BOTTOM - up * (_H - _TOP - _BOTTOM)

    parts = []
    for tick in ticks:
        _, y = place(left, tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_W - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_label(tick)}</text>')
    for x, anchor in ((left, "start"), (right, "end")) if right > left else ((left, "middle"),):
        at, _ = place(x, low)
        parts.append(f'<text x="{at:.1f}" y="{_H - 8}" text-anchor="{anchor}">step {x:,.0f}</text>')
    if chart.mark:
        _, y = place(left, chart.mark[0])
        parts.append(f'<line class="mark" x1="{_LEFT}" x2="{_W - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="marked" x="{_LEFT + 4}" y="{y - 4:.1f}">{escape(chart.mark[1])}</text>')
    for i, points in enumerate(series):
        places = [place(x, y) for x, y in points]
        if len(places) == 1:
            parts.append(f'<circle cx="{places[0][0]:.1f}" cy="{places[0][1]:.1f}" r="3" fill="var(--s{i})"/>')
        else:
            text = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            parts.append(f'<polyline points="{text}" fill="none" stroke="var(--s{i})" stroke-width="1.8"/>')
    name = f"{chart.title} by step: {', '.join(f'{points[-1][1]:.4g} at the end' for points in series)}"
    return f'<svg viewBox="0 0 {_W} {_H}" role="img" aria-label="{escape(name)}">{"".join(parts)}</svg>'


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers that hold low..high, four to seven of them."""
    if high <= low:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * k for k in (1, 2, 2.5, 5, 10) if power * k >= raw * 0.999)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def _label(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
