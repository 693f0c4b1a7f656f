"""Argument checks at the Python border: once per call, never in loops."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from xecg.errors import ShapeError

__all__ = ["apart", "fail", "like", "lengths_of", "one_step", "tensor"]

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def fail(op: str, argument: str, got: object, needed: str) -> None:
    """Raise the one form of ShapeError: argument, got, expected."""
    raise ShapeError(f"{op}: {argument} is {got}; needed {needed}")


def tensor(op: str, argument: str, x: Tensor, form: str, types: tuple[torch.dtype, ...] = FLOATS) -> None:
    """x is a tensor of the rank that `form` spells, such as "(B, T, C)", of a floating type, with a contiguous last dimension."""
    if not isinstance(x, Tensor):
        fail(op, argument, type(x).__name__, f"a tensor {form}")
    if x.dim() != form.count(",") + 1:
        fail(op, argument, f"of shape {tuple(x.shape)}", form)
    if x.dtype not in types:
        fail(op, argument, f"of type {x.dtype}", " or ".join(str(t) for t in types))
    if x.shape[-1] > 1 and x.stride(-1) != 1 and x.numel() > 0:
        fail(op, argument, f"strided {x.stride()} in memory", "a contiguous last dimension; call .contiguous()")


def like(op: str, argument: str, x: Tensor, shape: tuple[int, ...], form: str, beside: Tensor) -> None:
    """x has exactly `shape` (written as `form`) and lives where `beside` lives."""
    if not isinstance(x, Tensor):
        fail(op, argument, type(x).__name__, f"a tensor {form}")
    if tuple(x.shape) != shape:
        fail(op, argument, f"of shape {tuple(x.shape)}", f"{form} = {shape}")
    if x.device != beside.device:
        fail(op, argument, f"on {x.device}", f"{beside.device}, like the input")


def lengths_of(op: str, lengths: Tensor | None, batch: int, steps: int, beside: Tensor) -> Tensor | None:
    """lengths (B,) int as int64 on the input's device, each in 0..T (not looked at while compiling or on a GPU without sync)."""
    if lengths is None:
        return None
    if not isinstance(lengths, Tensor) or lengths.dtype not in (
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
    ):
        fail(op, "lengths", getattr(lengths, "dtype", type(lengths).__name__), "an integer tensor (B,)")
    if tuple(lengths.shape) != (batch,):
        fail(op, "lengths", f"of shape {tuple(lengths.shape)}", f"(B,) = ({batch},)")
    if not torch.compiler.is_compiling() and batch > 0:
        inside = ((lengths >= 0) & (lengths <= steps)).all()
        if lengths.device.type == "cpu":
            if not inside:
                fail(op, "lengths", f"{lengths.tolist()}", f"whole numbers in 0..T = {steps}")
        else:
            torch._assert_async(inside)
    return lengths.to(device=beside.device, dtype=torch.int64)


def one_step(x: Tensor) -> Tensor:
    """x with a time dimension of one step after the first; what is no tensor comes back, for `tensor` to refuse."""
    return x.unsqueeze(1) if isinstance(x, Tensor) and x.dim() > 0 else x


def apart(op: str, written: Mapping[str, Tensor], read: Mapping[str, Tensor | None]) -> None:
    """Tensors that are overwritten hold what they mean and share no memory with another of the call, as far as contiguous ones tell."""
    if torch.compiler.is_compiling():
        return
    for name, own in written.items():
        if own.is_neg():
            fail(
                op,
                name,
                "a view that negates what is in memory",
                "a tensor of its own: it is overwritten; call .resolve_neg()",
            )
    spans: dict[str, tuple[int, int]] = {}
    for name, t in (*read.items(), *written.items()):
        plain = type(t) in (Tensor, torch.nn.Parameter) and t is not None and t.device.type != "meta"
        if t is None or not plain or not t.is_contiguous() or not t.numel():
            continue
        begin = t.data_ptr()
        end = begin + t.numel() * t.element_size()
        for other, (first, last) in spans.items():
            if begin < last and first < end and (name in written or other in written):
                fail(op, name, f"in the memory of {other}", f"memory of its own: {', '.join(written)} are overwritten")
        spans[name] = (begin, end)
