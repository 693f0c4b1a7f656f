"""A run on disk: `state-STEP.safetensors`, written whole by the first process, and the checkpoints made of it at the end."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from xecg.errors import CheckpointError
from xecg.io.atomic import write_bytes
from xecg.model import save
from xecg.model.checkpoint import read_tensors
from xecg.pretrain.corpus import Corpus
from xecg.pretrain.objective import Objective, learned
from xecg.pretrain.settings import Settings

__all__ = ["Run", "describe", "export", "identity", "read_state", "states", "write_state"]

_KEPT = 2  # states on disk
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(eq=False)
class Run:
    """What training changes. identity: what a state must agree with to be gone on from."""

    objective: Objective
    optimiser: torch.optim.AdamW
    identity: dict[str, str]
    step: int = 0
    skipped: int = 0


def states(folder: Path) -> list[Path]:
    """The states in a run's folder, the newest last."""
    return sorted(folder.glob("state-*.safetensors"))


def identity(settings: Settings, corpus: Corpus, facts: dict[str, str]) -> dict[str, str]:
    return {"settings": json.dumps(settings.to_dict(), sort_keys=True), "corpus": corpus.digest, **facts}


def write_state(run: Run, folder: Path) -> None:
    from safetensors.torch import save as to_bytes

    tensors: dict[str, Tensor] = {}
    for name, parameter in learned(run.objective):
        tensors[f"student.{name}"] = parameter.detach()
        for key, value in run.optimiser.state[parameter].items():
            tensors[f"{key}.{name}"] = value
    if run.objective.teacher is not None:
        tensors |= {f"teacher.{name}": parameter for name, parameter in run.objective.teacher.named_parameters()}
    about = {"step": str(run.step), "skipped": str(run.skipped), **run.identity}
    data = to_bytes({name: t.cpu().contiguous() for name, t in tensors.items()}, metadata=about)
    write_bytes(folder / f"state-{run.step:09d}.safetensors", data)
    for old in states(folder)[:-_KEPT]:
        old.unlink()


def read_state(run: Run, path: Path) -> None:
    """Put the state in `path` into `run`. Raises CheckpointError where it is damaged or of another run."""
    data = path.read_bytes()
    tensors = read_tensors(data, str(path))
    about = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
    for what, ours in run.identity.items():
        if about.get(what) != ours:
            raise CheckpointError(
                f"{path}: this run was started with other {what}: {_difference(about.get(what), ours)}. Give the same to "
                "go on with it, or another folder to start a new one"
            )
    sides = [("student", learned(run.objective))]
    if run.objective.teacher is not None:
        sides.append(("teacher", run.objective.teacher.named_parameters()))
    with torch.no_grad():
        for side, named in sides:
            for name, parameter in named:
                parameter.copy_(_taken(tensors, f"{side}.{name}", path))
    for name, parameter in learned(run.objective):
        if f"step.{name}" in tensors:  # absent before the first step
            moments = {key: _taken(tensors, f"{key}.{name}", path).clone() for key in _MOMENTS}
            run.optimiser.state[parameter] = {
                key: value if key == "step" else value.to(parameter.device) for key, value in moments.items()
            }
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
    except (ValueError, AttributeError, TypeError):
        return f"was {theirs}, is {ours}"


def export(run: Run, settings: Settings, corpus: Corpus, folder: Path, card: str | None) -> None:
    """The student, and the teacher if it learned too, as checkpoint folders; those that are there are left alone."""
    for role, model in (("student", run.objective.student), ("teacher", run.objective.teacher)):
        if model is not None and not (folder / role).exists():
            origin = run.objective.origin(role)
            model.trained, model.card = True, card or describe(settings, corpus, origin=origin)
            save(model, folder / role)


def describe(settings: Settings, corpus: Corpus, *, origin: str) -> str:
    """The text of a checkpoint's card: what it was trained on and how; not how good it is."""
    sources: dict[str, int] = {}
    for name in corpus.ids:
        root, *folders = name.split("/")[:-1]
        place = "/".join([root.partition("-")[2] or root, *folders[:2]])  # deeper ones are shards of a set
        sources[place] = sources.get(place, 0) + 1
    listed = "\n".join(f"- {place}: {count:,} windows" for place, count in sorted(sources.items()))
    without = ", ".join(map(str, corpus.left_out)) or "nothing"
    visits = settings.steps * settings.batch
    return (
        f"# {settings.model}\n\n{origin}: {settings.steps:,} steps of {settings.batch} records, {visits:,} record visits, "
        f"seed {settings.seed}.\n\nTrained on (corpus {corpus.digest}):\n\n{listed}\n\n"
        f"Left out of the folders that were given: {without}.\n\n"
        f"Settings: `{json.dumps(settings.to_dict(), sort_keys=True)}`\n\nResearch use only, not a medical device.\n"
    )
