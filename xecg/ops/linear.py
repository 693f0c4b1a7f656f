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
    """x (…, K) float32 or float64, weight (N, K), bias (N,), all of one type → (…, N).

    Differentiable; the gradient uses ordinary matrix products. Raises ShapeError for a wrong size, type, device or layout.
    """
    _check.tensor(_OP, "weight", weight, "(N, K)", (torch.float32, torch.float64))
    if x.dim() < 1 or x.shape[-1] != weight.shape[1]:
        _check.fail(_OP, "x", f"of shape {tuple(x.shape)}", f"(…, K) with K = {weight.shape[1]}")
    for name, t in (("x", x), ("bias", bias)):
        if t is not None and (t.dtype != weight.dtype or t.device != weight.device):
            _check.fail(_OP, name, f"{t.dtype} on {t.device}", f"{weight.dtype} on {weight.device}, like weight")
    if bias is not None:
        _check.like(_OP, "bias", bias, (weight.shape[0],), "(N,)", weight)
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    return torch.ops.xecg.linear(rows, weight, bias).reshape(*x.shape[:-1], weight.shape[0])


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return _dispatch.pick(_OP, x.device, x.dtype).forward(x, weight, bias)


def _fake(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty((x.shape[0], weight.shape[0]))


def _backward(dy: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return dy @ weight, dy.t() @ x, dy.sum(0)


def _backward_fake(dy: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(tuple(x.shape)), weight.new_empty(tuple(weight.shape)), weight.new_empty(weight.shape[0])


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias = inputs
    ctx.has_bias = bias is not None
    ctx.save_for_backward(x, weight)


def _gradient(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    dx, dw, db = torch.ops.xecg.linear_backward(dy, *ctx.saved_tensors)
    return dx, dw, db if ctx.has_bias else None


_register.define("linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor", _forward, _fake)
_register.define(
    "linear_backward(Tensor dy, Tensor x, Tensor weight) -> (Tensor, Tensor, Tensor)", _backward, _backward_fake
)
_register.differentiate("linear", _gradient, _save)
