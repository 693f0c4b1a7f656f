"""How the mLSTM kernels in Triton are launched: tile sizes, warps and stages by type and head size. No search at run time.

To re-tune: change a row; run `pytest -sm slow tests/ops/test_triton_mlstm_compile.py`, which compiles every row for sm_80 and sm_90
without a GPU, prints registers and shared memory and holds spills to their bound; then time `xecg.ops.mlstm` on the GPU at the shapes
that matter and keep the faster row. Not yet run on a GPU: the rows follow from the arithmetic beside them, not from timings.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch

__all__ = ["SCAN_BLOCK", "Plan", "Tile", "plan", "processors", "step_tile"]

SCAN_BLOCK = 512  # entries of C a program of the scan; n rides with the first, so no less than the widest head
WIDEST = 512  # features of a head
_WITHOUT_GPU = 132  # processors that the interpreter pretends to have
_STATE_BYTES = 2**30  # states between the chunks of one part of a sequence


@dataclass(frozen=True)
class Tile:
    """One launch: sizes of its tiles (constants of the kernel), warps, stages, programs a stream and segment."""

    sizes: dict[str, int]
    warps: int
    stages: int
    programs: int


@dataclass(frozen=True)
class Plan:
    """One call: `way` as in _mlstm_forward; `out` writes outputs (`stateless` too), `sums` makes states; segments of `steps` steps."""

    way: str
    out: Tile
    stateless: Tile
    sums: Tile
    segments: int = 1
    steps: int = 0


# Keys are bytes an entry: 2 half precision, 4 float32. Rows are BK, BV, warps, stages.
#
# Steps a chunk. P, A and S are L × L float32: 64 × 64 × 4 B = 16 kB = 32 registers a thread of 4 warps each. float32 products run on
# FMA units, which hold whole rows of both factors in registers: at L = 64 they spill (336 B a thread and more).
_STEPS = {2: 64, 4: 32}

# One chunk without states: a stage of the first loop is q and k, 2 · L · BK · size = 16 kB (8 kB), of the second v, L · BV · size.
_STATELESS = {2: (64, 64, 4, 2), 4: (32, 32, 4, 1)}

# One chunk with states: beside these a tile of C, BK · BV · 4 B = 8 kB, cut in two for the product; BK = 64 spills on sm_80.
_CHUNK = {2: (32, 64, 4, 2), 4: (32, 32, 4, 1)}

# Sums of segments: C's tile BK · BV · 4 B = 16 kB (4 kB) in registers, 32 (8) a thread; k and v, L · (BK + BV) · size a stage.
_SUMS = {2: (64, 64, 4, 1), 4: (32, 32, 4, 1)}

# Walks keep all DK rows of BV columns of C in registers; half precision only, by padded DK: L, BV, warps, stages. Products of mma.sync
# hold a factor of DK × BV or DK × L, in 2 bytes, in the registers of every warp: 128 × 32 · 2 B / 32 lanes = 64 registers.
# Wider heads spill (at 256: 432 B a thread), as does float32 (at 128: 10 kB), and go by tiles.
# float16 goes through tf32 products, twice the bytes: L = 64 spills there.
_WALK = {
    torch.bfloat16: {64: (64, 32, 8, 2), 128: (32, 32, 8, 2)},
    torch.float16: {64: (32, 32, 8, 2), 128: (32, 32, 8, 2)},
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
    """The launches of a call of `streams` = B·H sequences of T steps on a GPU of `units` processors."""
    size = dtype.itemsize
    rows = _WALK.get(dtype, {})
    on_chip = max(rows, default=0) >= DK
    L = _STEPS[size]
    if way is None and T <= L and (chunk_size is None or chunk_size >= T):
        way = "chunk"
    if way == "chunk":
        return _plan("chunk", streams, DK, DV, size, _power(T, 16, 64), units)
    if chunk_size is not None:
        L = min(L, 1 << max(chunk_size.bit_length() - 1, 4))
    if way == "tiles" or (way is None and not on_chip):
        segments = min(max(_STATE_BYTES // (4 * streams * DK * DV), 1), -(-T // L))
        return _plan("tiles", streams * segments, DK, DV, size, L, units, segments=segments, steps=L)
    walk, BV, warps, stages = rows.get(_power(DK, 64, WIDEST), (32, 32, 8, 1))  # the last only when asked for
    L, BK, BV = min(L, walk), _power(DK, 16, WIDEST), _power(DV, 16, BV)
    out = Tile({"L": L, "BK": BK, "BV": BV}, warps, stages, -(-DV // BV))
    chunks = max(-(-T // L), 1)
    # Two programs a processor hide each other's latencies; a segment under 4 chunks costs more in states than it gains.
    segments = min(-(-2 * units // (streams * out.programs)), chunks // 4)
    if way is None:
        way = "split" if segments >= 3 else "walk"  # the split reads k and v twice: under three segments it cannot win
    each = chunks if way == "walk" else -(-chunks // max(segments, 2))
    segments = -(-chunks // each)
    return _plan(way, streams * segments, DK, DV, size, L, units, out=out, segments=segments, steps=each * L)


def _plan(
    way: str,
    streams: int,
    DK: int,
    DV: int,
    size: int,
    L: int,
    units: int,
    *,
    out: Tile | None = None,
    segments: int = 1,
    steps: int = 0,
) -> Plan:
    chunk, stateless = (_chunk(streams, DK, DV, L, units, row[size]) for row in (_CHUNK, _STATELESS))
    BK, BV, warps, stages = _SUMS[size]
    BK, BV = _power(DK, 16, BK), _power(DV, 16, BV)
    sums = Tile({"L": L, "BK": BK, "BV": BV}, warps, stages, -(-DK // BK) * -(-DV // BV))
    return Plan(way, out or chunk, stateless, sums, segments, steps)


def _chunk(streams: int, DK: int, DV: int, L: int, units: int, row: tuple[int, int, int, int]) -> Tile:
    BK, BV, warps, stages = row
    BK, BV = _power(DK, 16, BK), _power(DV, 16, BV)
    tiles = -(-DV // BV)
    # q and k are read once a program: more than one program a stream and chunk only while processors are idle.
    span = BV * -(-tiles // min(tiles, max(1, 2 * units // max(streams, 1))))
    return Tile({"L": L, "BK": BK, "BV": BV, "SPAN": span}, warps, stages, -(-DV // span))


@cache
def step_tile(DK: int, DV: int) -> Tile:
    """The launch of one step: C's tile, BK · BV · 4 B (at most 512 × 32: 64 kB), is read and written once, from registers."""
    BK, BV = _power(DK, 16, WIDEST), _power(DV, 16, 32)
    return Tile({"BK": BK, "BV": BV}, 4 if BK <= 256 else 8, 1, -(-DV // BV))
