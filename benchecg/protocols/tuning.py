"""One training of an encoder and its head together, to be read from top to bottom: `tune`.

AdamW, one epoch of warm-up and half a cosine by the step, layer-wise decay of the learning rate, stochastic depth, gradient clipped
by its norm, the epoch with the best validation metric kept (ties: the earliest; epoch 0, before any step, counts) and an end when
it has not improved for some epochs. After each epoch the whole state goes to disk; random numbers depend on seed and epoch alone,
so a training that was killed and started again ends with the same bits on one machine with one number of threads.

Under `torchrun` every process takes its part of each batch. Batches, random numbers of their rows, the loss of the whole batch (a Cox
loss has it as risk set) and every decision are those of one process; the first reads and writes the files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchecg.protocols.tiles import Inputs, Tile, Tiles, features_of
from xecg.errors import CheckpointError, SpecError
from xecg.io.atomic import write_bytes
from xecg.model import Head
from xecg.model.checkpoint import read_tensors
from xecg.model.heads import loss_of
from xecg.pretrain import schedule
from xecg.pretrain.distributed import Gradients, Group, current

__all__ = ["Lesson", "Network", "Recipe", "Trained", "logits_of", "tune"]

_DONE, _BEST, _STATE = "done.json", "best.safetensors", "state.safetensors"
_FEWEST_STEPS, _SMALLEST_BATCH = 16, 4  # a small training set gets smaller batches, so that an epoch has so many steps


@dataclass(frozen=True)
class Recipe:
    """Settings of one training. lr_core: of the last block, earlier ones times `decay` each. drop_path: of the last residual block,
    rising linearly from 0 (Huang et al. 2016); used where the module has a list `blocks` of residual blocks. batch: tiles. keep:
    "best" epoch on validation or "last". class_weights: a class counts as much as another, whatever its number of training units.
    """

    lr_core: float
    decay: float
    seed: int = 0
    lr_head: float = 1e-3
    weight_decay: float = 0.01
    drop_path: float = 0.1
    epochs: int = 30
    patience: int = 8
    batch: int = 64
    clip: float = 3.0
    keep: str = "best"
    device: str = "cpu"
    class_weights: bool = False


@dataclass(frozen=True, eq=False)
class Trained:
    """value: of the kept epoch on validation, None where undefined. history: per epoch its number, mean loss and value."""

    value: float | None
    epoch: int
    history: list[dict[str, Any]]


@dataclass(frozen=True, eq=False)
class Lesson:
    """What a network is taught. label: targets by unit, as `xecg.model.heads.loss_of` takes them. beside: columns that stand beside a
    unit's features, float32 (units, k). weight: of the classes, as the loss takes it.
    """

    tiles: Tiles
    inputs: Inputs
    label: Tensor
    beside: Tensor | None = None
    weight: Tensor | None = None


class Network(nn.Module):
    """Encoder and head, one state."""

    def __init__(self, module: nn.Module, head: Head) -> None:
        super().__init__()
        self.module, self.head = module, head


def tune(
    network: Network,
    lesson: Lesson,
    recipe: Recipe,
    *,
    folder: Path,
    value_of: Callable[[Network], float | None],
    higher_is_better: bool = True,
    report: Callable[[dict[str, Any]], None] = lambda line: None,
) -> Trained:
    """Train `network` in place and leave the kept epoch's weights in it. folder: of this training alone; holds its state.

    value_of: validation metric of the network as it stands. Raises SpecError where several processes cannot train it as one does,
    BackendError where there is no such device.
    """
    train, group = lesson.tiles.train, current(recipe.device)
    _refuse_undivided(network, group)
    shelf = _Shelf(folder, group)
    network.to(group.device)
    done, best = shelf.read(_DONE), shelf.read(_BEST)
    if done is not None and best is not None:
        found = json.loads(done)
        network.load_state_dict(read_tensors(best, _BEST))
        return Trained(found["value"], found["epoch"], found["history"])
    batch = min(recipe.batch, max(_SMALLEST_BATCH, len(train) // _FEWEST_STEPS))
    steps = -(-len(train) // batch)
    groups = _groups(network, recipe)
    optimiser = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.999), eps=1e-8)
    history = _resume(network, optimiser, shelf.read(_STATE))
    if not history:
        start = group.of_first(_packed(network.state_dict()))
        network.load_state_dict(read_tensors(start or b"", _BEST))
        history = [{"epoch": 0, "loss": None, "value": value_of(network)}]
        shelf.write(_BEST, _packed(network.state_dict()))
    rows = _Rows(group)
    while len(history) <= recipe.epochs and len(history) - 1 - _best(history, higher_is_better) < recipe.patience:
        epoch = len(history)
        network.train()
        total = 0.0
        with _seeded(recipe.seed, epoch), _stochastic_depth(network.module, recipe.drop_path, rows):
            order = torch.randperm(len(train)).tolist()
            for place in range(steps):
                step = (epoch - 1) * steps + place + 1
                factor = schedule.learning_factor(step, recipe.epochs * steps + 1, steps)
                for each in optimiser.param_groups:
                    each["lr"] = each["height"] * factor
                chosen = [train[i] for i in order[place * batch : (place + 1) * batch]]
                rows.count = len(chosen)
                total += _step(network, optimiser, chosen, lesson, recipe)
        history.append({"epoch": epoch, "loss": total / steps, "value": value_of(network)})
        report(history[-1])
        if _best(history, higher_is_better) == epoch or recipe.keep == "last":
            shelf.write(_BEST, _packed(network.state_dict()))
        shelf.write(_STATE, _packed(_state(network, optimiser), history))
    kept = len(history) - 1 if recipe.keep == "last" else _best(history, higher_is_better)
    network.load_state_dict(read_tensors(shelf.read(_BEST) or b"", _BEST))
    about = {"value": history[kept]["value"], "epoch": kept, "history": history}
    shelf.write(_DONE, json.dumps(about, indent=2).encode())
    shelf.remove(_STATE)
    return Trained(history[kept]["value"], kept, history)


@torch.inference_mode()
def logits_of(network: Network, part: Sequence[Tile], lesson: Lesson, recipe: Recipe) -> Tensor:
    """Logits float32 (units of the lesson, outputs), the mean over a unit's tiles; NaN where no tile of `part` answers."""
    network.eval()
    total = torch.zeros(len(lesson.label), network.head.spec.outputs)
    count = torch.zeros(len(lesson.label))
    for first in range(0, len(part), recipe.batch):
        chosen = part[first : first + recipe.batch]
        units = _units(chosen)
        found = _logits(network, chosen, lesson, recipe).cpu()
        total.index_add_(0, units, found)
        count.index_add_(0, units, torch.ones(len(units)))
    return total / torch.where(count > 0, count, torch.nan)[:, None]


def _logits(network: Network, chosen: Sequence[Tile], lesson: Lesson, recipe: Recipe) -> Tensor:
    """Of every unit of the tiles in their order; each process makes those of its part, and all have them all."""
    group = current(recipe.device)
    own = (
        group.share(chosen) or chosen[:1]
    )  # with no part it makes one that is not used: all draw the same random numbers
    size = max(t.stop - t.start for t in chosen)
    x = features_of(network.module, own, lesson.inputs, lesson.tiles.grid, str(group.device), size=size)
    if lesson.beside is not None:
        x = torch.cat([x, lesson.beside[_units(own)].to(x)], 1)
    logits = network.head.of_features(x)
    if group.size == 1:
        return logits
    number = torch.tensor([len(t.unit) for t in chosen])
    first, last = (int(number[: len(chosen) * rank // group.size].sum()) for rank in (group.rank, group.rank + 1))
    before, after = (logits.new_zeros(n, logits.shape[1]) for n in (first, int(number.sum()) - last))
    return group.sum(torch.cat([before, logits[: last - first], after]))


def _units(chosen: Sequence[Tile]) -> Tensor:
    return torch.cat([torch.from_numpy(t.unit) for t in chosen])


def _step(
    network: Network,
    optimiser: torch.optim.Optimizer,
    chosen: list[Tile],
    lesson: Lesson,
    recipe: Recipe,
) -> float:
    group = current(recipe.device)
    target = lesson.label[_units(chosen)].to(group.device)
    weight = None if lesson.weight is None or not recipe.class_weights else lesson.weight.to(group.device)
    loss = loss_of(network.head, _logits(network, chosen, lesson, recipe), target, weight=weight)
    optimiser.zero_grad(set_to_none=True)
    if not loss.requires_grad:
        return float(loss)
    with Gradients(group, list(network.parameters())[::-1]) as gradients:
        gradients.expect(1)
        (loss / group.size).backward()  # type: ignore[no-untyped-call]
        gradients.finish()
    norm = torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.clip)
    if bool(torch.isfinite(norm)):
        optimiser.step()
    return float(loss.detach())


def _best(history: list[dict[str, Any]], higher_is_better: bool) -> int:
    known = [(h["value"] if higher_is_better else -h["value"], -h["epoch"]) for h in history if h["value"] is not None]
    return -max(known)[1] if known else 0


def _groups(network: Network, recipe: Recipe) -> list[dict[str, Any]]:
    """AdamW groups with the key height, the learning rate at its top. Vectors are not decayed."""
    encoder = getattr(network.module, "model", None)
    if encoder is not None and hasattr(encoder, "config"):
        parts = [
            (g["params"], g["factor"], g["decays"]) for g in schedule.parameter_groups(encoder, decay=recipe.decay)
        ]
    else:
        parts = [(list(p), factor, decays) for p, factor, decays in _by_depth(network.module, recipe.decay)]
    groups = [
        {"params": params, "height": recipe.lr_core * factor, "weight_decay": recipe.weight_decay if decays else 0.0}
        for params, factor, decays in parts
        if params and recipe.lr_core
    ]
    for parameter in network.module.parameters():
        parameter.requires_grad_(bool(recipe.lr_core))
    head = network.head
    return [
        *groups,
        {"params": [head.weight], "height": recipe.lr_head, "weight_decay": recipe.weight_decay},
        {"params": [head.bias], "height": recipe.lr_head, "weight_decay": 0.0},
    ]


def _by_depth(module: nn.Module, decay: float) -> Iterator[tuple[list[nn.Parameter], float, bool]]:
    """Of any module: its outermost children that are several, in their order, stand for its layers."""
    layers = list(module.children())
    while len(layers) == 1 and list(layers[0].children()):
        layers = list(layers[0].children())
    seen: set[int] = set()
    for depth, layer in enumerate([*layers, module]):  # what belongs to no child comes last
        factor = decay ** max(0, len(layers) - depth)
        fresh = [p for p in layer.parameters() if id(p) not in seen]
        seen |= {id(p) for p in fresh}
        for decays in (True, False):
            yield [p for p in fresh if (p.dim() > 1) == decays], factor, decays


def _refuse_undivided(network: nn.Module, group: Group) -> None:
    """Where a part of a batch is answered otherwise than within it, several processes are not one."""
    odd = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
    found = next((m for m in network.modules() if isinstance(m, odd) and getattr(m, "p", 1) > 0), None)
    if group.size > 1 and found is not None:
        raise SpecError(
            f"the network has {type(found).__name__}, which answers {group.size} parts of a batch otherwise than the whole; "
            "fine-tune it in one process"
        )


class _Rows:
    """A random number in [0, 1) for each row of a batch, drawn for all of them, of which a process has its part."""

    def __init__(self, group: Group) -> None:
        self._group, self.count = group, 0

    def __call__(self, n: int) -> Tensor:
        drawn = torch.rand(self.count)
        part = list(self._group.share(range(self.count)))
        return drawn[part] if part else drawn[:n]


@dataclass(frozen=True)
class _Shelf:
    """The files of a training, which the first process alone reads and writes."""

    folder: Path
    group: Group

    def read(self, name: str) -> bytes | None:
        """The file, on all processes; None where there is none."""
        path = self.folder / name
        return self.group.of_first(path.read_bytes() if self.group.first and path.is_file() else None)

    def write(self, name: str, data: bytes) -> None:
        if self.group.first:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_bytes(self.folder / name, data)

    def remove(self, name: str) -> None:
        if self.group.first:
            (self.folder / name).unlink(missing_ok=True)


@contextmanager
def _stochastic_depth(module: nn.Module, rate: float, rows: Callable[[int], Tensor] = torch.rand) -> Iterator[None]:
    """While it lasts, the residual part of block i of n is dropped from each row with probability rate · i / (n − 1)."""
    blocks = getattr(getattr(module, "model", module), "blocks", None)
    hooks = []
    if rate and isinstance(blocks, nn.ModuleList) and len(blocks) > 1:
        for i, block in enumerate(blocks):
            hooks.append(block.register_forward_hook(_dropping(rate * i / (len(blocks) - 1), rows)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _dropping(rate: float, rows: Callable[[int], Tensor]) -> Callable[..., Any]:
    def hook(block: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = inputs[0]
        kept = (rows(len(x)) >= rate).to(x) / (1 - rate)
        return x + (output - x) * kept.view(-1, *[1] * (x.dim() - 1))

    return hook


@contextmanager
def _seeded(seed: int, epoch: int) -> Iterator[None]:
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed((seed << 20) + epoch)
        yield


def _packed(tensors: dict[str, Tensor], history: list[dict[str, Any]] | None = None) -> bytes:
    from safetensors.torch import save

    plain = {name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}
    return save(plain, metadata={"history": json.dumps(history or [])})


def _state(network: Network, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    moments = {
        f"adam.{i}.{name}": value
        for i, state in optimiser.state_dict()["state"].items()
        for name, value in state.items()
    }
    return {**{f"net.{name}": t for name, t in network.state_dict().items()}, **moments}


def _resume(network: Network, optimiser: torch.optim.Optimizer, data: bytes | None) -> list[dict[str, Any]]:
    """The history in the bytes of a state, which is put into network and optimiser; [] without a whole one."""
    if data is None:
        return []
    try:
        tensors = read_tensors(data, _STATE)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except CheckpointError:
        return []
    network.load_state_dict({k[4:]: t for k, t in tensors.items() if k.startswith("net.")})
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith("adam."):
            _, i, name = key.split(".")
            state.setdefault(int(i), {})[name] = tensor
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    return json.loads(header["__metadata__"]["history"])
