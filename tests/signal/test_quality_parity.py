"""Quality in C++ against its definition in numpy, on every instruction set that this machine has: equal flags and fractions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.ops.harness import rerun_under_isa
from xecg.signal import STANDARD_LEADS, Recording, kernel, quality, simulate

pytestmark = pytest.mark.skipif(kernel.native() is None, reason="the CPU module is not built")
TOL_MV = 1e-9  # of ranges and of the triangle, relative: float64 sums and interpolation in another order


def facts(recording: Recording) -> quality._Facts:
    rows = {name: k for k, name in enumerate(recording.leads)}
    native = kernel.native()
    assert native is not None
    found, expected = quality._compiled(native, recording, rows), quality._defined(recording, rows)
    assert found.gap == expected.gap and found.clipped == expected.clipped
    assert (found.flat, found.noise, found.mains) == (expected.flat, expected.noise, expected.mains)
    np.testing.assert_allclose(found.range_mv, expected.range_mv, rtol=TOL_MV, atol=0)
    np.testing.assert_allclose(found.einthoven_mv, expected.einthoven_mv, rtol=TOL_MV, atol=1e-12)
    assert found.exchanged == expected.exchanged
    return found


def rough(seed: int, rate: float, samples: int) -> Recording:
    """Rows of every kind: noise and slow waves of any size, rails, steps, silence, mains; then holes of every kind."""
    rng = np.random.Generator(np.random.PCG64(seed))
    leads, t = int(rng.integers(1, 15)), np.arange(samples) / rate
    x = rng.standard_normal((leads, samples)) * rng.choice([0.001, 0.05, 0.3], (leads, 1))
    x += rng.choice([0.0, 0.5, 1.0], (leads, 1)) * np.sin(2 * np.pi * rng.uniform(2, 20, (leads, 1)) * t)
    x += rng.choice([0.0, 0.0, 2.0], (leads, 1)) * np.sin(2 * np.pi * rng.choice([50, 60], (leads, 1)) * t)
    x[::3] = np.clip(x[::3], -0.4, 0.5)
    x[1::3] = np.round(200 * x[1::3]) / 200
    x[:, samples // 3 : samples // 2] *= rng.choice([0.0, 1.0, 1.0], (leads, 1))
    x *= rng.choice([1.0, 1.0, 1000.0])
    mask = rng.random(x.shape) < rng.choice([0.0, 0.5, 0.83, 0.999, 1.0, 1.0], (leads, 1))
    if seed % 3 == 0:
        mask[:] = True
    x[~mask] = rng.choice([0.0, 7.0])
    x[0, rng.integers(0, samples, 1 + samples // 50)] = rng.choice([np.nan, np.inf, 1.0])
    names = [*STANDARD_LEADS, "X", "Y"][:leads]
    return Recording(x.astype(np.float32), rate, tuple(names), mask)


@pytest.mark.parametrize("rate", [100.0, 128.0, 250.0, 257.0, 333.3, 360.0, 500.0, 512.0, 1000.0])
def test_parity_on_rough_signals_of_any_length(rate: float) -> None:
    seen: set[float] = set()
    for seed, samples in enumerate((1, 2, 3, 16, 99, 255, 513, 1200, 5000, 5000, 5000, 12_345)):
        found = facts(rough(100 * round(rate) + seed, rate, samples))
        seen |= {*found.flat, *found.noise, *found.clipped, *found.mains}
    assert len(seen) > 12, "the cases do not tell one fraction from another"


@pytest.mark.parametrize("rate", [25.0, 49.0, 50.0, 100.0, 250.0, 500.0, 1000.0])
def test_parity_on_ecgs_with_exchanged_electrodes(rate: float) -> None:
    exchanged = set()
    for seed in range(6):
        r = simulate.ecg(seed=seed, rate_hz=rate, duration_s=(3, 10, 70)[seed % 3], axis_deg=45, noise=1.0)
        one, two, _ = r.signal[:3]
        swapped = ((one, two), (-one, two - one), (one - two, -two))[seed // 2]
        x = r.signal.copy()
        x[0], x[1] = swapped
        x[2] = x[1] - x[0]
        exchanged.add(facts(r.with_(signal=x)).exchanged)
    assert exchanged == ({0, 1, 2} if rate >= 100 else {0}) or rate == 50


def test_parity_of_a_pure_line_frequency_with_the_steps_of_a_converter() -> None:
    """An electrode came off: mains a thousand times what is left. What is left decides about noise."""
    t = np.arange(5000) / 500
    x = np.stack([np.round(200 * 5 * np.sin(2 * np.pi * hz * t + 0.3)) / 200 for hz in (50, 60, 50.3)])
    assert facts(Recording(x.astype(np.float32), 500.0, ("I", "II", "V1"), np.ones(x.shape, bool))).mains == [True] * 3


def test_parity_where_the_few_samples_that_are_looked_at_first_mislead() -> None:
    x = np.random.Generator(np.random.PCG64(3)).standard_normal((3, 5120))
    x[0, : 20 * 12 : 20] -= 20
    x[1, : 20 * 12 : 20] += 20
    x[2, ::20] = 0.0
    facts(Recording(x.astype(np.float32), 500.0, ("I", "II", "V1"), np.ones(x.shape, bool)))


def test_parity_on_views_that_are_no_rows() -> None:
    r = simulate.ecg(seed=2, rate_hz=500, duration_s=10)
    wide = np.repeat(r.signal, 2, axis=1)
    for x in (wide[:, ::2], np.asfortranarray(r.signal), wide[:, 3:4003], r.signal[::-1], r.signal[::2]):
        facts(Recording(x, 500.0, STANDARD_LEADS[: len(x)], np.ones(x.shape, bool)[:, ::-1]))


def test_a_lead_does_not_depend_on_its_companions_nor_on_threads() -> None:
    module = kernel.native()
    assert module is not None
    before, r = module.num_threads(), rough(31, 500.0, 50_000)
    rows = {name: k for k, name in enumerate(r.leads)}
    whole = quality._compiled(module, r, rows)
    try:
        module.set_num_threads(1)
        assert quality._compiled(module, r, rows) == whole
    finally:
        module.set_num_threads(before)
    for lead in range(len(r.leads)):
        alone = r.with_(signal=r.signal[lead : lead + 1], mask=r.mask[lead : lead + 1], leads=("V3",))
        found = quality._compiled(module, alone, {"V3": 0})
        assert [part[0] for part in found[:5]] == [part[lead] for part in whole[:5]]


def test_assess_is_the_same_with_and_without_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    records = [simulate.ecg(seed=k, rate_hz=250, noise=float(k)) for k in range(4)] + [rough(9, 250.0, 3000)]
    compiled = [quality.assess(r) for r in records]
    monkeypatch.setattr(kernel, "native", lambda: None)
    for found, r in zip(compiled, records):
        expected = quality.assess(r)
        assert found.reasons == expected.reasons and found.abstain == expected.abstain
        np.testing.assert_allclose(
            list(found.as_columns().values()), list(expected.as_columns().values()), rtol=TOL_MV, atol=1e-12
        )


def test_windows_of_a_large_prime_length_go_through_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    r = Recording(np.ones((2, 4000), np.float32), 1009.0, ("I", "II"), np.ones((2, 4000), bool))
    monkeypatch.setattr(quality, "_compiled", None)
    assert quality.assess(r).flat == 1
    assert [quality._longest_factor(n) for n in (1, 2, 8, 9, 15, 250, 257, 500, 1009, 2 * 1009)] == [
        1, 1, 1, 3, 5, 5, 257, 5, 1009, 1009,
    ]  # fmt: skip


@pytest.mark.parametrize("isa", ["base", "avx2", "avx512"])
def test_every_isa(isa: str) -> None:
    rerun_under_isa(str(Path(__file__)), isa)
