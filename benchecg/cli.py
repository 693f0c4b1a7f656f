"""The `benchecg` command. Each command parses, calls one library function and prints; heavy imports are inside the commands.

Exit codes: 0 done · 1 failed · 2 usage · 3 done, some tasks gave no score · 130 interrupted (finished runs and features are kept).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchecg.cli_data import audit, prepare, robustness, validate_adapter, verify
from benchecg.cli_results import compare, report, score
from benchecg.commands import PARTLY, data_option, json_option, load_all, number, print_json, progress_of, seed_option
from xecg.cli.group import Group
from xecg.errors import DataMissing

if TYPE_CHECKING:
    from benchecg.left_out import LeftOut
    from benchecg.protocols.finetune import Plan
    from benchecg.results import Result
    from benchecg.tasks.base import Task

__all__ = ["main"]


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


@main.command("list")
@data_option
@json_option
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
        print_json({"tasks": rows, "models": MODELS, "checkpoints": CHECKPOINTS})
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
@data_option
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Folder of the runs."
)
@click.option("--cache", type=click.Path(path_type=Path), help="Folder of the features. Default: OUT/.features.")
@seed_option
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
@json_option
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
    for loaded in load_all(tasks, data_root(data), profile, of_open_sets=suite == "open", absent=absent):
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
                progress=progress_of(label) if group.first else iter,
            )  # fmt: skip
            results.append(result)
            if group.first and not as_json:
                click.echo(_line(result))
    if group.first and not tasks:
        write_left_out(out, absent)
    if as_json and group.first:
        print_json([r.to_dict() for r in results])
    without = [r for r in results if r.headline is None]
    ctx.exit(0 if not without else 1 if len(without) == len(results) else PARTLY)


@contextmanager
def _processes(protocol: str, device: str) -> Iterator[Any]:
    """The processes that torchrun started, joined; this one alone otherwise."""
    from xecg.pretrain.distributed import Group as Alone
    from xecg.pretrain.distributed import joined

    if protocol == "finetune":
        with joined(device) as group:
            yield group
        return
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise click.UsageError(f"--protocol {protocol} runs in one process; only fine-tuning runs under torchrun")
    yield Alone()


def _plan(task: Task, seeds: int, epochs: int | None, device: str) -> Plan:
    from benchecg.protocols.finetune import Plan
    from benchecg.reference import published_plan

    plan = Plan(seeds=seeds) if task.profile == "corrected" else published_plan(task.id, seeds=seeds)
    return plan.with_(device=device, **({} if epochs is None else {"epochs": epochs}))


def _line(result: Result) -> str:
    from benchecg.stats import simulated_coverage

    where = f"{result.task['id']:<18} {result.model['id']:<14}"
    if result.headline is None:
        return f"{where} no score: {result.reason}"
    h = result.headline
    marks = [note.partition(":")[0] for note in result.notes if note.partition(":")[0].isupper()]
    value = f"{result.task['metric']} {number(h['value'])} [{number(h['low'])}, {number(h['high'])}]"
    held = None if h["low"] is None else simulated_coverage(result.task["kind"], result.support["patients"])
    support = f"{result.support['units']:,} units, {result.support['patients']:,} patients"
    support += "" if held is None else f" (such intervals held {held:.0%} in simulation)"
    return f"{where} {value}  {support}, {result.cost['wall_s']:.1f} s{''.join(f'  {m}' for m in marks)}"


for _command in (robustness, score, compare, report, verify, prepare, audit, validate_adapter):
    main.add_command(_command)
