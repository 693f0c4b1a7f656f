"""`python -m bench.proof.heads --data DIR tiny tiny-causal`: the heads that ship, of beats and of R peaks, for given weights.

Both are linear on frozen tokens, fitted on DS1 of the MIT-BIH Arrhythmia Database without record 201 and tested on DS2, each by
`benchecg.finetuning`, as `xecg finetune` does. Every head is bound to its encoder by the fingerprint, so they are made anew with
new weights.
"""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from benchecg.finetuning import Fitted, card_of, errors_of, fit_head
from benchecg.tasks import mitbih_beats
from benchecg.tasks.base import Task, TaskData
from benchecg.user_table import beats_task, peaks_task
from xecg import XECG, load
from xecg.io.atomic import write_json
from xecg.model import save_head

__all__ = ["MOST_BYTES", "make", "table_of"]

MOST_BYTES = 50_000
_HEADS = Path(__file__).parents[2] / "xecg" / "weights" / "heads"
_VALIDATE = ("114", "115", "203", "208", "220")  # of DS1: choose C and threshold
_TESTED_ON = "DS2 of the MIT-BIH Arrhythmia Database"
_RARE = 0.5  # F1 below which a class is said to be found rarely
_KINDS: dict[str, tuple[str, Callable[[Path], tuple[Task, TaskData]]]] = {
    "beats": ("Beats: N, S, V, other", beats_task),
    "rpeaks": ("R peaks", peaks_task),
}
_ABOUT = """# {title}

Trained on the DS1 half of the MIT-BIH Arrhythmia Database 1.0.0 (ODC-By 1.0; Moody and Mark 2001) without record 201, whose patient is
also in DS2 (records {validate} validate); its errors are those of the 22 records of DS2. The
encoder never saw a recording of that database. Made by `python -m bench.proof.heads --data DIR {name}`.
{what}
"""
_WHAT = {
    "beats": "Classes by AAMI EC57.",
    "rpeaks": "Every token has a height for each 10 ms of its quarter of a second; a peak is a maximum of at least the threshold,\n"
    "placed between heights by a parabola, none nearer than 200 ms to a higher one.",
}


def table_of(root: Path, folder: Path) -> Path:
    """FOLDER/mitdb.csv: records of DS1 and DS2 with patient and split; 201 is in neither part."""
    path = folder / "mitdb.csv"
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(("record", "patient", "split"))
        for r in mitbih_beats.TASK.load(root).records:
            split = "val" if r.id in _VALIDATE else "train" if r.split == "val" else r.split
            if split != "dropped":
                writer.writerow((r.path.resolve().with_suffix(""), r.patient, split))
    return path


def make(kind: str, table: Path, model: XECG, out: Path) -> tuple[Task, Fitted]:
    """Fit the head `kind` of `model` and write OUT/MODEL-KIND.safetensors."""
    title, task_of = _KINDS[kind]
    task, data = task_of(table)
    fitted = fit_head(task, data, model, after=int(model.config.causal))
    about = _ABOUT.format(title=title, validate=_listed(_VALIDATE), what=_WHAT[kind], name=model.name)
    rare = [name for name in ("S", "V") if (fitted.scored["metrics"].get(f"f1/{name}", {}).get("value") or 1) < _RARE]
    about += "".join(f"{name} beats are found rarely: do not use this head where they matter.\n" for name in rare)
    fitted.head.card = card_of(task, fitted, about)
    fitted.head.errors = errors_of(task, fitted, _TESTED_ON)
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{model.name}-{kind}.safetensors"
    save_head(fitted.head, path)
    if path.stat().st_size > MOST_BYTES:
        raise click.ClickException(
            f"{path} has {path.stat().st_size:,} bytes; heads that ship have {MOST_BYTES:,} at most"
        )
    return task, fitted


def _listed(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


@click.command()
@click.argument("weights", nargs=-1, required=True)
@click.option("--data", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--output", "-o", "out", default=_HEADS, show_default=True, type=click.Path(path_type=Path))
@click.option("--json", "report", type=click.Path(path_type=Path), help="The errors of all, for the tables.")
def main(weights: tuple[str, ...], data: Path, out: Path, report: Path | None) -> None:
    """Write the heads of each of WEIGHTS: a model that ships, or NAME=FOLDER of a checkpoint that is to have that name."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        table = table_of(data, Path(folder))
        for text in weights:
            name, _, place = text.partition("=")
            model = load(place or name)
            model.name = name
            for kind in _KINDS:
                task, fitted = make(kind, table, model, out)
                errors = errors_of(task, fitted, _TESTED_ON)
                size = (out / f"{name}-{kind}.safetensors").stat().st_size
                found[f"{name}-{kind}"] = errors | {"fingerprint": model.fingerprint, "c": fitted.c, "bytes": size}
                click.echo(f"{name}-{kind}: {size:,} bytes; {errors['metrics']}")
    if report is not None:
        write_json(report, found)


if __name__ == "__main__":
    main()
