"""From a loaded task and an adapter to answers for the test units, by one of the protocols."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from benchecg.covariates import covariates_of, withheld
from benchecg.models.base import Adapter
from benchecg.protocols import C_GRID, K_GRID, few_label_train, knn, linear_probe, peak_probe
from benchecg.protocols.features import record_tokens, recording_of, unit_features
from benchecg.protocols.peak_head import READINGS
from benchecg.tasks.base import Task, TaskData
from xecg.errors import SpecError

if TYPE_CHECKING:
    from benchecg.covariates import Covariates
    from benchecg.protocols.features import Features, RecordTokens
    from benchecg.protocols.finetune import Plan, Tuned
    from benchecg.protocols.peak_head import PeakProbe

_T = TypeVar("_T")

__all__ = ["PROTOCOLS", "Answer", "answer", "unsuited"]

PROTOCOLS = {
    "probe": "linear probe",
    "knn": "k nearest neighbours",
    "few-1": "linear probe, 1 % of the labels",
    "few-10": "linear probe, 10 % of the labels",
    "finetune": "full fine-tuning",
}
_NO_NEIGHBOURS = {
    "survival": "neighbours have no hazard",
    "panel": "neighbours do not answer every question",
    "peaks": "neighbours have no times",
}
_FRACTION = {"few-1": 0.01, "few-10": 0.10}


@dataclass(frozen=True, eq=False)
class Answer:
    """score, valid: of the test units. found: of a peaks task instead, record index → (time_s, height) of its peaks.

    others: scores (of a peaks task: peaks) of further seeds, where training has some. width: of the features, None of a detector.
    protocol: what is stored and printed, with a `summary`. blocks, cached: of features.
    """

    protocol: dict[str, Any]
    width: int | None
    blocks: int
    cached: int
    score: np.ndarray | None = None
    valid: np.ndarray | None = None
    found: dict[int, tuple[np.ndarray, np.ndarray]] | None = None
    others: tuple[Any, ...] = ()


def unsuited(task: Task, adapter: Adapter, protocol: str = "probe", covariates: tuple[str, ...] = ()) -> str | None:
    """Why this adapter cannot be asked this task by this protocol with these covariates; None when it can."""
    if task.kind == "peaks" and protocol in _FRACTION:
        return f"a peaks task has the linear probe and fine-tuning, not {PROTOCOLS[protocol]}"
    if task.kind in _NO_NEIGHBOURS and protocol == "knn":
        return f"a {task.kind} task has no k nearest neighbours: {_NO_NEIGHBOURS[task.kind]}"
    if task.kind != "peaks" and hasattr(adapter, "peaks_s"):
        return f"{adapter.id} finds peaks and has no features; {task.id} asks for something else"
    if protocol == "finetune":
        return _untrainable(adapter) or withheld(task, covariates)
    return withheld(task, covariates)


def answer(
    task: Task,
    data: TaskData,
    adapter: Adapter,
    *,
    data_sha256: str,
    protocol: str = "probe",
    subset: int = 0,
    covariates: tuple[str, ...] = (),
    plan: Plan | None = None,
    cache: Path | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
) -> Answer:
    """Answers of `adapter` for the test units. subset: which of the fixed few-label subsets. covariates: names of
    `benchecg.covariates` that stand beside the features. plan: of fine-tuning. Raises SpecError."""
    if protocol not in PROTOCOLS:
        raise SpecError(f"there is no protocol {protocol!r}; the protocols are {', '.join(PROTOCOLS)}")
    reason = unsuited(task, adapter, protocol, covariates)
    if reason:
        raise SpecError(reason)
    if task.kind == "peaks":
        if protocol == "finetune":
            return _tuned_peaks(task, data, adapter, data_sha256, plan, cache, progress)
        ask = _detected if hasattr(adapter, "peaks_s") else _peaks
        return ask(task, data, adapter, data_sha256, cache, progress)
    features = _in_turn(
        protocol, lambda: unit_features(task, data, adapter, data_sha256=data_sha256, cache=cache, progress=progress)
    )
    train, val, test = (data.in_split(s) for s in ("train", "val", "test"))
    facts: dict[str, Any] = {"name": PROTOCOLS[protocol], "refit_on": "train and val", "grid": list(C_GRID)}
    if protocol in _FRACTION:
        train = few_label_train(task, data, fraction=_FRACTION[protocol], subset=subset)
        facts |= {"refit_on": "the subset alone", "fraction": _FRACTION[protocol], "subset": subset}
    values, known = features.values, None
    if covariates:
        known = covariates_of(
            task, data, covariates, fit=train & features.valid, data_sha256=data_sha256, cache=cache, progress=progress
        )
        values = np.concatenate([values, known.columns], 1)
        facts |= known.facts()
    if protocol == "finetune":
        return _tuned(task, data, adapter, features, known, data_sha256, plan, cache, progress)
    arguments = {"features": values, "valid": features.valid, "label": data.label}
    parts = {"train": train, "val": val, "test": test}
    if protocol == "knn":
        probe = knn(task, **arguments, **parts)
        facts |= {"grid": [float(k) for k in K_GRID], "k": probe.c}
    else:
        probe = linear_probe(task, **arguments, **parts, refit=protocol == "probe")
        facts |= {"c": probe.c}
    facts |= {"validation": probe.validation, "converged": probe.converged, "fitted_units": probe.n_fit}
    facts["summary"] = _summary(facts)
    return Answer(
        facts,
        values.shape[1],
        features.blocks,
        features.cached,
        score=probe.score,
        valid=features.valid[test],
    )


def _in_turn(protocol: str, make: Callable[[], _T]) -> _T:
    """What `make` gives; of several processes the first makes it while the others wait, and find it in the cache then."""
    if protocol != "finetune":
        return make()
    from xecg.pretrain.distributed import current

    group = current()
    found = make() if group.first else None
    group.any(False)
    return make() if found is None else found


def _untrainable(adapter: Adapter) -> str | None:
    from benchecg.protocols.finetune import untrainable

    return untrainable(adapter)


def _tuned(
    task: Task,
    data: TaskData,
    adapter: Adapter,
    features: Features,
    known: Covariates | None,
    data_sha256: str,
    plan: Plan | None,
    cache: Path | None,
    progress: Callable[[Iterable], Iterable],
) -> Answer:
    from benchecg.protocols.finetune import fine_tune

    beside = None if known is None else known.columns
    values = features.values if beside is None else np.concatenate([features.values, beside], 1)
    parts = {s: data.in_split(s) for s in ("train", "val", "test")}
    probe = linear_probe(task, features=values, valid=features.valid, label=data.label, refit=False, **parts)
    assert probe.head is not None
    tuned = fine_tune(
        task, data, adapter, start=probe.head, beside=beside, data_sha256=data_sha256, plan=plan, cache=cache,
        progress=progress,
    )  # fmt: skip
    facts = _tuned_facts(task, tuned) | ({} if known is None else known.facts())
    return Answer(
        facts, tuned.width, features.blocks, features.cached, score=tuned.scores[0], valid=tuned.valid,
        others=tuned.scores[1:],
    )  # fmt: skip


def _tuned_peaks(
    task: Task,
    data: TaskData,
    adapter: Adapter,
    data_sha256: str,
    plan: Plan | None,
    cache: Path | None,
    progress: Callable[[Iterable], Iterable],
) -> Answer:
    from benchecg.protocols.finetune import fine_tune

    given = _in_turn(
        "finetune", lambda: record_tokens(task, data, adapter, data_sha256=data_sha256, cache=cache, progress=progress)
    )
    probe = _peak_probe(task, data, given, refit=False)
    tuned = fine_tune(
        task, data, adapter, start=probe.head, data_sha256=data_sha256, plan=plan, cache=cache, progress=progress
    )
    facts = _tuned_facts(task, tuned) | {"outputs": probe.outputs, "theta": tuned.thetas[0]}
    facts["theta_by_seed"] = {str(seed): theta for seed, theta in enumerate(tuned.thetas)}
    return Answer(facts, tuned.width, given.blocks, given.cached, found=tuned.scores[0], others=tuned.scores[1:])


def _tuned_facts(task: Task, tuned: Tuned) -> dict[str, Any]:
    """The protocol entry of a fine-tuned result."""
    chosen = tuned.recipe
    facts: dict[str, Any] = {"name": PROTOCOLS["finetune"], "refit_on": "train alone", "converged": True}
    facts |= {name: getattr(chosen, name) for name in chosen.__dataclass_fields__ if name != "seed"}
    facts |= {"validation": tuned.search, "fitted_tiles": tuned.n_fit, "seeds": len(tuned.test)}
    for name, per_seed in (("epoch", tuned.epochs), ("validation", tuned.validation), ("test", tuned.test)):
        facts[f"{name}_by_seed"] = {str(seed): value for seed, value in enumerate(per_seed)}
    known = [value for value in tuned.test if value is not None]
    facts |= {"seed_mean": float(np.mean(known)) if known else None}
    facts |= {"seed_sd": float(np.std(known, ddof=1)) if len(known) > 1 else None}
    facts |= {"seed_min": min(known, default=None), "seed_max": max(known, default=None)}
    spread = "–" if facts["seed_sd"] is None else f"{facts['seed_sd']:.3f}"
    mean = "–" if facts["seed_mean"] is None else f"{facts['seed_mean']:.3f}"
    facts["summary"] = (
        f"{facts['name']}: encoder rate {chosen.lr_core:g}, layer decay {chosen.decay:g} of {len(tuned.search)} settings, "
        f"chosen on validation with seed 0, epoch {tuned.epochs[0]} of at most {chosen.epochs} kept; the figures are of seed 0; "
        f"{task.metric} over {len(tuned.test)} seeds {mean}, deviation {spread}"
    )
    return facts


def _summary(facts: dict[str, Any]) -> str:
    setting = f"k = {facts['k']:g}" if "k" in facts else f"C = {facts['c']:g}"
    beside = f", with {facts['covariates'].replace(',', ', ')}" if "covariates" in facts else ""
    base = f"{facts['name']}{beside}: {setting} of {len(facts['grid'])} tried, chosen on validation"
    if "fraction" in facts:
        return f"{base}, fitted on {facts['fitted_units']:,} units of {facts['fraction']:.0%} of the training patients"
    if "k" in facts:
        return f"{base}, {facts['fitted_units']:,} training and validation units as neighbours"
    return f"{base}, refitted on {facts['fitted_units']:,} training and validation units"


def _indices(data: TaskData, split: str) -> list[int]:
    return [i for i, r in enumerate(data.records) if r.split == split]


def _peaks(
    task: Task,
    data: TaskData,
    adapter: Adapter,
    data_sha256: str,
    cache: Path | None,
    progress: Callable[[Iterable], Iterable],
) -> Answer:
    given = record_tokens(task, data, adapter, data_sha256=data_sha256, cache=cache, progress=progress)
    reading, probe = READINGS[task.profile], _peak_probe(task, data, given)
    facts: dict[str, Any] = {
        "name": "linear probe, a value per 10 ms",
        "grid": list(C_GRID),
        "thresholds": list(reading.thetas),
        "refit_on": "train and val",
        "c": probe.c,
        "theta": probe.theta,
        "outputs": probe.outputs,
        "validation": probe.validation,
        "converged": True,
        "fitted_units": probe.n_fit,
    }
    facts["summary"] = (
        f"{facts['name']}: ridge with C = {probe.c:g} of {len(C_GRID)} and threshold {probe.theta:g} of {len(reading.thetas)} "
        f"tried, chosen on validation, {probe.outputs} outputs a token, refitted on {probe.n_fit:,} training and validation tokens"
    )
    width = next(iter(given.tokens.values())).values.shape[1]
    return Answer(facts, width, given.blocks, given.cached, found=probe.found)


def _peak_probe(task: Task, data: TaskData, given: RecordTokens, *, refit: bool = True) -> PeakProbe:
    truth_s = {i: np.sort(data.time_s[data.record == i]) for i in given.tokens}
    train, val, test = (_indices(data, s) for s in ("train", "val", "test"))
    return peak_probe(
        given.tokens, truth_s, train=train, val=val, test=test, reading=READINGS[task.profile], refit=refit
    )


def _detected(
    task: Task,
    data: TaskData,
    adapter: Any,
    data_sha256: str,
    cache: Path | None,
    progress: Callable[[Iterable], Iterable],
) -> Answer:
    test = _indices(data, "test")
    found = {}
    for i in progress(test):
        at = np.sort(np.asarray(adapter.peaks_s(recording_of(task, data, data.records[i])), float))
        found[i] = at, np.ones(len(at))
    facts = {"name": "detector", "converged": True, "summary": "a detector: nothing is fitted, no setting is chosen"}
    return Answer(facts, None, len(test), 0, found=found)
