"""Pieces that the mLSTM kernels in Triton share: gates, log weights of a chunk, tiles of the sequence, products.

A stream is one head of one batch row. Its steps in processing order are p = 0 … length − 1; `reverse` is index arithmetic.
Symbols as in xecg.ops.reference.mlstm. Not yet run on a GPU.
"""
# mypy: allow-untyped-defs

from __future__ import annotations

import torch
import triton
import triton.language as tl

# The interpreter multiplies bfloat16 wrongly: there, tiles are widened first (exact, sums in float32 as on a GPU).
INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))
MODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
LOWEST = tl.constexpr(torch.finfo(torch.float32).min)  # stands for m = −∞ outside the kernels
# A log forget gate below this forgets everything: no weight that survives e^(−1e6) can be told from 0 in float32.
_FORGETS = tl.constexpr(-1e6)


@triton.jit
def log_sigmoid(x):
    """log σ(x), right to rounding for every x: log(1 + e) = 2 atanh(e / (2 + e)) with e = exp(−|x|). Not yet run on a GPU."""
    e = tl.exp(-tl.abs(x))
    z = e / (2.0 + e)
    y = z * z
    series = 1.0 + y * (1 / 3 + y * (1 / 5 + y * (1 / 7 + y * (1 / 9 + y * (1 / 11 + y * (1 / 13 + y / 15))))))
    return tl.minimum(x, 0.0) - 2.0 * z * series


@triton.jit
def finite(m):
    """m to subtract: 0 in place of −∞, where every weight is exp(−∞) = 0 anyway. Not yet run on a GPU."""
    return tl.where(m == float("-inf"), 0.0, m)


@triton.jit
def length_of(lengths, row, T, RAGGED: tl.constexpr):
    """Valid steps of a batch row. Not yet run on a GPU."""
    length = T
    if RAGGED:
        length = tl.load(lengths + row).to(tl.int32)
    return length


@triton.jit
def place_of(p, length, REVERSE: tl.constexpr):
    """Where step p < length of the processing order lies in memory. Not yet run on a GPU."""
    at = p.to(tl.int64)
    if REVERSE:
        at = length - 1 - at
    return at


@triton.jit
def rows_of(base, at, step, exists, start, D: tl.constexpr, BD: tl.constexpr):
    """Features [start, start + BD) of the given steps (steps, BD), 0 outside. Not yet run on a GPU."""
    d = start + tl.arange(0, BD)
    return tl.load(base + at[:, None] * step + d[None, :], mask=exists[:, None] & (d[None, :] < D), other=0.0)


@triton.jit
def store_rows(base, at, step, exists, start, value, D: tl.constexpr, BD: tl.constexpr):
    """`value` (steps, BD) into features [start, start + BD) of the given steps. Not yet run on a GPU."""
    d = start + tl.arange(0, BD)
    inside = exists[:, None] & (d[None, :] < D)
    tl.store(base + at[:, None] * step + d[None, :], value.to(base.dtype.element_ty), mask=inside)


@triton.jit
def state_tile(base, k0, v0, DK: tl.constexpr, DV: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr):
    """Pointers to a tile (BK, BV) of a state, and which of them exist. Not yet run on a GPU."""
    k, v = k0 + tl.arange(0, BK), v0 + tl.arange(0, BV)
    return base + k[:, None] * DV + v[None, :], (k[:, None] < DK) & (v[None, :] < DV)


@triton.jit
def first_top(m0, slot, EXP: tl.constexpr, STATE: tl.constexpr):
    """m before the first step: −∞ when there is no state or an empty one, 0 for "sig". Not yet run on a GPU."""
    if EXP:
        m = tl.full([], float("-inf"), tl.float32)
        if STATE:
            m = tl.load(m0 + slot)
            m = tl.where(m <= LOWEST, float("-inf"), m)
    else:
        m = tl.full([], 0.0, tl.float32)
    return m


@triton.jit
def held_of(before, DK: tl.constexpr, EXP: tl.constexpr):
    """Features of a state that are looked at: none when it is empty, whatever its C and n say. Not yet run on a GPU."""
    return tl.where(before == float("-inf"), 0, DK) if EXP else DK


@triton.jit
def load_tile(base, k0, v0, held, DK: tl.constexpr, DV: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr):
    """A tile (BK, BV) of the first `held` rows of a state, 0 outside. Not yet run on a GPU."""
    place, inside = state_tile(base, k0, v0, DK, DV, BK, BV)
    return tl.load(place, mask=inside & ((k0 + tl.arange(0, BK))[:, None] < held), other=0.0)


@triton.jit
def gates_of(i, f, i_t, f_t, at, exists, EXP: tl.constexpr):
    """Log input gates li, float64 prefix sums b of the log forget gates and their count of resets, per step of a chunk.

    A reset is a forget gate that forgets all; it is counted instead of summed, so that −∞ never meets −∞. Steps that do not exist
    neither write nor forget. Not yet run on a GPU.
    """
    li = tl.load(i + at * i_t, mask=exists, other=0.0).to(tl.float32)
    if not EXP:
        li = log_sigmoid(li)
    lf = log_sigmoid(tl.load(f + at * f_t, mask=exists, other=0.0).to(tl.float32))
    reset = exists & (lf < _FORGETS)
    lf = tl.where(exists & (lf >= _FORGETS) | (lf != lf), lf, 0.0)
    return tl.where(exists, li, float("-inf")), tl.cumsum(lf.to(tl.float64), 0), tl.cumsum(reset.to(tl.int32), 0)


@triton.jit
def last_of(x, L: tl.constexpr):
    """Last entry of a vector, as a scalar. Not yet run on a GPU."""
    return tl.sum(tl.where(tl.arange(0, L) == L - 1, x, tl.zeros_like(x)), axis=0)


@triton.jit
def weights_of(li, b, resets, m0, L: tl.constexpr, EXP: tl.constexpr):
    """A (L, L), a (L) and m (L): weights of the chunk's steps and of the state before it in each row. A NaN outlives a reset.

    b_t − b_j is formed from two floats each: exact to rounding however large the sums. Not yet run on a GPU.
    """
    t = tl.arange(0, L)
    high = b.to(tl.float32)
    low = (b - high.to(tl.float64)).to(tl.float32)
    D = (high[:, None] - high[None, :]) + (low[:, None] - low[None, :]) + li[None, :]
    D = tl.where((resets[:, None] == resets[None, :]) | (D != D), D, float("-inf"))
    D = tl.where(t[:, None] >= t[None, :], D, float("-inf"))
    start = (b + m0.to(tl.float64)).to(tl.float32)
    start = tl.where((resets == 0) | (start != start), start, float("-inf"))
    m = tl.maximum(tl.max(D, axis=1), start) if EXP else tl.zeros([L], tl.float32)
    return tl.exp(D - finite(m)[:, None]), tl.exp(start - finite(m)), m


@triton.jit
def end_of(li, b, resets, m0, L: tl.constexpr, EXP: tl.constexpr):
    """w (L), w0, m: weights at the chunk's end of its steps and of the state before it, and m there. Not yet run on a GPU."""
    total, count = last_of(b, L), last_of(resets, L)
    D = (total - b).to(tl.float32) + li
    D = tl.where((resets == count) | (D != D), D, float("-inf"))
    start = (total + m0.to(tl.float64)).to(tl.float32)
    start = tl.where((count == 0) | (start != start), start, float("-inf"))
    if EXP:
        m = tl.maximum(tl.max(D, axis=0), start)
        broken = (tl.sum((D != D).to(tl.int32), axis=0) > 0) | (start != start)
        m = tl.where(broken, float("nan"), m)
    else:
        m = m0
    return tl.exp(D - finite(m)), tl.exp(start - finite(m)), m


@triton.jit
def scores_of(P, A, scale, L: tl.constexpr):
    """S; not 0·x above the diagonal: a later NaN must not reach an earlier row. Not yet run on a GPU."""
    t = tl.arange(0, L)
    return tl.where(t[:, None] >= t[None, :], scale * A * P, 0.0)


@triton.jit
def normaliser(den, m, eps, EXP: tl.constexpr):
    """1 / (max(|den|, low) + eps). Not yet run on a GPU."""
    low = tl.exp(-m) if EXP else tl.full([], 1.0, tl.float32)
    return 1.0 / (tl.maximum(tl.abs(den), low, propagate_nan=tl.PropagateNan.ALL) + eps)


@triton.jit
def values_times(S, v, total, L: tl.constexpr, MODE: tl.constexpr):
    """total + S v, where a zero weight stops even a NaN or ∞ of a later v: from its own step on, its column is NaN.

    Not yet run on a GPU.
    """
    t = tl.arange(0, L)
    good = tl.abs(v.to(tl.float32)) < float("inf")
    first = tl.min(tl.where(good, L, t[:, None]), axis=0)
    num = dot_left(S, tl.where(good, v, tl.zeros_like(v)), total, MODE)
    return tl.where(t[:, None] >= first[None, :], float("nan"), num)


@triton.jit
def dot_inputs(x, y, total, MODE: tl.constexpr):
    """total + x y of two tiles of the caller's type: products are exact, sums float32. Not yet run on a GPU."""
    if MODE == 0 or INTERPRETED:
        total = tl.dot(x.to(tl.float32), y.to(tl.float32), total, input_precision="ieee")
    else:
        total = tl.dot(x, y, total)
    return total


@triton.jit
def _coarse(x):
    """x cut to the 10 bits of fraction that a tf32 product reads. Not yet run on a GPU."""
    return (x.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)


@triton.jit
def _dot_parts(x, y, total, MODE: tl.constexpr):
    """total + x y of tiles that the product reads without loss. Not yet run on a GPU."""
    if INTERPRETED:
        total = tl.dot(x.to(tl.float32), y.to(tl.float32), total, input_precision="ieee")
    elif MODE == 1:
        total = tl.dot(x, y, total)
    else:
        total = tl.dot(x, y, total, input_precision="tf32")
    return total


@triton.jit
def split(x, MODE: tl.constexpr):
    """x as a sum of two that a product reads without loss: of bfloat16 for MODE 1, tf32 for MODE 2. Not yet run on a GPU."""
    if MODE == 1:
        high = x.to(tl.bfloat16)
        low = (x - high.to(tl.float32)).to(tl.bfloat16)
    else:
        high = _coarse(x)
        low = _coarse(x - high)
    return high, low


@triton.jit
def dot_left(x, y, total, MODE: tl.constexpr):
    """total + x y, x float32 and y of the caller's type.

    Rounding x once to y's type would cost as much as rounding the result: in half precision x is a sum of two.
    Not yet run on a GPU.
    """
    if MODE == 0:
        total = tl.dot(x, y, total, input_precision="ieee")
    else:
        if MODE == 2:
            y = y.to(tl.float32)
        high, low = split(x, MODE)
        total = _dot_parts(high, y, _dot_parts(low, y, total, MODE), MODE)
    return total


@triton.jit
def dot_right(x, y, total, MODE: tl.constexpr):
    """total + x y, x of the caller's type and y float32: as dot_left. Not yet run on a GPU."""
    if MODE == 0:
        total = tl.dot(x, y, total, input_precision="ieee")
    else:
        if MODE == 2:
            x = x.to(tl.float32)
        high, low = split(y, MODE)
        total = _dot_parts(x, high, _dot_parts(x, low, total, MODE), MODE)
    return total
