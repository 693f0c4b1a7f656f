"""linear on the CPU: csrc/cpu/linear.h."""

from __future__ import annotations

import torch
from torch import Tensor

from xecg.ops._native import address
from xecg.ops.cpu import DTYPES, native, why_not
from xecg.ops.reference.linear import backward  # ordinary matrix products

__all__ = ["backward", "forward", "refusal"]


def refusal(device: torch.device, dtype: torch.dtype, *, k: int = 1, n: int = 1) -> str:
    """Why this kernel cannot serve such a call of any sizes k and n, or ""."""
    return why_not(device, dtype)


def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """As xecg.ops.reference.linear.forward."""
    x = x if x.stride(-1) == 1 else x.contiguous()
    weight = weight.contiguous()
    bias = None if bias is None else bias.float().contiguous()
    G, N, K = weight.shape
    y = torch.empty((x.shape[0], G, N), dtype=x.dtype)
    native().linear(
        x.shape[0], G, N, K, DTYPES[x.dtype], DTYPES[weight.dtype], address(x), x.stride(0), x.stride(1), address(weight),
        address(bias), address(y), G * N, N,
    )  # fmt: skip
    return y
