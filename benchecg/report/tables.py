"""The overview as a table for a paper: LaTeX (booktabs) or Markdown. Same numbers, same warnings as on the page."""

from __future__ import annotations

from collections.abc import Sequence

from benchecg.left_out import LeftOut
from benchecg.report.absent import absent_lines
from benchecg.report.html import by_task, plain
from benchecg.report.names import metric_name, number
from benchecg.results import Result

__all__ = ["latex", "markdown"]

_MARKS = "*†‡§¶"
_LATEX_MARKS = {"*": r"\ast", "†": r"\dagger", "‡": r"\ddagger", "§": r"\S", "¶": r"\P"}
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "≥": r"$\geq$", "²": r"\textsuperscript{2}", "–": "--",
}  # fmt: skip


def latex(results: Sequence[Result]) -> str:
    """A `tabular` of tasks by models, value and 95 % interval, the best of a task in bold; needs `\\usepackage{booktabs}`."""
    results = plain(results)
    models, rows = _rows(results)
    lines = [
        "% needs \\usepackage{booktabs}; research use only, not a medical device",
        rf"\begin{{tabular}}{{l{'c' * len(models)}}}",
        r"\toprule",
        " & ".join(["Task (metric)", *map(_escaped, models)]) + r" \\",
        r"\midrule",
    ]
    for title, cells in rows:
        lines.append(" & ".join([_escaped(title), *map(_latex_cell, cells)]) + r" \\")
    foot = [
        rf"\multicolumn{{{len(models) + 1}}}{{l}}{{\footnotesize ${_LATEX_MARKS[m]}$ {_escaped(text)}}} \\"
        for m, text in _notes(results)
    ]
    return "\n".join([*lines, r"\bottomrule", *foot, r"\end{tabular}"]) + "\n"


def markdown(results: Sequence[Result], *, left_out: Sequence[LeftOut] = ()) -> str:
    """The same as a Markdown table, and beneath it the tasks without data."""
    results = plain(results)
    models, rows = _rows(results)
    lines = [f"| Task (metric) | {' | '.join(models)} |", "|---" * (len(models) + 1) + "|"]
    for title, cells in rows:
        shown = (c and (f"**{c[0]}** {c[1]}" if c[2] else f"{c[0]} {c[1]}") + c[3] for c in cells)
        lines.append(f"| {title} | {' | '.join(text or '–' for text in shown)} |")
    foot = [f"{m} {text}" for m, text in _notes(results)]
    return "\n".join([*lines, "", *foot, *absent_lines(left_out), "Research use only, not a medical device."]) + "\n"


_Cell = tuple[str, str, bool, str]  # value, interval, best of its task, marks


def _rows(results: Sequence[Result]) -> tuple[list[str], list[tuple[str, list[_Cell | None]]]]:
    models = sorted({r.model["id"] for r in results})
    marks = {text: m for m, text in _notes(results)}
    rows = []
    for group in by_task(results).values():
        found = {r.model["id"]: r for r in group if r.headline is not None and r.headline["value"] is not None}
        best = next((r.model["id"] for r in group if r.model["id"] in found), None)
        task = group[0].task
        arrow = "higher is better" if task["higher_is_better"] else "lower is better"
        cells = [_cell(found[m], m == best, marks) if m in found else None for m in models]
        rows.append((f"{task['title']} ({metric_name(task['metric'])}, {arrow})", cells))
    return models, rows


def _cell(result: Result, best: bool, marks: dict[str, str]) -> _Cell:
    h = result.headline or {}
    mine = "".join(marks[text] for text in _noted(result))
    return number(h["value"]), f"[{number(h['low'])}, {number(h['high'])}]", best, mine


def _noted(result: Result) -> list[str]:
    found = []
    if result.task["synthetic"]:
        found.append("simulated recordings: says nothing about patients")
    elif not result.data["complete"]:
        found.append("on a subset of the data: not comparable with results on all of it")
    if result.model["trained"] is False:
        found.append("random weights")
    if result.model["contamination"] == "seen in pretraining":
        found.append("the encoder was pretrained on recordings of this data set")
    if not result.validated:
        found.append("architecture not validated against its origin")
    return found


def _notes(results: Sequence[Result]) -> list[tuple[str, str]]:
    """Mark and text of every note that some result has."""
    texts = dict.fromkeys(text for r in results for text in _noted(r))
    return list(zip(_MARKS, texts))


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(c, c) for c in text)


def _latex_cell(cell: _Cell | None) -> str:
    if cell is None:
        return "--"
    value, span, best, marks = cell
    shown = rf"\textbf{{{_escaped(value)}}}" if best else _escaped(value)
    raised = "".join(_LATEX_MARKS[m] for m in marks)
    return f"{shown} {{\\footnotesize {_escaped(span)}}}" + (f"$^{{{raised}}}$" if raised else "")
