"""`base` encoding 10-s ECGs in bfloat16: 512 of them against the rate of matrix products, compiled, and few of them as a CUDA graph.

Not yet run on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from bench.floors import BASE_FLOPS
from bench.gpu_checks import serving
from bench.harness import Bench
from xecg.model import XECG, XECGConfig

__all__ = ["Job", "entries"]

_SAMPLES = 1000
_COSINE = 0.999  # of tokens to those of float32
WAYS = ("plain", "compiled", "graph")


class Job:
    """Encoding one batch in one of `WAYS`, made at the first call; compiler: torch.compile's backend."""

    def __init__(
        self, config: XECGConfig, batch: int, samples: int, device: str, *, compiler: str = "inductor"
    ) -> None:
        self.batch, self.samples, self.device, self._config, self._compiler = batch, samples, device, config, compiler
        self.model = cache(self._model)
        self.records = cache(self._records)
        self.way = cache(self._way)

    def _model(self) -> XECG:
        model = XECG(self._config).eval().requires_grad_(False)
        generator = torch.Generator().manual_seed(0)
        for parameter in model.parameters():  # some start at 0, and what they multiply would not be seen
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
        return model.to(self.device)

    def _records(self) -> Tensor:
        return torch.randn(self.batch, self._config.leads, self.samples, device=self.device)

    def _way(self, name: str) -> Callable[[Tensor], Tensor]:
        model = self.model()
        if name == "graph":
            return model.captured(self.batch, self.samples, precision="bfloat16")
        encode: Callable[[Tensor], Tensor] = model.encode
        if name == "compiled":
            encode = torch.compile(encode, fullgraph=True, backend=self._compiler)

        def run(x: Tensor) -> Tensor:
            with torch.no_grad(), torch.autocast(torch.device(self.device).type, dtype=torch.bfloat16):
                return encode(x)

        return run

    def run(self, way: str) -> Tensor:
        """Tokens of the batch."""
        return self.way(way)(self.records())

    def check(self, way: str) -> None:
        """The tokens of the first and the last record point where those of the float32 model point, for a second batch, too."""
        few = [0, self.batch - 1]
        for x in (self.records().flip(0), self.records()):
            with torch.no_grad():
                expected = self.model().encode(x[few])
            found = self.way(way)(x)[few].float()
            cosine = float(torch.nn.functional.cosine_similarity(found, expected, dim=-1).min())
            if not cosine >= _COSINE:
                raise AssertionError(f"cosine to float32 is {cosine:.5f}; needed {_COSINE}")


def _entry(job: Job, way: str, *, score: str, bar: float, aim: float, turn: int) -> Bench:
    peers: dict[str, Callable[[], Callable[[], object]]] = {}
    if way != "plain":
        peers["xecg plain"] = lambda: lambda: job.run("plain")
    with torch.device("meta"):
        weights = 2.0 * sum(p.numel() for p in XECG(XECGConfig.preset("base")).parameters())
    return Bench(
        id=f"encode.base.{job.batch}.{way}",
        op="encode",
        shape=f"{job.batch}x12x{job.samples}",
        dtype="bfloat16",
        run=lambda: job.run(way),
        check=lambda: job.check(way),
        makers=peers,
        flops=BASE_FLOPS * job.batch,
        bytes=weights if way == "graph" else 0.0,
        bound="floor",
        score=score,
        bar=bar,
        aim=aim,
        device="cuda",
        backend=serving(torch.bfloat16),
        turn=turn,
    )


def entries() -> list[Bench]:
    """The whole encoder, front end excluded. What compiles for a minute comes last."""
    base = XECGConfig.preset("base")
    many, one, eight = (Job(base, batch, _SAMPLES, "cuda") for batch in (512, 1, 8))
    return [
        _entry(many, "plain", score="ceiling", bar=0.30, aim=0.45, turn=0),
        _entry(one, "graph", score="ratio", bar=1.0, aim=3.0, turn=1),
        _entry(eight, "graph", score="ratio", bar=1.0, aim=2.0, turn=1),
        _entry(many, "compiled", score="ratio", bar=1.0, aim=1.2, turn=3),
    ]
