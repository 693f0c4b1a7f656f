"""Quality of a recording: ours in C++ against its definition in numpy, 12 leads of 10 s at three rates."""

from __future__ import annotations

from unittest import mock

import numpy as np

from bench.harness import Bench
from xecg.signal import kernel, quality, simulate

__all__ = ["entries"]


def _absent() -> None:
    return None


def _entry(rate_hz: int) -> Bench:
    recording = simulate.ecg(seed=3, rate_hz=rate_hz, duration_s=10.0)

    def defined() -> quality.Quality:
        with mock.patch.object(kernel, "native", _absent):
            return quality.assess(recording)

    def right() -> None:
        found, expected = quality.assess(recording), defined()
        if found.reasons != expected.reasons:
            raise AssertionError(f"{found.reasons} instead of {expected.reasons}")
        np.testing.assert_allclose(
            list(found.as_columns().values()), list(expected.as_columns().values()), rtol=1e-9, atol=1e-12
        )

    return Bench(
        id=f"frontend.quality.{rate_hz}hz", op="quality", shape=f"12x{10 * rate_hz}", dtype="float32",
        run=lambda: quality.assess(recording), check=right, peers={"definition in numpy": defined},
    )  # fmt: skip


def entries() -> list[Bench]:
    """100 Hz, 360 Hz and 500 Hz."""
    return [_entry(rate_hz) for rate_hz in (100, 360, 500)]
