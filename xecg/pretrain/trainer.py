"""The training loop, to be read from top to bottom: `train` is the whole of it, the parts stand below.

A run is a folder:

    OUT/settings.json            what was asked for
    OUT/log.jsonl                one line every few steps
    OUT/state-STEP.safetensors   student, teacher, AdamW moments; counters in the header; the newest two are kept
    OUT/student, OUT/teacher     checkpoint folders, written at the end; the teacher is the model to use

Random numbers have no state (`xecg.pretrain.views`), so a run that was killed at any step and started again ends with the
same bits, on one machine with one number of threads. One process; there is no distributed mode.
"""

from __future__ import annotations

import json
import math
import os
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from xecg.errors import CheckpointError, SpecError, XECGError
from xecg.io.atomic import remove_stale, write_bytes, write_json, write_text
from xecg.model import XECG, XECGConfig, save
from xecg.model.checkpoint import read_tensors
from xecg.model.config import SIGNAL_PRESET
from xecg.model.padding import pool
from xecg.pretrain import losses, schedule
from xecg.pretrain.auxiliary import Auxiliary
from xecg.pretrain.beats import Targets, token_targets
from xecg.pretrain.corpus import Corpus
from xecg.pretrain.views import Batch, ViewSettings, draw, make_batch
from xecg.signal import PRESETS

__all__ = ["Settings", "Summary", "describe", "train"]

_KEPT = 2  # states on disk
_BAD_STEPS = 3  # in a row that end the run
_COLLAPSED = 0.1  # share of the largest possible coding rate, below which views say nothing


@dataclass(frozen=True)
class Settings:
    """Everything that a run depends on beside its corpus. Steps count optimiser steps of `batch` records.

    model: a preset of XECGConfig. rate: AdamW's at its height. warmup: share of the steps. clip: norm of the gradient.
    expansion: weight of the coding rate. auxiliary: weight of the beat heads (`xecg.pretrain.auxiliary`), 0 = none.
    repeat_real: how often an epoch takes each window that is not simulated. Raises SpecError on a value out of range.
    """

    model: str = "tiny"
    steps: int = 1000
    batch: int = 64
    seed: int = 0
    rate: float = 1e-3
    warmup: float = 0.1
    layer_decay: float = 0.9
    first_decay: float = 0.04
    last_decay: float = 0.4
    first_beta: float = 0.99
    clip: float = 3.0
    expansion: float = 0.1
    gamma: str = "sqrt"
    patch_average: str = "global"
    auxiliary: float = 0.0
    repeat_real: int = 1
    views: ViewSettings = field(default_factory=ViewSettings)

    def __post_init__(self) -> None:
        XECGConfig.preset(self.model)
        for name, least in (("steps", 1), ("batch", 2), ("seed", 0), ("repeat_real", 1)):
            if type(getattr(self, name)) is not int or getattr(self, name) < least:
                raise SpecError(f"{name} is {getattr(self, name)!r}; needed a whole number, {least} or more")
        for name, low, high in (("rate", 0, 1), ("warmup", 0, 1), ("layer_decay", 0, 1), ("first_beta", 0, 1)):
            if not low <= getattr(self, name) <= high:
                raise SpecError(f"{name} is {getattr(self, name)!r}; needed {low}..{high}")
        if not self.clip > 0 or self.expansion < 0 or self.auxiliary < 0:
            raise SpecError(
                f"clip is {self.clip!r}, expansion {self.expansion!r}; needed above 0, and 0 or more (as auxiliary)"
            )
        if self.gamma not in losses.GAMMA_RULES or self.patch_average not in ("global", "per-sample"):
            raise SpecError(f"gamma is {self.gamma!r}, patch_average {self.patch_average!r}; see xecg.pretrain.losses")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


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
    card: str | None = None,
    save_every: int = 100,
    log_every: int = 10,
    max_memory_mb: float | None = None,
    stop: Callable[[], bool] = lambda: False,
    report: Callable[[dict[str, Any]], None] = lambda line: None,
) -> Summary:
    """Train, or go on training, in the folder `out`, until `settings.steps` are done or `stop()` says so.

    card: text of the exported checkpoints; default: `describe`. report: called with every line of the log. A step whose
    loss or gradient is not finite is skipped; three in a row end the run.

    Raises CheckpointError where `out` holds a run of other settings or another corpus, SpecError where the corpus does not
    fit, XECGError on non-finite steps in a row or above max_memory_mb of resident memory; the last good state stays.
    """
    folder = Path(out)
    run = _open(settings, corpus, folder)
    second = _row_of_lead_two(run.student)
    clock = _Clock()
    line: dict[str, Any] = {}
    bad = 0
    while run.step < settings.steps and not stop():
        epoch, ids = _batch(settings, corpus, run.step)
        records = [(f"{corpus.ids[i]}#{k}" if k else corpus.ids[i], corpus.record(i)[1]) for i, k in ids]
        patch = run.student.config.patch
        wide, narrow = make_batch(records, settings.views, seed=settings.seed, epoch=epoch, patch=patch, second=second)
        clock.loaded()

        rate = settings.rate * schedule.learning_factor(
            run.step, settings.steps, round(settings.warmup * settings.steps)
        )
        decay = schedule.weight_decay(run.step, settings.steps, settings.first_decay, settings.last_decay)
        beta = schedule.ema_beta(run.step, settings.steps, settings.first_beta)
        for group in run.optimiser.param_groups:
            group["lr"], group["weight_decay"] = rate * group["factor"], decay if group["decays"] else 0.0

        asked = _targets(run, corpus, [i for i, _ in ids], wide) if run.heads is not None else []
        parts, watched = _forward(run, wide, narrow, settings, asked)
        loss = parts["compression"] + settings.expansion * parts["expansion"] + parts["patch"]
        loss = loss + settings.auxiliary * sum(value for name, value in parts.items() if name.startswith("aux_"))
        run.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_([p for _, p in _learned(run)], settings.clip)
        if bool(torch.isfinite(loss) & torch.isfinite(norm)):
            run.optimiser.step()
            schedule.update_teacher_(run.teacher, run.student, beta)
            bad = 0
        else:
            bad += 1
            run.skipped += 1
        run.step += 1
        clock.stepped(settings.batch)

        if bad == 0 and (run.step % save_every == 0 or run.step == settings.steps):
            _write_state(run, settings, corpus, folder)
        if run.step % log_every == 0 or run.step == settings.steps or bad:
            line = {
                "step": run.step,
                "epoch": epoch,
                "samples": run.step * settings.batch,
                "loss": float(loss.detach()),
            }
            line |= {name: float(value.detach()) for name, value in parts.items()}
            line |= {"gradient": float(norm), "rate": rate, "decay": decay, "beta": beta, "skipped": run.skipped}
            line |= _watch(watched) | clock.figures()
            if line["rate_share"] < _COLLAPSED and run.step > settings.warmup * settings.steps:
                line["alarm"] = "collapse: pooled vectors span almost nothing"
            _append(folder / "log.jsonl", line)
            report(line)
        if bad == _BAD_STEPS:
            raise XECGError(
                f"step {run.step}: loss {float(loss.detach())}, gradient norm {float(norm)}, the third in a row that is not "
                f"finite; the last good state is in {folder}. Lower the rate and start a new run"
            )
        if max_memory_mb is not None and clock.memory_mb() > max_memory_mb:
            if bad == 0:
                _write_state(run, settings, corpus, folder)
            raise XECGError(
                f"step {run.step}: {clock.memory_mb():,.0f} MB of memory in use; allowed were {max_memory_mb:,.0f}. The "
                "last state is saved: go on with more, or start a run with a smaller batch"
            )
    finished = run.step >= settings.steps
    if not finished and bad == 0:
        _write_state(run, settings, corpus, folder)
    if finished:
        _export(run, settings, corpus, folder, card)
    return Summary(run.step, finished, line)


@dataclass
class _Run:
    """What training changes. The teacher is no part of the student."""

    student: XECG
    teacher: XECG
    optimiser: torch.optim.AdamW
    heads: Auxiliary | None = None
    step: int = 0
    skipped: int = 0


def _open(settings: Settings, corpus: Corpus, folder: Path) -> _Run:
    """A new run, or the one in `folder` from its newest whole state."""
    name = settings.model
    spec = PRESETS[SIGNAL_PRESET[name]]
    if corpus.spec_hash != spec.hash:
        raise SpecError(f"corpus was made for signal spec {corpus.spec_hash}; {name}'s is {spec.hash}. Build it again")
    if len(corpus) < settings.batch:
        raise SpecError(f"corpus holds {len(corpus)} windows; needed at least one batch, {settings.batch}")
    folder.mkdir(parents=True, exist_ok=True)
    remove_stale(folder)
    student, teacher = (XECG(XECGConfig.preset(name), spec=spec, seed=settings.seed, name=name) for _ in range(2))
    teacher.requires_grad_(False)
    groups = schedule.parameter_groups(student, decay=settings.layer_decay)
    heads = None
    if settings.auxiliary:
        heads = Auxiliary(student.config.dim, *_spread(student, corpus), seed=settings.seed)
        groups.append({"params": list(heads.parameters()), "names": ["heads"], "factor": 1.0, "decays": False})
    run = _Run(student, teacher, torch.optim.AdamW(groups, lr=settings.rate, betas=(0.9, 0.999), eps=1e-8), heads)
    states = _states(folder)
    if states:
        _read_state(run, settings, corpus, states[-1])
    elif (folder / "log.jsonl").exists():
        (folder / "log.jsonl").unlink()
    write_json(folder / "settings.json", settings.to_dict())
    if states:
        _cut_log(folder / "log.jsonl", run.step)
    return run


def _batch(settings: Settings, corpus: Corpus, step: int) -> tuple[int, list[tuple[int, int]]]:
    """The epoch of a step and the records of its batch, (index, repetition); the rest of an epoch that fills none is left out."""
    pool = [(i, 0) for i in range(len(corpus))]
    if settings.repeat_real > 1:
        real = [i for i, name in enumerate(corpus.ids) if not name.startswith("synthetic/")]
        pool += [(i, k) for k in range(1, settings.repeat_real) for i in real]
    epoch, place = divmod(step, len(pool) // settings.batch)
    order = draw(settings.seed, epoch, "order").permutation(len(pool))
    return epoch, [pool[i] for i in order[place * settings.batch : (place + 1) * settings.batch].tolist()]


def _lag(model: XECG) -> int:
    """Tokens between a beat and the token that is asked for it: a causal model has not seen the whole beat in its own."""
    return int(model.config.causal)


def _targets(run: _Run, corpus: Corpus, ids: list[int], wide: Batch) -> list[Targets]:
    """What the tokens of every global view are asked for, view after view."""
    patch, rate, lag = run.student.config.patch, run.student.spec.rate or 1.0, _lag(run.student)
    known = [corpus.beats(i) for i in ids]
    return [
        token_targets(known[row % len(known)], start=start, stretch=stretch, tokens=n // patch, patch=patch, rate_hz=rate, lag=lag)
        for row, (n, (start, stretch)) in enumerate(zip(wide.lengths.tolist(), wide.places.tolist()))
    ]  # fmt: skip


def _spread(model: XECG, corpus: Corpus) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of every auxiliary value over some whole windows, spread evenly over the corpus."""
    patch, rate = model.config.patch, model.spec.rate or 1.0
    chosen = np.unique(np.linspace(0, len(corpus) - 1, 512).astype(int)).tolist()
    found = [
        token_targets(corpus.beats(i), start=0, stretch=1, tokens=48, patch=patch, rate_hz=rate, lag=_lag(model)).values
        for i in chosen
    ]
    values = np.concatenate(found).astype(np.float64)
    known = np.isfinite(values)
    count = np.maximum(known.sum(0), 1)
    centre = np.where(known, values, 0).sum(0) / count
    scale = np.sqrt((np.where(known, values - centre, 0) ** 2).sum(0) / count)
    return centre.astype(np.float32), np.where(scale > 1e-6, scale, 1).astype(np.float32)


def _forward(
    run: _Run, wide: Batch, narrow: Batch | None, settings: Settings, asked: list[Targets]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The parts of the loss, and what is watched: the student's first global view and its tokens."""
    assert wide.hidden is not None
    x, lengths, hidden = (torch.from_numpy(part) for part in (wide.x, wide.lengths, wide.hidden))
    with torch.no_grad():
        target = run.teacher.encode(x, lengths=lengths)
        valid = run.teacher.valid_tokens(x, lengths=lengths)
    tokens = run.student.encode(x, lengths=lengths, hide=hidden)
    views = settings.views.global_views
    teacher = pool(target, valid, "mean").unflatten(0, (views, -1))
    student = [pool(tokens, valid, "mean").unflatten(0, (views, -1))]
    if narrow is not None:
        short, ends = torch.from_numpy(narrow.x), torch.from_numpy(narrow.lengths)
        local = run.student.encode(short, lengths=ends)
        local = pool(local, run.student.valid_tokens(short, lengths=ends), "mean")
        student.append(local.unflatten(0, (settings.views.local_views, -1)))
    parts = {
        "compression": losses.compression(torch.cat(student), teacher),
        "expansion": losses.expansion(student[0], rule=settings.gamma),
        "patch": losses.patch_term(tokens, target, hidden & valid, average=settings.patch_average),
    }
    if run.heads is not None:  # a view with hidden tokens does not show its intervals: only whole ones are asked
        parts |= run.heads(tokens, asked, valid & ~hidden.any(1, keepdim=True))
    return parts, {"z": student[0][0].detach(), "tokens": tokens.detach()[: len(student[0][0])]}


def _watch(watched: dict[str, Tensor]) -> dict[str, float]:
    """Measures of collapse: shares of the largest coding rate and of the largest RankMe, spread of tokens along time."""
    z, tokens = watched["z"], watched["tokens"]
    if not bool(torch.isfinite(z).all()):
        return {"rate_share": math.nan, "rank_share": math.nan, "token_spread": math.nan}
    rows = torch.nn.functional.normalize(tokens, dim=-1)
    return {
        "rate_share": float(losses.coding_rate(z)) / losses.rate_maximum(*z.shape),
        "rank_share": losses.rank_me(z) / min(z.shape),
        "token_spread": float(rows.std(1).mean()),
    }


def _row_of_lead_two(model: XECG) -> int:
    return model.spec.leads.index("II") if "II" in model.spec.leads else 0


def _learned(run: _Run) -> Iterator[tuple[str, torch.nn.Parameter]]:
    yield from run.student.named_parameters()
    if run.heads is not None:
        yield from ((f"heads.{name}", parameter) for name, parameter in run.heads.named_parameters())


# State on disk.


def _states(folder: Path) -> list[Path]:
    return sorted(folder.glob("state-*.safetensors"))


def _identity(settings: Settings, corpus: Corpus) -> dict[str, str]:
    return {"settings": json.dumps(settings.to_dict(), sort_keys=True), "corpus": corpus.digest}


def _write_state(run: _Run, settings: Settings, corpus: Corpus, folder: Path) -> None:
    from safetensors.torch import save as to_bytes

    tensors: dict[str, Tensor] = {}
    for name, parameter in _learned(run):
        tensors[f"student.{name}"] = parameter.detach()
        for key, value in run.optimiser.state[parameter].items():
            tensors[f"{key}.{name}"] = value
    tensors |= {f"teacher.{name}": parameter for name, parameter in run.teacher.named_parameters()}
    about = {"step": str(run.step), "skipped": str(run.skipped), **_identity(settings, corpus)}
    data = to_bytes({name: t.contiguous() for name, t in tensors.items()}, metadata=about)
    write_bytes(folder / f"state-{run.step:09d}.safetensors", data)
    for old in _states(folder)[:-_KEPT]:
        old.unlink()


def _read_state(run: _Run, settings: Settings, corpus: Corpus, path: Path) -> None:
    data = path.read_bytes()
    tensors = read_tensors(data, str(path))
    about = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
    for what, ours in _identity(settings, corpus).items():
        if about.get(what) != ours:
            raise CheckpointError(
                f"{path}: this run was started with other {what}: {_difference(about.get(what), ours)}. Give the same to "
                "go on with it, or another folder to start a new one"
            )
    with torch.no_grad():
        for side, named in (("student", _learned(run)), ("teacher", run.teacher.named_parameters())):
            for name, parameter in named:
                parameter.copy_(_taken(tensors, f"{side}.{name}", path))
    for name, parameter in _learned(run):
        if f"step.{name}" in tensors:  # absent before the first step
            keys = ("step", "exp_avg", "exp_avg_sq")
            run.optimiser.state[parameter] = {key: _taken(tensors, f"{key}.{name}", path).clone() for key in keys}
    run.step, run.skipped = int(about["step"]), int(about["skipped"])


def _taken(tensors: dict[str, Tensor], name: str, path: Path) -> Tensor:
    if name not in tensors:
        raise CheckpointError(f"{path}: tensor {name!r} is missing; the state is of another model. Start a new run")
    return tensors[name]


def _difference(theirs: str | None, ours: str) -> str:
    try:
        before, now = json.loads(theirs or "{}"), json.loads(ours)
        return ", ".join(
            f"{key} was {before.get(key)!r}, is {now[key]!r}" for key in now if before.get(key) != now[key]
        )
    except ValueError:
        return f"was {theirs}, is {ours}"


def _export(run: _Run, settings: Settings, corpus: Corpus, folder: Path, card: str | None) -> None:
    for role, model in (("student", run.student), ("teacher", run.teacher)):
        if not (folder / role).exists():
            model.trained, model.card = True, card or describe(settings, corpus, role=role)
            save(model, folder / role)


def describe(settings: Settings, corpus: Corpus, *, role: str = "teacher") -> str:
    """The text of a checkpoint's card: what it was trained on and how; not how good it is."""
    sources: dict[str, int] = {}
    for name in corpus.ids:
        place = name.split("/")[0].partition("-")[2] or name.split("/")[0]
        sources[place] = sources.get(place, 0) + 1
    listed = "\n".join(f"- {place}: {count:,} windows" for place, count in sorted(sources.items()))
    visits = settings.steps * settings.batch
    return (
        f"# {settings.model}\n\nThe {role} of a SimDINOv2 pretraining run, without labels: {settings.steps:,} steps of "
        f"{settings.batch} records, {visits:,} record visits, seed {settings.seed}.\n\nTrained on (corpus {corpus.digest}):\n\n"
        f"{listed}\n\nSettings: `{json.dumps(settings.to_dict(), sort_keys=True)}`\n\nResearch use only, not a medical "
        "device.\n"
    )


# The log.


def _append(path: Path, line: dict[str, Any]) -> None:
    clean = {k: v if not isinstance(v, float) or math.isfinite(v) else str(v) for k, v in line.items()}
    with open(path, "a", encoding="utf-8") as handle:
        handle.write(json.dumps(clean) + "\n")


def _cut_log(path: Path, step: int) -> None:
    """Take out what a killed run logged after its last state, and a line that it did not finish."""
    if path.exists():
        write_text(path, "".join(text + "\n" for text in _whole_lines(path) if json.loads(text)["step"] <= step))


def _whole_lines(path: Path) -> Iterator[str]:
    for text in path.read_text(encoding="utf-8").splitlines():
        if text.endswith("}"):
            yield text


class _Clock:
    """Records a second, the share of time spent on making batches, memory."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self._loading = self._computing = 0.0
        self._samples = 0

    def loaded(self) -> None:
        self._loading += self._lap()

    def stepped(self, samples: int) -> None:
        self._computing += self._lap()
        self._samples += samples

    def figures(self) -> dict[str, float]:
        total = max(self._loading + self._computing, 1e-9)
        found = {"records_per_s": self._samples / total, "loading_share": self._loading / total}
        self._loading = self._computing = 0.0
        self._samples = 0
        return found | {"memory_mb": self.memory_mb()}

    @staticmethod
    def memory_mb() -> float:
        """Largest resident memory so far (Linux: ru_maxrss is in kB)."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    def _lap(self) -> float:
        now = time.perf_counter()
        past, self._last = now - self._last, now
        return past
