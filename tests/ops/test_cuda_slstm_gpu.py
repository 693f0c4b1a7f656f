"""The CUDA sLSTM on an NVIDIA GPU: each kernel of its plan against the float64 definition on the CPU. Not yet run on a GPU."""

from __future__ import annotations

import pytest
import torch

from tests.ops.harness import random_like, run
from tests.ops.test_cuda_slstm import assert_half, half
from tests.ops.test_slstm import STATE, inputs, slstm
from tests.tolerances import FORWARD, GRADIENT, error
from xecg import ops

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU that torch can use"),
]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("shape", [(5, 9, 2, 20), (9, 40, 2, 64), (33, 40, 4, 128), (20, 40, 2, 160), (9, 7, 1, 300)])
def test_float32(reverse: bool, shape: tuple[int, ...]) -> None:
    made, call = inputs(*shape, lengths=True), slstm(reverse=reverse)
    weights = random_like(call, made)
    wide = {n: t.double() if t.is_floating_point() else t for n, t in made.items()}
    expected, expected_gradients = run(call, wide, "reference", weights)
    found, gradients = run(call, {n: t.cuda() for n, t in made.items()}, "cuda", [w.cuda() for w in weights])
    for f, e in zip(found, expected):
        assert error(f.cpu(), e) <= FORWARD
    for name, gradient in gradients.items():
        assert error(gradient.cpu(), expected_gradients[name]) <= GRADIENT, name


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("weights", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    "shape",
    [(5, 9, 2, 20), (9, 40, 2, 64), (33, 40, 4, 128), (9, 40, 1, 160), (9, 40, 4, 256), (170, 5, 4, 256), (600, 3, 4, 256)],
)  # fmt: skip
def test_bfloat16(reverse: bool, weights: torch.dtype, shape: tuple[int, ...]) -> None:
    assert_half(half(inputs(*shape, lengths=True), weights=weights), reverse=reverse, device="cuda")


@pytest.mark.parametrize("D", [64, 128, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bits_ignore_batch_companions_and_are_the_same_again(dtype: torch.dtype, D: int) -> None:
    made = inputs(300, 20, 4, D)
    x, R, b = (made[n].to("cuda", dtype) for n in ("x", "R", "b"))
    with ops.use_backend("cuda"):
        h = ops.slstm(x, R, b)
        assert torch.equal(h, ops.slstm(x, R, b)) and torch.equal(h[5:8], ops.slstm(x[5:8], R, b))


@pytest.mark.parametrize("D", [32, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_captured_step_equals_the_sequence(dtype: torch.dtype, D: int) -> None:
    made = inputs(7, 6, 2, D)
    x, R, b = (made[n].to("cuda", dtype) for n in ("x", "R", "b"))
    first, out, now = [made[s].cuda() for s in STATE], x.new_empty(7, 2, D), x[:, 0].clone()
    state = ops.SLSTMState(*(s.clone() for s in first))
    with ops.use_backend("cuda"):
        whole, final = ops.slstm(x, R, b, initial_state=tuple(first), return_state=True)
        ops.slstm_step_(now, R, b, state, out=out)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            ops.slstm_step_(now, R, b, state, out=out)
        for s, f in zip(state, first):
            s.copy_(f)
        for t in range(6):
            now.copy_(x[:, t])
            graph.replay()
            assert error(out, whole[:, t]) <= (FORWARD if dtype == torch.float32 else torch.finfo(dtype).eps)
    for s, f in zip(state, final):
        assert error(s, f) <= (FORWARD if dtype == torch.float32 else torch.finfo(dtype).eps / 2)
