"""Exact gradient of mlstm in Triton, all terms of the definition; equations as in xecg.ops.reference.mlstm. Not yet run on a GPU.

Up to 64 steps and without states, one program a stream does everything (single_kernel). Otherwise, in chunks of 64:

    chunk_gates_kernel, walk_kernel    m, C and n before each chunk
    query_kernel, chunks in parallel   from the tables S, U = dh vᵀ and from C, n at the start: r, dden, g of every row, and dq
    walk_kernel BACK                   dC, dn after each chunk, the gradient of the initial state, and λ, the decayed C:dC + n·dn
    passed_on_kernel                   what eps sends through the stabiliser from chunk to chunk
    key_kernel, chunks in parallel     dk, dv, di, df

Rows t, columns j of a chunk, column "init" the state at its start and row "end" the state at its end; G = ∂loss/∂(log weight):

    dS_tj = r_t U_tj + dden_t     G_tj = S_tj dS_tj     G_t,init = s a_t q_t·(r_t C₀ dh_t + dden_t n₀)
    G_end,j = k_j·κ_j,  κ_j = w_j (dC v_j + dn)         G_end,init = λ
    G_t,argmax += g_t                                   G_end,argmax += γ
    di_j = Σ_t G_tj      df_τ = σ(−f_τ) Σ_{t≥τ, j<τ} G_tj

No gradient of a gate is a difference of sums over the sequence, so rounding does not grow with T.
"""
# mypy: allow-untyped-defs

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from xecg.ops.triton import _mlstm_states as states_of
from xecg.ops.triton._mlstm_states import (
    chunk_gates_kernel,
    dot_inputs,
    dot_left,
    dot_right,
    finite,
    length_of,
    log_gates,
    passed_on_kernel,
    place_of,
    rows_of,
    scan_kernel,
    state_tile,
    walk_kernel,
)

__all__ = ["backward"]

_MODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_STATE_BYTES = 2**30  # states and their gradients before every chunk; a larger batch goes in parts
_WALKS = 256  # programs that fill a device: with fewer, a walk is split into segments
_ROWS = 6  # planes of query_kernel's rows: r, dden, g, G_init, weights of q dhᵀ and of q in the walk back


@triton.jit
def _tables(
    q, k, v, dh, q_t, k_t, v_t, dh_t, at, exists, DK: tl.constexpr, DV: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    L: tl.constexpr, MODE: tl.constexpr,
):  # fmt: skip
    """q kᵀ and dh vᵀ of one chunk."""
    P, U = tl.zeros([L, L], tl.float32), tl.zeros([L, L], tl.float32)
    for d in range(0, DK, BK):
        keys = rows_of(k, at, k_t, exists, d, DK, BK)
        P = dot_inputs(rows_of(q, at, q_t, exists, d, DK, BK), tl.trans(keys), P, MODE)
    for d in range(0, DV, BV):
        values = rows_of(v, at, v_t, exists, d, DV, BV)
        U = dot_inputs(rows_of(dh, at, dh_t, exists, d, DV, BV), tl.trans(values), U, MODE)
    return P, U


@triton.jit
def _weights(li, lf, before, L: tl.constexpr, EXP: tl.constexpr):
    """A (L, L), a (L), m (L), the largest column of each row, and whether the state before the chunk weighs at least as much.

    Sums over τ run down each column, never as differences of prefix sums: exact for any gate, and −∞ never meets −∞.
    """
    t = tl.arange(0, L)
    D = tl.cumsum(tl.where(t[:, None] > t[None, :], lf[:, None], 0.0), axis=0)
    D = tl.where(t[:, None] >= t[None, :], D + li[None, :], float("-inf"))
    from_start = tl.cumsum(lf, axis=0) + before
    if EXP:
        top, best = tl.max(D, axis=1, return_indices=True, return_indices_tie_break_left=True)
        wins = from_start >= top
        m = tl.maximum(from_start, top)
    else:
        best = t
        wins = t < 0
        m = tl.zeros([L], tl.float32)
    return tl.exp(D - finite(m)[:, None]), tl.exp(from_start - finite(m)), m, best, wins


@triton.jit
def _scores(P, A, scale, L: tl.constexpr):
    """S; not 0·x above the diagonal: a later NaN must not reach an earlier row."""
    t = tl.arange(0, L)
    return tl.where(t[:, None] >= t[None, :], scale * A * P, 0.0)


@triton.jit
def _row_terms(S, U, m, num_init, den_init, eps, L: tl.constexpr):
    """r, dden and r (dh·h) of each row, from what the chunk's own steps and the state before it give to den and to dh·num."""
    t = tl.arange(0, L)
    den = tl.sum(S, axis=1) + den_init
    product = tl.sum(tl.where(t[:, None] >= t[None, :], S * U, 0.0), axis=1) + num_init
    low = tl.exp(-m)
    r = 1.0 / (tl.maximum(tl.abs(den), low, propagate_nan=tl.PropagateNan.ALL) + eps)
    slope = r * (r * product)
    dden = tl.where(tl.abs(den) > low, tl.where(den > 0, -slope, slope), 0.0)
    return r, dden, slope


@triton.jit
def _slopes(A, U, r, dden, scale, L: tl.constexpr):
    """dP."""
    t = tl.arange(0, L)
    return tl.where(t[:, None] >= t[None, :], scale * A * (r[:, None] * U + dden[:, None]), 0.0)


@triton.jit
def _times_state(
    y, y_t, at, exists, C, k0, width, DK: tl.constexpr, DV: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, L: tl.constexpr,
    MODE: tl.constexpr,
):  # fmt: skip
    """C y, features [k0, k0 + BK), of the rows y of one chunk; width is DV, or 0 where C is known to be empty."""
    X = tl.zeros([L, BK], tl.float32)
    for d in range(0, width, BV):
        place, inside = state_tile(C, k0, d, DK, DV, BK, BV)
        tile = tl.load(place, mask=inside, other=0.0)
        X = dot_right(rows_of(y, at, y_t, exists, d, DV, BV), tl.trans(tile), X, MODE)
    return X


@triton.jit
def _store_rows(base, at, step, exists, d0, value, D: tl.constexpr, BD: tl.constexpr):
    d = d0 + tl.arange(0, BD)
    tl.store(base + at[:, None] * step + d[None, :], value, mask=exists[:, None] & (d[None, :] < D))


@triton.jit
def _gate_sums(S, U, r, dden, g, init, best, wins, L: tl.constexpr, EXP: tl.constexpr):
    """Sums of G without its row "end": its columns; rows t > j of columns "init" and up to j, for step j + 1; column "init"."""
    lane = tl.arange(0, L)
    rows, columns = lane[:, None], lane[None, :]
    G = tl.where(rows >= columns, S * (r[:, None] * U + dden[:, None]), 0.0)
    if EXP:
        G += tl.where((columns == best[:, None]) & (wins[:, None] == 0), g[:, None], 0.0)
        init += tl.where(wins, g, 0.0)
    up_to = init[:, None] + tl.cumsum(G, axis=1)
    return tl.sum(G, axis=0), tl.sum(tl.where(rows > columns, up_to, 0.0), axis=0), tl.sum(init, axis=0)


@triton.jit
def _store_gates(
    di, df, i, f, out_t, i_t, f_t, c, at, length, d_i, d_later, d_first, EXP: tl.constexpr, REVERSE: tl.constexpr,
    L: tl.constexpr,
):  # fmt: skip
    """di from the gradient of the log input gates, df from that of the log forget gates one step later and of the first step."""
    lane = tl.arange(0, L)
    t = c * L + lane
    if not EXP:
        x = tl.load(i + at * i_t, mask=t < length, other=0.0).to(tl.float32)
        d_i = d_i / (1.0 + tl.exp(x))
    tl.store(di + at * out_t, d_i, mask=t < length)
    later = (lane + 1 < L) & (t + 1 < length)
    after = place_of(t + 1, length, REVERSE)
    x = tl.load(f + after * f_t, mask=later, other=0.0).to(tl.float32)
    tl.store(df + after * out_t, d_later / (1.0 + tl.exp(x)), mask=later)
    only = (lane == 0) & (t < length)
    x = tl.load(f + at * f_t, mask=only, other=0.0).to(tl.float32)
    tl.store(df + at * out_t, d_first / (1.0 + tl.exp(x)), mask=only)


@triton.jit
def query_kernel(
    dh, q, k, v, i, f, lengths, states, normals, m, rows, passed, dq,
    dh_b, dh_t, dh_h, q_b, q_t, q_h, k_b, k_t, k_h, v_b, v_t, v_h, i_b, i_t, i_h, f_b, f_t, f_h, T, H, NC, plane, scale, eps,
    EXP: tl.constexpr, REVERSE: tl.constexpr, RAGGED: tl.constexpr, STATE: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr,
    BK: tl.constexpr, BV: tl.constexpr, L: tl.constexpr, MODE: tl.constexpr,
):  # fmt: skip
    """dq, rows (6, N, NC·L) and, per chunk, the sum of g of the rows whose stabiliser is the state before it (passed, (N, NC))."""
    pid = tl.program_id(0)
    c = pid % NC
    n = (pid // NC).to(tl.int64)
    row, head = n // H, n % H
    length = length_of(lengths, row, T, RAGGED)
    if c * L >= length:
        return
    lane = tl.arange(0, L)
    t = c * L + lane
    at, exists = place_of(t, length, REVERSE), t < length
    dh += row * dh_b + head * dh_h
    q += row * q_b + head * q_h
    k += row * k_b + head * k_h
    C = states + (n * NC + c) * DK * DV
    before = tl.full([], 0.0, tl.float32)
    if EXP:
        before = tl.load(m + n * (NC + 1) + c)
    width = DV
    if not STATE:
        width = DV * (c > 0).to(tl.int32)

    P, U = _tables(
        q, k, v + row * v_b + head * v_h, dh, q_t, k_t, v_t, dh_t, at, exists, DK, DV, BK, BV, L, MODE
    )  # fmt: skip
    li, lf, _ = log_gates(i + row * i_b + head * i_h, f + row * f_b + head * f_h, i_t, f_t, t, length, L, EXP, REVERSE)
    A, a, m_rows, _, wins = _weights(li, lf, before, L, EXP)
    num_init, den_init = tl.zeros([L], tl.float32), tl.zeros([L], tl.float32)
    for d in range(0, DK, BK):
        queries = rows_of(q, at, q_t, exists, d, DK, BK).to(tl.float32)
        X = _times_state(dh, dh_t, at, exists, C, d, width, DK, DV, BK, BV, L, MODE)
        features = d + tl.arange(0, BK)
        n0 = tl.load(normals + (n * NC + c) * DK + features, mask=features < DK, other=0.0)
        num_init += tl.sum(queries * X, axis=1)
        den_init += tl.sum(queries * n0[None, :], axis=1)
    a *= scale
    num_init *= a
    den_init *= a
    r, dden, slope = _row_terms(_scores(P, A, scale, L), U, m_rows, num_init, den_init, eps, L)
    g = -eps * slope
    out = rows + n * NC * L + t
    tl.store(out, r)
    tl.store(out + plane, dden)
    tl.store(out + 2 * plane, g)
    tl.store(out + 3 * plane, r * num_init + dden * den_init)
    tl.store(out + 4 * plane, a * r)
    tl.store(out + 5 * plane, a * dden)
    if EXP:
        tl.store(passed + n * NC + c, tl.sum(tl.where(wins, g, 0.0), axis=0))

    dP = _slopes(A, U, r, dden, scale, L)
    dq += (row * T * H + head) * DK
    for d in range(0, DK, BK):
        features = d + tl.arange(0, BK)
        n0 = tl.load(normals + (n * NC + c) * DK + features, mask=features < DK, other=0.0)
        X = _times_state(dh, dh_t, at, exists, C, d, width, DK, DV, BK, BV, L, MODE)
        X = (a * r)[:, None] * X + (a * dden)[:, None] * n0[None, :]
        X = dot_left(dP, rows_of(k, at, k_t, exists, d, DK, BK), X, MODE)
        _store_rows(dq, at, H * DK, exists, d, X, DK, BK)


@triton.jit
def key_kernel(
    dh, q, k, v, i, f, lengths, ends, ends_n, m, tops, decays, w, rows, boundary, gamma, dk, dv, di, df,
    dh_b, dh_t, dh_h, q_b, q_t, q_h, k_b, k_t, k_h, v_b, v_t, v_h, i_b, i_t, i_h, f_b, f_t, f_h, T, H, NC, plane, scale,
    EXP: tl.constexpr, REVERSE: tl.constexpr, RAGGED: tl.constexpr, END: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr,
    BK: tl.constexpr, BV: tl.constexpr, L: tl.constexpr, MODE: tl.constexpr,
):  # fmt: skip
    """dk, dv, di, df; ends, ends_n: dC, dn after each chunk."""
    pid = tl.program_id(0)
    c = pid % NC
    n = (pid // NC).to(tl.int64)
    row, head = n // H, n % H
    length = length_of(lengths, row, T, RAGGED)
    if c * L >= length:
        return
    lane = tl.arange(0, L)
    t = c * L + lane
    at, exists = place_of(t, length, REVERSE), t < length
    dh += row * dh_b + head * dh_h
    q += row * q_b + head * q_h
    k += row * k_b + head * k_h
    v += row * v_b + head * v_h
    i += row * i_b + head * i_h
    f += row * f_b + head * f_h
    before = tl.full([], 0.0, tl.float32)
    if EXP:
        before = tl.load(m + n * (NC + 1) + c)

    P, U = _tables(q, k, v, dh, q_t, k_t, v_t, dh_t, at, exists, DK, DV, BK, BV, L, MODE)
    li, lf, lf_later = log_gates(i, f, i_t, f_t, t, length, L, EXP, REVERSE)
    A, _, _, best, wins = _weights(li, lf, before, L, EXP)
    S = _scores(P, A, scale, L)
    source = rows + n * NC * L + t
    r, dden, g = tl.load(source), tl.load(source + plane), tl.load(source + 2 * plane)
    weight = tl.load(w + n * NC * L + t)
    d_i, d_later, d_first = _gate_sums(S, U, r, dden, g, tl.load(source + 3 * plane), best, wins, L, EXP)

    dP = tl.trans(_slopes(A, U, r, dden, scale, L))
    out = row * T * H + head
    dC, dn = ends + (n * NC + c) * DK * DV, ends_n + (n * NC + c) * DK
    width_k, width_v = DK, DV
    if not END:  # nothing comes from after the last chunk
        more = ((c + 1) * L < length).to(tl.int32)
        width_k, width_v = DK * more, DV * more
    end = tl.zeros([L], tl.float32)
    for d in range(0, DK, BK):
        E = _times_state(v, v_t, at, exists, dC, d, width_v, DK, DV, BK, BV, L, MODE)
        features = d + tl.arange(0, BK)
        E += tl.load(dn + features, mask=features < DK, other=0.0)[None, :]
        E *= weight[:, None]
        end += tl.sum(rows_of(k, at, k_t, exists, d, DK, BK).to(tl.float32) * E, axis=1)
        E = dot_left(dP, rows_of(q, at, q_t, exists, d, DK, BK), E, MODE)
        _store_rows(dk + out * DK, at, H * DK, exists, d, E, DK, BK)

    tiles: tl.constexpr = ((DK + BK - 1) // BK) * ((DV + BV - 1) // BV)
    end_init = tl.full([], 0.0, tl.float32)
    for tile in range(0, tiles):
        end_init += tl.load(boundary + (n * NC + c) * tiles + tile)
    if EXP:
        after = tl.load(gamma + n * (NC + 1) + c + 1)
        last = li + tl.cumsum(lf_later, axis=0, reverse=True)
        if before + tl.load(decays + n * NC + c) >= tl.load(tops + n * NC + c):
            end_init += after
        else:
            end += tl.where(lane == tl.argmax(last, axis=0), after, 0.0)
    d_later += end_init + tl.cumsum(end, axis=0)
    _store_gates(
        di + out, df + out, i, f, H, i_t, f_t, c, at, length, d_i + end, d_later, d_first + end_init, EXP, REVERSE, L
    )

    S = tl.trans(S * r[:, None])
    for d in range(0, DV, BV):
        E = tl.zeros([L, BV], tl.float32)
        for x in range(0, width_k, BK):
            place, inside = state_tile(dC, x, d, DK, DV, BK, BV)
            E = dot_right(rows_of(k, at, k_t, exists, x, DK, BK), tl.load(place, mask=inside, other=0.0), E, MODE)
        E = dot_left(S, rows_of(dh, at, dh_t, exists, d, DV, BV), weight[:, None] * E, MODE)
        _store_rows(dv + out * DV, at, H * DV, exists, d, E, DV, BV)


@triton.jit
def single_kernel(
    dh, q, k, v, i, f, lengths, dq, dk, dv, di, df,
    dh_b, dh_t, dh_h, q_b, q_t, q_h, k_b, k_t, k_h, v_b, v_t, v_h, i_b, i_t, i_h, f_b, f_t, f_h, T, H, scale, eps,
    EXP: tl.constexpr, REVERSE: tl.constexpr, RAGGED: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr,
    BK: tl.constexpr, BV: tl.constexpr, L: tl.constexpr, MODE: tl.constexpr,
):  # fmt: skip
    """All gradients of a stream of at most L steps without an initial state or a gradient of the final one."""
    n = tl.program_id(0).to(tl.int64)
    row, head = n // H, n % H
    length = length_of(lengths, row, T, RAGGED)
    if length <= 0:
        return
    t = tl.arange(0, L)
    at, exists = place_of(t, length, REVERSE), t < length
    dh += row * dh_b + head * dh_h
    q += row * q_b + head * q_h
    k += row * k_b + head * k_h
    i += row * i_b + head * i_h
    f += row * f_b + head * f_h

    P, U = _tables(
        q, k, v + row * v_b + head * v_h, dh, q_t, k_t, v_t, dh_t, at, exists, DK, DV, BK, BV, L, MODE
    )  # fmt: skip
    li, lf, _ = log_gates(i, f, i_t, f_t, t, length, L, EXP, REVERSE)
    A, _, m, best, wins = _weights(li, lf, float("-inf"), L, EXP)
    S = _scores(P, A, scale, L)
    nothing = tl.zeros([L], tl.float32)
    r, dden, slope = _row_terms(S, U, m, nothing, nothing, eps, L)
    out = row * T * H + head
    d_i, d_later, d_first = _gate_sums(S, U, r, dden, -eps * slope, nothing, best, wins, L, EXP)
    _store_gates(di + out, df + out, i, f, H, i_t, f_t, 0, at, length, d_i, d_later, d_first, EXP, REVERSE, L)
    dP = _slopes(A, U, r, dden, scale, L)
    for d in range(0, DK, BK):
        empty = tl.zeros([L, BK], tl.float32)
        X = dot_left(dP, rows_of(k, at, k_t, exists, d, DK, BK), empty, MODE)
        _store_rows(dq + out * DK, at, H * DK, exists, d, X, DK, BK)
        X = dot_left(tl.trans(dP), rows_of(q, at, q_t, exists, d, DK, BK), empty, MODE)
        _store_rows(dk + out * DK, at, H * DK, exists, d, X, DK, BK)
    S = tl.trans(S * r[:, None])
    for d in range(0, DV, BV):
        X = dot_left(S, rows_of(dh, at, dh_t, exists, d, DV, BV), tl.zeros([L, BV], tl.float32), MODE)
        _store_rows(dv + out * DV, at, H * DV, exists, d, X, DV, BV)


def _power(x: int) -> int:
    return 1 << (x - 1).bit_length() if x > 1 else 1


def _layout(x: Tensor, *others: Tensor) -> list[int]:
    """Strides of batch, time and head, tensor after tensor."""
    return [step for y in (x, *others) for step in y.stride()[:3]]


@dataclass(frozen=True)
class _Plan:
    """How a call is cut up. Depends on nothing but T, the head's size and the type, so neither do the bits."""

    steps: int
    heads: int
    dk: int
    dv: int
    chunk: int
    chunks: int
    segments: int
    tile_k: int
    tile_v: int
    mode: int

    @classmethod
    def of(cls, q: Tensor, v: Tensor, chunk_size: int | None) -> _Plan:
        _, steps, heads, dk = q.shape
        chunk = min(64, max(16, _power(min(steps, chunk_size or steps))))
        chunks = -(-steps // chunk)
        widest = 32 if q.dtype == torch.float32 else 64
        tile_k, tile_v = (min(widest, max(16, _power(d))) for d in (dk, v.shape[-1]))
        mode = 0 if q.device.type == "cpu" else _MODES[q.dtype]  # the interpreter multiplies float32 alone
        segments = -(-chunks // states_of.SEGMENT)
        return cls(steps, heads, dk, v.shape[-1], chunk, chunks, segments, tile_k, tile_v, mode)

    @property
    def warps(self) -> int:
        """Of the kernels that hold several (chunk, chunk) tables: few enough registers a thread."""
        return 8 if self.chunk == 64 else 4

    @property
    def tiles(self) -> int:
        """Tiles of a state."""
        return -(-self.dk // self.tile_k) * -(-self.dv // self.tile_v)

    def batch_rows(self) -> int:
        """Batch rows whose states fit into _STATE_BYTES."""
        return max(1, _STATE_BYTES // (8 * self.heads * self.chunks * (self.dv + 1) * self.dk))


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
    """As xecg.ops.reference.mlstm.backward, for float32, bfloat16 and float16; dC0, dn0, dm0 are float32.

    float32 products are IEEE; half-precision inputs are multiplied exactly and float32 terms enter their products in two parts.
    chunk_size is rounded up to 16, 32 or 64. States before each chunk take up to 1 GiB; a larger batch goes in parts.
    """
    (B, T, H, DK), DV = q.shape, v.shape[-1]
    dh = dh.to(v.dtype)
    dh = dh if dh.stride(-1) == 1 else dh.contiguous()
    make = torch.empty if lengths is None else torch.zeros
    grads = [make(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v, i, f)]
    first = _floats(C0, n0, m0)
    last: tuple[Tensor | None, ...] = (dC, dn, dm)
    sizes: tuple[tuple[int, ...], ...] = ((B, H, DK, DV), (B, H, DK), (B, H))
    if any(x is not None for x in last):
        zeros = (torch.zeros(size, device=q.device) if x is None else x for x, size in zip(last, sizes))
        last = _floats(*zeros)
    d_first = tuple(None if x is None else torch.empty_like(x) for x in first)
    if T == 0:
        for k_th, (d, x) in enumerate(zip(d_first, last)):
            if d is not None:
                d.zero_() if x is None or (k_th == 2 and gate == "sig") else d.copy_(x)
    elif B * H:
        plan = _Plan.of(q, v, chunk_size)
        stateless = plan.chunks == 1 and first[0] is None and last[0] is None
        rows = B if stateless else plan.batch_rows()
        options = {"EXP": gate == "exp", "REVERSE": reverse, "RAGGED": lengths is not None}
        with torch.cuda.device(q.device) if q.is_cuda else nullcontext():
            for b in range(0, B, rows):
                inputs, out, ends, starts, d_starts = (
                    [None if x is None else x[b : b + rows] for x in group]
                    for group in ((dh, q, k, v, i, f, lengths), grads, last, first, d_first)
                )
                if stateless:
                    _single(plan, inputs, out, scale, eps, options)
                else:
                    _chunked(plan, inputs, out, ends, starts, d_starts, scale, eps, options)
    return *grads, *d_first  # type: ignore[return-value]


def _floats(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    return tuple(None if x is None else x.float().contiguous() for x in tensors)


_Tensors = list[Any]


def _single(plan: _Plan, inputs: _Tensors, out: _Tensors, scale: float, eps: float, options: dict[str, bool]) -> None:
    streams = inputs[0].shape[0] * plan.heads
    single_kernel[(streams,)](
        *inputs, *out, *_layout(*inputs[:6]), plan.steps, plan.heads, scale, eps, **options, DK=plan.dk, DV=plan.dv,
        BK=plan.tile_k, BV=plan.tile_v, L=plan.chunk, MODE=plan.mode, num_warps=plan.warps, num_stages=2,
    )  # fmt: skip


def _chunked(
    plan: _Plan, inputs: _Tensors, out: _Tensors, last: _Tensors, first: _Tensors, d_first: _Tensors, scale: float, eps: float,
    options: dict[str, bool],
) -> None:  # fmt: skip
    dh, q, k, v, i, f, lengths = inputs
    dq, *other_grads = out
    p, N, exp = plan, dh.shape[0] * plan.heads, options["EXP"]
    has_first, has_last = first[0] is not None, last[0] is not None

    def floats(*size: int) -> Tensor:
        return torch.empty(size, device=q.device, dtype=torch.float32)

    tiling = {"DK": p.dk, "DV": p.dv, "BK": p.tile_k, "BV": p.tile_v, "L": p.chunk, "MODE": p.mode}
    meta = {**options, **tiling, "num_stages": 2}
    counts = (p.steps, p.heads, p.chunks)
    m, gamma = floats(N, p.chunks + 1), floats(N, p.chunks + 1)
    decays, tops, passed = (floats(N, p.chunks) for _ in range(3))
    weights, rows = floats(N, p.chunks * p.chunk), floats(_ROWS, N, p.chunks * p.chunk)
    before, after = ((floats(N, p.chunks, p.dk, p.dv), floats(N, p.chunks, p.dk)) for _ in range(2))
    boundary, ends, starts = floats(N, p.chunks, p.tiles), floats(N, p.tiles), floats(N, p.tiles)

    chunk_gates_kernel[(N,)](
        i, f, first[2], lengths, m, decays, tops, weights, *_layout(i, f), *counts, **options, STATE=has_first, L=p.chunk,
        BLOCK=16, num_warps=4,
    )  # fmt: skip
    _walk(
        p, k, v, weights, weights, decays, m, lengths, first, last, before, None, ends, (None, None), meta, back=False
    )
    layout, plane = _layout(*inputs[:6]), rows.stride(0)
    query_kernel[(N * p.chunks,)](
        *inputs, *before, m, rows, passed, dq, *layout, *counts, plane, scale, eps, STATE=has_first, **meta,
        num_warps=p.warps,
    )  # fmt: skip
    _walk(
        p, q, dh, rows[4], rows[5], decays, m, lengths, last, before, after, boundary, starts, d_first, meta, back=True
    )
    if exp:
        end = last[2].flatten() - ends.sum(1) if has_last else None
        passed_on_kernel[(N,)](
            m, decays, tops, passed, end, lengths, gamma, *counts, RAGGED=options["RAGGED"], END=has_last, L=p.chunk,
            BLOCK=64, num_warps=1,
        )  # fmt: skip
    key_kernel[(N * p.chunks,)](
        *inputs, *after, m, tops, decays, weights, rows, boundary, gamma, *other_grads, *layout, *counts, plane, scale,
        END=has_last, **meta, num_warps=p.warps,
    )  # fmt: skip
    if has_first:
        d_first[2].copy_((starts.sum(1) + gamma[:, 0]).view_as(d_first[2]) if exp else torch.zeros_like(d_first[2]))


def _walk(
    plan: _Plan, x: Tensor, y: Tensor, weights: Tensor, weights_n: Tensor, decays: Tensor, m: Tensor, lengths: Tensor | None,
    first: _Tensors, other: Any, found: tuple[Tensor, Tensor], boundary: Tensor | None, ends: Tensor, last: Any,
    meta: dict[str, Any], *, back: bool,
) -> None:  # fmt: skip
    """States before the chunks, or with `back` their gradients after them: `found`. Arguments as walk_kernel's."""
    p, N, G = plan, found[0].shape[0], plan.segments
    has_first, has_last = first[0] is not None, (last if back else other)[0] is not None
    split = G > 1 and N * p.tiles < _WALKS
    segments: list[Tensor | None] = [None, None, None]
    if split:
        segments = [torch.empty((N, G, *s), device=x.device, dtype=torch.float32) for s in ((p.dk, p.dv), (p.dk,), ())]

    def go(programs: int, passes: int) -> None:
        walk_kernel[(programs,)](
            x, y, weights, weights_n, decays, m, lengths, *first[:2], *segments, *found, *other[:2], boundary, ends, *last[:2],
            *_layout(x, y), p.steps, p.heads, p.chunks, G, BACK=back, FIRST=has_first, LAST=has_last, PASS=passes,
            SEGMENT=states_of.SEGMENT, **meta, num_warps=4,
        )  # fmt: skip

    if not split:
        go(N * p.tiles, 0)
        return
    go(N * p.tiles * G, 1)
    block = min(1024, _power(p.dk * p.dv))
    scan_kernel[(N * -(-p.dk * p.dv // block),)](
        *first[:2], m, *segments, p.chunks, G, BACK=back, EXP=meta["EXP"], FIRST=has_first, DK=p.dk, DV=p.dv, BLOCK=block,
        num_warps=4,
    )  # fmt: skip
    go(N * p.tiles * G, 2)
