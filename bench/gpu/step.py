"""A step of live streams as a CUDA graph: `tiny-causal`, one stream and 1,024 of them, beside plain steps. Not yet run on a GPU.

The floor is each state read and written once; a step of one stream is nothing but launches.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from bench.gpu_checks import serving
from bench.harness import Bench
from xecg.model import XECG, XECGConfig
from xecg.model.captured import CapturedStep

__all__ = ["Streams", "entries"]

_STEPS = 3  # of the check
_ERROR = 1e-4  # of the largest entry, against one call over all steps


class Streams:
    """`batch` streams of a model with random weights, made at the first call."""

    def __init__(self, config: XECGConfig, batch: int, device: str) -> None:
        self.batch, self.device, self._config = batch, device, config
        self.model = cache(self._model)
        self.graph = cache(self._graph)
        self.state = cache(lambda: self.model().initial_state(batch))
        self.patch = cache(lambda: torch.randn(batch, config.leads, config.patch, device=device))

    def _model(self) -> XECG:
        return XECG(self._config).eval().requires_grad_(False).to(self.device)

    def _graph(self) -> CapturedStep:
        return self.model().captured_step(self.batch)

    def run(self) -> Tensor:
        """One step by the graph."""
        return self.graph()(self.patch())

    def plain(self) -> Tensor:
        """One step, a launch a kernel."""
        return self.model().step_(self.patch(), self.state())

    def check(self) -> None:
        """Steps from the empty state give the tokens that one call over all of them gives."""
        model, graph = self.model(), self.graph()
        x = torch.randn(self.batch, self._config.leads, _STEPS * self._config.patch, device=self.device)
        for name, t in model.initial_state(self.batch).items():
            graph.state[name].copy_(t)
        found = torch.stack([graph(patch).clone() for patch in x.split(self._config.patch, -1)], 1)
        expected = model.encode(x)
        error = float((found - expected).abs().max() / expected.abs().max())
        if not error <= _ERROR:
            raise AssertionError(f"steps are off by {error:.1e} of the largest entry; needed {_ERROR}")


def _entry(streams: Streams, bar: float, aim: float) -> Bench:
    with torch.device("meta"):
        state = XECG(XECGConfig.preset("tiny-causal")).initial_state(streams.batch)
    return Bench(
        id=f"step.tiny-causal.{streams.batch}.graph",
        op="step",
        shape=f"{streams.batch} streams",
        dtype="float32",
        run=streams.run,
        check=streams.check,
        makers={"xecg plain": lambda: streams.plain},
        bytes=2.0 * sum(t.numel() * t.element_size() for t in state.values()),
        score="ratio",
        bar=bar,
        aim=aim,
        device="cuda",
        backend=serving(torch.float32),
        turn=1,
    )


def entries() -> list[Bench]:
    """One stream, where launches are all there is, and many."""
    config = XECGConfig.preset("tiny-causal")
    return [_entry(Streams(config, 1, "cuda"), 2.0, 5.0), _entry(Streams(config, 1024, "cuda"), 1.0, 2.0)]
