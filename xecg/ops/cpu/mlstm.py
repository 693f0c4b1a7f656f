"""mlstm on the CPU: csrc/cpu/mlstm.h, mlstm_backward.h, mlstm_step.h."""

from __future__ import annotations

import torch
from torch import Tensor

from xecg.ops._native import address
from xecg.ops.cpu import DTYPES, native, why_not

__all__ = ["backward", "forward", "refusal", "step_"]


def refusal(device: torch.device, dtype: torch.dtype, *, dk: int = 1, dv: int = 1) -> str:
    """Why this kernel cannot serve such a call, or ""."""
    reason, widest = why_not(device, dtype), 0
    if not reason:
        widest = native().mlstm_widest_head
    if not reason and max(dk, dv) > widest:
        reason = f"the kernel holds heads of at most {widest} features, not {max(dk, dv)}"
    return reason


def _view(x: Tensor | None) -> tuple[int, int, int, int]:
    """Address and strides of batch, time and head."""
    return (0, 0, 0, 0) if x is None else (x.data_ptr(), x.stride(0), x.stride(1), x.stride(2))


def _state(*tensors: Tensor | None) -> tuple[int, ...]:
    return tuple(address(t) for t in tensors)


def _plain(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.float().contiguous()


def _sizes(q: Tensor, v: Tensor) -> tuple[int, ...]:
    return *q.shape, v.shape[-1]


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i: Tensor,
    f: Tensor,
    C0: Tensor | None,
    n0: Tensor | None,
    m0: Tensor | None,
    lengths: Tensor | None,
    *,
    reverse: bool,
    gate: str,
    scale: float,
    eps: float,
    chunk_size: int | None = None,
    want_state: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As xecg.ops.reference.mlstm.forward. Without want_state, C, n, m come back empty and the last state is never made."""
    B, T, H, DK, DV = sizes = _sizes(q, v)
    h = torch.empty((B, T, H, DV), dtype=v.dtype)
    shapes = ((B, H, DK, DV), (B, H, DK), (B, H)) if want_state else ((0,),) * 3
    C, n, m = (torch.empty(shape, dtype=torch.float32) for shape in shapes)
    i, f = i.float(), f.float()
    first = [_plain(x) for x in (C0, n0, m0)]
    native().mlstm_forward(
        sizes, address(lengths), reverse, gate == "sig", scale, eps, chunk_size or 0, DTYPES[v.dtype], _view(q), _view(k),
        _view(v), _view(i), _view(f), _view(h), _state(*first), _state(C, n, m) if want_state else (0, 0, 0),
    )  # fmt: skip
    return h, C, n, m


def backward(
    dh: Tensor,
    dC: Tensor | None,
    dn: Tensor | None,
    dm: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i: Tensor,
    f: Tensor,
    C0: Tensor | None,
    n0: Tensor | None,
    m0: Tensor | None,
    lengths: Tensor | None,
    *,
    reverse: bool,
    gate: str,
    scale: float,
    eps: float,
    chunk_size: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """As xecg.ops.reference.mlstm.backward; nothing is spent on the final state when dC, dn and dm are all None."""
    B, _, H, DK, DV = sizes = _sizes(q, v)
    dh = dh if dh.stride(-1) == 1 else dh.contiguous()
    dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype) for x in (q, k, v))
    di, df = (torch.empty(x.shape, dtype=torch.float32) for x in (i, f))
    wanted = C0 is not None and n0 is not None and m0 is not None
    first, wide_i, wide_f = [_plain(x) for x in (C0, n0, m0)], i.float(), f.float()
    ends = ((dC, (B, H, DK, DV)), (dn, (B, H, DK)), (dm, (B, H)))
    unused = dC is None and dn is None and dm is None
    last = [
        None if unused else torch.zeros(shape, dtype=torch.float32) if x is None else _plain(x) for x, shape in ends
    ]
    d_first = [torch.empty_like(x) for x in first if x is not None] if wanted else [None, None, None]
    native().mlstm_backward(
        sizes, address(lengths), reverse, gate == "sig", scale, eps, chunk_size or 0, DTYPES[v.dtype], _view(dh), _view(q),
        _view(k), _view(v), _view(wide_i), _view(wide_f), _state(*last), _state(*first), _view(dq), _view(dk), _view(dv),
        _view(di), _view(df), _state(*d_first),
    )  # fmt: skip
    return dq, dk, dv, di.to(i.dtype), df.to(f.dtype), d_first[0], d_first[1], d_first[2]


def step_(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i: Tensor,
    f: Tensor,
    C: Tensor,
    n: Tensor,
    m: Tensor,
    out: Tensor,
    *,
    gate: str,
    scale: float,
    eps: float,
) -> None:
    """As xecg.ops.reference.mlstm.step_, reading and writing C once."""
    (B, H, DK), DV = q.shape, v.shape[-1]
    i, f = i.float(), f.float()
    native().mlstm_step(
        B, H, DK, DV, gate == "sig", scale, eps, DTYPES[v.dtype], q.data_ptr(), q.stride(0), q.stride(1), k.data_ptr(),
        k.stride(0), k.stride(1), v.data_ptr(), v.stride(0), v.stride(1), i.data_ptr(), i.stride(0), i.stride(1), f.data_ptr(),
        f.stride(0), f.stride(1), C.data_ptr(), n.data_ptr(), m.data_ptr(), out.data_ptr(),
    )  # fmt: skip
