"""The norm with skip and gate in plain PyTorch, and its gradient."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["backward", "forward"]


def forward(
    x: Tensor, weight: Tensor, skip: Tensor | None, skip_weight: Tensor | None, gate: Tensor | None, *, eps: float
) -> Tensor:
    """x (rows, H, D), weight and skip_weight (H·D,), skip and gate (rows, H·D) → (rows, H·D) in skip's type, else x's."""
    y = _inside(_unit(_wide(x), eps)[0], weight, skip, skip_weight)
    if gate is not None:
        z = _wide(gate)
        y = y * z * torch.sigmoid(z)
    return y.to(x.dtype if skip is None else skip.dtype)


def backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    skip: Tensor | None,
    skip_weight: Tensor | None,
    gate: Tensor | None,
    *,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weight, skip, skip_weight, gate; empty for absent ones, float32 at least for the weights."""
    unit, scale = _unit(_wide(x), eps)
    absent = x.new_empty(0)
    dt, dgate, dskip, dskip_weight = _wide(dy), absent, absent, unit.new_empty(0)
    if gate is not None:
        z = _wide(gate)
        s = torch.sigmoid(z)
        dgate = (dt * _inside(unit, weight, skip, skip_weight) * s * (1 + z * (1 - s))).to(gate.dtype)
        dt = dt * z * s
    if skip is not None:
        dskip = (dt if skip_weight is None else dt * _wide(skip_weight)).to(skip.dtype)
        if skip_weight is not None:
            dskip_weight = (dt * _wide(skip)).sum(0)
    dweight = (dt * unit.flatten(1)).sum(0)
    dunit = (dt * (1 + _wide(weight))).view_as(unit)
    along = (dunit * unit).mean(-1, keepdim=True)
    dx = scale * (dunit - dunit.mean(-1, keepdim=True) - unit * along)
    return dx.to(x.dtype), dweight, dskip, dskip_weight, dgate


def _unit(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x with mean 0 and variance 1 in each head, and what it was scaled by."""
    centred = x - x.mean(-1, keepdim=True)
    scale = (centred.square().mean(-1, keepdim=True) + eps).rsqrt()
    return centred * scale, scale


def _inside(unit: Tensor, weight: Tensor, skip: Tensor | None, skip_weight: Tensor | None) -> Tensor:
    """The result before the gate."""
    t = unit.flatten(1) * (1 + _wide(weight))
    if skip is None:
        return t
    return t + _wide(skip) if skip_weight is None else t + _wide(skip) * _wide(skip_weight)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
