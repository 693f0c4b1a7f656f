"""The gap rule, the same for whole records and for streams.

A run of missing samples up to 100 ms is interpolated between its neighbours (at an edge: the one neighbour is
repeated) and stays valid. In a longer run the last valid value is held into the filter, and the output is masked for
the run plus the filter's settling time. Before its first valid sample a lead is 0 and masked, unless that wait is a
short run.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["Filled", "fill_gaps", "mask_settling", "undecided_from"]


class Filled(NamedTuple):
    """x (R, n) without holes; long (R, n) True in runs too long to interpolate; first (R,) index of the first valid
    value, n if none."""

    x: np.ndarray
    long: np.ndarray
    first: np.ndarray


def fill_gaps(
    x: np.ndarray, valid: np.ndarray, gap: int, *, last: np.ndarray, seen: np.ndarray, run: np.ndarray
) -> Filled:
    """Fill the missing samples of x float64 (R, n), finite everywhere; the arguments are read only.

    last (R,): the valid value before x. seen (R,) bool: there is one. run (R,) int64: missing samples between it and x.
    A run at the end of x is judged by what is here: callers that may still get its other end must keep it back
    (`undecided_from`).
    """
    n = x.shape[1]
    if valid.all():
        return Filled(x, np.zeros_like(valid), np.zeros(len(x), dtype=np.int64))
    at = np.arange(n)
    before = np.maximum.accumulate(np.where(valid, at, -1), axis=1)
    after = np.minimum.accumulate(np.where(valid, at, n)[:, ::-1], axis=1)[:, ::-1]
    length = after - before - 1 + np.where(before < 0, run[:, None], 0)
    has_left = (before >= 0) | seen[:, None]
    has_right = after < n
    left = np.where(before >= 0, np.take_along_axis(x, np.maximum(before, 0), axis=1), last[:, None])
    right = np.take_along_axis(x, np.minimum(after, n - 1), axis=1)
    left = np.where(has_left, left, np.where(has_right, right, 0.0))
    right = np.where(has_right, right, left)
    short = (length <= gap) & (has_left | has_right)
    since = at - before + np.where(before < 0, run[:, None], 0)
    line = left + (right - left) * since / np.maximum(length + 1, 1)
    hold = np.where(has_left, left, 0.0)
    filled = np.where(valid, x, np.where(short, line, hold))
    known = valid | short | has_left
    first = np.where(known.any(axis=1), known.argmax(axis=1), n)
    return Filled(filled, ~valid & ~short, first)


def undecided_from(valid: np.ndarray, gap: int, run: np.ndarray) -> int:
    """First column that must wait: the start of the earliest run, still open at the end, that may yet turn out
    short."""
    n = valid.shape[1]
    if not n or valid[:, -1].all():
        return n
    any_valid = valid.any(axis=1)
    tail = np.where(any_valid, valid[:, ::-1].argmax(axis=1), n)
    total = tail + np.where(any_valid, 0, run)
    waiting = (tail > 0) & (total <= gap)
    return int((n - tail[waiting]).min()) if waiting.any() else n


def mask_settling(long: np.ndarray, settle: int, since: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mask (R, n), False in long gaps and for `settle` samples after; and the samples since the last long one, at the
    end.

    since (R,) int64: samples since the last long-gap sample before these columns; large when there was none.
    """
    at = np.arange(long.shape[1])
    latest = np.maximum.accumulate(np.where(long, at, -1 - since[:, None]), axis=1)
    distance = at - latest
    return distance > settle, distance[:, -1] if long.shape[1] else since
