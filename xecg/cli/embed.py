"""`xecg embed`: an archive of recordings to one table of embeddings."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from xecg.cli._common import Finite, print_json, printable, reading_options

__all__ = ["command"]


_CONTEXT_S = 60.0  # that of `embed_archive`, which would load torch


class _Context(click.ParamType):
    name = "seconds|record"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | None:
        """ "record" → None."""
        if value is None or value == "record":
            return None
        return Finite(min=0, min_open=True).convert(value, param, ctx)


@click.command("embed")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--model", "-m", "model_name", default="tiny", show_default=True, help="A shipped model or a checkpoint folder."
)
@click.option("--output", "-o", required=True, type=click.Path(path_type=Path), help="The Parquet table to write.")
@click.option("--window", "window_s", type=Finite(min=0, min_open=True), help="Seconds a row. Default: a row a record.")
@click.option(
    "--context",
    "context_s",
    type=_Context(),
    default=_CONTEXT_S,
    show_default=True,
    help="Seconds of a longer record that its tokens see, or record: all of it.",
)
@click.option("--tokens", is_flag=True, help="A row a token, with its time.")
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=16, show_default=True, help="Ten-second ECGs a batch."
)
@click.option("--shard", default="1/1", metavar="I/N", help="Embed the I-th of N shares of the records.")
@click.option("--device", default="cpu", show_default=True, help="Where the model runs: cpu, cuda, cuda:1.")
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads of the model and the reader. Default: torch's.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@reading_options
@click.pass_context
def command(
    context: click.Context,
    *,
    paths: tuple[Path, ...],
    model_name: str,
    output: Path,
    window_s: float | None,
    context_s: float | None,
    tokens: bool,
    batch_size: int,
    shard: str,
    device: str,
    threads: int | None,
    as_json: bool,
    reading: dict[str, Any],
) -> None:
    """Embed recordings and folders of recordings into one Parquet table.

    A file that cannot be read is listed in OUTPUT.errors.jsonl and the run goes on (exit code 3). An interrupted run
    keeps its work in OUTPUT.partial; the same command continues it.
    """
    share = _share(shard)
    if window_s is not None and context.get_parameter_source("context_s") == ParameterSource.COMMANDLINE:
        raise click.UsageError("--window is the context of its rows; give it or --context")
    from xecg.model import load
    from xecg.model.archive import embed_archive

    if threads is not None:
        _set_threads(threads)
    model = load(model_name, device=device)
    if not model.trained:
        click.echo(f"warning: model '{printable(model_name)}' is untrained: its embeddings mean nothing yet", err=True)
    with _sigterm_is_an_exit(), _progress_bar() as progress:
        try:
            report = embed_archive(
                paths,
                model,
                output,
                window_s=window_s,
                context_s=context_s,
                tokens=tokens,
                batch_size=batch_size,
                workers=threads,
                shard=share,
                reading=reading,
                progress=progress,
            )
        except KeyboardInterrupt:
            click.echo(f"finished parts are kept in {printable(output)}.partial; the same command continues", err=True)
            raise
    if as_json:
        print_json(report.to_dict())
    else:
        click.echo(printable(report))
    if report.n_refused:
        context.exit(3)


def _share(text: str) -> tuple[int, int]:
    share, _, of = text.partition("/")
    if not (share.isdecimal() and of.isdecimal() and 1 <= int(share) <= int(of)):
        raise click.BadParameter(f"{text!r} is not I/N with I from 1 to N, such as 2/8", param_hint="--shard")
    return int(share), int(of)


def _set_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    try:
        from xecg import _cpu
    except ImportError:
        return
    _cpu.set_num_threads(threads)


@contextmanager
def _sigterm_is_an_exit() -> Iterator[None]:
    """SIGTERM unwinds the stack like Ctrl-C does, so that locks and temporary files go; the exit code is 143."""

    def stop(*_: Any) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _progress_bar() -> Iterator[Callable[[int, int], None] | None]:
    """A bar on stderr when that is a terminal, else None."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
