"""causal_conv1d on the CPU: csrc/cpu/conv1d.h."""

from __future__ import annotations

import torch
from torch import Tensor

from xecg.ops._native import address
from xecg.ops.cpu import DTYPES, native, why_not

__all__ = ["backward", "forward", "refusal", "step_"]


def refusal(device: torch.device, dtype: torch.dtype, *, taps: int = 1) -> str:
    """Why this kernel cannot serve such a call, or ""."""
    reason = why_not(device, dtype)
    if not reason and taps > native().conv1d_max_taps:
        reason = f"the kernel holds at most {native().conv1d_max_taps} taps, not {taps}"
    return reason


def _plain(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.float().contiguous()


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
    """As xecg.ops.reference.conv1d.forward."""
    (B, T, C), K = x.shape, weight.shape[1]
    y = torch.empty((B, T, C), dtype=x.dtype)
    last = torch.empty((B, K - 1, C), dtype=torch.float32)
    weight, bias, state = _plain(weight), _plain(bias), _plain(state)  # type: ignore[assignment]
    native().conv1d_forward(
        B, T, C, K, address(lengths), reverse, silu, DTYPES[x.dtype], address(x), x.stride(0), x.stride(1), address(weight),
        address(bias), address(state), address(y), y.stride(0), y.stride(1), address(last),
    )  # fmt: skip
    return y, last


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
    """As xecg.ops.reference.conv1d.backward."""
    (B, T, C), K = x.shape, weight.shape[1]
    dy = dy if dy.stride(-1) == 1 or C == 1 else dy.contiguous()
    dx = torch.empty((B, T, C), dtype=x.dtype)
    dw = torch.empty((C, K), dtype=torch.float32)
    db = torch.empty(C if bias is not None else 0, dtype=torch.float32)
    dfirst = torch.empty((B, K - 1, C) if state is not None else 0, dtype=torch.float32)
    weight, dstate, state, wide_bias = _plain(weight), _plain(dstate), _plain(state), _plain(bias)  # type: ignore[assignment]
    native().conv1d_backward(
        B, T, C, K, address(lengths), reverse, silu, DTYPES[x.dtype], address(x), x.stride(0), x.stride(1), address(dy),
        dy.stride(0), dy.stride(1), address(weight), address(wide_bias), address(state), address(dstate), address(dx),
        dx.stride(0), dx.stride(1), address(dw), address(db) if bias is not None else 0,
        address(dfirst) if state is not None else 0,
    )  # fmt: skip
    return dx, dw, db, dfirst


def step_(x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor, out: Tensor, *, silu: bool) -> None:
    """As xecg.ops.reference.conv1d.step_; the kernel reads a state row before it overwrites it."""
    B, C = x.shape
    weight, bias = _plain(weight), _plain(bias)  # type: ignore[assignment]
    native().conv1d_forward(
        B, 1, C, weight.shape[1], 0, False, silu, DTYPES[x.dtype], address(x), x.stride(0), 0, address(weight), address(bias),
        address(state), address(out), out.stride(0), 0, address(state),
    )  # fmt: skip
