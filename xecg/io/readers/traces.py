"""Leads as a file keeps them, perhaps at several rates, and the step that brings them to one."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from xecg.signal.recording import LogEntry

__all__ = ["Traces", "empty_rows", "one_rate"]


@dataclass(frozen=True, eq=False)
class Traces:
    """The kept leads in header order: row i of `values` (float32 mV) and `masks` (bool) holds frames · frame[i] samples.

    Both are one (leads, samples) array where all leads have the same number of samples a frame, else lists of rows.
    """

    names: tuple[str, ...]
    frame: tuple[int, ...]
    values: np.ndarray | list[np.ndarray]
    masks: np.ndarray | list[np.ndarray]
    log: tuple[LogEntry, ...]


def empty_rows(
    frame: tuple[int, ...], frames: int
) -> tuple[np.ndarray | list[np.ndarray], np.ndarray | list[np.ndarray]]:
    """Values and masks of `Traces`, all missing."""
    if len(set(frame)) == 1:
        shape = (len(frame), frames * frame[0])
        return np.zeros(shape, np.float32), np.zeros(shape, np.bool_)
    return [np.zeros(frames * n, np.float32) for n in frame], [np.zeros(frames * n, np.bool_) for n in frame]


def one_rate(traces: Traces, rate: float) -> tuple[np.ndarray, np.ndarray, list[LogEntry]]:
    """All leads at the highest rate among them: polyphase resampling, gaps bridged by straight lines before and masked after."""
    if isinstance(traces.values, np.ndarray) and isinstance(traces.masks, np.ndarray):
        return traces.values, traces.masks, []
    factor = max(traces.frame)
    values, masks, log = list(traces.values), list(traces.masks), []
    for index, frame in enumerate(traces.frame):
        if frame < factor:
            ratio = Fraction(factor, frame)
            values[index], masks[index] = _resampled(values[index], masks[index], ratio)
            text = f"{traces.names[index]} from {rate * frame:g} to {rate * factor:g} Hz, the rate of the fastest lead"
            log.append(LogEntry("converted", "rate", text))
    return np.stack(values), np.stack(masks), log


def _resampled(values: np.ndarray, mask: np.ndarray, ratio: Fraction) -> tuple[np.ndarray, np.ndarray]:
    from scipy.signal import resample_poly

    up, down = ratio.numerator, ratio.denominator
    if mask.any() and not mask.all():
        at = np.arange(len(values))
        values = np.interp(at, at[mask], values[mask])
    out = resample_poly(values.astype(np.float64), up, down, padtype="line").astype(np.float32)
    valid = mask[np.arange(len(out)) * down // up]
    out[~valid] = 0.0
    return out, valid
