"""The `benchecg` command. Each command parses, calls one library function and prints; heavy imports are inside the commands.

Exit codes: 0 done · 1 failed · 2 usage · 3 done, some tasks gave no score · 130 interrupted (finished runs and features are kept).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xecg.cli.group import Group
from xecg.errors import DataMissing

if TYPE_CHECKING:
    from benchecg.left_out import LeftOut
    from benchecg.protocols.finetune import Plan
    from benchecg.results import Result
    from benchecg.running import LoadedTask
    from benchecg.tasks.base import Task

__all__ = ["main"]

_PARTLY = 3
_DEFAULT_MODELS = (
    "xecg-tiny",
    "xecg-random",
    "waves",
    "rr",
    "age-sex",
    "majority",
    "qrs",
    "beat-75",
)  # each where it can be asked


class _Group(Group):
    interrupted = "interrupted; finished runs and cached features are kept, the same command goes on from there"


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 failed, 2 usage, 3 done but some tasks gave no score, 130 interrupted.",
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def main(debug: bool) -> None:
    """How good is an ECG encoder? Research use only, not a medical device."""


def _data_option(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--data", type=click.Path(), help="Folder that holds the data sets. Default: ECG_DATA.")(
        function
    )


_seed_option = click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True,
    help="Of the groups of patients that intervals leave out in turn, where there are more than 200.",
)  # fmt: skip


def _json_option(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")(function)


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, allow_nan=False))


@main.command("list")
@_data_option
@_json_option
def list_(data: str | None, as_json: bool) -> None:
    """Tasks with the state of their data, and models."""
    from benchecg.models import CHECKPOINTS, MODELS
    from benchecg.tasks import load_task, task_ids

    tasks = [load_task(i) for i in task_ids()]
    states = _states(tasks, data)
    if as_json:
        rows = [
            {"id": t.id, "title": t.title, "suite": t.suite, "kind": t.kind, "metric": t.metric, "data": t.dataset.name,
             "state": states[t.id]}
            for t in tasks
        ]  # fmt: skip
        _print_json({"tasks": rows, "models": MODELS, "checkpoints": CHECKPOINTS})
        return
    for t in tasks:
        dataset = f"{t.dataset.name}, {t.dataset.access}"
        click.echo(f"{t.id:<18} {t.suite or '':<4} {states[t.id]:<12} {t.title} ({t.metric}; {dataset})")
    click.echo("")
    for name, about in MODELS.items():
        click.echo(f"{name:<18} {about}")
    for name, about in CHECKPOINTS.items():
        click.echo(f"{f'{name}=FILE':<18} {about}")
    click.echo(
        "a checkpoint folder or module:Class of your own works in place of a model's name; docs/MODELS.md says how"
    )


def _states(tasks: list[Task], data: str | None) -> dict[str, str]:
    """Of each task whether its data set's folder is there; `verify` counts what is in it."""
    from benchecg.tasks.base import data_root

    try:
        root = data_root(data)
    except DataMissing:
        return {t.id: "no --data" for t in tasks}
    return {t.id: "data there" if (root / t.dataset.folder).is_dir() else "data missing" for t in tasks}


@main.command()
@click.option(
    "-t", "--task", "tasks", multiple=True, help="Task id; repeat for more. Default: every task that has data."
)
@click.option(
    "--suite",
    type=click.Choice(["open"]),
    help="open: of the tasks that have data, those of sets that anyone may have.",
)
@click.option("-m", "--model", "models", multiple=True, help="Model; repeat for more. Default: all of ours.")
@_data_option
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Folder of the runs."
)
@click.option("--cache", type=click.Path(path_type=Path), help="Folder of the features. Default: OUT/.features.")
@_seed_option
@click.option(
    "--protocol",
    type=click.Choice(["probe", "knn", "few-1", "few-10", "finetune"]),
    default="probe",
    show_default=True,
    help="Linear probe, nearest neighbours, the probe with 1 % or 10 % of the training patients, or encoder and head "
    "trained together.",
)
@click.option("--subset", type=click.IntRange(0, 4), default=0, show_default=True, help="Which few-label subset.")
@click.option(
    "--covariates", default="", help="Beside the features: age, sex or age,sex. Refused where they tell the label."
)
@click.option(
    "--seeds", type=click.IntRange(1, 100), default=5, show_default=True, help="Trainings of the chosen setting."
)
@click.option(
    "--epochs", type=click.IntRange(0, 1_000), help="Most that a training takes. Default: 30, or the published number."
)
@click.option("--device", default="cpu", show_default=True, help="Where fine-tuning runs: cpu or cuda.")
@click.option(
    "--profile",
    type=click.Choice(["corrected", "authors"]),
    default="corrected",
    show_default=True,
    help="authors: as the published scripts do it, defects included; OUT/TASK/MODEL@authors.",
)
@_json_option
@click.pass_context
def run(
    ctx: click.Context,
    tasks: tuple[str, ...],
    suite: str | None,
    models: tuple[str, ...],
    data: str | None,
    out: Path,
    cache: Path | None,
    seed: int,
    protocol: str,
    subset: int,
    covariates: str,
    seeds: int,
    epochs: int | None,
    device: str,
    profile: str,
    as_json: bool,
) -> None:
    """Score models on tasks; results go to OUT/TASK/MODEL, or to OUT/TASK/MODEL+PROTOCOL where it is not the linear probe."""
    from benchecg.answering import unsuited
    from benchecg.covariates import parse_covariates
    from benchecg.left_out import write_left_out
    from benchecg.models import load_adapter
    from benchecg.running import run as run_one
    from benchecg.running import run_folder, run_name
    from benchecg.tasks.base import data_root
    from xecg.io.outputs import check_output

    group = ctx.with_resource(_processes(protocol, device))
    if tasks and suite:
        raise click.UsageError("--task and --suite both say which tasks; needed one of them")
    check_output(out, folder=True)
    beside = parse_covariates(covariates)
    adapters = [load_adapter(name) for name in models or _DEFAULT_MODELS]
    results: list[Result] = []
    absent: list[LeftOut] = []
    for loaded in _load_all(tasks, data_root(data), profile, of_open_sets=suite == "open", absent=absent):
        plan = None if protocol != "finetune" else _plan(loaded.task, seeds, epochs, device)
        for adapter in adapters:
            if not models and unsuited(loaded.task, adapter, protocol):
                continue
            name = run_name(adapter.id, protocol, subset, beside)
            folder = run_folder(out, loaded.task, name)
            label = f"{loaded.task.id} · {name}"
            result = run_one(
                loaded, adapter, out=folder, cache=cache or out / ".features", seed=seed,
                protocol=protocol, subset=subset, covariates=beside, plan=plan,
                progress=_progress(label) if group.first else iter,
            )  # fmt: skip
            results.append(result)
            if group.first and not as_json:
                click.echo(_line(result))
    if group.first and not tasks:
        write_left_out(out, absent)
    if as_json and group.first:
        _print_json([r.to_dict() for r in results])
    without = [r for r in results if r.headline is None]
    ctx.exit(0 if not without else 1 if len(without) == len(results) else _PARTLY)


@contextmanager
def _processes(protocol: str, device: str) -> Iterator[Any]:
    """The processes that torchrun started, joined; this one alone otherwise."""
    from xecg.pretrain.distributed import Group, joined

    if protocol == "finetune":
        with joined(device) as group:
            yield group
        return
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise click.UsageError(f"--protocol {protocol} runs in one process; only fine-tuning runs under torchrun")
    yield Group()


def _plan(task: Task, seeds: int, epochs: int | None, device: str) -> Plan:
    from benchecg.protocols.finetune import Plan
    from benchecg.reference import published_plan

    plan = Plan(seeds=seeds) if task.profile == "corrected" else published_plan(task.id, seeds=seeds)
    return plan.with_(device=device, **({} if epochs is None else {"epochs": epochs}))


def _load_all(
    ids: tuple[str, ...],
    root: Path,
    profile: str = "corrected",
    *,
    of_open_sets: bool = False,
    absent: list[LeftOut] | None = None,
) -> Iterable[LoadedTask]:
    """The tasks asked for, or those whose data are there; an absent data set is an error only when it was asked for.

    absent: takes what is left out.
    """
    from benchecg.left_out import left_out
    from benchecg.profiles import task_in
    from benchecg.reference import VARIANTS
    from benchecg.running import load_data
    from benchecg.tasks import task_ids

    every = task_ids() if profile == "corrected" else tuple(VARIANTS)
    for task in [task_in(profile, i) for i in ids or every]:
        if of_open_sets and (task.dataset.access != "open" or task.synthetic):
            if absent is not None and not task.synthetic:
                absent.append(left_out(task, None, root))
            continue
        try:
            yield load_data(task, root)
        except DataMissing as error:
            if ids:
                raise
            if absent is not None and not task.synthetic:
                absent.append(left_out(task, error, root))
            click.echo(f"{task.id}: left out. {error}", err=True)


def _progress(label: str) -> Callable[[Iterable], Iterable]:
    if not sys.stderr.isatty():
        return iter
    from rich.console import Console
    from rich.progress import track

    return lambda blocks: track(blocks, description=label, console=Console(stderr=True), transient=True)


def _line(result: Result) -> str:
    from benchecg.stats import simulated_coverage

    where = f"{result.task['id']:<18} {result.model['id']:<14}"
    if result.headline is None:
        return f"{where} no score: {result.reason}"
    h = result.headline
    marks = [note.partition(":")[0] for note in result.notes if note.partition(":")[0].isupper()]
    value = f"{result.task['metric']} {_number(h['value'])} [{_number(h['low'])}, {_number(h['high'])}]"
    held = None if h["low"] is None else simulated_coverage(result.task["kind"], result.support["patients"])
    support = f"{result.support['units']:,} units, {result.support['patients']:,} patients"
    support += "" if held is None else f" (such intervals held {held:.0%} in simulation)"
    return f"{where} {value}  {support}, {result.cost['wall_s']:.1f} s{''.join(f'  {m}' for m in marks)}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


@main.command()
@click.option("-t", "--task", "tasks", multiple=True, required=True, help="Task id; repeat for more.")
@click.option("-m", "--model", "models", multiple=True, required=True, help="Model; repeat for more.")
@_data_option
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Folder of the runs."
)
@click.option("--cache", type=click.Path(path_type=Path), help="Folder of the features. Default: OUT/.features.")
@click.option("--family", "families", multiple=True, help="Of disturbances; repeat for more. Default: all.")
@_seed_option
@_json_option
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
    for loaded in _load_all(tasks, root):
        for adapter in adapters:
            curves = curves_of(
                loaded, adapter, out=out / loaded.task.id / adapter.id, root=root, families=families or FAMILIES,
                cache=cache or out / ".features", seed=seed,
                progress=_progress(f"{loaded.task.id} · {adapter.id}"),
            )  # fmt: skip
            found.append(curves)
            if not as_json:
                click.echo("\n".join(lines_of(curves)))
    if as_json:
        _print_json(found)


@main.command()
@click.argument("runs", type=click.Path(path_type=Path))
@_json_option
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
        _print_json({"runs": rows, "benchecg_score": suites})
    else:
        for row in rows:
            value = f"{row['metric']} {_number(row['value'])} [{_number(row['low'])}, {_number(row['high'])}]"
            click.echo(
                f"{row['task']:<18} {row['model']:<14} {value}  {'as in the run' if row['same'] else 'DIFFERS from the run'}"
            )
        for model, suite in suites.items():
            value = _number(suite["score"]) if not suite["missing"] else "refused"
            click.echo(f"BenchECG score of {model}: {value} ({suite['n_tasks']} of {suite['of']} tasks on full data)")
    ctx.exit(0 if all(row["same"] for row in rows) else 1)


@main.command()
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
@_json_option
def compare(runs: Path, a: str, b: str, profile: str, as_json: bool) -> None:
    """Paired difference of models A and B on every task that both ran, with Holm over the tasks."""
    from benchecg.comparing import compare as compare_models

    chosen = ("corrected", "authors") if profile == "both" else (profile,)
    rows = [row for each in chosen for row in compare_models(runs, a, b, profile=each)]
    if as_json:
        _print_json(rows)
        return
    for row in rows:
        verdict = {"a": f"{a} is better", "b": f"{b} is better", None: "not resolved"}[row["better"]]
        verdict = "as the published scripts compute it" if row["profile"] == "authors" else verdict
        p = "–" if row["p_holm"] is None else f"{row['p_holm']:.4f}"
        interval = f"[{_number(row['low'])}, {_number(row['high'])}]"
        click.echo(
            f"{row['task']:<18} {row['metric']} {a} − {b} = {_number(row['value'])} {interval}  p(Holm) {p}  {verdict}"
        )


@main.command()
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


@main.command()
@click.argument("tasks", nargs=-1)
@_data_option
@_json_option
@click.pass_context
def verify(ctx: click.Context, tasks: tuple[str, ...], data: str | None, as_json: bool) -> None:
    """Count the labels of TASKS (default: those with data) and compare with the published counts of the full data set."""
    from benchecg.tasks.base import data_root
    from benchecg.verifying import verify as verify_counts

    rows = [row for loaded in _load_all(tasks, data_root(data)) for row in verify_counts(loaded)]
    if as_json:
        _print_json(rows)
    else:
        for row in rows:
            counts = " ".join(f"{name} {n:,}" for name, n in row["counts"].items())
            click.echo(f"{row['task']:<18} {row['part']:<10} {counts}  {row['verdict']}")
    ctx.exit(1 if any(row["verdict"].startswith("DIFFERS") for row in rows) else 0)


@main.command()
@click.argument("tasks", nargs=-1)
@_data_option
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
    whole = preparing.download(folders, root, say=click.echo, accepts=accepts, mirror=mirror, progress=_progress)
    ctx.exit(0 if whole else _PARTLY)


@main.command()
@click.argument("a", type=click.Path(exists=True, path_type=Path))
@click.argument("b", type=click.Path(exists=True, path_type=Path), required=False)
@_json_option
def audit(a: Path, b: Path | None, as_json: bool) -> None:
    """Find recordings of A that are also in B (or twice in A): same samples, altered copies, same patient."""
    from dataclasses import asdict

    from benchecg.auditing import KINDS
    from benchecg.auditing import audit as find

    found = find(a, b, progress=_progress("audit"))
    if as_json:
        _print_json(asdict(found))
        return
    for reason in found.refused:
        click.echo(f"not compared: {_printable(reason)}", err=True)
    for pair in found.pairs:
        click.echo(
            f"{pair.kind:<14}  {_printable(pair.a)}  {_printable(pair.b)}  {_printable(pair.evidence())}".rstrip()
        )
    counts = ", ".join(f"{sum(p.kind == kind for p in found.pairs)} {kind}" for kind in KINDS)
    click.echo(
        f"{found.recordings:,} recordings compared, {len(found.refused)} refused, patient known of {found.with_patient:,}: {counts}"
    )


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


@main.command("validate-adapter")
@click.argument("name")
@click.option(
    "--long-s", type=click.FloatRange(1), default=1_800.0, show_default=True, help="Length of the long recording, s."
)
@click.option(
    "--reference",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Of a downloaded checkpoint: inputs and features by the origin's own code (.npz).",
)
@_json_option
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
        _print_json([asdict(c) for c in checks])
    else:
        for check in checks:
            click.echo(f"{'ok  ' if check.passed else 'FAIL'} {check.name}: {check.found}")
    if passed and hasattr(adapter, "accept"):
        click.echo(f"validated; written to {adapter.accept()}", err=True)
    ctx.exit(0 if passed else 1)
