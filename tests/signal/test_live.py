"""The compiled live front end against its float64 definition, on every instruction set that this machine has; many slots at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.ops.harness import rerun_under_isa
from tests.tolerances import FRONTEND_DB, FRONTEND_OFFSET_LOSS_DB, FRONTEND_SLOW_CORNER_DB
from xecg.errors import ShapeError, StreamError, XECGError
from xecg.signal import ECGFrontend, FilterSpec, ModelInput, SignalSpec, kernel

pytestmark = pytest.mark.skipif(kernel.native() is None, reason="the CPU module is not built")
LEADS = ("I", "II", "V1", "V6", "aVL")
BAND = (FilterSpec("bandpass", 3, 0.5, 40.0),)
SPECS: dict[str, SignalSpec | str] = {
    "causal": "causal",
    "band and resampling": SignalSpec(phase="causal", filters=BAND),
    "clinical": SignalSpec(rate=None, phase="causal", resample="none", filters=(FilterSpec("bandpass", 2, 0.05, 150.0),)),
    "resampling": SignalSpec(phase="causal"),
    "up": SignalSpec(rate=1200.0, phase="causal", filters=BAND, normalise="causal-zscore", tau_s=1.0),
    "low-pass": SignalSpec(phase="causal", filters=(FilterSpec("lowpass", 4, high_hz=40.0),)),
    "eight sections": SignalSpec(
        phase="causal",
        filters=(FilterSpec("bandpass", 6, 0.5, 40.0), FilterSpec("notch", low_hz=50.0), FilterSpec("notch", low_hz=60.0)),
    ),
}  # fmt: skip


def records(rate: float, seconds: float = 20.0, batch: int = 4, offset: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(3)
    t = np.arange(int(rate * seconds)) / rate
    phase = rng.uniform(0, 6, (batch, len(LEADS), 1))
    beat = np.exp(-(((t * 1.2 + phase) % 1 - 0.5) ** 2) / 2e-4)
    drift = rng.normal(0, 0.3, phase.shape) + 0.2 * np.sin(2 * np.pi * 0.3 * t + phase)
    return (beat + drift + rng.normal(0, 0.02, beat.shape) + offset).astype(np.float32)


def defined(frontend: ECGFrontend, x: np.ndarray, **kwargs: object) -> ModelInput:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "native", lambda: None)
        return frontend.apply(x, **kwargs)  # type: ignore[arg-type]


def decibel(found: ModelInput, expected: ModelInput) -> float:
    """Power of the expected valid samples about each row's mean over that of the error; the masks must be the same."""
    np.testing.assert_array_equal(found.mask, expected.mask)
    good, signal, error = expected.mask, 0.0, 0.0
    for f, e, g in zip(
        found.x.reshape(-1, found.x.shape[-1]), *(a.reshape(-1, good.shape[-1]) for a in (expected.x, good))
    ):
        if g.any():
            signal += ((e[g].astype(float) - e[g].mean(dtype=float)) ** 2).sum()
            error += ((f[g].astype(float) - e[g]) ** 2).sum()
    return float(10 * np.log10(signal / error))


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("rate", [1000.0, 500.0, 360.0, 257.0])
def test_parity_with_the_definition(name: str, rate: float) -> None:
    if name == "clinical" and rate < 301:
        pytest.skip("150 Hz needs a rate above 300 Hz")
    frontend = ECGFrontend(SPECS[name], in_rate=rate, leads=LEADS)
    x = records(rate)
    near = decibel(frontend.apply(x), defined(frontend, x))
    assert near >= (FRONTEND_SLOW_CORNER_DB if name == "clinical" and rate == 1000.0 else FRONTEND_DB)
    if name not in ("resampling", "low-pass"):  # these pass the offset on
        far = records(rate, offset=1000.0)
        # near is limited by the definition's own rounding to float32; the offset's own rounding is in both
        assert decibel(frontend.apply(far), defined(frontend, far)) >= min(near, 120.0) - FRONTEND_OFFSET_LOSS_DB


@pytest.mark.parametrize("name", ["causal", "low-pass", "resampling", "clinical"])
def test_parity_with_gaps_of_all_kinds(name: str) -> None:
    frontend = ECGFrontend(SPECS[name], in_rate=500.0, leads=LEADS)
    x, rng = records(500.0), np.random.default_rng(5)
    for _ in range(60):
        b, r, t, n = (int(rng.integers(0, k)) for k in (*x.shape, 300))
        x[b, r, max(t - 50, 0) : t - 50 + n] = np.nan
    x[0, 1, :700], x[1, 2], x[2, 3, 4000:] = np.nan, np.nan, np.nan
    x[3, 0, 5000:] = x[3, 0, 5000]  # flat from here
    assert decibel(frontend.apply(x), defined(frontend, x)) >= FRONTEND_DB


def test_parity_of_counts_with_gain_and_baseline() -> None:
    frontend = ECGFrontend("causal", in_rate=500.0, leads=LEADS)
    gain, baseline = np.array([200.0, 1000.0, 100.0, 400.0, 250.0]), np.array([0.0, 12.0, -7.0, 1024.0, 0.0])
    counts = np.round(records(500.0) * gain[:, None] + baseline[:, None]).astype(np.int16)
    expected = defined(frontend, counts, gain=gain, baseline=baseline)
    assert decibel(frontend.apply(counts, gain=gain, baseline=baseline), expected) >= FRONTEND_DB


def test_a_flat_lead_is_masked_whatever_its_offset_parity() -> None:
    spec = SignalSpec(rate=None, phase="causal", resample="none", normalise="causal-zscore")
    x = np.full((5, 3000), 812.3, dtype=np.float32)
    x[0, 2000] += 1e-3
    result = ECGFrontend(spec, in_rate=500.0, leads=LEADS).apply(x)
    assert not result.mask[1:].any() and not result.x[1:].any() and result.mask[0].sum() == 1000


def test_many_slots_at_once_give_the_bits_of_one_by_one_parity() -> None:
    """Unequal chunks, phases, gaps, counts of leads, list and array forms; the kernel and the filled path in turns."""
    frontend = ECGFrontend("causal", in_rate=360.0, leads=LEADS)
    rng, x = np.random.default_rng(7), records(360.0, seconds=8.0, batch=40)
    x[3, 1, 500:510] = x[8, 2, 1000:1300] = x[20, 0, :100] = np.nan
    expected = frontend.apply(x)
    stream, got = frontend.stream(64), [[] for _ in x]  # type: ignore[var-annotated]
    slots, at = rng.permutation(64)[: len(x)], np.zeros(len(x), dtype=int)
    while (at < x.shape[-1]).any():
        chosen = rng.permutation(len(x))[: int(rng.integers(1, len(x)))]
        if rng.random() < 0.5 and len({int(a) for a in at[chosen]}) == 1:
            n = int(rng.integers(1, 90))
            chunks = np.stack([x[p, :, at[p] : at[p] + n] for p in chosen])
        else:
            sizes = rng.choice([0, 1, 17, 18, 36, 200], len(chosen))
            chunks = [x[p, :, at[p] : at[p] + n] for p, n in zip(chosen, sizes)]  # type: ignore[assignment]
        for p, chunk, out in zip(chosen, chunks, stream.push_many(slots[chosen], chunks)):
            at[p] += chunk.shape[1]
            got[p].append(out)
    for p, slot in enumerate(slots.tolist()):
        got[p].append(stream.flush(slot))
        for found, whole in zip((np.concatenate(parts, axis=-1) for parts in zip(*got[p])), expected):
            np.testing.assert_array_equal(found, whole[p])


def test_counts_pushed_past_a_gap_keep_the_bits_parity() -> None:
    frontend = ECGFrontend("causal", in_rate=500.0, leads=LEADS)
    counts = np.round(records(500.0, batch=1)[0] * 217.0).astype(np.int16)
    mask = np.ones(counts.shape, dtype=bool)
    mask[1, 2000:2020], mask[2, 3000:4000] = False, False
    whole = frontend.apply(counts, mask=mask, gain=217.0, baseline=3.0)
    stream = frontend.stream()
    parts = [
        stream.push(0, counts[:, t : t + 100], mask=mask[:, t : t + 100], gain=217.0, baseline=3.0)
        for t in range(0, counts.shape[1], 100)
    ]
    parts.append(stream.flush(0))
    for found, expected in zip((np.concatenate(p, axis=-1) for p in zip(*parts)), whole):
        np.testing.assert_array_equal(found, expected)


def test_a_sample_no_amplifier_gives_is_missing_and_ends_nothing_parity() -> None:
    frontend = ECGFrontend("causal", in_rate=500.0, leads=LEADS)
    x = records(500.0, batch=1)[0]
    x[2, 1000] = 3e38
    missing = x.copy()
    missing[2, 1000] = np.nan
    for found, expected in zip(frontend.apply(x), frontend.apply(missing)):
        np.testing.assert_array_equal(found, expected)


def test_wrong_calls_for_many_slots_change_nothing() -> None:
    stream = ECGFrontend("causal", in_rate=500.0, leads=LEADS).stream(4)
    x = records(500.0, seconds=1.0)
    with pytest.raises(StreamError, match="twice"):
        stream.push_many([0, 1, 2, 1], x)
    with pytest.raises(StreamError, match=r"0\.\.3"):
        stream.push_many([0, 1, 2, 4], x)
    with pytest.raises(StreamError, match="as many"):
        stream.push_many([0, 1], x)
    with pytest.raises(StreamError, match="reset"):
        stream.push_many([0, 1, 2, 3], x, starts=[None, 0, 10**12, 0])
    with pytest.raises(XECGError):
        stream.push_many([0, 1, 2, 3], [x[0], x[1, :3], x[2], x[3]])
    assert [stream.position(s) for s in range(4)] == [0] * 4
    assert stream.push_many([], []) == []


def test_shapes_of_whole_records_are_checked() -> None:
    frontend = ECGFrontend("causal", in_rate=500.0, leads=LEADS)
    x = records(500.0, seconds=1.0)
    for wrong in (x[:, :3], x[0, 0], x[None], x[..., :0]):
        with pytest.raises(ShapeError):
            frontend.apply(wrong)
    for mask in (np.ones(x.shape[1:], dtype=bool), np.ones(x.shape)):
        with pytest.raises(ShapeError, match="mask"):
            frontend.apply(x, mask=mask)
    with pytest.raises(ShapeError, match="gain"):
        frontend.apply(x, gain=200.0)
    assert frontend.apply(x[:0]).x.shape == (0, 12, 100)


def test_state_of_the_other_form_is_refused() -> None:
    frontend = ECGFrontend("causal", in_rate=500.0, leads=LEADS)
    blob = frontend.stream().save(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "native", lambda: None)
        with pytest.raises(StreamError, match="version 2"):
            frontend.stream().restore(0, blob)


@pytest.mark.parametrize("isa", ["base", "avx2"])
def test_isa_levels_below_the_best_pass_the_same_tests(isa: str) -> None:
    rerun_under_isa(str(Path(__file__)), isa)
