"""linear on the CPU: csrc/cpu/linear.h."""

from __future__ import annotations

import torch
from torch import Tensor

from xecg.ops._native import address
from xecg.ops.cpu import native, why_not

__all__ = ["forward", "refusal"]


def refusal(device: torch.device, dtype: torch.dtype) -> str:
    """Why this kernel cannot serve such a call, or ""."""
    return why_not(device, dtype, (torch.float32,))


def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """As xecg.ops.reference.linear.forward."""
    x = x if x.stride(-1) == 1 else x.contiguous()
    weight = weight.contiguous()
    bias = None if bias is None else bias.contiguous()
    G, N, K = weight.shape
    y = torch.empty((x.shape[0], G, N), dtype=torch.float32)
    native().linear(
        x.shape[0], G, N, K, address(x), x.stride(0), x.stride(1), address(weight), address(bias), address(y), G * N, N
    )
    return y
