"""The adapter self-test: does an adapter keep its contract on inputs that benchmarks are full of?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchecg.models.base import Adapter, Tokens
from xecg.errors import XECGError
from xecg.signal import STANDARD_LEADS, Recording

__all__ = ["LONG_S", "Check", "validate_adapter"]

LONG_S = 1_800.0  # half an hour, as a record of MIT-BIH
_RATE_HZ = 500.0
_BATCH_TOLERANCE = 1e-4  # largest change of a feature when companions are encoded with it
_PULSE_MV, _PULSE_S = 1.0, 0.02  # height and standard deviation of what is put into one token
_PLACES = 4  # tokens of a recording below which there is nothing to place


@dataclass(frozen=True)
class Check:
    """One promise and whether it held; found: what was seen, for the person who writes the adapter."""

    name: str
    passed: bool
    found: str


def _recording(duration_s: float, *, seed: int = 1) -> Recording:
    from xecg.signal import simulate

    return simulate.ecg(seed=seed, rate_hz=_RATE_HZ, duration_s=duration_s)


def _zero_leads(recording: Recording, rows: slice) -> Recording:
    signal = recording.signal.copy()
    signal[rows] = 0
    return recording.with_(signal=signal)


def _constant() -> Recording:
    signal = np.full((12, int(10 * _RATE_HZ)), 0.5, np.float32)
    return Recording(signal=signal, rate=_RATE_HZ, leads=STANDARD_LEADS, mask=np.ones(signal.shape, bool))


def validate_adapter(adapter: Adapter, *, long_s: float = LONG_S, reference: Path | None = None) -> list[Check]:
    """Every check on simulated input, in order. long_s: length of the long recording in seconds.

    reference: of an adapter on somebody else's checkpoint, what the origin's own code says; see `benchecg.models.origin`.
    """
    ten = _recording(10)
    checks = [
        _one(adapter, "10 s, 12 leads", lambda: ten),
        _one(adapter, "1 s", lambda: _recording(1)),
        _one(adapter, f"{long_s:g} s", lambda: _recording(long_s)),
        _one(adapter, "only leads I and II carry a signal", lambda: _zero_leads(ten, slice(2, None))),
        _one(adapter, "a constant on all leads", _constant),
    ]
    if checks[0].passed:
        checks += [_batch(adapter, ten), _repeat(adapter, ten), _placed(adapter, ten)]
    if hasattr(adapter, "differs_from"):
        checks.append(_origin(adapter, reference))
    return checks


def _guarded(name: str, check: Callable[[], tuple[bool, str]]) -> Check:
    try:
        return Check(name, *check())
    except XECGError as error:
        return Check(name, False, str(error))
    except Exception as error:  # an adapter is foreign code: any failure of it is the finding
        return Check(name, False, f"{type(error).__name__}: {error}")


def _one(adapter: Adapter, name: str, make: Callable[[], Recording]) -> Check:
    def check() -> tuple[bool, str]:
        recording = make()
        given = adapter.features([recording])
        if len(given) != 1 or not isinstance(given[0], Tokens):
            return False, f"gave {len(given)} features for one recording; needed a list with one Tokens"
        tokens = given[0]
        late = float(tokens.start_s[-1])
        if late >= recording.duration_s:
            return False, f"the last token starts at {late:.3g} s of a recording of {recording.duration_s:.3g} s"
        return True, f"{len(tokens.values)} tokens of width {tokens.values.shape[1]}"

    return _guarded(name, check)


def _change(a: Tokens, b: Tokens) -> float:
    return float(np.abs(a.values - b.values).max()) if a.values.shape == b.values.shape else float("inf")


def _batch(adapter: Adapter, recording: Recording) -> Check:
    def check() -> tuple[bool, str]:
        alone = adapter.features([recording])[0]
        change = _change(alone, adapter.features([_recording(10, seed=2), recording, _recording(4, seed=3)])[1])
        return change <= _BATCH_TOLERANCE, f"largest change {change:.2g}, allowed {_BATCH_TOLERANCE:g}"

    return _guarded("companions in the batch change nothing", check)


def _repeat(adapter: Adapter, recording: Recording) -> Check:
    def check() -> tuple[bool, str]:
        change = _change(adapter.features([recording])[0], adapter.features([recording])[0])
        return change == 0, f"largest change {change:.2g}, allowed 0"

    return _guarded("the same input twice gives the same features", check)


def _placed(adapter: Adapter, recording: Recording) -> Check:
    """A pulse within one token must change the tokens there most; a token later, a token later."""

    def check() -> tuple[bool, str]:
        plain = adapter.features([recording])[0]
        count = len(plain.values)
        if count < _PLACES:
            return True, f"{count} token{'s' * (count > 1)} in {recording.duration_s:g} s: nothing to place"
        found, allowed = [], True
        for k in (count // 2, count // 2 + 1):
            start, length = plain.start_s[k], plain.length_s[k]
            with_pulse = adapter.features([_pulsed(recording, start + length / 2)])[0]
            seen_s = _where_changed(plain, with_pulse, recording.duration_s)
            if seen_s is None:
                return True, "a pulse of 1 mV changes nothing: nothing to place"
            allowed &= start - length <= seen_s < start + 2 * length
            found.append(f"a pulse at {start + length / 2:.2f} s changes most at {seen_s:.2f} s")
        return allowed, f"{'; '.join(found)}, tokens of {length:.2f} s"

    return _guarded("a change in the signal changes the tokens of its time", check)


def _pulsed(recording: Recording, at_s: float) -> Recording:
    t = np.arange(recording.signal.shape[1]) / recording.rate - at_s
    pulse = _PULSE_MV * np.exp(-0.5 * (t / _PULSE_S) ** 2)
    return recording.with_(signal=(recording.signal + pulse).astype(np.float32))


def _where_changed(a: Tokens, b: Tokens, duration_s: float) -> float | None:
    """The time at which two token sequences differ most, None where they do not."""
    t = np.arange(0.005, duration_s, 0.01)
    (i, known), (j, also) = a.at(t), b.at(t)
    change = np.linalg.norm(a.values[i] - b.values[j], axis=1) * (known & also)
    return float(t[change.argmax()]) if change.max() > 0 else None


def _origin(adapter: Any, reference: Path | None) -> Check:
    def check() -> tuple[bool, str]:
        if reference is None:
            return (
                False,
                "no reference was given; make one with the origin's own code as docs/MODELS.md says, and pass --reference",
            )
        difference, allowed = adapter.differs_from(reference)
        return difference <= allowed, f"largest difference {difference:.2g}, allowed {allowed:.2g}"

    return _guarded("features equal those of the origin's own code", check)
