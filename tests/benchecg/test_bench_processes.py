"""Fine-tuning in several processes is fine-tuning in one: losses, decisions, files. gloo, file init."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from benchecg.models import load_adapter
from benchecg.models.network import Contract, NetworkAdapter, seeded
from benchecg.protocols.finetune import Plan
from benchecg.protocols.tiles import grid_of, tiles_of
from benchecg.protocols.tuning import Lesson, Network, Recipe, logits_of, tune
from benchecg.results import find_results, read_result
from benchecg.running import load_data, run
from benchecg.tasks import load_task
from benchecg.tasks.base import Record, TaskData
from xecg.errors import SpecError
from xecg.model import Head, HeadSpec
from xecg.signal import PRESETS, ModelInput

TOL_LOSS = 1e-6  # of losses, from one number of processes to another: the rounding of float32 sums


def _process(rank: int, size: int, folder: str, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=size)
    try:
        torch.save(work(*arguments), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def spread(size: int, folder: Path, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `work` gives in each of `size` processes."""
    folder.mkdir(parents=True)
    mp.start_processes(_process, (size, str(folder), work, arguments), nprocs=size, start_method="fork")
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(size)]


def lesson_of(kind: str) -> tuple[Lesson, Network]:
    """Nine records of unequal length: batches of 4, 4 and 1, of which the last leaves one of two processes without a part."""
    adapter = load_adapter("xecg-random")
    module = adapter.module()
    rng = np.random.default_rng(0)
    shape = [(12, 200 + 25 * (i % 4)) for i in range(9)]
    inputs = {i: ModelInput(rng.normal(size=s).astype(np.float32), np.ones(s, bool)) for i, s in enumerate(shape)}
    records = tuple(Record(str(i), str(i), "train", Path("none.csv")) for i in range(9))
    data = TaskData(records, np.arange(9), np.full(9, np.nan), np.zeros(9), True, ())
    tiles = tiles_of(load_task("open-sex"), data, inputs, grid_of(adapter, module))
    label = {
        "binary": torch.arange(9) % 2.0,
        "survival": torch.stack([torch.arange(9.0) % 5 + 1, torch.tensor([1.0, 1, 0, 1, 1, 1, 0, 1, 1])], 1),
        "multilabel": torch.tensor([[1.0, 0], [0, 1], [0, 0]] * 3),
    }[kind]
    classes = {"binary": ("no", "yes"), "survival": (), "multilabel": ("a", "b")}[kind]
    network = Network(module, Head(HeadSpec(kind, classes), 130))
    with seeded(1):
        network.head.weight.data.normal_(0, 0.1)
    return Lesson(
        tiles, inputs, label, torch.randn(9, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([2.0, 0.5])
    ), network


def trained(kind: str, folder: str) -> dict[str, torch.Tensor]:
    lesson, network = lesson_of(kind)
    recipe = Recipe(1e-3, 0.75, epochs=2, batch=4, drop_path=0.5, class_weights=kind == "multilabel")

    def value(net: Network) -> float:
        logits = logits_of(net, lesson.tiles.train, lesson, recipe).double()
        return float(logits.var(0).mean())  # a Cox loss leaves a common shift to the rounding of its gradient

    root = Path(folder) / str(dist.get_rank() if dist.is_initialized() else "alone")
    run = tune(network, lesson, recipe, folder=root, value_of=value)
    numbers = [[h["loss"] or 0.0, h["value"]] for h in run.history]
    return {
        "history": torch.tensor(numbers, dtype=torch.float64),
        "files": torch.tensor(len(list(root.glob("*")))),
        "head": network.head.weight.detach(),
    }


@pytest.mark.parametrize("kind", ["binary", "survival", "multilabel"])
def test_two_processes_have_the_losses_of_one(kind: str, tmp_path: Path) -> None:
    alone = trained(kind, str(tmp_path))
    assert len(alone["history"]) == 3 and alone["files"] == 2
    for rank, one in enumerate(spread(2, tmp_path / "two", trained, kind, str(tmp_path))):
        torch.testing.assert_close(one["history"], alone["history"], rtol=0, atol=TOL_LOSS)
        torch.testing.assert_close(one["head"], alone["head"], rtol=0, atol=1e-5)
        assert one["files"] == (2 if rank == 0 else 0)


class _Plain(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv1d(12, 8, 100, stride=100), norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.norm(self.first(x))).transpose(1, 2)


def plain(norm: nn.Module) -> NetworkAdapter:
    with seeded(3):
        return NetworkAdapter(
            _Plain(norm), id="plain", contract=Contract(PRESETS["xecg"], 400, token=100), about="a test"
        )


PLAN = Plan((Recipe(1e-3, 1.0, epochs=2, batch=8), Recipe(1e-4, 1.0, epochs=2, batch=8)), seeds=2)


def scored(root: str, task_id: str, out: str) -> dict[str, torch.Tensor]:
    rank = dist.get_rank() if dist.is_initialized() else 9
    loaded = load_data(load_task(task_id), Path(root))
    result = run(
        loaded, plain(nn.Identity()), out=Path(out) / str(rank), protocol="finetune", plan=PLAN,
        cache=Path(out) / f"cache-{rank == 9}",
    )  # fmt: skip
    by_seed = [*result.protocol["test_by_seed"].values(), *result.protocol["validation_by_seed"].values()]
    return {"values": torch.tensor(by_seed), "headline": torch.tensor(result.headline["value"])}


@pytest.mark.parametrize("task_id", ["open-sex", "mitbih-rpeaks"])
def test_the_first_of_two_processes_writes_what_one_would(
    task_id: str, small_code15: Path, small_mitdb: Path, tmp_path: Path
) -> None:
    root = str(small_code15 if task_id == "open-sex" else small_mitdb)
    alone = scored(root, task_id, str(tmp_path))
    for one in spread(2, tmp_path / "two", scored, root, task_id, str(tmp_path)):
        torch.testing.assert_close(one["values"], alone["values"], rtol=0, atol=TOL_LOSS)
        torch.testing.assert_close(one["headline"], alone["headline"], rtol=0, atol=TOL_LOSS)
    assert [p.name for p in find_results(tmp_path)] == ["0", "9"]
    first, only = (read_result(p) for p in find_results(tmp_path))
    assert first.protocol["epoch_by_seed"] == only.protocol["epoch_by_seed"]
    assert first.protocol["lr_core"] == only.protocol["lr_core"]


def refused(root: str) -> dict[str, torch.Tensor]:
    loaded = load_data(load_task("open-sex"), Path(root))
    try:
        run(loaded, plain(nn.BatchNorm1d(8)), out=Path(root) / "none", protocol="finetune", plan=PLAN)
    except SpecError as error:
        return {"said": torch.tensor("BatchNorm1d" in str(error) and "one process" in str(error))}
    return {"said": torch.tensor(False)}


def test_what_parts_of_a_batch_would_change_is_refused(small_code15: Path, tmp_path: Path) -> None:
    assert all(one["said"] for one in spread(2, tmp_path / "two", refused, str(small_code15)))


def test_a_training_goes_on_with_another_number_of_processes(tmp_path: Path) -> None:
    alone = trained("binary", str(tmp_path / "whole"))
    spread(2, tmp_path / "two", trained, "binary", str(tmp_path))
    (tmp_path / "0").rename(tmp_path / "alone")
    again = trained("binary", str(tmp_path))  # done by two: read, not trained
    torch.testing.assert_close(again["history"], alone["history"], rtol=0, atol=TOL_LOSS)
    assert json.loads((tmp_path / "alone" / "done.json").read_text())["epoch"] == int(again["history"][:, 1].argmax())
