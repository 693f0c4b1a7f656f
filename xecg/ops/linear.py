"""Batch-invariant linear map: a row's result does not depend, to the bit, on how many rows are computed with it.

    y = x Wᵀ + bias

A matrix product picks its blocking by the number of rows, so its rounding changes with the batch. Here each output sums over the
inputs in one fixed order (the `cpu` backend); on `reference` the same holds only to rounding. Made for live streams, where a
patient's output must not depend on who else is connected.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from xecg.ops import _check, _dispatch, _register

__all__ = ["linear"]

_OP = "linear"


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (…, K), weight (N, K), bias (N,) → (…, N); or block-diagonal: x (…, G, K), weight (G, N, K), bias (G, N) → (…, G, N).

    x: float32, bfloat16, float16 or float64; weight and bias in x's type or float32; the result has x's type. Differentiable; the
    gradient uses ordinary matrix products. Raises ShapeError for a wrong size, type, device or layout.
    """
    grouped = weight.dim() == 3
    _check.tensor(_OP, "weight", weight, "(G, N, K)" if grouped else "(N, K)")
    tail = (weight.shape[0], weight.shape[2]) if grouped else (weight.shape[1],)
    if tuple(x.shape[-len(tail) :]) != tail:
        _check.fail(_OP, "x", f"of shape {tuple(x.shape)}", f"(…, {'G, ' if grouped else ''}K) ending in {tail}")
    allowed = (x.dtype,) if x.dtype in (torch.float32, torch.float64) else (x.dtype, torch.float32)
    for name, t in (("weight", weight), ("bias", bias)):
        if t is not None and (t.dtype not in allowed or t.device != x.device):
            _check.fail(
                _OP, name, f"{t.dtype} on {t.device}", f"{' or '.join(map(str, allowed))} on {x.device}, like x"
            )
    if bias is not None:
        _check.like(_OP, "bias", bias, tuple(weight.shape[:-1]), "weight's shape without K", weight)
    lead = x.shape[: x.dim() - len(tail)]
    rows = x.reshape(math.prod(lead), weight.shape[0] if grouped else 1, weight.shape[-1])
    w, b = (weight, bias) if grouped else (weight[None], None if bias is None else bias[None])
    return torch.ops.xecg.linear(rows, w, b).reshape(*lead, *weight.shape[:-1])


def _pick(x: Tensor, weight: Tensor) -> Any:
    return _dispatch.pick(_OP, x.device, x.dtype, k=weight.shape[2], n=weight.shape[1])


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return _pick(x, weight).forward(x, weight, bias)


def _fake(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty((x.shape[0], weight.shape[0], weight.shape[1]))


def _backward(dy: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _pick(x, weight).backward(dy, x, weight)


def _backward_fake(dy: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(tuple(x.shape)), weight.new_empty(tuple(weight.shape)), weight.new_empty(tuple(weight.shape[:2]))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias = inputs
    ctx.save_for_backward(x, weight, bias)


def _gradient(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias = ctx.saved_tensors
    dx, dw, db = torch.ops.xecg.linear_backward(dy, x, weight)
    return dx, dw, _register.maybe(db, bias)


_register.define("linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor", _forward, _fake)
_register.define(
    "linear_backward(Tensor dy, Tensor x, Tensor weight) -> (Tensor, Tensor, Tensor)", _backward, _backward_fake
)
_register.differentiate("linear", _gradient, _save)
