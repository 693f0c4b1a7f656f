"""What several commands share: options of the reader, safe text for a terminal, JSON output."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

__all__ = ["Finite", "Output", "print_json", "printable", "reading_options", "records"]

_F = TypeVar("_F", bound=Callable[..., Any])


class Finite(click.FloatRange):
    """A range of floats without nan, which passes every comparison, and without infinity, which no sample count is."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


class Output(click.Path):
    """A file to write, or a folder (`xecg.io.outputs.check_output`): refused before the work begins, not when it is done."""

    def __init__(self, *, folder: bool = False) -> None:
        super().__init__(path_type=Path)
        self._folder = folder

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        from xecg.io.outputs import check_output

        return check_output(super().convert(value, param, ctx), folder=self._folder)  # type: ignore[arg-type]


_READING = (
    click.option("--rate", type=Finite(min=0, min_open=True), help="Sampling rate in Hz, where the file has none."),
    click.option("--unit", help="Unit of the samples (mV, uV, V), where the file has none."),
    click.option("--leads", help="Lead names in the file's order, comma separated, where the file has none."),
    click.option("--partial", is_flag=True, help="Read what is there of a truncated file and mask the rest."),
    click.option("--strict", is_flag=True, help="Refuse what would be repaired with a log entry."),
    click.option("--ignore-checksum", is_flag=True, help="Log a wrong WFDB checksum instead of refusing the file."),
    click.option("--allow-negative-gain", is_flag=True, help="Accept a negative WFDB gain (polarity is unclear)."),
)
_READING_NAMES = ("rate", "unit", "leads", "partial", "strict", "ignore_checksum", "allow_negative_gain")


def reading_options(function: _F) -> _F:
    """Adds the options of `xecg.read`; the command gets them as one dict, `reading`, of keyword arguments for it."""

    @wraps(function)
    def wrapped(**values: Any) -> Any:
        reading = {name: values.pop(name) for name in _READING_NAMES}
        if reading["leads"] is not None:
            reading["leads"] = split_names(reading["leads"], "--leads")
        return function(reading=reading, **values)

    for option in reversed(_READING):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[return-value]


def split_names(text: str, option: str) -> tuple[str, ...]:
    """`"I, II"` to `("I", "II")`. Raises click.BadParameter when a name is empty."""
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise click.BadParameter(f"{text!r} has an empty name; write names separated by commas", param_hint=option)
    return names


def records(paths: Iterable[Path]) -> list[Path]:
    """Every recording under the paths. Raises ReadError when there is none."""
    from xecg.io.find import find_records, no_records

    found = [path for root in paths for path in find_records(root)]
    if not found:
        raise no_records(paths)
    return found


def printable(text: object) -> str:
    """Text that a terminal may show: control characters and undecodable bytes, which file names can hold, escaped."""
    clean = str(text).encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c == "\n" or c.isprintable() else repr(c)[1:-1] for c in clean)


def print_json(value: Mapping[str, Any] | list[Any]) -> None:
    """Prints one JSON document on stdout. NaN, which JSON lacks, is not let through."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=True, allow_nan=False))
