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
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from xecg.errors import BackendError, CheckpointError

__all__ = ["Gradients", "Group", "current", "first_process", "joined"]

_PATIENCE = timedelta(hours=6)  # the first process may build the corpus while the others wait

_BUCKETS = 8  # of gradients: the sum of the first begins when an eighth is there

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

    def of_first(self, data: bytes | None) -> bytes | None:
        """What the first process gives, on all of them; what the others give is not looked at."""
        if self.size == 1:
            return data
        length = -1 if data is None else len(data)
        length = int(_summed(torch.tensor(length if self.first else 0, device=self.device)))
        if length < 1:
            return None if length < 0 else b""
        whole = torch.zeros(length, dtype=torch.uint8, device=self.device)
        if self.first and data is not None:
            whole.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        dist.broadcast(whole, 0)
        return whole.cpu().numpy().tobytes()

    def any(self, fact: bool) -> bool:
        """Whether it holds on any process."""
        return bool(self.sum(torch.tensor(int(fact), device=self.device)) > 0)

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


class Gradients:
    """Sums gradients over processes while the rest of `backward` is still computed.

    parameters: those whose gradients are whole first, first. They are cut into buckets; a bucket's sum begins when each of its
    gradients has come from every micro-batch, and never before that of the bucket in front, so that all processes begin them in
    one order. A step is `expect`, the backward passes, `finish`. No bucket may begin before other sums of the same backward pass:
    here the last block's gradients, which the first bucket holds, need the gradient of the coding rate, which is such a sum.
    """

    def __init__(self, group: Group, parameters: Sequence[torch.nn.Parameter]) -> None:
        self._buckets = [_Bucket(part) for part in _cut(parameters)] if group.size > 1 else []
        self._of = {p: bucket for bucket in self._buckets for p in bucket.parameters}
        self._hooks = [p.register_post_accumulate_grad_hook(self._came) for p in self._of]
        self._pieces = self.begun = 0

    def __enter__(self) -> Gradients:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()

    def expect(self, pieces: int) -> None:
        """Gradients of a step will come from so many micro-batches."""
        self._pieces, self.begun = pieces, 0
        for bucket in self._buckets:
            bucket.expect(pieces)

    def finish(self) -> None:
        """Replace every gradient by the sum over processes; one that is missing on all stays so."""
        for bucket in self._buckets[self.begun :]:  # a parameter that took no part in a micro-batch of this process
            bucket.begin()
        for bucket in self._buckets:
            bucket.finish()

    def _came(self, parameter: torch.nn.Parameter) -> None:
        self._of[parameter].waiting -= 1
        while self.begun < len(self._buckets) and not self._buckets[self.begun].waiting:
            self._buckets[self.begun].begin()
            self.begun += 1


class _Bucket:
    """waiting: gradients that have not come. One number a parameter is summed beside them: on how many processes it has one."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        self.parameters, self.waiting = parameters, 0

    def expect(self, pieces: int) -> None:
        self.waiting = pieces * len(self.parameters)

    def begin(self) -> None:
        first = self.parameters[0]
        there = torch.tensor([float(p.grad is not None) for p in self.parameters], dtype=first.dtype)
        parts = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in self.parameters]
        self._flat = torch.cat([*parts, there.to(first.device)]).detach()
        self._work = dist.all_reduce(self._flat, async_op=True)

    def finish(self) -> None:
        self._work.wait()
        *parts, there = self._flat.split([*(p.numel() for p in self.parameters), len(self.parameters)])
        for parameter, part, count in zip(self.parameters, parts, there.tolist()):
            if count:
                parameter.grad = part.view_as(parameter)


def _cut(parameters: Sequence[torch.nn.Parameter]) -> Iterator[list[torch.nn.Parameter]]:
    """About `_BUCKETS` parts of about one size, in order."""
    whole = [p for p in parameters if p.requires_grad]
    size = sum(p.numel() for p in whole) / _BUCKETS
    part: list[torch.nn.Parameter] = []
    for parameter in whole:
        part.append(parameter)
        if sum(p.numel() for p in part) >= size:
            yield part
            part = []
    if part:
        yield part


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
