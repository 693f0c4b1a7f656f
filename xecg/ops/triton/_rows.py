"""norm and gated in Triton: rows of features, each read once and written once. Not yet run on a GPU.

A tile is ROWS rows by BLOCK features (for norm: of one head). Sums over rows, which only gradients of weights need, are made by few
programs that walk over many rows and are added by one more sum, in an order that sizes and device alone decide.
"""
# mypy: allow-untyped-defs

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from xecg.ops.triton._mlstm_configs import processors
from xecg.ops.triton._mlstm_forward import device_of

__all__ = ["gated_backward", "gated_forward", "norm_backward", "norm_forward"]

_TILE = 2048  # features of a tile: 16 a thread of 4 warps, each a float32 register a tensor that is live
_WALKERS = 4  # programs a processor of the walk over rows


@triton.jit
def sigmoid(x):
    """σ(x), without overflow. Not yet run on a GPU."""
    e = tl.exp(-tl.abs(x))
    return tl.where(x >= 0, 1.0, e) / (1.0 + e)


@triton.jit
def act_share(x, GELU: tl.constexpr):
    """act(x) / x: Φ(x) for GELU, σ(x) for SiLU. Not yet run on a GPU."""
    return 0.5 * (1.0 + tl.erf(x * 0.7071067811865476)) if GELU else sigmoid(x)


@triton.jit
def gated_kernel(
    a, b, y, a_row, b_row, rows, N: tl.constexpr, GELU: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    """y = act(a) ⊙ b on one tile; y contiguous. Not yet run on a GPU."""
    r, c = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = (r[:, None] < rows) & (c[None, :] < N)
    x = tl.load(a + r[:, None] * a_row + c[None, :], mask=inside, other=0.0).to(tl.float32)
    other = tl.load(b + r[:, None] * b_row + c[None, :], mask=inside, other=0.0).to(tl.float32)
    out = x * act_share(x, GELU) * other
    tl.store(y + r[:, None] * N + c[None, :], out.to(y.dtype.element_ty), mask=inside)


@triton.jit
def gated_gradient_kernel(
    dy, a, b, da, db, dy_row, a_row, b_row, rows,
    N: tl.constexpr, GELU: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """da and db, contiguous, on one tile. Not yet run on a GPU."""
    r, c = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = (r[:, None] < rows) & (c[None, :] < N)
    g = tl.load(dy + r[:, None] * dy_row + c[None, :], mask=inside, other=0.0).to(tl.float32)
    x = tl.load(a + r[:, None] * a_row + c[None, :], mask=inside, other=0.0).to(tl.float32)
    other = tl.load(b + r[:, None] * b_row + c[None, :], mask=inside, other=0.0).to(tl.float32)
    share = act_share(x, GELU)
    bell = 0.3989422804014327 * tl.exp(-0.5 * x * x)
    slope = share + (x * bell if GELU else x * share * (1.0 - share))
    place = r[:, None] * N + c[None, :]
    tl.store(da + place, (g * other * slope).to(da.dtype.element_ty), mask=inside)
    tl.store(db + place, (g * x * share).to(db.dtype.element_ty), mask=inside)


@triton.jit
def unit_of(x, inside, eps, D: tl.constexpr):
    """Rows (ROWS, BLOCK) with mean 0 and variance 1 over their D features, 0 outside, and what they were scaled by (ROWS,)."""
    centred = tl.where(inside, x - (tl.sum(x, axis=1) / D)[:, None], 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=1) / D + eps)
    return centred * scale[:, None], scale


@triton.jit
def norm_kernel(
    x, weight, skip, skip_weight, gate, y, x_row, x_head, skip_row, gate_row, rows, H, eps,
    SKIP: tl.constexpr, WEIGHTED: tl.constexpr, GATE: tl.constexpr,
    D: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """ROWS rows of one head: y = (norm(x) ⊙ (1 + weight) + skip ⊙ skip_weight) ⊙ SiLU(gate). Not yet run on a GPU."""
    head = tl.program_id(1)
    r, d = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64), tl.arange(0, BLOCK)
    inside = (r[:, None] < rows) & (d[None, :] < D)
    column = head * D + d
    value = tl.load(x + r[:, None] * x_row + head * x_head + d[None, :], mask=inside, other=0.0).to(tl.float32)
    unit, _ = unit_of(value, inside, eps, D)
    out = unit * (1.0 + tl.load(weight + column, mask=d < D, other=0.0).to(tl.float32))[None, :]
    if SKIP:
        beside = tl.load(skip + r[:, None] * skip_row + column[None, :], mask=inside, other=0.0).to(tl.float32)
        if WEIGHTED:
            beside *= tl.load(skip_weight + column, mask=d < D, other=0.0).to(tl.float32)[None, :]
        out += beside
    if GATE:
        z = tl.load(gate + r[:, None] * gate_row + column[None, :], mask=inside, other=0.0).to(tl.float32)
        out *= z * sigmoid(z)
    tl.store(y + r[:, None] * (H * D) + column[None, :], out.to(y.dtype.element_ty), mask=inside)


@triton.jit
def norm_gradient_kernel(
    dy, x, weight, skip, skip_weight, gate, dx, dskip, dgate, dweight, dskip_weight,
    dy_row, x_row, x_head, skip_row, gate_row, rows, H, eps, walk,
    SKIP: tl.constexpr, WEIGHTED: tl.constexpr, GATE: tl.constexpr,
    D: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """`walk` tiles of one head, one after the other: gradients of x, skip and gate, and the program's part of those of the weights.

    dx (rows, H, D), dskip and dgate (rows, H·D) contiguous; dweight, dskip_weight (programs, H·D) float32. Not yet run on a GPU.
    """
    head, part = tl.program_id(1), tl.program_id(0)
    d = tl.arange(0, BLOCK)
    column = head * D + d
    w = 1.0 + tl.load(weight + column, mask=d < D, other=0.0).to(tl.float32)
    s = w
    if WEIGHTED:
        s = tl.load(skip_weight + column, mask=d < D, other=0.0).to(tl.float32)
    sum_w = tl.zeros([ROWS, BLOCK], tl.float32)
    sum_s = tl.zeros([ROWS, BLOCK], tl.float32)
    for n in range(0, walk):
        r = ((part * walk + n) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
        inside = (r[:, None] < rows) & (d[None, :] < D)
        place = r[:, None] * (H * D) + column[None, :]
        value = tl.load(x + r[:, None] * x_row + head * x_head + d[None, :], mask=inside, other=0.0).to(tl.float32)
        dt = tl.load(dy + r[:, None] * dy_row + column[None, :], mask=inside, other=0.0).to(tl.float32)
        unit, scale = unit_of(value, inside, eps, D)
        if SKIP:
            beside = tl.load(skip + r[:, None] * skip_row + column[None, :], mask=inside, other=0.0).to(tl.float32)
        if GATE:
            z = tl.load(gate + r[:, None] * gate_row + column[None, :], mask=inside, other=0.0).to(tl.float32)
            before = unit * w[None, :]
            if SKIP:
                before += beside * s[None, :] if WEIGHTED else beside
            share = sigmoid(z)
            dz = dt * before * share * (1.0 + z * (1.0 - share))
            tl.store(dgate + place, dz.to(dgate.dtype.element_ty), mask=inside)
            dt *= z * share
        if SKIP:
            to_skip = dt * s[None, :] if WEIGHTED else dt
            tl.store(dskip + place, to_skip.to(dskip.dtype.element_ty), mask=inside)
            if WEIGHTED:
                sum_s += dt * beside
        sum_w += dt * unit
        dunit = dt * w[None, :]
        mean, along = tl.sum(dunit, axis=1) / D, tl.sum(dunit * unit, axis=1) / D
        out = scale[:, None] * (dunit - mean[:, None] - unit * along[:, None])
        tl.store(dx + place, out.to(dx.dtype.element_ty), mask=inside)
    tl.store(dweight + part * (H * D) + column, tl.sum(sum_w, axis=0), mask=d < D)
    if WEIGHTED:
        tl.store(dskip_weight + part * (H * D) + column, tl.sum(sum_s, axis=0), mask=d < D)


def _tile(D: int) -> dict[str, int]:
    block = max(16, triton.next_power_of_2(D))
    return {"ROWS": max(1, _TILE // block), "BLOCK": block}


def _warps(tile: dict[str, int]) -> int:
    return 4 if tile["BLOCK"] <= _TILE else 8


def _lies(t: Tensor) -> Tensor:
    """t with the last dimension contiguous, where a gradient came otherwise."""
    return t if t.stride(-1) == 1 or t.shape[-1] == 1 else t.contiguous()


def _row(t: Tensor | None) -> int:
    return 0 if t is None else t.stride(0)


def gated_forward(a: Tensor, b: Tensor, *, gelu: bool) -> Tensor:
    """As xecg.ops.reference.gated.forward. Not yet run on a GPU."""
    rows, N = a.shape
    y = a.new_empty((rows, N))
    if y.numel():
        tile = _tile(min(N, _TILE))
        grid = (triton.cdiv(rows, tile["ROWS"]), triton.cdiv(N, tile["BLOCK"]))
        with device_of(a):
            gated_kernel[grid](a, b, y, a.stride(0), b.stride(0), rows, N=N, GELU=gelu, **tile, num_warps=4)
    return y


def gated_backward(dy: Tensor, a: Tensor, b: Tensor, *, gelu: bool) -> tuple[Tensor, Tensor]:
    """As xecg.ops.reference.gated.backward. Not yet run on a GPU."""
    rows, N = a.shape
    da, db, dy = a.new_empty((rows, N)), a.new_empty((rows, N)), _lies(dy)
    if da.numel():
        tile = _tile(min(N, _TILE))
        grid = (triton.cdiv(rows, tile["ROWS"]), triton.cdiv(N, tile["BLOCK"]))
        with device_of(a):
            gated_gradient_kernel[grid](
                dy, a, b, da, db, dy.stride(0), a.stride(0), b.stride(0), rows, N=N, GELU=gelu, **tile, num_warps=4
            )
    return da, db


def norm_forward(
    x: Tensor, weight: Tensor, skip: Tensor | None, skip_weight: Tensor | None, gate: Tensor | None, *, eps: float
) -> Tensor:
    """As xecg.ops.reference.norm.forward. Not yet run on a GPU."""
    rows, H, D = x.shape
    y = torch.empty((rows, H * D), dtype=x.dtype if skip is None else skip.dtype, device=x.device)
    if y.numel():
        tile = _tile(D)
        with device_of(x):
            norm_kernel[(triton.cdiv(rows, tile["ROWS"]), H)](
                x, weight, skip, skip_weight, gate, y, x.stride(0), x.stride(1), _row(skip), _row(gate), rows, H, eps,
                SKIP=skip is not None, WEIGHTED=skip_weight is not None, GATE=gate is not None, D=D, **tile, num_warps=_warps(tile),
            )  # fmt: skip
    return y


def norm_backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    skip: Tensor | None,
    skip_weight: Tensor | None,
    gate: Tensor | None,
    *,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As xecg.ops.reference.norm.backward. Not yet run on a GPU."""
    rows, H, D = x.shape
    tile, dy = _tile(D), _lies(dy)
    tiles = triton.cdiv(rows, tile["ROWS"])
    walk = max(1, triton.cdiv(tiles * H, _WALKERS * processors(x.device)))
    programs = triton.cdiv(tiles, walk)
    dx = x.new_empty((rows, H, D))
    dskip = x.new_empty(0) if skip is None else skip.new_empty((rows, H * D))
    dgate = x.new_empty(0) if gate is None else gate.new_empty((rows, H * D))
    dweight = x.new_empty((programs, H * D), dtype=torch.float32)
    dskip_weight = dweight.new_empty((programs, 0 if skip_weight is None else H * D))
    if dx.numel():
        with device_of(x):
            norm_gradient_kernel[(programs, H)](
                dy, x, weight, skip, skip_weight, gate, dx, dskip, dgate, dweight, dskip_weight,
                dy.stride(0), x.stride(0), x.stride(1), _row(skip), _row(gate), rows, H, eps, walk,
                SKIP=skip is not None, WEIGHTED=skip_weight is not None, GATE=gate is not None, D=D, **tile, num_warps=_warps(tile),
            )  # fmt: skip
    return dx, dweight.sum(0), dskip, dskip_weight.sum(0), dgate
