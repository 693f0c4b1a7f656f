"""`xecg distill`: a small encoder from the tokens of a large one, on unlabelled recordings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from xecg.cli._training import finish, folder_of, progress_of, running, settings_of, training_options

__all__ = ["command"]


@click.command("distill")
@training_options
@click.option("--teacher", required=True, help="A shipped model or a checkpoint folder, as from xecg convert.")
@click.option("--student", "model", default="tiny-causal", show_default=True, help="Preset to train.")
@click.option(
    "--look-ahead",
    type=click.IntRange(0),
    default=2,
    show_default=True,
    help="Tokens (0.25 s each) that the student is behind its teacher.",
)
@click.option(
    "--teacher-data",
    type=click.Path(exists=True, path_type=Path),
    help="Store for the teacher's front end, where --data is a store for the student's.",
)
@click.pass_context
def command(
    ctx: click.Context, *, data: tuple[Path, ...], output: Path | None, teacher: str, look_ahead: int, teacher_data: Path | None,
    as_json: bool, **values: Any,
) -> None:  # fmt: skip
    """Train a student to have the teacher's tokens, LOOK_AHEAD tokens later, on unlabelled recordings.

    With the published base model and an archive of one's own this gives a small encoder that streams. The student, in
    OUTPUT/student, is the model to use; its card names the teacher's fingerprint and the look-ahead. Runs go on, spread over
    processes and leave benchmark recordings out as `xecg pretrain` does.
    """
    if not data:
        raise click.UsageError("needed --data, a store or a folder of recordings")
    from xecg.model import load
    from xecg.pretrain.run import distill

    settings = settings_of(ctx, values)
    output = folder_of(output, settings)
    built, done = distill(
        load(teacher), data, output, settings, look_ahead=look_ahead, teacher_data=teacher_data, **running(values),
        report=progress_of(settings.steps),
    )  # fmt: skip
    finish(ctx, output / "student" if done.finished else output, built, done, as_json=as_json)
