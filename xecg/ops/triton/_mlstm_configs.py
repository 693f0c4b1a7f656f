"""How the mLSTM kernels in Triton are launched: tile sizes, warps and stages by kernel, type and head size. No search at run time.

To re-tune on a GPU: `python -m bench.gpu_tune` checks and times a bounded list of rows and prints the better ones as a diff of TABLE.
Then `pytest -sm slow tests/ops/test_triton_mlstm_compile.py` compiles every row for sm_80 and sm_90 without a GPU, prints registers and
shared memory and holds spills to their bound. Not yet run on a GPU: the rows follow from the arithmetic beside them, not from timings.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch

__all__ = ["SCAN_BLOCK", "TABLE", "Plan", "Row", "Tile", "plan", "processors", "row_of", "segment_of", "step_tile"]

SCAN_BLOCK = 512  # entries of C a program of the scan; n rides with the first, so no less than the widest head
WIDEST = 512  # features of a head
_WITHOUT_GPU = 132  # processors that the interpreter pretends to have
_STATE_BYTES = 2**30  # states between the chunks or segments of one part of a sequence


@dataclass(frozen=True)
class Row:
    """L steps a chunk, tiles of BK key and BV value features, warps, stages of the software pipeline."""

    L: int
    BK: int
    BV: int
    warps: int
    stages: int


@dataclass(frozen=True)
class Tile:
    """One launch: sizes of its tiles (constants of the kernel), warps, stages, programs a stream and chunk or segment."""

    sizes: dict[str, int]
    warps: int
    stages: int
    programs: int


@dataclass(frozen=True)
class Plan:
    """One call: `way` as in _mlstm_forward; `out` writes outputs (`alone` too), `states` makes them for `tiles`. `slots` segments or
    chunks of `steps` steps a part."""

    way: str
    out: Tile
    alone: Tile
    states: Tile
    slots: int = 1
    steps: int = 0


# Kernel, type, widest DK that the row is for.
#
# alone     One chunk without states. P, A and S are L × L float32: 64 × 64 × 4 B = 16 kB = 32 registers a thread of 4 warps each. A
#           stage of the first loop is q and k, 2 · L · BK · size = 16 kB (8 kB), of the second v. float32 products run on FMA units,
#           which hold whole rows of both factors in registers: at L = 64 they spill (336 B a thread and more).
# chunk     The same with states: beside these a tile of C, BK · BV · 4 B = 8 kB, cut in two for the product; BK = 64 spills on sm_80.
# states    C before each chunk, tile by tile: BK · BV · 4 B = 16 kB (4 kB), 32 (8) registers a thread.
# walk      All DK rows of BV columns of C stay in registers, twice (the state before the segment, the segment's sum), in DK / BK
#           tiles: 2 · 128 · 64 · 4 B = 64 kB = 64 registers a thread of 8 warps. A product of mma.sync holds a factor of BK × BV in
#           every warp, so BK and L are small: at BK = 64 or L = 64 it spills 320 to 920 B a thread, and 256 × 32 spills 1.9 kB.
#           Wider heads and float32 go by tiles.
# gradient  All kernels of the backward pass.
# A sequence of one chunk goes by `alone` or `chunk`, and `tiles` by `states` and `chunk`: their L is one.
TABLE: dict[tuple[str, str, int], Row] = {
    ("alone", "bfloat16", 512): Row(L=64, BK=64, BV=64, warps=4, stages=2),
    ("alone", "float16", 512): Row(L=64, BK=64, BV=64, warps=4, stages=2),
    ("alone", "float32", 512): Row(L=32, BK=32, BV=32, warps=4, stages=1),
    ("chunk", "bfloat16", 512): Row(L=64, BK=32, BV=64, warps=4, stages=2),
    ("chunk", "float16", 512): Row(L=64, BK=32, BV=64, warps=4, stages=2),
    ("chunk", "float32", 512): Row(L=32, BK=32, BV=32, warps=4, stages=1),
    ("states", "bfloat16", 512): Row(L=64, BK=64, BV=64, warps=4, stages=1),
    ("states", "float16", 512): Row(L=64, BK=64, BV=64, warps=4, stages=1),
    ("states", "float32", 512): Row(L=32, BK=32, BV=32, warps=4, stages=1),
    ("walk", "bfloat16", 64): Row(L=32, BK=32, BV=64, warps=8, stages=2),
    ("walk", "bfloat16", 128): Row(L=32, BK=32, BV=64, warps=8, stages=2),
    ("walk", "float16", 64): Row(L=32, BK=32, BV=64, warps=8, stages=2),
    ("walk", "float16", 128): Row(L=32, BK=32, BV=64, warps=8, stages=2),
    ("gradient", "bfloat16", 512): Row(L=64, BK=64, BV=64, warps=8, stages=2),
    ("gradient", "float16", 512): Row(L=64, BK=64, BV=64, warps=8, stages=2),
    ("gradient", "float32", 512): Row(L=64, BK=32, BV=32, warps=8, stages=2),
}
_ANY_WALK = Row(L=32, BK=32, BV=32, warps=8, stages=1)  # only when asked for


def row_of(kernel: str, dtype: torch.dtype, DK: int) -> Row | None:
    """The row of the narrowest heads that DK fits in."""
    fitting = [key for key in TABLE if key[:2] == (kernel, str(dtype)[6:]) and key[2] >= DK]
    return TABLE[min(fitting)] if fitting else None


def segment_of(DK: int, DV: int) -> int:
    """Steps a segment of `walk` and `split`: of the head's size alone, so that neither way nor bits depend on anything else.

    A split moves 4 · DK · DV · 4 B of states a segment, beside 4 · DK · 2 B of sequence a step: half as much at 4 · DK steps.
    """
    return 4 * _power(max(DK, DV), 64, WIDEST)


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
    """The launches of a call of `streams` = B·H sequences of T steps on a GPU of `units` processors.

    `streams` decides between `walk` and `split`, which give the same bits, and how many programs share a chunk; nothing else.
    """
    chunk, walk = row_of("chunk", dtype, DK), row_of("walk", dtype, DK)
    assert chunk is not None  # the op refuses wider heads
    most = 64 if chunk_size is None else max(1 << max(chunk_size.bit_length() - 1, 4), 16)
    if way is None:
        way = "chunk" if T <= chunk.L and (chunk_size or T) >= T else "tiles" if walk is None else ""
    if way == "chunk":
        return _plan(way, streams, DK, DV, dtype, _power(T, 16, 64), units)
    held = max(_STATE_BYTES // (4 * streams * DK * DV), 1)  # slots whose states fit
    if way == "tiles":
        L = min(most, chunk.L)
        slots = min(held, max(-(-T // L), 1))
        return _plan(way, streams * slots, DK, DV, dtype, L, units, slots=slots, steps=L)
    row, segment = walk or _ANY_WALK, segment_of(DK, DV)
    L, BV = min(most, row.L), _power(DV, 16, row.BV)
    out = Tile({"L": L, "BK": _power(DK, 16, row.BK), "BV": BV}, row.warps, row.stages, -(-DV // BV))
    segments = max(-(-T // segment), 1)
    if not way:  # a split reads k and v twice: it must fill what would be idle
        way = "split" if segments >= 3 and streams * out.programs < units else "walk"
    slots, steps = (1, segments * segment) if way == "walk" else (min(held, segments), segment)
    return _plan(way, streams, DK, DV, dtype, L, units, out=out, slots=slots, steps=steps)


def _plan(
    way: str,
    programs: int,
    DK: int,
    DV: int,
    dtype: torch.dtype,
    L: int,
    units: int,
    *,
    out: Tile | None = None,
    slots: int = 1,
    steps: int = 0,
) -> Plan:
    alone, chunk, states = (_tile(kernel, programs, DK, DV, dtype, L, units) for kernel in ("alone", "chunk", "states"))
    return Plan(way, out or chunk, alone, states, slots, steps)


def _tile(kernel: str, programs: int, DK: int, DV: int, dtype: torch.dtype, L: int, units: int) -> Tile:
    row = row_of(kernel, dtype, DK)
    assert row is not None
    BK, BV = _power(DK, 16, row.BK), _power(DV, 16, row.BV)
    tiles = -(-DV // BV)
    if kernel == "states":
        return Tile({"L": L, "BK": BK, "BV": BV}, row.warps, row.stages, -(-DK // BK) * tiles)
    # q and k are read once a program: more than one program a stream and chunk only while processors are idle.
    span = BV * -(-tiles // min(tiles, max(1, 2 * units // max(programs, 1))))
    return Tile({"L": L, "BK": BK, "BV": BV, "SPAN": span}, row.warps, row.stages, -(-DV // span))


@cache
def step_tile(DK: int, DV: int) -> Tile:
    """The launch of one step: C's tile, BK · BV · 4 B (at most 512 × 32: 64 kB), is read and written once, from registers."""
    BK, BV = _power(DK, 16, WIDEST), _power(DV, 16, 32)
    return Tile({"BK": BK, "BV": BV}, 4 if BK <= 256 else 8, 1, -(-DV // BV))
