"""linear in Triton for block-diagonal maps of 4 × 4 blocks, as q, k and v of an mLSTM have them. Not yet run on a GPU.

Bound by memory: 8 bytes (bfloat16) in and 8 out a row and block, for 32 operations. A tile is read as it lies, ROWS rows of 4·GROUPS
numbers, taken apart into four in registers, and put together again for the store. Sums in float32, in one order.
"""
# mypy: allow-untyped-defs

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from xecg.ops.triton._mlstm_configs import processors
from xecg.ops.triton._mlstm_forward import device_of

__all__ = ["SIDE", "linear_backward", "linear_forward"]

SIDE = 4  # of a block
_GROUPS = 64  # blocks of a tile: 256 numbers of a row, 512 bytes in bfloat16
_ROWS, _ROWS_OF_GRADIENT = (
    16,
    4,
)  # at once: 32 numbers a thread of 4 warps; of the gradient 16 sums of 2 a thread beside 2 · 8 numbers
_WALK = 8  # tiles that a program goes over, so that weights are read once for 128 rows
_WALKERS = 4  # programs a processor of the walk over rows


@triton.jit
def apart(base, r, row, group0, rows, G: tl.constexpr, ROWS: tl.constexpr, GROUPS: tl.constexpr):
    """Entries 0, 1, 2, 3 of each block, (ROWS, GROUPS) float32 each, 0 outside. Not yet run on a GPU."""
    c = group0 * 4 + tl.arange(0, GROUPS * 4)
    inside = (r[:, None] < rows) & (c[None, :] < G * 4)
    x = tl.load(base + r[:, None] * row + c[None, :], mask=inside, other=0.0).to(tl.float32)
    even, odd = tl.split(tl.reshape(x, (ROWS, GROUPS * 2, 2)))
    x0, x2 = tl.split(tl.reshape(even, (ROWS, GROUPS, 2)))
    x1, x3 = tl.split(tl.reshape(odd, (ROWS, GROUPS, 2)))
    return x0, x1, x2, x3


@triton.jit
def together(y0, y1, y2, y3, ROWS: tl.constexpr, GROUPS: tl.constexpr):
    """The inverse of `apart`, (ROWS, 4·GROUPS). Not yet run on a GPU."""
    even = tl.reshape(tl.join(y0, y2), (ROWS, GROUPS * 2))
    odd = tl.reshape(tl.join(y1, y3), (ROWS, GROUPS * 2))
    return tl.reshape(tl.join(even, odd), (ROWS, GROUPS * 4))


@triton.jit
def line_of(weight, group, G: tl.constexpr, n: tl.constexpr, LINE: tl.constexpr, STEP: tl.constexpr):
    """Line n of each block's weight as four (GROUPS,), float32: entries at n·LINE + k·STEP. Not yet run on a GPU."""
    base, there = weight + group * 16 + n * LINE, group < G
    w0 = tl.load(base, mask=there, other=0.0).to(tl.float32)
    w1 = tl.load(base + STEP, mask=there, other=0.0).to(tl.float32)
    w2 = tl.load(base + 2 * STEP, mask=there, other=0.0).to(tl.float32)
    w3 = tl.load(base + 3 * STEP, mask=there, other=0.0).to(tl.float32)
    return w0, w1, w2, w3


@triton.jit
def one_of(x0, x1, x2, x3, w0, w1, w2, w3):
    """An entry of the product, (ROWS, GROUPS). Not yet run on a GPU."""
    return x0 * w0[None, :] + x1 * w1[None, :] + x2 * w2[None, :] + x3 * w3[None, :]


@triton.jit
def blocks4_kernel(
    x, weight, bias, y, x_row, rows, walk,
    G: tl.constexpr, LINE: tl.constexpr, STEP: tl.constexpr, BIAS: tl.constexpr, ROWS: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """y = blocks of weight (G, 4, 4) times those of x, y (rows, G, 4) contiguous, x with the groups of a row side by side.

    LINE, STEP = 4, 1; or 1, 4 for the transposed blocks. `walk` tiles of ROWS rows, one after the other. Not yet run on a GPU.
    """
    group0 = tl.program_id(1) * GROUPS
    group = group0 + tl.arange(0, GROUPS)
    a0, a1, a2, a3 = line_of(weight, group, G, 0, LINE, STEP)
    b0, b1, b2, b3 = line_of(weight, group, G, 1, LINE, STEP)
    c0, c1, c2, c3 = line_of(weight, group, G, 2, LINE, STEP)
    d0, d1, d2, d3 = line_of(weight, group, G, 3, LINE, STEP)
    column = group0 * 4 + tl.arange(0, GROUPS * 4)
    there = column < G * 4
    add = tl.zeros([GROUPS * 4], tl.float32)
    if BIAS:
        add = tl.load(bias + column, mask=there, other=0.0).to(tl.float32)
    for n in range(0, walk):
        r = ((tl.program_id(0) * walk + n) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
        x0, x1, x2, x3 = apart(x, r, x_row, group0, rows, G, ROWS, GROUPS)
        out = together(
            one_of(x0, x1, x2, x3, a0, a1, a2, a3),
            one_of(x0, x1, x2, x3, b0, b1, b2, b3),
            one_of(x0, x1, x2, x3, c0, c1, c2, c3),
            one_of(x0, x1, x2, x3, d0, d1, d2, d3),
            ROWS,
            GROUPS,
        )
        if BIAS:
            out += add[None, :]
        place = y + r[:, None] * (G * 4) + column[None, :]
        tl.store(place, out.to(y.dtype.element_ty), mask=(r[:, None] < rows) & there[None, :])


@triton.jit
def put_line(out, group, G: tl.constexpr, n: tl.constexpr, s0, s1, s2, s3):
    """Line n of each block's weight gradient from sums (ROWS, GROUPS). Not yet run on a GPU."""
    base, there = out + group * 16 + n * 4, group < G
    tl.store(base, tl.sum(s0, axis=0), mask=there)
    tl.store(base + 1, tl.sum(s1, axis=0), mask=there)
    tl.store(base + 2, tl.sum(s2, axis=0), mask=there)
    tl.store(base + 3, tl.sum(s3, axis=0), mask=there)


@triton.jit
def blocks4_weight_kernel(
    dy, x, dweight, dbias, dy_row, x_row, rows, walk, G: tl.constexpr, ROWS: tl.constexpr, GROUPS: tl.constexpr
):
    """Sums over `walk` tiles of rows: dweight (programs, G, 4, 4), dbias (programs, G, 4), float32. Not yet run on a GPU."""
    part, group0 = tl.program_id(0), tl.program_id(1) * GROUPS
    group = group0 + tl.arange(0, GROUPS)
    a0 = tl.zeros([ROWS, GROUPS], tl.float32)
    a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3 = (
        a0,
        a0,
        a0,
        a0,
        a0,
        a0,
        a0,
        a0,
        a0,
        a0,
        a0,
        a0,
        a0,
        a0,
        a0,
    )
    e0, e1, e2, e3 = a0, a0, a0, a0
    for n in range(0, walk):
        r = ((part * walk + n) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
        x0, x1, x2, x3 = apart(x, r, x_row, group0, rows, G, ROWS, GROUPS)
        g0, g1, g2, g3 = apart(dy, r, dy_row, group0, rows, G, ROWS, GROUPS)
        a0, a1, a2, a3 = a0 + g0 * x0, a1 + g0 * x1, a2 + g0 * x2, a3 + g0 * x3
        b0, b1, b2, b3 = b0 + g1 * x0, b1 + g1 * x1, b2 + g1 * x2, b3 + g1 * x3
        c0, c1, c2, c3 = c0 + g2 * x0, c1 + g2 * x1, c2 + g2 * x2, c3 + g2 * x3
        d0, d1, d2, d3 = d0 + g3 * x0, d1 + g3 * x1, d2 + g3 * x2, d3 + g3 * x3
        e0, e1, e2, e3 = e0 + g0, e1 + g1, e2 + g2, e3 + g3
    dweight += part * G * 16
    put_line(dweight, group, G, 0, a0, a1, a2, a3)
    put_line(dweight, group, G, 1, b0, b1, b2, b3)
    put_line(dweight, group, G, 2, c0, c1, c2, c3)
    put_line(dweight, group, G, 3, d0, d1, d2, d3)
    base, there = dbias + part * G * 4 + group * 4, group < G
    tl.store(base, tl.sum(e0, axis=0), mask=there)
    tl.store(base + 1, tl.sum(e1, axis=0), mask=there)
    tl.store(base + 2, tl.sum(e2, axis=0), mask=there)
    tl.store(base + 3, tl.sum(e3, axis=0), mask=there)


def _blocks(x: Tensor, weight: Tensor, bias: Tensor | None, *, transposed: bool) -> Tensor:
    rows, G, _ = x.shape
    y = x.new_empty((rows, G, SIDE))
    if y.numel():
        line, step = (1, SIDE) if transposed else (SIDE, 1)
        grid = (triton.cdiv(rows, _ROWS * _WALK), triton.cdiv(G, _GROUPS))
        with device_of(x):
            blocks4_kernel[grid](
                x, weight.contiguous(), None if bias is None else bias.contiguous(), y, x.stride(0), rows, _WALK,
                G=G, LINE=line, STEP=step, BIAS=bias is not None, ROWS=_ROWS, GROUPS=_GROUPS, num_warps=4,
            )  # fmt: skip
    return y


def _lies(t: Tensor) -> Tensor:
    """t with the groups of a row side by side."""
    return t if t.stride()[1:] == (SIDE, 1) else t.contiguous()


def linear_forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """As xecg.ops.reference.linear.forward, blocks of 4 × 4. Not yet run on a GPU."""
    return _blocks(_lies(x), weight, bias, transposed=False)


def linear_backward(dy: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As xecg.ops.reference.linear.backward, blocks of 4 × 4. Not yet run on a GPU."""
    dy, x = _lies(dy), _lies(x)
    rows, G, _ = x.shape
    columns, tiles = triton.cdiv(G, _GROUPS), triton.cdiv(rows, _ROWS_OF_GRADIENT)
    walk = max(1, triton.cdiv(tiles * columns, _WALKERS * processors(x.device)))
    programs = triton.cdiv(tiles, walk)
    dweight = x.new_empty((programs, G, SIDE, SIDE), dtype=torch.float32)
    dbias = dweight.new_empty((programs, G, SIDE))
    if programs and G:
        with device_of(x):
            blocks4_weight_kernel[(programs, columns)](
                dy, x, dweight, dbias, dy.stride(0), x.stride(0), rows, walk,
                G=G, ROWS=_ROWS_OF_GRADIENT, GROUPS=_GROUPS, num_warps=4,
            )  # fmt: skip
    dx = _blocks(dy, weight, None, transposed=True)
    return dx, dweight.sum(0).to(weight.dtype), dbias.sum(0).to(weight.dtype)
