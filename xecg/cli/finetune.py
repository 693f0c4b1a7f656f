"""`xecg finetune`: a head for a table of labels."""

from __future__ import annotations

from pathlib import Path

import click

from xecg.cli._common import Output, print_json, printable

__all__ = ["command"]


@click.command("finetune")
@click.argument("table", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--output", "-o", required=True, type=Output(), help="The head to write (.safetensors).")
@click.option(
    "--model", "-m", "name", default="tiny", show_default=True, help="A shipped model or a checkpoint folder."
)
@click.option("--label", "labels", multiple=True, metavar="COLUMN", help="What to learn; repeat for several labels.")
@click.option("--beats", is_flag=True, help="Learn N, S, V, other of every beat, from the recordings' annotations.")
@click.option("--peaks", is_flag=True, help="Learn the times of R peaks, from the recordings' annotations.")
@click.option("--kind", help="binary, multiclass, multilabel, regression or survival. Default: by the column's values.")
@click.option("--covariate", "covariates", multiple=True, type=click.Choice(["age", "sex"]), help="Beside the signal.")
@click.option("--unit", default="", help="Unit of a number, for whoever reads the answer.")
@click.option(
    "--after", type=click.IntRange(min=0), default=0, show_default=True, help="Tokens after a beat's own that is read."
)
@click.option(
    "--card",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Text kept in the head, before its errors.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    *,
    table: Path,
    output: Path,
    name: str,
    labels: tuple[str, ...],
    beats: bool,
    peaks: bool,
    kind: str | None,
    covariates: tuple[str, ...],
    unit: str,
    after: int,
    card: Path | None,
    as_json: bool,
) -> None:
    """Fit a linear head on the frozen encoder for TABLE, a CSV with a column `record` (a path relative to the table).

    A column `patient` keeps a person on one side of the split; a column `split` (train, val, test) overrides the rule. The printed
    score is of patients that the head has not seen.
    """
    if beats + peaks + bool(labels) != 1:
        raise click.UsageError("needed one of --label COLUMN, once or more, --beats and --peaks")
    from benchecg.finetuning import card_of, errors_of, fit_head
    from benchecg.user_table import beats_task, peaks_task, table_task
    from xecg.model import load, save_head

    of_beats = beats_task if beats else peaks_task
    task, data = of_beats(table) if beats or peaks else table_task(table, labels, kind=kind)
    fitted = fit_head(task, data, load(name), unit=unit, after=after, covariates=covariates)
    fitted.head.card = card_of(task, fitted, card.read_text(encoding="utf-8") if card else "")
    fitted.head.errors = errors_of(task, fitted, f"test records of {table.name}")
    save_head(fitted.head, output)
    metric = fitted.scored["metrics"][task.metric]
    if as_json:
        facts = {
            "head": str(output),
            "kind": task.kind,
            "classes": list(task.classes),
            "c": fitted.c,
            "units": fitted.units,
        }
        print_json(
            {
                **facts,
                "metric": task.metric,
                **metric,
                "metrics": fitted.scored["metrics"],
                "warnings": fitted.scored["warnings"],
            }
        )
        return
    click.echo(
        f"{printable(output)}: {task.kind} head, {fitted.units['train'] + fitted.units['val']:,} {task.unit}s to fit"
    )
    value, low, high = (_text(metric[k]) for k in ("value", "low", "high"))
    click.echo(
        f"{task.metric} {value} [{low}, {high}] on {fitted.units['test']:,} {task.unit}s of patients it has not seen"
    )
    for warning in fitted.scored["warnings"]:
        click.echo(f"warning: {printable(warning)}", err=True)


def _text(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
