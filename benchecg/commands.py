"""What the commands of `benchecg` share: options, the tasks whose data are there, numbers and progress on a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xecg.errors import DataMissing

if TYPE_CHECKING:
    from benchecg.left_out import LeftOut
    from benchecg.running import LoadedTask

__all__ = [
    "PARTLY",
    "data_option",
    "json_option",
    "load_all",
    "number",
    "print_json",
    "printable",
    "progress_of",
    "seed_option",
]

PARTLY = 3  # exit code: done, some tasks gave no score


def data_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--data`, the folder of the data sets."""
    return click.option("--data", type=click.Path(), help="Folder that holds the data sets. Default: ECG_DATA.")(
        function
    )


seed_option = click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True,
    help="Of the groups of patients that intervals leave out in turn, where there are more than 200.",
)  # fmt: skip


def json_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")(function)


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    click.echo(json.dumps(value, indent=2, allow_nan=False))


def load_all(
    ids: tuple[str, ...],
    root: Path,
    profile: str = "corrected",
    *,
    of_open_sets: bool = False,
    absent: list[LeftOut] | None = None,
) -> Iterable[LoadedTask]:
    """The tasks asked for, or those whose data are there; an absent data set is an error only when it was asked for.

    absent: takes what is left out.
    """
    from benchecg.left_out import left_out
    from benchecg.profiles import task_in
    from benchecg.reference import VARIANTS
    from benchecg.running import load_data
    from benchecg.tasks import task_ids

    every = task_ids() if profile == "corrected" else tuple(VARIANTS)
    for task in [task_in(profile, i) for i in ids or every]:
        if of_open_sets and (task.dataset.access != "open" or task.synthetic):
            if absent is not None and not task.synthetic:
                absent.append(left_out(task, None, root))
            continue
        try:
            yield load_data(task, root)
        except DataMissing as error:
            if ids:
                raise
            if absent is not None and not task.synthetic:
                absent.append(left_out(task, error, root))
            click.echo(f"{task.id}: left out. {error}", err=True)


def progress_of(label: str) -> Callable[[Iterable], Iterable]:
    """A bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        return iter
    from rich.console import Console
    from rich.progress import track

    return lambda blocks: track(blocks, description=label, console=Console(stderr=True), transient=True)


def number(value: float | None) -> str:
    """Three digits, a dash where there is no value."""
    return "–" if value is None else f"{value:.3f}"


def printable(text: str) -> str:
    """Text of a file as a terminal may show it."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
