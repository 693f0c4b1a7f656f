"""Figures of a task beside its main plot: calibration, score against cost, score against labels, score under disturbance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from benchecg.report.calibration import Calibration
from benchecg.report.curves import MOST_SERIES, Point, Series, curve_plot
from benchecg.report.names import interval, metric_name, table
from benchecg.results import Result

__all__ = ["calibration_figure", "cost_figure", "label_figure", "robustness_figures"]

_CLEAN = ("none", "undisturbed")
_FAMILY_NAMES = {
    "leads": "leads left",
    "rate": "sampling rate",
    "gain": "gain error",
    "clipping": "clipping",
    "swap": "electrodes exchanged",
    "noise": "added noise",
}


def _ranks(names: Sequence[str], order: Sequence[str]) -> list[int]:
    """The colour of each of up to `MOST_SERIES` models: its place in the task's order, so that figures agree, else a free one."""
    colours = {name: order.index(name) for name in names if name in order[:MOST_SERIES]}
    free = (i for i in range(MOST_SERIES) if i not in colours.values())
    return [colours[name] if name in colours else next(free) for name in names]


def _by_order(names: Sequence[str], order: Sequence[str]) -> list[str]:
    """The first models of a figure, in the task's order."""
    return sorted(names, key=lambda name: (order.index(name) if name in order else len(order), name))[:MOST_SERIES]


def _figure(svg: str, caption: str) -> str:
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>\n" if svg else ""


def calibration_figure(scored: Sequence[Result], found: Mapping[str, Calibration]) -> str:
    """found: model id → its calibration. The best `MOST_SERIES` models of the task."""
    order = [r.model["id"] for r in scored]
    shown = _by_order([m for m in order if m in found], order)
    series = [
        Series(f"{m} (error {found[m].error:.3f})", tuple(Point(a, b) for a, b, _ in found[m].bins), i)
        for m, i in zip(shown, _ranks(shown, order))
    ]
    regression = scored[0].task["kind"] == "regression"
    what = "answer" if regression else "probability, all classes together"
    svg = curve_plot(
        series, x_label=f"predicted {what}", y_label="observed", diagonal=True, least=None if regression else (0.0, 1.0)
    )
    caption = "Calibration: observed against predicted, bins of equal size. Dashed: what is said. Error: mean distance from it."
    return _figure(svg, caption)


def cost_figure(scored: Sequence[Result]) -> str:
    """Headline against ECG-hours encoded a second; the dashed line joins what nothing here beats in both."""
    order = [r.model["id"] for r in scored]
    speed = {r.model["id"]: r.cost.get("ecg_hours_per_s") for r in scored}
    value = {r.model["id"]: (r.headline or {}).get("value") for r in scored}
    known = [m for m in order if speed[m] and value[m] is not None]
    if len(known) < 2:
        return ""
    points = {m: (float(speed[m] or 0), float(value[m] or 0)) for m in known}
    shown = _by_order(known, order)
    series = [Series(m, (Point(*points[m]),), i, joined=False) for m, i in zip(shown, _ranks(shown, order))]
    task = scored[0].task
    svg = curve_plot(
        series, x_label="hours of ECG encoded in a second (log)", y_label=metric_name(task["metric"]), log_x=True,
        front=_front([points[m] for m in shown], higher=task["higher_is_better"]),
    )  # fmt: skip
    arrow = "higher" if task["higher_is_better"] else "lower"
    caption = (
        f"Score against speed, {metric_name(task['metric'])} ({arrow} is better): the dashed line joins the models that none beats in "
        "both. Speed as measured in these runs, on their machine; runs from the cache have none."
    )
    return _figure(svg, caption)


def _front(points: Sequence[tuple[float, float]], *, higher: bool) -> list[tuple[float, float]]:
    """The points that no other is at least as fast and better than, by speed."""
    sign = 1 if higher else -1
    front: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda p: (-p[0], -sign * p[1])):
        if not front or sign * y > sign * front[-1][1]:
            front.append((x, y))
    return front[::-1]


def label_figure(group: Sequence[Result], order: Sequence[str]) -> str:
    """Headline of each model with 1 %, 10 % and all of the labels; several subsets as their mean, with the lowest and the highest.

    order: models as the task's other figures have them.
    """
    found: dict[str, dict[float, list[float]]] = {}
    for r in group:
        fraction = r.protocol.get("fraction")
        probe = fraction or r.protocol["name"] == "linear probe"
        if probe and r.headline and r.headline["value"] is not None and "covariates" not in r.protocol:
            base = r.model["id"].rpartition("+")[0] if fraction else r.model["id"]
            found.setdefault(base, {}).setdefault(100 * (fraction or 1.0), []).append(r.headline["value"])
    shown = _by_order([model for model, values in found.items() if len(values) > 1], order)
    series = [
        Series(model, tuple(_spread(x, v) for x, v in sorted(found[model].items())), i)
        for model, i in zip(shown, _ranks(shown, order))
    ]
    name = metric_name(group[0].task["metric"])
    svg = curve_plot(series, x_label="% of the training patients with labels (log)", y_label=name, log_x=True)
    return _figure(
        svg, f"Label efficiency: {name} of the linear probe; whiskers: lowest and highest of the subsets run."
    )


def _spread(x: float, values: Sequence[float]) -> Point:
    mean = sum(values) / len(values)
    return Point(x, mean, min(values), max(values)) if len(values) > 1 else Point(x, mean)


def robustness_figures(curves: Sequence[Mapping[str, Any]], order: Sequence[str]) -> str:
    """Of the curves of one task: a figure a family of disturbances, and a table of all. order: as of `label_figure`."""
    if not curves:
        return ""
    by_model = {c["model"]: {(r["family"], r["label"]): r for r in c["conditions"]} for c in curves}
    name = metric_name(curves[0]["metric"])
    shown = _by_order(list(by_model), order)
    keys = dict.fromkeys(key for rows in by_model.values() for key in rows)
    figures = "".join(
        _family(kind, part, {m: by_model[m] for m in shown}, _ranks(shown, order), name)
        for kind, part in _kinds(keys).items()
    )
    body = []
    for family, label in keys:
        head = f'{escape(label)}<br><span class="sub">{_FAMILY_NAMES.get(family, "")}</span>'
        body.append([head, *(_cell(rows.get((family, label))) for rows in by_model.values())])
    noise = " and ".join(dict.fromkeys(c["noise"] for c in curves))
    caption = (
        f"{name} on disturbed test recordings, and the change from undisturbed with its 95 % interval. Noise: {noise}"
    )
    missing = sorted({f"{key}: {why}" for c in curves for key, why in c["left_out"].items()})
    note = f'<p class="sub wrap">Left out: {escape("; ".join(missing))}</p>\n' if missing else ""
    return (
        f'<h3>Robustness</h3>\n<div class="grid-of-figures">{figures}</div>\n'
        + table(["Condition", *map(escape, by_model)], body, caption=caption)
        + note
    )


def _kinds(keys: Iterable[tuple[str, str]]) -> dict[str, list[tuple[tuple[str, str], str]]]:
    """Words for a figure → (condition, tick label): a family, of noise one kind of it; "electrode, 6 dB" is 6 dB of electrode."""
    kinds: dict[str, list[tuple[tuple[str, str], str]]] = {}
    for family, label in keys:
        kind, _, level = label.rpartition(", ")
        if family != "none":
            words = f"{_FAMILY_NAMES[family]}{f', {kind}' if kind else ''}"
            kinds.setdefault(words, []).append(((family, label), level))
    return kinds


def _family(
    words: str,
    keys: Sequence[tuple[tuple[str, str], str]],
    by_model: Mapping[str, Mapping[tuple[str, str], Mapping[str, Any]]],
    ranks: Sequence[int],
    name: str,
) -> str:
    ticks = [(_CLEAN, "none"), *keys]
    series = []
    for (model, rows), i in zip(by_model.items(), ranks):
        known = [(x, rows[key]) for x, (key, _) in enumerate(ticks) if key in rows and rows[key]["value"] is not None]
        series.append(Series(model, tuple(Point(x, r["value"], r["low"], r["high"]) for x, r in known), i))
    svg = curve_plot(series, x_label=words, y_label=name, x_names=[label for _, label in ticks])
    return _figure(svg, f"{name} by {words}")


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None or row["value"] is None:
        return "–"
    change = row["change"]
    if row["family"] == "none" or change["value"] is None:
        return interval(row)
    span = "" if change["low"] is None else f" [{change['low']:+.3f}, {change['high']:+.3f}]"
    return f'<b>{row["value"]:.3f}</b> <span class="ci">{change["value"]:+.3f}{span}</span>'
