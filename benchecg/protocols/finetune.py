"""Full fine-tuning: encoder and head trained together, one small grid for every model.

The head starts as the linear probe of the untouched encoder, fitted on the training units (Kumar et al. 2022, arXiv 2202.10054), so
that what training adds is what the encoder learns. Learning rate of the encoder and its layer-wise decay are chosen by the
task's metric on the validation units with seed 0 (ties: the first of the grid), then the other seeds train with that setting. The
published fine-tuning settings reach from 1e-5 to 1e-3, and so does the grid. Test units are answered by the kept epochs alone.
"""

from __future__ import annotations

import copy
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchecg.models.base import Adapter
from benchecg.models.network import weights_of
from benchecg.protocols.linear_probe import LinearMap, metric_of
from benchecg.protocols.peak_head import READINGS, Picked, Reading, best_theta
from benchecg.protocols.peak_tuning import PeakUnits, peak_units, pooled, truth_of
from benchecg.protocols.tiles import Grid, Inputs, Tile, grid_of, tiles_of
from benchecg.protocols.tuning import Lesson, Network, Recipe, logits_of, tune
from benchecg.tasks.base import Task, TaskData
from benchecg.versions import library_version
from xecg.errors import SpecError
from xecg.model import Head, HeadSpec
from xecg.model.head_spec import questions

__all__ = ["GRID", "SEEDS", "Plan", "Tuned", "class_weights", "fine_tune", "untrainable"]

SEEDS = 5
GRID = tuple(product((1e-5, 1e-4, 1e-3), (0.75, 1.0)))  # lr_core, layer-wise decay


@dataclass(frozen=True)
class Plan:
    """What is tried: every recipe of `search` with its own seed, then the best with `seeds` seeds from 0."""

    search: tuple[Recipe, ...] = tuple(Recipe(lr, decay) for lr, decay in GRID)
    seeds: int = SEEDS

    def with_(self, **changes: Any) -> Plan:
        """The same plan with other settings in every recipe: with_(epochs=5, device="cuda")."""
        return replace(self, search=tuple(replace(r, **changes) for r in self.search))


@dataclass(frozen=True, eq=False)
class Tuned:
    """scores: of the test units, one array a seed; of a peaks task record index → (time_s, height) of the peaks, and no valid.

    valid: bool of the test units. recipe: the chosen one. search: setting → validation metric. epochs: kept epoch of each seed.
    validation, test: the metric of each seed; of a peaks task validation is F1 at ±75 ms, and thetas the threshold that has it.
    width: of the tokens and what stands beside them.
    """

    scores: tuple[Any, ...]
    valid: np.ndarray | None
    recipe: Recipe
    search: dict[str, float | None]
    epochs: tuple[int, ...]
    validation: tuple[float | None, ...]
    test: tuple[float | None, ...]
    width: int
    n_fit: int
    thetas: tuple[float, ...] = ()


def untrainable(adapter: Adapter) -> str | None:
    """Why an adapter cannot be fine-tuned; None when it offers its torch module and its preprocessing."""
    if hasattr(adapter, "module") and hasattr(adapter, "spec"):
        return None
    return f"{adapter.id} has no network to train: fine-tuning needs module() and spec, see docs/MODELS.md"


def fine_tune(
    task: Task,
    data: TaskData,
    adapter: Any,
    *,
    start: LinearMap,
    data_sha256: str,
    beside: np.ndarray | None = None,
    plan: Plan | None = None,
    cache: Path | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
) -> Tuned:
    """Search, train, answer. start: the linear probe of the untouched encoder, fitted on the training units; where the head begins.

    beside: float32 (units, k), columns beside the tokens' own, which `start` knows. cache: folder that keeps the trainings, each under
    a name made of all it depends on: the same call goes on where it was stopped. Raises SpecError.
    """
    reason = untrainable(adapter)
    if reason:
        raise SpecError(reason)
    plan = plan or Plan()
    inputs = Inputs(task, data, adapter.spec)
    grid = grid_of(adapter, adapter.module())
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) if cache is None else cache / "finetune"
        about = _About(task, data, adapter, start, data_sha256, root)
        work = _peak_work(about, inputs, grid) if task.kind == "peaks" else _unit_work(about, inputs, grid, beside)
        tiles = work.lesson.tiles
        if not tiles.train or not tiles.val:
            raise SpecError(f"{len(tiles.train)} training and {len(tiles.val)} validation tiles; needed some of each")
        found = {recipe: work.train(recipe) for recipe in progress(plan.search)}
        best = _chosen(found, task)
        runs = [work.answers(replace(best, seed=seed)) for seed in progress(range(plan.seeds))]
    return Tuned(
        scores=tuple(r.score for r in runs),
        valid=runs[0].valid,
        recipe=best,
        search={_name(r): value for r, value in found.items()},
        epochs=tuple(r.epoch for r in runs),
        validation=tuple(r.validation for r in runs),
        test=tuple(r.test for r in runs),
        width=start.weight.shape[1],
        n_fit=len(tiles.train),
        thetas=tuple(r.theta for r in runs if r.theta is not None),
    )


def _name(recipe: Recipe) -> str:
    return f"lr_core={recipe.lr_core:g} decay={recipe.decay:g}"


def _chosen(found: dict[Recipe, float | None], task: Task) -> Recipe:
    sign = 1 if task.higher_is_better else -1
    known = [(sign * value, -place) for place, value in enumerate(found.values()) if value is not None]
    return list(found)[-max(known)[1] if known else 0]


@dataclass(frozen=True, eq=False)
class _Run:
    """One training's answers to the test, as in `Tuned`."""

    score: Any
    valid: np.ndarray | None
    epoch: int
    validation: float | None
    test: float | None
    theta: float | None = None


@dataclass(frozen=True, eq=False)
class _About:
    """As `fine_tune` was given them. root: folder of the trainings."""

    task: Task
    data: TaskData
    adapter: Any
    start: LinearMap
    data_sha256: str
    root: Path


@dataclass(frozen=True, eq=False)
class _Work:
    """One model on one task: trainings by recipe, each in its folder."""

    about: _About
    lesson: Lesson
    head: Head

    def key(self, recipe: Recipe, module: nn.Module) -> Path:
        """Folder of a training, by everything it depends on; the weights themselves, whatever the adapter says of them."""
        ids = [(r.id, r.split) for r in self.about.data.records]
        beside = [] if self.lesson.beside is None else [self.lesson.beside.numpy()]
        arrays = [self.about.data.label, self.about.data.time_s, *beside]
        versions = [library_version(name) for name in ("xecg", "torch")]
        task, tiles = self.about.task, self.lesson.tiles
        facts = [
            task.id,
            task.version,
            task.profile,
            self.about.adapter.fingerprint,
            self.about.adapter.spec_hash,
            self.about.data_sha256,
        ]
        digests = [hashlib.sha256(np.ascontiguousarray(a).tobytes()).hexdigest() for a in arrays]
        text = json.dumps([facts, ids, digests, weights_of(module), versions, asdict(recipe), asdict(tiles.grid)])
        return self.about.root / hashlib.sha256(text.encode()).hexdigest()[:24]

    def _trained(self, recipe: Recipe) -> tuple[Network, float | None, int]:
        module: nn.Module = copy.deepcopy(self.about.adapter.module())
        network, folder = Network(module, copy.deepcopy(self.head)), self.key(recipe, module)
        run = tune(
            network, self.lesson, recipe, folder=folder, value_of=lambda net: self._value(net, recipe),
            higher_is_better=self.about.task.higher_is_better,
        )  # fmt: skip
        return network, run.value, run.epoch

    def train(self, recipe: Recipe) -> float | None:
        """Validation metric of the kept epoch."""
        return self._trained(recipe)[1]

    def answers(self, recipe: Recipe) -> _Run:
        """Answers of the kept epoch to the test."""
        raise NotImplementedError

    def _value(self, network: Network, recipe: Recipe) -> float | None:
        """Validation metric of a network."""
        raise NotImplementedError


class _UnitWork(_Work):
    """Units have labels, and logits answer them."""

    def answers(self, recipe: Recipe) -> _Run:
        network, value, epoch = self._trained(recipe)
        score, valid = self._scores(network, self.lesson.tiles.test, "test", recipe)
        return _Run(score, valid, epoch, value, self._metric("test", score, valid))

    def _value(self, network: Network, recipe: Recipe) -> float | None:
        return self._metric("val", *self._scores(network, self.lesson.tiles.val, "val", recipe))

    def _metric(self, split: str, score: np.ndarray, valid: np.ndarray) -> float | None:
        return metric_of(self.about.task, self.about.data.label[self.about.data.in_split(split)], score, valid)

    def _scores(
        self, network: Network, part: tuple[Tile, ...], split: str, recipe: Recipe
    ) -> tuple[np.ndarray, np.ndarray]:
        found = logits_of(network, part, self.lesson, recipe)
        rows = self.about.data.in_split(split)
        logits = found[torch.from_numpy(rows)]
        valid = ~torch.isnan(logits).any(1).numpy()
        return _score(network.head, torch.nan_to_num(logits)), valid


@dataclass(frozen=True, eq=False)
class _PeakWork(_Work):
    """Tokens have heights, and a record's curve is read at the threshold that is best on validation."""

    units: PeakUnits

    def answers(self, recipe: Recipe) -> _Run:
        network, value, epoch = self._trained(recipe)
        theta = best_theta(
            self._curves(network, self.lesson.tiles.val, recipe), truth_of(self.about.data), self._reading
        )[1]
        curves = self._curves(network, self.lesson.tiles.test, recipe)
        found = {i: self._reading.pick(*curve, theta=theta) for i, curve in curves.items()}
        return _Run(found, None, epoch, value, pooled(self.about.data, found).get(self.about.task.metric), theta)

    @property
    def _reading(self) -> Reading:
        return READINGS[self.about.task.profile]

    def _value(self, network: Network, recipe: Recipe) -> float | None:
        return best_theta(
            self._curves(network, self.lesson.tiles.val, recipe), truth_of(self.about.data), self._reading
        )[0]

    def _curves(self, network: Network, part: tuple[Tile, ...], recipe: Recipe) -> dict[int, Picked]:
        return self.units.curves(logits_of(network, part, self.lesson, recipe).numpy())


def _unit_work(about: _About, inputs: Inputs, grid: Grid, beside: np.ndarray | None) -> _Work:
    task, data = about.task, about.data
    train = data.in_split("train")
    label = torch.from_numpy(np.asarray(data.label))
    label = label if label.dtype == torch.int64 and task.kind == "multiclass" else label.float()
    columns = None if beside is None else torch.from_numpy(np.asarray(beside, np.float32))
    lesson = Lesson(tiles_of(task, data, inputs, grid), inputs, label, columns, class_weights(task, data.label[train]))
    return _UnitWork(about, lesson, _started(task, data, about.start, train))


def _peak_work(about: _About, inputs: Inputs, grid: Grid) -> _Work:
    task, start = about.task, about.start
    units = peak_units(about.data, inputs, grid)
    heights = units.target.shape[1]
    if len(start.bias) != heights:
        raise SpecError(
            f"{about.adapter.id}: its features have {len(start.bias)} heights a token, its network's tokens {heights}; needed "
            "tokens of one length in both: see docs/MODELS.md"
        )
    head = Head(HeadSpec("peaks", task.classes, of="token", heights=heights), start.weight.shape[1])
    _copy(head, {"weight": start.weight, "bias": start.bias, "centre": start.centre, "scale": start.scale})
    lesson = Lesson(units.tiles, inputs, torch.from_numpy(units.target).float())
    return _PeakWork(about, lesson, head, units)


def class_weights(task: Task, label: np.ndarray) -> Tensor | None:
    """n / (classes · units of the class), (classes,), of the training labels; None of a task without classes of its own."""
    if task.kind not in ("multiclass", "multilabel"):
        return None
    n = len(task.classes)
    count = (label == 1).sum(0) if task.kind == "multilabel" else np.bincount(label.astype(int), minlength=n)
    return torch.from_numpy(len(label) / (n * np.maximum(count, 1))).float()


def _score(head: Head, logits: Tensor) -> np.ndarray:
    """As `benchecg.predictions` keeps them: log-odds; within a question of a panel log-probabilities; the number itself."""
    kind = head.spec.kind
    if kind == "panel":
        columns = questions(head.spec.classes).values()
        logits = torch.cat([logits[:, c].log_softmax(-1) for c in columns], 1)
    if kind == "regression":
        logits = head.offset.cpu() + head.spread.cpu() * logits
    found = logits.numpy().astype(np.float32)
    return found if kind in ("multiclass", "multilabel", "panel") else found[:, 0]


def _started(task: Task, data: TaskData, linear: LinearMap, train: np.ndarray) -> Head:
    """The linear probe as a head; of a number in standard units of the training labels."""
    classes = task.classes if task.kind not in ("regression", "survival") else ()
    head = Head(HeadSpec(task.kind, classes), linear.weight.shape[1])
    weight, bias = linear.weight, linear.bias
    values: dict[str, Any] = {"centre": linear.centre, "scale": linear.scale}
    if task.kind == "regression":
        offset, spread = data.label[train].mean(), data.label[train].std() or 1.0
        weight, bias = weight / spread, (bias - offset) / spread
        values |= {"offset": offset, "spread": spread}
    _copy(head, values | {"weight": weight, "bias": bias})
    return head


def _copy(head: Head, values: dict[str, Any]) -> None:
    with torch.no_grad():
        for name, value in values.items():
            getattr(head, name).copy_(torch.as_tensor(np.asarray(value), dtype=torch.float32))
