"""Tasks without data, on the page and in Markdown: what is missing, where it is, who may have it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from benchecg.left_out import LeftOut
from benchecg.report.names import table

__all__ = ["absent_lines", "absent_tasks"]

_HEADER = ["Task", "Data set", "What is missing", "Size", "Licence", "Access", "Where"]


def absent_tasks(tasks: Sequence[LeftOut]) -> str:
    """A section of the page; nothing where no task was left out."""
    if not tasks:
        return ""
    rows = [[*map(escape, _cells(t)), _link(t.url)] for t in tasks]
    return (
        '<section id="left-out">\n<h2>Left out</h2>\n<p>No result: the data were not there when the suite ran. Put a data set into the '
        f"folder that its row names, under the data folder, and run again.</p>\n{table(_HEADER, rows)}</section>\n"
    )


def absent_lines(tasks: Sequence[LeftOut]) -> list[str]:
    """The same as lines of Markdown."""
    if not tasks:
        return []
    rows = [[*_cells(t), t.url] for t in tasks]
    table_lines = [f"| {' | '.join(_plain(c) for c in row)} |" for row in [_HEADER, ["---"] * len(_HEADER), *rows]]
    return ["Left out, the data were not there:", "", *table_lines, ""]


def _cells(t: LeftOut) -> list[str]:
    title = t.title if t.suite is None else f"{t.title} ({t.suite})"
    return [title, f"{t.dataset} {t.version}, folder {t.folder}", t.missing, t.size, t.licence, t.access]


def _plain(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _link(url: str) -> str:
    words = []
    for word in escape(url, quote=True).split():
        address = word.rstrip(",;")
        known = word.startswith(("https://", "http://"))
        words.append(f'<a href="{address}">{address}</a>{word[len(address) :]}' if known else word)
    return " ".join(words)
