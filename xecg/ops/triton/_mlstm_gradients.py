"""The kernels of the mLSTM gradient in Triton that work on one chunk; equations in _mlstm_backward.py. Not yet run on a GPU."""
# mypy: allow-untyped-defs

from __future__ import annotations

import triton
import triton.language as tl

from xecg.ops.triton._mlstm_states import log_gates
from xecg.ops.triton._mlstm_tiles import (
    dot_inputs,
    dot_left,
    dot_right,
    finite,
    length_of,
    place_of,
    rows_of,
    scores_of,
    state_tile,
    store_rows,
)

__all__ = ["key_kernel", "query_kernel", "single_kernel"]


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
    r, dden, slope = _row_terms(scores_of(P, A, scale, L), U, m_rows, num_init, den_init, eps, L)
    g = -eps * slope
    plane = plane.to(tl.int64)  # five of them may pass 2³¹
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
        store_rows(dq, at, H * DK, exists, d, X, DK, BK)


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
    S = scores_of(P, A, scale, L)
    plane = plane.to(tl.int64)
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
        store_rows(dk + out * DK, at, H * DK, exists, d, E, DK, BK)

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
        store_rows(dv + out * DV, at, H * DV, exists, d, E, DV, BV)


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
    S = scores_of(P, A, scale, L)
    nothing = tl.zeros([L], tl.float32)
    r, dden, slope = _row_terms(S, U, m, nothing, nothing, eps, L)
    out = row * T * H + head
    d_i, d_later, d_first = _gate_sums(S, U, r, dden, -eps * slope, nothing, best, wins, L, EXP)
    _store_gates(di + out, df + out, i, f, H, i_t, f_t, 0, at, length, d_i, d_later, d_first, EXP, REVERSE, L)
    dP = _slopes(A, U, r, dden, scale, L)
    for d in range(0, DK, BK):
        empty = tl.zeros([L, BK], tl.float32)
        X = dot_left(dP, rows_of(k, at, k_t, exists, d, DK, BK), empty, MODE)
        store_rows(dq + out * DK, at, H * DK, exists, d, X, DK, BK)
        X = dot_left(tl.trans(dP), rows_of(q, at, q_t, exists, d, DK, BK), empty, MODE)
        store_rows(dk + out * DK, at, H * DK, exists, d, X, DK, BK)
    S = tl.trans(S * r[:, None])
    for d in range(0, DV, BV):
        X = dot_left(S, rows_of(dh, at, dh_t, exists, d, DV, BV), tl.zeros([L, BV], tl.float32), MODE)
        store_rows(dv + out * DV, at, H * DV, exists, d, X, DV, BV)
