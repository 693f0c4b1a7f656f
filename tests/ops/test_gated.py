"""gated: right, differentiable, and the same bits for an element wherever it stands."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.functional import gelu, silu

from tests.ops.harness import Call, assert_half_parity, assert_parity, fast_backends, rerun_under_isa
from tests.tolerances import FLOAT64, FORWARD, GRADIENT, error
from xecg import ops
from xecg.errors import ShapeError

BACKENDS = fast_backends("gated")
PLAIN = {"silu": silu, "gelu": gelu}


def call(activation: str) -> Call:
    return lambda a, b: (ops.gated(a, b, activation=activation),)


@pytest.mark.parametrize("activation", PLAIN)
def test_reference_equals_torch_and_passes_gradcheck(activation: str) -> None:
    a, b = (torch.randn(4, 9, dtype=torch.float64, requires_grad=True) for _ in "ab")
    assert error(ops.gated(a, b, activation=activation), PLAIN[activation](a) * b) <= FLOAT64
    assert torch.autograd.gradcheck(lambda *t: call(activation)(*t)[0], (a, b))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("activation", PLAIN)
@pytest.mark.parametrize("shape", [(1, 1), (3, 17), (5, 64), (2, 3, 130), (0, 4), (4, 0), (7,)])
@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_parity_of_output_and_gradients(backend: str, activation: str, shape: tuple[int, ...], scale: float) -> None:
    made = {"a": scale * torch.randn(shape), "b": torch.randn(shape)}
    assert_parity(call(activation), made, backend, forward=FORWARD, gradient=GRADIENT)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("activation", PLAIN)
def test_parity_of_bfloat16(backend: str, activation: str) -> None:
    assert_half_parity(call(activation), {"a": torch.randn(9, 40), "b": torch.randn(9, 40)}, backend, torch.bfloat16)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("activation", PLAIN)
def test_parity_at_the_ends_of_the_range(backend: str, activation: str) -> None:
    a = torch.tensor([-1e30, -90.0, -15.0, -1e-30, 0.0, 1e-30, 15.0, 90.0, 1e30, float("nan")])
    with ops.use_backend(backend):
        found = ops.gated(a, torch.ones(10), activation=activation)
    expected = PLAIN[activation](a.double())
    assert found[-1].isnan()
    assert torch.allclose(found[:-1].double(), expected[:-1], rtol=FORWARD, atol=1e-30)


@pytest.mark.skipif("cpu" not in BACKENDS, reason="the CPU module is not built")
@pytest.mark.parametrize("activation", PLAIN)
def test_parity_of_an_element_is_to_the_bit_in_any_place(activation: str) -> None:
    both = torch.randn(6, 2 * 53)
    a, b = both.chunk(2, -1)
    with ops.use_backend("cpu"):
        whole = ops.gated(a, b, activation=activation)
        for rows in (1, 2, 5):
            assert torch.equal(ops.gated(a[:rows], b[:rows], activation=activation), whole[:rows])
        for first, last in ((0, 1), (3, 20), (16, 53)):
            part = ops.gated(a[:, first:last].contiguous(), b[:, first:last].contiguous(), activation=activation)
            assert torch.equal(part, whole[:, first:last])


@pytest.mark.parametrize("isa", ["base", "avx2"])
def test_isa_levels_below_the_best_pass_the_same_tests(isa: str) -> None:
    rerun_under_isa(str(Path(__file__)), isa)


def test_registration_passes_opcheck() -> None:
    a, b = torch.randn(3, 5, requires_grad=True), torch.randn(3, 5, requires_grad=True)
    torch.library.opcheck(torch.ops.xecg.gated, (a, b, True))


def test_bad_arguments_are_named() -> None:
    a = torch.randn(3, 5)
    for bad, fact in (
        ((a, torch.randn(3, 4)), "b is of shape"),
        ((a, a.double()), "float64"),
        ((a.t(), a.t()), "strided"),
    ):
        with pytest.raises(ShapeError, match=fact):
            ops.gated(*bad, activation="silu")
    with pytest.raises(ShapeError, match="relu"):
        ops.gated(a, a, activation="relu")
    with pytest.raises(ShapeError, match="int64"):
        ops.gated(a.long(), a.long(), activation="silu")
