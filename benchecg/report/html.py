"""The report: one HTML page that needs nothing else, readable on a phone and in the dark, printable for a reviewer."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib.resources import files
from typing import Any

from benchecg.report.plot import interval_plot
from benchecg.results import Result, suite_score
from benchecg.subgroups import FEW_PATIENTS, FEW_UNITS
from benchecg.tasks import SUITE

__all__ = ["render"]

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


def render(results: Sequence[Result]) -> str:
    """The page as text. Results are grouped by task, models in the order of their headline value."""
    tasks: dict[str, list[Result]] = {}
    for result in results:
        tasks.setdefault(result.task["id"], []).append(result)
    for group in tasks.values():
        group.sort(key=_rank)
    body = "".join(
        [_head(results), _overview(tasks), _score(results), *map(_section, tasks.values()), _method(results)]
    )
    css = files("benchecg.report").joinpath("page.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>BenchECG report</title>\n<style>\n{css}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
    )


def _rank(result: Result) -> tuple[float, str]:
    value = None if result.headline is None else result.headline["value"]
    if value is None:
        return float("inf"), result.model["id"]
    return (-value if result.task["higher_is_better"] else value), result.model["id"]


def _name(metric: str) -> str:
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


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _interval(estimate: dict[str, Any] | None) -> str:
    if estimate is None or estimate["value"] is None:
        return "–"
    low, high = _number(estimate["low"]), _number(estimate["high"])
    return f'<b>{_number(estimate["value"])}</b> <span class="ci">[{low}, {high}]</span>'


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str = "") -> str:
    """Cells are HTML already; the first column heads its row."""
    head = "".join(f'<th scope="col">{h}</th>' for h in header)
    lines = "".join(
        f'<tr><th scope="row">{row[0]}</th>' + "".join(f"<td>{cell}</td>" for cell in row[1:]) + "</tr>\n"
        for row in rows
    )
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f'<div class="scroll"><table>{title}<thead><tr>{head}</tr></thead>\n<tbody>\n{lines}</tbody></table></div>\n'


def _list(items: Sequence[str], *, css: str) -> str:
    return f'<ul class="{css}">' + "".join(f"<li>{escape(i)}</li>" for i in items) + "</ul>\n" if items else ""


def _flags(result: Result) -> str:
    """Short marks of what a reader must not miss."""
    flags = []
    if result.task["synthetic"]:
        flags.append("synthetic")
    elif not result.data["complete"]:
        flags.append("subset")
    if result.model["trained"] is False:
        flags.append("untrained")
    if not result.validated:
        flags.append("not validated")
    if result.model["contamination"] == "seen in pretraining":
        flags.append("seen in pretraining")
    return "".join(f' <span class="flag">{f}</span>' for f in flags)


def _head(results: Sequence[Result]) -> str:
    models = len({r.model["id"] for r in results})
    tasks = len({r.task["id"] for r in results})
    return (
        f'<header>\n<h1>BenchECG</h1>\n<p class="lead">{_count(models, "model")} on {_count(tasks, "task")}. '
        "Metrics are pooled over the test set; brackets are 95 % intervals from resampling patients.</p>\n"
        '<p class="notice">Research use only, not a medical device.</p>\n</header>\n'
    )


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def _overview(tasks: dict[str, list[Result]]) -> str:
    learned = {r.model["id"]: r.model["trained"] is not None for group in tasks.values() for r in group}
    models = sorted(learned, key=lambda m: (not learned[m], m))  # encoders first, baselines after them
    rows = []
    for group in tasks.values():
        by_model = {r.model["id"]: r for r in group}
        first = group[0]
        arrow = "higher is better" if first.task["higher_is_better"] else "lower is better"
        label = (
            f'<a href="#{escape(first.task["id"])}">{escape(first.task["title"])}</a>'
            f'<br><span class="sub">{_name(first.task["metric"])}, {arrow}</span>'
        )
        rows.append([label, *(_cell(by_model.get(m)) for m in models)])
    return f"<h2>Overview</h2>\n{_table(['Task', *map(escape, models)], rows)}"


def _cell(result: Result | None) -> str:
    if result is None:
        return '<span class="sub">not run</span>'
    if result.headline is None:
        return '<span class="sub">no score</span>'
    return _interval(dict(result.headline)) + _flags(result)


def _score(results: Sequence[Result]) -> str:
    lines = []
    for model in sorted({r.model["id"] for r in results}):
        found = suite_score([r for r in results if r.model["id"] == model])
        value = f"{found['score']:.3f}" if found["score"] is not None else "no score"
        lines.append([escape(model), value, f"{found['n_tasks']} of {found['of']}"])
    table = _table(["Model", "BenchECG score", "tasks on full data"], lines)
    return (
        "<h2>BenchECG score</h2>\n<p>The mean over the suite's ten tasks, given only when all ten ran on full data. "
        f"A mean over fewer tasks is another number and is not printed. The tasks: {escape(', '.join(SUITE.values()))}.</p>\n"
        + table
    )


def _section(group: list[Result]) -> str:
    first = group[0]
    task, data, split = first.task, first.data, first.split
    full = f" of {data['full_records']:,}" if data["full_records"] else ""
    facts = [
        [
            "Data",
            f"{escape(data['name'])} {escape(data['version'])}, {data['records']:,}{full} records, {escape(data['licence'])}",
        ],
        ["Unit", f"{escape(task['unit'])}; leads: {escape(task['leads'])}; {task['rate_hz']:g} Hz"],
        ["Split", f"{escape(task['split_rule'])}. Hash <code>{split['sha256'][:16]}</code>{_pinned(split['pinned'])}"],
        ["Labels", escape(task["label_rule"])],
        [
            "Units",
            ", ".join(f"{n:,} {s} ({_count(split['patients'][s], 'patient')})" for s, n in split["units"].items() if n),
        ],
    ]
    parts = [
        f'<section id="{escape(task["id"])}">\n<h2>{escape(task["title"])}</h2>\n',
        _list(first.notes if task["synthetic"] or not data["complete"] else [], css="warn"),
        _table(["", ""], facts).replace('<thead><tr><th scope="col"></th><th scope="col"></th></tr></thead>\n', ""),
    ]
    scored = [r for r in group if r.headline is not None]
    parts.append(_list([f"{r.model['id']}: {r.reason}" for r in group if r.reason], css="warn"))
    if scored:
        parts += [_plot(scored), _metrics(scored), _classes(scored), _subgroups(scored), *map(_details, scored)]
    parts.append(_published(task["published"]))
    return "".join(parts) + "</section>\n"


def _pinned(pinned: bool | None) -> str:
    return ", equal to the pinned one" if pinned else ""


def _plot(scored: list[Result]) -> str:
    rows = [(r.model["id"], dict(r.headline or {})) for r in scored]
    task = scored[0].task
    arrow = "higher" if task["higher_is_better"] else "lower"
    return (
        f"<figure>{interval_plot(rows)}<figcaption>{_name(task['metric'])}: {arrow} is better</figcaption></figure>\n"
    )


def _metrics(scored: list[Result]) -> str:
    names = [n for n in scored[0].metrics if "/" not in n]
    rows = [[escape(r.model["id"]) + _flags(r), *(_interval(r.metrics.get(n)) for n in names)] for r in scored]
    return _table(["Model", *map(_name, names)], rows, caption="Metrics")


def _classes(scored: list[Result]) -> str:
    support = scored[0].support["classes"]
    if not support:
        return f"<p>{scored[0].support['units']:,} test units of {scored[0].support['patients']:,} patients.</p>\n"
    stems = dict.fromkeys(n.partition("/")[0] for n in scored[0].metrics if "/" in n)
    rows = []
    for name, n in support.items():
        per_model = [
            "<br>".join(f"{_name(s)} {_interval(r.metrics.get(f'{s}/{name}'))}" for s in stems) for r in scored
        ]
        rows.append([escape(name), f"{n['units']:,}", f"{n['patients']:,}", *(per_model if stems else [])])
    header = ["Class", "units", "patients", *([escape(r.model["id"]) for r in scored] if stems else [])]
    return _table(header, rows, caption="Test units and metrics by class")


_GROUP_NAMES = {"sex": "sex", "age_band": "age", "source": "data set", "quality": "signal quality"}


def _subgroups(scored: list[Result]) -> str:
    """The headline metric of each group; the groups are the task's, the same for every model."""
    by_model = [{(g["by"], g["group"]): g for g in r.subgroups} for r in scored]
    rows = []
    for g in scored[0].subgroups:
        label = f'{escape(g["group"])}<br><span class="sub">{_GROUP_NAMES[g["by"]]}</span>'
        label += ' <span class="flag">few</span>' if g["few"] else ""
        values = (_interval(found.get((g["by"], g["group"]))) for found in by_model)
        rows.append([label, f"{g['units']:,}", f"{g['patients']:,}", *values])
    header = ["Group", "units", "patients", *(escape(r.model["id"]) for r in scored)]
    return _table(header, rows, caption=f"Subgroups of the test set: {_name(scored[0].task['metric'])}")


def _details(result: Result) -> str:
    model, cost, protocol = result.model, result.cost, result.protocol
    facts = [
        f"{model['about']}; features of width {model['width']}, fingerprint {model['fingerprint']}, {model['contamination']}",
        protocol["summary"] + ("" if protocol["converged"] else "; NOT converged"),
        f"{cost['wall_s']:.1f} s ({cost['feature_blocks_cached']:.0f} of {cost['feature_blocks']:.0f} blocks from the cache)",
    ]
    inside = _list(facts, css="plain") + _list([*result.notes, *result.warnings], css="warn")
    inside += _confusion(result) + _per_record(result)
    return (
        f"<details>\n<summary>{escape(model['id'])}: warnings, confusion, records, cost</summary>\n{inside}</details>\n"
    )


def _confusion(result: Result) -> str:
    if result.confusion is None:
        return ""
    classes = [escape(c) for c in result.task["classes"]]
    rows = [[name, *(f"{n:,}" for n in counts)] for name, counts in zip(classes, result.confusion)]
    return _table(["true \\ found", *classes, "none"], rows, caption="Confusion")


def _per_record(result: Result) -> str:
    if result.per_record is None:
        return ""
    classes = result.task["classes"]
    rows = [
        [
            escape(r["record"]), f"{r['units']:,}", _number(r["correct"] / r["units"] if r["units"] else None), _number(r["macro_f1"]),
            *(f"{_number(r['f1'][c])} <span class=\"ci\">({r['classes'][c]:,})</span>" for c in classes),
        ]
        for r in result.per_record
    ]  # fmt: skip
    overall = ["Se ±75 ms", "F1 ±75 ms"] if result.task["kind"] == "peaks" else ["accuracy", "macro F1"]
    header = ["Record", "units", *overall, *(f"F1 {escape(c)} (n)" for c in classes)]
    return _table(header, rows, caption="By record")


def _published(published: Sequence[dict[str, Any]]) -> str:
    if not published:
        return ""
    rows = [
        [escape(p["model"]), f"{p['value']:.3f}", _name(p["metric"]), escape(f"{p['source']}. {p['note']}")]
        for p in published
    ]
    return _table(["Model", "value", "metric", "source"], rows, caption="Published by others, not computed here")


def _method(results: Sequence[Result]) -> str:
    first = results[0]
    libraries = ", ".join(f"{name} {v}" for name, v in first.versions.items())
    lines = [
        "One head on frozen features, the same grid of settings for every model, chosen on validation only; the test set is "
        "read once.",
        f"Intervals: {first.bootstrap['resamples']:,} resamples of patients with replacement, seed {first.bootstrap['seed']}, "
        "percentiles. They cover the choice of patients, not of random seeds. A class undefined in a resample leaves its mean.",
        "A class with neither truth nor prediction has no F1 and is left out; a class present but never predicted has F1 = 0.",
        f"Subgroups: intervals from resampling the group's own patients; few: fewer than {FEW_UNITS} units or {FEW_PATIENTS} "
        "patients, not to be read as a difference. Classes that a group lacks leave its mean: means over other classes do not "
        "compare. Signal quality abstains where a result should not be used.",
        "In a reduced macro F1 (fewer classes) a prediction outside the set is an error of the true class.",
        f"Libraries: {libraries}.",
    ]
    return f"<h2>Method</h2>\n{_list(lines, css='plain')}"
