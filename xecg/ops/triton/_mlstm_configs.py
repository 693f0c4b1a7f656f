"""How the mLSTM kernels in Triton are launched: tile sizes, warps and stages by type and head size. No search at run time.

To re-tune: change a row, run `pytest -m slow tests/ops/test_triton_mlstm.py` (compiles each row for sm_80 and sm_90 without a GPU and
holds shared memory, registers and spills to their bounds), then time `xecg.ops.mlstm` on the GPU at the shapes that matter and keep
the faster row. Not yet run on a GPU: the rows follow from the arithmetic beside them, not from timings.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch

__all__ = ["Plan", "SCAN_BLOCK", "StepPlan", "plan", "processors", "step_plan"]

SCAN_BLOCK = 512  # entries of C a program of the scan; n rides with the first, so no less than the widest head
WIDEST = 512  # features of a head: C's tile of 512 × 32 float32 is 64 kB, a quarter of an SM's registers
_WITHOUT_GPU = 132  # processors that the interpreter pretends to have


@dataclass(frozen=True)
class Plan:
    """One call: `way` as in _mlstm_forward, programs a stream (and segment), segments a stream, steps a segment."""

    way: str
    tiles: dict[str, int]
    warps: int
    stages: int
    programs: int
    steps: int = 0
    segments: int = 1


@dataclass(frozen=True)
class StepPlan:
    """One step: tile of C, programs a stream."""

    BK: int
    BV: int
    warps: int
    programs: int


# Sequences of T ≤ 64, per type: BK, BV, warps, stages. P and S are L × L float32: 64 × 64 × 4 B = 16 kB each = 32 registers a
# thread of 4 warps each. A stage of the first loop is q and k, 2 · 64 · BK · size bytes; of the second v, 64 · BV · size.
#   half: 2 stages · 16 kB + S as two bfloat16 (16 kB, in registers)
#   float32: 2 · 64 · 32 · 4 B = 16 kB a stage; IEEE products run on FMA units, which unroll over BK: kept small.
_CHUNK = {2: (64, 64, 4, 2), 4: (32, 32, 4, 1)}

# Long sequences, per type and padded DK: L, BV, warps, stages. On the chip: C, BK × BV float32, in registers (at 128 × 64: 32 kB,
# 64 registers a thread of 4 warps) and as product operand (half: two halves of it, BK · BV · 4 B) in shared memory; q and k, each
# L · BK · size B a stage.
_WALK = {
    (2, 64): (64, 64, 4, 2),
    (2, 128): (64, 64, 4, 2),
    (2, 256): (64, 32, 8, 1),
    (2, 512): (32, 32, 8, 1),
    (4, 64): (32, 32, 4, 1),
    (4, 128): (32, 32, 4, 1),
    (4, 256): (16, 32, 8, 1),
    (4, 512): (16, 16, 8, 1),
}


def _power(x: int, least: int, most: int) -> int:
    """Smallest power of two ≥ x, within [least, most]."""
    return min(max(least, 1 << max(x - 1, 0).bit_length()), most)


@cache
def processors(device: torch.device) -> int:
    """Streaming multiprocessors of a GPU."""
    if device.type != "cuda":
        return _WITHOUT_GPU
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


@cache
def plan(
    streams: int,
    T: int,
    DK: int,
    DV: int,
    dtype: torch.dtype,
    units: int,
    chunk_size: int | None = None,
    way: str | None = None,
) -> Plan:
    """The launch of a call of `streams` = B·H sequences of T steps on a GPU of `units` processors."""
    if way is None and T <= 64 and (chunk_size is None or chunk_size >= T):
        way = "chunk"
    if way == "chunk":
        return _chunk(streams, T, DK, DV, dtype, units)
    size = dtype.itemsize
    BK = _power(DK, 16, WIDEST)
    L, BV, warps, stages = _WALK[size, max(BK, 64)]
    BV = _power(DV, 16, BV)
    if chunk_size is not None:
        L = min(L, 1 << max(chunk_size.bit_length() - 1, 4))
    tiles = {"L": L, "BK": BK, "BV": BV, "WIDE": BK >= 256}
    programs = -(-DV // BV)
    chunks = -(-T // L)
    # Two programs a processor hide each other's latencies; a segment shorter than 4 chunks costs more in states than it gains.
    segments = min(-(-2 * units // max(streams * programs, 1)), chunks // 4)
    if way is None:
        way = "split" if segments >= 3 else "walk"  # the split walks k and v twice: under three segments it cannot win
    if way == "walk":
        return Plan("walk", tiles, warps, stages, programs, steps=max(chunks, 1) * L)
    each = -(-chunks // max(segments, 2))
    return Plan(
        "split", tiles, warps, stages, programs, steps=max(each, 1) * L, segments=max(-(-chunks // max(each, 1)), 1)
    )


def _chunk(streams: int, T: int, DK: int, DV: int, dtype: torch.dtype, units: int) -> Plan:
    BK, BV, warps, stages = _CHUNK[dtype.itemsize]
    BK, BV = _power(DK, 16, BK), _power(DV, 16, BV)
    # q and k are read once a program: more than one program a stream only while processors are idle.
    tiles = -(-DV // BV)
    programs = min(tiles, max(1, 2 * units // max(streams, 1)))
    span = BV * -(-tiles // programs)
    return Plan(
        "chunk", {"L": _power(T, 16, 64), "BK": BK, "BV": BV, "SPAN": span}, warps, stages, -(-DV // span)
    )  # fmt: skip


# A step reads and writes its tile of C once: BK · BV · 4 B in registers, 16 kB (at 512 × 32: 64 kB) over 128 threads.
@cache
def step_plan(DK: int, DV: int) -> StepPlan:
    """The launch of one step."""
    BK = _power(DK, 16, WIDEST)
    BV = _power(DV, 16, 32)
    return StepPlan(BK, BV, 4 if BK <= 256 else 8, -(-DV // BV))
