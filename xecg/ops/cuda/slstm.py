"""sLSTM on NVIDIA GPUs: csrc/cuda/slstm.cu. Not yet run on a GPU."""

from __future__ import annotations

import torch
from torch import Tensor

from xecg.ops._native import address
from xecg.ops.cuda import DTYPES, native, stream_of, why_not

__all__ = ["backward", "forward", "refusal", "step_"]


def refusal(device: torch.device, dtype: torch.dtype, *, d: int = 1) -> str:
    """Why this kernel cannot serve such a call, or ""."""
    reason = why_not(device, dtype)
    if not reason and d > native().slstm_max_units:
        reason = f"the kernel holds at most {native().slstm_max_units} units a head, not {d}"
    return reason


def _state(x: Tensor, first: tuple[Tensor | None, ...]) -> list[Tensor]:
    """Copies of the initial h, c, n, m (zero where absent) for a kernel to advance."""
    B, _, _, H, D = x.shape
    if any(s is None for s in first):
        return [x.new_zeros((B, H, D), dtype=torch.float32) for _ in first]
    return [s.to(torch.float32, memory_format=torch.contiguous_format, copy=True) for s in first if s is not None]


def _run(
    x: Tensor,
    R: Tensor,
    b: Tensor,
    state: list[Tensor],
    lengths: Tensor | None,
    *,
    reverse: bool,
    y: Tensor | None,
    tape: tuple[Tensor, ...] = (),
) -> None:
    """Advance `state` over x; write h into y (B, T, H, D) and what backward needs into the tape, where given."""
    B, T, _, H, D = x.shape
    R, b = R.contiguous(), b.contiguous()
    y_strides = (0, 0, 0) if y is None else y.stride()[:3]
    with torch.cuda.device(x.device):
        native().slstm_forward(
            B, T, H, D, address(lengths), reverse, DTYPES[x.dtype], address(x), *x.stride()[:4], address(R), DTYPES[R.dtype],
            address(b), DTYPES[b.dtype], *map(address, state), address(y), *y_strides, *map(address, tape or (None,) * 5),
            stream_of(x.device),
        )  # fmt: skip


def forward(
    x: Tensor,
    R: Tensor,
    b: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    n0: Tensor | None,
    m0: Tensor | None,
    lengths: Tensor | None,
    *,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As xecg.ops.reference.slstm.forward."""
    B, T, _, H, D = x.shape
    y = x.new_empty((B, T, H, D))
    state = _state(x, (h0, c0, n0, m0))
    _run(x, R, b, state, lengths, reverse=reverse, y=y)
    h, c, n, m = state
    return y, h, c, n, m


def backward(
    dy: Tensor,
    dh: Tensor | None,
    dc: Tensor | None,
    dn: Tensor | None,
    dm: Tensor | None,
    x: Tensor,
    R: Tensor,
    b: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    n0: Tensor | None,
    m0: Tensor | None,
    lengths: Tensor | None,
    *,
    reverse: bool,
) -> tuple[Tensor | None, ...]:
    """As xecg.ops.reference.slstm.backward: forward once more with a tape (8 floats a unit and step), back, then one product."""
    B, T, _, H, D = x.shape
    first = (h0, c0, n0, m0)
    gates = x.new_empty((B, T, 4, H, D), dtype=torch.float32)
    slope, *before = (x.new_empty((B, T, H, D), dtype=torch.float32) for _ in range(4))
    tape = (gates, slope, *before)
    _run(x, R, b, _state(x, first), lengths, reverse=reverse, y=None, tape=tape)
    dy = dy if dy.stride(-1) == 1 or D == 1 else dy.contiguous()
    carried = [_state(x, (d,))[0] for d in (dh, dc, dn, dm)]
    transposed = R.mT.contiguous()
    with torch.cuda.device(x.device):
        native().slstm_backward(
            B, T, H, D, address(lengths), reverse, DTYPES[dy.dtype], address(dy), *dy.stride()[:3], address(transposed),
            DTYPES[R.dtype], *map(address, tape), *map(address, carried), stream_of(x.device),
        )  # fmt: skip
    dR, db = _parameter_gradients(before[0], gates)
    return gates.to(x.dtype), dR, db, *((None,) * 4 if any(s is None for s in first) else carried)


def _parameter_gradients(h: Tensor, draw: Tensor) -> tuple[Tensor, Tensor]:
    """dR (4, H, D, D) and db (4, H, D) from h before each step (B, T, H, D) and d(gates) (B, T, 4, H, D), read where they lie."""
    per_head = h.flatten(0, 1).permute(1, 2, 0)
    by_gate = draw.flatten(0, 1).permute(1, 2, 0, 3)
    return torch.stack([torch.bmm(per_head, d) for d in by_gate]), draw.sum((0, 1))


def step_(x: Tensor, R: Tensor, b: Tensor, h: Tensor, c: Tensor, n: Tensor, m: Tensor, out: Tensor) -> None:
    """As xecg.ops.reference.slstm.step_; nothing is allocated for contiguous R and b."""
    B, _, H, D = x.shape
    R, b = R.contiguous(), b.contiguous()
    with torch.cuda.device(x.device):
        native().slstm_step(
            B, H, D, DTYPES[x.dtype], address(x), *x.stride()[:3], address(R), DTYPES[R.dtype], address(b), DTYPES[b.dtype],
            *map(address, (h, c, n, m, out)), stream_of(x.device),
        )  # fmt: skip
