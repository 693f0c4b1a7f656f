"""ECG paper: true size, every lead named, no identity, missing samples left out."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from xecg.errors import SpecError
from xecg.signal import STANDARD_LEADS, simulate

pytest.importorskip("matplotlib")

from xecg.signal import paper


def svg(path: Path, recording: object, **kwargs: object) -> str:
    import matplotlib as mpl

    with mpl.rc_context({"svg.fonttype": "none"}):  # words stay words
        paper.draw(recording, path, **kwargs)  # type: ignore[arg-type]
    return path.read_text()


def test_sheet_names_all_leads_and_the_scale(tmp_path: Path) -> None:
    text = svg(tmp_path / "a.svg", simulate.ecg(seed=1))
    words = re.findall(r"<text[^>]*>([^<]*)</text>", text)
    assert sorted(w for w in words if w in STANDARD_LEADS) == sorted([*STANDARD_LEADS, "II"])
    assert any("SYNTHETIC" in w for w in words) and any("25 mm/s" in w and "10 mm/mV" in w for w in words)
    assert any("Research use only" in w for w in words)


def test_page_has_true_size(tmp_path: Path) -> None:
    text = svg(tmp_path / "a.svg", simulate.ecg(seed=1, leads=("II",)))
    width_pt = float(re.search(r'width="([\d.]+)pt"', text)[1])  # type: ignore[index]
    assert 250 + 20 <= width_pt / 72 * 25.4 <= 250 + 40  # 10 s at 25 mm/s, and margins


def test_title_has_no_identity(tmp_path: Path) -> None:
    r = simulate.ecg(seed=1).with_(source="/data/ZZDOE^JANE/1950.hea", meta={"synthetic": True, "exam_group": "ZZDOE"})
    text = svg(tmp_path / "a.svg", r)
    assert "ZZDOE" not in text and "JANE" not in text


def trace_points(recording: object) -> int:
    """Points drawn in lead traces, from the figure itself."""
    figure = paper._figure(paper._rows(recording, 0, 10.0), recording, 0.0, 10.0, 25.0, 10.0)  # type: ignore[arg-type]
    lines = [np.asarray(line.get_ydata(), dtype=float) for line in figure.axes[0].get_lines()]
    return sum(int(np.isfinite(y).sum()) for y in lines if len(y) > 100)


def test_missing_samples_are_not_drawn() -> None:
    r = simulate.ecg(seed=2, leads=("II",))
    mask = r.mask.copy()
    mask[0, 1000:2500] = False
    assert trace_points(r) == 5000 and trace_points(r.with_(mask=mask)) == 3500


def test_a_millivolt_is_ten_millimetres() -> None:
    r = simulate.ecg(seed=3, leads=("II",), noise=0)
    figure = paper._figure(paper._rows(r, 0, 10.0), r, 0.0, 10.0, 25.0, 10.0)
    pulse, trace = (np.asarray(line.get_ydata(), dtype=float) for line in figure.axes[0].get_lines()[:2])
    assert np.ptp(pulse) == pytest.approx(10)
    assert np.ptp(trace) == pytest.approx(10 * np.ptp(r.signal), rel=1e-5)
    x = np.asarray(figure.axes[0].get_lines()[1].get_xdata(), dtype=float)
    assert np.ptp(x) == pytest.approx(25 * 4999 / 500)


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
def test_files_are_written_and_reproducible(tmp_path: Path, suffix: str) -> None:
    r = simulate.ecg(seed=4, leads=("II", "V5"), duration_s=30)
    a, b = (paper.draw(r, tmp_path / f"{n}{suffix}") for n in "ab")
    assert a.read_bytes() == b.read_bytes() and a.stat().st_size > 5000


@pytest.mark.parametrize("shape", ["short", "all missing", "one lead of twelve"])
def test_odd_recordings_are_drawn(tmp_path: Path, shape: str) -> None:
    r = simulate.ecg(seed=5, duration_s=0.3 if shape == "short" else 10)
    if shape == "all missing":
        r = r.with_(mask=np.zeros_like(r.mask))
    if shape == "one lead of twelve":
        r = r.with_(signal=r.signal[6:7], mask=r.mask[6:7], leads=("V1",))
    assert paper.draw(r, tmp_path / "a.png").exists()


def test_wrong_wishes_are_refused(tmp_path: Path) -> None:
    r = simulate.ecg(seed=6)
    with pytest.raises(SpecError, match=r"\.gif"):
        paper.draw(r, tmp_path / "a.gif")
    with pytest.raises(SpecError, match="within 10 s"):
        paper.draw(r, tmp_path / "a.png", start_s=10)
    with pytest.raises(SpecError, match="up to 120 s"):
        paper.draw(r, tmp_path / "a.png", seconds=1000)
    assert not list(tmp_path.iterdir())
