"""`SignalSpec`: what a model's input is, stored in its checkpoint and nowhere else; the named presets of spec/frontend."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from xecg.errors import SpecError
from xecg.signal.leads import STANDARD_LEADS

__all__ = ["PRESETS", "FilterSpec", "SignalSpec"]


def _positive(value: object) -> bool:
    """Whether `value` is a number above 0 that a float can hold: specs come out of files, with whatever is in them."""
    return isinstance(value, (int, float)) and 0 < value <= sys.float_info.max


@dataclass(frozen=True)
class FilterSpec:
    """One filter stage: a Butterworth of prototype order `order`, or a notch (`iirnotch(low_hz, q)`).

    kind: "bandpass" (low_hz, high_hz) | "highpass" (low_hz) | "lowpass" (high_hz) | "notch" (low_hz, q).
    """

    kind: str
    order: int = 3
    low_hz: float | None = None
    high_hz: float | None = None
    q: float = 30.0

    def __post_init__(self) -> None:
        needs = {
            "bandpass": ("low_hz", "high_hz"),
            "highpass": ("low_hz",),
            "lowpass": ("high_hz",),
            "notch": ("low_hz",),
        }
        if self.kind not in needs:
            raise SpecError(f"filter kind is {self.kind!r}; needed one of {', '.join(needs)}")
        if not isinstance(self.order, int) or not 1 <= self.order <= 12:
            raise SpecError(f"filter order is {self.order!r}; needed a whole number in 1..12")
        for name in needs[self.kind]:
            value = getattr(self, name)
            if not _positive(value):
                raise SpecError(f"filter {name} is {value!r}; a {self.kind} needs a positive, finite frequency in Hz")
        if self.kind == "bandpass" and not self.low_hz < self.high_hz:  # type: ignore[operator]
            raise SpecError(f"band-pass is {self.low_hz}..{self.high_hz} Hz; low must be below high")
        if not _positive(self.q):
            raise SpecError(f"notch q is {self.q!r}; needed a positive, finite number")


@dataclass(frozen=True)
class SignalSpec:
    """The input contract of a model.

    rate: Hz, or None to keep the recording's. leads: order of the model's input rows. unit: always "mV" before normalisation.
    filters: applied in order. phase: "zero" (offline, sosfiltfilt) or "causal" (sosfilt, step initial state).
    resample: "none" | "fft" | "poly" (causal when phase is). normalise: "none" | "zscore" | "zscore-joint" | "causal-zscore".
    normalise_first: z-score before the filters (ST-MEM). tau_s: time constant of the causal z-score. patch: samples a token.
    """

    rate: float | None = 100.0
    leads: tuple[str, ...] = STANDARD_LEADS
    unit: str = "mV"
    filters: tuple[FilterSpec, ...] = ()
    phase: str = "zero"
    resample: str = "poly"
    normalise: str = "none"
    normalise_first: bool = False
    tau_s: float = 10.0
    patch: int = 25

    def __post_init__(self) -> None:
        allowed = {
            "unit": ("mV",),
            "phase": ("zero", "causal"),
            "resample": ("none", "fft", "poly"),
            "normalise": ("none", "zscore", "zscore-joint", "causal-zscore"),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise SpecError(f"signal spec {name} is {getattr(self, name)!r}; needed one of {', '.join(values)}")
        if self.rate is not None and not 25 <= self.rate <= 20_000:
            raise SpecError(f"signal spec rate is {self.rate!r} Hz; needed 25..20,000, or null to keep the recording's")
        if not self.leads or not all(isinstance(lead, str) for lead in self.leads):
            raise SpecError(f"signal spec leads are {self.leads!r}; needed at least one, each a text")
        if len(set(self.leads)) != len(self.leads):
            raise SpecError(f"signal spec leads are {self.leads!r}; needed each once")
        if not isinstance(self.normalise_first, bool):
            raise SpecError(f"signal spec normalise_first is {self.normalise_first!r}; needed true or false")
        if not _positive(self.tau_s):
            raise SpecError(f"signal spec tau_s is {self.tau_s!r}; needed a positive number of seconds")
        if not isinstance(self.patch, int) or self.patch < 1:
            raise SpecError(f"signal spec patch is {self.patch!r}; needed a whole number of samples, at least 1")
        if self.phase == "causal" and (self.resample == "fft" or self.normalise in ("zscore", "zscore-joint")):
            raise SpecError("a causal spec cannot use fft resampling or a whole-record z-score: both look ahead")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SignalSpec:
        """The inverse of `to_dict`. Raises SpecError on an unknown key or a value out of range."""
        known = {f.name for f in fields(cls)}
        for key in data:
            if key not in known:
                raise SpecError(f"signal spec has an unknown key {key!r}; known keys are {', '.join(sorted(known))}")
        values = dict(data)
        try:
            if "leads" in values:
                values["leads"] = tuple(values["leads"])
            if "filters" in values:
                values["filters"] = tuple(FilterSpec(**f) for f in values["filters"])
            return cls(**values)
        except TypeError as error:
            raise SpecError(f"signal spec is not valid: {error}") from None

    @property
    def hash(self) -> str:
        """First 16 hex digits of the SHA-256 of the canonical JSON: names the spec in every output."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


_BAND = (FilterSpec("bandpass", 3, 0.5, 40.0),)
_JEPA_LEADS = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")

# spec/frontend 2. Rates and filters of the peers are those of the bench-xecg configurations.
PRESETS: dict[str, SignalSpec] = {
    "xecg": SignalSpec(resample="fft"),
    "poly": SignalSpec(filters=_BAND, normalise="zscore"),
    "causal": SignalSpec(filters=_BAND, phase="causal", normalise="causal-zscore"),
    "monitor": SignalSpec(rate=None, filters=_BAND, resample="none"),
    "clinical": SignalSpec(rate=None, filters=(FilterSpec("bandpass", 2, 0.05, 150.0),), resample="none"),
    "ecgfounder": SignalSpec(
        rate=500.0,
        filters=(FilterSpec("lowpass", 5, high_hz=50.0), FilterSpec("highpass", 5, low_hz=0.5)),
        patch=5000,
    ),
    "st-mem": SignalSpec(
        rate=250.0,
        filters=(FilterSpec("lowpass", 5, high_hz=40.0), FilterSpec("highpass", 5, low_hz=0.67)),
        normalise="zscore-joint",
        normalise_first=True,
        patch=75,
    ),
    "ecg-jepa": SignalSpec(rate=250.0, leads=_JEPA_LEADS, patch=50),
    "ecg-cpc": SignalSpec(rate=240.0, patch=2),
    "ecg-fm": SignalSpec(rate=500.0, normalise="zscore", patch=2500),
}
