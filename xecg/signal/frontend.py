"""The ECG front end: from leads in mV (or counts) at any rate to a model's input. One class for training, embedding
and streams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from xecg.errors import ShapeError, SpecError
from xecg.signal import kernel
from xecg.signal.arrays import run_offline
from xecg.signal.leads import canonical_lead, canonical_leads
from xecg.signal.plan import make_plan
from xecg.signal.recording import Recording
from xecg.signal.spec import PRESETS, SignalSpec

if TYPE_CHECKING:
    from torch import Tensor

    from xecg.signal.frontend_stream import FrontendStream

__all__ = ["ECGFrontend", "ModelInput", "preprocess"]


class ModelInput(NamedTuple):
    """x float32 (…, leads, samples) and mask bool of the same shape; where the mask is False x is 0."""

    x: np.ndarray
    mask: np.ndarray


class _Compiled(NamedTuple):
    """What the kernel made; left (records, rows) bool: rows of the plan still to do, or None."""

    result: ModelInput
    left: np.ndarray | None


class ECGFrontend:
    """A plan made once and applied many times: gaps, filters, resampling, normalisation, lead order.

    spec_or_preset: a `SignalSpec`, or the name of one of `PRESETS`. in_rate: Hz of the input. leads: names of the
    input rows; they are mapped by name, never by position; input leads that the spec lacks are left out, spec leads
    that the input lacks become 0 with mask False. initial: state of causal filters at a lead's first valid sample:
    "step" (as if that value had always been there; the default) or "zero".

    Filters: Butterworth and notch sections of scipy; phase "zero" is `sosfiltfilt` per stage, "causal" is `sosfilt`.
    Resampling: `resample_poly` (causal: the same taps, late by `fir_delay_s`) or `scipy.signal.resample`. z-score:
    population standard deviation over valid samples; a lead under 1e-6 mV is flat: 0 and masked. The definition is
    float64 inside; the compiled forms that stand in for it (`xecg.signal.kernel`, `xecg.signal.live`) are float32.
    Gaps: see `xecg.signal.gaps`. An output sample is valid where both input samples beside its time are; in the
    causal form that time is `fir_delay_s` earlier, so outputs before the first input are masked.

    Raises SpecError for a plan that cannot be: unknown preset, rate or cut-off out of range, resampling ratio too
    fine, no lead or a lead given twice.
    """

    def __init__(
        self,
        spec_or_preset: SignalSpec | str | Mapping[str, Any],
        *,
        in_rate: float,
        leads: Sequence[str],
        initial: str = "step",
    ) -> None:
        self.spec = _spec(spec_or_preset)
        if isinstance(leads, str):
            raise SpecError(f"leads is the text {leads!r}; needed a sequence of lead names")
        self.leads = tuple(leads)
        self._rows = _map_leads(self.spec.leads, self.leads)
        try:
            in_rate = float(in_rate)
        except (TypeError, ValueError, OverflowError):
            raise SpecError(f"in_rate is {in_rate!r}; needed a number of Hz") from None
        self._plan = make_plan(self.spec, in_rate, initial)

    @property
    def in_rate(self) -> float:
        """Hz of the input."""
        return self._plan.in_rate

    @property
    def out_rate(self) -> float:
        """Hz of the output."""
        return self._plan.out_rate

    @property
    def fir_delay_s(self) -> float:
        """Delay of the causal resampler: half its length. 0 in the zero-phase form."""
        return self._plan.fir_delay_s

    @property
    def filter_delay_s(self) -> float:
        """Group delay of the causal filters at 10 Hz. 0 in the zero-phase form."""
        return self._plan.filter_delay_s

    @property
    def delay_s(self) -> float:
        """How late the output is against the input: resampler and filters together."""
        return self._plan.fir_delay_s + self._plan.filter_delay_s

    @property
    def settle_s(self) -> float:
        """How long after a gap of more than 100 ms the output stays masked."""
        return self._plan.settle / self._plan.in_rate

    @property
    def hash(self) -> str:
        """32 hex digits: spec, input rate, input leads, initial state. Saved stream states carry it."""
        import hashlib

        return hashlib.sha256("\n".join([self._plan.hash, *self.leads]).encode()).hexdigest()[:32]

    def output_length(self, n: int) -> int:
        """Output samples for n input samples: ceil(n·out_rate/in_rate); rounded for FFT resampling."""
        return self._plan.output_length(n)

    def apply(
        self,
        signal: np.ndarray,
        *,
        mask: np.ndarray | None = None,
        gain: float | Sequence[float] | np.ndarray | None = None,
        baseline: float | Sequence[float] | np.ndarray | None = None,
    ) -> ModelInput:
        """Whole records: signal (leads, n) or (B, leads, n), float mV or integer counts → `ModelInput` with the same
        rank.

        mask: bool like signal, False = missing (not-a-number is missing too). gain: counts per mV, baseline: counts
        at 0 mV; a scalar or one a lead; only for integer signals, where gain is needed. A causal spec gives what its
        stream gives. Raises ShapeError.
        """
        if self._plan.causal:
            return self._causal(signal, mask, gain, baseline)
        done = self._compiled(signal, mask, gain, baseline)
        if done is not None and done.left is None:
            return done.result
        x, valid = self._millivolts(signal, mask, gain, baseline)
        if x.shape[-1] == 0:
            raise ShapeError(f"signal has shape {np.shape(signal)}; needed at least one sample")
        if done is not None:
            return self._finish(done, x, valid)
        batched = x if x.ndim == 3 else x[None]
        valid = valid if valid.ndim == 3 else valid[None]
        y, ok = run_offline(self._plan, batched, valid)
        result = self._scatter(y, ok)
        return result if x.ndim == 3 else ModelInput(result.x[0], result.mask[0])

    def _causal(self, signal: Any, mask: Any, gain: Any, baseline: Any) -> ModelInput:
        """Whole records through a stream."""
        from xecg.signal.frontend_stream import run_causal

        if not isinstance(signal, np.ndarray) or signal.ndim not in (2, 3) or signal.size == 0:
            x, _ = self._millivolts(signal, mask, gain, baseline)  # refuses what is no signal
            if x.shape[-1] == 0:
                raise ShapeError(f"signal has shape {np.shape(signal)}; needed at least one sample")
            if x.size == 0:
                return self._scatter(*(np.zeros((*x.shape[:-1], self.output_length(x.shape[-1]))) for _ in range(2)))
        a, m = np.asarray(signal), None if mask is None else np.asarray(mask)
        if m is not None and m.shape != a.shape:
            raise ShapeError(f"mask is {m.dtype} with shape {m.shape}; needed bool {a.shape}, like signal")
        if a.ndim == 3:
            return run_causal(self, a, m, gain, baseline)
        result = run_causal(self, a[None], None if m is None else m[None], gain, baseline)
        return ModelInput(result.x[0], result.mask[0])

    def _compiled(self, a: Any, mask: Any, gain: Any, baseline: Any) -> _Compiled | None:
        """What the compiled kernel gives, and the rows that it leaves to the definition; None when it does not serve
        the call."""
        counts = gain is not None
        if not isinstance(a, np.ndarray) or a.ndim not in (2, 3) or a.shape[-2] != len(self.leads):
            return None
        if a.dtype != (np.int16 if counts else np.float32) or (baseline is not None and not counts):
            return None
        n = a.shape[-1]
        if not kernel.serves(self._plan, n) or (mask is not None and np.shape(mask) != a.shape):
            return None
        scale = zero = None
        records, m = a.size // (a.shape[-2] * n), self.output_length(n)
        inputs, outputs = (np.array(side, np.int64) for side in (list(self._rows.values()), list(self._rows)))
        if counts:
            g = _per_lead("gain", gain, len(self.leads))[inputs]
            if not (g > 0).all():
                return None
            o = _per_lead("baseline", 0.0 if baseline is None else baseline, len(self.leads))[inputs]
            scale, zero = (np.tile(v, records).astype(np.float32) for v in (1 / g, o))
        full = len(outputs) == len(self.spec.leads)
        x = (np.empty if full else np.zeros)((records, len(self.spec.leads), m), np.float32)
        each = np.arange(records)[:, None]
        starts = ((each * len(self.leads) + inputs) * n).ravel()
        out_starts = ((each * len(self.spec.leads) + outputs) * m).ravel()
        state = kernel.run(self._plan, np.ascontiguousarray(a), starts, n, x, out_starts, scale=scale, baseline=zero)
        left: np.ndarray = (state == kernel.BROKEN).reshape(records, -1)
        if mask is not None:
            left = left | ~np.reshape(mask, (records, -1, n))[:, inputs].all(-1)
        ok = np.zeros(x.shape, dtype=bool)
        ok[:, outputs] = (state == kernel.GOOD).reshape(records, -1, 1)
        shape = (*a.shape[:-2], *x.shape[1:])
        return _Compiled(ModelInput(x.reshape(shape), ok.reshape(shape)), left if left.any() else None)

    def _finish(self, done: _Compiled, x: np.ndarray, valid: np.ndarray) -> ModelInput:
        """The rows that the kernel left, by the definition: rows are independent, so the others keep their bits."""
        assert done.left is not None
        record, row = np.nonzero(done.left)
        rows = (a.reshape(*done.left.shape, -1)[None, record, row] for a in (x, valid))
        y, ok = run_offline(self._plan, *rows)
        lead = np.array(list(self._rows))[row]
        for whole, part in ((done.result.x, y), (done.result.mask, ok)):
            whole.reshape(len(done.left), len(self.spec.leads), -1)[record, lead] = part[0]
        return done.result

    def apply_tensor(
        self,
        signal: Tensor,
        *,
        gain: float | Sequence[float] | np.ndarray | None = None,
        baseline: float | Sequence[float] | np.ndarray | None = None,
    ) -> tuple[Tensor, Tensor]:
        """`apply` for a tensor, on its device: signal (leads, n) or (B, leads, n), float32 mV or int16 counts → x float32
        and mask bool.

        On an NVIDIA GPU the plans of the compiled form run there with XECG_UNPROVEN=1 (no GPU has run them yet); another
        plan, and a record with a sample that is not finite, go through the host. gain, baseline and errors as for `apply`.
        """
        from xecg.signal.device import apply

        return apply(self, signal, gain, baseline)

    def stream(self, capacity: int = 1) -> FrontendStream:
        """Live form of a causal spec for up to `capacity` patients at once. Raises SpecError for a zero-phase spec."""
        from xecg.signal.frontend_stream import FrontendStream

        return FrontendStream(self, capacity)

    def _millivolts(
        self, signal: np.ndarray, mask: np.ndarray | None, gain: Any = None, baseline: Any = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The rows that the spec uses, float64 mV and finite (…, rows, n), and where they are valid."""
        try:
            a = np.asarray(signal)
        except ValueError as error:
            raise ShapeError(
                f"signal is not a rectangular array: {error}; every lead needs the same number of samples"
            ) from None
        if a.ndim not in (2, 3) or a.shape[-2] != len(self.leads):
            raise ShapeError(
                f"signal has shape {a.shape}; needed ({len(self.leads)}, n) or (B, {len(self.leads)}, n), one row a lead"
            )
        keep = list(self._rows.values())
        if np.issubdtype(a.dtype, np.integer):
            if gain is None:
                raise ShapeError(f"signal is {a.dtype} counts without gain; give gain in counts per mV, or float mV")
            g, o = self._counts(gain, baseline)
            x = (a[..., keep, :] - o[keep, None]) / g[keep, None]
        elif np.issubdtype(a.dtype, np.floating):
            if gain is not None or baseline is not None:
                raise ShapeError(f"signal is {a.dtype}, taken as mV; gain and baseline are for integer counts")
            x = a[..., keep, :].astype(np.float64)
        else:
            raise ShapeError(f"signal is {a.dtype}; needed float mV or integer counts")
        valid = np.isfinite(x)
        if mask is not None:
            m = np.asarray(mask)
            if m.shape != a.shape or m.dtype != np.bool_:
                raise ShapeError(f"mask is {m.dtype} with shape {m.shape}; needed bool {a.shape}, like signal")
            valid &= m[..., keep, :]
        return np.where(valid, x, 0.0), valid

    def _counts(self, gain: Any, baseline: Any) -> tuple[np.ndarray, np.ndarray]:
        """gain and baseline of each input lead, float64."""
        zero = 0.0 if baseline is None else baseline
        g, o = _per_lead("gain", gain, len(self.leads)), _per_lead("baseline", zero, len(self.leads))
        if not (g > 0).all():
            raise SpecError(f"gain is {gain!r}; needed positive counts per mV")
        return g, o

    def _scatter(self, y: np.ndarray, ok: np.ndarray) -> ModelInput:
        shape = (*y.shape[:-2], len(self.spec.leads), y.shape[-1])
        x, mask = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=bool)
        x[..., list(self._rows), :] = y
        mask[..., list(self._rows), :] = ok
        return ModelInput(x, mask)


def preprocess(recording: Recording, spec_or_preset: SignalSpec | str | Mapping[str, Any]) -> ModelInput:
    """`recording` as a model's input: x float32 (leads, samples), mask. Leads by name; raises SpecError, ShapeError."""
    return _cached(_spec(spec_or_preset), float(recording.rate), tuple(recording.leads)).apply(
        recording.signal, mask=recording.mask
    )


@lru_cache(maxsize=64)
def _cached(spec: SignalSpec, rate: float, leads: tuple[str, ...]) -> ECGFrontend:
    return ECGFrontend(spec, in_rate=rate, leads=leads)


def _spec(spec: SignalSpec | str | Mapping[str, Any]) -> SignalSpec:
    if isinstance(spec, str):
        if spec not in PRESETS:
            raise SpecError(f"preset is {spec!r}; needed one of {', '.join(PRESETS)}, or a SignalSpec")
        return PRESETS[spec]
    return spec if isinstance(spec, SignalSpec) else SignalSpec.from_dict(spec)


def _map_leads(wanted: Sequence[str], found: Sequence[str]) -> dict[int, int]:
    """Output row → input row, in output order."""
    rows: dict[str, int] = {}
    targets = {canonical_lead(name).lower() for name in wanted}
    for i, name in enumerate(canonical_leads(found)):
        key = name.lower()
        if key in targets and key in rows:
            raise SpecError(f"leads {found[rows[key]]!r} and {found[i]!r} are both lead {name}; keep one of them")
        rows[key] = i
    mapping = {
        o: rows[canonical_lead(name).lower()] for o, name in enumerate(wanted) if canonical_lead(name).lower() in rows
    }
    if not mapping:
        raise SpecError(f"none of the leads {', '.join(map(repr, found))} is wanted; the spec has {', '.join(wanted)}")
    return mapping


def _per_lead(name: str, value: Any, leads: int) -> np.ndarray:
    a = np.asarray(value, dtype=np.float64)
    if a.ndim > 1 or (a.ndim == 1 and len(a) != leads):
        raise ShapeError(f"{name} has shape {a.shape}; needed one number, or one for each of {leads} leads")
    if not np.isfinite(a).all():
        raise SpecError(f"{name} is {value!r}; needed finite numbers")
    return np.broadcast_to(a, (leads,))
