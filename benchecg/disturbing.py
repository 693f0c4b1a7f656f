"""What goes wrong with a recording between electrode and file, done to recordings on purpose. The labels stay what they are.

Every disturbance is a function of the recording alone: its random numbers come from a hash of the condition and the samples, so every
model meets the same disturbed recording, on every machine. Noise has the size that WFDB's `nst` gives it: the signal's power is that of
the QRS complexes, (peak to peak)² / 8, and the noise's mean square lies the given number of decibels below it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from xecg.errors import SpecError
from xecg.signal import STANDARD_LEADS, Recording
from xecg.signal.leads import canonical_leads

__all__ = ["FAMILIES", "NOISE_FOLDER", "Condition", "conditions"]

FAMILIES = ("leads", "rate", "gain", "clipping", "swap", "noise")
NOISE_FOLDER = "nstdb"  # MIT-BIH Noise Stress Test Database, under the data root
_SNR_DB = (24.0, 12.0, 6.0)
_NOISES = {"electrode": "em", "muscle": "ma"}  # the simulator's name → the record of the database
_HALF_QRS_S = 0.05
_MAINS_HZ = 50.0
_STRETCH_S = 120.0  # of synthetic noise; a longer recording gets it forth and back again, without a seam
_KEPT = {"II only": ("II",), "I and II": ("I", "II"), "limb leads": STANDARD_LEADS[:6]}
_RATES_HZ = (250.0, 125.0)
_GAINS = (0.5, 0.8, 1.25, 2.0)
_CLIPS_MV = (1.0, 0.5)
# Lead → (the lead whose electrode voltages it now shows, sign): Einthoven's and Goldberger's definitions with two electrodes exchanged.
_SWAPS: dict[str, dict[str, tuple[str, float]]] = {
    "arms exchanged": {
        "I": ("I", -1.0), "II": ("III", 1.0), "III": ("II", 1.0), "aVR": ("aVL", 1.0), "aVL": ("aVR", 1.0),
    },
    "left arm and leg exchanged": {
        "I": ("II", 1.0), "II": ("I", 1.0), "III": ("III", -1.0), "aVL": ("aVF", 1.0), "aVF": ("aVL", 1.0),
    },
    "V1 to V6 reversed": {f"V{k}": (f"V{7 - k}", 1.0) for k in range(1, 7)},
}  # fmt: skip


@dataclass(frozen=True)
class Condition:
    """family: one of `FAMILIES`. label: for tables. lacks: why a recording cannot be so disturbed, None when it can."""

    family: str
    label: str
    lacks: Callable[[Recording], str | None]
    _apply: Callable[[Recording, np.random.Generator], Recording]

    @property
    def key(self) -> str:
        """Names the condition in caches."""
        return f"{self.family}/{self.label}"

    def __call__(self, recording: Recording) -> Recording:
        """The disturbed recording; its times in seconds are the same."""
        digest = hashlib.blake2b(self.key.encode(), digest_size=8)
        digest.update(recording.signal.tobytes())
        return self._apply(recording, np.random.default_rng(int.from_bytes(digest.digest(), "big")))


def conditions(families: tuple[str, ...] = FAMILIES, *, noise: Path | None = None) -> list[Condition]:
    """Every condition of the families, mildest first. noise: folder of the Noise Stress Test Database; None: synthetic noise."""
    unknown = [name for name in families if name not in FAMILIES]
    if unknown:
        raise SpecError(f"there is no family {unknown[0]!r} of disturbances; the families are {', '.join(FAMILIES)}")
    makers = {
        "leads": _leads, "rate": _rates, "gain": _gains, "clipping": _clips, "swap": _swaps,
        "noise": lambda: _noises(noise),
    }  # fmt: skip
    return [c for family in FAMILIES if family in families for c in makers[family]()]


def _any(recording: Recording) -> str | None:
    return None


def _leads() -> list[Condition]:
    def of(label: str, kept: tuple[str, ...]) -> Condition:
        def lacks(r: Recording) -> str | None:
            there = set(canonical_leads(r.leads))
            if not there & set(kept):
                return f"no lead of {', '.join(kept)}"
            return None if there - set(kept) else f"no other lead than {', '.join(sorted(there))}"

        def apply(r: Recording, rng: np.random.Generator) -> Recording:
            keep = np.array([name in kept for name in canonical_leads(r.leads)])[:, None]
            return r.with_(signal=np.where(keep, r.signal, np.float32(0)), mask=r.mask & keep)

        return Condition("leads", label, lacks, apply)

    return [of(label, kept) for label, kept in reversed(_KEPT.items())]


def _rates() -> list[Condition]:
    def of(rate_hz: float) -> Condition:
        def lacks(r: Recording) -> str | None:
            return None if r.rate > rate_hz else f"recorded at {r.rate:g} Hz"

        def apply(r: Recording, rng: np.random.Generator) -> Recording:
            signal = _resampled(r.signal, r.rate, rate_hz)
            at = np.minimum(np.round(np.arange(signal.shape[1]) * r.rate / rate_hz).astype(int), r.mask.shape[1] - 1)
            mask = r.mask[:, at]
            return r.with_(signal=np.where(mask, signal, np.float32(0)), mask=mask, rate=rate_hz, annotations=None)

        return Condition("rate", f"{rate_hz:g} Hz", lacks, apply)

    return [of(rate) for rate in _RATES_HZ]


def _resampled(x: np.ndarray, rate_hz: float, to_hz: float) -> np.ndarray:
    from scipy.signal import resample_poly

    ratio = Fraction(to_hz / rate_hz).limit_denominator(1_000)
    return resample_poly(x, ratio.numerator, ratio.denominator, axis=-1, padtype="line").astype(np.float32)


def _gains() -> list[Condition]:
    def of(factor: float) -> Condition:
        return Condition(
            "gain", f"× {factor:g}", _any, lambda r, rng: r.with_(signal=(r.signal * factor).astype(np.float32))
        )

    return [of(factor) for factor in _GAINS]


def _clips() -> list[Condition]:
    def of(limit: float) -> Condition:
        def apply(r: Recording, rng: np.random.Generator) -> Recording:
            middle = np.median(r.signal, axis=1, keepdims=True)
            return r.with_(signal=np.clip(r.signal, middle - limit, middle + limit).astype(np.float32))

        return Condition("clipping", f"± {limit:g} mV", _any, apply)

    return [of(limit) for limit in _CLIPS_MV]


def _swaps() -> list[Condition]:
    def of(label: str, shows: Mapping[str, tuple[str, float]]) -> Condition:
        def lacks(r: Recording) -> str | None:
            absent = sorted(set(shows) - set(canonical_leads(r.leads)))
            return f"no lead {', '.join(absent)}" if absent else None

        def apply(r: Recording, rng: np.random.Generator) -> Recording:
            names = canonical_leads(r.leads)
            source = [names.index(shows.get(name, (name, 1.0))[0]) for name in names]
            sign = np.array([shows.get(name, (name, 1.0))[1] for name in names], np.float32)[:, None]
            return r.with_(signal=sign * r.signal[source], mask=r.mask[source])

        return Condition("swap", label, lacks, apply)

    return [of(label, shows) for label, shows in _SWAPS.items()]


def _noises(folder: Path | None) -> list[Condition]:
    def of(kind: str, snr_db: float) -> Condition:
        def apply(r: Recording, rng: np.random.Generator) -> Recording:
            drawn = _synthetic(kind, r, rng) if folder is None else _recorded(folder / _NOISES[kind], r, rng)
            rms = np.sqrt(np.mean(drawn**2, axis=1, keepdims=True))
            size = _qrs_mv(r) / np.sqrt(8 * 10 ** (snr_db / 10))
            noisy = r.signal + size[:, None] * drawn / np.where(rms > 0, rms, 1)
            return r.with_(signal=np.where(r.mask, noisy, 0).astype(np.float32))

        return Condition("noise", f"{kind}, {snr_db:g} dB", _any, apply)

    return [of(kind, snr_db) for kind in _NOISES for snr_db in _SNR_DB]


def _qrs_mv(recording: Recording) -> np.ndarray:
    """Peak to peak of the QRS complexes of each lead, mV (leads,): the mean over beats without the extreme fifths."""
    from xecg.signal import qrs

    peaks = np.asarray(qrs.detect(recording.signal, recording.rate), int)
    half = max(1, round(_HALF_QRS_S * recording.rate))
    inside = peaks[(peaks >= half) & (peaks < recording.signal.shape[1] - half)]
    if not len(inside):
        return np.ptp(np.percentile(recording.signal, (0.5, 99.5), axis=1), axis=0)
    height = np.sort(np.ptp(recording.signal[:, inside[:, None] + np.arange(-half, half + 1)], axis=2), axis=1)
    cut = len(inside) // 5
    return height[:, cut : len(inside) - cut].mean(1)


def _synthetic(kind: str, recording: Recording, rng: np.random.Generator) -> np.ndarray:
    """Noise of each lead (leads, samples), combined from electrodes as the leads are; two minutes of it, forth and back."""
    from xecg.signal import simulate

    sizes = {"wander": 0.0, "mains": 0.0, "muscle": 0.0, "electrode": 0.0, kind: 1.0}
    n = recording.signal.shape[1]
    twelve = simulate.noise_mv(rng, sizes, recording.rate, min(n, round(_STRETCH_S * recording.rate)), _MAINS_HZ)
    names = canonical_leads(recording.leads)
    stretch = twelve[[STANDARD_LEADS.index(name) if name in STANDARD_LEADS else 1 for name in names]]
    both = np.concatenate([stretch, stretch[:, ::-1]], 1)
    return np.take(both, np.arange(n), axis=1, mode="wrap")


def _recorded(record: Path, recording: Recording, rng: np.random.Generator) -> np.ndarray:
    """Stretches of a noise record (leads, samples): lead k has channel k, a stretch of its own for each pair of leads."""
    from xecg import read

    noise = read(record.with_suffix(".hea"))
    source, n = noise.signal, recording.signal.shape[1]
    if noise.rate != recording.rate:
        source = _resampled(source, noise.rate, recording.rate)
    out = np.zeros((len(recording.leads), n))
    for pair in range(0, len(out), len(source)):
        at = (int(rng.integers(source.shape[1])) + np.arange(n)) % source.shape[1]
        stretch = source[:, at]
        out[pair : pair + len(source)] = stretch[: len(out) - pair]
    return out - out.mean(1, keepdims=True)
