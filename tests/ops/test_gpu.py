"""Every op on an NVIDIA GPU against the float64 definition on the CPU (`make gpu-check`). Not yet run on a GPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.ops import gpu_cases
from tests.ops.gpu_cases import SHAPES, case, on, poisoned
from tests.tolerances import FORWARD, STREAM, error
from xecg import ops

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU that torch can use"),
]
GATES = {"mlstm": ("exp", "sig")}
EVERY = [(op, shape) for op, shapes in SHAPES.items() for shape in shapes]


@pytest.fixture(autouse=True)
def _fresh(_seeded: None) -> None:
    seed = gpu_cases.seed()
    print(f"XECG_SEED={seed}")  # shown with a failure
    torch.manual_seed(seed)


def serving(op: str, dtype: torch.dtype = torch.float32, **sizes: int) -> list[str]:
    """Backends that serve such a call on a GPU, the definition included: it too must run there."""
    return [name for name, reason in ops.backends(op, "cuda", dtype, **sizes).items() if not reason]


def serving_shape(op: str, shape: str, dtype: torch.dtype = torch.float32) -> list[str]:
    sizes = SHAPES[op][shape]
    if op == "mlstm":
        return serving(op, dtype, dk=sizes[3], dv=sizes[4])
    named = (
        {"slstm": {"d": sizes[3]}, "linear": {"k": sizes[2], "n": sizes[3]}}
        if len(sizes) > 3
        else {"norm": {"d": sizes[-1]}}
    )
    return serving(op, dtype, **named.get(op, {}))


@pytest.mark.parametrize("op", SHAPES)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [False, True])
def test_every_serving_backend_equals_the_definition(op: str, reverse: bool, lengths: bool) -> None:
    for gate in GATES.get(op, ("exp",)):
        made = case(op, reverse=reverse, lengths=lengths, gate=gate)
        for backend in serving_shape(op, "odd"):
            gpu_cases.judge_float32(made, backend, "cuda")


@pytest.mark.parametrize(("op", "shape"), EVERY)
def test_every_shape_equals_the_definition(op: str, shape: str) -> None:
    for gate in GATES.get(op, ("exp",)):
        made = case(op, shape, reverse=gate == "sig", lengths=gate == "exp", gate=gate)
        for backend in serving_shape(op, shape):
            gpu_cases.judge_float32(made, backend, "cuda")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize(("op", "shape"), EVERY)
def test_short_types_are_as_good_as_rounding(op: str, shape: str, dtype: torch.dtype) -> None:
    for gate in GATES.get(op, ("exp",)):
        made = case(op, shape, reverse=gate == "sig", lengths=gate == "exp", gate=gate)
        for backend in serving_shape(op, shape, dtype):
            gpu_cases.judge_half(made, backend, "cuda", dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("op", ["mlstm", "slstm", "causal_conv1d"])
def test_same_call_same_bits_and_rows_do_not_see_their_order(op: str, dtype: torch.dtype) -> None:
    call, inputs = case(op)
    inputs = {n: t.to(dtype) if n in ("x", "q", "k", "v") else t for n, t in on("cuda", inputs).items()}
    shared = {"R", "b", "weight", "bias"}
    turned = {n: t if n in shared else t.flip(0).contiguous() for n, t in inputs.items()}
    for backend in serving_shape(op, "odd", dtype):
        with torch.no_grad(), ops.use_backend(backend):
            first, again, back = call(**inputs), call(**inputs), call(**turned)
        for a, b, c in zip(first, again, back):
            assert torch.equal(a, b), backend
            assert backend == "reference" or torch.equal(a, c.flip(0)), backend


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("sizes", [(24, 1700, 4, 128), (64, 40, 4, 256)], ids=["long", "short"])
def test_a_row_alone_has_the_bits_that_it_has_among_companions(sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    """Alone, segments of a long row run side by side and value features of a short one have programs of their own."""
    B, T, H, D = sizes
    q, k = (torch.randn(B, T, H, D, device="cuda").abs().to(dtype) for _ in range(2))
    v, given = (torch.randn(B, T, H, D, device="cuda").to(dtype) for _ in range(2))
    every = [q, k, v, torch.randn(B, T, H, device="cuda"), 3 + torch.randn(B, T, H, device="cuda")]

    def results(rows: slice) -> list[Tensor]:
        leaves = [t[rows].detach().requires_grad_() for t in every]
        h, state = ops.mlstm(*leaves, return_state=True)
        return [h, *state, *torch.autograd.grad(h, leaves, given[rows])]

    for backend in serving("mlstm", dtype, dk=D, dv=D):
        if backend == "reference":
            continue
        with ops.use_backend(backend):
            for a, b in zip(results(slice(None)), results(slice(5, 6))):
                assert torch.equal(a[5:6], b), backend


def test_parts_of_a_wider_tensor_need_no_copy() -> None:
    B, T, H, D = 2, 70, 2, 32
    q, k, v = torch.randn(B, T, H, 3 * D, device="cuda").abs().split(D, -1)
    i, f = torch.randn(B, T, 2, H, device="cuda").unbind(2)
    for backend in serving("mlstm", dk=D, dv=D):
        with ops.use_backend(backend):
            found, plain = ops.mlstm(q, k, v, i, f), ops.mlstm(*(t.contiguous() for t in (q, k, v, i, f)))
        assert error(found, plain) <= FORWARD, backend


def _steps(op: str) -> tuple[list[Tensor], list[Tensor], int]:
    """Inputs of 20 steps, an empty state, and where among the inputs the sequences end."""
    B, T, H, D = 3, 20, 2, 64
    if op == "mlstm":
        q, k = (torch.randn(B, T, H, D).abs() for _ in range(2))
        given = [q, k, torch.randn(B, T, H, D), torch.randn(B, T, H), 3 + torch.randn(B, T, H)]
        state = [torch.zeros(B, H, D, D), torch.zeros(B, H, D), torch.full((B, H), torch.finfo(torch.float32).min)]
        return given, state, 5
    if op == "slstm":
        given = [torch.randn(B, T, 4, H, D), torch.randn(4, H, D, D) / D**0.5, torch.randn(4, H, D)]
        return given, [torch.zeros(B, H, D) for _ in range(4)], 1
    return [torch.randn(B, T, D), torch.randn(D, 4), torch.randn(D)], [torch.zeros(B, 3, D)], 1


def _step(op: str, given: list[Tensor], state: list[Tensor], out: Tensor) -> None:
    if op == "causal_conv1d":
        ops.causal_conv1d_step_(*given, state[0], out=out)
    else:
        {"mlstm": ops.mlstm_step_, "slstm": ops.slstm_step_}[op](*given, tuple(state), out=out)  # type: ignore[operator]


@pytest.mark.parametrize("op", ["mlstm", "slstm", "causal_conv1d"])
def test_steps_equal_the_sequence_and_stay_inside_their_buffers(op: str) -> None:
    given, state, sequences = _steps(op)
    with ops.use_backend("reference"):
        expected = {"mlstm": ops.mlstm, "slstm": ops.slstm, "causal_conv1d": ops.causal_conv1d}[op](
            *(t.double() for t in given)
        )
    assert isinstance(expected, Tensor)
    there = [t.cuda() for t in given]
    shape = expected[:, 0].shape
    size, band = shape.numel(), 4096
    for backend in serving(op):
        banded = torch.full((size + 2 * band,), 123.0, device="cuda")
        out = banded[band : band + size].view(shape)
        mine = [t.clone().cuda() for t in state]
        found = []
        with ops.use_backend(backend), poisoned():
            for t in range(expected.shape[1]):
                _step(op, [*(x[:, t].contiguous() for x in there[:sequences]), *there[sequences:]], mine, out)
                found.append(out.clone())
        assert error(torch.stack(found, 1).cpu(), expected) <= STREAM, backend
        assert (banded[:band] == 123).all() and (banded[-band:] == 123).all(), f"{backend} wrote outside its output"


@pytest.mark.parametrize("op", ["mlstm", "slstm", "causal_conv1d"])
def test_a_step_can_be_captured_in_a_cuda_graph(op: str) -> None:
    given, state, sequences = _steps(op)
    one = [*(t[:, 0].contiguous().cuda() for t in given[:sequences]), *(t.cuda() for t in given[sequences:])]
    for backend in serving(op):
        if backend == "reference":
            continue
        with ops.use_backend(backend):
            mine, plain = ([t.clone().cuda() for t in state] for _ in range(2))
            out = torch.empty(one[0].shape if op != "slstm" else one[0][:, 0].shape, device="cuda")
            _step(op, one, mine, out)
            for held, start in zip(mine, state):
                held.copy_(start)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                _step(op, one, mine, out)
            for held, start in zip(mine, state):
                held.copy_(start)
            graph.replay()
            expected = torch.empty_like(out)
            _step(op, one, plain, expected)
        assert torch.equal(out, expected), backend
        for a, b in zip(mine, plain):
            assert torch.equal(a, b), backend


def test_small_calls_for_the_memory_checkers() -> None:
    """What compute-sanitizer runs: each op once forward and backward on small, uneven sizes, both directions."""
    for op in SHAPES:
        shape = "blocks" if op == "linear" else "odd"
        for backend in serving_shape(op, shape):
            if backend != "reference":
                gpu_cases.judge_float32(case(op, shape, reverse=True, lengths=True), backend, "cuda")
