"""`xecg store`: preprocessed windows of an archive, to pretrain on."""

from __future__ import annotations

from pathlib import Path

import click

from xecg.cli._common import Output, print_json, printable
from xecg.cli._training import left_out_rows, say_left_out

__all__ = ["command"]


@click.group("store")
def command() -> None:
    """Stores of preprocessed windows, for `xecg pretrain --data`."""


@command.command("build")
@click.argument("sources", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--output", "-o", required=True, type=Output(folder=True), help="Folder of the store.")
@click.option("--model", default="tiny", show_default=True, help="Preset whose front end the windows go through.")
@click.option("--synthetic", type=click.IntRange(0), default=0, show_default=True, help="Simulated records to add.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the simulated records.")
@click.option(
    "--patients",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="CSV with columns record and patient, where headers do not say whose a recording is.",
)
@click.option("--forbid", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="File of content hashes.")
@click.option(
    "--compare", multiple=True, type=click.Path(exists=True, path_type=Path), help="Benchmark folder; repeat."
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.pass_context
def build(
    ctx: click.Context, *, sources: tuple[Path, ...], output: Path, model: str, synthetic: int, seed: int,
    patients: Path | None, forbid: Path | None, compare: tuple[Path, ...], as_json: bool,
) -> None:  # fmt: skip
    """Write every recording under SOURCES to a store, in windows of at most 12 s as the model will see them.

    Any lead set: leads that a recording lacks are missing in its windows. The same command goes on with a build that was
    killed. Recordings of benchmark sets under SOURCES are left out, by name and content, and counted; --compare finds copies of
    what lies in further folders; a benchmark set that is named itself is an error. Windows of one patient are
    linked; names are not written.
    """
    from xecg.pretrain.build import build_corpus, read_patients
    from xecg.pretrain.run import read_hashes, spec_of

    if not sources and not synthetic:
        raise click.UsageError("needed SOURCES, or --synthetic")

    def progress(done: int, total: int) -> None:
        click.echo(f"{done:,} of {total:,} recordings", err=True)

    built = build_corpus(
        sources, output, spec_of(model), synthetic=synthetic, seed=seed, compare=compare, progress=progress,
        forbidden=read_hashes(forbid) if forbid is not None else (),
        patients=read_patients(patients) if patients is not None else None,
    )  # fmt: skip
    size_mb = sum(path.stat().st_size for path in output.iterdir()) / 1e6
    if as_json:
        print_json(
            {
                "output": printable(output),
                "windows": built.windows,
                "recordings": built.recordings,
                "synthetic": built.synthetic,
                "patients": built.patients,
                "compared": built.compared,
                "size_mb": round(size_mb, 1),
                "refused": [printable(text) for text in built.refused],
                "duplicates": [printable(text) for text in built.duplicates],
                "left_out": left_out_rows(built),
            }
        )
    else:
        click.echo(
            f"{printable(output)}: {built.windows:,} windows of {built.recordings:,} recordings and {built.synthetic:,} "
            f"synthetic, {built.patients:,} patients, {size_mb:,.1f} MB; {len(built.refused)} files refused, "
            f"{len(built.duplicates)} duplicates left out"
        )
        say_left_out(built)
    if built.refused:
        ctx.exit(3)
