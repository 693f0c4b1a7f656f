"""Several processes, one run: what they share is summed, and every decision is made by all of them together.

A loss is a sum of shares, one a process (and one a micro-batch): every share is divided by the whole batch's count, so
that summed gradients are those of the joined batch, however it was cut. Started by `torchrun` (gloo on the CPU, nccl on
GPUs), or inside a process group that the caller has made; alone, everything here does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import sha256
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from xecg.errors import BackendError, CheckpointError

__all__ = ["Group", "current", "first_process", "joined"]

_PATIENCE = timedelta(hours=6)  # the first process may build the corpus while the others wait

_T = TypeVar("_T")


class _Sum(torch.autograd.Function):
    """The sum over processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _summed(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _summed(gradients[0])


def _summed(x: Tensor) -> Tensor:
    total = x.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


@dataclass(frozen=True)
class Group:
    """The processes of a run. rank: this one's number, 0 the one that writes. device: where its tensors are."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, items: Sequence[_T]) -> Sequence[_T]:
        """This process's part of a sequence; all parts, in the order of the ranks, are the sequence."""
        return items[self._part(len(items))]

    def _part(self, count: int) -> slice:
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def sum(self, x: Tensor) -> Tensor:
        """The sum of every process's x, with a gradient where x has one."""
        if self.size == 1:
            return x
        summed: Tensor = _Sum.apply(x)  # type: ignore[no-untyped-call]
        return summed

    def rows(self, own: Tensor, total: int) -> Tensor:
        """Every process's rows of a sequence of `total` that `share` has cut, in its order."""
        if self.size == 1:
            return own
        whole = own.new_zeros(total, *own.shape[1:])
        whole[self._part(total)] = own
        return _summed(whole)

    def any(self, fact: bool) -> bool:
        """Whether it holds on any process."""
        return bool(self.sum(torch.tensor(int(fact), device=self.device)) > 0)

    def sum_gradients_(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Replace every gradient by the sum over processes; one that is missing on all stays so."""
        if self.size == 1:
            return
        there = _summed(torch.tensor([int(p.grad is not None) for p in parameters], device=self.device)).tolist()
        parameters = [p for p, count in zip(parameters, there) if count]
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
        dist.all_reduce(flat)
        for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters])):
            parameter.grad = part.view_as(parameter)

    def same(self, what: str, text: str) -> None:
        """Raise CheckpointError, on all processes, unless `text` is the same on all."""
        mark = int(np.frombuffer(sha256(text.encode()).digest()[:7] + b"\0", "<i8")[0])
        marks = torch.tensor([mark, -mark], device=self.device)
        if self.size > 1:
            dist.all_reduce(marks, dist.ReduceOp.MAX)
        if int(marks.sum()):
            raise CheckpointError(
                f"process {self.rank} of {self.size} has {what} {text[:200]}, another has a different one; needed one run "
                "folder and one corpus that all of them see: put both on a shared file system"
            )


def current(device: str = "cpu") -> Group:
    """The process group that is there, or this process alone. device: "cuda" is the GPU of the process's local rank.

    Raises BackendError where there is no such device.
    """
    place = torch.device(device)
    if place.type == "cuda":
        index = int(os.environ.get("LOCAL_RANK", "0")) if place.index is None else place.index
        if index >= torch.cuda.device_count():
            raise BackendError(f"device is {device}; torch finds {torch.cuda.device_count()} GPUs here. Use 'cpu'")
        place = torch.device("cuda", index)
        torch.cuda.set_device(place)
    if dist.is_available() and dist.is_initialized():
        return Group(dist.get_rank(), dist.get_world_size(), place)
    return Group(device=place)


@contextmanager
def joined(device: str = "cpu") -> Iterator[Group]:
    """`current`, after joining the group that torchrun has set out for this process, if any; left at the end."""
    outer = int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ and not dist.is_initialized()
    current(device)  # nccl takes the GPU that is set; a wrong device is told before anybody waits
    if outer:
        dist.init_process_group("nccl" if torch.device(device).type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield current(device)
    finally:
        if outer:
            dist.destroy_process_group()


def first_process() -> bool:
    """Whether this process is the one that speaks, as torchrun has it."""
    return os.environ.get("RANK", "0") == "0"
