"""Raw beside processed: both edges of a long record, every value inside its panel, missing samples left out, no identity."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from xecg.errors import ShapeError, SpecError
from xecg.signal import PRESETS, STANDARD_LEADS, ECGFrontend, Recording, SignalSpec, preprocess, simulate

pytest.importorskip("matplotlib")

from xecg.signal import before_after


def drawn(recording: Recording, spec: SignalSpec, seconds: float = 10.0) -> list[tuple[np.ndarray, np.ndarray]]:
    """(x, y) of every trace in the order of drawing; each lies within its axes."""
    front = ECGFrontend(spec, in_rate=recording.rate, leads=recording.leads)
    figure = before_after._figure(recording, preprocess(recording, spec), front, seconds)
    traces = []
    for axes in figure.axes:
        (line,) = axes.get_lines()
        x, y = (np.asarray(values, dtype=float) for values in (line.get_xdata(), line.get_ydata()))
        low, high = axes.get_ylim()
        assert np.all((y > low) & (y < high) | np.isnan(y)) and axes.get_xlim()[0] <= x[0]
        traces.append((x, y))
    return traces


def words(path: Path, recording: Recording, spec: SignalSpec) -> str:
    import matplotlib as mpl

    with mpl.rc_context({"svg.fonttype": "none"}):
        before_after.draw(recording, preprocess(recording, spec), spec, path)
    return "\n".join(re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text()))


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
@pytest.mark.parametrize("preset", ["poly", "monitor", "causal", "ecg-jepa"])
def test_pictures_are_written(tmp_path: Path, preset: str, suffix: str) -> None:
    r, spec = simulate.ecg(seed=1), PRESETS[preset]
    out = before_after.draw(r, preprocess(r, spec), spec, tmp_path / f"a{suffix}")
    assert out.stat().st_size > 5000 and [p.name for p in tmp_path.iterdir()] == [out.name]


def test_a_short_record_is_drawn_whole_and_in_place() -> None:
    r, spec = simulate.ecg(seed=2), PRESETS["poly"]
    traces, result = drawn(r, spec), preprocess(r, spec)
    assert len(traces) == 2 * 12
    for row in range(12):
        (t, raw), (u, processed) = traces[2 * row : 2 * row + 2]
        np.testing.assert_array_equal(raw, r.signal[row])
        np.testing.assert_array_equal(processed, result.x[row])
        np.testing.assert_allclose(t, np.arange(5000) / 500)
        np.testing.assert_allclose(u, np.arange(1000) / 100)


def test_both_edges_of_a_long_record_are_drawn() -> None:
    r, spec = simulate.ecg(seed=3, duration_s=47, leads=("V1",)), PRESETS["poly"]
    (_, head), (_, head_out), (t, tail), (u, tail_out) = drawn(r, spec)
    result = preprocess(r, spec).x[6]
    np.testing.assert_array_equal(np.concatenate([head, tail]), r.signal[0][[*range(5000), *range(18_500, 23_500)]])
    np.testing.assert_array_equal(np.concatenate([head_out, tail_out]), result[[*range(1000), *range(3700, 4700)]])
    assert t[0] == u[0] == pytest.approx(37.0)


def test_masked_samples_are_not_drawn() -> None:
    r = simulate.ecg(seed=4, leads=("II",))
    mask = r.mask.copy()
    mask[0, 1000:2500] = False
    holed = r.with_(mask=mask, signal=np.where(mask, r.signal, 0))
    (_, raw), (_, processed) = drawn(holed, PRESETS["monitor"])
    np.testing.assert_array_equal(np.isfinite(raw), mask[0])
    np.testing.assert_array_equal(np.isfinite(processed), preprocess(holed, PRESETS["monitor"]).mask[1])
    (_, raw), (_, processed) = drawn(r.with_(mask=np.zeros_like(mask)), PRESETS["poly"])
    assert not np.isfinite(raw).any() and not np.isfinite(processed).any()


def test_title_has_the_specification_and_no_identity(tmp_path: Path) -> None:
    r = simulate.ecg(seed=5, leads=("II", "V5")).with_(
        source="/data/ZZDOE^JANE/1950.hea", meta={"synthetic": True, "exam_group": "ZZDOE"}
    )
    text = words(tmp_path / "a.svg", r, PRESETS["causal"])
    assert "ZZDOE" not in text and "JANE" not in text and "1950" not in text
    late = ECGFrontend("causal", in_rate=500, leads=r.leads).delay_s
    for part in ("SYNTHETIC", "causal", PRESETS["causal"].hash, "500 Hz to 100 Hz", f"late by {late * 1000:.0f} ms"):
        assert part in text
    assert "Research use only, not a medical device" in text
    own = SignalSpec(rate=None, filters=PRESETS["clinical"].filters, resample="none", normalise="zscore")
    assert "own specification" in words(tmp_path / "b.svg", r, own)


def test_at_most_twelve_leads_are_drawn_and_the_title_tells(tmp_path: Path) -> None:
    names = (*STANDARD_LEADS, "V7", "V8", "V9")
    x = np.random.Generator(np.random.PCG64(6)).standard_normal((15, 2000)).astype(np.float32)
    r = Recording(signal=x, rate=500.0, leads=names, mask=np.ones_like(x, dtype=bool))
    spec = SignalSpec(leads=names)
    assert len(drawn(r, spec)) == 2 * 12
    assert "12 of 15 leads" in words(tmp_path / "a.svg", r, spec)


def test_wrong_wishes_are_refused(tmp_path: Path) -> None:
    r, spec = simulate.ecg(seed=7), PRESETS["poly"]
    result = preprocess(r, spec)
    with pytest.raises(SpecError, match=r"\.gif"):
        before_after.draw(r, result, spec, tmp_path / "a.gif")
    with pytest.raises(SpecError, match="seconds"):
        before_after.draw(r, result, spec, tmp_path / "a.png", seconds=0)
    with pytest.raises(ShapeError, match=r"\(12, 5000\)"):
        before_after.draw(r, result, PRESETS["monitor"], tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
