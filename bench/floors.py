"""Bytes that must move once and operations that must be done, of the recurrences and the front end, from the shapes alone.

A floor is the longer of bytes over the copy rate and flops over the rate of matrix products, both measured in the same run.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["BASE_FLOPS", "Work", "frontend", "frontend_moved", "mlstm", "rows", "slstm"]

BASE_FLOPS = 4.609e9  # of `base`, a 10-s ECG forward, by torch's flop counter
_CHUNK = 128  # steps, of the chunkwise form of long rows


class Work(NamedTuple):
    """bytes moved once; flops, a multiply-add being two."""

    bytes: float
    flops: float


def mlstm(B: int, T: int, H: int, DK: int, DV: int, *, backward: bool = False, item: int = 2) -> Work:
    """q, k, v, h and the gates; products of the causal half inside a chunk, of the state across chunks.

    backward: forward and backward together; the backward pass reads q, k, v, h, dh and writes dq, dk, dv, and does 2.5 times the
    products of the forward pass.
    """
    steps, chunk = B * T * H, min(T, _CHUNK)
    moved = item * steps * (2 * DK + 2 * DV + 2)
    inside = (chunk + 1) / 2 * (2 * DK + 2 * DV)
    across = 4 * DK * DV if chunk < T else 0
    flops = steps * (inside + across)
    if backward:
        moved += item * steps * (4 * DK + 4 * DV + 4)
        flops *= 3.5
    return Work(float(moved), float(flops))


def slstm(B: int, T: int, H: int, D: int, *, backward: bool = False, item: int = 2) -> Work:
    """Four gates in, h out, R once; the product with R at each step.

    backward: forward and backward together; the backward pass reads x, h, dh, R and writes dx, dR, and does three products more.
    """
    steps, R = B * T * H, 4 * H * D * D
    moved = item * (5 * D * steps + R)
    flops = 8 * steps * D * D
    if backward:
        moved += item * (10 * D * steps + 2 * R)
        flops *= 4
    return Work(float(moved), float(flops))


def frontend(records: int, leads: int, n: int, m: int, *, item_in: int = 2, item_out: int = 2) -> Work:
    """Counts in once, a model's input out once (as bfloat16, as the encoder reads it); its operations are none of matrix products."""
    return Work(float(records * leads * (n * item_in + m * item_out)), 0.0)


def rows(
    count: int, width: int, *, items_in: tuple[int, ...], items_out: tuple[int, ...], backward: bool = False
) -> Work:
    """`count` rows of `width` numbers of each input once in, of each output once out; sizes of a number in bytes.

    backward: forward and backward together; the backward pass reads the inputs and the outputs' gradients and writes the inputs'.
    """
    once = sum(items_in) + sum(items_out)
    back = 2 * sum(items_in) + sum(items_out) if backward else 0
    return Work(float(count * width * (once + back)), 0.0)


def frontend_moved(records: int, leads: int, n: int, m: int, *, item_in: int = 2) -> float:
    """Bytes that `apply_tensor` moves of rows that stay in shared memory (csrc/cuda/frontend_row.cuh).

    Counts in, float32 out, a mask of bytes out; of each row two addresses, scale and baseline in, its state out.
    """
    row_bytes = 2 * 8 + 2 * 4 + 1
    return float(records * leads * (n * item_in + m * (4 + 1) + row_bytes))
