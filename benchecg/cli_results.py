"""Commands on results that are there: score, compare, report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from benchecg.commands import json_option, number, print_json

if TYPE_CHECKING:
    from benchecg.results import Result

__all__ = ["compare", "report", "score"]


@click.command()
@click.argument("runs", type=click.Path(path_type=Path))
@json_option
@click.pass_context
def score(ctx: click.Context, runs: Path, as_json: bool) -> None:
    """Compute every score under RUNS again, from the stored predictions alone, and say whether it is what the run said."""
    from benchecg.results import find_results, read_result, suite_score
    from benchecg.verifying import rescore

    folders = find_results(runs)
    rows = [row for row in map(rescore, folders) if row is not None]
    by_model: dict[str, list[Result]] = {}
    for result in map(read_result, folders):
        name = result.model["id"] + ("" if result.profile == "corrected" else f"@{result.profile}")
        by_model.setdefault(name, []).append(result)
    suites = {model: suite_score(results) for model, results in by_model.items()}
    if as_json:
        print_json({"runs": rows, "benchecg_score": suites})
    else:
        for row in rows:
            value = f"{row['metric']} {number(row['value'])} [{number(row['low'])}, {number(row['high'])}]"
            click.echo(
                f"{row['task']:<18} {row['model']:<14} {value}  {'as in the run' if row['same'] else 'DIFFERS from the run'}"
            )
        for model, suite in suites.items():
            value = number(suite["score"]) if not suite["missing"] else "refused"
            click.echo(f"BenchECG score of {model}: {value} ({suite['n_tasks']} of {suite['of']} tasks on full data)")
    ctx.exit(0 if all(row["same"] for row in rows) else 1)


@click.command()
@click.argument("runs", type=click.Path(path_type=Path))
@click.argument("a")
@click.argument("b")
@click.option(
    "--profile",
    type=click.Choice(["corrected", "authors", "both"]),
    default="corrected",
    show_default=True,
    help="both: the same comparison as the published scripts make it beneath; it has no intervals.",
)
@json_option
def compare(runs: Path, a: str, b: str, profile: str, as_json: bool) -> None:
    """Paired difference of models A and B on every task that both ran, with Holm over the tasks."""
    from benchecg.comparing import compare as compare_models

    chosen = ("corrected", "authors") if profile == "both" else (profile,)
    rows = [row for each in chosen for row in compare_models(runs, a, b, profile=each)]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        verdict = {"a": f"{a} is better", "b": f"{b} is better", None: "not resolved"}[row["better"]]
        verdict = "as the published scripts compute it" if row["profile"] == "authors" else verdict
        p = "–" if row["p_holm"] is None else f"{row['p_holm']:.4f}"
        interval = f"[{number(row['low'])}, {number(row['high'])}]"
        click.echo(
            f"{row['task']:<18} {row['metric']} {a} − {b} = {number(row['value'])} {interval}  p(Holm) {p}  {verdict}"
        )


@click.command()
@click.argument("runs", type=click.Path(path_type=Path))
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), default=Path("benchecg.html"), show_default=True, help="The page."
)
def report(runs: Path, out: Path) -> None:
    """Everything under RUNS as one self-contained HTML page; its overview alone as a table where OUT ends in .tex or .md."""
    from benchecg.left_out import read_left_out
    from benchecg.report import calibration, latex, markdown, render
    from benchecg.results import find_results, read_result
    from benchecg.robustness import find_curves
    from xecg.io.atomic import write_text
    from xecg.io.outputs import check_output

    check_output(out)
    found = {folder: read_result(folder) for folder in find_results(runs)}
    results = list(found.values())
    absent = read_left_out(runs, scored={r.task["id"] for r in results})
    if out.suffix == ".tex":
        write_text(out, latex(results))
    elif out.suffix == ".md":
        write_text(out, markdown(results, left_out=absent))
    else:
        calibrations = {
            (r.task["id"], r.model["id"]): calibration(folder, r)
            for folder, r in found.items()
            if r.profile == "corrected"
        }
        known = {key: value for key, value in calibrations.items() if value is not None}
        write_text(out, render(results, calibrations=known, curves=find_curves(runs), left_out=absent))
    click.echo(f"{out}: {len(results)} runs")
