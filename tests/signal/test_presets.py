"""Every preset against the same chain written with scipy in float64, and the promises that hold for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal as sp

from tests.tolerances import FRONTEND_Z
from xecg.errors import ShapeError
from xecg.signal import PRESETS, STANDARD_LEADS, ECGFrontend, SignalSpec, kernel

TOL_PRESET = 3e-6  # of the largest entry; float32 inside, measured 1.5e-6 (clinical at 360 Hz)
TOL_LINEAR = 1e-5
TOL_TIME_REVERSAL = 1e-5
TOL_ENERGY = 1e-4
NO_ZSCORE = ["xecg", "monitor", "clinical", "ecgfounder", "ecg-jepa", "ecg-cpc"]
JEPA_ROWS = [0, 1, 6, 7, 8, 9, 10, 11]
Array = np.ndarray


@pytest.fixture(params=["compiled", "definition"], autouse=True, scope="module")
def form(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test runs with the compiled kernel where it serves the call, and with the numpy definition alone."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "definition":
            patch.setattr(kernel, "native", lambda: None)
        yield


def wave(rate: float) -> Array:
    """Three tones, an offset and a ramp for 10 s, in each lead with another size, offset and sign."""
    t = np.arange(int(rate * 10)) / rate
    tones = sum(a * np.sin(2 * np.pi * f * t + p) for a, f, p in ((0.8, 1.2, 0.0), (0.25, 9.0, 0.3), (0.1, 50.0, 0.0)))
    gain = np.where(np.arange(12) % 2, -1.0, 1.0) * np.linspace(0.5, 2.0, 12)
    return gain[:, None] * (tones + 0.3 + 0.05 * t) + np.linspace(-1.0, 1.0, 12)[:, None]


def noise(seed: int, *shape: int) -> Array:
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(shape).astype(np.float32)


def filtered(x: Array, rate: float, order: int, edges: float | list[float], kind: str) -> Array:
    return sp.sosfiltfilt(sp.butter(order, edges, kind, fs=rate, output="sos"), x)


def to_rate(x: Array, rate: int, wanted: int) -> Array:
    return sp.resample_poly(x, wanted, rate, axis=-1)


def z(x: Array, axis: int | tuple[int, ...] = -1) -> Array:
    return (x - x.mean(axis=axis, keepdims=True)) / x.std(axis=axis, keepdims=True)


def causal_chain(x: Array, rate: int) -> Array:
    sos = sp.butter(3, [0.5, 40.0], "bandpass", fs=rate, output="sos")
    y, _ = sp.sosfilt(sos, x, zi=sp.sosfilt_zi(sos)[:, None, :] * x[None, :, :1])
    common = int(np.gcd(rate, 100))
    up, down = 100 // common, rate // common
    half = 10 * max(up, down)
    h = sp.firwin(2 * half + 1, 1 / max(up, down), window=("kaiser", 5.0)) * up
    y = sp.upfirdn(h, y, up, down)[:, :1000]
    first = -(-half // down)  # outputs before the first input are masked
    out, decay = np.zeros_like(y), np.exp(-1 / (10.0 * 100))
    for k in range(first + 1, 1000):
        w = decay ** np.arange(k - first, -1, -1)
        seen = y[:, first : k + 1]
        mean = (w * seen).sum(1) / w.sum()
        std = np.sqrt((w * (seen - mean[:, None]) ** 2).sum(1) / w.sum())
        out[:, k] = (y[:, k] - mean) / std
    return out


CHAINS: dict[str, Callable[[Array, int], Array]] = {
    "xecg": lambda x, rate: sp.resample(x, 1000, axis=-1),
    "poly": lambda x, rate: z(to_rate(filtered(x, rate, 3, [0.5, 40.0], "bandpass"), rate, 100)),
    "causal": causal_chain,
    "monitor": lambda x, rate: filtered(x, rate, 3, [0.5, 40.0], "bandpass"),
    "clinical": lambda x, rate: filtered(x, rate, 2, [0.05, 150.0], "bandpass"),
    "ecgfounder": lambda x, rate: to_rate(
        filtered(filtered(x, rate, 5, 50.0, "lowpass"), rate, 5, 0.5, "highpass"), rate, 500
    ),
    "st-mem": lambda x, rate: to_rate(
        filtered(filtered(z(x, (0, 1)), rate, 5, 40.0, "lowpass"), rate, 5, 0.67, "highpass"), rate, 250
    ),
    "ecg-jepa": lambda x, rate: to_rate(x[JEPA_ROWS], rate, 250),
    "ecg-cpc": lambda x, rate: to_rate(x, rate, 240),
    "ecg-fm": lambda x, rate: z(to_rate(x, rate, 500)),
}


def test_every_preset_has_its_chain() -> None:
    assert set(CHAINS) == set(PRESETS)


@pytest.mark.parametrize("rate", [360, 500])
@pytest.mark.parametrize("preset", CHAINS)
def test_preset_equals_its_scipy_chain(preset: str, rate: int) -> None:
    x = wave(rate)
    expected = CHAINS[preset](x, rate)
    for given_as in (x, x.astype(np.float32)):
        found, mask = ECGFrontend(preset, in_rate=rate, leads=STANDARD_LEADS).apply(given_as)
        assert found.shape == expected.shape
        late = 10 if preset == "causal" else 0
        # A running deviation is small and ill-conditioned at first.
        from_k = 100 if preset == "causal" else 0
        assert mask[:, late + 1 :].all() and not mask[:, :late].any()
        error = np.abs(found - expected)[:, from_k:].max() / np.abs(expected[:, from_k:]).max()
        assert error <= TOL_PRESET, f"{given_as.dtype}: {error}"


@pytest.mark.parametrize("preset", PRESETS)
def test_length_is_promised_for_every_length_and_rate(preset: str) -> None:
    for rate in (360, 500, 1000):
        front = ECGFrontend(preset, in_rate=rate, leads=STANDARD_LEADS)
        out = PRESETS[preset].rate or rate
        for n in range(1, 2001):
            exact = max(1, round(n * out / rate)) if preset == "xecg" else -(-n * int(out) // rate)
            assert front.output_length(n) == exact


@pytest.mark.parametrize("preset", NO_ZSCORE)
@pytest.mark.parametrize("phase", ["zero", "causal"])
def test_filters_and_resampling_are_linear(preset: str, phase: str) -> None:
    spec = SignalSpec.from_dict({**PRESETS[preset].to_dict(), "phase": phase, "resample": "poly"})
    front = ECGFrontend(spec, in_rate=500, leads=STANDARD_LEADS)
    a, b = noise(1, 12, 3000), noise(2, 12, 3000)
    expected = 2 * front.apply(a).x - 3 * front.apply(b).x
    np.testing.assert_allclose(front.apply(2 * a - 3 * b).x, expected, atol=TOL_LINEAR * np.abs(expected).max())


@settings(max_examples=15, deadline=None)
@given(
    gain=st.floats(0.01, 100),
    offset=st.floats(-100, 100),
    preset=st.sampled_from(["poly", "causal", "ecg-fm", "st-mem"]),
)
def test_zscore_ignores_any_gain_and_offset(gain: float, offset: float, preset: str) -> None:
    front = ECGFrontend(preset, in_rate=500, leads=STANDARD_LEADS)
    x = noise(3, 12, 2000).astype(np.float64)
    found, expected = front.apply(gain * (x + offset)), front.apply(x)
    np.testing.assert_array_equal(found.mask, expected.mask)
    np.testing.assert_allclose(found.x[..., 40:], expected.x[..., 40:], atol=FRONTEND_Z)


@pytest.mark.parametrize("preset", [p for p in PRESETS if p != "st-mem"])  # whose z-score joins the leads
def test_a_lead_keeps_its_bits_whatever_stands_beside_it(preset: str) -> None:
    rows, x = list(PRESETS[preset].leads), noise(4, 3, 12, 2500)
    whole = ECGFrontend(preset, in_rate=500, leads=STANDARD_LEADS).apply(x)
    order = np.random.Generator(np.random.PCG64(5)).permutation(12)
    moved = ECGFrontend(preset, in_rate=500, leads=[STANDARD_LEADS[i] for i in order]).apply(x[1][order])
    np.testing.assert_array_equal(moved.x, whole.x[1])
    holed = x.copy()
    holed[1, 7, 700:1400] = np.nan  # V2
    damaged = ECGFrontend(preset, in_rate=500, leads=STANDARD_LEADS).apply(holed)
    touched = np.zeros(whole.x.shape, dtype=bool)
    touched[1, rows.index("V2")] = True
    np.testing.assert_array_equal(damaged.x[~touched], whole.x[~touched])
    np.testing.assert_array_equal(damaged.mask[~touched], whole.mask[~touched])
    assert not damaged.mask[1, rows.index("V2")].all() and np.isfinite(damaged.x).all()


@pytest.mark.parametrize("preset", PRESETS)
def test_mask_follows_resampling_and_masked_output_is_zero(preset: str) -> None:
    x, mask = noise(6, 12, 5000), np.ones((12, 5000), dtype=bool)
    mask[1, 1000:2000] = False
    front = ECGFrontend(preset, in_rate=500, leads=STANDARD_LEADS)
    out = front.apply(x, mask=mask)
    seconds = np.arange(out.x.shape[1]) / front.out_rate - front.fir_delay_s
    inside = (seconds >= 2) & (seconds < 4 + front.settle_s - 1 / 500)
    assert out.mask.shape == out.x.shape and not out.x[~out.mask].any()
    assert not out.mask[1, inside].any()
    before, after = (seconds > 0) & (seconds < 2 - 1 / 100), seconds > 4 + front.settle_s + 1 / 100
    assert out.mask[1, before][1:].all() and out.mask[1, after].all() and out.mask[0, before | inside | after][1:].all()


@pytest.mark.parametrize("preset", ["monitor", "ecgfounder"])
def test_zero_phase_of_reversed_time_is_reversed(preset: str) -> None:
    front = ECGFrontend(preset, in_rate=500, leads=["II"])
    x = noise(7, 1, 20_000)
    forward, backward = front.apply(x).x[1], front.apply(np.ascontiguousarray(x[:, ::-1])).x[1][::-1]
    np.testing.assert_allclose(forward[6000:-6000], backward[6000:-6000], atol=TOL_TIME_REVERSAL)


@pytest.mark.parametrize("preset", ["monitor", "clinical"])
def test_zero_phase_impulse_carries_the_energy_of_both_passes(preset: str) -> None:
    x = np.zeros((1, 60_000), dtype=np.float32)
    x[0, 30_000] = 1
    y = ECGFrontend(preset, in_rate=500, leads=["II"]).apply(x).x[1].astype(np.float64)
    edges, order = ([0.5, 40.0], 3) if preset == "monitor" else ([0.05, 150.0], 2)
    w, h = sp.sosfreqz(sp.butter(order, edges, "bandpass", fs=500, output="sos"), worN=2**18)
    assert np.sum(y**2) == pytest.approx(np.trapezoid(np.abs(h) ** 4, w) / np.pi, rel=TOL_ENERGY)


@pytest.mark.parametrize(
    ("preset", "needed"), [("poly", 22), ("monitor", 22), ("clinical", 16), ("ecgfounder", 19), ("st-mem", 19)]
)
def test_shortest_record_is_taken_and_one_sample_less_is_refused_by_name(preset: str, needed: int) -> None:
    front = ECGFrontend(preset, in_rate=500, leads=STANDARD_LEADS)
    out = front.apply(noise(8, 12, needed))
    assert out.x.shape[1] == front.output_length(needed) and np.isfinite(out.x).all()
    with pytest.raises(ShapeError, match=f"{needed - 1} samples.*at least {needed}"):
        front.apply(noise(8, 12, needed - 1))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("shape", [(12, 0), (3, 12, 0)])
def test_an_empty_record_is_refused_by_name(preset: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="at least one sample"):
        ECGFrontend(preset, in_rate=500, leads=STANDARD_LEADS).apply(np.zeros(shape, dtype=np.float32))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_record_without_a_finite_sample_is_masked_and_zero(preset: str, value: float) -> None:
    out = ECGFrontend(preset, in_rate=500, leads=STANDARD_LEADS).apply(np.full((12, 1000), value, dtype=np.float32))
    assert not out.mask.any() and not out.x.any()
