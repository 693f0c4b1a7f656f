"""What `xecg pretrain` and `xecg distill` share: where records come from, how long, on what; lines of progress, the summary."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from xecg.cli._common import Finite, Output, print_json, printable

if TYPE_CHECKING:
    from xecg.pretrain.build import Report
    from xecg.pretrain.settings import Settings
    from xecg.pretrain.trainer import Summary

__all__ = [
    "finish",
    "folder_of",
    "left_out_rows",
    "progress_of",
    "running",
    "say_left_out",
    "settings_of",
    "training_options",
]

_F = TypeVar("_F", bound=Callable[..., Any])

_OF_VIEWS = {"few_leads": "few_leads", "stretch": "rate", "mask_chance": "mask_chance", "local_views": "local_views"}
_OPTIONS = (
    click.option("--data", multiple=True, type=click.Path(exists=True, path_type=Path),
                 help="A store (xecg store build), or a folder of recordings; repeat folders."),
    click.option("--output", "-o", type=Output(folder=True), help="Folder of the run. Default: run-MODEL."),
    click.option("--config", help="YAML file of settings, or a preset; options given beside it come before it."),
    click.option("--steps", type=click.IntRange(1), default=1000, show_default=True),
    click.option("--batch", type=click.IntRange(2), default=64, show_default=True, help="Records a step, over all processes."),
    click.option("--rate", type=Finite(0, 1, min_open=True), default=1e-3, show_default=True, help="Learning rate."),
    click.option("--seed", type=click.IntRange(0), default=0, show_default=True),
    click.option("--synthetic", type=click.IntRange(0), default=0, show_default=True, help="Simulated records to add."),
    click.option("--few-leads", type=Finite(0, 1), default=0.0, help="Chance that a view keeps II and one lead."),
    click.option("--stretch", type=Finite(0, 0.4), default=0.0, help="Largest change of a view's speed, 0.03 = 3 %."),
    click.option("--precision", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True,
                 help="Of the encoder."),
    click.option("--forbid", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="File of content hashes."),
    click.option("--compare", multiple=True, type=click.Path(exists=True, path_type=Path), help="Benchmark folder; repeat."),
    click.option("--device", default="cpu", show_default=True, help="cpu or cuda; under torchrun each process has its GPU."),
    click.option("--micro", type=click.IntRange(0), default=0, show_default=True,
                 help="Records at once in a process; 0 = its part."),
    click.option("--save-every", type=click.IntRange(1), default=100, show_default=True, help="Steps between states."),
    click.option("--log-every", type=click.IntRange(1), default=10, show_default=True, help="Steps between lines of the log."),
    click.option("--held-out", type=Finite(0, 0.5), default=0.0, show_default=True,
                 help="Share of patients that is kept for probes."),
    click.option("--probe-every", type=click.IntRange(0), default=0, show_default=True,
                 help="Steps between probes of held-out windows (heart rate, source); 0 = never."),
    click.option("--tensorboard", is_flag=True, help="Draw the log in OUTPUT/tensorboard too, where the package is installed."),
    click.option("--max-memory", "max_memory_mb", type=Finite(0, min_open=True),
                 help="MB at which the run saves and stops."),
    click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON."),
)  # fmt: skip
_RUNNING = (
    "synthetic",
    "compare",
    "device",
    "micro",
    "save_every",
    "log_every",
    "probe_every",
    "tensorboard",
    "max_memory_mb",
)


def training_options(function: _F) -> _F:
    """Adds the options; `settings_of` and `running` take theirs from the values."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def settings_of(ctx: click.Context, values: dict[str, Any]) -> Settings:
    """Takes what is a setting out of `values`. With --config, only what was given on the command line changes it."""
    from dataclasses import fields, replace

    from xecg.pretrain.settings import Settings, read_settings

    config = values.pop("config")
    known = {f.name for f in fields(Settings)} | _OF_VIEWS.keys()
    asked = {name: values.pop(name) for name in tuple(values) if name in known}
    settings = Settings() if config is None else read_settings(config)
    if config is not None:
        asked = {k: v for k, v in asked.items() if ctx.get_parameter_source(k) is ParameterSource.COMMANDLINE}
    views = {_OF_VIEWS[name]: asked.pop(name) for name in tuple(asked) if name in _OF_VIEWS}
    return replace(settings, views=replace(settings.views, **views), **asked)


def folder_of(output: Path | None, settings: Settings) -> Path:
    """The folder of a run."""
    return Path(f"run-{settings.model}") if output is None else output


def left_out_rows(built: Report) -> list[dict[str, Any]]:
    """Recordings of benchmarks that a build left out, for JSON."""
    return [{"folder": printable(f), "reason": printable(r), "recordings": n} for f, r, n in built.left_out]


def say_left_out(built: Report) -> None:
    """Prints what a build left out, if anything."""
    if built.left_out:
        click.echo(f"left out, for models are scored on them: {printable(', '.join(map(str, built.left_out)))}")


def running(values: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments of `xecg.pretrain.run` that say how a run goes and what it may not see."""
    from xecg.pretrain.run import read_hashes

    forbid = values.pop("forbid")
    return {name: values.pop(name) for name in _RUNNING} | {
        "forbidden": read_hashes(forbid) if forbid is not None else ()
    }


def progress_of(steps: int) -> Callable[[dict[str, Any]], None]:
    """Prints a line of the log on stderr."""

    def report(line: dict[str, Any]) -> None:
        click.echo(
            f"step {line['step']:,}/{steps:,}  loss {line['loss']:.4f}  rate share {line['rate_share']:.2f}  "
            f"{line['records_per_s']:.0f} records/s  {line.get('alarm', '')}".rstrip(),
            err=True,
        )

    return report


def finish(ctx: click.Context, output: Path, built: Report, done: Summary, *, as_json: bool) -> None:
    """Print what a run did, in the first process, and end with its exit code. output: the model where it is finished."""
    from xecg.pretrain.distributed import first_process

    summary = {
        "output": printable(output),
        "finished": done.finished,
        "step": done.step,
        "windows": built.windows,
        "recordings": built.recordings,
        "synthetic": built.synthetic,
        "compared": built.compared,
        "refused": [printable(text) for text in built.refused],
        "duplicates": [printable(text) for text in built.duplicates],
        "left_out": left_out_rows(built),
    }
    if not first_process():
        pass
    elif as_json:
        print_json(summary)
    else:
        state = "trained" if done.finished else f"stopped after step {done.step:,}; the same command goes on"
        click.echo(
            f"{summary['output']}: {state}. {built.windows:,} windows of {built.recordings:,} recordings, "
            f"{built.synthetic:,} synthetic; {len(built.refused)} files refused, {len(built.duplicates)} duplicates left out"
        )
        say_left_out(built)
    if not done.finished:
        ctx.exit(130)
    if built.refused:
        ctx.exit(3)
