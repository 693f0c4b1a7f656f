"""States of many live patients: the compiled causal form, and the definition in its place where the module is not built.

Both fill gaps by `xecg.signal.gaps` in numpy and hold samples back while a short gap is open. The compiled form then runs filters,
resampling and z-score of whole chunks or of filled ones through one kernel (csrc/common/frontend_stream.h has the equations), so that
mixing the two changes no bit. It computes in float32, with the lead's first sample subtracted and sections in delta form, and the
z-score in float64: at least 95 dB against the definition for 0.5–40 Hz.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from xecg.signal import kernel
from xecg.signal.arrays import CausalRows
from xecg.signal.gaps import fill_gaps, undecided_from
from xecg.signal.plan import FLAT_STD_MV, Plan

__all__ = ["Chunk", "CompiledSlots", "DefinedSlots", "make_slots"]

_NEVER = np.int64(2**62)  # samples since a long gap, when there was none
_ABSURD_MV = 1e12  # csrc/cpu/frontend_stream.h: larger samples count as missing


class Chunk(NamedTuple):
    """Samples of the same length for some slots, and where the outputs go.

    x: C-contiguous (patients, …, n) float32 mV, or int16 counts with scale (mV a count) and baseline (counts), float32 (rows,). x_rows,
    y_rows int64 (rows,): input and output lead of each row of the plan. leads_out: leads of the output.
    """

    x: np.ndarray
    x_rows: np.ndarray
    y_rows: np.ndarray
    leads_out: int
    scale: np.ndarray | None = None
    baseline: np.ndarray | None = None


def make_slots(plan: Plan, rows: int, capacity: int) -> CompiledSlots | DefinedSlots:
    """The compiled form where the module is built and has this plan, else the definition."""
    form = CompiledSlots if kernel.native() is not None and not plan.spec.normalise_first else DefinedSlots
    return form(plan, rows, capacity)


class DefinedSlots:
    """The float64 definition, slot by slot."""

    version = 1

    def __init__(self, plan: Plan, rows: int, capacity: int) -> None:
        self._plan, self._rows = plan, rows
        self._slots: list[CausalRows | None] = [None] * capacity

    def _at(self, slot: int) -> CausalRows:
        state = self._slots[slot]
        if state is None:
            state = self._slots[slot] = CausalRows(self._plan, self._rows)
        return state

    def push(
        self, slot: int, x: np.ndarray, valid: np.ndarray, *, final: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """x float64 (R, n) mV, valid bool → the output samples now decided (R, m), and their mask."""
        return self._at(slot).push(x, valid, final=final)

    def reset(self, slot: int) -> None:
        """As new."""
        self._slots[slot] = None

    def waiting(self, slot: int) -> tuple[np.ndarray, np.ndarray]:
        """Samples that wait for the end of a gap, and their validity."""
        return self._at(slot).pending, self._at(slot).pending_valid

    def arrays(self, slot: int) -> list[np.ndarray]:
        """The rest of the state, in a fixed order."""
        return self._at(slot).arrays()

    def load(self, slot: int, arrays: list[np.ndarray], pending: np.ndarray, valid: np.ndarray) -> None:
        """Take over a state in the order of `arrays`."""
        self._at(slot).load(arrays, pending.astype(np.float64), valid)


class CompiledSlots:
    """Struct of arrays by slot, for the kernel."""

    version = 2

    def __init__(self, plan: Plan, rows: int, capacity: int) -> None:
        self._plan, self._rows = plan, rows
        self._numbers = _numbers(plan)
        depth = max(self._numbers.fir.shape[1] - 1, 0)
        shapes = {  # in the order of FrontendStreamState
            "sections": ((rows, len(plan.sos), 2), np.float32, 0),
            "shift": ((rows,), np.float32, 0),
            "started": ((rows,), np.uint8, 0),
            "history": ((rows, depth), np.float32, 0),
            "valid": ((rows, depth), np.uint8, 1),
            "since": ((rows,), np.int64, _NEVER),
            "z": ((rows, 3), np.float64, 0),
            "last": ((rows,), np.float32, 0),
            "seen": ((rows,), np.uint8, 0),
            "run": ((rows,), np.int64, 0),
            "samples": ((), np.int64, 0),
        }
        self._first = [first for *_, first in shapes.values()]
        self._state = {
            name: np.full((capacity, *shape), first, dtype) for name, (shape, dtype, first) in shapes.items()
        }
        self._addresses = [a.ctypes.data for a in self._state.values()]
        self._pending: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.waits = np.zeros(capacity, dtype=bool)

    def phase(self, slots: np.ndarray) -> np.ndarray:
        """What the slots of one `run` must have in common: where the next output lies between two inputs."""
        return self._state["samples"][slots] % self._plan.down

    def run(
        self, slots: np.ndarray, chunk: Chunk, *, gap: np.ndarray | None = None, begin: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Outputs float32 (patients, leads, m), mask, and refused (patients,): slots left as they were for a sample that is not finite.

        slots int64, each once, of one phase, none waiting. gap uint8 (patients, R, n): True in long gaps of a chunk that was filled;
        begin int64 (patients, R): where a row that has not started does.
        """
        plan, numbers, n = self._plan, self._numbers, chunk.x.shape[-1]
        first = int(self._state["samples"][slots[0]])
        m = plan.output_length(first + n) - plan.output_length(first)
        shape = (len(slots), chunk.leads_out, m)
        full = chunk.leads_out == self._rows
        y, ok = ((np.empty if full else np.zeros)(shape, t) for t in (np.float32, np.bool_))
        refused = np.zeros(len(slots), dtype=np.bool_)
        poly = plan.resample == "poly"
        resampler = [plan.up, plan.down, plan.half, numbers.fir.shape[1], -first * plan.up % plan.down]
        x_rows, y_rows = chunk.x_rows * n, chunk.y_rows * m
        native = kernel.native()
        assert native is not None
        native.frontend_stream(
            [len(slots), self._rows, n, m], _at(slots), _at(chunk.x), chunk.x.dtype == np.int16, chunk.x[0].size, _at(x_rows),
            _at(chunk.scale), _at(chunk.baseline), _at(gap), _at(begin), len(plan.sos), _at(numbers.coefficients), numbers.subtract,
            numbers.dc, resampler if poly else [0, 1, 0, 0, 0], _at(numbers.fir), plan.settle,
            plan.spec.normalise == "causal-zscore", plan.decay[1], FLAT_STD_MV, self._addresses, _at(y), _at(ok), chunk.leads_out * m,
            _at(y_rows), _at(refused),
        )  # fmt: skip
        return y, ok, refused

    def push(
        self, slot: int, x: np.ndarray, valid: np.ndarray, *, final: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """As in `DefinedSlots`, for chunks with missing samples."""
        valid = valid & (np.abs(x) < _ABSURD_MV)
        x = np.where(valid, x, 0.0).astype(np.float32).astype(np.float64)
        if slot in self._pending:
            x, valid = (np.concatenate(pair, axis=1) for pair in zip(self._pending.pop(slot), (x, valid)))
        s = {name: a[slot] for name, a in self._state.items()}
        filled = fill_gaps(
            x, valid, self._plan.gap, last=s["last"].astype(np.float64), seen=s["seen"] > 0, run=s["run"]
        )
        n = x.shape[1] if final else undecided_from(valid, self._plan.gap, s["run"])
        self.waits[slot] = n < x.shape[1]
        if self.waits[slot]:
            self._pending[slot] = x[:, n:].copy(), valid[:, n:].copy()
        if not n:
            return np.zeros((self._rows, 0)), np.zeros((self._rows, 0), dtype=bool)
        rows = np.arange(self._rows)
        chunk = Chunk(np.ascontiguousarray(filled.x[None, :, :n], np.float32), rows, rows, self._rows)
        gap, begin = np.ascontiguousarray(filled.long[:, :n], np.uint8), np.minimum(filled.first, n)
        y, ok, _ = self.run(np.array([slot]), chunk, gap=gap, begin=begin)
        any_valid = valid[:, :n].any(axis=1)
        tail = np.where(any_valid, valid[:, :n][:, ::-1].argmax(axis=1), n)
        newest = x[rows, np.maximum(n - 1 - tail, 0)]
        s["last"][...] = np.where(any_valid, newest, s["last"])
        s["seen"][...] |= any_valid
        s["run"][...] = np.where(any_valid, 0, s["run"]) + tail
        return y[0], ok[0]

    def reset(self, slot: int) -> None:
        """As new."""
        for a, first in zip(self._state.values(), self._first):
            a[slot] = first
        self._pending.pop(slot, None)
        self.waits[slot] = False

    def waiting(self, slot: int) -> tuple[np.ndarray, np.ndarray]:
        """Samples that wait for the end of a gap, and their validity."""
        return self._pending.get(slot, (np.zeros((self._rows, 0)), np.zeros((self._rows, 0), dtype=bool)))

    def arrays(self, slot: int) -> list[np.ndarray]:
        """The rest of the state, in a fixed order."""
        return [np.asarray(a[slot]) for a in self._state.values()]

    def load(self, slot: int, arrays: list[np.ndarray], pending: np.ndarray, valid: np.ndarray) -> None:
        """Take over a state in the order of `arrays`."""
        self.reset(slot)
        for mine, saved in zip(self._state.values(), arrays):
            mine[slot] = saved
        if pending.shape[1]:
            self._pending[slot] = pending.astype(np.float64), valid
            self.waits[slot] = True


def _at(a: np.ndarray | None) -> int:
    return 0 if a is None else a.ctypes.data


class _Numbers(NamedTuple):
    coefficients: np.ndarray
    subtract: bool
    dc: float
    fir: np.ndarray


@lru_cache(maxsize=64)
def _numbers(plan: Plan) -> _Numbers:
    sos = plan.sos
    dc = float(np.prod(sos[:, :3].sum(1) / sos[:, 3:].sum(1)))
    fir = np.zeros((0, 0), np.float32) if plan.taps is None else np.ascontiguousarray(plan.taps, np.float32)
    subtract = len(sos) > 0 and plan.initial == "step"
    return _Numbers(kernel.delta_form(sos).astype(np.float32), subtract, dc if abs(dc) > 1e-12 else 0.0, fir)
