"""Run one model on one task: load, split, features, probe, predictions, score. One function a reader can follow."""

from __future__ import annotations

import csv
import hashlib
import resource
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchecg.answering import PROTOCOLS, Answer, answer, unsuited
from benchecg.metering import Metered
from benchecg.models.base import Adapter
from benchecg.predictions import Predictions, peak_predictions_of, predictions_of, read_predictions, write_predictions
from benchecg.results import PREDICTIONS_FILE, UNVALIDATED, Result, write_result
from benchecg.scoring import score
from benchecg.stats import facts as interval_facts
from benchecg.stats import nested
from benchecg.subgroups import record_facts
from benchecg.tasks.base import MIN_UNITS, SPLITS, Task, TaskData, data_hash, split_hash
from benchecg.versions import library_versions
from xecg.errors import ReadError, SpecError, XECGError

if TYPE_CHECKING:
    from benchecg.protocols.finetune import Plan

__all__ = ["LoadedTask", "load_data", "run", "run_folder", "run_name"]


@dataclass(frozen=True, eq=False)
class LoadedTask:
    """A task with its data on this machine. data_sha256 and split_sha256 name them in every result."""

    task: Task
    data: TaskData
    data_sha256: str
    split_sha256: str

    def refusal(self) -> str | None:
        """Why these data give no score; None when they do."""
        units = {s: int(self.data.in_split(s).sum()) for s in ("train", "val", "test")}
        if min(units["train"], units["test"]) >= MIN_UNITS and units["val"]:
            return None
        found = ", ".join(f"{n} {s}" for s, n in units.items())
        return f"too few records for a score: {found} units; needed at least {MIN_UNITS} to train, 1 to validate, {MIN_UNITS} to test"


def load_data(task: Task, root: Path) -> LoadedTask:
    """Load a task's labels and check its rows and split.

    Raises DataMissing, ReadError, and SpecError when rows do not fit the task or the split is not the pinned one.
    """
    data = _loaded(task, root)
    if (misfit := task.misfit(data)) is not None:
        raise SpecError(f"{task.id}: {misfit}")
    found = split_hash(data.records)
    if data.complete and task.split_sha256 and found != task.split_sha256:
        raise SpecError(
            f"{task.id}: the split of these data has hash {found[:16]}…, pinned is {task.split_sha256[:16]}…; "
            "the data set is not the release that the task names, or its files were changed"
        )
    if not task.shared_patients:
        _no_patient_twice(task, data)
    return LoadedTask(task, data, data_hash(data.files, root), found)


def _loaded(task: Task, root: Path) -> TaskData:
    """What the task's loader makes of its files; what is not laid out as the release is said to be so."""
    place, name = str(root / task.dataset.folder), task.dataset.name
    try:
        data = task.load(root)
    except XECGError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, csv.Error) as error:
        found = f"not readable as {name}'s ({type(error).__name__}: {error})"
        raise ReadError(
            place, "layout", found, "needed the release's own files, unchanged", "Get them anew."
        ) from error
    if not data.records:
        raise ReadError(place, "records", "none", f"needed those of {name}", "Get its files anew.")
    return data


def _no_patient_twice(task: Task, data: TaskData) -> None:
    seen: dict[str, str] = {}
    for record in data.records:
        if record.split != "dropped" and seen.setdefault(record.patient, record.split) != record.split:
            raise SpecError(
                f"{task.id}: the patient of record {record.id} is in {seen[record.patient]} and in {record.split}; "
                "needed every patient in one split only"
            )


def run_folder(out: Path, task: Task, name: str) -> Path:
    """Where a run goes: OUT/TASK/NAME, of another profile than corrected OUT/TASK/NAME@PROFILE, so that they never mix."""
    return out / task.id / (name if task.profile == "corrected" else f"{name}@{task.profile}")


def run_name(model: str, protocol: str = "probe", subset: int = 0, covariates: tuple[str, ...] = ()) -> str:
    """The name of a model's results: its id, the protocol where it is not the linear probe, and covariates: "xecg-tiny+few-1.0+age"."""
    of = "" if protocol == "probe" else f"{protocol}.{subset}" if protocol.startswith("few") else protocol
    return "+".join([model, *([of] if of else []), *covariates])


def run(
    loaded: LoadedTask,
    adapter: Adapter,
    *,
    out: Path,
    cache: Path | None = None,
    seed: int = 0,
    protocol: str = "probe",
    subset: int = 0,
    covariates: tuple[str, ...] = (),
    plan: Plan | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
) -> Result:
    """Ask `adapter` the task; writes out/result.json and out/predictions.parquet and returns the result.

    When the data are too few, or the adapter cannot be asked this, the result says so and holds no score. cache: folder for
    features; None computes them anew. protocol: one of `PROTOCOLS`; subset: which of the fixed few-label subsets. covariates:
    names of `benchecg.covariates` that the probe is given beside the features. plan:
    of fine-tuning; the predictions are those of seed 0, and of each further seed in a file of its own beside them. Of several
    processes that fine-tune together each returns the result, and the first alone writes.
    """
    if protocol not in PROTOCOLS:
        raise SpecError(f"there is no protocol {protocol!r}; the protocols are {', '.join(PROTOCOLS)}")
    writes = protocol != "finetune" or _first()
    if writes:
        out.mkdir(parents=True, exist_ok=True)
    name = run_name(adapter.id, protocol, subset, covariates)
    refusal = loaded.refusal() or unsuited(loaded.task, adapter, protocol, covariates)
    if refusal:
        if writes:
            (out / PREDICTIONS_FILE).unlink(missing_ok=True)
        facts = {"name": PROTOCOLS[protocol]}
        result = _result(loaded, adapter, name, reason=refusal, protocol=facts, seed=seed)
        if writes:
            write_result(out, result)
        return result
    metered = Metered(adapter)
    wall, cpu = time.perf_counter(), time.process_time()
    given = answer(
        loaded.task, loaded.data, metered, data_sha256=loaded.data_sha256, protocol=protocol, subset=subset,
        covariates=covariates, plan=plan, cache=cache, progress=progress,
    )  # fmt: skip
    answered_s = time.perf_counter() - wall
    groups = record_facts(loaded.task, loaded.data, data_sha256=loaded.data_sha256, cache=cache, progress=progress)
    predictions = _predictions(loaded, name, given, groups=groups, seed=seed)
    if writes:
        write_predictions(out / PREDICTIONS_FILE, predictions)
    field = "score" if given.found is None else "found"
    tables = [predictions]
    for number, others in enumerate(given.others, start=1):
        other = _predictions(loaded, name, replace(given, **{field: others}), groups=groups, seed=seed)
        tables.append(other)
        if writes:
            write_predictions(out / f"predictions.seed-{number}.parquet", other)
    scored = score(read_predictions(out / PREDICTIONS_FILE) if writes else predictions)
    result = _result(
        loaded,
        adapter,
        name,
        scored=scored,
        width=given.width,
        protocol=given.protocol | _over_seeds(tables),
        cost={
            "wall_s": time.perf_counter() - wall,
            "cpu_s": time.process_time() - cpu,
            "answers_wall_s": answered_s,
            "feature_blocks": given.blocks,
            "feature_blocks_cached": given.cached,
            **metered.cost(),
            "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        },
        predictions={"file": PREDICTIONS_FILE, "sha256": _sha256(out / PREDICTIONS_FILE)} if writes else None,
        seed=seed,
    )
    if writes:
        write_result(out, result)
    return result


def _over_seeds(tables: list[Predictions]) -> dict[str, Any]:
    """The headline metric over several seeds, with the interval of patients and seeds together; {} where there is one table."""
    facts = tables[0].facts
    if len(tables) < 2 or facts.profile != "corrected":
        return {}
    found = nested([t.statistic() for t in tables], facts.metric, seed=facts.seed)
    return {"nested_value": found.value, "nested_low": found.low, "nested_high": found.high}


def _first() -> bool:
    from xecg.pretrain.distributed import current

    return current().first


def _predictions(loaded: LoadedTask, name: str, given: Answer, **facts: Any) -> Predictions:
    task, data = loaded.task, loaded.data
    if given.found is not None:
        return peak_predictions_of(task, data, model=name, found=given.found, **facts)
    assert given.score is not None and given.valid is not None
    return predictions_of(task, data, model=name, score=given.score, valid=given.valid, **facts)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


_NO_SCORE: dict[str, Any] = {
    "metrics": {},
    "support": {"units": 0, "without_prediction": 0, "patients": 0, "records": 0, "classes": {}},
    "confusion": None,
    "per_record": None,
    "subgroups": [],
    "warnings": [],
}


def _result(
    loaded: LoadedTask,
    adapter: Adapter,
    name: str,
    *,
    protocol: dict[str, Any],
    seed: int,
    reason: str | None = None,
    scored: dict[str, Any] | None = None,
    width: int | None = None,
    cost: dict[str, float] | None = None,
    predictions: dict[str, str] | None = None,
) -> Result:
    return Result(
        status="no score" if scored is None else "scored",
        reason=reason,
        task=_task_facts(loaded.task),
        data=_data_facts(loaded),
        split=_split_facts(loaded),
        model=_model_facts(loaded.task, adapter, name, width),
        protocol=protocol,
        intervals=interval_facts(seed=seed, cluster="patient" if loaded.task.patient_known else "record"),
        notes=_notes(loaded, adapter),
        versions=library_versions(),
        cost=cost or {},
        predictions=predictions,
        profile=loaded.task.profile,
        defects=list(loaded.task.defects),
        **(scored or _NO_SCORE),
    )


def _task_facts(task: Task) -> dict[str, Any]:
    names = (
        "id",
        "version",
        "title",
        "suite",
        "kind",
        "metric",
        "higher_is_better",
        "unit",
        "leads",
        "rate_hz",
        "synthetic",
    )
    facts = {name: getattr(task, name) for name in (*names, "split_rule", "label_rule")}
    return {**facts, "classes": list(task.classes), "published": [asdict(p) for p in task.published]}


def _data_facts(loaded: LoadedTask) -> dict[str, Any]:
    dataset, data = loaded.task.dataset, loaded.data
    return {
        "name": dataset.name,
        "version": dataset.version,
        "licence": dataset.licence,
        "url": dataset.url,
        "sha256": loaded.data_sha256,
        "complete": data.complete,
        "records": len(data.records),
        "full_records": loaded.task.full_records,
        "patient_known": loaded.task.patient_known,
    }


def _split_facts(loaded: LoadedTask) -> dict[str, Any]:
    data, pinned = loaded.data, loaded.task.split_sha256
    in_split = {s: [r for r in data.records if r.split == s] for s in SPLITS}
    return {
        "sha256": loaded.split_sha256,
        "pinned": None if pinned is None or not data.complete else pinned == loaded.split_sha256,
        "records": {s: len(records) for s, records in in_split.items()},
        "units": {s: int(data.in_split(s).sum()) for s in SPLITS},
        "patients": {s: len({r.patient for r in records}) for s, records in in_split.items()},
    }


def _model_facts(task: Task, adapter: Adapter, name: str, width: int | None) -> dict[str, Any]:
    seen = adapter.pretrained_on
    known = (
        "unknown" if seen is None else "seen in pretraining" if task.dataset.name in seen else "not seen in pretraining"
    )
    return {
        "id": name,
        "fingerprint": adapter.fingerprint,
        "spec_hash": adapter.spec_hash,
        "trained": adapter.trained,
        "about": adapter.about,
        "pretrained_on": None if seen is None else list(seen),
        "contamination": known,
        "width": width,
    }


def _notes(loaded: LoadedTask, adapter: Adapter) -> list[str]:
    task, data = loaded.task, loaded.data
    notes = list(data.notes)
    if task.profile != "corrected":
        notes.insert(
            0, f"{task.profile.upper()}: as the published scripts do it, with {', '.join(task.defects) or 'no defect'}"
        )
    if task.synthetic:
        notes.insert(0, "SYNTHETIC: simulated recordings, this says nothing about patients")
    elif not data.complete:
        full = f" of {task.full_records:,}" if task.full_records else ""
        notes.insert(
            0, f"SUBSET: {len(data.records):,}{full} records; not comparable with results on the full data set"
        )
    if getattr(adapter, "validated", True) is False:
        notes.insert(
            0,
            f"{UNVALIDATED}: the architecture is written from a description and not checked against the origin's features",
        )
    if adapter.trained is False:
        notes.insert(0, "UNTRAINED: the encoder has random weights")
    if not task.patient_known:
        notes.append("patients are not public in this data set: one record counts as one patient")
    return notes
