"""mLSTM forward in Triton. Ways through a sequence, by its length, type and head size and by how many streams fill the device:

    chunk   one chunk: one program per stream and range of value features. P = q kᵀ is summed over tiles of DK, the state before and
            after goes through memory tile by tile, and not at all where there is none.
    walk    one program per stream and tile of value features walks the chunks and keeps its columns of C on the chip.
    split   too few streams: each segment of the walk has its program. Pass 1 sums each from the empty state (k and v only), pass 2
            scans over the segments, pass 3 walks each from the state at its start and writes the outputs. The bits are the walk's.
    tiles   heads too wide for the chip, and float32: one program per stream and tile of C walks the chunks and writes C before each,
            then every chunk has its programs, as in `chunk`; parts of the sequence follow one another so that the states stay within
            a budget of memory.

No way, and no bit of a result, depends on how many streams there are, except that `split` stands in for `walk`.
The kernels read strided views and run reversed time by index arithmetic. Not yet run on a GPU.
"""
# mypy: allow-untyped-defs

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from xecg.ops.triton import _mlstm_configs as configs
from xecg.ops.triton._mlstm_configs import Tile
from xecg.ops.triton._mlstm_tiles import (
    LOWEST,
    MODES,
    dot_inputs,
    dot_left,
    dot_right,
    end_of,
    first_top,
    gates_of,
    held_of,
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
from xecg.ops.triton._mlstm_walk import scan_kernel, states_kernel, walk_kernel

__all__ = ["chunk_kernel", "device_of", "forward"]


@triton.jit
def chunk_kernel(
    q, k, v, i, f, C0, n0, m0, lengths, h, C, n, m,
    q_b, q_t, q_h, k_b, k_t, k_h, v_b, v_t, v_h, i_b, i_t, i_h, f_b, f_t, f_h, h_b, h_t, h_h, T, H, scale, eps, chunks, origin,
    EXP: tl.constexpr, REVERSE: tl.constexpr, RAGGED: tl.constexpr, STATE: tl.constexpr, END: tl.constexpr,
    DK: tl.constexpr, DV: tl.constexpr, L: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, SPAN: tl.constexpr,
    MODE: tl.constexpr,
):  # fmt: skip
    """One of `chunks` chunks of L steps from step `origin` on, of one stream; SPAN value features a program, in tiles of BV.

    C0, n0, m0 (streams, chunks, …): the state before each, with STATE; C, n, m alike: after it, with END. Not yet run on a GPU.
    """
    spans: tl.constexpr = (DV + SPAN - 1) // SPAN
    pid = tl.program_id(0)
    s = (pid // spans).to(tl.int64)
    part = pid % spans
    row, head = s // chunks // H, s // chunks % H
    q += row * q_b + head * q_h
    k += row * k_b + head * k_h
    v += row * v_b + head * v_h
    h += row * h_b + head * h_h
    length = length_of(lengths, row, T, RAGGED)
    p = origin + (s % chunks).to(tl.int32) * L + tl.arange(0, L)
    exists = p < length
    at = place_of(p, length, REVERSE)
    li, b, resets = gates_of(i + row * i_b + head * i_h, f + row * f_b + head * f_h, i_t, f_t, at, exists, EXP)
    before = first_top(m0, s, EXP, STATE)
    held = held_of(before, DK, EXP)

    P = tl.zeros([L, L], tl.float32)
    qn = tl.zeros([L], tl.float32)
    for d in range(0, DK, BK):
        queries = rows_of(q, at, q_t, exists, d, DK, BK)
        P = dot_inputs(queries, tl.trans(rows_of(k, at, k_t, exists, d, DK, BK)), P, MODE)
        if STATE:
            lane = d + tl.arange(0, BK)
            normal = tl.load(n0 + s * DK + lane, mask=lane < held, other=0.0)
            qn += tl.sum(queries.to(tl.float32) * normal[None, :], axis=1)
    A, a, top = weights_of(li, b, resets, before, L, EXP)
    S = scores_of(P, A, scale, L)
    a *= scale
    r = normaliser(tl.sum(S, axis=1) + a * qn, top, eps, EXP)
    for e in range(part * SPAN, tl.minimum(part * SPAN + SPAN, DV), BV):
        num = tl.zeros([L, BV], tl.float32)
        if STATE:
            for d in range(0, DK, BK):
                tile = load_tile(C0 + s * DK * DV, d, e, held, DK, DV, BK, BV)
                num = dot_right(rows_of(q, at, q_t, exists, d, DK, BK), tile, num, MODE)
            num *= a[:, None]
        num = values_times(S, rows_of(v, at, v_t, exists, e, DV, BV), num, L, MODE) * r[:, None]
        store_rows(h, at, h_t, exists, e, num, DV, BV)
        if RAGGED:
            store_rows(h, p.to(tl.int64), h_t, (p >= length) & (p < T), e, tl.zeros([L, BV], tl.float32), DV, BV)

    if END:
        w, w0, last = end_of(li, b, resets, before, L, EXP)
        if part == 0:
            tl.store(m + s, tl.where(last == float("-inf"), LOWEST, last))
        for d in range(0, DK, BK):
            weighed = w[:, None] * rows_of(k, at, k_t, exists, d, DK, BK).to(tl.float32)
            if part == 0:
                lane = d + tl.arange(0, BK)
                normal = tl.sum(weighed, axis=0)
                if STATE:
                    normal += w0 * tl.load(n0 + s * DK + lane, mask=lane < held, other=0.0)
                tl.store(n + s * DK + lane, normal, mask=lane < DK)
            for e in range(part * SPAN, tl.minimum(part * SPAN + SPAN, DV), BV):
                tile = tl.zeros([BK, BV], tl.float32)
                if STATE:
                    tile = w0 * load_tile(C0 + s * DK * DV, d, e, held, DK, DV, BK, BV)
                values = rows_of(v, at, v_t, exists, e, DV, BV)
                place, inside = state_tile(C + s * DK * DV, d, e, DK, DV, BK, BV)
                tl.store(place, dot_left(tl.trans(weighed), values, tile, MODE), mask=inside)


def device_of(x: Tensor) -> AbstractContextManager[Any]:
    """Launches go to x's GPU; nothing to do for the interpreter's CPU tensors."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def _state(x: Tensor, streams: tuple[int, ...], dk: int, dv: int) -> list[Tensor]:
    return [x.new_empty((*streams, *size), dtype=torch.float32) for size in ((dk, dv), (dk,), ())]


@dataclass(frozen=True)
class _Call:
    """What every launch of one call shares. Not yet run on a GPU."""

    sequence: tuple[Tensor, ...]  # q, k, v, i, f
    lengths: Tensor | None
    h: Tensor
    numbers: tuple[Any, ...]  # strides, T, H, scale, eps
    options: dict[str, Any]

    def chunk(self, tile: Tile, first: list[Any], last: list[Any], end: bool, chunks: int = 1, origin: int = 0) -> None:
        streams = self.h.shape[0] * self.h.shape[2]
        chunk_kernel[(streams * chunks * tile.programs,)](
            *self.sequence, *first, self.lengths, self.h, *last, *self.numbers, chunks, origin, STATE=first[0] is not None, END=end,
            **self.options, **tile.sizes, num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip

    def walk(
        self, plan: configs.Plan, first: list[Any], last: list[Any], slots: int = 1, origin: int = 0, out: bool = True,
        end: bool = True, decays: Tensor | None = None,
    ) -> None:  # fmt: skip
        streams, tile, state = self.h.shape[0] * self.h.shape[2], plan.out, first[0] is not None
        segment = configs.segment_of(self.options["DK"], self.options["DV"])
        walk_kernel[(streams * slots * tile.programs,)](
            *self.sequence, *first, self.lengths, self.h, *last, decays, *self.numbers, slots, plan.steps, origin,
            STATE=state, START=state or (out and plan.steps > segment), OUT=out, END=end, SEGMENT=segment,
            **self.options, **tile.sizes, num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip

    def scan(self, first: list[Any], found: list[Tensor], decays: Tensor, last: list[Any], end: bool) -> Tensor:
        C, n, m = found
        streams, slots, DK, DV = C.shape
        tops = torch.empty_like(m)
        scan_kernel[(streams * triton.cdiv(DK * DV, configs.SCAN_BLOCK),)](
            *first, C, n, m, decays, tops, *last, slots, STATE=first[0] is not None, END=end, BLOCK=configs.SCAN_BLOCK,
            EXP=self.options["EXP"], DK=DK, DV=DV, num_warps=4,
        )  # fmt: skip
        return tops

    def states(
        self, tile: Tile, first: list[Any], found: list[Tensor], last: list[Any], chunks: int, origin: int, end: bool
    ) -> None:
        streams = self.h.shape[0] * self.h.shape[2]
        states_kernel[(streams * tile.programs,)](
            *self.sequence[1:], *first, self.lengths, *found, *last, *self.numbers[3:15], *self.numbers[18:20], chunks, origin,
            STATE=first[0] is not None, END=end, **self.options, **tile.sizes, num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip


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
    way: str | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As xecg.ops.reference.mlstm.forward. way: one of this file's instead of the table's choice. Not yet run on a GPU."""
    (B, T, H, DK), DV = q.shape, v.shape[-1]
    h = v.new_empty((B, T, H, DV))
    last = _state(v, (B, H), DK, DV) if want_state else [v.new_empty(0, dtype=torch.float32) for _ in range(3)]
    if B == 0 or H == 0 or (T == 0 and not want_state):
        return h, last[0], last[1], last[2]
    plan = configs.plan(B * H, T, DK, DV, v.dtype, configs.processors(v.device), chunk_size, way)
    strides = [step for x in (q, k, v, i, f, h) for step in x.stride()[:3]]
    options = {
        "EXP": gate == "exp",
        "REVERSE": reverse,
        "RAGGED": lengths is not None,
        "MODE": MODES[v.dtype],
        "DK": DK,
        "DV": DV,
    }
    call = _Call((q, k, v, i, f), lengths, h, (*strides, T, H, scale, eps), options)
    first = [None if x is None else x.contiguous() for x in (C0, n0, m0)]
    with device_of(v):
        if plan.way == "chunk":
            call.chunk(plan.alone if first[0] is None and not want_state else plan.out, first, last, want_state)
        elif plan.way == "walk":
            call.walk(plan, first, last, end=want_state)
        else:
            _in_parts(call, plan, first, last, want_state)
    return h, last[0], last[1], last[2]


def _in_parts(call: _Call, plan: configs.Plan, first: list[Any], last: list[Any], want_state: bool) -> None:
    """`split` and `tiles`: parts of plan.slots · plan.steps steps, one after the other."""
    (B, T, H), DK, DV = call.h.shape[:3], call.options["DK"], call.options["DV"]
    for origin in range(0, max(T, 1), plan.slots * plan.steps):
        slots = min(plan.slots, max(triton.cdiv(T - origin, plan.steps), 1))
        final = origin + slots * plan.steps >= T
        after = last if final else _state(call.h, (B, H), DK, DV)
        end = want_state or not final
        found = _state(call.h, (B * H, slots), DK, DV)
        if plan.way == "tiles":
            call.states(plan.states, first, found, after, slots, origin, end)
            call.chunk(plan.out, found, [None] * 3, False, slots, origin)
        else:
            decays = torch.empty_like(found[2], dtype=torch.float64)
            call.walk(plan, [None] * 3, found, slots, origin, out=False, decays=decays)
            tops = call.scan(first, found, decays, after, end)
            call.walk(plan, [*found[:2], tops], [None] * 3, slots, origin, end=False)
        first = after
