"""norm on the CPU: csrc/cpu/norm.h."""

from __future__ import annotations

import torch
from torch import Tensor

from xecg.ops._native import address
from xecg.ops.cpu import DTYPES, native, why_not

__all__ = ["backward", "forward", "refusal"]


def refusal(device: torch.device, dtype: torch.dtype, *, d: int = 1) -> str:
    """Why this kernel cannot serve such a call of any head size d, or ""."""
    return why_not(device, dtype)


def _plain(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.float().contiguous()


def _row(t: Tensor | None) -> int:
    return 0 if t is None else t.stride(0)


def _arguments(
    x: Tensor, weight: Tensor, skip: Tensor | None, skip_weight: Tensor | None, gate: Tensor | None, eps: float
) -> tuple[int | float, ...]:
    outer = x.dtype if skip is None else skip.dtype
    return (
        *x.shape, eps, DTYPES[x.dtype], DTYPES[outer], address(x), x.stride(0), x.stride(1), address(weight), address(skip),
        _row(skip), address(skip_weight), address(gate), _row(gate),
    )  # fmt: skip


def forward(
    x: Tensor, weight: Tensor, skip: Tensor | None, skip_weight: Tensor | None, gate: Tensor | None, *, eps: float
) -> Tensor:
    """As xecg.ops.reference.norm.forward."""
    rows, H, D = x.shape
    y = torch.empty((rows, H * D), dtype=x.dtype if skip is None else skip.dtype)
    weight, skip_weight = _plain(weight), _plain(skip_weight)  # type: ignore[assignment]
    native().norm_forward(*_arguments(x, weight, skip, skip_weight, gate, eps), address(y))
    return y


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
    """As xecg.ops.reference.norm.backward."""
    (rows, H, D), n = x.shape, weight.shape[0]
    dy = dy if dy.stride(-1) == 1 or n == 1 else dy.contiguous()
    dx = torch.empty((rows, H, D), dtype=x.dtype)
    dskip = torch.empty(0 if skip is None else (rows, n), dtype=dy.dtype)
    dgate = torch.empty(0 if gate is None else (rows, n), dtype=x.dtype)
    dweight = torch.empty(n, dtype=torch.float32)
    dskip_weight = torch.empty(0 if skip_weight is None else n, dtype=torch.float32)
    partials = torch.empty((-(-rows // native().norm_chunk_rows), 3, n), dtype=torch.float32)
    weight, skip_weight = _plain(weight), _plain(skip_weight)  # type: ignore[assignment]
    native().norm_backward(
        *_arguments(x, weight, skip, skip_weight, gate, eps), address(dy), dy.stride(0), address(dx), address(dskip),
        address(dgate), address(partials), address(dweight), 0 if skip_weight is None else address(dskip_weight),
    )  # fmt: skip
    return dx, dweight, dskip, dskip_weight, dgate
