"""mLSTM forward in Triton, the part that walks along a sequence with C on the chip. Not yet run on a GPU.

A sequence is cut into segments whose length depends on the head's size alone. A program sums each segment from the empty state and
holds the state before the segment beside that sum; the state at a step is the two folded into one. One program that walks all segments
and programs that walk one each, with a scan over the segments between, so do the same operations in the same order: the bits of a
sequence do not depend on how many others there are.
"""
# mypy: allow-untyped-defs, disable-error-code="assignment"

from __future__ import annotations

import triton
import triton.language as tl

from xecg.ops.triton._mlstm_tiles import (
    LOWEST,
    dot_inputs,
    dot_left,
    dot_right,
    end_of,
    finite,
    first_top,
    gates_of,
    held_of,
    last_of,
    length_of,
    load_tile,
    normaliser,
    place_of,
    rows_of,
    scores_of,
    state_tile,
    store_rows,
    values_times,
    weights_of,
)

__all__ = ["scan_kernel", "states_kernel", "walk_kernel"]


@triton.jit
def _zeros(TILES: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr):
    """Tiles (BK, BV) of C and (BK) of n, one below the other: nothing. Not yet run on a GPU."""
    memory, normal = (), ()
    for _ in tl.static_range(TILES):
        memory += (tl.zeros([BK, BV], tl.float32),)
        normal += (tl.zeros([BK], tl.float32),)
    return memory, normal


@triton.jit
def _joined(decay, before, local_top, EXP: tl.constexpr):
    """keep, gain and m: factors of the state before a segment (m `before`) and of the segment's sum (m `local_top`) in their sum.

    decay: float64 sum of the log forget gates between. Not yet run on a GPU.
    """
    start = (decay + before.to(tl.float64)).to(tl.float32)
    top = before
    if EXP:
        top = tl.maximum(start, local_top, propagate_nan=tl.PropagateNan.ALL)
    return tl.exp(start - finite(top)), tl.exp(local_top - finite(top)), top


@triton.jit
def _fold(keep, x, gain, y):
    """keep x + gain y, rounded alike wherever it stands: no compiler chooses which product it fuses. Not yet run on a GPU."""
    return tl.fma(tl.zeros_like(x) + keep, x, gain * y)


@triton.jit
def walk_kernel(
    q, k, v, i, f, C0, n0, m0, lengths, h, C, n, m, decays,
    q_b, q_t, q_h, k_b, k_t, k_h, v_b, v_t, v_h, i_b, i_t, i_h, f_b, f_t, f_h, h_b, h_t, h_h, T, H, scale, eps, slots, steps,
    origin,
    EXP: tl.constexpr, REVERSE: tl.constexpr, RAGGED: tl.constexpr, STATE: tl.constexpr, START: tl.constexpr, OUT: tl.constexpr,
    END: tl.constexpr, SEGMENT: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, L: tl.constexpr, BK: tl.constexpr,
    BV: tl.constexpr, MODE: tl.constexpr,
):  # fmt: skip
    """`steps` steps (a slot: whole segments) from step `origin` on of one stream, BV columns of its state, all rows in tiles of BK.

    C0, n0, m0 (streams, slots, …): the state at each slot's start, with STATE; C, n, m alike: at its end, with END. START: a segment
    may begin with a state. decays (streams, slots) float64, with END and without OUT: sum of the slot's log forget gates.
    Not yet run on a GPU.
    """
    columns: tl.constexpr = (DV + BV - 1) // BV
    tiles: tl.constexpr = (DK + BK - 1) // BK
    pid = tl.program_id(0)
    e = pid % columns * BV
    slot = (pid // columns).to(tl.int64)
    s = slot // slots
    row, head = s // H, s % H
    begin = origin + (slot % slots).to(tl.int32) * steps
    q += row * q_b + head * q_h
    k += row * k_b + head * k_h
    v += row * v_b + head * v_h
    i += row * i_b + head * i_h
    f += row * f_b + head * f_h
    h += row * h_b + head * h_h
    length = length_of(lengths, row, T, RAGGED)
    lane = tl.arange(0, BK)
    nothing = first_top(m0, slot, EXP, False)
    top = first_top(m0, slot, EXP, STATE)
    start, start_n = _zeros(tiles, BK, BV)
    if STATE:
        held = held_of(top, DK, EXP)
        start, start_n = (), ()
        for j in tl.static_range(tiles):
            start += (load_tile(C0 + slot * DK * DV, j * BK, e, held, DK, DV, BK, BV),)
            start_n += (tl.load(n0 + slot * DK + j * BK + lane, mask=j * BK + lane < held, other=0.0),)
    local, local_n = _zeros(tiles, BK, BV)
    local_top = nothing
    decay = tl.full([], 0.0, tl.float64)

    for first in range(begin, tl.minimum(begin + steps, length), SEGMENT):
        local, local_n = _zeros(tiles, BK, BV)
        local_top = nothing
        decay = tl.full([], 0.0, tl.float64)
        for now in range(first, tl.minimum(first + SEGMENT, length), L):
            p = now + tl.arange(0, L)
            exists = p < length
            at = place_of(p, length, REVERSE)
            li, b, resets = gates_of(i, f, i_t, f_t, at, exists, EXP)
            values = rows_of(v, at, v_t, exists, e, DV, BV)
            if OUT:
                before = local_top
                if START:
                    keep, gain, before = _joined(decay, top, local_top, EXP)
                P, num = tl.zeros([L, L], tl.float32), tl.zeros([L, BV], tl.float32)
                den = tl.zeros([L], tl.float32)
                for j in tl.static_range(tiles):
                    queries = rows_of(q, at, q_t, exists, j * BK, DK, BK)
                    P = dot_inputs(queries, tl.trans(rows_of(k, at, k_t, exists, j * BK, DK, BK)), P, MODE)
                    memory, normal = local[j], local_n[j]
                    if START:
                        memory, normal = _fold(keep, start[j], gain, memory), _fold(keep, start_n[j], gain, normal)
                    num = dot_right(queries, memory, num, MODE)
                    den += tl.sum(queries.to(tl.float32) * normal[None, :], axis=1)
                A, a, tops = weights_of(li, b, resets, before, L, EXP)
                S = scores_of(P, A, scale, L)
                a *= scale
                r = normaliser(tl.sum(S, axis=1) + a * den, tops, eps, EXP)
                num = values_times(S, values, a[:, None] * num, L, MODE) * r[:, None]
                store_rows(h, at, h_t, exists, e, num, DV, BV)
            w, w0, local_top = end_of(li, b, resets, local_top, L, EXP)
            after, after_n = (), ()
            for j in tl.static_range(tiles):
                weighed = w[:, None] * rows_of(k, at, k_t, exists, j * BK, DK, BK).to(
                    tl.float32
                )  # held from above, they spill
                after += (dot_left(tl.trans(weighed), values, w0 * local[j], MODE),)
                after_n += (w0 * local_n[j] + tl.sum(weighed, axis=0),)
            local, local_n = after, after_n
            total = decay + last_of(b, L)
            decay = tl.where((last_of(resets, L) > 0) & (total == total), float("-inf"), total)
        if START:
            keep, gain, top = _joined(decay, top, local_top, EXP)
            after, after_n = (), ()
            for j in tl.static_range(tiles):
                after += (_fold(keep, start[j], gain, local[j]),)
                after_n += (_fold(keep, start_n[j], gain, local_n[j]),)
            start, start_n = after, after_n

    if RAGGED and OUT:
        for now in range(tl.maximum(begin, length), tl.minimum(begin + steps, T), L):
            p = now + tl.arange(0, L)
            zero = tl.zeros([L, BV], tl.float32)
            store_rows(h, p.to(tl.int64), h_t, p < tl.minimum(begin + steps, T), e, zero, DV, BV)
    if END:
        if not START:
            start, start_n, top = local, local_n, local_top
        for j in tl.static_range(tiles):
            place, inside = state_tile(C + slot * DK * DV, j * BK, e, DK, DV, BK, BV)
            tl.store(place, start[j], mask=inside)
            tl.store(n + slot * DK + j * BK + lane, start_n[j], mask=j * BK + lane < tl.where(e == 0, DK, 0))
        if e == 0:
            tl.store(m + slot, tl.where(top == float("-inf"), LOWEST, top))
            if not OUT:
                tl.store(decays + slot, decay)


@triton.jit
def states_kernel(
    k, v, i, f, C0, n0, m0, lengths, C, n, tops, last_C, last_n, last_m,
    k_b, k_t, k_h, v_b, v_t, v_h, i_b, i_t, i_h, f_b, f_t, f_h, T, H, chunks, origin,
    EXP: tl.constexpr, REVERSE: tl.constexpr, RAGGED: tl.constexpr, STATE: tl.constexpr, END: tl.constexpr,
    DK: tl.constexpr, DV: tl.constexpr, L: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, MODE: tl.constexpr,
):  # fmt: skip
    """C, n, tops (streams, chunks, …): the state before each of `chunks` chunks of L steps from step `origin` on; one tile (BK, BV).

    C0, n0, m0: the state there, with STATE; last_C, last_n, last_m: the one after the last chunk, with END. Not yet run on a GPU.
    """
    columns: tl.constexpr = (DV + BV - 1) // BV
    tiles: tl.constexpr = (DK + BK - 1) // BK * columns
    pid = tl.program_id(0)
    tile = pid % tiles
    d, e = tile // columns * BK, tile % columns * BV
    s = (pid // tiles).to(tl.int64)
    row, head = s // H, s % H
    k += row * k_b + head * k_h
    v += row * v_b + head * v_h
    i += row * i_b + head * i_h
    f += row * f_b + head * f_h
    length = length_of(lengths, row, T, RAGGED)
    lane = d + tl.arange(0, BK)
    in_n = lane < tl.where(e == 0, DK, 0)
    top = first_top(m0, s, EXP, STATE)
    memory, normal = tl.zeros([BK, BV], tl.float32), tl.zeros([BK], tl.float32)
    if STATE:
        held = held_of(top, DK, EXP)
        memory = load_tile(C0 + s * DK * DV, d, e, held, DK, DV, BK, BV)
        normal = tl.load(n0 + s * DK + lane, mask=lane < held, other=0.0)
    for c in range(0, chunks):
        slot = s * chunks + c
        place, inside = state_tile(C + slot * DK * DV, d, e, DK, DV, BK, BV)
        tl.store(place, memory, mask=inside)
        tl.store(n + slot * DK + lane, normal, mask=in_n)
        tl.store(tops + slot, top, mask=tile == 0)
        p = origin + c * L + tl.arange(0, L)
        exists = p < length
        at = place_of(p, length, REVERSE)
        li, b, resets = gates_of(i, f, i_t, f_t, at, exists, EXP)
        w, w0, top = end_of(li, b, resets, top, L, EXP)
        weighed = w[:, None] * rows_of(k, at, k_t, exists, d, DK, BK).to(tl.float32)
        values = rows_of(v, at, v_t, exists, e, DV, BV)
        memory = dot_left(tl.trans(weighed), values, w0 * memory, MODE)
        normal = w0 * normal + tl.sum(weighed, axis=0)
    if END:
        place, inside = state_tile(last_C + s * DK * DV, d, e, DK, DV, BK, BV)
        tl.store(place, memory, mask=inside)
        tl.store(last_n + s * DK + lane, normal, mask=in_n)
        if tile == 0:
            tl.store(last_m + s, tl.where(top == float("-inf"), LOWEST, top))


@triton.jit
def scan_kernel(
    C0, n0, m0, C, n, m, decays, tops, last_C, last_n, last_m, slots,
    EXP: tl.constexpr, STATE: tl.constexpr, END: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """In C, n (streams, slots, …): what each slot makes of the empty state becomes the state at its start; m there goes to tops.

    One program per stream and BLOCK ≥ DK entries of C; the first of a stream has n and m too. Not yet run on a GPU.
    """
    size: tl.constexpr = DK * DV
    blocks: tl.constexpr = (size + BLOCK - 1) // BLOCK
    pid = tl.program_id(0)
    s = (pid // blocks).to(tl.int64)
    block = pid % blocks
    lane = tl.arange(0, BLOCK)
    e = block * BLOCK + lane
    in_C, in_n = e < size, e < DK
    top = first_top(m0, s, EXP, STATE)
    now, now_n = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    if STATE:
        held = held_of(top, DK, EXP)
        now = tl.load(C0 + s * size + e, mask=e < held * DV, other=0.0)
        now_n = tl.load(n0 + s * DK + lane, mask=in_n & (lane < held), other=0.0)
    for g in range(0, slots):
        slot = s * slots + g
        local = tl.load(C + slot * size + e, mask=in_C, other=0.0)
        local_n = tl.load(n + slot * DK + lane, mask=in_n, other=0.0)
        tl.store(C + slot * size + e, now, mask=in_C)
        tl.store(n + slot * DK + lane, now_n, mask=in_n)
        if block == 0:
            tl.store(tops + slot, top)
        keep, gain, top = _joined(tl.load(decays + slot), top, first_top(m, slot, EXP, True), EXP)
        now, now_n = _fold(keep, now, gain, local), _fold(keep, now_n, gain, local_n)
    if END:
        tl.store(last_C + s * size + e, now, mask=in_C)
        tl.store(last_n + s * DK + lane, now_n, mask=in_n)
        if block == 0:
            tl.store(last_m + s, tl.where(top == float("-inf"), LOWEST, top))
