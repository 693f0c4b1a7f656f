"""What a `SignalSpec` means at one sampling rate: filter sections, resampling ratio and taps, gap lengths. Numbers
only.

Hostile specs are refused here, when the plan is made. Filters are scipy's `butter` and `iirnotch` as second-order
sections; the resampling filter is the Kaiser(5) low-pass that `scipy.signal.resample_poly` designs by default.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np

from xecg.errors import SpecError
from xecg.signal.spec import FilterSpec, SignalSpec

__all__ = ["FLAT_STD_MV", "GAP_FILL_S", "Plan", "make_plan"]

GAP_FILL_S = 0.1  # s, gaps up to this long are interpolated
FLAT_STD_MV = 1e-6  # mV, a lead that varies less than this is flat
SETTLE_ENERGY = 0.99  # share of the impulse response's energy that counts as settled
_SETTLE_LIMIT_S = 60.0  # s of impulse response looked at
RATE_RANGE_HZ = (25.0, 20_000.0)
_MAX_FACTOR = 4096  # largest reduced up or down
_FORMAT = 1  # raised when the meaning of a plan or of a saved stream state changes


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything the array code needs.

    stages: one (sections, 6) float64 array per filter. sos: all stages joined, (S, 6). step_state: (S, 2), steady
    state of `sos` for a constant input of 1; zeros when the initial state is zero. taps: (up, T) float64, phase-major
    FIR of the rational resampler, zero-padded; None without one. half: its centre tap, on the upsampled grid. gap:
    longest run of missing samples that is interpolated. settle: samples masked after a longer one. decay: the factor
    a sample of the causal z-score at the input rate and at the output rate. hash: 32 hex digits over the spec, the
    rate, the initial state and the format version.
    """

    spec: SignalSpec
    in_rate: float
    out_rate: float
    causal: bool
    initial: str
    stages: tuple[np.ndarray, ...]
    sos: np.ndarray
    step_state: np.ndarray
    resample: str
    up: int
    down: int
    taps: np.ndarray | None
    half: int
    gap: int
    settle: int
    decay: tuple[float, float]
    fir_delay_s: float
    filter_delay_s: float
    hash: str

    def output_length(self, n: int) -> int:
        """Output samples for n input samples: ceil(n·up/down); FFT resampling: n·out/in rounded, at least 1."""
        if self.resample == "fft":
            return max(1, round(n * self.out_rate / self.in_rate))
        return -(-n * self.up // self.down)


@lru_cache(maxsize=64)
def make_plan(spec: SignalSpec, in_rate: float, initial: str = "step") -> Plan:
    """The plan of `spec` for input at `in_rate` Hz; `initial`: state of causal filters, "step" (of the first sample)
    or "zero".

    Raises SpecError: rate outside 25..20,000 Hz, a cut-off at or above half the rate, a resampling ratio with a
    reduced factor above 4096, "none" resampling between different rates.
    """
    from scipy import signal

    _check_rate(in_rate)
    if initial not in ("step", "zero"):
        raise SpecError(f"initial is {initial!r}; needed 'step' or 'zero'")
    stages = tuple(_sections(f, in_rate) for f in spec.filters)
    sos = np.concatenate(stages) if stages else np.zeros((0, 6))
    step = signal.sosfilt_zi(sos) if len(sos) and initial == "step" else np.zeros((len(sos), 2))
    out_rate = float(spec.rate if spec.rate is not None else in_rate)
    kind, up, down = _ratio(spec, in_rate, out_rate)
    taps, half = _fir(up, down) if kind == "poly" else (None, 0)
    causal = spec.phase == "causal"
    text = json.dumps([spec.to_dict(), in_rate, initial, _FORMAT], sort_keys=True)
    return Plan(
        spec=spec,
        in_rate=in_rate,
        out_rate=out_rate,
        causal=causal,
        initial=initial,
        stages=stages,
        sos=sos,
        step_state=step,
        resample=kind,
        up=up,
        down=down,
        taps=taps,
        half=half,
        gap=int(GAP_FILL_S * in_rate + 1e-9),
        settle=_settling(sos, in_rate),
        decay=(math.exp(-1 / (spec.tau_s * in_rate)), math.exp(-1 / (spec.tau_s * out_rate))),
        fir_delay_s=half / up / in_rate if causal else 0.0,
        filter_delay_s=_group_delay_s(sos, in_rate) if causal else 0.0,
        hash=hashlib.sha256(text.encode()).hexdigest()[:32],
    )


def _check_rate(rate: float) -> None:
    low, high = RATE_RANGE_HZ
    if not math.isfinite(rate) or not low <= rate <= high:
        raise SpecError(f"in_rate is {rate!r} Hz; needed {low:g}..{high:,.0f} Hz")


def _sections(spec: FilterSpec, rate: float) -> np.ndarray:
    from scipy import signal

    edges = [f for f in (spec.low_hz if spec.kind != "lowpass" else None, spec.high_hz) if f is not None]
    if spec.kind in ("highpass", "notch"):
        edges = edges[:1]
    for edge in edges:
        if edge >= rate / 2:
            raise SpecError(
                f"{spec.kind} cut-off is {edge:g} Hz; it must lie below half the input rate ({rate / 2:g} Hz); "
                "use input at a higher rate or a spec with a lower cut-off"
            )
    if spec.kind == "notch":
        b, a = signal.iirnotch(edges[0], spec.q, fs=rate)
        sos = np.concatenate([b, a])[None]
    else:
        sos = signal.butter(spec.order, edges if len(edges) > 1 else edges[0], spec.kind, fs=rate, output="sos")
    poles = np.abs(np.concatenate([np.roots(section[3:]) for section in sos]))
    if not np.isfinite(sos).all() or poles.max() >= 1:
        raise SpecError(
            f"{spec.kind} of order {spec.order} at {edges} Hz is unstable at {rate:g} Hz; use a lower order"
        )
    return np.ascontiguousarray(sos, dtype=np.float64)


def _ratio(spec: SignalSpec, in_rate: float, out_rate: float) -> tuple[str, int, int]:
    if in_rate == out_rate:
        return "none", 1, 1
    if spec.resample == "none":
        raise SpecError(
            f"in_rate is {in_rate:g} Hz and the spec wants {out_rate:g} Hz without resampling; give that rate"
        )
    if spec.resample == "fft":
        return "fft", 1, 1
    exact = Fraction(out_rate).limit_denominator(10_000) / Fraction(in_rate).limit_denominator(10_000)
    up, down = exact.numerator, exact.denominator
    if max(up, down) > _MAX_FACTOR:
        raise SpecError(
            f"resampling {in_rate!r} to {out_rate!r} Hz is {up}/{down}; the reduced factors must not exceed {_MAX_FACTOR}; "
            "give the rate as a simpler number"
        )
    return "poly", up, down


def _fir(up: int, down: int) -> tuple[np.ndarray, int]:
    """The taps of `resample_poly`, one row per output phase: row r holds h[r], h[r + up], h[r + 2·up], …"""
    from scipy import signal

    widest = max(up, down)
    half = 10 * widest
    h = signal.firwin(2 * half + 1, 1 / widest, window=("kaiser", 5.0)) * up
    count = -(-len(h) // up)
    padded = np.zeros(count * up)
    padded[: len(h)] = h
    return np.ascontiguousarray(padded.reshape(count, up).T), half


def _settling(sos: np.ndarray, rate: float) -> int:
    """Samples until the impulse response of the whole cascade has given 99 % of its energy."""
    from scipy import signal

    if not len(sos):
        return 0
    impulse = np.zeros(int(_SETTLE_LIMIT_S * rate))
    impulse[0] = 1
    energy = np.cumsum(signal.sosfilt(sos, impulse) ** 2)
    return int(np.searchsorted(energy, SETTLE_ENERGY * energy[-1])) + 1


def _group_delay_s(sos: np.ndarray, rate: float, at_hz: float = 10.0) -> float:
    """Group delay of the cascade at 10 Hz, where the QRS complex has most of its energy."""
    from scipy import signal

    if not len(sos):
        return 0.0
    w = 2 * np.pi * np.array([at_hz - 0.01, at_hz + 0.01]) / rate
    _, h = signal.sosfreqz(sos, worN=w)
    return float(-np.diff(np.unwrap(np.angle(h)))[0] / np.diff(w)[0] / rate)
