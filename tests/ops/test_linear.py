"""linear: right, and the same bits for a row whatever stands beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.ops.harness import assert_half_parity, assert_parity, fast_backends, rerun_under_isa
from tests.tolerances import FORWARD, GRADIENT, error
from xecg import ops
from xecg.errors import BackendError, ShapeError

BACKENDS = fast_backends("linear")


def call(x: Tensor, weight: Tensor, **rest: Tensor) -> tuple[Tensor]:
    return (ops.linear(x, weight, rest.get("bias")),)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (3, 5, 7), (4, 16, 64), (9, 33, 130), (0, 4, 4), (2, 3, 0), (70, 128, 128)]
)
def test_parity_of_output_and_gradients(backend: str, bias: bool, shape: tuple[int, int, int]) -> None:
    rows, N, K = shape
    made = {"x": torch.randn(rows, K), "weight": torch.randn(N, K)}
    if bias:
        made["bias"] = torch.randn(N)
    assert_parity(call, made, backend, forward=FORWARD, gradient=GRADIENT)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1), (3, 4, 5, 7), (9, 16, 4, 4), (130, 7, 4, 4), (67, 300, 4, 4), (5, 4, 33, 130), (0, 2, 4, 4)]
)
def test_parity_of_a_block_diagonal_map(backend: str, shape: tuple[int, ...]) -> None:
    rows, G, N, K = shape
    made = {"x": torch.randn(rows, G, K), "weight": torch.randn(G, N, K), "bias": torch.randn(G, N)}
    assert_parity(call, made, backend, forward=FORWARD, gradient=GRADIENT)
    with ops.use_backend(backend):
        y = ops.linear(made["x"], made["weight"])
        for g in range(G):
            apart = ops.linear(made["x"][:, g], made["weight"][g])
            assert error(y[:, g], apart) <= FORWARD


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    "shape", [(5, 33, 130), (9, 16, 4, 4), (1, 16, 32), (3, 40, 257), (33, 65, 1000), (70, 31, 512), (0, 32, 32), (130, 2, 48, 96)]
)  # fmt: skip
def test_parity_of_bfloat16(backend: str, bias: bool, shape: tuple[int, ...]) -> None:
    made = {"x": torch.randn(shape[0], *shape[1:-2], shape[-1]), "weight": torch.randn(shape[1:])}
    if bias:
        made["bias"] = torch.randn(shape[1:-1])
    if shape[0]:
        assert_half_parity(call, made, backend, torch.bfloat16)
    with ops.use_backend(backend):  # strided rows, and weights in float32 beside bfloat16
        x, weight = made["x"].bfloat16(), made["weight"].bfloat16()
        spread = torch.zeros(*x.shape[:-1], x.shape[-1] + 3, dtype=torch.bfloat16)[..., : x.shape[-1]].copy_(x)
        y = ops.linear(x, weight)
        assert torch.equal(ops.linear(spread, weight), y)
        assert torch.allclose(ops.linear(x, weight.float()).float(), y.float(), rtol=0.02, atol=0.02)


@pytest.mark.skipif("cpu" not in BACKENDS, reason="the CPU module is not built")
@pytest.mark.parametrize("shape", [(16, 32), (37, 100), (64, 256), (70, 1100), (33, 300)])
def test_parity_of_a_bfloat16_row_is_to_the_bit_alone_in_any_batch_position_and_thread_count(
    shape: tuple[int, int],
) -> None:
    from xecg import _cpu

    weight, bias, x = (torch.randn(s).bfloat16() for s in (shape, shape[:1], (1500, shape[1])))
    x[300, 0], x[301, 1] = torch.inf, torch.nan
    with ops.use_backend("cpu"):
        whole = ops.linear(x, weight, bias)
        assert whole[:300].isfinite().all() and whole[302:].isfinite().all() and whole[301].isnan().all()
        for rows in (1, 2, 15, 16, 17, 33, 250):
            for first in (0, 7, 1500 - rows):
                assert torch.equal(ops.linear(x[first : first + rows], weight, bias), whole[first : first + rows])
        order = torch.cat([torch.randperm(300), torch.arange(302, 1500)])
        assert torch.equal(ops.linear(x[order], weight, bias), whole[order])
        _cpu.set_num_threads(3)
        try:
            assert torch.equal(ops.linear(x[order], weight, bias), whole[order])
        finally:
            _cpu.set_num_threads(0)


@pytest.mark.skipif("cpu" not in BACKENDS, reason="the CPU module is not built")
def test_parity_of_tiny_blocks_is_to_the_bit_in_any_batch() -> None:
    x, weight = torch.randn(70, 40, 4), torch.randn(40, 4, 4)
    with ops.use_backend("cpu"):
        whole = ops.linear(x, weight)
        for rows in (1, 2, 63, 64, 65):
            assert torch.equal(ops.linear(x[-rows:], weight), whole[-rows:])


@pytest.mark.skipif("cpu" not in BACKENDS, reason="the CPU module is not built")
@pytest.mark.parametrize("K", [1, 16, 25, 100, 300])
def test_parity_of_a_row_is_to_the_bit_alone_in_any_batch_and_position(K: int) -> None:
    weight, bias = torch.randn(37, K), torch.randn(37)
    x = torch.randn(64, K)
    with ops.use_backend("cpu"):
        whole = ops.linear(x, weight, bias)
        for rows in (1, 2, 3, 5, 64):
            for first in (0, 7, 64 - rows):
                part = x[first : first + rows]
                assert torch.equal(ops.linear(part, weight, bias)[0], whole[min(first, 63)])
        assert torch.equal(ops.linear(x[torch.randperm(64)][:, None], weight, bias).sort(0)[0][:, 0], whole.sort(0)[0])


@pytest.mark.skipif("cpu" not in BACKENDS, reason="the CPU module is not built")
def test_bits_ignore_threads() -> None:
    from xecg import _cpu

    x, weight = torch.randn(200, 256), torch.randn(512, 256)
    with ops.use_backend("cpu"):
        one = ops.linear(x, weight)
        _cpu.set_num_threads(3)
        try:
            assert torch.equal(ops.linear(x, weight), one)
        finally:
            _cpu.set_num_threads(0)


@pytest.mark.parametrize("isa", ["base", "avx2", "avx512"])
def test_isa_levels_below_the_best_pass_the_same_tests(isa: str) -> None:
    rerun_under_isa(str(Path(__file__)), isa)


def test_registration_passes_opcheck() -> None:
    x, weight, bias = torch.randn(3, 5, requires_grad=True), torch.randn(4, 5), torch.randn(4)
    torch.library.opcheck(torch.ops.xecg.linear, (x[:, None].detach().requires_grad_(), weight[None], bias[None]))


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ShapeError, match=r"x is of shape \(2, 4\).*ending in \(5,\)"):
        ops.linear(torch.randn(2, 4), torch.randn(3, 5))
    with pytest.raises(ShapeError, match=r"bias is of shape \(2,\)"):
        ops.linear(torch.randn(2, 5), torch.randn(3, 5), torch.randn(2))
    with pytest.raises(ShapeError, match=r"float64|float32"):
        ops.linear(torch.randn(2, 5).double(), torch.randn(3, 5))
    with ops.use_backend("cpu"), pytest.raises(BackendError):
        ops.linear(torch.randn(2, 5).double(), torch.randn(3, 5).double())
