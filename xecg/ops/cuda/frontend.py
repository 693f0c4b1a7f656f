"""The offline front end on NVIDIA GPUs: csrc/cuda/frontend.cu. Not yet run on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from xecg.ops import _dispatch, _native
from xecg.ops._native import address
from xecg.ops.cuda import native, stream_of

__all__ = ["Plan", "refusal", "run"]

_SCRATCH_BYTES = 1 << 31  # of the tiled rows that run at once: 3,000 twelve-lead records of 10 s at 500 Hz


class Plan(NamedTuple):
    """Numbers of a plan (csrc/common/frontend.h): sections, pads int32 (stages,) on the host; the tensors on the device, float32.

    tables: stretch → the scan's tables of all stages (csrc/cuda/frontend_row.cuh), float32 on the host.
    """

    sections: np.ndarray
    pads: np.ndarray
    tables: Callable[[int], np.ndarray]
    coefficients: Tensor
    steady: Tensor
    fir: Tensor
    taps: Tensor  # of `fir`, in the order of rows in shared memory
    dc: float
    resampler: tuple[int, int, int, int]  # up (0: none), down, half, taps
    zscore: bool
    flat_std: float


def refusal() -> str:
    """Why no CUDA tensor is served, or ""."""
    if not _dispatch.unproven().isdisjoint(("cuda", "cuda/frontend")):
        return "no GPU has run this kernel yet; XECG_UNPROVEN=1 picks it"
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
    """As `xecg.signal.kernel.run` on tensors of one device; returns the state of each row (uint8), there too.

    A row that fits into a block's shared memory moves once; longer ones take their passes through device memory.
    """
    module, rows, m = native(), len(starts), out.shape[-1]
    state = x.new_empty(rows, dtype=torch.uint8)
    pad, resampler = int(max(plan.pads, default=0)), list(plan.resampler)

    def call(part: slice) -> Any:
        of_rows = [0 if t is None else address(t[part]) for t in (starts, scale, baseline, out_starts, state)]
        return module.FrontendCall(
            [part.stop - part.start, n, m], address(x), x.dtype == torch.int16, of_rows, len(plan.sections), plan.dc,
            resampler, address(plan.fir), plan.zscore, plan.flat_std, address(out),
        )  # fmt: skip

    with torch.cuda.device_of(x):
        stream = stream_of(x.device)
        shared, stretch = module.frontend_row(n, m, resampler, pad, int(max(plan.sections, default=0)))
        if shared <= module.frontend_shared_bytes() and len(plan.sections) <= module.frontend_most_stages:
            host = (plan.sections, plan.pads, plan.tables(stretch))
            module.frontend_rows(call(slice(0, rows)), *(a.ctypes.data for a in host), address(plan.taps), stream)
            return state
        lanes, each = module.frontend_lanes, module.frontend_warp_scratch(n, m, resampler[0], pad)
        at_once = max(1, _SCRATCH_BYTES // (4 * each)) * lanes
        scratch = x.new_empty(-(-min(rows, at_once) // lanes) * each, dtype=torch.float32)
        arrays = [torch.from_numpy(a).to(x.device) for a in plan[:2]] + [plan.coefficients, plan.steady]
        for a in range(0, rows, at_once):
            part = slice(a, min(a + at_once, rows))
            module.frontend_tiled(call(part), [address(t) for t in arrays], address(scratch), pad, stream)
    return state
