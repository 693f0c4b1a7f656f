"""sLSTM on the CPU: csrc/cpu/slstm.h, csrc/cpu/slstm_backward.h."""

from __future__ import annotations

import torch
from torch import Tensor

from xecg.ops._native import address
from xecg.ops.cpu import DTYPES, native, why_not

__all__ = ["backward", "forward", "refusal", "step_"]


def refusal(device: torch.device, dtype: torch.dtype, *, d: int = 1) -> str:
    """Why this kernel cannot serve such a call, or ""."""
    reason = why_not(device, dtype)
    if not reason and d > native().slstm_max_units:
        reason = f"the kernel holds at most {native().slstm_max_units} units a head, not {d}"
    return reason


def _plain(x: Tensor) -> Tensor:
    return x if x.dtype is torch.float32 and x.is_contiguous() else x.float().contiguous()


def _state(x: Tensor, first: tuple[Tensor | None, ...]) -> list[Tensor]:
    """Copies of the initial h, c, n, m (zero where absent) for a kernel to advance."""
    B, _, _, H, D = x.shape
    if any(s is None for s in first):
        return [torch.zeros((B, H, D), dtype=torch.float32) for _ in first]
    return [s.to(torch.float32, memory_format=torch.contiguous_format, copy=True) for s in first if s is not None]


def _packed(R: Tensor, *, transposed: bool = False) -> Tensor:
    """R (float32, contiguous) in the kernel's panels."""
    _, H, D, _ = R.shape
    panels = torch.empty(native().slstm_packed_size(H, D), dtype=torch.float32)
    native().slstm_pack(R.data_ptr(), H, D, transposed, panels.data_ptr())
    return panels


def _panels(R: Tensor, rows: int) -> Tensor | None:
    """Panels, or None where the kernel had better read R as it is. Never kept: R may change unseen between two calls."""
    plain = rows < native().slstm_pack_rows and native().slstm_reads_plain(R.shape[-1])
    return None if plain else _packed(R)


def _run(
    x: Tensor,
    R: Tensor,
    b: Tensor,
    state: list[Tensor] | tuple[Tensor, ...],
    lengths: Tensor | None,
    *,
    reverse: bool,
    y: Tensor | None,
    tape: tuple[Tensor, ...] = (),
) -> None:
    """Advance `state` over x; write h into y (B, T, H, D) and what backward needs into the tape, where given."""
    B, T, _, H, D = x.shape
    R, b = _plain(R), _plain(b)
    packed = _panels(R, B * T)
    y_strides = (0, 0, 0) if y is None else y.stride()[:3]
    native().slstm_forward(
        B, T, H, D, address(lengths), reverse, DTYPES[x.dtype], address(x), *x.stride()[:4], address(R), address(b),
        address(packed), *map(address, state), address(y), *y_strides, *map(address, tape or (None,) * 5),
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
    y = torch.empty((B, T, H, D), dtype=x.dtype)
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
    """As xecg.ops.reference.slstm.backward: the forward pass once more with a tape (8 floats a unit and step), then back."""
    B, T, _, H, D = x.shape
    first = (h0, c0, n0, m0)
    gates = torch.empty((B, T, 4, H, D), dtype=torch.float32)
    tape = (gates, *(torch.empty((B, T, H, D), dtype=torch.float32) for _ in range(4)))
    _run(x, R, b, _state(x, first), lengths, reverse=reverse, y=None, tape=tape)
    dy = dy if dy.stride(-1) == 1 or D == 1 else dy.contiguous()
    carried = [_state(x, (d,))[0] for d in (dh, dc, dn, dm)]
    dR, db = (torch.empty(p.shape, dtype=torch.float32) for p in (R, b))
    packed = _packed(_plain(R), transposed=True)
    native().slstm_backward(
        B, T, H, D, address(lengths), reverse, DTYPES[dy.dtype], address(dy), *dy.stride()[:3], address(packed),
        *map(address, tape), *map(address, carried), address(dR), address(db),
    )  # fmt: skip
    dx = gates.to(x.dtype)
    return dx, dR, db, *((None,) * 4 if any(s is None for s in first) else carried)


def step_(x: Tensor, R: Tensor, b: Tensor, h: Tensor, c: Tensor, n: Tensor, m: Tensor, out: Tensor) -> None:
    """As xecg.ops.reference.slstm.step_."""
    B, _, H, D = x.shape
    R, b = _plain(R), _plain(b)
    packed = _panels(R, B)
    x_b, x_g, x_h, _ = x.stride()
    native().slstm_step(
        B, H, D, DTYPES[x.dtype], x.data_ptr(), x_b, x_g, x_h, R.data_ptr(), b.data_ptr(), address(packed), h.data_ptr(),
        c.data_ptr(), n.data_ptr(), m.data_ptr(), out.data_ptr(),
    )  # fmt: skip
