"""One mLSTM time step in Triton, in place: C is read and written once. Not yet run on a GPU."""
# mypy: allow-untyped-defs

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from xecg.ops.triton import _mlstm_configs as configs
from xecg.ops.triton._mlstm_forward import device_of
from xecg.ops.triton._mlstm_tiles import (
    LOWEST,
    finite,
    first_top,
    held_of,
    load_tile,
    log_sigmoid,
    normaliser,
    state_tile,
)

__all__ = ["memory_kernel", "normal_kernel", "step_"]


@triton.jit
def _decay_and_gain(i, f, m, s, DK: tl.constexpr, EXP: tl.constexpr):
    """F, I and the new m of one stream, and how many features of the state to look at. Not yet run on a GPU."""
    li, lf = tl.load(i).to(tl.float32), log_sigmoid(tl.load(f).to(tl.float32))
    before = first_top(m, s, EXP, True)
    top = before
    if EXP:
        top = tl.maximum(lf + before, li, propagate_nan=tl.PropagateNan.ALL)
    else:
        li = log_sigmoid(li)
    return tl.exp(lf + before - finite(top)), tl.exp(li - finite(top)), top, held_of(before, DK, EXP)


@triton.jit
def memory_kernel(
    q, k, v, i, f, C, n, m, out, q_b, q_h, k_b, k_h, v_b, v_h, i_b, i_h, f_b, f_h, H, scale, eps,
    EXP: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """One stream and tile of value features: C in place and h. n and m are left as they were for the other tiles.

    Not yet run on a GPU.
    """
    tiles: tl.constexpr = (DV + BV - 1) // BV
    pid = tl.program_id(0)
    s = (pid // tiles).to(tl.int64)
    e = pid % tiles * BV
    row, head = s // H, s % H
    d, c = tl.arange(0, BK), e + tl.arange(0, BV)
    keep, gain, top, held = _decay_and_gain(i + row * i_b + head * i_h, f + row * f_b + head * f_h, m, s, DK, EXP)
    queries = scale * tl.load(q + row * q_b + head * q_h + d, mask=d < DK, other=0.0).to(tl.float32)
    keys = tl.load(k + row * k_b + head * k_h + d, mask=d < DK, other=0.0).to(tl.float32)
    values = tl.load(v + row * v_b + head * v_h + c, mask=c < DV, other=0.0).to(tl.float32)
    normal = keep * tl.load(n + s * DK + d, mask=d < held, other=0.0) + gain * keys
    memory = keep * load_tile(C + s * DK * DV, 0, e, held, DK, DV, BK, BV) + (gain * keys)[:, None] * values[None, :]
    place, inside = state_tile(C + s * DK * DV, 0, e, DK, DV, BK, BV)
    tl.store(place, memory, mask=inside)
    r = normaliser(tl.sum(queries * normal, axis=0), top, eps, EXP)
    num = tl.sum(queries[:, None] * memory, axis=0) * r
    tl.store(out + s * DV + c, num.to(out.dtype.element_ty), mask=c < DV)


@triton.jit
def normal_kernel(
    k, i, f, n, m, k_b, k_h, i_b, i_h, f_b, f_h, H, EXP: tl.constexpr, DK: tl.constexpr, BK: tl.constexpr
):  # fmt: skip
    """One stream: n and m in place, after every tile has read them. Not yet run on a GPU."""
    s = tl.program_id(0).to(tl.int64)
    row, head = s // H, s % H
    d = tl.arange(0, BK)
    keep, gain, top, held = _decay_and_gain(i + row * i_b + head * i_h, f + row * f_b + head * f_h, m, s, DK, EXP)
    keys = tl.load(k + row * k_b + head * k_h + d, mask=d < DK, other=0.0).to(tl.float32)
    normal = keep * tl.load(n + s * DK + d, mask=d < held, other=0.0) + gain * keys
    tl.store(n + s * DK + d, normal, mask=d < DK)
    tl.store(m + s, tl.where(top == float("-inf"), LOWEST, top))


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
    """As xecg.ops.reference.mlstm.step_. Two launches, no allocation, no wait: a CUDA graph can hold it. Not yet run on a GPU."""
    (B, H, DK), DV = q.shape, v.shape[-1]
    if B == 0 or H == 0:
        return
    tile = configs.step_tile(DK, DV)
    strides = {name: x.stride()[:2] for name, x in (("q", q), ("k", k), ("v", v), ("i", i), ("f", f))}
    with device_of(v):
        memory_kernel[(B * H * tile.programs,)](
                q, k, v, i, f, C, n, m, out, *strides["q"], *strides["k"], *strides["v"], *strides["i"], *strides["f"], H, scale, eps,
                EXP=gate == "exp", DK=DK, DV=DV, **tile.sizes, num_warps=tile.warps,
            )  # fmt: skip
        normal_kernel[(B * H,)](
            k,
            i,
            f,
            n,
            m,
            *strides["k"],
            *strides["i"],
            *strides["f"],
            H,
            EXP=gate == "exp",
            DK=DK,
            BK=tile.sizes["BK"],
            num_warps=4,
        )
