"""Gated product: the activation of one half of a projection times the other half, as feed-forward and output gates use it.

    y = act(a) ⊙ b,   act = SiLU (x σ(x)) or exact GELU (x Φ(x))

One pass over memory; a and b may be the two halves of a fused projection, without a copy. An element's bits depend on its own inputs
only (PyTorch's SiLU and GELU differ in the last bit between the body and the tail of a loop).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from xecg.ops import _check, _dispatch, _register

__all__ = ["gated"]

_OP = "gated"
_ACTIVATIONS = ("silu", "gelu")


def gated(a: Tensor, b: Tensor, *, activation: str) -> Tensor:
    """a, b (…, N) of one type and shape → act(a) ⊙ b, contiguous. activation: "silu" or "gelu".

    float32, bfloat16, float16 or float64; last dimension contiguous. Raises ShapeError for a wrong size, type, device or layout.
    """
    if activation not in _ACTIVATIONS:
        _check.fail(_OP, "activation", repr(activation), "'silu' or 'gelu'")
    for name, t in (("a", a), ("b", b)):
        if not isinstance(t, Tensor) or t.dim() < 1 or t.dtype not in _check.FLOATS:
            _check.fail(_OP, name, getattr(t, "dtype", type(t).__name__), "a floating tensor (…, N)")
        if t.shape[-1] > 1 and t.stride(-1) != 1 and t.numel() > 0:
            _check.fail(_OP, name, f"strided {t.stride()} in memory", "a contiguous last dimension; call .contiguous()")
    _check.like(_OP, "b", b, tuple(a.shape), "a's shape", a)
    if b.dtype != a.dtype:
        _check.fail(_OP, "b", f"of type {b.dtype}", f"{a.dtype}, like a")
    shape = (math.prod(a.shape[:-1]), a.shape[-1])
    return torch.ops.xecg.gated(a.reshape(shape), b.reshape(shape), activation == "gelu").view(a.shape)


def _forward(a: Tensor, b: Tensor, gelu: bool) -> Tensor:
    return _dispatch.pick(_OP, a.device, a.dtype).forward(a, b, gelu=gelu)


def _fake(a: Tensor, b: Tensor, gelu: bool) -> Tensor:
    return a.new_empty(tuple(a.shape))


def _backward(dy: Tensor, a: Tensor, b: Tensor, gelu: bool) -> tuple[Tensor, Tensor]:
    return _dispatch.pick(_OP, a.device, a.dtype).backward(dy, a, b, gelu=gelu)


def _backward_fake(dy: Tensor, a: Tensor, b: Tensor, gelu: bool) -> tuple[Tensor, Tensor]:
    return a.new_empty(tuple(a.shape)), a.new_empty(tuple(a.shape))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    a, b, ctx.gelu = inputs
    ctx.save_for_backward(a, b)


def _gradient(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    return *torch.ops.xecg.gated_backward(dy, *ctx.saved_tensors, ctx.gelu), None


_register.define("gated(Tensor a, Tensor b, bool gelu) -> Tensor", _forward, _fake)
_register.define(
    "gated_backward(Tensor dy, Tensor a, Tensor b, bool gelu) -> (Tensor, Tensor)", _backward, _backward_fake
)
_register.differentiate("gated", _gradient, _save)
