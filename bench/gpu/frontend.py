"""The front end on a GPU: counts of 4,096 twelve-lead records of 10 s to a model's input, against the bytes. Not yet run on a GPU."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from bench.floors import frontend as work
from bench.harness import Bench
from xecg.ops.cuda.frontend import refusal
from xecg.signal import STANDARD_LEADS, ECGFrontend

__all__ = ["entries"]

_RECORDS, _LEADS, _N, _M = 4096, 12, 5000, 1000
_GAIN = 1000.0


@cache
def _frontend() -> ECGFrontend:
    return ECGFrontend("poly", in_rate=500.0, leads=STANDARD_LEADS)


@cache
def _counts() -> Tensor:
    g = torch.Generator("cuda").manual_seed(0)
    steps = torch.randint(-20, 21, (_RECORDS, _LEADS, _N), generator=g, device="cuda", dtype=torch.int16)
    return steps.cumsum(-1, dtype=torch.int16)


def _run() -> tuple[Tensor, Tensor]:
    return _frontend().apply_tensor(_counts(), gain=_GAIN)


def _right() -> None:
    """The first and the last record as the host makes them."""
    rows = [0, _RECORDS - 1]
    expected = _frontend().apply(_counts()[rows].cpu().numpy(), gain=_GAIN)
    x, mask = (t[rows].cpu().numpy() for t in _run())
    difference = float(np.abs(x - expected.x).max())
    if not (difference <= 1e-4 and np.array_equal(mask, expected.mask)):
        raise AssertionError(f"off by {difference:.2e} z-units; needed 1e-4")


def entries() -> list[Bench]:
    """Preset `poly`; the floor writes bfloat16, as an encoder reads it, the kernel float32."""
    return [
        Bench(
            id=f"frontend.{_RECORDS}x{_LEADS}x{_N}.counts",
            op="frontend",
            shape=f"{_RECORDS}x{_LEADS}x{_N}@500",
            dtype="int16",
            run=_run,
            check=_right,
            bytes=work(_RECORDS, _LEADS, _N, _M).bytes,
            score="ceiling",
            bar=1 / 3,
            aim=1 / 1.5,
            device="cuda",
            backend="host" if refusal() else "cuda",
        )
    ]
