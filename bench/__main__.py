"""Run the entries of one table, print it, and keep it as JSON; or list the bars that a result file misses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.registry import SUITES

if TYPE_CHECKING:
    from bench.harness import Ceilings


@click.group()
def main() -> None:
    """Throughput of xecg beside its peers."""


@main.command("run")
@click.argument("suite", type=click.Choice(list(SUITES)))
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the rows here.")
@click.option("--only", default="", help="Entries whose id contains this text.")
@click.option("--seconds", default=1.0, show_default=True, help="Time for each function of a timed entry.")
@click.option("--resume", is_flag=True, help="Suite gpu: keep the rows of the file and go on after them.")
def run_suite(suite: str, out: Path | None, only: str, seconds: float, resume: bool) -> None:
    """Ours, peers that are installed, and the fraction of the ceiling measured in the same run."""
    from bench.harness import Bench, ceilings, measure, value_row
    from bench.registry import entries

    if suite == "gpu":
        return _run_gpu(out, only, seconds, resume)
    limits = ceilings(1)
    click.echo(f"ceilings, 1 thread: {limits.gemm / 1e9:.1f} GFLOP/s, copy {limits.copy / 1e9:.1f} GB/s")
    rows = []
    for make in entries(suite):
        for entry in make():
            if only not in entry.id:
                continue
            if isinstance(entry, Bench):
                rows.append(measure(entry, limits if entry.threads == 1 else ceilings(entry.threads), seconds=seconds))
            else:
                rows.append(value_row(entry))
            click.echo(_line(rows[-1]))
    _write(out, limits, rows)


def _run_gpu(out: Path | None, only: str, seconds: float, resume: bool) -> None:
    """As any suite, on the GPU: an entry that fails is a row with its reason and exit status 1."""
    from bench import device, gpu_run

    def tell(row: dict) -> None:
        click.echo(_line(row))
        for peer, why in row["not_run"].items():
            click.echo(f"  did not run: {peer}: {why}")

    reason = device.why_none()
    if reason:
        raise click.ClickException(reason)
    raise SystemExit(gpu_run.run(out, only, seconds, resume=resume, tell=tell))


def _write(out: Path | None, limits: Ceilings, rows: list[dict]) -> None:
    if out is not None:
        from xecg.io.atomic import write_json

        out.parent.mkdir(parents=True, exist_ok=True)
        told = {"gemm_flops": limits.gemm, "gemm_dtype": limits.gemm_dtype, "copy_bytes": limits.copy}
        write_json(out, {"ceilings": told, "rows": rows})


@main.command()
@click.argument("file", type=click.Path(exists=True, path_type=Path))
def check(file: Path) -> None:
    """List the bars that FILE misses; exit status 1 when there are any."""
    missed = [row for row in json.loads(file.read_text())["rows"] if row["met"] is False]
    for row in missed:
        click.echo(_line(row))
    raise SystemExit(1 if missed else 0)


@main.command("roofline")
@click.argument("file", type=click.Path(exists=True, path_type=Path))
@click.option(
    "-o", "--out", required=True, type=click.Path(path_type=Path), help="Picture; the ending says which kind."
)
def draw_roofline(file: Path, out: Path) -> None:
    """Draw the rows of FILE that have operations and bytes under the ceilings of their run."""
    from bench.roofline import draw

    click.echo(draw(json.loads(file.read_text()), out))


@main.command()
@click.argument("runs", type=click.Path(exists=True, file_okay=False, path_type=Path))
def scores(runs: Path) -> None:
    """Collect the headline scores of `benchecg run` under RUNS into bench/results/benchecg.json."""
    from xecg.io.atomic import write_json

    rows, note = [], ""
    for path in sorted(runs.glob("*/*/result.json")):
        result = json.loads(path.read_text())
        if result["status"] != "scored" or result["task"]["synthetic"] or result["profile"] != "corrected":
            continue
        task, model, metric = result["task"], result["model"], result["metrics"][result["task"]["metric"]]
        untrained = model["trained"] is False
        rows.append(
            {
                "task": task["id"] + ("" if result["data"]["complete"] else " (subset)"),
                "model": model["id"] + (" (untrained)" if untrained else ""),
                "metric": task["metric"] + ("" if task["higher_is_better"] else " (lower is better)"),
                "value": metric["value"],
                "low": metric["low"],
                "high": metric["high"],
                "units": result["support"]["units"],
                "clusters": result["support"]["patients"],
                "protocol": result["protocol"]["name"],
                "profile": result["profile"],
                "split_sha256": result["split"]["sha256"],
                "data_sha256": result["data"]["sha256"],
                "fingerprint": model["fingerprint"],
            }
        )
        note = (
            f"{result['protocol']['name'].capitalize()}, profile `{result['profile']}`, intervals over "
            "patients. `benchecg run` makes them, `benchecg score` recomputes them."
        )
    write_json(Path(__file__).parent / "results" / "benchecg.json", {"rows": rows, "note": note})


@main.command("qrs")
@click.option(
    "--data", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path), help="Holds mitdb/."
)
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write counts and scores here.")
@click.option("--only", default="", help="Detectors whose name contains this text.")
@click.option("--clean", is_flag=True, help="Without the rounds under synthetic noise.")
def score_qrs(data: Path, out: Path | None, only: str, clean: bool) -> None:
    """Score the QRS detector and its peers on the MIT-BIH Arrhythmia Database: some 12 minutes, nearly all of them in xqrs."""
    from bench import qrs
    from bench.readme import qrs_table
    from xecg.errors import DataMissing
    from xecg.io.atomic import write_json

    try:
        records = qrs.load(data)
    except DataMissing as error:
        raise click.ClickException(str(error)) from None
    detectors = [name for name in qrs.DETECTORS if only in name]
    result = qrs.evaluate(records, detectors=detectors, conditions=qrs.CONDITIONS[:1] if clean else qrs.CONDITIONS)
    click.echo(qrs_table(result))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(out, result)


@main.command("length")
@click.option(
    "--data", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path), help="Holds mitdb/."
)
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write scores and norms here.")
@click.option(
    "--model", "models", multiple=True, help="A checkpoint folder in place of the shipped weights; may be repeated."
)
def score_length(data: Path, out: Path | None, models: tuple[str, ...]) -> None:
    """Score contexts from ten seconds to the whole record on the beats of MIT-BIH, with norms of tokens and states."""
    from bench import length
    from bench.readme import length_table
    from benchecg.tasks import mitbih_beats
    from xecg import load
    from xecg.errors import DataMissing
    from xecg.io.atomic import write_json

    try:
        beats = mitbih_beats.TASK.load(data)
    except DataMissing as error:
        raise click.ClickException(str(error)) from None
    result = length.evaluate(beats, [load(name).eval() for name in models or length.MODELS])
    click.echo(length_table(result))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(out, result)


@main.command("intervals")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the coverages here.")
@click.option("--repeats", default=1.0, show_default=True, help="Of the number of simulated studies.")
def study_intervals(out: Path | None, repeats: float) -> None:
    """Simulate how often intervals over patients hold the truth: some five minutes on one thread."""
    from bench import intervals
    from xecg.io.atomic import write_json

    result = intervals.study(repeats=repeats, report=lambda row: click.echo(_coverage(row)))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(out, result)


def _coverage(row: dict) -> str:
    share = f"{100 * row['coverage']:5.1f} ± {100 * row['standard_error']:.1f} %"
    where = f"{row['population']:8s} {row['metric']:9s} {row['clusters']:5,d} patients  {row['method']:22s}"
    return f"{where} {share}  median width {row['width']:.3g}"


@main.command()
def readme() -> None:
    """Write the tables of README and docs from the JSON under bench/results."""
    from bench.readme import PAGES, rendered
    from xecg.io.atomic import write_text

    for page in PAGES:
        write_text(page, rendered(page.read_text()))


def _line(row: dict) -> str:
    bar = "" if row["bar"] is None else f"bar {row['bar']:.3g} ({row['score']}): {'met' if row['met'] else 'NOT MET'}"
    if "value" in row:
        beside = ", ".join(f"{name} {value:.4g}" for name, value in row["peers"].items())
        return f"{row['id']:44s} {row['value']:9.4g} {row['unit']:12s} {beside:40s} {bar}"
    if "failed" in row:
        return f"{row['id']:44s} FAILED: {row['failed']}"
    peer = f"{row['ratio']:6.2f}x {row['peer']}" if row["peer"] else "no peer"
    part = f"{100 * row['ceiling_fraction']:5.1f} % of {row['ceiling']}" if row["ceiling_fraction"] else ""
    return f"{row['id']:44s} {row['time_s'] * 1e3:9.4f} ms  {peer:32s} {part:20s} {bar}"


if __name__ == "__main__":
    main()
