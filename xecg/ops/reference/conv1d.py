"""Causal depthwise convolution in plain PyTorch: the definition (xecg.ops.conv1d has the equation), and its exact gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from xecg.ops.reference._timeline import Timeline

__all__ = ["backward", "forward", "step_"]


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor | None,
    lengths: Tensor | None,
    *,
    silu: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """x (B, T, C) → y (B, T, C) in x's type, final state (B, K−1, C) in float32 or float64."""
    time = Timeline.of(x.shape[0], x.shape[1], lengths, reverse=reverse, device=x.device)
    past = _with_past(time.take(_wide(x)), weight, state)
    y = _convolve(past, weight, bias)
    y = y * torch.sigmoid(y) if silu else y
    return time.put(y).to(x.dtype).contiguous(), _last(past, weight, lengths, x.shape[1])


def backward(
    dy: Tensor,
    dstate: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor | None,
    lengths: Tensor | None,
    *,
    silu: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weight, bias and initial state; an empty tensor for an absent one."""
    B, T, K = x.shape[0], x.shape[1], weight.shape[1]
    time = Timeline.of(B, T, lengths, reverse=reverse, device=x.device)
    past = _with_past(time.take(_wide(x)), weight, state)
    g = time.take(_wide(dy))
    if silu:
        y = _convolve(past, weight, bias)
        s = torch.sigmoid(y)
        g = g * s * (1 + y * (1 - s))
        g = torch.where(time.valid[..., None], g, 0.0) if time.valid is not None else g
    w = _wide(weight)
    dpast = torch.zeros_like(past)
    for j in range(K):
        dpast[:, j : j + T] += w[:, j] * g
    if K > 1:
        dpast.scatter_add_(1, _last_index(past, K, lengths, T), _wide(dstate))
    dw = torch.stack([(past[:, j : j + T] * g).sum((0, 1)) for j in range(K)], 1)
    dx = time.put(dpast[:, K - 1 :]).to(x.dtype).contiguous()
    db = g.sum((0, 1)) if bias is not None else dw.new_empty(0)
    return dx, dw, db, dpast[:, : K - 1].contiguous() if state is not None else dw.new_empty(0)


def step_(x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor, out: Tensor, *, silu: bool) -> None:
    """One step in place: x (B, C) → out (B, C), state overwritten."""
    y, new = forward(x.unsqueeze(1), weight, bias, state, None, silu=silu, reverse=False)
    out.copy_(y.squeeze(1))
    state.copy_(new)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _with_past(x: Tensor, weight: Tensor, state: Tensor | None) -> Tensor:
    """(B, K−1+T, C): the inputs behind their predecessors."""
    first = x.new_zeros(x.shape[0], weight.shape[1] - 1, x.shape[2]) if state is None else state.to(x.dtype)
    return torch.cat([first, x], 1)


def _convolve(past: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    w = _wide(weight)
    T = past.shape[1] - w.shape[1] + 1
    y = sum(w[:, j] * past[:, j : j + T] for j in range(w.shape[1]))
    return y if bias is None else y + _wide(bias)  # type: ignore[return-value]


def _last_index(past: Tensor, K: int, lengths: Tensor | None, T: int) -> Tensor:
    end = torch.full((past.shape[0],), T, device=past.device) if lengths is None else lengths
    index = end[:, None] + torch.arange(K - 1, device=past.device)
    return index[..., None].expand(-1, -1, past.shape[2])


def _last(past: Tensor, weight: Tensor, lengths: Tensor | None, T: int) -> Tensor:
    return past.gather(1, _last_index(past, weight.shape[1], lengths, T))
