"""The batch-invariant linear map beside torch's, which may change a row's bits with the batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

from bench.harness import Bench
from xecg import ops

__all__ = ["entries"]

_SHAPES = ((1, 512, 128), (256, 512, 128), (2000, 128, 256))  # rows, N, K: layers of tiny-causal, one stream and many


def entries() -> list[Bench]:
    """Dense maps in float32 and bfloat16, and the blocks of 4 × 4 of the mLSTM's query, key and value maps of `base` at batch 32."""
    made = []
    for rows, N, K in _SHAPES:
        x, w, b = torch.randn(rows, K), torch.randn(N, K), torch.randn(N)

        def right(x: Tensor = x, w: Tensor = w, b: Tensor = b) -> None:
            torch.testing.assert_close(ops.linear(x, w, b), linear(x, w, b), rtol=0, atol=1e-4)

        made.append(
            Bench(
                id=f"linear.{rows}:{N}:{K}",
                op="linear",
                shape=f"{rows}:{N}:{K}",
                dtype="float32",
                run=lambda x=x, w=w, b=b: ops.linear(x, w, b),
                check=right,
                peers={"torch linear": lambda x=x, w=w, b=b: linear(x, w, b)},
                flops=2.0 * rows * N * K,
                bytes=4.0 * (rows * K + N * K + rows * N),
                bound="gemm",
            )
        )
    made += [_bfloat16(*sizes) for sizes in ((1280, 4096, 1024), (1280, 1024, 4096), (32, 4096, 1024))]
    x, w = torch.randn(1280, 512, 4), torch.randn(512, 4, 4)

    def blocks() -> Tensor:
        return torch.einsum("rgk,gnk->rgn", x, w)

    made.append(
        Bench(
            id="linear.1280:512x4:4",
            op="linear",
            shape="1280:512x4:4",
            dtype="float32",
            run=lambda: ops.linear(x, w),
            check=lambda: torch.testing.assert_close(ops.linear(x, w), blocks(), rtol=0, atol=1e-4),
            peers={"einsum": blocks},
            flops=8.0 * x.numel(),
            bytes=8.0 * x.numel(),
        )
    )
    return made


def _bfloat16(rows: int, N: int, K: int) -> Bench:
    x, w = torch.randn(rows, K).bfloat16(), torch.randn(N, K).bfloat16()

    def right() -> None:
        torch.testing.assert_close(ops.linear(x, w).float(), linear(x, w).float(), rtol=0.01, atol=0.02 * K**0.5)

    return Bench(
        id=f"linear.bfloat16.{rows}:{N}:{K}",
        op="linear",
        shape=f"{rows}:{N}:{K}",
        dtype="bfloat16",
        run=lambda: ops.linear(x, w),
        check=right,
        peers={"torch linear": lambda: linear(x, w)},
        flops=2.0 * rows * N * K,
        bytes=2.0 * (rows * K + N * K + rows * N),
    )
