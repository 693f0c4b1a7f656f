"""Plans that cannot be are refused when they are made, and the message names the rule that they break."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xecg.errors import SpecError
from xecg.signal import PRESETS, ECGFrontend, FilterSpec, SignalSpec

NAN, INF = math.nan, math.inf


def plan(in_rate: Any = 500.0, **spec: Any) -> Callable[[], object]:
    return lambda: ECGFrontend(SignalSpec(**{"rate": None, "resample": "none", **spec}), in_rate=in_rate, leads=["II"])


def stage(*args: Any, **kwargs: Any) -> Callable[[], object]:
    return lambda: FilterSpec(*args, **kwargs)


def with_filter(in_rate: float, *args: Any, **kwargs: Any) -> Callable[[], object]:
    return plan(in_rate, filters=(FilterSpec(*args, **kwargs),))


HOSTILE = {
    "low-pass at half the rate": (with_filter(100, "lowpass", high_hz=50.0), "below half the input rate (50 Hz)"),
    "low-pass above it": (with_filter(100, "lowpass", high_hz=60.0), "60 Hz; it must lie below half the input rate"),
    "high-pass at half the rate": (with_filter(25, "highpass", low_hz=12.5), "12.5 Hz; it must lie below half"),
    "notch at half the rate": (with_filter(100, "notch", low_hz=50.0), "notch cut-off is 50 Hz; it must lie below half"),
    "band-pass with its upper edge there": (with_filter(80, "bandpass", 3, 0.5, 40.0), "40 Hz; it must lie below half"),
    "low equals high": (stage("bandpass", 3, 10.0, 10.0), "low must be below high"),
    "low above high": (stage("bandpass", 3, 40.0, 0.5), "low must be below high"),
    "order 0": (stage("lowpass", 0, high_hz=40.0), "in 1..12"),
    "order 13": (stage("lowpass", 13, high_hz=40.0), "in 1..12"),
    "order -3": (stage("lowpass", -3, high_hz=40.0), "in 1..12"),
    "order 2.5": (stage("lowpass", 2.5, high_hz=40.0), "whole number in 1..12"),
    "cut-off 0": (stage("highpass", low_hz=0.0), "positive, finite frequency"),
    "cut-off below 0": (stage("highpass", low_hz=-0.5), "positive, finite frequency"),
    "cut-off NaN": (stage("highpass", low_hz=NAN), "positive, finite frequency"),
    "cut-off infinite": (stage("lowpass", high_hz=INF), "positive, finite frequency"),
    "cut-off missing": (stage("bandpass", low_hz=0.5), "high_hz is None"),
    "cut-off too large for a float": (stage("lowpass", high_hz=10**400), "positive, finite frequency"),
    "notch q NaN": (stage("notch", low_hz=50.0, q=NAN), "q is nan"),
    "notch q 0": (stage("notch", low_hz=50.0, q=0.0), "q is 0.0"),
    "unknown kind": (stage("chebyshev", high_hz=40.0), "kind is 'chebyshev'"),
    "unstable": (with_filter(20_000, "bandpass", 12, 1e-6, 2e-6), "unstable"),
    "input rate just too low": (plan(24.999), "needed 25..20,000 Hz"),
    "input rate just too high": (plan(20_000.5), "needed 25..20,000 Hz"),
    "input rate 0": (plan(0), "needed 25..20,000 Hz"),
    "input rate below 0": (plan(-500), "needed 25..20,000 Hz"),
    "input rate NaN": (plan(NAN), "needed 25..20,000 Hz"),
    "input rate infinite": (plan(INF), "needed 25..20,000 Hz"),
    "input rate too large for a float": (plan(10**400), "in_rate is 1000"),
    "output rate just too low": (plan(rate=24.9, resample="poly"), "needed 25..20,000"),
    "output rate just too high": (plan(rate=20_001, resample="poly"), "needed 25..20,000"),
    "output rate NaN": (plan(rate=NAN, resample="poly"), "needed 25..20,000"),
    "ratio with an up above 4096": (plan(4001, rate=4099.0, resample="poly"), "must not exceed 4096"),
    "ratio with a down above 4096": (plan(4099, rate=100.0, resample="poly"), "100/4099; the reduced factors must not exceed 4096"),
    "irrational ratio": (plan(math.pi * 100, rate=100.0, resample="poly"), "must not exceed 4096"),
    "tau 0": (plan(tau_s=0.0), "tau_s is 0.0"),
    "tau NaN": (plan(tau_s=NAN), "tau_s is nan"),
    "tau infinite": (plan(tau_s=INF), "tau_s is inf"),
    "no lead": (plan(leads=()), "at least one"),
    "a lead twice": (plan(leads=("II", "II")), "each once"),
    "a lead that is no text": (lambda: SignalSpec(leads=("II", 3)), "text"),  # type: ignore[arg-type]
    "normalise_first that is no bool": (plan(normalise_first=1), "true or false"),
    "patch 0": (plan(patch=0), "at least 1"),
    "causal with fft": (plan(phase="causal", rate=100.0, resample="fft"), "look ahead"),
    "causal with a whole-record z-score": (plan(phase="causal", normalise="zscore"), "look ahead"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_plan_is_refused_by_its_rule(name: str) -> None:
    make, rule = HOSTILE[name]
    with pytest.raises(SpecError, match=re.escape(rule)):
        make()


def test_the_edges_of_the_rules_are_allowed() -> None:
    with_filter(25, "lowpass", 1, high_hz=12.49)()
    with_filter(20_000, "highpass", 12, low_hz=2000.0)()
    plan(4095, rate=4096.0, resample="poly")()
    plan(20_000, rate=25.0, resample="poly")()


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
_KEYS = st.sampled_from(sorted(SignalSpec().to_dict()))
_FILTER = st.fixed_dictionaries(
    {"kind": st.sampled_from(["bandpass", "notch"]) | _JSON, "low_hz": _JSON, "order": _JSON}
)


@settings(max_examples=400, deadline=None)
@given(
    preset=st.sampled_from(sorted(PRESETS)),
    changes=st.dictionaries(_KEYS, _JSON, max_size=2),
    stages=st.none() | st.lists(_FILTER | _JSON, max_size=2),
)
def test_any_json_is_a_plan_or_refused(preset: str, changes: dict[str, Any], stages: list[Any] | None) -> None:
    data = {**PRESETS[preset].to_dict(), **changes} | ({} if stages is None else {"filters": stages})
    try:
        spec = SignalSpec.from_dict(data)
        ECGFrontend(spec, in_rate=500, leads=["I", "II"])
    except SpecError:
        return
    assert SignalSpec.from_dict(spec.to_dict()) == spec
