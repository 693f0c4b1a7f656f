"""Every numerical tolerance of the test suite. A test may not carry one of its own.

Errors are relative to the largest entry of the expected array, computed in float64 (`error`).
"""

from __future__ import annotations

import torch

# Exact arithmetic written twice in float64: chunkwise against recurrent, explicit gradients against autograd.
FLOAT64 = 1e-11
# Golden values are printed with 12 decimals.
GOLDEN = 1e-9
# float32 kernels against the float64 definition, gates up to N(0, 5); measured 6e-7 … 4.4e-6 for the recurrent form.
FORWARD = 1e-5
FORWARD_EXTREME = 5e-5
GRADIENT = 5e-5
# bfloat16 / float16 kernels: root-mean-square error at most this factor above rounding the exact result of rounded inputs.
HALF_RMS_FACTOR = 1.3
# Model parity with the published architecture.
MODEL_FLOAT64 = 1e-9
MODEL_FLOAT32 = 1e-5
# A stream of single steps against one offline call.
STREAM = 1e-5

# The compiled front end against its float64 definition: signal over error; with a corner at 0.05 Hz and 1000 Hz; what an offset of
# 1 V may cost; largest difference of a z-score.
FRONTEND_DB = 95.0
FRONTEND_SLOW_CORNER_DB = 90.0
FRONTEND_OFFSET_LOSS_DB = 3.0
FRONTEND_Z = 2e-4
# Long records in tiles: of the largest entry, against the definition and against one piece; measured 5e-7 … 8e-7 for 0.5–40 Hz.
FRONTEND_TILED = 1e-6


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest absolute difference over the largest expected entry; infinite where one is NaN and the other is not."""
    found, expected = found.detach().double(), expected.detach().double()
    assert found.shape == expected.shape, f"shapes {tuple(found.shape)} and {tuple(expected.shape)} differ"
    if found.numel() == 0:
        return 0.0
    if not torch.equal(found.isnan(), expected.isnan()):
        return float("inf")
    found, expected = found.nan_to_num(), expected.nan_to_num()
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-30))


def rms_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Root mean square of the difference over that of the expected values."""
    found, expected = found.detach().double(), expected.detach().double()
    return float(((found - expected).square().mean() / expected.square().mean().clamp_min(1e-30)).sqrt())
