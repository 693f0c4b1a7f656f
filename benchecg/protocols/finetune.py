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
from benchecg.protocols.linear_probe import LinearMap, linear_probe, metric_of
from benchecg.protocols.tiles import Inputs, Tile, Tiles, grid_of, tiles_of
from benchecg.protocols.tuning import Network, Recipe, logits_of, tune
from benchecg.tasks.base import Task, TaskData
from benchecg.versions import library_version
from xecg.errors import SpecError
from xecg.model import Head, HeadSpec
from xecg.model.head_spec import questions

__all__ = ["GRID", "SEEDS", "Plan", "Tuned", "fine_tune", "untrainable"]

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
    """scores: of the test units, one array a seed; valid: bool of the test units. recipe: the chosen one.

    search: setting → validation metric. epochs: kept epoch of each seed. validation, test: the metric of each seed. width: of tokens.
    """

    scores: tuple[np.ndarray, ...]
    valid: np.ndarray
    recipe: Recipe
    search: dict[str, float | None]
    epochs: tuple[int, ...]
    validation: tuple[float | None, ...]
    test: tuple[float | None, ...]
    width: int
    n_fit: int


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
    features: np.ndarray,
    valid: np.ndarray,
    data_sha256: str,
    plan: Plan | None = None,
    cache: Path | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
) -> Tuned:
    """Search, train, answer. features (n, D), valid (n,): of the untouched encoder, for the head's start.

    cache: folder that keeps the trainings, each under a name made of all it depends on: the same call goes on where it was
    stopped. Raises SpecError.
    """
    reason = untrainable(adapter)
    if reason:
        raise SpecError(reason)
    plan = plan or Plan()
    parts = {s: data.in_split(s) for s in ("train", "val", "test")}
    probe = linear_probe(task, features=features, valid=valid, label=data.label, refit=False, **parts)
    assert probe.head is not None
    head = _started(task, data, probe.head, parts["train"])
    inputs = Inputs(task, data, adapter.spec)
    grid = grid_of(adapter, adapter.module())
    tiles = tiles_of(task, data, inputs, grid)
    if not tiles.train or not tiles.val:
        raise SpecError(f"{len(tiles.train)} training and {len(tiles.val)} validation tiles; needed some of each")
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) if cache is None else cache / "finetune"
        work = _Work(task, data, adapter, head, tiles, inputs, data_sha256, root)
        found = {recipe: work.train(recipe) for recipe in progress(plan.search)}
        best = _chosen(found, task)
        runs = [work.answers(replace(best, seed=seed)) for seed in progress(range(plan.seeds))]
    names = {_name(r): value for r, value in found.items()}
    scores, ok, epochs, validation, test = zip(*runs)
    return Tuned(scores, ok[0], best, names, epochs, validation, test, features.shape[1], len(tiles.train))


def _name(recipe: Recipe) -> str:
    return f"lr_core={recipe.lr_core:g} decay={recipe.decay:g}"


def _chosen(found: dict[Recipe, float | None], task: Task) -> Recipe:
    sign = 1 if task.higher_is_better else -1
    known = [(sign * value, -place) for place, value in enumerate(found.values()) if value is not None]
    return list(found)[-max(known)[1] if known else 0]


@dataclass(frozen=True, eq=False)
class _Work:
    """One model on one task: trainings by recipe, each in its folder."""

    task: Task
    data: TaskData
    adapter: Any
    head: Head
    tiles: Tiles
    inputs: Inputs
    data_sha256: str
    root: Path

    def key(self, recipe: Recipe) -> Path:
        """Folder of a training, by everything it depends on."""
        ids = [(r.id, r.split) for r in self.data.records]
        label = hashlib.sha256(self.data.label.tobytes() + self.data.time_s.tobytes()).hexdigest()
        versions = [library_version(name) for name in ("xecg", "torch")]
        facts = [self.task.id, self.task.version, self.adapter.fingerprint, self.adapter.spec_hash, self.data_sha256]
        text = json.dumps([facts, ids, label, versions, asdict(recipe), asdict(self.tiles.grid)])
        return self.root / hashlib.sha256(text.encode()).hexdigest()[:24]

    def _trained(self, recipe: Recipe) -> tuple[Network, float | None, int]:
        module: nn.Module = copy.deepcopy(self.adapter.module())
        network = Network(module, copy.deepcopy(self.head))
        label = torch.from_numpy(np.asarray(self.data.label))
        label = label if label.dtype == torch.int64 and self.task.kind == "multiclass" else label.float()

        def value_of(net: Network) -> float | None:
            return self._value(net, self.tiles.val, "val", recipe)

        run = tune(
            network, self.tiles, self.inputs, label, recipe, folder=self.key(recipe), value_of=value_of,
            higher_is_better=self.task.higher_is_better,
        )  # fmt: skip
        return network, run.value, run.epoch

    def train(self, recipe: Recipe) -> float | None:
        """Validation metric of the kept epoch."""
        return self._trained(recipe)[1]

    def answers(self, recipe: Recipe) -> tuple[np.ndarray, np.ndarray, int, float | None, float | None]:
        """Scores and validity of the test units, kept epoch, metric on validation and on test."""
        network, value, epoch = self._trained(recipe)
        score, valid = self._scores(network, self.tiles.test, "test", recipe)
        rows = self.data.in_split("test")
        return score, valid, epoch, value, metric_of(self.task, self.data.label[rows], score, valid)

    def _value(self, network: Network, part: tuple[Tile, ...], split: str, recipe: Recipe) -> float | None:
        score, valid = self._scores(network, part, split, recipe)
        return metric_of(self.task, self.data.label[self.data.in_split(split)], score, valid)

    def _scores(
        self, network: Network, part: tuple[Tile, ...], split: str, recipe: Recipe
    ) -> tuple[np.ndarray, np.ndarray]:
        found = logits_of(network, part, self.tiles, self.inputs, recipe, len(self.data.record))
        rows = self.data.in_split(split)
        logits = found[torch.from_numpy(rows)]
        valid = ~torch.isnan(logits).any(1).numpy()
        return _score(network.head, torch.nan_to_num(logits)), valid


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
    values |= {"weight": weight, "bias": bias}
    with torch.no_grad():
        for name, value in values.items():
            getattr(head, name).copy_(torch.as_tensor(np.asarray(value), dtype=torch.float32))
    return head
