"""The report: one HTML page that needs nothing else, readable on a phone and in the dark, printable for a reviewer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from benchecg.left_out import LeftOut
from benchecg.profiles import DEFECTS
from benchecg.report.absent import absent_tasks
from benchecg.report.calibration import Calibration
from benchecg.report.figures import calibration_figure, cost_figure, label_figure, robustness_figures
from benchecg.report.names import interval, metric_name, number, table
from benchecg.report.plot import interval_plot
from benchecg.report.seeds import seed_table
from benchecg.results import Result, suite_score
from benchecg.stats import coverage_note
from benchecg.subgroups import FEW_PATIENTS, FEW_UNITS
from benchecg.tasks import SUITE

__all__ = ["by_task", "plain", "render"]


def render(
    results: Sequence[Result],
    *,
    calibrations: Mapping[tuple[str, str], Calibration] | None = None,
    curves: Sequence[Mapping[str, Any]] = (),
    left_out: Sequence[LeftOut] = (),
) -> str:
    """The page as text. Results are grouped by task, models in the order of their headline value.

    Results of the authors profile stand in a section of their own beside the corrected ones, never among them.
    calibrations: by task and model. curves: contents of robustness files. left_out: tasks without data.
    """
    every = results
    results = [r for r in every if r.profile == "corrected"] or every
    tasks = by_task(results)
    body = "".join(
        [
            _head(results),
            _overview(tasks),
            _score(results),
            *(
                _section(g, _of_task(i, calibrations or {}), [c for c in curves if c["task"] == i])
                for i, g in tasks.items()
            ),
            _profiles(every),
            absent_tasks(left_out),
            _method(results),
        ]
    )
    css = files("benchecg.report").joinpath("page.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>BenchECG report</title>\n<style>\n{css}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
    )


def by_task(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Task id → its results, the best first."""
    tasks: dict[str, list[Result]] = {}
    for result in results:
        tasks.setdefault(result.task["id"], []).append(result)
    for group in tasks.values():
        group.sort(key=_rank)
    return tasks


def plain(results: Sequence[Result]) -> list[Result]:
    """Of the corrected profile and without the few-label runs, which have a figure of their own; all where there are no others."""
    return [r for r in results if "fraction" not in r.protocol and r.profile == "corrected"] or list(results)


def _of_task(task: str, calibrations: Mapping[tuple[str, str], Calibration]) -> dict[str, Calibration]:
    return {model: found for (of, model), found in calibrations.items() if of == task}


def _rank(result: Result) -> tuple[float, str]:
    value = None if result.headline is None else result.headline["value"]
    if value is None:
        return float("inf"), result.model["id"]
    return (-value if result.task["higher_is_better"] else value), result.model["id"]


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
        "Metrics are pooled over the test set; brackets are 95 % intervals over patients.</p>\n"
        '<p class="notice">Research use only, not a medical device.</p>\n</header>\n'
    )


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def _overview(tasks: dict[str, list[Result]]) -> str:
    learned = {r.model["id"]: r.model["trained"] is not None for group in tasks.values() for r in plain(group)}
    models = sorted(learned, key=lambda m: (not learned[m], m))  # encoders first, baselines after them
    rows, without = [], []
    for group in tasks.values():
        by_model = {r.model["id"]: r for r in group}
        first = group[0]
        link = f'<a href="#{escape(first.task["id"])}">{escape(first.task["title"])}</a>'
        if all(r.headline is None for r in group):
            without.append(link)
            continue
        arrow = "higher is better" if first.task["higher_is_better"] else "lower is better"
        label = f'{link}<br><span class="sub">{metric_name(first.task["metric"])}, {arrow}</span>'
        rows.append([label, *(_cell(by_model.get(m)) for m in models)])
    found = table(["Task", *map(escape, models)], rows) if rows else ""
    rest = f"<p>No model has a score on: {'; '.join(without)}. The sections say why.</p>\n" if without else ""
    return f"<h2>Overview</h2>\n{found}{rest}"


def _cell(result: Result | None) -> str:
    if result is None:
        return '<span class="sub">not run</span>'
    if result.headline is None:
        return '<span class="sub">no score</span>'
    return interval(dict(result.headline)) + _flags(result)


def _score(results: Sequence[Result]) -> str:
    lines = []
    for model in sorted({r.model["id"] for r in plain(results)}):
        found = suite_score([r for r in results if r.model["id"] == model])
        value = f"{found['score']:.3f}" if found["score"] is not None else "no score"
        lines.append([escape(model), value, f"{found['n_tasks']} of {found['of']}"])
    scores = table(["Model", "BenchECG score", "tasks on full data"], lines)
    return (
        "<h2>BenchECG score</h2>\n<p>The mean over the suite's ten tasks, given only when all ten ran on full data. "
        f"A mean over fewer tasks is another number and is not printed. The tasks: {escape(', '.join(SUITE.values()))}.</p>\n"
        + scores
    )


def _profiles(results: Sequence[Result]) -> str:
    """Headline values of both profiles side by side, and what the authors profile reproduces."""
    theirs = [r for r in results if r.profile == "authors" and r.headline is not None]
    if not theirs:
        return ""
    ours = {(r.task["id"], r.model["id"]): r for r in results if r.profile == "corrected"}
    rows = []
    for r in sorted(theirs, key=lambda r: (r.task["id"], r.model["id"])):
        beside = ours.get((r.task["id"], r.model["id"]))
        label = f'{escape(r.task["title"])}<br><span class="sub">{metric_name(r.task["metric"])}</span>'
        value = number((r.headline or {})["value"])
        rows.append([label, escape(r.model["id"]), _cell(beside), value, escape(", ".join(r.defects) or "none")])
    named = sorted({d for r in theirs for d in r.defects})
    return (
        "<h2>As the published scripts compute it</h2>\n<p>The authors profile does what the published scripts do, defects "
        "included, so that their numbers can be placed. Its values have no interval and enter no rank, score or plot here.</p>\n"
        + table(["Task", "Model", "corrected", "authors", "reproduces"], rows)
        + _list([f"{d}: {DEFECTS[d].what}; corrected: {DEFECTS[d].instead}" for d in named], css="plain")
    )


def _section(group: list[Result], calibrations: Mapping[str, Calibration], curves: Sequence[Mapping[str, Any]]) -> str:
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
        table(["", ""], facts).replace('<thead><tr><th scope="col"></th><th scope="col"></th></tr></thead>\n', ""),
    ]
    scored = plain([r for r in group if r.headline is not None])
    parts.append(_list([f"{r.model['id']}: {r.reason}" for r in group if r.reason], css="warn"))
    if scored:
        order = [r.model["id"] for r in scored]
        extra = [calibration_figure(scored, calibrations), cost_figure(scored), label_figure(group, order)]
        parts += [_plot(scored), _metrics(scored), seed_table(scored), _classes(scored), _subgroups(scored)]
        parts += [
            f'<div class="grid-of-figures">{"".join(extra)}</div>\n' if any(extra) else "",
            robustness_figures(curves, order),
        ]
        parts += map(_details, scored)
    parts.append(_published(task["published"]))
    return "".join(parts) + "</section>\n"


def _pinned(pinned: bool | None) -> str:
    return ", equal to the pinned one" if pinned else ""


def _plot(scored: list[Result]) -> str:
    rows = [(r.model["id"], dict(r.headline or {})) for r in scored]
    task = scored[0].task
    arrow = "higher" if task["higher_is_better"] else "lower"
    caption = f"{metric_name(task['metric'])}: {arrow} is better{_held(scored[0])}"
    return f"<figure>{interval_plot(rows)}<figcaption>{caption}</figcaption></figure>\n"


def _held(result: Result) -> str:
    """What few patients do to an interval, said beside it."""
    note = coverage_note(result.task["kind"], result.support["patients"])
    return "" if note is None or (result.headline or {})["low"] is None else f". {escape(note)}"


def _metrics(scored: list[Result]) -> str:
    names = [n for n in scored[0].metrics if "/" not in n]
    rows = [[escape(r.model["id"]) + _flags(r), *(interval(r.metrics.get(n)) for n in names)] for r in scored]
    return table(["Model", *map(metric_name, names)], rows, caption="Metrics")


def _classes(scored: list[Result]) -> str:
    support = scored[0].support["classes"]
    if not support:
        return f"<p>{scored[0].support['units']:,} test units of {scored[0].support['patients']:,} patients.</p>\n"
    stems = dict.fromkeys(n.partition("/")[0] for n in scored[0].metrics if "/" in n)
    rows = []
    for name, n in support.items():
        per_model = [
            "<br>".join(f"{metric_name(s)} {interval(r.metrics.get(f'{s}/{name}'))}" for s in stems) for r in scored
        ]
        rows.append([escape(name), f"{n['units']:,}", f"{n['patients']:,}", *(per_model if stems else [])])
    header = ["Class", "units", "patients", *([escape(r.model["id"]) for r in scored] if stems else [])]
    return table(header, rows, caption="Test units and metrics by class")


_GROUP_NAMES = {"sex": "sex", "age_band": "age", "source": "data set", "quality": "signal quality"}


def _subgroups(scored: list[Result]) -> str:
    """The headline metric of each group; the groups are the task's, the same for every model."""
    by_model = [{(g["by"], g["group"]): g for g in r.subgroups} for r in scored]
    rows = []
    for g in scored[0].subgroups:
        label = f'{escape(g["group"])}<br><span class="sub">{_GROUP_NAMES[g["by"]]}</span>'
        label += ' <span class="flag">few</span>' if g["few"] else ""
        values = (interval(found.get((g["by"], g["group"]))) for found in by_model)
        rows.append([label, f"{g['units']:,}", f"{g['patients']:,}", *values])
    header = ["Group", "units", "patients", *(escape(r.model["id"]) for r in scored)]
    return table(header, rows, caption=f"Subgroups of the test set: {metric_name(scored[0].task['metric'])}")


def _details(result: Result) -> str:
    model, cost, protocol = result.model, result.cost, result.protocol
    facts = [
        f"{model['about']}; features of width {model['width']}, fingerprint {model['fingerprint']}, {model['contamination']}",
        protocol["summary"] + ("" if protocol["converged"] else "; NOT converged"),
        _speed(cost),
        f"{cost['wall_s']:.1f} s ({cost['feature_blocks_cached']:.0f} of {cost['feature_blocks']:.0f} blocks from the cache)",
    ]
    inside = _list([fact for fact in facts if fact], css="plain") + _list([*result.notes, *result.warnings], css="warn")
    inside += _confusion(result) + _per_record(result)
    return (
        f"<details>\n<summary>{escape(model['id'])}: warnings, confusion, records, cost</summary>\n{inside}</details>\n"
    )


def _speed(cost: Mapping[str, float]) -> str:
    if "ecg_hours" not in cost:
        return ""
    return f"{cost['ecg_hours']:.3g} h of ECG encoded in {cost['encode_wall_s']:.1f} s: {cost['ecg_hours_per_s']:.3g} h a second"


def _confusion(result: Result) -> str:
    if result.confusion is None:
        return ""
    classes = [escape(c) for c in result.task["classes"]]
    rows = [[name, *(f"{n:,}" for n in counts)] for name, counts in zip(classes, result.confusion)]
    return table(["true \\ found", *classes, "none"], rows, caption="Confusion")


def _per_record(result: Result) -> str:
    if result.per_record is None:
        return ""
    classes = result.task["classes"]
    rows = [
        [
            escape(r["record"]), f"{r['units']:,}", number(r["correct"] / r["units"] if r["units"] else None), number(r["macro_f1"]),
            *(f"{number(r['f1'][c])} <span class=\"ci\">({r['classes'][c]:,})</span>" for c in classes),
        ]
        for r in result.per_record
    ]  # fmt: skip
    overall = ["Se ±75 ms", "F1 ±75 ms"] if result.task["kind"] == "peaks" else ["accuracy", "macro F1"]
    header = ["Record", "units", *overall, *(f"F1 {escape(c)} (n)" for c in classes)]
    return table(header, rows, caption="By record")


def _published(published: Sequence[dict[str, Any]]) -> str:
    if not published:
        return ""
    rows = [
        [escape(p["model"]), f"{p['value']:.3f}", metric_name(p["metric"]), escape(f"{p['source']}. {p['note']}")]
        for p in published
    ]
    return table(["Model", "value", "metric", "source"], rows, caption="Published by others, not computed here")


def _method(results: Sequence[Result]) -> str:
    first = results[0]
    libraries = ", ".join(f"{name} {v}" for name, v in first.versions.items())
    lines = [
        "One head on frozen features, the same grid of settings for every model, chosen on validation only; the test set is "
        "read once. Where a model's name ends in +finetune its encoder is trained, too, by one grid for all.",
        f"Intervals: every patient left out in turn (beyond {first.intervals['groups']}, as many random groups of them, seed "
        f"{first.intervals['seed']}); Student's t with as many degrees of freedom as patients weigh in, shifted by the skewness. They "
        "cover the choice of patients, not of random seeds, which a table of its own adds where a model was "
        "trained with several; below 50 patients what such intervals held in simulation stands beside "
        "them. A class that is undefined without a patient leaves the mean there.",
        "A class with neither truth nor prediction has no F1 and is left out; a class present but never predicted has F1 = 0.",
        f"Subgroups: intervals from leaving out the group's own patients; few: fewer than {FEW_UNITS} units or {FEW_PATIENTS} "
        "patients, not to be read as a difference. Classes that a group lacks leave its mean: means over other classes do not "
        "compare. Signal quality abstains where a result should not be used.",
        "In a reduced macro F1 (fewer classes) a prediction outside the set is an error of the true class.",
        f"Libraries: {libraries}.",
    ]
    return f"<h2>Method</h2>\n{_list(lines, css='plain')}"
