"""Synthetic ECGs: reproducible, labelled synthetic, true to what was asked."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from xecg.errors import SpecError
from xecg.signal import STANDARD_LEADS, Annotations, Recording, simulate


def beats(r: Recording) -> Annotations:
    assert r.annotations is not None
    return r.annotations


def rr_s(r: Recording) -> np.ndarray:
    return np.diff(beats(r).sample) / r.rate


def test_same_seed_gives_the_same_samples() -> None:
    a, b, c = (simulate.ecg(seed=s, ectopy=0.2, noise=2.0) for s in (5, 5, 6))
    np.testing.assert_array_equal(a.signal, b.signal)
    assert beats(a).symbol == beats(b).symbol and not np.array_equal(a.signal, c.signal)


def test_noise_leaves_beats_alone() -> None:
    a, b = simulate.ecg(seed=5, noise=0), simulate.ecg(seed=5, noise={"muscle": 0.1, "mains": 0.05})
    np.testing.assert_array_equal(beats(a).sample, beats(b).sample)
    added = np.sqrt(np.mean((b.signal - a.signal)[0] ** 2))  # lead I: difference of two electrodes
    assert 0.1 < added < 0.25


@pytest.mark.parametrize("rhythm", simulate.RHYTHMS)
def test_every_recording_says_synthetic(rhythm: str) -> None:
    r = simulate.ecg(seed=1, rhythm=rhythm)
    assert r.source.startswith("synthetic:") and r.meta["synthetic"] is True and r.meta["rhythm"] == rhythm
    assert r.signal.shape == (12, 5000) and r.leads == STANDARD_LEADS and r.mask.all()
    assert np.isfinite(r.signal).all() and 0.5 < np.ptp(r.signal[1]) < 6


def test_heart_rate_is_the_one_asked_for() -> None:
    for bpm in (40, 75, 150):
        assert 60 / rr_s(simulate.ecg(seed=2, heart_rate_bpm=bpm, duration_s=60)).mean() == pytest.approx(bpm, rel=0.03)


def test_af_is_irregular_and_sinus_is_not() -> None:
    af, sinus = (rr_s(simulate.ecg(seed=3, rhythm=r, heart_rate_bpm=80, duration_s=60)) for r in ("af", "sinus"))
    assert af.std() / af.mean() > 0.15 > 0.06 > sinus.std() / sinus.mean()


def test_ectopic_beats_are_early_and_marked() -> None:
    r = simulate.ecg(seed=4, duration_s=300, ectopy={"V": 0.1, "A": 0.1}, noise=0)
    symbols, rr = np.array(beats(r).symbol[1:]), rr_s(r)
    assert r.meta["n_pvc"] == (np.array(beats(r).symbol) == "V").sum() > 10 and r.meta["n_pac"] > 10
    normal = np.median(rr)
    assert (rr[symbols != "N"] < 0.9 * normal).all() and (rr[symbols == "N"] > 0.9 * normal).all()


def test_beats_lie_on_r_peaks() -> None:
    r = simulate.ecg(seed=7, noise=0, rate_hz=1000)
    for s in beats(r).sample[1:-1]:
        around = np.abs(r.signal[1, s - 60 : s + 60])
        assert abs(int(around.argmax()) - 60) <= 6


@pytest.mark.parametrize("axis", [-60, -30, 0, 45, 90, 120])
def test_axis_is_the_one_asked_for(axis: float) -> None:
    r = simulate.ecg(seed=8, noise=0, axis_deg=axis, rate_hz=1000)
    s = int(beats(r).sample[2])
    one, foot = (r.signal[i, s - 50 : s + 50].sum() for i in (0, 5))
    error = np.rad2deg(np.angle(np.exp(1j * (np.arctan2(foot * 2 / np.sqrt(3), one) - np.deg2rad(axis)))))
    assert abs(error) < 15


def test_limb_leads_obey_einthoven_with_noise() -> None:
    x = simulate.ecg(seed=9, noise={"wander": 0.2, "muscle": 0.1, "mains": 0.1, "electrode": 0.2}).signal
    np.testing.assert_allclose(x[0] + x[2], x[1], atol=1e-5)
    np.testing.assert_allclose(x[3] + x[4] + x[5], 0, atol=1e-5)


def test_age_and_sex_leave_a_trace() -> None:
    def mean(key: str, **kwargs: object) -> float:
        return float(np.mean([simulate.ecg(seed=s, duration_s=0.1, **kwargs).meta[key] for s in range(60)]))  # type: ignore[arg-type]

    assert mean("qtc_ms", sex="F") > mean("qtc_ms", sex="M") + 5
    assert mean("heart_rate_bpm", sex="F") > mean("heart_rate_bpm", sex="M") + 1
    assert mean("heart_rate_bpm", age=30) > mean("heart_rate_bpm", age=80) + 2


def test_leads_are_the_ones_asked_for() -> None:
    whole, two = simulate.ecg(seed=10), simulate.ecg(seed=10, leads=("V5", "MLII"))
    assert two.leads == ("V5", "II")
    np.testing.assert_array_equal(two.signal, whole.signal[[10, 1]])


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        ({"rhythm": "vf"}, "vf"),
        ({"leads": ("X",)}, "X"),
        ({"ectopy": {"Q": 0.1}}, "Q"),
        ({"ectopy": 1.5}, "1.5"),
        ({"noise": {"hum": 1}}, "hum"),
        ({"sex": "x"}, "x"),
        ({"heart_rate_bpm": 5}, "5"),
        ({"duration_s": 0}, "0"),
    ],
)
def test_wrong_wishes_are_refused(wrong: dict, found: str) -> None:
    with pytest.raises(SpecError, match=found):
        simulate.ecg(seed=1, **wrong)


def test_archive_is_readable_and_reproducible(tmp_path: Path) -> None:
    from xecg import io

    labels = simulate.archive(tmp_path / "a", patients=6, seed=11, duration_s=6)
    simulate.archive(tmp_path / "b", patients=6, seed=11, duration_s=6)
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert names == sorted(p.name for p in (tmp_path / "b").iterdir())
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    rows = list(csv.DictReader(labels.open()))
    assert list(rows[0]) == ["record", "patient", "age", "sex", "rhythm", "n_pvc"]
    assert len({row["patient"] for row in rows}) == 6 and 6 <= len(rows) <= 18
    for row in rows:
        r = io.read(labels.parent / f"{row['record']}.hea")
        assert r.signal.shape == (12, 3000) and r.leads == STANDARD_LEADS and r.mask.all()
        assert r.meta["age"] == float(row["age"]) and r.meta["sex"] == row["sex"]
        assert r.annotations is not None and beats(r).symbol.count("V") == int(row["n_pvc"])
