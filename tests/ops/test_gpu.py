"""Every op on an NVIDIA GPU against the float64 definition on the CPU (`make gpu-check`). Not yet run on a GPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.ops.harness import random_like, run
from tests.tolerances import FORWARD, GRADIENT, HALF_RMS_FACTOR, error, rms_error
from xecg import ops

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU that torch can use"),
]

Case = tuple[Callable[..., tuple[Tensor, ...]], dict[str, Tensor]]


def conv(reverse: bool, lengths: bool) -> Case:
    made = {
        "x": torch.randn(3, 300, 70),
        "weight": torch.randn(70, 4),
        "bias": torch.randn(70),
        "state": torch.randn(3, 3, 70),
    }
    if lengths:
        made["lengths"] = torch.tensor([300, 0, 131])

    def call(
        x: Tensor, weight: Tensor, bias: Tensor, state: Tensor, lengths: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        return ops.causal_conv1d(
            x, weight, bias, activation="silu", initial_state=state, lengths=lengths, reverse=reverse, return_state=True
        )  # type: ignore[return-value]

    return call, made


def mlstm(reverse: bool, lengths: bool) -> Case:
    made = {name: torch.randn(2, 130, 2, 24).abs() for name in "qk"} | {"v": torch.randn(2, 130, 2, 40)}
    made |= {"i": torch.randn(2, 130, 2), "f": 3 + torch.randn(2, 130, 2)}
    if lengths:
        made["lengths"] = torch.tensor([130, 57])

    def call(
        q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, lengths: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        h, state = ops.mlstm(q, k, v, i, f, lengths=lengths, reverse=reverse, return_state=True)
        return h, *state  # type: ignore[misc]

    return call, made


def slstm(reverse: bool, lengths: bool) -> Case:
    made = {"x": torch.randn(3, 40, 4, 2, 24), "R": torch.randn(4, 2, 24, 24) / 5, "b": torch.randn(4, 2, 24)}
    if lengths:
        made["lengths"] = torch.tensor([40, 0, 13])

    def call(x: Tensor, R: Tensor, b: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, ...]:
        h, state = ops.slstm(x, R, b, lengths=lengths, reverse=reverse, return_state=True)
        return h, *state  # type: ignore[misc]

    return call, made


def linear(reverse: bool, lengths: bool) -> Case:
    made = {"x": torch.randn(9, 5, 33), "weight": torch.randn(5, 17, 33), "bias": torch.randn(5, 17)}
    return lambda x, weight, bias: (ops.linear(x, weight, bias),), made


def gated(reverse: bool, lengths: bool) -> Case:
    made = {"a": torch.randn(9, 53), "b": torch.randn(9, 53)}
    return lambda a, b: (ops.gated(a, b, activation="gelu"),), made


CASES = {"causal_conv1d": conv, "mlstm": mlstm, "slstm": slstm, "linear": linear, "gated": gated}


def serving(op: str) -> list[str]:
    return [name for name, reason in ops.backends(op, "cuda").items() if not reason]


@pytest.mark.parametrize("op", CASES)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [False, True])
def test_every_serving_backend_equals_the_definition(op: str, reverse: bool, lengths: bool) -> None:
    call, made = CASES[op](reverse, lengths)
    weights = random_like(call, made)
    wide = {n: t.double() if t.is_floating_point() else t for n, t in made.items()}
    expected, expected_grads = run(call, wide, "reference", weights)
    there = {n: t.cuda() for n, t in made.items()}
    for backend in serving(op):
        found, grads = run(call, there, backend, [w.cuda() for w in weights])
        for f, e in zip(found, expected):
            assert error(f.cpu(), e) <= FORWARD, backend
        for name, gradient in grads.items():
            assert error(gradient.cpu(), expected_grads[name]) <= GRADIENT, f"{backend}: {name}"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("op", CASES)
def test_half_precision_is_as_good_as_rounding(op: str, dtype: torch.dtype) -> None:
    call, made = CASES[op](False, False)
    keep = ("state", "i", "f", "b" if op == "slstm" else "", "R" if op == "slstm" else "")
    half = {n: t.to(dtype) if t.is_floating_point() and n not in keep else t for n, t in made.items()}
    with torch.no_grad(), ops.use_backend("reference"):
        exact = call(**{n: t.double() if t.is_floating_point() else t for n, t in half.items()})[0]
    floor = rms_error(exact.to(dtype), exact)
    for backend in serving(op):
        with torch.no_grad(), ops.use_backend(backend):
            found = call(**{n: t.cuda() for n, t in half.items()})[0]
        assert found.dtype == dtype and rms_error(found.cpu(), exact) <= HALF_RMS_FACTOR * floor, backend


def test_a_step_can_be_captured_in_a_cuda_graph() -> None:
    x, w, state, out = (
        t.cuda() for t in (torch.randn(5, 70), torch.randn(70, 4), torch.zeros(5, 3, 70), torch.empty(5, 70))
    )
    ops.causal_conv1d_step_(x, w, None, state, out=out)
    state.zero_()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ops.causal_conv1d_step_(x, w, None, state, out=out)
    state.zero_()
    graph.replay()
    expected, _ = ops.causal_conv1d_step(x, w, None, torch.zeros_like(state))
    assert error(out, expected) <= FORWARD
