"""The compiled offline front end against its float64 definition, on every instruction set that this machine has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.ops.harness import rerun_under_isa
from tests.tolerances import FRONTEND_DB, FRONTEND_OFFSET_LOSS_DB, FRONTEND_SLOW_CORNER_DB, FRONTEND_Z
from xecg.signal import ECGFrontend, FilterSpec, SignalSpec, kernel
from xecg.signal.arrays import run_offline

pytestmark = pytest.mark.skipif(kernel.native() is None, reason="the CPU module is not built")
LEADS = ("I", "II", "V1", "V6", "aVL")
BAND = (FilterSpec("bandpass", 3, 0.5, 40.0),)
SPECS = {
    "poly": "poly",
    "monitor": "monitor",
    "clinical": "clinical",
    "ecgfounder": "ecgfounder",
    "resample only": SignalSpec(),
    "low-pass": SignalSpec(filters=(FilterSpec("lowpass", 4, high_hz=40.0),)),
    "notch": SignalSpec(rate=None, filters=(FilterSpec("notch", low_hz=50.0),), resample="none"),
}


def records(rate: float, seconds: float = 10.0, batch: int = 5, offset: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(3)
    t = np.arange(int(rate * seconds)) / rate
    phase = rng.uniform(0, 6, (batch, len(LEADS), 1))
    beat = np.exp(-(((t * 1.2 + phase) % 1 - 0.5) ** 2) / 2e-4)
    drift = rng.normal(0, 0.3, phase.shape) + 0.2 * np.sin(2 * np.pi * 0.3 * t + phase)
    return (beat + drift + rng.normal(0, 0.02, beat.shape) + offset).astype(np.float32)


def decibel(found: np.ndarray, expected: np.ndarray) -> float:
    """Power of the expected rows about their mean over that of the error."""
    centred = expected - expected.mean(-1, keepdims=True)
    return float(10 * np.log10((centred**2).sum() / ((found - expected) ** 2).sum()))


def defined(frontend: ECGFrontend, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return run_offline(frontend._plan, x.astype(np.float64), np.ones(x.shape, bool))


def compiled(frontend: ECGFrontend, x: np.ndarray, **counts: object) -> tuple[np.ndarray, np.ndarray]:
    result = frontend._compiled(x, None, counts.get("gain"), counts.get("baseline"))
    assert result is not None and result.left is None, "the kernel did not serve this call"
    rows = sorted(frontend._rows, key=frontend._rows.__getitem__)  # in the order of the input
    return result.result.x[..., rows, :], result.result.mask[..., rows, :]


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("rate", [1000.0, 500.0, 360.0, 257.0])
def test_parity_with_the_definition(name: str, rate: float) -> None:
    spec = SPECS[name]
    if name == "clinical" and rate < 301:
        pytest.skip("150 Hz needs a rate above 300 Hz")
    frontend = ECGFrontend(spec, in_rate=rate, leads=LEADS)
    x = records(rate)
    expected, mask = defined(frontend, x)
    found, ok = compiled(frontend, x)
    slow = name == "clinical" and rate == 1000.0
    assert np.array_equal(ok, mask)
    assert decibel(found, expected) >= (FRONTEND_SLOW_CORNER_DB if slow else FRONTEND_DB)
    if name == "poly":
        assert np.abs(found - expected).max() <= FRONTEND_Z
    if name not in ("resample only", "low-pass", "notch"):  # these pass the offset on
        far = records(rate, offset=1000.0)
        with_offset = decibel(compiled(frontend, far)[0], defined(frontend, far)[0])
        assert with_offset >= decibel(found, expected) - FRONTEND_OFFSET_LOSS_DB


def test_parity_of_counts_with_gain_and_baseline() -> None:
    frontend = ECGFrontend("poly", in_rate=500.0, leads=LEADS)
    gain, baseline = np.array([200.0, 1000.0, 100.0, 400.0, 250.0]), np.array([0.0, 12.0, -7.0, 1024.0, 0.0])
    counts = np.round(records(500.0) * gain[:, None] + baseline[:, None]).astype(np.int16)
    expected, _ = defined(frontend, (counts - baseline[:, None]) / gain[:, None])
    found, _ = compiled(frontend, counts, gain=gain, baseline=baseline)
    assert decibel(found, expected) >= FRONTEND_DB


def test_bits_of_a_lead_ignore_its_companions_and_position() -> None:
    frontend = ECGFrontend("poly", in_rate=360.0, leads=LEADS)
    x = records(360.0, batch=9)
    whole, _ = compiled(frontend, x)
    alone = ECGFrontend("poly", in_rate=360.0, leads=("V1",))
    for b in (0, 4, 8):
        assert np.array_equal(compiled(alone, x[b : b + 1, 2:3])[0][0, 0], whole[b, 2])
    swapped = ECGFrontend("poly", in_rate=360.0, leads=LEADS[::-1])
    assert np.array_equal(swapped.apply(x[:, ::-1]).x, frontend.apply(x).x)


def test_lengths_and_edges_around_the_vector_width() -> None:
    frontend = ECGFrontend("poly", in_rate=250.0, leads=LEADS)
    for n in [*range(22, 60), 255, 256, 257]:
        x = records(250.0, seconds=2.0)[..., :n]
        expected, _ = defined(frontend, x)
        found, _ = compiled(frontend, x)
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= FRONTEND_Z


def test_a_flat_lead_is_zero_and_masked() -> None:
    x = records(500.0)
    x[1, 2] = 0.7
    found, ok = compiled(ECGFrontend("poly", in_rate=500.0, leads=LEADS), x)
    assert not found[1, 2].any() and not ok[1, 2].any() and ok[0].all()


def test_rows_with_missing_samples_go_through_the_definition_and_leave_the_others_bits() -> None:
    frontend = ECGFrontend("poly", in_rate=500.0, leads=LEADS)
    x, mask = records(500.0), np.ones((5, 5, 5000), bool)
    whole = frontend.apply(x)
    x[2, 1, 777] = np.nan
    mask[0, 4, 10:400] = False
    result = frontend.apply(x, mask=mask)
    lead_ii, avl = 1, 4  # rows of the spec's order I, II, III, aVR, aVL
    same = np.ones(result.x.shape[:2], bool)
    same[2, lead_ii] = same[0, avl] = False
    assert np.array_equal(result.x[same], whole.x[same]) and np.array_equal(result.mask[same], whole.mask[same])
    assert np.isfinite(result.x).all() and not result.mask[0, avl].all() and result.mask[2, lead_ii].all()


@pytest.mark.parametrize("isa", ["base", "avx2"])
def test_isa_levels_below_the_best_pass_the_same_tests(isa: str) -> None:
    rerun_under_isa(str(Path(__file__)), isa)
