"""The picture of a recording before and after preprocessing."""

import pytest

from xecg import preprocess
from xecg.errors import ShapeError, SpecError
from xecg.signal import PRESETS, before_after, simulate

pytest.importorskip("matplotlib")


@pytest.mark.parametrize("preset", ["poly", "causal", "monitor"])
def test_both_edges_of_a_long_record_and_every_lead_are_drawn(preset, tmp_path):
    recording = simulate.ecg(seed=1, rate_hz=250, duration_s=40.0, leads=("II", "V1"))
    spec = PRESETS[preset]
    path = before_after.draw(recording, preprocess(recording, spec), spec, tmp_path / "x.svg")
    again = before_after.draw(recording, preprocess(recording, spec), spec, tmp_path / "y.svg")
    assert again.read_bytes() == path.read_bytes()


def test_panels_hold_the_record_and_no_identity(tmp_path):
    recording = simulate.ecg(seed=1, rate_hz=250, duration_s=40.0, leads=("II", "V1")).with_(source="Mrs Example")
    spec = PRESETS["poly"]
    figure = before_after._figure(recording, preprocess(recording, spec), _front(recording, spec), 10.0)
    words = " ".join(t.get_text() for t in figure.texts)
    assert len(figure.axes) == 2 * 2 * 2 and "Research use only" in words and "SYNTHETIC" in words
    assert "Mrs" not in words
    assert [a.get_xlim() for a in figure.axes[:3:2]] == [(0.0, 10.0), (30.0, 40.0)]
    for axes in figure.axes:
        low, high = axes.get_ylim()
        assert all(low <= y <= high for line in axes.lines for y in line.get_ydata() if y == y)


def _front(recording, spec):
    from xecg.signal import ECGFrontend

    return ECGFrontend(spec, in_rate=recording.rate, leads=recording.leads)


def test_what_cannot_be_drawn_is_refused(tmp_path):
    recording, spec = simulate.ecg(seed=1, duration_s=5.0), PRESETS["poly"]
    result = preprocess(recording, spec)
    with pytest.raises(SpecError, match=r"ends in '\.gif'"):
        before_after.draw(recording, result, spec, tmp_path / "x.gif")
    with pytest.raises(SpecError, match="seconds, dpi are 0"):
        before_after.draw(recording, result, spec, tmp_path / "x.png", seconds=0)
    with pytest.raises(ShapeError, match="pass preprocess"):
        before_after.draw(recording, result, PRESETS["monitor"], tmp_path / "x.png")
