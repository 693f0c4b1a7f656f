"""causal_conv1d: the definition against golden values and gradcheck, every backend against the definition."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.ops.harness import assert_half_parity, assert_parity, fast_backends, rerun_under_isa
from tests.ops.waves import wave
from tests.tolerances import FORWARD, GOLDEN, GRADIENT
from xecg import ops
from xecg.errors import BackendError, ShapeError, XECGError

OP = "causal_conv1d"
BACKENDS = fast_backends(OP)


def conv(*, activation: str | None = None, reverse: bool = False):
    """The op as a function of tensors only, returning output and state."""

    def call(x: Tensor, weight: Tensor, **rest: Tensor) -> tuple[Tensor, ...]:
        bias, state = rest.get("bias"), rest.get("state")
        return ops.causal_conv1d(
            x, weight, bias, activation=activation, initial_state=state, lengths=rest.get("lengths"), reverse=reverse,
            return_state=True,
        )  # fmt: skip

    return call


def inputs(
    B: int, T: int, C: int, K: int, *, bias: bool = True, state: bool = True, lengths: bool = False
) -> dict[str, Tensor]:
    made = {"x": torch.randn(B, T, C), "weight": torch.randn(C, K)}
    if bias:
        made["bias"] = torch.randn(C)
    if state:
        made["state"] = torch.randn(B, K - 1, C)
    if lengths:
        made["lengths"] = torch.tensor([(7 * b + T // 2) % (T + 1) for b in range(B)], dtype=torch.int64)
    return made


def test_reference_reproduces_the_golden_values() -> None:
    x, w, bias = wave((2, 7, 3), (0.7, 0.3, 0.9), 0.1), wave((3, 4), (0.4, 0.8), 0.2), wave((3,), (0.5,), 0.3)
    y, state = ops.causal_conv1d(x, w, bias, return_state=True)
    assert abs(y.sum() - 74.964456757207) < GOLDEN
    assert abs(y.norm() - 12.815373036478) < GOLDEN
    assert abs(state.sum() - 3.526450886748) < GOLDEN
    first = wave((2, 3, 3), (0.2, 0.4, 0.6), 0.5)
    y = ops.causal_conv1d(x, w, bias, activation="silu", initial_state=first)
    assert abs(y.sum() - 88.269834413588) < GOLDEN
    assert abs(y.norm() - 14.467842052773) < GOLDEN


def test_reference_equals_torch_conv1d() -> None:
    x, w = torch.randn(3, 11, 5, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    expected = torch.nn.functional.conv1d(x.mT, w[:, None], padding=3, groups=5)[..., :11].mT
    assert torch.allclose(ops.causal_conv1d(x, w), expected, rtol=0, atol=GOLDEN)


@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("reverse", [False, True])
def test_reference_gradients_pass_gradcheck(activation: str | None, reverse: bool) -> None:
    made = {n: t.double().requires_grad_() for n, t in inputs(2, 5, 3, 4).items()}
    call = conv(activation=activation, reverse=reverse)

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        return call(**dict(zip(made, tensors)), lengths=torch.tensor([5, 2]))

    assert torch.autograd.gradcheck(function, tuple(made.values()))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize(
    "shape",
    [(2, 7, 3, 4), (1, 1, 16, 4), (3, 2, 33, 4), (2, 40, 64, 4), (2, 300, 17, 4), (4, 9, 20, 3), (2, 5, 6, 1), (1, 3, 5, 7),
     (2, 0, 5, 4), (0, 6, 5, 4), (1, 4, 1, 4), (2, 40, 130, 32)],
)  # fmt: skip
def test_parity_of_output_state_and_all_gradients(
    backend: str, activation: str | None, reverse: bool, lengths: bool, shape: tuple[int, ...]
) -> None:
    made = inputs(*shape, lengths=lengths)
    assert_parity(conv(activation=activation, reverse=reverse), made, backend, forward=FORWARD, gradient=GRADIENT)


@pytest.mark.parametrize("backend", BACKENDS)
def test_parity_without_bias_and_state(backend: str) -> None:
    made = inputs(2, 9, 19, 4, bias=False, state=False)
    assert_parity(conv(activation="silu"), made, backend, forward=FORWARD, gradient=GRADIENT)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(2, 40, 64, 4), (3, 9, 19, 4), (2, 5, 7, 3)])
def test_parity_of_bfloat16(backend: str, shape: tuple[int, ...]) -> None:
    assert_half_parity(conv(activation="silu"), inputs(*shape, state=False, lengths=True), backend, torch.bfloat16)


@pytest.mark.parametrize("backend", BACKENDS)
def test_parity_of_bfloat16_gradients(backend: str) -> None:
    made = inputs(2, 40, 19, 4, state=False)
    half = {n: t.bfloat16() for n, t in made.items()}
    leaves = [t.clone().requires_grad_() for t in half.values()]
    wide = [t.double().requires_grad_() for t in half.values()]
    with ops.use_backend(backend):
        ops.causal_conv1d(*leaves, activation="silu").float().sum().backward()
    with ops.use_backend("reference"):
        ops.causal_conv1d(*wide, activation="silu").sum().backward()
    for leaf, exact in zip(leaves, wide):
        assert leaf.grad.dtype == torch.bfloat16
        bound = 2 * (exact.grad.bfloat16().double() - exact.grad).abs().max() + GRADIENT * exact.grad.abs().max()
        assert (leaf.grad.double() - exact.grad).abs().max() <= bound


@pytest.mark.parametrize("isa", ["base", "avx2"])
def test_isa_levels_below_the_best_pass_the_same_tests(isa: str) -> None:
    rerun_under_isa(str(Path(__file__)), isa)


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_parity_of_strided_views(backend: str) -> None:
    wide = torch.randn(2, 9, 40)
    view, w = wide[..., 5:24], torch.randn(19, 4)
    swapped = torch.randn(9, 2, 19).transpose(0, 1)
    with ops.use_backend(backend):
        assert torch.equal(ops.causal_conv1d(view, w), ops.causal_conv1d(view.contiguous(), w))
        assert torch.equal(ops.causal_conv1d(swapped, w), ops.causal_conv1d(swapped.contiguous(), w))


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_padding_never_enters_output_state_or_gradient(backend: str) -> None:
    x, w, lengths = torch.randn(2, 6, 5), torch.randn(5, 4), torch.tensor([4, 0])
    for reverse in (False, True):
        garbage = x.clone()
        garbage[0, 4:], garbage[1] = float("nan"), float("nan")
        garbage.requires_grad_()
        with ops.use_backend(backend):
            y, state = ops.causal_conv1d(garbage, w, lengths=lengths, reverse=reverse, return_state=True)
            alone = ops.causal_conv1d(x[:1, :4], w, reverse=reverse)
            (y.sum() + state.sum()).backward()
        assert torch.equal(y[:1, :4], alone) and not y[0, 4:].any() and not y[1].any()
        assert not state[1].any() and not garbage.grad[0, 4:].any() and not garbage.grad[1].any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_bits_ignore_threads_batch_companions_and_cuts(backend: str) -> None:
    x, w, bias = torch.randn(5, 200, 70), torch.randn(70, 4), torch.randn(70)
    with ops.use_backend(backend):
        y = ops.causal_conv1d(x, w, bias, activation="silu")
        assert torch.equal(y[2:3], ops.causal_conv1d(x[2:3], w, bias, activation="silu"))
        head, state = ops.causal_conv1d(x[:, :77], w, bias, activation="silu", return_state=True)
        tail = ops.causal_conv1d(x[:, 77:], w, bias, activation="silu", initial_state=state)
        assert torch.equal(torch.cat([head, tail], 1), y)
        if backend == "cpu":
            from xecg import _cpu

            _cpu.set_num_threads(3)
            try:
                assert torch.equal(ops.causal_conv1d(x, w, bias, activation="silu"), y)
            finally:
                _cpu.set_num_threads(0)


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_steps_equal_the_sequence(backend: str) -> None:
    x, w, bias = torch.randn(2, 9, 19), torch.randn(19, 4), torch.randn(19)
    with ops.use_backend(backend):
        whole, final = ops.causal_conv1d(x, w, bias, activation="silu", return_state=True)
        state, in_place = torch.zeros(2, 3, 19), torch.zeros(2, 3, 19)
        out = torch.empty(2, 19)
        for t in range(9):
            y, state = ops.causal_conv1d_step(x[:, t], w, bias, state, activation="silu")
            assert ops.causal_conv1d_step_(x[:, t], w, bias, in_place, activation="silu", out=out) is out
            assert torch.equal(y, out)
            assert torch.allclose(y, whole[:, t], rtol=0, atol=FORWARD)
        assert torch.equal(state, final) and torch.equal(in_place, final)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_registration_passes_opcheck(dtype: torch.dtype) -> None:
    made = {n: t.to(dtype) for n, t in inputs(2, 6, 5, 4).items()}
    args = (
        made["x"].requires_grad_(),
        made["weight"],
        made["bias"],
        made["state"].to(_wide(dtype)),
        torch.tensor([6, 3]),
    )
    torch.library.opcheck(torch.ops.xecg.causal_conv1d, (*args, True, False))
    torch.library.opcheck(torch.ops.xecg.causal_conv1d, (args[0], args[1], None, None, None, False, True))
    step = (
        made["x"][:, 0].detach(),
        made["weight"],
        made["bias"],
        made["state"].to(_wide(dtype)),
        torch.zeros(2, 5, dtype=dtype),
    )
    torch.library.opcheck(
        torch.ops.xecg.causal_conv1d_step_, (*step, True), test_utils=("test_schema", "test_faketensor")
    )


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


@pytest.mark.slow
def test_compiles_without_a_graph_break() -> None:
    @torch.compile(fullgraph=True)
    def compiled(x: Tensor, w: Tensor, lengths: Tensor) -> Tensor:
        return ops.causal_conv1d(2 * x, w, activation="silu", lengths=lengths).sin()

    x, w, lengths = torch.randn(2, 9, 19, requires_grad=True), torch.randn(19, 4), torch.tensor([9, 4])
    plain = ops.causal_conv1d(2 * x, w, activation="silu", lengths=lengths).sin()
    (expected,) = torch.autograd.grad(plain.sum(), x)
    y = compiled(x, w, lengths)
    (found,) = torch.autograd.grad(y.sum(), x)
    assert torch.allclose(y, plain, atol=FORWARD) and torch.allclose(found, expected, atol=GRADIENT)


def test_second_derivatives_are_refused() -> None:
    x, w = torch.randn(1, 4, 3, requires_grad=True), torch.randn(3, 4)
    (g,) = torch.autograd.grad(ops.causal_conv1d(x, w, activation="silu").sum(), x, create_graph=True)
    with pytest.raises(XECGError, match="second derivatives"):
        g.sum().backward()


def test_autocast_mixes_half_activations_with_float32_weights() -> None:
    x, w = torch.randn(2, 9, 19).bfloat16(), torch.randn(19, 4, requires_grad=True)
    y = ops.causal_conv1d(x, w)
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16 and w.grad.dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        ({"x": torch.randn(2, 6)}, ["x", "(2, 6)", "(B, T, C)"]),
        ({"x": torch.zeros(2, 6, 5, dtype=torch.int32)}, ["x", "int32", "float32"]),
        ({"x": torch.randn(2, 5, 6).transpose(1, 2)}, ["x", "contiguous"]),
        ({"weight": torch.randn(4, 4)}, ["weight", "(4, 4)", "(5, 4)"]),
        ({"weight": torch.randn(5, 4).double()}, ["weight", "float64", "float32"]),
        ({"bias": torch.randn(4)}, ["bias", "(4,)", "(5,)"]),
        ({"activation": "relu"}, ["activation", "relu", "silu"]),
        ({"initial_state": torch.randn(2, 4, 5)}, ["initial_state", "(2, 4, 5)", "(2, 3, 5)"]),
        ({"lengths": torch.tensor([7, 1])}, ["lengths", "7", "6"]),
        ({"lengths": torch.tensor([-1, 1])}, ["lengths", "-1"]),
        ({"lengths": torch.tensor([1.0, 1.0])}, ["lengths", "float32", "integer"]),
        ({"lengths": torch.tensor([1])}, ["lengths", "(1,)", "(2,)"]),
    ],
)
def test_bad_arguments_are_named(change: dict, facts: list[str]) -> None:
    call = {"x": torch.randn(2, 6, 5), "weight": torch.randn(5, 4), **change}
    with pytest.raises(ShapeError) as caught:
        ops.causal_conv1d(call.pop("x"), call.pop("weight"), **call)
    for fact in facts:
        assert fact in str(caught.value)


def test_a_forced_backend_that_cannot_serve_says_why() -> None:
    x, w = torch.randn(1, 4, 3, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    with ops.use_backend("cpu"), pytest.raises(BackendError, match=r"float64|not built"):
        ops.causal_conv1d(x, w)
    with ops.use_backend("triton"), pytest.raises(BackendError, match="no triton kernel"):
        ops.causal_conv1d(x, w)
    with pytest.raises(BackendError, match="needed one of"), ops.use_backend("gpu"):
        pass
