"""Pieces of the mLSTM gradient in Triton that more than one kernel uses, and the kernels that run along the chunks of a stream.

A stream is one head of one batch row; its T steps, in processing order, are cut into NC chunks of L. Symbols as in
xecg.ops.reference.mlstm. Everything here is float32, one float or one state a chunk:

    chunk_gates_kernel   m before each chunk, sum of lf and largest last-row log weight of each, weights w of its steps at its end
    walk_kernel          state before each chunk, X_{c+1} = decay_c X_c + Σ_t weight_t x_t y_tᵀ; with BACK the same from the end, which
                         is the gradient of the state after each chunk
    scan_kernel          the same over segments of SEGMENT chunks, when too few streams fill the device
    passed_on_kernel     γ: what the stabiliser of the state after each chunk receives by eps, −eps (dh·h) / (N + eps)

A walk adds up each segment from zero and puts the state at the segment's start under it, whether one program visits all segments or
each has one: the bits do not depend on how many streams there are. Not yet run on a GPU.
"""
# mypy: allow-untyped-defs

from __future__ import annotations

import triton
import triton.language as tl

from xecg.ops.triton._mlstm_tiles import LOWEST, dot_left, finite, length_of, log_sigmoid, place_of, rows_of, state_tile

SEGMENT = 8  # chunks: 512 steps of 64


@triton.jit
def log_gates(i, f, i_t, f_t, t, length, L: tl.constexpr, EXP: tl.constexpr, REVERSE: tl.constexpr):
    """Log input gate and log forget gate of steps t, and the latter one step later, 0 at a chunk's end. Steps that do not exist
    neither write (−∞) nor forget (0)."""
    at = place_of(t, length, REVERSE)
    li = tl.load(i + at * i_t, mask=t < length, other=float("-inf")).to(tl.float32)
    if not EXP:
        li = log_sigmoid(li)
    lf = tl.load(f + at * f_t, mask=t < length, other=float("inf")).to(tl.float32)
    later = (t + 1 < length) & ((t + 1) % L != 0)
    lf_later = tl.load(f + place_of(t + 1, length, REVERSE) * f_t, mask=later, other=float("inf")).to(tl.float32)
    return li, log_sigmoid(lf), log_sigmoid(lf_later)


@triton.jit
def _follow(decay, top, next_decay, next_top):
    return decay + next_decay, tl.maximum(top + next_decay, next_top)


@triton.jit
def chunk_gates_kernel(
    i, f, m0, lengths, m, decays, tops, w,
    i_b, i_t, i_h, f_b, f_t, f_h, T, H, NC,
    EXP: tl.constexpr, REVERSE: tl.constexpr, RAGGED: tl.constexpr, STATE: tl.constexpr, L: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """m (N, NC + 1), decays, tops (N, NC), w (N, NC·L) of one stream, BLOCK chunks at a time; "sig" has no m and no tops."""
    n = tl.program_id(0).to(tl.int64)
    length = length_of(lengths, n // H, T, RAGGED)
    i += n // H * i_b + n % H * i_h
    f += n // H * f_b + n % H * f_h
    before = tl.full([], float("-inf"), tl.float32)
    if STATE and EXP:
        before = tl.load(m0 + n)
        before = tl.where(before <= LOWEST, float("-inf"), before)
    if EXP:
        tl.store(m + n * (NC + 1), before)
    lane = tl.arange(0, BLOCK)
    for first in range(0, tl.cdiv(length, L), BLOCK):
        c = first + lane
        t = c[:, None] * L + tl.arange(0, L)[None, :]
        li, lf, lf_later = log_gates(i, f, i_t, f_t, t, length, L, EXP, REVERSE)
        last = li + tl.cumsum(lf_later, axis=1, reverse=True)
        decay = tl.sum(lf, axis=1)
        if EXP:
            top = tl.max(last, axis=1)
            decay_all, top_all = tl.associative_scan((decay, top), 0, _follow)
            after = tl.maximum(decay_all + before, top_all)
            before = tl.max(tl.where(lane == BLOCK - 1, after, float("-inf")), axis=0)
            last -= finite(after)[:, None]
            tl.store(m + n * (NC + 1) + c + 1, after, mask=c < NC)
            tl.store(tops + n * NC + c, top, mask=c < NC)
        tl.store(decays + n * NC + c, decay, mask=c < NC)
        tl.store(w + n * NC * L + t, tl.exp(last), mask=c[:, None] < NC)


@triton.jit
def decay_of(decays, m, n, c, NC, EXP: tl.constexpr):
    """What chunk c leaves of the state before it."""
    x = tl.load(decays + n * NC + c)
    if EXP:
        x += tl.load(m + n * (NC + 1) + c) - finite(tl.load(m + n * (NC + 1) + c + 1))
    return tl.exp(x)


@triton.jit
def walk_kernel(
    x, y, weights, weights_n, decays, m, lengths, first, first_n, segments, segments_n, segments_decay,
    states, normals, other, other_n, boundary, ends, last, last_n,
    x_b, x_t, x_h, y_b, y_t, y_h, T, H, NC, G,
    BACK: tl.constexpr, EXP: tl.constexpr, REVERSE: tl.constexpr, RAGGED: tl.constexpr, FIRST: tl.constexpr, LAST: tl.constexpr,
    PASS: tl.constexpr, SEGMENT: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    L: tl.constexpr, MODE: tl.constexpr,
):  # fmt: skip
    """One tile of the state of one stream. PASS 0: all segments; 1: the sum of one, from zero; 2: one, from its start in `segments`.

    Forward: x = k, y = v, weights = w; first = C0, n0; LAST: the state after the last chunk is multiplied with `other` = dC, dn of
    the final state into `ends` (N, tiles). BACK: x = q, y = dh; first = dC, dn; `other` = states before the chunks, `boundary`
    (N, NC, tiles) gets decay_c (C_c:dC + n_c·dn), LAST: `last` = dC0, dn0 and `ends` gets C0:dC0 + n0·dn0.
    """
    tiles_v: tl.constexpr = (DV + BV - 1) // BV
    tiles: tl.constexpr = tiles_v * ((DK + BK - 1) // BK)
    pid = tl.program_id(0)
    tile = pid % tiles
    k0, v0 = tile // tiles_v * BK, tile % tiles_v * BV
    u0 = 0
    u1 = G
    n = (pid // tiles).to(tl.int64)
    if PASS > 0:
        u0 = pid // tiles % G
        u1 = u0 + 1
        n = (pid // tiles // G).to(tl.int64)
    length = length_of(lengths, n // H, T, RAGGED)
    chunks = tl.cdiv(length, L)
    x += n // H * x_b + n % H * x_h
    y += n // H * y_b + n % H * y_h
    k = k0 + tl.arange(0, BK)
    own_n = k < DK * (v0 == 0).to(tl.int32)  # n belongs to the first column of tiles

    start, start_n = tl.zeros([BK, BV], tl.float32), tl.zeros([BK], tl.float32)
    if PASS == 2:
        at, inside = state_tile(segments + (n * G + u0) * DK * DV, k0, v0, DK, DV, BK, BV)
        start = tl.load(at, mask=inside, other=0.0)
        start_n = tl.load(segments_n + (n * G + u0) * DK + k, mask=k < DK, other=0.0)
    if PASS == 0 and FIRST:
        at, inside = state_tile(first + n * DK * DV, k0, v0, DK, DV, BK, BV)
        held = DK
        if EXP and not BACK:  # an empty state holds nothing, whatever its C and n say
            held = DK * (tl.load(m + n * (NC + 1)) != float("-inf")).to(tl.int32)
        start = tl.load(at, mask=inside & (k[:, None] < held), other=0.0)
        start_n = tl.load(first_n + n * DK + k, mask=k < held, other=0.0)
    if PASS != 1 and not BACK:  # noqa: SIM102 (known when compiling; the next is not)
        if (chunks == 0) & (u0 == 0):  # the state before the first chunk is asked for even where there is none
            at, inside = state_tile(states + n * NC * DK * DV, k0, v0, DK, DV, BK, BV)
            tl.store(at, start, mask=inside)
            tl.store(normals + n * NC * DK + k, start_n, mask=own_n)

    for u in range(u0, u1):
        segment = u
        if BACK:
            segment = G - 1 - u
        local, local_n = tl.zeros([BK, BV], tl.float32), tl.zeros([BK], tl.float32)
        kept = tl.full([], 1.0, tl.float32)
        c0 = segment * SEGMENT
        c1 = tl.minimum(c0 + SEGMENT, chunks)
        for step in range(c0, c1):
            c = step
            if BACK:
                c = c0 + c1 - 1 - step
            decay = decay_of(decays, m, n, c, NC, EXP)
            if PASS != 1:
                here, here_n = kept * start + local, kept * start_n + local_n
                at, inside = state_tile(states + (n * NC + c) * DK * DV, k0, v0, DK, DV, BK, BV)
                tl.store(at, here, mask=inside)
                tl.store(normals + (n * NC + c) * DK + k, here_n, mask=own_n)
                if BACK:
                    at, inside = state_tile(other + (n * NC + c) * DK * DV, k0, v0, DK, DV, BK, BV)
                    product = tl.sum(tl.sum(here * tl.load(at, mask=inside, other=0.0), axis=1), axis=0)
                    product += tl.sum(here_n * tl.load(other_n + (n * NC + c) * DK + k, mask=own_n, other=0.0), axis=0)
                    tl.store(boundary + (n * NC + c) * tiles + tile, decay * product)
            t = c * L + tl.arange(0, L)
            place = place_of(t, length, REVERSE)
            wx = tl.load(weights + n * NC * L + t)
            wn = tl.load(weights_n + n * NC * L + t)
            xs = rows_of(x, place, x_t, t < length, k0, DK, BK).to(tl.float32)
            ys = rows_of(y, place, y_t, t < length, v0, DV, BV)
            local = dot_left(tl.trans(wx[:, None] * xs), ys, decay * local, MODE)
            local_n = decay * local_n + tl.sum(wn[:, None] * xs, axis=0)
            kept *= decay
        if PASS == 1:
            at, inside = state_tile(segments + (n * G + u) * DK * DV, k0, v0, DK, DV, BK, BV)
            tl.store(at, local, mask=inside)
            tl.store(segments_n + (n * G + u) * DK + k, local_n, mask=own_n)
            tl.store(segments_decay + n * G + u, kept, mask=tile == 0)
        else:
            start = kept * start + local
            start_n = kept * start_n + local_n

    if LAST and PASS != 1:  # noqa: SIM102 (known when compiling; the next is not)
        if u1 == G:
            at, inside = state_tile(other + n * DK * DV, k0, v0, DK, DV, BK, BV)
            at_n = other_n + n * DK + k
            if BACK:
                at, inside = state_tile(other + n * NC * DK * DV, k0, v0, DK, DV, BK, BV)
                at_n = other_n + n * NC * DK + k
            product = tl.sum(tl.sum(start * tl.load(at, mask=inside, other=0.0), axis=1), axis=0)
            product += tl.sum(start_n * tl.load(at_n, mask=own_n, other=0.0), axis=0)
            tl.store(ends + n * tiles + tile, product)
            if BACK:
                at, inside = state_tile(last + n * DK * DV, k0, v0, DK, DV, BK, BV)
                tl.store(at, start, mask=inside)
                tl.store(last_n + n * DK + k, start_n, mask=own_n)


@triton.jit
def scan_kernel(
    first, first_n, m, segments, segments_n, segments_decay, NC, G,
    BACK: tl.constexpr, EXP: tl.constexpr, FIRST: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """In `segments`, in place: the sum of each segment becomes the state at its start. BLOCK entries of C, then those of n."""
    size: tl.constexpr = DK * DV
    blocks: tl.constexpr = (size + BLOCK - 1) // BLOCK
    pid = tl.program_id(0)
    n = (pid // blocks).to(tl.int64)
    block = pid % blocks
    e = block * BLOCK + tl.arange(0, BLOCK)
    in_n = e < DK
    now, now_n = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    if FIRST:
        held = 1
        if EXP and not BACK:
            held = (tl.load(m + n * (NC + 1)) != float("-inf")).to(tl.int32)
        now = tl.load(first + n * size + e, mask=e < size * held, other=0.0)
        now_n = tl.load(first_n + n * DK + e, mask=e < DK * held, other=0.0)
    for u in range(0, G):
        at, at_n = segments + (n * G + u) * size + e, segments_n + (n * G + u) * DK + e
        kept = tl.load(segments_decay + n * G + u)
        local = tl.load(at, mask=e < size, other=0.0)
        local_n = tl.load(at_n, mask=in_n, other=0.0)
        tl.store(at, now, mask=e < size)
        tl.store(at_n, now_n, mask=in_n)
        now = kept * now + local
        now_n = kept * now_n + local_n


@triton.jit
def _chain(share, gain, next_share, next_gain):
    return share * next_share, gain * next_share + next_gain


@triton.jit
def _sum_of(parts, n, TILES: tl.constexpr):
    """What the tiles of stream n's state give together, added in one order whatever the other streams."""
    total = tl.full([], 0.0, tl.float32)
    for tile in range(0, TILES):
        total += tl.load(parts + n * TILES + tile)
    return total


@triton.jit
def passed_on_kernel(
    m, decays, tops, passed, dm, ends, starts, lengths, gamma, dm0, T, H, NC, RAGGED: tl.constexpr, FIRST: tl.constexpr,
    END: tl.constexpr, TILES: tl.constexpr, L: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """gamma (N, NC + 1) of one stream: γ_c = passed_c + γ_{c+1} where the state before chunk c wins the maximum at its end.

    END: the last is dm less C:dC + n·dn of the final state, `ends` (N, TILES). FIRST: dm0 is the first with `starts` (N, TILES).
    """
    n = tl.program_id(0).to(tl.int64)
    chunks = tl.cdiv(length_of(lengths, n // H, T, RAGGED), L)
    after = tl.full([], 0.0, tl.float32)
    if END:
        after = tl.load(dm + n) - _sum_of(ends, n, TILES)
    tl.store(gamma + n * (NC + 1) + chunks, after)
    lane = tl.arange(0, BLOCK)
    blocks = tl.cdiv(chunks, BLOCK)
    for b in range(0, blocks):
        c = (blocks - 1 - b) * BLOCK + lane
        exists = c < chunks
        before = tl.load(m + n * (NC + 1) + c, mask=exists, other=0.0)
        before += tl.load(decays + n * NC + c, mask=exists, other=0.0)
        wins = before >= tl.load(tops + n * NC + c, mask=exists, other=float("-inf"))
        gain = tl.load(passed + n * NC + c, mask=exists, other=0.0)
        share, gains = tl.associative_scan((tl.where(wins, 1.0, 0.0), gain), 0, _chain, reverse=True)
        found = gains + share * after
        tl.store(gamma + n * (NC + 1) + c, found, mask=exists)
        after = tl.sum(tl.where(lane == 0, found, 0.0), axis=0)
    if FIRST:
        tl.store(dm0 + n, after + _sum_of(starts, n, TILES))
