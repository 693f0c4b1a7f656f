"""`base` encoding 512 ECGs of 10 s in bfloat16, against the rate of matrix products. Not yet run on a GPU."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from bench.gpu_checks import served
from bench.harness import Bench
from bench.jobs.encode import BASE_FLOPS
from xecg.model import XECG, XECGConfig

__all__ = ["entries"]

_BATCH, _SAMPLES = 512, 1000


@cache
def _model() -> XECG:
    return XECG(XECGConfig.preset("base")).cuda().eval().requires_grad_(False)


@cache
def _records() -> Tensor:
    return torch.randn(_BATCH, 12, _SAMPLES, device="cuda")


def _run() -> Tensor:
    with torch.autocast("cuda", dtype=torch.bfloat16):
        return _model().encode(_records())


def _right() -> None:
    """Tokens of two records point where those of the float32 model point."""
    few = [0, _BATCH - 1]
    cosine = torch.nn.functional.cosine_similarity(_run()[few].float(), _model().encode(_records()[few]), dim=-1).min()
    if not cosine >= 0.999:
        raise AssertionError(f"cosine to float32 is {float(cosine):.5f}; needed 0.999")


def entries() -> list[Bench]:
    """The whole encoder, front end excluded."""
    return [
        Bench(
            id=f"encode.base.{_BATCH}",
            op="encode",
            shape=f"{_BATCH}x12x{_SAMPLES}",
            dtype="bfloat16",
            run=_run,
            check=_right,
            flops=BASE_FLOPS * _BATCH,
            bound="gemm",
            score="ceiling",
            bar=0.30,
            aim=0.45,
            device="cuda",
            backend="+".join(dict.fromkeys(served(op, torch.bfloat16) for op in ("mlstm", "slstm", "causal_conv1d"))),
        )
    ]
