"""The training loop, to be read from top to bottom: `train` is the whole of it, the parts stand in the modules beside it.

A run is a folder:

    OUT/settings.json            what was asked for
    OUT/data.json                what the corpus was made of, and what was left out (`xecg.pretrain.run` writes it)
    OUT/log.jsonl                one line every few steps; OUT/probes.jsonl: of the probes, where they are asked for
    OUT/report.html              both as a page, written when a run ends or is stopped
    OUT/state-STEP.safetensors   student, teacher, AdamW moments; counters in the header; the newest two are kept
    OUT/student, OUT/teacher     checkpoint folders, written at the end; the teacher is the model to use

Random numbers have no state (`xecg.pretrain.views`), so a run that was killed at any step and started again ends with the
same bits, on one machine with one number of threads. Any number of processes and micro-batches may go on with a run: they
take the same records in the same order, and differ by rounding alone (`xecg.pretrain.objective`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from xecg.errors import SpecError, XECGError
from xecg.io.atomic import remove_stale, write_json
from xecg.pretrain import losses, schedule
from xecg.pretrain.ahead import Ahead
from xecg.pretrain.corpus import Corpus
from xecg.pretrain.distributed import Gradients, Group, current
from xecg.pretrain.objective import Objective, Result, SimDINO, backwards, learned
from xecg.pretrain.order import Batches
from xecg.pretrain.probes import Probes
from xecg.pretrain.progress import Clock, append_line, cut_lines
from xecg.pretrain.report import write_report
from xecg.pretrain.settings import Settings
from xecg.pretrain.state import Run, export, identity, read_state, states, write_state

__all__ = ["Settings", "Summary", "train"]

_BAD_STEPS = 3  # in a row that end the run
_COLLAPSED = 0.1  # share of the largest possible coding rate, below which views say nothing


class Summary(NamedTuple):
    """step: how many are done. finished: False where `stop` ended the run. last: the last line of the log."""

    step: int
    finished: bool
    last: dict[str, Any]


def train(
    settings: Settings,
    corpus: Corpus,
    out: str | os.PathLike[str],
    *,
    objective: Objective | None = None,
    device: str = "cpu",
    micro: int = 0,
    card: str | None = None,
    save_every: int = 100,
    log_every: int = 10,
    probe_every: int = 0,
    board: Callable[[dict[str, Any]], None] = lambda line: None,
    max_memory_mb: float | None = None,
    stop: Callable[[], bool] = lambda: False,
    report: Callable[[dict[str, Any]], None] = lambda line: None,
) -> Summary:
    """Train, or go on training, in the folder `out`, until `settings.steps` are done or `stop()` says so on any process.

    objective: default `SimDINO`. device: where it runs; in a process group (`xecg.pretrain.distributed`) each process takes
    its part of every batch, and the first one writes. micro: records a process takes through the model at once; 0 = its
    whole part. card: text of the exported checkpoints; default: `state.describe`. probe_every: steps between lines of
    probes.jsonl, 0 = none; needs held-out windows. report: called with every line of the log; board: with those and the
    probes'. A step whose loss or gradient is not finite is skipped; three in a row end the run.

    Raises CheckpointError where `out` holds a run of other settings or another corpus, SpecError where the corpus does not
    fit, XECGError on non-finite steps in a row or above max_memory_mb of resident memory; the last good state stays.
    """
    group, folder, clock = current(device), Path(out), Clock()
    batches = Batches(settings, corpus)
    probes = Probes(corpus, batches.held) if probe_every else None
    run = _open(settings, corpus, folder, group, objective, micro)
    parameters = [parameter for _, parameter in learned(run.objective)]
    line: dict[str, Any] = {}
    bad = 0
    make = partial(_pieces, run.objective, batches, group, micro)
    clock.pause()
    with Ahead(make, settings.steps) as ahead, Gradients(group, backwards(run.objective)) as gradients:
        while run.step < settings.steps and not group.any(stop()):
            clock.stepped(0)  # what was written, and waiting for the others, is no waiting for data
            epoch, count, pieces = ahead.of(run.step)
            clock.loaded()

            rate, decay, beta = _scheduled(settings, run.step)
            for param_group in run.optimiser.param_groups:
                param_group["lr"] = rate * param_group["factor"]
                param_group["weight_decay"] = decay if param_group["decays"] else 0.0

            run.optimiser.zero_grad(set_to_none=True)
            totals = group.sum(torch.stack([run.objective.counts(piece) for piece in pieces]).sum(0))
            gradients.expect(len(pieces))
            result = run.objective.backward(pieces, totals, group)
            gradients.finish()
            norm = torch.nn.utils.clip_grad_norm_(parameters, settings.clip)
            names = list(result.parts)
            shares = group.sum(torch.stack([result.parts[name] for name in names]).double()).tolist()
            parts = dict(zip(names, shares))
            loss = sum(run.objective.weights[name] * value for name, value in parts.items())
            if math.isfinite(loss) and bool(torch.isfinite(norm)):  # of summed numbers: all processes decide alike
                run.optimiser.step()
                run.objective.after_step(beta)
                bad = 0
            else:
                bad += 1
                run.skipped += 1
            run.step += 1
            clock.stepped(count)

            if bad == 0 and group.first and (run.step % save_every == 0 or run.step == settings.steps):
                write_state(run, folder)
            if run.step % log_every == 0 or run.step == settings.steps or bad:
                line = {"step": run.step, "epoch": epoch, "samples": run.step * settings.batch, "loss": loss} | parts
                line |= {"gradient": float(norm), "rate": rate, "decay": decay, "beta": beta, "skipped": run.skipped}
                line |= _watch(result, group, count) | clock.figures()
                line["eta_s"] = (settings.steps - run.step) * settings.batch / max(line["records_per_s"], 1e-9)
                if line["rate_share"] < _COLLAPSED and run.step > settings.warmup * settings.steps:
                    line["alarm"] = "collapse: pooled vectors span almost nothing"
                if group.first:
                    append_line(folder / "log.jsonl", line)
                    board(line)
                    report(line)
            if probes and group.first and bad == 0 and (run.step % probe_every == 0 or run.step == settings.steps):
                found = {"step": run.step} | probes.ask(run.objective.teacher or run.objective.student, group.device)
                append_line(folder / "probes.jsonl", found)
                board(found)
                clock.pause()
            if bad == _BAD_STEPS:
                raise XECGError(
                    f"step {run.step}: loss {loss}, gradient norm {float(norm)}, the third in a row that is not "
                    f"finite; the last good state is in {folder}. Lower the rate and start a new run"
                )
            if max_memory_mb is not None and group.any(clock.memory_mb() > max_memory_mb):
                if bad == 0 and group.first:
                    write_state(run, folder)
                raise XECGError(
                    f"step {run.step}: {clock.memory_mb():,.0f} MB of memory in use; allowed were {max_memory_mb:,.0f}. The "
                    "last state is saved: go on with more, or start a run with a smaller batch"
                )
    finished = run.step >= settings.steps
    if group.first and not finished and bad == 0:
        write_state(run, folder)
    if group.first and finished:
        export(run, settings, corpus, folder, card)
    if group.first:
        write_report(folder)
    group.any(False)  # nobody leaves before what the first process writes is there
    return Summary(run.step, finished, line)


def _pieces(objective: Objective, batches: Batches, group: Group, micro: int, step: int) -> tuple[int, int, list[Any]]:
    """The epoch of a step, its records over all processes, and the micro-batches of this one."""
    epoch, ids = batches.of(step)
    own = list(group.share(ids))
    size = micro or len(own)
    return epoch, len(ids), [objective.load(own[i : i + size], epoch) for i in range(0, len(own), size)]


def _open(
    settings: Settings, corpus: Corpus, folder: Path, group: Group, objective: Objective | None, micro: int
) -> Run:
    """A new run, or the one in `folder` from its newest whole state."""
    if settings.batch < group.size:
        raise SpecError(f"batch is {settings.batch} for {group.size} processes; needed one record each, or more")
    goal = SimDINO(settings, corpus, group.device) if objective is None else objective
    name, spec = settings.model, goal.student.spec
    if corpus.spec_hash != spec.hash:
        raise SpecError(f"corpus was made for signal spec {corpus.spec_hash}; {name}'s is {spec.hash}. Build it again")
    facts = dict(goal.facts)
    if settings.scope == "local":  # what the rate is one of depends on how a batch is cut
        facts["cut"] = f"{group.size} processes, {micro or 'all'} records at once"
    groups = schedule.parameter_groups(goal.student, decay=settings.layer_decay)
    if goal.heads is not None:
        groups.append({"params": list(goal.heads.parameters()), "names": ["heads"], "factor": 1.0, "decays": False})
    optimiser = torch.optim.AdamW(groups, lr=settings.rate, betas=(0.9, 0.999), eps=1e-8)
    run = Run(goal, optimiser, identity(settings, corpus, facts))
    if group.first:
        folder.mkdir(parents=True, exist_ok=True)
        remove_stale(folder)
    group.any(False)  # the folder is there
    kept = states(folder)
    if kept:
        read_state(run, kept[-1])
    group.same("the run", f"{run.step} steps, {sorted(run.identity.items())}")
    if group.first:
        for name in ("log.jsonl", "probes.jsonl"):
            if not kept:
                (folder / name).unlink(missing_ok=True)
            cut_lines(folder / name, run.step)
        write_json(folder / "settings.json", settings.to_dict())
    return run


def _scheduled(settings: Settings, step: int) -> tuple[float, float, float]:
    """Learning rate, weight decay and the teacher's β of a step."""
    factor = schedule.learning_factor(step, settings.steps, round(settings.warmup * settings.steps))
    decay = schedule.weight_decay(step, settings.steps, settings.first_decay, settings.last_decay)
    return settings.rate * factor, decay, schedule.ema_beta(step, settings.steps, settings.first_beta)


def _watch(result: Result, group: Group, records: int) -> dict[str, float]:
    """Measures of collapse: shares of the largest coding rate and of the largest RankMe, spread of tokens along time."""
    z, spread = group.rows(result.z, records), group.rows(result.spread, records)
    if not bool(torch.isfinite(z).all()):
        return {"rate_share": math.nan, "rank_share": math.nan, "token_spread": math.nan}
    return {
        "rate_share": float(losses.coding_rate(z)) / losses.rate_maximum(*z.shape),
        "rank_share": losses.rank_me(z) / min(z.shape),
        "token_spread": float(spread.mean()),
    }
