"""`xecg convert`: the published xECG weights to a checkpoint folder, and back."""

from __future__ import annotations

from pathlib import Path

import click

from xecg.cli._common import Output, printable

__all__ = ["command"]


@click.command("convert")
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.option("--output", "-o", type=Output(folder=True), help="The checkpoint folder to write.")
@click.option("--layout", type=click.Choice(["auto", "cuda", "vanilla"]), default="auto", show_default=True)
@click.option("--student/--teacher", default=True, show_default=True, help="Which network of a training checkpoint.")
@click.option("--trust-file", is_flag=True, help="Read a .ckpt with a torch older than 2.10.")
@click.option("--to-official", type=Output(), help="Write SOURCE, a checkpoint folder, as published.")
def command(
    *, source: Path, output: Path | None, layout: str, student: bool, trust_file: bool, to_official: Path | None
) -> None:
    """Convert published xECG weights (.safetensors, or a Lightning .ckpt) to a checkpoint folder, or back.

    \b
    xecg convert model.safetensors -o FOLDER
    xecg convert FOLDER --to-official model.safetensors

    A .ckpt is a pickle: it is read with weights_only=True and needs torch 2.10, as older ones have known bypasses.
    """
    from xecg.model import convert

    if to_official is not None and output is None:
        convert.export_official(source, to_official, layout="cuda" if layout == "auto" else layout)
        click.echo(printable(to_official))
    elif output is not None and to_official is None:
        found = convert.import_official(
            source,
            output,
            layout=None if layout == "auto" else layout,
            branch="student" if student else "teacher",
            trust_file=trust_file,
        )
        click.echo(
            f"{printable(output)}: blocks {found.config.blocks}, width {found.config.dim}, sLSTM layout {found.layout}"
        )
        for name in found.ignored:
            click.echo(f"left out: {printable(name)}")
    else:
        raise click.UsageError("give --output FOLDER, or --to-official FILE to go back; one of the two")
