"""`base` and `tiny` encoding 10-s ECGs, against the time that the model's matrix products alone would take."""

from __future__ import annotations

import torch

from bench.harness import Bench
from xecg import ops
from xecg.model import XECG, XECGConfig, load

__all__ = ["entries"]

_FLOPS = {"base": 4.609e9, "tiny": None}  # a 10-s ECG, torch's flop counter


def _flops(model: XECG, x: torch.Tensor) -> float:
    """Multiply-adds of the dense maps times two, and of the recurrences, counted from the shapes."""
    tokens = x.shape[0] * x.shape[2] // model.config.patch
    dense = sum(p.numel() for p in model.parameters() if p.dim() >= 2 and p.shape[-1] > 4)
    return 2.0 * dense * tokens


def entries() -> list[Bench]:
    """Batch 32, as an archive is embedded; and batch 1."""
    made = []
    for name, batch in (("base", 1), ("base", 32), ("tiny", 32)):
        model = XECG(XECGConfig.preset("base")) if name == "base" else load(name)
        model = model.eval().requires_grad_(False)
        x = torch.randn(batch, 12, 1000)
        flops = _FLOPS[name] * batch if _FLOPS[name] else _flops(model, x)

        def right(model: XECG = model, x: torch.Tensor = x) -> None:
            few = x[:2, :, :250]
            with ops.use_backend("reference"):
                expected = model.encode(few)
            torch.testing.assert_close(model.encode(few), expected, rtol=0, atol=1e-4 * float(expected.abs().max()))

        for threads in (1, 2):
            made.append(
                Bench(
                    id=f"encode.{name}.{batch}.threads{threads}",
                    op="encode",
                    shape=f"{batch}x12x1000",
                    dtype="float32",
                    run=lambda model=model, x=x: model.encode(x),
                    check=right,
                    flops=flops,
                    bound="gemm",
                    score="ceiling",
                    bar=0.6 if (name, batch, threads) == ("base", 32, 2) else None,
                    aim=0.78 if (name, batch, threads) == ("base", 32, 2) else None,
                    threads=threads,
                )
            )
    return [*made, _half()]


def _half() -> Bench:
    """`base` under bfloat16 autocast beside its own float32; embeddings must point the same way."""
    model = XECG(XECGConfig.preset("base")).eval().requires_grad_(False)
    x = torch.randn(32, 12, 1000)

    def half() -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return model.embed(x)

    def right() -> None:
        cosine = torch.nn.functional.cosine_similarity(half().float(), model.embed(x)).min()
        if cosine < 0.999:
            raise AssertionError(f"cosine to float32 is {cosine:.5f}; needed 0.999")

    return Bench(
        id="encode.base.32.threads2.bfloat16",
        op="encode",
        shape="32x12x1000",
        dtype="bfloat16",
        run=half,
        check=right,
        peers={"own float32": lambda: model.embed(x)},
        flops=_FLOPS["base"] * 32,  # type: ignore[operator]
        bound="gemm",
        bar=1.6,
        aim=2.0,
        threads=2,
    )
