"""The causal QRS detector: chunk-invariant, late by no more than it says, accurate on synthetic and on real beats."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xecg.errors import ShapeError, SpecError, StreamError
from xecg.signal import Annotations, Recording, kernel, simulate
from xecg.signal.peaks import match
from xecg.signal.qrs import Detector, _peakedness, detect
from xecg.signal.qrs_definition import Definition, _Candidate, _Judge, _moving_sum

TOL_MATCH_S = 0.075
# Gross over the 48 records of MIT-BIH, first lead, ±75 ms, flutter of record 207 included: measured 0.9966 and 0.9946.
FLOOR_MITDB_SENSITIVITY, FLOOR_MITDB_PPV = 0.9960, 0.9940
BEATS = frozenset("NLRejAaJSVEFQ/f")


def beats(r: Recording) -> Annotations:
    assert r.annotations is not None
    return r.annotations


def found_in_chunks(x: np.ndarray, rate: float, sizes: np.ndarray) -> list[int]:
    detector, found, at = Detector(rate), [], 0
    for size in sizes:
        found += detector.push(x[at : at + size])
        at += size
    assert at >= len(x)
    return found + detector.flush()


@pytest.mark.parametrize("seed", range(6))
def test_detector_ignores_chunking(seed: int) -> None:
    rng = np.random.Generator(np.random.PCG64(seed))
    r = simulate.ecg(seed=seed, duration_s=40, rate_hz=360, ectopy={"V": 0.1, "A": 0.1}, noise=5.0, leads=("II",))
    x = r.signal[0].astype(np.float64)
    x[rng.integers(0, len(x), 200)] = np.nan
    whole = detect(x, 360).tolist()
    assert len(whole) > 20
    assert found_in_chunks(x, 360, rng.integers(0, 900, 200)) == whole
    assert found_in_chunks(x, 360, np.full(len(x) // 17 + 1, 17)) == whole


def hostile(seed: int, rate: float) -> np.ndarray:
    """Beats or noise at any size, with holes, bursts and drops."""
    rng = np.random.Generator(np.random.PCG64(seed))
    n = int(rng.integers(1, 60 * rate))
    x = rng.standard_normal(n) * rng.choice([1e-7, 0.01, 1, 30])
    if seed % 3:
        ecg = simulate.ecg(seed=seed, rate_hz=rate, duration_s=max(2.0, n / rate), noise=5.0, ectopy={"V": 0.2})
        x = ecg.signal[1].astype(np.float64)
    if seed % 2:
        x[rng.integers(0, len(x), len(x) // 7)] = np.nan
    x[len(x) // 3 : len(x) // 2] *= rng.choice([0, 1, 30])
    x[len(x) // 2 :] *= rng.choice([0.02, 0.3, 1])
    return x


needs_compiled = pytest.mark.skipif(kernel.native() is None, reason="xecg._cpu is not built")


@needs_compiled
@pytest.mark.parametrize("rate", [50, 100, 257, 360, 500, 1000])
def test_compiled_detector_finds_the_peaks_of_the_definition(rate: float) -> None:
    beats = 0
    for seed in range(8):
        x = hostile(seed, rate)
        definition = Definition(rate)
        expected = [*definition.push(x), *definition.flush()]
        assert detect(x, rate).tolist() == expected
        beats += len(expected)
    assert beats > 50


@needs_compiled
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rate=st.sampled_from([50.0, 100.0, 257.0, 360.0, 500.0]),
    sizes=st.lists(st.integers(0, 700), min_size=1, max_size=12),
    saves=st.sets(st.integers(0, 60), max_size=4),
)
def test_compiled_detector_is_the_definition_to_the_bit_chunk_by_chunk(
    seed: int, rate: float, sizes: list[int], saves: set[int]
) -> None:
    """The same beats at the same push, the same state after it; and each goes on from what the other saved."""
    x = hostile(seed, rate)[: int(20 * rate)]
    ours, definition, at = Detector(rate), Definition(rate), 0
    for turn in range(60):
        size = sizes[turn % len(sizes)]
        assert ours.push(x[at : at + size]) == definition.push(x[at : at + size])
        at += size
        state = definition.save()
        assert ours.save() == state.astype("<f8").tobytes()
        if turn in saves:
            theirs, ours, definition = definition, Detector(rate), Definition(rate)
            ours.restore(theirs.save().tobytes())
            assert definition.restore(state)
    assert ours.flush() == definition.flush()


def test_a_state_that_is_none_is_refused_and_changes_nothing() -> None:
    """Cut, longer, or with any one number replaced by infinity: only strengths and signals may be any number."""
    rate, definition = 250.0, Definition(250.0)
    definition.push(simulate.ecg(seed=5, rate_hz=rate, duration_s=12, leads=("II",)).signal[0].astype(np.float64))
    whole = definition.save()
    broken = [whole[:-1], np.append(whole, 0.0), whole[:3], whole[:0]]
    values = [(0, -1.0), (0, np.nan), (0, 2.0**60), (1, whole[0] + 1), (1, 0.5), (3, 2.0)]
    for place, value in [*values, *((k, np.inf) for k in range(len(whole)))]:
        broken.append(whole.copy())
        broken[-1][place] = value
    refused = 0
    for state in broken:
        ours, theirs = Detector(rate), Definition(rate)
        fresh = ours.save()
        if theirs.restore(state):
            ours.restore(state.tobytes())
            continue
        refused += 1
        with pytest.raises(StreamError, match="250 Hz"):
            ours.restore(state.tobytes())
        assert ours.save() == theirs.save().tobytes() == fresh
    history = 4 * (definition._keep + int(whole[0] - whole[1]))
    assert 10 + 3 + 7 <= refused < len(broken) - history
    with pytest.raises(StreamError, match="3 bytes"):
        Detector(rate).restore(b"abc")
    with pytest.raises(StreamError, match="500 Hz"):
        Detector(500).restore(whole.tobytes())


def test_lead_choice_of_the_compiled_detector_is_that_of_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    x = simulate.ecg(seed=3, rate_hz=250, duration_s=20, noise=2.0).signal.astype(np.float64)
    x[0] = np.random.Generator(np.random.PCG64(0)).standard_normal(x.shape[1])
    rows = [*x, np.zeros(x.shape[1]), np.where(np.arange(x.shape[1]) % 9, x[1], np.nan)]
    compiled = [_peakedness(row, 250.0) for row in rows]
    monkeypatch.setattr(kernel, "native", lambda: None)
    np.testing.assert_allclose(compiled, [_peakedness(row, 250.0) for row in rows], rtol=1e-9)
    assert compiled[0] < 3 < compiled[1] and compiled[-2] == -3


def test_peaks_from_before_a_silence_do_not_count_in_its_level() -> None:
    judge = _Judge(250.0, [])
    early, inside = _Candidate(0, 9.0, 1.0, 0), _Candidate(2600, 1.0, 1.0, 2600)
    assert judge._level([early, inside, inside], 2500, 1.5) == 1.0
    assert judge._level([early], 2500, 4.0) == 0.0


def test_detector_ignores_chunking_of_noise() -> None:
    x = np.random.Generator(np.random.PCG64(9)).standard_normal(40_000)
    whole = detect(x, 100).tolist()
    assert len(whole) > 100 and found_in_chunks(x, 100, np.full(8000, 5)) == whole


@pytest.mark.parametrize("size", [1, 2, 3, 7, 36, 50, 64])
def test_moving_sum_is_the_sum_wherever_it_starts(size: int) -> None:
    x = np.random.Generator(np.random.PCG64(size)).standard_normal(200)
    whole = _moving_sum(x, size)
    np.testing.assert_allclose(whole, np.convolve(x, np.ones(size), mode="valid"), rtol=0, atol=1e-12)
    np.testing.assert_array_equal(_moving_sum(x[37:], size), whole[37:])


def test_an_r_wave_is_placed_where_it_is_not_much_smaller_than_the_s_wave() -> None:
    """An R and an S wave 60 ms apart: the R wave is the peak at 0.9 of the S wave's size, the S wave where R is small."""
    t, at = np.arange(5000), np.arange(400, 4800, 400)
    pulse = lambda centre: np.exp(-0.5 * ((t[:, None] - centre) / 6.0) ** 2).sum(1)  # noqa: E731
    for size, expected in ((0.9, at), (0.3, at + 30)):
        found = detect(size * pulse(at) - pulse(at + 30), 500)
        assert len(found) == len(at) and np.abs(found - expected).max() <= 3


@pytest.mark.parametrize("rate", [125, 250, 360, 500, 1000])
@pytest.mark.parametrize("rhythm", simulate.RHYTHMS)
def test_beats_of_synthetic_ecgs_are_found(rate: float, rhythm: str) -> None:
    r = simulate.ecg(seed=21, rhythm=rhythm, rate_hz=rate, duration_s=60, ectopy=0.08, noise=1.5)
    for lead in (1, 10):
        m = match(beats(r).sample / rate, detect(r.signal[lead], rate) / rate, TOL_MATCH_S)
        normal = np.flatnonzero(np.array(beats(r).symbol) == "N")
        assert np.isin(normal, m.pairs[:, 0]).mean() > 0.98
        assert m.sensitivity > 0.90 and m.ppv > 0.98  # early, smooth ectopic beats look like T waves in fast rhythms
        assert np.median(np.abs(m.errors_s)) <= 0.012


def test_synthetic_noise_costs_little() -> None:
    """Muscle-like and electrode-motion-like noise, both synthetic, 12 dB under the QRS signal's power."""
    r = simulate.ecg(seed=31, duration_s=300, rate_hz=360, noise=0, leads=("II",))
    power = float(np.var(r.signal[0]))
    size = np.sqrt(power / 10**1.2 / 4)  # two kinds, two electrodes
    noisy = simulate.ecg(seed=31, duration_s=300, rate_hz=360, noise={"muscle": size, "electrode": size}, leads=("II",))
    m = match(beats(r).sample / 360, detect(noisy.signal[0], 360) / 360, TOL_MATCH_S)
    assert m.sensitivity > 0.98 and m.ppv > 0.98


def test_decisions_come_no_later_than_stated() -> None:
    r = simulate.ecg(seed=41, duration_s=30, rate_hz=500, noise=1.0, leads=("V5",))
    detector = Detector(500)
    assert detector.delay_s <= 0.4
    for k, sample in enumerate(r.signal[0]):
        for beat in detector.push(np.array([sample])):
            if k > 2.5 * 500:
                assert k - beat <= detector.delay_s * 500


def test_beats_are_found_again_after_the_amplitude_fell() -> None:
    r = simulate.ecg(seed=51, duration_s=60, rate_hz=360, noise=0.3, leads=("II",))
    x = r.signal[0].copy()
    x[len(x) // 2 :] *= 0.15
    truth = beats(r).sample / 360
    found = detect(x, 360) / 360
    assert match(truth[truth > 37], found[found > 37], TOL_MATCH_S).sensitivity > 0.97


def test_silence_has_no_beats() -> None:
    for x in (np.zeros(5000), np.full(5000, 3.3), np.full(5000, np.nan), np.zeros(0), np.zeros(1)):
        assert not len(detect(x, 500))


def test_offset_and_gain_do_not_matter() -> None:
    x = simulate.ecg(seed=61, duration_s=30, rate_hz=500, leads=("II",)).signal[0].astype(np.float64)
    np.testing.assert_array_equal(detect(5 * x, 500), detect(x, 500))
    np.testing.assert_array_equal(detect(x + 7, 500), detect(x, 500))
    np.testing.assert_array_equal(detect(-x, 500).size, detect(x, 500).size)


def test_the_clear_lead_is_used() -> None:
    r = simulate.ecg(seed=71, duration_s=30, rate_hz=500, leads=("I", "V4"))
    x = r.signal.copy()
    x[0] = np.random.Generator(np.random.PCG64(1)).standard_normal(x.shape[1])
    np.testing.assert_array_equal(detect(x, 500), detect(x[1], 500))


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"\(1, 1, 5\)"):
        detect(np.zeros((1, 1, 5)), 500)
    with pytest.raises(ShapeError, match="one lead"):
        Detector(500).push(np.zeros((2, 5)))
    with pytest.raises(SpecError, match="10"):
        Detector(10)


@pytest.mark.slow
def test_mit_bih_beats_are_found() -> None:
    from xecg import io

    root = os.environ.get("ECG_DATA")
    if not root:
        pytest.skip("ECG_DATA is not set: it must hold mitdb/, the MIT-BIH Arrhythmia Database 1.0.0")
    true = false = missed = records = 0
    for path in io.find_records(Path(root) / "mitdb"):
        r = io.read(path)
        assert r.annotations is not None
        truth = beats(r).sample[np.array([s in BEATS for s in beats(r).symbol])]
        m = match(truth / r.rate, detect(r.signal[0], r.rate) / r.rate, TOL_MATCH_S)
        true, false, missed, records = (
            true + m.true_positive,
            false + m.false_positive,
            missed + m.false_negative,
            records + 1,
        )
    assert (records, true + missed) == (48, 109_494)
    assert true / (true + missed) >= FLOOR_MITDB_SENSITIVITY
    assert true / (true + false) >= FLOOR_MITDB_PPV


@pytest.mark.parametrize("rr", [111, 124, 132, 180, 220])
def test_identical_pulses_without_noise_are_all_found(rr: int) -> None:
    rate, n = 250.0, 5000
    at = np.arange(rr, n - rr, rr)
    t = np.arange(n)
    x = (0.9 * np.exp(-0.5 * ((t[:, None] - at) / 4.0) ** 2)).sum(1).astype(np.float32)  # sigma 16 ms
    found = detect(x, rate)
    assert len(found) >= len(at) - 1
    assert all(np.abs(found - a).min() <= 2 for a in at[1:-1])


def test_hours_without_a_beat_do_not_fill_the_memory() -> None:
    rng = np.random.default_rng(0)
    beats = simulate.ecg(seed=1, rate_hz=250, duration_s=20.0, leads=("II",)).signal[0]
    off = rng.normal(0, 0.02, 250 * 1200)  # 20 min of an electrode that came off: small peaks, none of them a beat
    for detector in (Detector(250), Definition(250)):
        detector.push(beats.astype(np.float64))
        for first in range(0, len(off), 2500):
            detector.push(off[first : first + 2500])
        assert len(detector.save()) < 40_000
        if isinstance(detector, Definition):
            assert detector._judge is not None and len(detector._judge.rejected) <= 256
        after = [*detector.push(np.tile(beats, 3).astype(np.float64)), *detector.flush()]
        assert len(after) > 40  # and it hears the heart again


@pytest.mark.parametrize("wrong", ["abc", None, [[1.0, 2.0], [3.0]], np.ones(500, complex), np.ones(500, "M8[s]")])
def test_what_is_no_array_of_real_numbers_is_refused_in_words(wrong: Any) -> None:
    for call in (lambda: detect(wrong, 250.0), lambda: Detector(250.0).push(wrong)):
        with pytest.raises(ShapeError, match="needed"):
            call()
