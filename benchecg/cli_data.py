"""Commands on data and models: verify, prepare, audit, validate-adapter, robustness."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from benchecg.commands import (
    PARTLY,
    data_option,
    json_option,
    load_all,
    print_json,
    printable,
    progress_of,
    seed_option,
)

__all__ = ["audit", "prepare", "robustness", "validate_adapter", "verify"]


@click.command()
@click.option("-t", "--task", "tasks", multiple=True, required=True, help="Task id; repeat for more.")
@click.option("-m", "--model", "models", multiple=True, required=True, help="Model; repeat for more.")
@data_option
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Folder of the runs."
)
@click.option("--cache", type=click.Path(path_type=Path), help="Folder of the features. Default: OUT/.features.")
@click.option("--family", "families", multiple=True, help="Of disturbances; repeat for more. Default: all.")
@seed_option
@json_option
def robustness(
    tasks: tuple[str, ...],
    models: tuple[str, ...],
    data: str | None,
    out: Path,
    cache: Path | None,
    families: tuple[str, ...],
    seed: int,
    as_json: bool,
) -> None:
    """Ask the trained probe again with disturbed test recordings; OUT/TASK/MODEL/robustness.json. See docs/ROBUSTNESS.md."""
    from benchecg.disturbing import FAMILIES
    from benchecg.models import load_adapter
    from benchecg.robustness import lines_of
    from benchecg.robustness import robustness as curves_of
    from benchecg.tasks.base import data_root
    from xecg.io.outputs import check_output

    check_output(out, folder=True)
    root, found = data_root(data), []
    adapters = [load_adapter(name) for name in models]
    for loaded in load_all(tasks, root):
        for adapter in adapters:
            curves = curves_of(
                loaded, adapter, out=out / loaded.task.id / adapter.id, root=root, families=families or FAMILIES,
                cache=cache or out / ".features", seed=seed,
                progress=progress_of(f"{loaded.task.id} · {adapter.id}"),
            )  # fmt: skip
            found.append(curves)
            if not as_json:
                click.echo("\n".join(lines_of(curves)))
    if as_json:
        print_json(found)


@click.command()
@click.argument("tasks", nargs=-1)
@data_option
@json_option
@click.pass_context
def verify(ctx: click.Context, tasks: tuple[str, ...], data: str | None, as_json: bool) -> None:
    """Count the labels of TASKS (default: those with data) and compare with the published counts of the full data set."""
    from benchecg.tasks.base import data_root
    from benchecg.verifying import verify as verify_counts

    rows = [row for loaded in load_all(tasks, data_root(data)) for row in verify_counts(loaded)]
    if as_json:
        print_json(rows)
    else:
        for row in rows:
            counts = " ".join(f"{name} {n:,}" for name, n in row["counts"].items())
            click.echo(f"{row['task']:<18} {row['part']:<10} {counts}  {row['verdict']}")
    ctx.exit(1 if any(row["verdict"].startswith("DIFFERS") for row in rows) else 0)


@click.command()
@click.argument("tasks", nargs=-1)
@data_option
@click.option(
    "--download", is_flag=True, help="Fetch the open ones; say the steps for the others. Resumes what was cut."
)
@click.option("--accept-licence", is_flag=True, help="You have read the licence that is printed and accept it.")
@click.option("--mirror", help="Root URL of another copy of the one data set asked for.")
@click.pass_context
def prepare(
    ctx: click.Context,
    tasks: tuple[str, ...],
    data: str | None,
    download: bool,
    accept_licence: bool,
    mirror: str | None,
) -> None:
    """Say what TASKS need, where to get it and where to put it; demo-synthetic is simulated. Nothing is downloaded without --download.

    TASKS: task ids, or nstdb for the noise of `benchecg robustness`.
    """
    from benchecg import preparing
    from benchecg.tasks.base import data_root

    root = data_root(data)
    if not download:
        preparing.describe(tasks, root, click.echo)
        return

    def accepts(source: object) -> bool:
        return accept_licence or (sys.stdin.isatty() and click.confirm("  Do you accept this licence?"))

    folders = preparing.folders_of(tasks)
    whole = preparing.download(folders, root, say=click.echo, accepts=accepts, mirror=mirror, progress=progress_of)
    ctx.exit(0 if whole else PARTLY)


@click.command()
@click.argument("a", type=click.Path(exists=True, path_type=Path))
@click.argument("b", type=click.Path(exists=True, path_type=Path), required=False)
@json_option
def audit(a: Path, b: Path | None, as_json: bool) -> None:
    """Find recordings of A that are also in B (or twice in A): same samples, altered copies, same patient."""
    from dataclasses import asdict

    from benchecg.auditing import KINDS
    from benchecg.auditing import audit as find

    found = find(a, b, progress=progress_of("audit"))
    if as_json:
        print_json(asdict(found))
        return
    for reason in found.refused:
        click.echo(f"not compared: {printable(reason)}", err=True)
    for pair in found.pairs:
        click.echo(f"{pair.kind:<14}  {printable(pair.a)}  {printable(pair.b)}  {printable(pair.evidence())}".rstrip())
    counts = ", ".join(f"{sum(p.kind == kind for p in found.pairs)} {kind}" for kind in KINDS)
    click.echo(
        f"{found.recordings:,} recordings compared, {len(found.refused)} refused, patient known of {found.with_patient:,}: {counts}"
    )


@click.command("validate-adapter")
@click.argument("name")
@click.option(
    "--long-s", type=click.FloatRange(1), default=1_800.0, show_default=True, help="Length of the long recording, s."
)
@click.option(
    "--reference",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Of a downloaded checkpoint: inputs and features by the origin's own code (.npz).",
)
@json_option
@click.pass_context
def validate_adapter(ctx: click.Context, name: str, long_s: float, reference: Path | None, as_json: bool) -> None:
    """Check that an adapter keeps its contract, on simulated input; of a downloaded checkpoint, that it is the origin's model."""
    from dataclasses import asdict

    from benchecg.models import load_adapter
    from benchecg.validation import validate_adapter as validate

    adapter: Any = load_adapter(name)
    checks = validate(adapter, long_s=long_s, reference=reference)
    passed = all(c.passed for c in checks)
    if as_json:
        print_json([asdict(c) for c in checks])
    else:
        for check in checks:
            click.echo(f"{'ok  ' if check.passed else 'FAIL'} {check.name}: {check.found}")
    if passed and hasattr(adapter, "accept"):
        click.echo(f"validated; written to {adapter.accept()}", err=True)
    ctx.exit(0 if passed else 1)
