"""Quality: each fault of a signal is flagged by name, a good signal is not, and nothing is changed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from xecg.signal import STANDARD_LEADS, Recording, quality, simulate
from xecg.signal.quality import assess

GOOD = simulate.ecg(seed=3, rate_hz=500, axis_deg=45, noise=1.0)
ROW = {name: i for i, name in enumerate(STANDARD_LEADS)}


def changed(signal: np.ndarray, mask: np.ndarray | None = None) -> Recording:
    mask = np.ones(signal.shape, dtype=bool) if mask is None else mask
    return GOOD.with_(signal=signal.astype(np.float32), mask=mask)


def mains(size: float) -> np.ndarray:
    return size * np.sin(2 * np.pi * 50 * np.arange(5000) / 500)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("rhythm", simulate.RHYTHMS)
def test_good_signal_is_not_flagged(rhythm: str, seed: int) -> None:
    q = assess(simulate.ecg(seed=seed, rhythm=rhythm, rate_hz=(100, 250, 400, 500)[seed % 4]))
    assert not q.abstain and q.reasons == ()
    assert q.flat == q.clipped == q.gap == q.noise == q.mains == 0 or q.flat < 0.05
    assert 0.3 < q.range_mv < 5 and q.einthoven_mv < 1e-3


@pytest.mark.parametrize("value", [0.0, 1.7])
def test_zero_or_constant_signal_is_flagged(value: float) -> None:
    q = assess(changed(np.full((12, 5000), value)))
    assert q.flat == 1 and q.abstain and q.implausible and "flat" in q.reasons[0]


def test_one_flat_lead_is_named_but_the_rest_is_used() -> None:
    x = GOOD.signal.copy()
    x[ROW["V2"]] = 0.4
    q = assess(changed(x))
    assert q.flat == pytest.approx(1 / 12) and not q.abstain and q.reasons == ("V2: flat",)


def test_clipping_is_flagged() -> None:
    x = GOOD.signal.copy()
    x = np.clip(x, np.percentile(x, 3, axis=1, keepdims=True), np.percentile(x, 97, axis=1, keepdims=True))
    q = assess(changed(x))
    assert q.clipped == pytest.approx(0.03, abs=0.005) and q.abstain and "rail" in q.reasons[0]


def test_gaps_are_flagged_above_a_fifth() -> None:
    for share, flag in ((0.15, False), (0.25, True)):
        mask = np.ones((12, 5000), dtype=bool)
        mask[:, : int(5000 * share)] = False
        q = assess(changed(np.where(mask, GOOD.signal, 0), mask))
        assert q.gap == pytest.approx(share) and q.abstain is flag


def test_not_a_number_counts_as_gap() -> None:
    x = GOOD.signal.copy()
    x[:, 1000:2500] = np.nan
    q = assess(changed(x))
    assert q.gap == pytest.approx(0.3) and q.abstain and math.isfinite(q.range_mv)


def test_mains_above_the_signal_is_flagged() -> None:
    assert not assess(changed(GOOD.signal + mains(0.02))).abstain
    q = assess(changed(GOOD.signal + mains(1.0)))
    assert q.mains == 1 and q.abstain and any("mains" in r for r in q.reasons)


def test_noise_is_flagged() -> None:
    noise = np.random.Generator(np.random.PCG64(1)).standard_normal((12, 5000))
    q = assess(changed(GOOD.signal + noise))
    assert q.noise > 0.9 and q.abstain and any("above 40 Hz" in r for r in q.reasons)


@pytest.mark.parametrize(("factor", "guess"), [(1000, "µV read as mV"), (0.001, "V read as mV")])
def test_wrong_unit_is_guessed_not_repaired(factor: float, guess: str) -> None:
    r = changed(GOOD.signal * factor)
    q = assess(r)
    assert q.implausible and q.abstain and any(guess in reason for reason in q.reasons)
    np.testing.assert_array_equal(r.signal, (GOOD.signal * factor).astype(np.float32))


def swap(a: str, b: str) -> np.ndarray:
    """The twelve leads with two limb electrodes exchanged."""
    one, two, three = GOOD.signal[:3]
    one, two = {"RA LA": (-one, three), "RA LL": (-three, -two)}[f"{a} {b}"]
    limb = np.stack([one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2])
    return np.concatenate([limb, GOOD.signal[6:]])


@pytest.mark.parametrize("pair", [("RA", "LA"), ("RA", "LL")])
def test_limb_lead_reversal_is_flagged(pair: tuple[str, str]) -> None:
    q = assess(changed(swap(*pair)))
    assert q.reversal and q.abstain and f"{pair[0]} and {pair[1]}" in q.reasons[0]
    assert not q.einthoven


def test_broken_einthoven_triangle_is_flagged() -> None:
    x = GOOD.signal.copy()
    x[ROW["III"]] *= -1
    q = assess(changed(x))
    assert q.einthoven and q.einthoven_mv > 0.1 and not q.reversal and "I + III" in q.reasons[0]
    two = GOOD.with_(signal=x[:2], mask=GOOD.mask[:2], leads=("I", "II"))
    assert math.isnan(assess(two).einthoven_mv) and not assess(two).einthoven


def test_columns_are_numbers_and_flags() -> None:
    columns = assess(GOOD).as_columns()
    assert set(columns) >= {
        "quality_flat",
        "quality_clipped",
        "quality_gap",
        "quality_noise",
        "quality_abstain",
        "quality_reversal",
    }
    assert all(type(v) in (float, bool) for v in columns.values())


@pytest.mark.parametrize("shape", [(1, 0), (12, 1), (2, 7)])
def test_tiny_recordings_are_judged(shape: tuple[int, int]) -> None:
    x = np.zeros(shape, dtype=np.float32)
    leads = STANDARD_LEADS[: shape[0]]
    assert assess(Recording(x, 500.0, leads, np.ones(shape, dtype=bool))).abstain


def test_nothing_valid_abstains() -> None:
    assert assess(changed(np.zeros((12, 5000)), np.zeros((12, 5000), dtype=bool))).abstain


@pytest.mark.parametrize("samples", [1, 2, 7, 100, 5000])
def test_range_is_that_of_the_percentiles(samples: int) -> None:
    x = np.random.Generator(np.random.PCG64(samples)).standard_normal((5, samples)).astype(np.float32)
    for row in x:
        high, low = np.percentile(row, [99, 1])
        assert quality._range(row) == pytest.approx(high - low, rel=1e-6)


@pytest.mark.parametrize("rate", [100.0, 257.0, 500.0])
def test_windows_are_those_of_the_plain_spectrum(rate: float) -> None:
    """Noise that some windows pass and some do not, mains in one lead, a flat stretch in another, gaps in a third."""
    rng, size = np.random.Generator(np.random.PCG64(5)), round(rate)
    t = np.arange(20 * size) / rate
    x = np.sin(2 * np.pi * 8 * t) + rng.uniform(0.05, 1.5, (4, 20)).repeat(size, axis=1) * rng.standard_normal(
        (4, len(t))
    )
    x[1] += 9 * np.sin(2 * np.pi * min(50.0, 0.49 * rate) * t)
    x[2, : 3 * size] = 0.3
    x, mask = x.astype(np.float32), np.ones(x.shape, dtype=bool)
    mask[3, : 2 * size], mask[3, 5 * size : 5 * size + size // 10] = False, False
    flat, noise, mains = quality._windows(x, mask, size, rate)
    w, m = np.where(mask, x, 0).reshape(4, 20, size), mask.reshape(4, 20, size)
    power = np.abs(np.fft.rfft((w - w.mean(2, keepdims=True)) * np.hanning(size), axis=2)) ** 2
    hz, used, still = np.fft.rfftfreq(size, 1 / rate), m.mean(2) >= 0.8, np.ptp(w, axis=2) < 0.01
    near = [np.abs(hz - f) <= 2 for f in (50, 60)]
    ecg, above = (power[..., k].sum(2) for k in ((hz >= 1) & (hz <= 40), (hz > 40) & ~near[0] & ~near[1]))
    hum = np.maximum(*(power[..., n].sum(2) for n in near))
    np.testing.assert_allclose(flat, (still & used).sum(1) / used.sum(1))
    np.testing.assert_allclose(noise, ((above > 0.25 * ecg) & ~still & used).sum(1) / used.sum(1))
    np.testing.assert_array_equal(mains, (hum * used).sum(1) > (ecg * used).sum(1))
    assert flat[2] == 3 / 20 and mains[1] and not mains[0] and used[3].sum() == 18
    assert rate == 100 or 0 < noise[0] < 1
