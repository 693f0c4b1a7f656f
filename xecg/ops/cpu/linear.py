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
    y = torch.empty((x.shape[0], weight.shape[0]), dtype=torch.float32)
    native().linear(
        x.shape[0], weight.shape[0], weight.shape[1], address(x), x.stride(0), address(weight), address(bias), address(y),
        weight.shape[0],
    )  # fmt: skip
    return y
