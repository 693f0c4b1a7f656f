"""`xecg pretrain`: an encoder from unlabelled recordings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from xecg.cli._common import Finite, printable
from xecg.cli._training import finish, folder_of, progress_of, running, settings_of, training_options

__all__ = ["command"]


@click.command("pretrain")
@click.argument("folders", nargs=-1, type=click.Path(exists=True, path_type=Path))
@training_options
@click.option("--model", default="tiny", show_default=True, help="Preset to train: base, tiny or tiny-causal.")
@click.option("--expansion", type=Finite(0), default=0.1, show_default=True, help="Weight of the coding rate.")
@click.option(
    "--scope",
    type=click.Choice(["global", "local"]),
    default="global",
    show_default=True,
    help="Coding rate of the whole batch, or of each process's micro-batches.",
)
@click.option(
    "--pairing",
    type=click.Choice(["record", "patient"]),
    default="record",
    show_default=True,
    help="Compare views of one window, or also of two windows of a patient.",
)
@click.option("--auxiliary", type=Finite(0), default=0.0, show_default=True, help="Weight of the beat heads.")
@click.option(
    "--repeat-real", type=click.IntRange(1), default=1, show_default=True, help="Visits of a real window an epoch."
)
@click.option("--mask-chance", type=Finite(0, 1), default=1.0, show_default=True, help="Of a view to be masked.")
@click.option("--local-views", type=click.IntRange(0), default=4, show_default=True, help="Short views of a record.")
@click.option("--report", "only_report", is_flag=True, help="Write OUTPUT/report.html of a run that is there, and end.")
@click.pass_context
def command(
    ctx: click.Context, *, folders: tuple[Path, ...], data: tuple[Path, ...], output: Path | None, only_report: bool, as_json: bool,
    **values: Any,
) -> None:  # fmt: skip
    """Train an encoder on --data, or on every recording under FOLDERS, which is the same (SimDINOv2, no labels).

    The same command goes on with a run that was stopped or killed, to the same bits. `torchrun --nproc-per-node=N -m xecg
    pretrain …` spreads every batch over N processes, and any number may go on with the run of another. Folders and recordings
    of benchmark sets under FOLDERS are left out, by name and content, and counted; --compare finds copies of what lies in
    further folders; a benchmark set that is named itself is an error. The teacher, in OUTPUT/teacher, is the model to use;
    OUTPUT/report.html shows how the run went.
    """
    if not (folders + data or only_report):
        raise click.UsageError("needed --data, a store or a folder of recordings")
    settings = settings_of(ctx, values)
    output = folder_of(output, settings)
    if only_report:
        from xecg.pretrain.report import write_report

        click.echo(printable(write_report(output)))
        return
    from xecg.pretrain.run import pretrain

    built, done = pretrain(folders + data, output, settings, **running(values), report=progress_of(settings.steps))
    finish(ctx, output / "teacher" if done.finished else output, built, done, as_json=as_json)
