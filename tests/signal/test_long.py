"""Long records in tiles with exact state: the same answer as the definition, whatever the length, the companions or the threads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.ops.harness import rerun_under_isa
from tests.signal.test_kernel import BAND, compiled, decibel, defined
from tests.tolerances import FRONTEND_DB, FRONTEND_OFFSET_LOSS_DB, FRONTEND_SLOW_CORNER_DB, FRONTEND_TILED, FRONTEND_Z
from xecg.signal import ECGFrontend, FilterSpec, SignalSpec, kernel

pytestmark = pytest.mark.skipif(kernel.native() is None, reason="the CPU module is not built")
LEADS = ("I", "II")
GROUP = 16 * 1040  # samples of 16 tiles
SPECS: dict[str, tuple[SignalSpec | str, float]] = {
    "poly": ("poly", 360.0),
    "many phases": ("poly", 257.0),
    "clinical": ("clinical", 1000.0),
    "two stages": ("ecgfounder", 360.0),
    "up": (SignalSpec(rate=1200.0, filters=BAND), 257.0),
    "resample only": (SignalSpec(), 500.0),
    "z-score without filter": ("ecg-fm", 360.0),
    "low-pass": (SignalSpec(filters=(FilterSpec("lowpass", 4, high_hz=40.0),)), 500.0),
    "six sections": (SignalSpec(rate=None, resample="none", filters=(FilterSpec("bandpass", 6, 0.5, 40.0),)), 500.0),
    "tiles of 20 s": (SignalSpec(rate=25.0, filters=(FilterSpec("bandpass", 2, 0.5, 10.0),)), 4001.0),
}  # fmt: skip


def record(n: int, rate: float, batch: int = 1, offset: float = 0.0) -> np.ndarray:
    rng, t = np.random.default_rng(3), np.arange(n) / rate
    beat = np.exp(-(((t * 1.2) % 1 - 0.5) ** 2) / 2e-4) + 0.2 * np.sin(2 * np.pi * 0.3 * t)
    level = rng.normal(0, 0.3, (batch, len(LEADS), 1)) + offset
    return (beat + level + rng.normal(0, 0.02, (batch, len(LEADS), n))).astype(np.float32)


@pytest.mark.parametrize("name", SPECS)
def test_long_record_parity_with_the_definition(name: str) -> None:
    spec, rate = SPECS[name]
    frontend = ECGFrontend(spec, in_rate=rate, leads=LEADS)
    x = record(kernel.LONG_SAMPLES + 7001, rate)
    expected, mask = defined(frontend, x)
    found, ok = compiled(frontend, x)
    assert np.array_equal(ok, mask)
    near = decibel(found, expected)
    assert near >= (FRONTEND_SLOW_CORNER_DB if name == "clinical" else FRONTEND_DB)
    if name not in ("resample only", "z-score without filter", "low-pass"):  # these pass the offset on
        far = record(x.shape[-1], rate, offset=1000.0)
        loss = decibel(compiled(frontend, far)[0], defined(frontend, far)[0])
        assert loss >= min(near, 115.0) - FRONTEND_OFFSET_LOSS_DB


def test_edges_of_tiles_and_groups_parity() -> None:
    """Lengths at which the extension, the FIR's reach or the end meets the border of a tile or of a group."""
    frontend = ECGFrontend("poly", in_rate=500.0, leads=LEADS)
    whole = record(4 * GROUP, 500.0)
    for border in (2 * GROUP - 1040, 3 * GROUP - 1040, 2 * GROUP + 1040 * 5):
        for n in (border - 22, border - 21, border - 1, border, border + 1, border + 60, border + 103):
            x = whole[..., :n]
            expected, _ = defined(frontend, x)
            found, _ = compiled(frontend, x)
            assert found.shape == expected.shape
            assert np.abs(found - expected).max() <= FRONTEND_TILED * np.abs(expected).max(), n


def test_length_alone_decides_and_both_forms_agree_parity(monkeypatch: pytest.MonkeyPatch) -> None:
    frontend = ECGFrontend("monitor", in_rate=360.0, leads=LEADS)
    x = record(kernel.LONG_SAMPLES, 360.0)
    tiled, _ = compiled(frontend, x)
    monkeypatch.setattr(kernel, "LONG_SAMPLES", 1 << 30)
    one_piece, _ = compiled(frontend, x)
    assert not np.array_equal(tiled, one_piece)
    assert np.abs(tiled - one_piece).max() <= FRONTEND_TILED * np.abs(one_piece).max()


def test_bits_of_a_long_row_ignore_companions_and_threads_parity() -> None:
    module = kernel.native()
    assert module is not None
    frontend = ECGFrontend("poly", in_rate=360.0, leads=LEADS)
    x = record(kernel.LONG_SAMPLES + 333, 360.0, batch=3)
    whole, _ = compiled(frontend, x)
    alone = ECGFrontend("poly", in_rate=360.0, leads=("II",))
    assert np.array_equal(compiled(alone, x[2:, 1:])[0][0, 0], whole[2, 1])
    before = module.num_threads()
    try:
        for threads in (1, 3):
            module.set_num_threads(threads)
            assert np.array_equal(compiled(frontend, x)[0], whole)
    finally:
        module.set_num_threads(before)


def test_long_counts_equal_their_millivolts_parity() -> None:
    frontend = ECGFrontend("poly", in_rate=360.0, leads=LEADS)
    counts = np.round(record(kernel.LONG_SAMPLES, 360.0) * 200.0 + 1024.0).astype(np.int16)
    expected, _ = defined(frontend, (counts - 1024.0) / 200.0)
    found, _ = compiled(frontend, counts, gain=200.0, baseline=1024.0)
    assert np.abs(found - expected).max() <= FRONTEND_Z


def test_long_flat_and_broken_rows_parity() -> None:
    frontend = ECGFrontend("poly", in_rate=500.0, leads=LEADS)
    x = record(kernel.LONG_SAMPLES, 500.0)
    good, _ = compiled(frontend, x)
    x[0, 0] = 0.7
    found, ok = compiled(frontend, x)
    assert not found[0, 0].any() and not ok[0, 0].any()
    assert np.array_equal(found[0, 1], good[0, 1]) and ok[0, 1].all()
    x[0, 0, 20_000] = np.nan
    result = frontend._compiled(x, None, None, None)
    assert result is not None and result.left is not None and result.left.tolist() == [[True, False]]
    assert np.isfinite(frontend.apply(x).x).all()


@pytest.mark.parametrize("isa", ["base", "avx2"])
def test_isa_levels_below_the_best_pass_the_same_tests(isa: str) -> None:
    rerun_under_isa(str(Path(__file__)), isa)
