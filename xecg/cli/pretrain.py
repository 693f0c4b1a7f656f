"""`xecg pretrain`: an encoder from unlabelled recordings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from xecg.cli._common import print_json, printable

__all__ = ["command"]

_OF_VIEWS = {"few_leads": "few_leads", "stretch": "rate", "mask_chance": "mask_chance", "local_views": "local_views"}


@click.command("pretrain")
@click.argument("folders", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--data",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    help="A store, or a folder as FOLDERS; repeat.",
)
@click.option("--output", "-o", required=True, type=click.Path(path_type=Path), help="Folder of the run.")
@click.option("--model", default="tiny", show_default=True, help="Preset to train: base, tiny or tiny-causal.")
@click.option("--steps", type=click.IntRange(1), default=1000, show_default=True)
@click.option("--batch", type=click.IntRange(2), default=64, show_default=True, help="Records a step.")
@click.option(
    "--rate", type=click.FloatRange(0, 1, min_open=True), default=1e-3, show_default=True, help="Learning rate."
)
@click.option(
    "--expansion", type=click.FloatRange(0), default=0.1, show_default=True, help="Weight of the coding rate."
)
@click.option("--auxiliary", type=click.FloatRange(0), default=0.0, show_default=True, help="Weight of the beat heads.")
@click.option(
    "--repeat-real", type=click.IntRange(1), default=1, show_default=True, help="Visits of a real window an epoch."
)
@click.option(
    "--mask-chance", type=click.FloatRange(0, 1), default=1.0, show_default=True, help="Of a view to be masked."
)
@click.option("--local-views", type=click.IntRange(0), default=4, show_default=True, help="Short views of a record.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--synthetic", type=click.IntRange(0), default=0, show_default=True, help="Simulated records to add.")
@click.option("--few-leads", type=click.FloatRange(0, 1), default=0.0, help="Chance that a view keeps II and one lead.")
@click.option(
    "--stretch", type=click.FloatRange(0, 0.4), default=0.0, help="Largest change of a view's speed, 0.03 = 3 %."
)
@click.option("--forbid", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="File of content hashes.")
@click.option(
    "--compare", multiple=True, type=click.Path(exists=True, path_type=Path), help="Benchmark folder; repeat."
)
@click.option(
    "--device", default="cpu", show_default=True, help="cpu or cuda; under torchrun each process has its GPU."
)
@click.option(
    "--micro", type=click.IntRange(0), default=0, show_default=True, help="Records at once in a process; 0 = its part."
)
@click.option(
    "--scope",
    type=click.Choice(["global", "local"]),
    default="global",
    show_default=True,
    help="Coding rate of the whole batch, or of each process's micro-batches.",
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Of the encoder.",
)
@click.option("--save-every", type=click.IntRange(1), default=100, show_default=True, help="Steps between states.")
@click.option(
    "--log-every", type=click.IntRange(1), default=10, show_default=True, help="Steps between lines of the log."
)
@click.option("--max-memory", type=click.FloatRange(0, min_open=True), help="MB at which the run saves and stops.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.pass_context
def command(
    ctx: click.Context, *, folders: tuple[Path, ...], data: tuple[Path, ...], output: Path, synthetic: int,
    forbid: Path | None, compare: tuple[Path, ...], device: str, micro: int, save_every: int, log_every: int,
    max_memory: float | None, as_json: bool, **asked: Any,
) -> None:  # fmt: skip
    """Train an encoder on a store (`xecg store build`) or on every recording under FOLDERS (SimDINOv2, no labels).

    The same command goes on with a run that was stopped or killed, to the same bits. `torchrun --nproc-per-node=N -m xecg
    pretrain …` spreads every batch over N processes, and any number may go on with the run of another. Folders and recordings
    of benchmark sets are refused by name and content; --compare finds copies of what lies in further folders. The teacher,
    in OUTPUT/teacher, is the model to use.
    """
    folders += data
    if not folders:
        raise click.UsageError("needed --data, a store or a folder of recordings")
    from xecg.pretrain.distributed import first_process
    from xecg.pretrain.run import pretrain, read_hashes
    from xecg.pretrain.settings import Settings
    from xecg.pretrain.views import ViewSettings

    views = {name: asked.pop(option) for option, name in _OF_VIEWS.items()}
    settings = Settings(views=ViewSettings(**views), **asked)
    hashes = read_hashes(forbid) if forbid is not None else ()

    def report(line: dict[str, Any]) -> None:
        click.echo(
            f"step {line['step']:,}/{settings.steps:,}  loss {line['loss']:.4f}  rate share {line['rate_share']:.2f}  "
            f"{line['records_per_s']:.0f} records/s  {line.get('alarm', '')}".rstrip(),
            err=True,
        )

    built, done = pretrain(
        folders, output, settings, synthetic=synthetic, forbidden=hashes, compare=compare, device=device, micro=micro,
        save_every=save_every, log_every=log_every, max_memory_mb=max_memory, report=report,
    )  # fmt: skip
    summary = {
        "output": printable(output / "teacher" if done.finished else output),
        "finished": done.finished,
        "step": done.step,
        "windows": built.windows,
        "recordings": built.recordings,
        "synthetic": built.synthetic,
        "compared": built.compared,
        "refused": [printable(text) for text in built.refused],
        "duplicates": [printable(text) for text in built.duplicates],
    }
    if not first_process():
        pass
    elif as_json:
        print_json(summary)
    else:
        state = "trained" if done.finished else f"stopped after step {done.step:,}; the same command goes on"
        click.echo(
            f"{summary['output']}: {state}. {built.windows:,} windows of {built.recordings:,} recordings, {synthetic:,} "
            f"synthetic; {len(built.refused)} files refused, {len(built.duplicates)} duplicates left out"
        )
    if not done.finished:
        ctx.exit(130)
    if built.refused:
        ctx.exit(3)
