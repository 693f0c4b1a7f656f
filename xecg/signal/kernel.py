"""The compiled form of the offline front end: filters, resampling and z-score of whole records in one pass over each row.

float32 inside, in a form that keeps the slowest corner (csrc/common/frontend.h has the equations); against the float64 definition in
`xecg.signal.arrays`: at least 95 dB, 2e-4 z-units. A row's bits do not depend on the others. Rows of `LONG_SAMPLES` and more go in
tiles with exact state (csrc/cpu/frontend_long.h): any length in a few MiB of scratch, other last bits than the form for short rows;
length alone decides. Serves records without missing samples; whatever it does not serve goes through the definition.
"""

from __future__ import annotations

import os
from functools import lru_cache
from importlib import import_module
from types import ModuleType
from typing import NamedTuple

import numpy as np

from xecg.signal.plan import FLAT_STD_MV, Plan

__all__ = [
    "BROKEN",
    "FLAT",
    "GOOD",
    "LONG_SAMPLES",
    "Numbers",
    "delta_form",
    "fits",
    "native",
    "numbers",
    "row_taps",
    "run",
    "scan_tables",
    "serves",
]

GOOD, FLAT, BROKEN = 0, 1, 2  # csrc/common/frontend.h

_MAX_SECTIONS = 6  # csrc/cpu/frontend.h
LONG_SAMPLES = 1 << 15  # the buffer of 16 rows this long fills a cache of 2 MiB
_JUMP = 16  # samples: row_jump of csrc/cuda/frontend_row.cuh
_POWERS = 8  # row_powers there
_TILE = 1040  # samples at least; 65 lines: tiles side by side begin in different sets of the first cache


@lru_cache(maxsize=1)
def native() -> ModuleType | None:
    """`xecg._cpu`; None when it is not built or XECG_BACKEND asks for the definition."""
    if os.environ.get("XECG_BACKEND") == "reference":
        return None
    try:
        return import_module("xecg._cpu")
    except ImportError:
        return None


def delta_form(sos: np.ndarray) -> np.ndarray:
    """Sections (S, 6) of scipy as the kernels take them, (S, 5): csrc/common/frontend.h has the equations."""
    b0, b1, b2, _, a1, a2 = sos.T
    return np.stack([b0, 2 * b0 + b1, b0 + b1 + b2, 2 + a1, 1 + a1 + a2], 1)


class Numbers(NamedTuple):
    """A plan as the kernels take it: csrc/common/frontend.h, without resampling `fir` is empty."""

    sections: np.ndarray
    pads: np.ndarray
    coefficients: np.ndarray
    steady: np.ndarray
    dc: float
    fir: np.ndarray


class _Tiles(NamedTuple):
    """FrontendLong of csrc/common/frontend.h."""

    tile: int
    power: np.ndarray
    response: np.ndarray


@lru_cache(maxsize=64)
def numbers(plan: Plan) -> Numbers:
    """The arrays of a plan, float32 and int32."""
    from scipy import signal

    coefficients, steady, pads, dc = [], [], [], 1.0
    for sos in plan.stages:
        trivial = min((sos[:, 2] == 0).sum(), (sos[:, 5] == 0).sum())
        pads.append(3 * (2 * len(sos) + 1 - trivial))  # the default edge extension of sosfiltfilt
        coefficients.append(delta_form(sos))
        z = signal.sosfilt_zi(sos)
        steady.append(np.stack([z[:, 0], z[:, 0] + z[:, 1]], 1))
        gain = float(np.prod(sos[:, :3].sum(1) / sos[:, 3:].sum(1)))
        dc *= gain * gain
    c, s = (np.concatenate(a).astype(np.float32) if a else np.zeros((0, 2), np.float32) for a in (coefficients, steady))
    fir = np.zeros((0, 0), np.float32) if plan.taps is None else np.ascontiguousarray(plan.taps, np.float32)
    sections = np.array([len(sos) for sos in plan.stages], np.int32)
    return Numbers(sections, np.array(pads, np.int32), c, s, dc if abs(dc) > 1e-12 else 0.0, fir)


@lru_cache(maxsize=64)
def _tiles(plan: Plan) -> _Tiles:
    """A^tile and C A^t of every stage, from the rounded coefficients."""
    taps = 1 if plan.taps is None else plan.taps.shape[1]
    tile = -(-max(_TILE, taps - 1) // plan.down) * plan.down
    powers, responses = [], []
    rounded = numbers(plan).coefficients.astype(np.float64)
    for size in (len(sos) for sos in plan.stages):
        step, output = _one_step(rounded[:size])
        rounded = rounded[size:]
        response = np.empty((tile, 2 * size))
        for t in range(tile):
            response[t] = output
            output = output @ step
        powers.append(np.linalg.matrix_power(step, tile).ravel())
        responses.append(response.astype(np.float32).ravel())
    return _Tiles(tile, np.concatenate([*powers, np.zeros(0)]), np.concatenate([*responses, np.zeros(0, np.float32)]))


@lru_cache(maxsize=256)
def scan_tables(plan: Plan, stretch: int) -> np.ndarray:
    """Tables of the stages one after the other, float32: csrc/cuda/frontend_row.cuh, from the rounded coefficients."""
    parts, given = [np.zeros(0)], numbers(plan)
    coefficients, steady = given.coefficients.astype(np.float64), given.steady
    for size in given.sections.tolist():
        step, _ = _one_step(coefficients[:size])
        enter = [_entered(coefficients[:size])]
        while len(enter) < _JUMP:
            enter.insert(0, step @ enter[0])
        powers = [np.linalg.matrix_power(step, stretch << k) for k in range(_POWERS)]
        jump = np.linalg.matrix_power(step, _JUMP) - np.eye(2 * size)
        parts += [coefficients[:size], steady[:size], jump, np.stack(enter, 1), *powers]
        coefficients, steady = coefficients[size:], steady[size:]
    return np.concatenate([a.ravel() for a in parts]).astype(np.float32)


def row_taps(plan: Plan) -> np.ndarray:
    """Taps of the resampler, float32 (up, min(down, taps), deep): row_fir of csrc/cuda/frontend_row.cuh."""
    fir, down = numbers(plan).fir, plan.down
    if not fir.size:
        return fir
    deep = -(-fir.shape[1] // down)
    padded = np.pad(fir, [(0, 0), (0, deep * down - fir.shape[1])]).reshape(len(fir), deep, down)
    return np.ascontiguousarray(padded[:, :, : min(down, fir.shape[1])].transpose(0, 2, 1))


def _entered(coefficients: np.ndarray) -> np.ndarray:
    """States (2S,) after a step from none with input 1."""
    states, x = [], 1.0
    for b0, b1, b2, a1, a2 in coefficients:
        y = b0 * x
        states += [b1 * x - a1 * y, b2 * x - a2 * y]
        x = y
    return np.array(states)


def _one_step(coefficients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """States (2S, 2S) after a step without input from those before, and the output (2S,) from them."""
    states = np.eye(2 * len(coefficients))  # column j: of the unit state j
    x = np.zeros(len(states))
    for k, (b0, b1, b2, a1, a2) in enumerate(coefficients):
        s1, s2 = states[2 * k].copy(), states[2 * k + 1].copy()
        y = b0 * x + s1
        states[2 * k], states[2 * k + 1] = s1 + s2 + b1 * x - a1 * y, s2 + b2 * x - a2 * y
        x = y
    return states, x


def serves(plan: Plan, n: int) -> bool:
    """Whether the kernel is built and can run this plan on rows of n samples."""
    return native() is not None and fits(plan, n)


def fits(plan: Plan, n: int) -> bool:
    """Whether this plan on rows of n samples has the form of the kernels, on the CPU and on a GPU."""
    spec = plan.spec
    return (
        not plan.causal
        and plan.resample in ("none", "poly")
        and not spec.normalise_first
        and spec.normalise in ("none", "zscore")
        and all(len(sos) <= _MAX_SECTIONS for sos in plan.stages)
        and n > 0
        and n > max(numbers(plan).pads, default=0)
    )


def run(
    plan: Plan,
    x: np.ndarray,
    starts: np.ndarray,
    n: int,
    out: np.ndarray,
    out_starts: np.ndarray,
    *,
    scale: np.ndarray | None = None,
    baseline: np.ndarray | None = None,
) -> np.ndarray:
    """Rows x.flat[starts[r] : starts[r] + n] → out.flat[out_starts[r] : …]; returns GOOD, FLAT or BROKEN for each row (uint8).

    x: C-contiguous float32 mV, or int16 counts with scale (mV per count) and baseline (counts), float32, one a row. out: C-contiguous
    float32. starts, out_starts: int64. A flat row is all 0. A row with a sample that is not finite is BROKEN: its output means nothing.
    """
    module = native()
    assert module is not None
    given = numbers(plan)
    state = np.empty(len(starts), np.uint8)
    long = _tiles(plan) if n >= LONG_SAMPLES else _Tiles(0, np.zeros(0), np.zeros(0))
    up, taps = (0, 0) if plan.resample == "none" else (plan.up, given.fir.shape[1])

    def at(a: np.ndarray | None) -> int:
        return 0 if a is None else a.ctypes.data

    module.frontend(
        len(starts), n, plan.output_length(n), at(x), at(starts), x.dtype == np.int16, at(scale), at(baseline), len(plan.stages),
        at(given.sections), at(given.pads), at(given.coefficients), at(given.steady), given.dc, up, plan.down, plan.half,
        taps, at(given.fir), plan.spec.normalise == "zscore", FLAT_STD_MV, at(out), at(out_starts), at(state), long.tile,
        at(long.power), at(long.response),
    )  # fmt: skip
    return state
