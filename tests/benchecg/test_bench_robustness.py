"""Disturbed test recordings: what each disturbance does, and a score that falls from the clean run's own value."""

from __future__ import annotations

import json

import numpy as np
import pytest
from bench_data import MeanAdapter, write_record
from click.testing import CliRunner

from benchecg.cli import main
from benchecg.disturbing import FAMILIES, conditions
from benchecg.models import load_adapter
from benchecg.protocols import linear_probe
from benchecg.robustness import find_curves, linear_scores, read_curves, robustness
from benchecg.running import load_data, run
from benchecg.tasks import load_task
from xecg.errors import ReadError, SpecError
from xecg.signal import Recording, qrs, simulate


def _by_label(family, **changes):
    return {c.label: c for c in conditions((family,), **changes)}


@pytest.fixture(scope="module")
def ten():
    return simulate.ecg(seed=5, duration_s=20, noise=0.2)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_disturbance_is_the_same_each_time_and_leaves_the_original_alone(family, ten):
    before = ten.signal.copy()
    for condition in conditions((family,)):
        a, b = condition(ten), condition(ten)
        assert np.array_equal(a.signal, b.signal) and a.signal.dtype == np.float32
        assert a.duration_s == pytest.approx(ten.duration_s, abs=0.02)
        assert not np.array_equal(a.signal, ten.signal)
    assert np.array_equal(ten.signal, before)


def test_dropped_leads_are_missing_not_flat(ten):
    for label, kept in (("II only", {"II"}), ("I and II", {"I", "II"}), ("limb leads", set(ten.leads[:6]))):
        found = _by_label("leads")[label](ten)
        assert {lead for lead, row in zip(found.leads, found.mask) if row.any()} == kept
        assert np.array_equal(found.signal[ten.leads.index("II")], ten.signal[ten.leads.index("II")])
        assert not found.signal[~found.mask].any()


def test_another_rate_keeps_the_beats_where_they_are(ten):
    want = qrs.detect(ten.signal, ten.rate) / ten.rate
    for label, rate in (("250 Hz", 250), ("125 Hz", 125)):
        found = _by_label("rate")[label](ten)
        assert found.rate == rate and found.signal.shape[1] == 20 * rate
        np.testing.assert_allclose(qrs.detect(found.signal, rate) / rate, want, atol=0.02)


def test_gain_and_clipping_do_what_they_say(ten):
    np.testing.assert_allclose(_by_label("gain")["× 2"](ten).signal, 2 * ten.signal)
    clipped = _by_label("clipping")["± 0.5 mV"](ten).signal
    assert np.ptp(clipped, axis=1).max() <= 1.0 + 1e-6 and np.ptp(ten.signal, axis=1).max() > 1.2


def test_exchanged_electrodes_give_what_the_electrodes_give():
    """From electrode voltages by the definitions of the leads, with the two electrodes exchanged first."""
    rng = np.random.default_rng(0)
    v = {name: rng.normal(size=500).astype(np.float32) for name in ("RA", "LA", "LL")}
    chest = rng.normal(size=(6, 500)).astype(np.float32)

    def leads(ra, la, ll):
        mean = (ra + la + ll) / 3
        limb = [la - ra, ll - ra, ll - la, 1.5 * (ra - mean), 1.5 * (la - mean), 1.5 * (ll - mean)]
        return np.concatenate([np.stack(limb), chest]).astype(np.float32)

    signal = leads(v["RA"], v["LA"], v["LL"])
    recording = Recording(signal=signal, rate=100.0, leads=simulate.STANDARD_LEADS, mask=np.ones(signal.shape, bool))
    swaps = _by_label("swap")
    np.testing.assert_allclose(swaps["arms exchanged"](recording).signal, leads(v["LA"], v["RA"], v["LL"]), atol=1e-5)
    np.testing.assert_allclose(
        swaps["left arm and leg exchanged"](recording).signal, leads(v["RA"], v["LL"], v["LA"]), atol=1e-5
    )
    np.testing.assert_array_equal(swaps["V1 to V6 reversed"](recording).signal[6:], chest[::-1])


@pytest.mark.parametrize("recorded", [False, True])
def test_noise_has_the_size_that_nst_gives_it(recorded, tmp_path):
    """A train of QRS complexes of 2 mV peak to peak: signal power 0.5 mV², noise that many decibels below."""
    rate, n = 250.0, 15_000
    t = np.arange(n) / rate
    lead = np.exp(-0.5 * (((t - 0.4) % 0.8 - 0.4) / 0.012) ** 2)  # a peak each 0.8 s, at 0, 0.8, …
    lead = lead - np.roll(lead, 9)
    lead *= 2 / np.ptp(lead)
    signal = np.stack([lead, 0.5 * lead]).astype(np.float32)
    clean = Recording(signal=signal, rate=rate, leads=("II", "V1"), mask=np.ones(signal.shape, bool))
    folder = None
    if recorded:
        folder = tmp_path
        rng = np.random.default_rng(1)
        for name in ("em", "ma"):
            write_record(folder, name, rng.normal(0, 0.2, (2, 4_000)).astype("f"), rate=360, leads=["noise1", "noise2"])
    for label, condition in _by_label("noise", noise=folder).items():
        snr_db = float(label.split()[1])
        added = condition(clean).signal - clean.signal
        rms = np.sqrt((added.astype(float) ** 2).mean(1))
        np.testing.assert_allclose(rms, np.array([1.0, 0.5]) * np.sqrt(0.5 / 10 ** (snr_db / 10)), rtol=0.1)
        assert abs(np.corrcoef(added)[0, 1]) < 0.9 or not recorded


def test_synthetic_noise_of_a_long_recording_has_no_seam():
    rate = 100.0
    signal = np.zeros((1, 30_000), np.float32)
    signal[0, ::80] = 1.0
    long = Recording(signal=signal, rate=rate, leads=("II",), mask=np.ones(signal.shape, bool))
    for condition in conditions(("noise",)):
        added = (condition(long).signal - long.signal)[0].astype(float)
        parts = [p.std() for p in np.split(added, 5)]
        assert max(parts) < 1.3 * min(parts), condition.label
        assert np.abs(np.diff(added)).max() == pytest.approx(np.abs(np.diff(added[:12_000])).max(), rel=1e-3)


def test_missing_samples_stay_missing(ten):
    mask = ten.mask.copy()
    mask[3, 1000:2000] = False
    holed = ten.with_(mask=mask, signal=np.where(mask, ten.signal, np.float32(0)))
    for condition in conditions():
        found = condition(holed)
        assert not found.signal[~found.mask].any() and not found.mask.all(), condition.label


@pytest.fixture(scope="module")
def sex(small_code15):
    return load_data(load_task("open-sex"), small_code15)


@pytest.fixture(scope="module")
def curves(sex, small_code15, tmp_path_factory):
    out = tmp_path_factory.mktemp("curves")
    return out, robustness(sex, MeanAdapter(), out=out, root=small_code15)


def test_the_undisturbed_row_is_the_run(sex, curves, tmp_path):
    clean = curves[1]["conditions"][0]
    headline = run(sex, MeanAdapter(), out=tmp_path).headline
    assert (clean["value"], clean["low"], clean["high"]) == (headline["value"], headline["low"], headline["high"])
    assert clean["family"] == "none" and clean["change"]["value"] == 0


def test_a_score_falls_where_its_cue_is_taken_away(curves):
    """The fixture tells the sex by an offset, which the adapter sees in lead I: noise leaves it, dropping lead I does not."""
    rows = {r["label"]: r for r in curves[1]["conditions"]}
    assert rows["undisturbed"]["value"] > 0.9
    assert rows["II only"]["value"] == pytest.approx(0.5, abs=0.05) and rows["II only"]["change"]["high"] < 0
    assert rows["I and II"]["value"] == rows["undisturbed"]["value"]
    assert rows["electrode, 24 dB"]["value"] > 0.9
    assert len(rows) == 1 + len(conditions()) and curves[1]["noise"] == "synthetic"


def test_disturbed_features_are_cached_apart(sex, small_code15, tmp_path):
    adapter, cache = MeanAdapter(), tmp_path / "cache"
    first = robustness(sex, adapter, out=tmp_path / "a", root=small_code15, families=("leads",), cache=cache)
    calls = adapter.calls
    again = robustness(sex, adapter, out=tmp_path / "b", root=small_code15, families=("leads",), cache=cache)
    witnesses = len(list(cache.glob("*/witness.npz")))
    assert adapter.calls == calls + witnesses and first == again
    assert len({r["value"] for r in first["conditions"]}) > 1


@pytest.mark.parametrize(
    ("kind", "label"),
    [
        ("multiclass", lambda rng: rng.integers(0, 3, 200)),
        ("multilabel", lambda rng: rng.integers(0, 2, (200, 3))),
        ("binary", lambda rng: rng.integers(0, 2, 200)),
        ("regression", lambda rng: rng.normal(size=200)),
        ("survival", lambda rng: np.stack([rng.exponential(size=200), rng.integers(0, 2, 200)], 1)),
        (
            "panel",
            lambda rng: np.concatenate([np.eye(2)[rng.integers(0, 2, 200)], np.eye(3)[rng.integers(0, 3, 200)]], 1),
        ),
    ],
)
def test_the_trained_probe_answers_as_the_probe_did(kind, label):
    from dataclasses import replace

    base = load_task("open-sex")
    names = {
        "panel": ("a/low", "a/high", "b/low", "b/normal", "b/high"),
        "multilabel": ("x", "y", "z"),
        "multiclass": ("x", "y", "z"),
    }
    metric = {"multiclass": "macro_f1", "multilabel": "macro_auroc", "binary": "auroc", "regression": "mae", "survival": "c_index",
              "panel": load_task("blood-tests").metric}[kind]  # fmt: skip
    task = replace(base, kind=kind, classes=names.get(kind, ("no", "yes")), metric=metric)
    rng = np.random.default_rng(0)
    part = np.arange(200) % 4
    x = rng.normal(size=(200, 5)).astype("f")
    probe = linear_probe(
        task, features=x, valid=np.ones(200, bool), label=label(rng), train=part < 2, val=part == 2, test=part == 3
    )
    np.testing.assert_allclose(linear_scores(task, probe.head, x[part == 3]), probe.score, atol=1e-4)


def test_a_detector_and_a_peak_head_are_asked_under_noise(small_mitdb, tmp_path):
    loaded = load_data(load_task("mitbih-rpeaks"), small_mitdb)
    for adapter in (load_adapter("beat-75"), MeanAdapter()):
        found = robustness(loaded, adapter, out=tmp_path / adapter.id, root=small_mitdb, families=("gain", "swap"))
        rows = {r["label"]: r["value"] for r in found["conditions"]}
        headline = run(loaded, adapter, out=tmp_path / "run" / adapter.id).headline
        assert rows["undisturbed"] == headline["value"]
        assert set(found["left_out"]) == {f"swap/{c.label}" for c in conditions(("swap",))}
        assert "no lead" in found["left_out"]["swap/arms exchanged"]
    assert len({r["value"] for r in found["conditions"]}) > 1  # the head's, of the mean; a metronome hears nothing


def test_curves_are_written_read_and_refused(curves, tmp_path):
    out, content = curves
    assert find_curves(out) == [content] == [read_curves(out / "robustness.json")]
    (tmp_path / "robustness.json").write_text(json.dumps({**content, "format": "other"}))
    with pytest.raises(ReadError, match="needed the fields of benchecg-robustness/2"):
        find_curves(tmp_path)
    with pytest.raises(SpecError, match="no family 'thunder'"):
        conditions(("thunder",))


def test_the_command_prints_each_condition(small_code15, tmp_path):
    arguments = [
        "robustness",
        "-t",
        "open-sex",
        "-m",
        "bench_data:MeanAdapter",
        "--family",
        "gain",
    ]
    done = CliRunner().invoke(main, [*arguments, "--data", str(small_code15), "-o", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "undisturbed" in done.output and "× 0.5" in done.output
    assert (tmp_path / "open-sex" / "mean" / "robustness.json").is_file()
    refused = CliRunner().invoke(
        main, ["robustness", "-t", "open-sex", "-m", "qrs", "--data", str(small_code15), "-o", str(tmp_path)]
    )
    assert refused.exit_code == 1 and "finds peaks and has no features" in refused.output
