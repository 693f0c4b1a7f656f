"""The front end's array code: a `Plan` and arrays in, arrays out. Knows no lead names, recordings or files.

This is the plain definition (numpy and scipy, float64 inside); a compiled kernel may stand in for `run_offline` and
`CausalRows`. Rows are independent: no operation mixes rows (except the joint z-score, by definition), so a row's bits
do not depend on the others.
"""

from __future__ import annotations

import numpy as np

from xecg.errors import ShapeError
from xecg.signal.gaps import fill_gaps, mask_settling, undecided_from
from xecg.signal.plan import FLAT_STD_MV, Plan

__all__ = ["CausalRows", "run_offline"]

_NEVER = np.int64(2**62)  # samples since a long gap, when there was none


def run_offline(plan: Plan, x: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The zero-phase form for whole records: x float64 (B, R, n) mV, valid bool → y float64 (B, R, m), mask bool.

    Raises ShapeError when n is too short for the filters' edge extension.
    """
    batch, rows, n = x.shape
    flat, ok = x.reshape(-1, n), valid.reshape(-1, n)
    nobody = np.zeros(len(flat))
    filled = fill_gaps(flat, ok, plan.gap, last=nobody, seen=nobody > 0, run=nobody.astype(np.int64))
    y = filled.x
    late = np.flatnonzero((filled.first > 0) & (filled.first < n))
    if len(late):
        y = y.copy()
        for r in late:
            y[r, : filled.first[r]] = y[r, filled.first[r]]
    mask, _ = mask_settling(filled.long, plan.settle, np.full(len(y), _NEVER))
    if plan.spec.normalise_first:
        y, mask = _normalise(plan, y, mask, plan.decay[0], batch)
    y = _resample(plan, _zero_phase(plan, y))
    mask = _at_outputs(mask, plan, y.shape[1], 0)
    if not plan.spec.normalise_first:
        y, mask = _normalise(plan, y, mask, plan.decay[1], batch)
    y = np.where(mask, y, 0.0)
    return y.reshape(batch, rows, -1), mask.reshape(batch, rows, -1)


def _zero_phase(plan: Plan, x: np.ndarray) -> np.ndarray:
    from scipy import signal

    for sos in plan.stages:
        trivial = min((sos[:, 2] == 0).sum(), (sos[:, 5] == 0).sum())
        pad = 3 * (2 * len(sos) + 1 - trivial)  # the default edge extension of sosfiltfilt
        if x.shape[1] <= pad:
            raise ShapeError(f"signal has {x.shape[1]} samples; this zero-phase filter needs at least {pad + 1}")
        x = signal.sosfiltfilt(sos, x, axis=1, padlen=pad)
    return x


def _resample(plan: Plan, x: np.ndarray) -> np.ndarray:
    from scipy import signal

    if plan.resample == "fft":  # row by row: scipy's FFT gives other last bits to rows that it handles together
        m = plan.output_length(x.shape[1])
        return np.stack([signal.resample(row, m) for row in x]) if len(x) else np.zeros((0, m))
    if plan.resample == "poly":
        return signal.resample_poly(x, plan.up, plan.down, axis=1)
    return x


def _at_outputs(mask: np.ndarray, plan: Plan, m: int, start: int, *, offset: int = 0) -> np.ndarray:
    """The mask at output samples start…start+m−1: valid where both neighbouring input samples are. offset: column of
    sample 0."""
    if plan.resample == "none":
        return mask
    k = np.arange(start, start + m)
    if plan.resample == "fft":
        low = high = k * mask.shape[1] / m
    else:
        delay = plan.half if plan.causal else 0
        position = k * plan.down - delay
        low, high = position // plan.up, -(-position // plan.up)
    columns = [
        np.clip(np.asarray(f(c), dtype=np.int64) + offset, 0, mask.shape[1] - 1)
        for f, c in ((np.floor, low), (np.ceil, high))
    ]
    return mask[:, columns[0]] & mask[:, columns[1]] & (np.asarray(low) >= 0)


def _normalise(plan: Plan, x: np.ndarray, mask: np.ndarray, decay: float, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """z-scored x, and the mask without flat rows; statistics over the samples where the mask is True."""
    how = plan.spec.normalise
    if how == "none":
        return x, mask
    if how == "causal-zscore":
        z, flat = RunningZ(len(x), decay).push(x, mask)
        return z, mask & ~flat
    y, mask = np.zeros_like(x), mask.copy()
    rows = len(x) // batch if batch else 0
    groups = [slice(b * rows, (b + 1) * rows) for b in range(batch)] if how == "zscore-joint" else range(len(x))
    for g in groups:
        values = x[g][mask[g]]  # type: ignore[index]
        std = values.std() if values.size else 0.0
        if std < FLAT_STD_MV:
            mask[g] = False  # type: ignore[index]
        else:
            y[g] = (x[g] - values.mean()) / std  # type: ignore[index]
    return y, mask


class RunningZ:
    """Causal z-score of rows: exponentially weighted mean and variance, corrected for their empty start.

    M ← a·M + (1 − a)·d, S ← a·S + (1 − a)·d², w ← a·w + (1 − a) over valid samples, d = x − first valid x (so that an
    offset costs no digits); z = (d − M/w) / sqrt(S/w − (M/w)²). Samples that are not valid leave the estimates as
    they are.
    """

    def __init__(self, rows: int, decay: float) -> None:
        self.decay = decay
        self.state = np.zeros((rows, 3))
        self.shift = np.zeros(rows)
        self.begun = np.zeros(rows, dtype=np.int64)

    def push(self, x: np.ndarray, use: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """z float64 like x, and where it is flat (bool); z is 0 there and where `use` is False."""
        from scipy import signal

        z, flat = np.zeros_like(x), np.zeros(x.shape, dtype=bool)
        b, a = [1 - self.decay], [1.0, -self.decay]
        for r in range(len(x)):
            valid = use[r]
            values = x[r, valid]
            if not values.size:
                continue
            if not self.begun[r]:
                self.shift[r], self.begun[r] = values[0], 1
            d = values - self.shift[r]
            terms, end = signal.lfilter(b, a, np.stack([d, d * d, np.ones_like(d)]), axis=1, zi=self.state[r][:, None])
            self.state[r] = end[:, 0]
            mean = terms[0] / terms[2]
            std = np.sqrt(np.maximum(terms[1] / terms[2] - mean * mean, 0.0))
            still = std < FLAT_STD_MV
            z[r, valid] = np.where(still, 0.0, (d - mean) / np.where(still, 1.0, std))
            flat[r, valid] = still
        return z, flat


class CausalRows:
    """The causal form with its state: any way of cutting the input into chunks gives the same bits.

    Every step is a recurrence in time order (sosfilt, lfilter) or a sum in tap order, never a reduction whose order
    depends on size. The gap rule needs to see whether a gap ends within 100 ms: while one is open, samples wait in
    `pending`, otherwise there is no extra delay. `arrays()` lists the whole state, for saving.
    """

    def __init__(self, plan: Plan, rows: int) -> None:
        self.plan = plan
        depth = plan.taps.shape[1] - 1 if plan.taps is not None else 0
        self.last = np.zeros(rows)
        self.seen = np.zeros(rows, dtype=np.int64)
        self.started = np.zeros(rows, dtype=np.int64)
        self.run = np.zeros(rows, dtype=np.int64)
        self.since = np.full(rows, _NEVER)
        self.sections = np.zeros((rows, len(plan.sos), 2))
        self.history = np.zeros((rows, depth))
        self.history_mask = np.zeros((rows, depth), dtype=np.int64)
        self.clock = np.zeros(2, dtype=np.int64)  # samples through the filter, samples out
        self.before = RunningZ(rows, plan.decay[0])
        self.after = RunningZ(rows, plan.decay[1])
        self.pending = np.zeros((rows, 0))
        self.pending_valid = np.zeros((rows, 0), dtype=bool)

    def arrays(self) -> list[np.ndarray]:
        """The state of fixed size, in a fixed order (the pending samples come on top)."""
        z = [a for r in (self.before, self.after) for a in (r.state, r.shift, r.begun)]
        lead = [
            self.last,
            self.seen,
            self.started,
            self.run,
            self.since,
            self.sections,
            self.history,
            self.history_mask,
        ]
        return [*lead, self.clock, *z]

    def load(self, state: list[np.ndarray], pending: np.ndarray, pending_valid: np.ndarray) -> None:
        """Take over a state: `state` in the order of `arrays()`."""
        for mine, saved in zip(self.arrays(), state):
            mine[...] = saved
        self.pending, self.pending_valid = pending, pending_valid

    def push(self, x: np.ndarray, valid: np.ndarray, *, final: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """x float64 (R, n), valid bool → the output samples now decided, float64 (R, m), and their mask."""
        x = np.concatenate([self.pending, x], axis=1)
        valid = np.concatenate([self.pending_valid, valid], axis=1)
        filled = fill_gaps(x, valid, self.plan.gap, last=self.last, seen=self.seen > 0, run=self.run)
        n = x.shape[1] if final else undecided_from(valid, self.plan.gap, self.run)
        self.pending, self.pending_valid = x[:, n:].copy(), valid[:, n:].copy()
        y, mask = self._filter(filled.x[:, :n], filled.long[:, :n], filled.first)
        self._remember(x[:, :n], valid[:, :n])
        y, mask = self._decimate(y, mask)
        if self.plan.spec.normalise == "causal-zscore" and not self.plan.spec.normalise_first:
            y, flat = self.after.push(y, mask)
            mask = mask & ~flat
        return np.where(mask, y, 0.0), mask

    def _remember(self, x: np.ndarray, valid: np.ndarray) -> None:
        n = x.shape[1]
        if not n:
            return
        any_valid = valid.any(axis=1)
        tail = np.where(any_valid, valid[:, ::-1].argmax(axis=1), n)
        self.run = np.where(any_valid, 0, self.run) + tail
        newest = np.take_along_axis(x, np.maximum(n - 1 - tail, 0)[:, None], axis=1)[:, 0]
        self.last = np.where(any_valid, newest, self.last)
        self.seen = np.maximum(self.seen, any_valid)

    def _filter(self, x: np.ndarray, long: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        from scipy import signal

        n = x.shape[1]
        mask, self.since = mask_settling(long, self.plan.settle, self.since)
        if self.plan.spec.normalise_first and n:
            x, flat = self.before.push(x, mask)
            mask = mask & ~flat
        if not len(self.plan.sos) or not n:
            return x, mask
        y = np.zeros_like(x)
        running = np.flatnonzero(self.started)
        if len(running):
            zi = self.sections[running].transpose(1, 0, 2)
            y[running], end = signal.sosfilt(self.plan.sos, x[running], axis=1, zi=zi)
            self.sections[running] = end.transpose(1, 0, 2)
        for r in np.flatnonzero((self.started == 0) & (first < n)):
            s, self.started[r] = first[r], 1
            y[r, s:], self.sections[r] = signal.sosfilt(self.plan.sos, x[r, s:], zi=self.plan.step_state * x[r, s])
        return y, mask

    def _decimate(self, x: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Output k = Σ_t taps[k·down mod up, t] · x[k·down div up − t]: the sum runs over t in order, for all k at
        once."""
        plan = self.plan
        if plan.taps is None:
            return x, mask
        depth = self.history.shape[1]
        seen, sent = (int(c) for c in self.clock)
        padded = np.concatenate([self.history, x], axis=1)
        masks = np.concatenate([self.history_mask > 0, mask], axis=1)
        until = plan.output_length(seen + x.shape[1])
        k = np.arange(sent, until)
        newest, phase = k * plan.down // plan.up - seen + depth, k * plan.down % plan.up
        y = np.zeros((len(x), len(k)))
        for t in range(plan.taps.shape[1]):
            y += plan.taps[phase, t] * padded[:, newest - t]
        out_mask = _at_outputs(masks, plan, len(k), sent, offset=depth - seen)
        self.history = padded[:, padded.shape[1] - depth :].copy()
        self.history_mask = masks[:, masks.shape[1] - depth :].astype(np.int64)
        self.clock = np.array([seen + x.shape[1], until], dtype=np.int64)
        return y, out_mask
