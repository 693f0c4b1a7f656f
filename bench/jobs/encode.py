"""`base` and `tiny` encoding 10-s ECGs: against the time of the model's matrix products alone, and beside the published layers."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor

from bench.floors import BASE_FLOPS
from bench.harness import Bench
from bench.peers import Net1D, published
from xecg import ops
from xecg.model import XECG, XECGConfig, load
from xecg.model.convert import to_official

__all__ = ["entries"]

_SAMPLES = 1000


def _flops(model: XECG, batch: int) -> float:
    """Multiply-adds of the dense maps times two, and of the recurrences, counted from the shapes."""
    if model.config == XECGConfig.preset("base"):
        return BASE_FLOPS * batch
    tokens = batch * _SAMPLES // model.config.patch
    return 2.0 * tokens * sum(p.numel() for p in model.parameters() if p.dim() >= 2 and p.shape[-1] > 4)


def entries() -> list[Bench]:
    """Batch 32, as an archive is embedded; batch 1; the published layers at batch 1, 8 and 32; bfloat16."""
    models = {"base": XECG(XECGConfig.preset("base")), "tiny": load("tiny")}
    made = []
    for name, batch in (("base", 1), ("base", 32), ("tiny", 32)):
        model = models[name].eval().requires_grad_(False)
        made += [_alone(name, model, torch.randn(batch, 12, _SAMPLES), threads) for threads in (1, 2)]
    return [*made, *(_beside_published(models["base"].config) if find_spec("xlstm") else ()), _half(models["base"])]


def _alone(name: str, model: XECG, x: Tensor, threads: int) -> Bench:
    def right() -> None:
        few = x[:2, :, :250]
        with ops.use_backend("reference"):
            expected = model.encode(few)
        torch.testing.assert_close(model.encode(few), expected, rtol=0, atol=1e-4 * float(expected.abs().max()))

    accepted = (name, len(x), threads) == ("base", 32, 2)
    return Bench(
        id=f"encode.{name}.{len(x)}.threads{threads}",
        op="encode",
        shape=f"{len(x)}x12x{_SAMPLES}",
        dtype="float32",
        run=lambda: model.encode(x),
        check=right,
        flops=_flops(model, len(x)),
        bound="gemm",
        score="ceiling",
        bar=0.6 if accepted else None,
        aim=0.78 if accepted else None,
        threads=threads,
    )


def _beside_published(config: XECGConfig) -> list[Bench]:
    """The same weights in the published layers. They are fastest one ECG at a time: the last row does 32 of them in each way."""
    model = XECG(config).requires_grad_(False).eval()
    for parameter in model.parameters():  # some start at 0, and a wrong layout of those would not be seen
        parameter += 0.02 * torch.randn(parameter.shape)
    theirs = published(model.config, context=_SAMPLES // config.patch)
    theirs.load_state_dict(to_official(model, layout="vanilla"))
    theirs = theirs.eval().requires_grad_(False)
    other = Net1D().eval().requires_grad_(False)
    x, long = torch.randn(32, 12, _SAMPLES), torch.randn(32, 12, 5000)

    def right() -> None:
        expected = theirs(x[:3])
        torch.testing.assert_close(model.encode(x[:3]), expected, rtol=0, atol=1e-4 * float(expected.abs().max()))

    def by(size: int) -> Callable[[], object]:
        return lambda: [theirs(part) for part in x.split(size)]

    def row(name: str, batch: int, peers: dict[str, Callable[[], object]], **more: object) -> Bench:
        return Bench(
            id=f"encode.base.{name}",
            op="encode",
            shape=f"{batch}x12x{_SAMPLES}",
            dtype="float32",
            run=lambda: model.encode(x[:batch]),
            check=right,
            peers=peers,
            flops=BASE_FLOPS * batch,
            bound="gemm",
            threads=2,
            **more,  # type: ignore[arg-type]
        )

    made = []
    for batch, bar, aim in ((1, None, None), (8, None, None), (32, 8.0, 10.0)):
        peers = {
            "xlstm": lambda n=batch: theirs(x[:n]),
            "Net1D (another network)": lambda n=batch: other(long[:n]),
        }
        made.append(row(f"{batch}.beside-xlstm", batch, peers, against="xlstm", bar=bar, aim=aim))
    ways = {f"xlstm by {size}": by(size) for size in (1, 8, 32)}
    return [*made, row("32.beside-xlstm-at-its-best", 32, ways, bar=1.6, aim=2.1)]


def _half(model: XECG) -> Bench:
    """`base` under bfloat16 autocast beside its own float32; embeddings must point the same way."""
    x = torch.randn(32, 12, _SAMPLES)

    def half() -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return model.embed(x)

    def right() -> None:
        cosine = torch.nn.functional.cosine_similarity(half().float(), model.embed(x)).min()
        if cosine < 0.999:
            raise AssertionError(f"cosine to float32 is {cosine:.5f}; needed 0.999")

    return Bench(
        id="encode.base.32.threads2.bfloat16",
        op="encode",
        shape=f"32x12x{_SAMPLES}",
        dtype="bfloat16",
        run=half,
        check=right,
        peers={"own float32": lambda: model.embed(x)},
        flops=BASE_FLOPS * 32,
        bound="gemm",
        bar=1.6,
        aim=2.0,
        threads=2,
    )
