"""The offline front end on NVIDIA GPUs: csrc/cuda/frontend.cu. Not yet run on a GPU."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from xecg.ops import _native
from xecg.ops._native import address
from xecg.ops.cuda import native, stream_of

__all__ = ["Plan", "refusal", "run"]

_SCRATCH_BYTES = 1 << 31  # of the rows that run at once: 3,000 twelve-lead records of 10 s at 500 Hz


class Plan(NamedTuple):
    """Numbers of a plan (csrc/common/frontend.h), its arrays on the device: sections, pads int32; the others float32."""

    sections: Tensor
    pads: Tensor
    coefficients: Tensor
    steady: Tensor
    fir: Tensor
    longest_pad: int
    dc: float
    resampler: tuple[int, int, int, int]  # up (0: none), down, half, taps
    zscore: bool
    flat_std: float


def refusal() -> str:
    """Why no CUDA tensor can be served, or ""."""
    module, reason = _native.load("_cuda")
    return reason if module is None else ""


def run(
    plan: Plan,
    x: Tensor,
    starts: Tensor,
    n: int,
    out: Tensor,
    out_starts: Tensor,
    *,
    scale: Tensor | None = None,
    baseline: Tensor | None = None,
) -> Tensor:
    """As `xecg.signal.kernel.run` on tensors of one device; returns the state of each row (uint8), there too."""
    module, rows, m = native(), len(starts), out.shape[-1]
    state = x.new_empty(rows, dtype=torch.uint8)
    lanes = module.frontend_lanes
    each = module.frontend_warp_scratch(n, m, plan.resampler[0], plan.longest_pad)
    at_once = max(1, _SCRATCH_BYTES // (4 * each)) * lanes
    scratch = x.new_empty(-(-min(rows, at_once) // lanes) * each, dtype=torch.float32)
    arrays = [address(t) for t in plan[:5]]
    with torch.cuda.device_of(x):
        for a in range(0, rows, at_once):
            part = slice(a, min(a + at_once, rows))
            of_rows = [0 if t is None else address(t[part]) for t in (starts, scale, baseline, out_starts, state)]
            module.frontend(
                [part.stop - a, n, m], address(x), x.dtype == torch.int16, of_rows, len(plan.sections), arrays,
                plan.dc, list(plan.resampler), plan.zscore, plan.flat_std, address(out), address(scratch),
                plan.longest_pad, stream_of(x.device),
            )  # fmt: skip
    return state
