"""slstm: every backend against the float64 definition, and the promises of the public op: states, steps, bits, registration."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.ops.harness import assert_half_parity, assert_parity, fast_backends, rerun_under_isa, run
from tests.ops.waves import wave
from tests.tolerances import FORWARD, FORWARD_EXTREME, GOLDEN, GRADIENT, error
from xecg import ops
from xecg.errors import BackendError, ShapeError, XECGError

OP = "slstm"
BACKENDS = fast_backends(OP)
STATE = ("h", "c", "n", "m")


def slstm(*, reverse: bool = False):
    """The op as a function of tensors only, returning output and state."""

    def call(x: Tensor, R: Tensor, b: Tensor, **rest: Tensor) -> tuple[Tensor, ...]:
        state = tuple(rest[s].to(_wide(x.dtype)) for s in STATE) if "h" in rest else None
        h, final = ops.slstm(
            x, R, b, initial_state=state, lengths=rest.get("lengths"), reverse=reverse, return_state=True
        )
        return h, *final

    return call


def inputs(
    B: int, T: int, H: int, D: int, *, gates: float = 1.0, state: bool = True, lengths: bool = False
) -> dict[str, Tensor]:
    """A contracting recurrence (a chaotic one amplifies rounding without bound); one in five units starts empty."""
    made = {
        "x": gates * torch.randn(B, T, 4, H, D),
        "R": 0.5 * torch.randn(4, H, D, D) / D**0.5,
        "b": torch.randn(4, H, D),
    }
    if state:
        h, c, n, m = (torch.randn(B, H, D) for _ in STATE)
        n = (n.abs() + 0.5) * (torch.rand(B, H, D) > 0.2)
        made |= {"h": h, "c": c, "n": n, "m": gates * m}
    if lengths:
        made["lengths"] = torch.tensor([(7 * b + T // 2) % (T + 1) for b in range(B)], dtype=torch.int64)
    return made


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def test_public_op_reproduces_the_golden_values() -> None:
    x = 2 * wave((2, 9, 4, 2, 3), (0.7, 0.3, 1.1, 0.5, 0.9), 0.1)
    R, b = wave((4, 2, 3, 3), (0.4, 0.6, 0.2, 0.8), 0.2) / 2, wave((4, 2, 3), (0.5, 0.2, 0.9), 0.3)
    h, state = ops.slstm(x, R, b, return_state=True)
    assert abs(h.sum() - -11.345372350278) < GOLDEN and abs(h.norm() - 3.569258698957) < GOLDEN
    assert abs(state.c.norm() - 3.742325261053) < GOLDEN and abs(state.n.norm() - 6.476392301569) < GOLDEN
    assert abs(state.m.sum() - -4.451094689396) < GOLDEN


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1, 1), (2, 7, 2, 3), (3, 2, 1, 16), (2, 33, 2, 33), (17, 9, 3, 20), (33, 5, 2, 32), (5, 40, 4, 64), (1, 70, 1, 48),
     (16, 3, 1, 100), (2, 3, 1, 300), (4, 140, 2, 8), (2, 0, 2, 5), (0, 6, 2, 5)],
)  # fmt: skip
def test_parity_of_output_state_and_all_gradients(
    backend: str, reverse: bool, lengths: bool, shape: tuple[int, ...]
) -> None:
    made = inputs(*shape, lengths=lengths)
    assert_parity(slstm(reverse=reverse), made, backend, forward=FORWARD, gradient=GRADIENT)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("gates", "bar"), [(5.0, FORWARD), (15.0, FORWARD_EXTREME)])
@pytest.mark.parametrize("state", [False, True])
def test_parity_under_large_gates(backend: str, gates: float, bar: float, state: bool) -> None:
    made = inputs(3, 251, 2, 16, gates=gates, state=state)
    assert_parity(slstm(), made, backend, forward=bar, gradient=GRADIENT)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(2, 40, 2, 64), (9, 20, 1, 20), (1, 5, 3, 7)])
def test_parity_of_bfloat16(backend: str, shape: tuple[int, ...]) -> None:
    assert_half_parity(slstm(), inputs(*shape, lengths=True, state=False), backend, torch.bfloat16)


@pytest.mark.parametrize("backend", BACKENDS)
def test_parity_of_bfloat16_gradients(backend: str) -> None:
    half = {n: t.bfloat16() for n, t in inputs(3, 20, 2, 20, state=False).items()}
    outputs = slstm()(**half)
    weights = [torch.ones(o.shape) for o in outputs]
    _, exact = run(slstm(), {n: t.double() for n, t in half.items()}, "reference", weights)
    _, found = run(slstm(), half, backend, weights)
    for name, gradient in found.items():
        assert gradient.dtype == torch.bfloat16
        bound = 2 * (exact[name].bfloat16().double() - exact[name]).abs().max() + GRADIENT * exact[name].abs().max()
        assert (gradient.double() - exact[name]).abs().max() <= bound, name


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("state", [False, True])
def test_parity_of_infinite_gates(backend: str, state: bool) -> None:
    """i = −∞: no input; f = +∞: keep all; f = −∞: forget all; both −∞: an emptied state that starts afresh."""
    made = inputs(2, 12, 2, 19, state=state)
    x = made["x"]
    x[:, 3, 0, 0], x[:, 4:6, 0], x[:, 5:7, 1] = -torch.inf, -torch.inf, torch.inf
    x[0, 8, 1], x[1, 9, :2, :, :7] = -torch.inf, -torch.inf
    x[0, :2, :2, 1, 5:] = -torch.inf
    assert_parity(slstm(), made, backend, forward=FORWARD, gradient=GRADIENT)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("gate", range(4))
@pytest.mark.parametrize("state", [False, True])
def test_parity_of_nan_in_its_head_and_later_steps_only(backend: str, gate: int, state: bool) -> None:
    made = inputs(3, 9, 2, 35, state=state)
    clean = slstm()(**made)
    made["x"] = made["x"].clone()
    made["x"][1, 4, gate, 1, 20] = torch.nan
    with ops.use_backend("reference"):
        expected = slstm()(**made)
    with ops.use_backend(backend):
        found = slstm()(**made)
    for f, e, before in zip(found, expected, clean):
        assert error(f, e) <= FORWARD
        assert torch.equal(f[0], before[0]) and torch.equal(f[2], before[2])
        assert torch.equal(f[1, ..., 0, :], before[1, ..., 0, :])
    assert torch.equal(found[0][:, :4], clean[0][:, :4]) and found[0][1, 5:, 1].isnan().all()


@pytest.mark.parametrize("isa", ["base", "avx2"])
def test_isa_levels_below_the_best_pass_the_same_tests(isa: str) -> None:
    rerun_under_isa(str(Path(__file__)), isa)


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_parity_of_strided_views(backend: str) -> None:
    wide, R, b = torch.randn(3, 6, 2, 90), torch.randn(4, 2, 19, 19) / 8, torch.randn(4, 2, 19)
    view = wide[..., 7:83].unflatten(-1, (4, 19)).transpose(2, 3)  # a fused projection, heads before gates
    swapped = torch.randn(6, 3, 4, 2, 19).transpose(0, 1)
    with ops.use_backend(backend):
        for x in (view, swapped):
            assert torch.equal(ops.slstm(x, R, b), ops.slstm(x.contiguous(), R, b))


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
@pytest.mark.parametrize("reverse", [False, True])
def test_padding_never_enters_output_state_or_gradient(backend: str, reverse: bool) -> None:
    made = inputs(2, 6, 2, 19)
    x, R, b, state = made["x"], made["R"], made["b"], tuple(made[s] for s in STATE)
    garbage = x.clone()
    garbage[0, 4:], garbage[1] = torch.nan, torch.nan
    garbage.requires_grad_(), R.requires_grad_()
    with ops.use_backend(backend):
        h, final = ops.slstm(
            garbage, R, b, initial_state=state, lengths=torch.tensor([4, 0]), reverse=reverse, return_state=True
        )
        one = tuple(s[:1] for s in state)
        alone = ops.slstm(x[:1, :4], R, b, initial_state=one, reverse=reverse)
        (h.sum() + sum(s.sum() for s in final)).backward()
    assert error(h[:1, :4], alone) <= (0 if backend == "cpu" else FORWARD)  # torch's product follows its batch
    assert not h[0, 4:].any() and not h[1].any()
    assert all(torch.equal(f[1], s[1]) for f, s in zip(final, state))
    assert not garbage.grad[0, 4:].any() and not garbage.grad[1].any()
    assert garbage.grad.isfinite().all() and R.grad.isfinite().all()


@pytest.mark.parametrize("D", [20, 32])
def test_bits_ignore_threads_batch_companions_lengths_and_cuts(D: int) -> None:
    if "cpu" not in BACKENDS:
        pytest.skip("the CPU module is not built")
    from xecg import _cpu

    made = inputs(37, 30, 2, D)
    x, R, b, state = made["x"], made["R"], made["b"], tuple(made[s] for s in STATE)
    weights = [torch.randn(37, 30, 2, D), *(torch.randn(37, 2, D) for _ in STATE)]
    with ops.use_backend("cpu"):
        h = ops.slstm(x, R, b, initial_state=state)
        for rows in (slice(2, 3), slice(30, 37), slice(1, 20)):
            some = tuple(s[rows] for s in state)
            assert torch.equal(h[rows], ops.slstm(x[rows], R, b, initial_state=some))
        ragged = torch.randint(0, 31, (37,))
        cut = ops.slstm(x, R, b, initial_state=state, lengths=ragged)
        assert all(torch.equal(cut[k, :n], h[k, :n]) for k, n in enumerate(ragged))
        head, middle = ops.slstm(x[:, :11], R, b, initial_state=state, return_state=True)
        assert torch.equal(torch.cat([head, ops.slstm(x[:, 11:], R, b, initial_state=middle)], 1), h)
        one_thread = run(slstm(), made, "cpu", weights)
        _cpu.set_num_threads(3)
        try:
            three_threads = run(slstm(), made, "cpu", weights)
        finally:
            _cpu.set_num_threads(0)
    assert all(torch.equal(p, q) for p, q in zip(one_thread[0], three_threads[0]))
    assert all(torch.equal(g, three_threads[1][name]) for name, g in one_thread[1].items())


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
@pytest.mark.parametrize("D", [19, 32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steps_equal_the_sequence(backend: str, D: int, dtype: torch.dtype) -> None:
    made = inputs(70, 4, 2, D)
    x, R, b, first = made["x"].to(dtype), made["R"], made["b"], ops.SLSTMState(*(made[s] for s in STATE))
    with ops.use_backend(backend):
        whole, final = ops.slstm(x, R, b, initial_state=first, return_state=True)
        state, in_place = first, ops.SLSTMState(*(s.clone() for s in first))
        few = ops.SLSTMState(*(s[5:7].clone() for s in first))
        out = torch.empty(70, 2, D, dtype=dtype)
        for t in range(4):
            h, state = ops.slstm_step(x[:, t], R, b, state)
            assert ops.slstm_step_(x[:, t], R, b, in_place, out=out) is out
            lone = ops.slstm_step_(x[5:7, t], R, b, few)
            assert torch.equal(h, out) and h.dtype == dtype
            if backend == "cpu":
                assert torch.equal(lone, out[5:7])
            assert torch.allclose(h.float(), whole[:, t].float(), rtol=0, atol=FORWARD)
    for s, p, f in zip(state, in_place, final):
        assert torch.equal(s, p) and error(p, f) <= FORWARD


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_step_sees_weights_that_changed_since_the_last_one(backend: str) -> None:
    made = inputs(80, 1, 2, 32)
    x, R, b, state = made["x"][:, 0], made["R"], made["b"], ops.SLSTMState(*(made[s] for s in STATE))
    with ops.use_backend(backend):
        ops.slstm_step(x, R, b, state)
        R.data.mul_(2)  # no version counter sees this
        changed, _ = ops.slstm_step(x, R, b, state)
        fresh, _ = ops.slstm_step(x, R.clone(), b, state)
    assert torch.equal(changed, fresh)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_registration_passes_opcheck(dtype: torch.dtype) -> None:
    made = {n: t.to(_wide(dtype) if n in STATE else dtype) for n, t in inputs(2, 6, 2, 5).items()}
    x, R, b, *state = made.values()
    x.requires_grad_()
    torch.library.opcheck(torch.ops.xecg.slstm, (x, R, b, *state, torch.tensor([6, 3]), False))
    torch.library.opcheck(torch.ops.xecg.slstm, (x, R, b, None, None, None, None, None, True))
    step = (x[:, 0].detach(), R, b, *state, torch.zeros(2, 2, 5, dtype=dtype))
    torch.library.opcheck(torch.ops.xecg.slstm_step_, step, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.slow
def test_compiles_without_a_graph_break() -> None:
    @torch.compile(fullgraph=True)
    def compiled(x: Tensor, R: Tensor, b: Tensor, lengths: Tensor) -> Tensor:
        return ops.slstm(2 * x, R, b, lengths=lengths).sin()

    made, lengths = inputs(2, 9, 2, 19, state=False), torch.tensor([9, 4])
    x = made["x"].requires_grad_()
    plain = ops.slstm(2 * x, made["R"], made["b"], lengths=lengths).sin()
    (expected,) = torch.autograd.grad(plain.sum(), x)
    h = compiled(x, made["R"], made["b"], lengths)
    (found,) = torch.autograd.grad(h.sum(), x)
    assert torch.allclose(h, plain, atol=FORWARD) and torch.allclose(found, expected, atol=GRADIENT)


def test_second_derivatives_are_refused() -> None:
    made = inputs(1, 4, 1, 3, state=False)
    x = made["x"].requires_grad_()
    (g,) = torch.autograd.grad(ops.slstm(x, made["R"], made["b"]).square().sum(), x, create_graph=True)
    with pytest.raises(XECGError, match="second derivatives"):
        g.sum().backward()


def test_half_activations_mix_with_float32_weights() -> None:
    made = inputs(2, 9, 2, 19, state=False)
    R = made["R"].requires_grad_()
    h = ops.slstm(made["x"].bfloat16(), R, made["b"])
    h.float().sum().backward()
    assert h.dtype == torch.bfloat16 and R.grad.dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        ({"x": torch.randn(2, 6, 4, 5)}, ["x", "(2, 6, 4, 5)", "(B, T, 4, H, D)"]),
        ({"x": torch.randn(2, 6, 3, 2, 5)}, ["x", "i, f, z, o"]),
        ({"x": torch.randn(2, 6, 4, 5, 2).mT}, ["x", "contiguous"]),
        ({"R": torch.randn(4, 2, 5, 4)}, ["R", "(4, 2, 5, 4)", "(4, 2, 5, 5)"]),
        ({"R": torch.randn(4, 2, 5, 5).double()}, ["R", "float64", "float32"]),
        ({"b": torch.randn(4, 5)}, ["b", "(4, 5)", "(4, H, D)"]),
        ({"initial_state": (torch.zeros(2, 2, 5),) * 3}, ["initial_state", "3 tensors", "h, c, n, m"]),
        ({"initial_state": (torch.zeros(2, 2, 4),) * 4}, ["h", "(2, 2, 4)", "(2, 2, 5)"]),
        ({"initial_state": (torch.zeros(2, 2, 5).double(),) * 4}, ["h", "float64", "float32"]),
        ({"lengths": torch.tensor([7, 1])}, ["lengths", "7", "6"]),
    ],
)
def test_bad_arguments_are_named(change: dict, facts: list[str]) -> None:
    call = {"x": torch.randn(2, 6, 4, 2, 5), "R": torch.randn(4, 2, 5, 5), "b": torch.randn(4, 2, 5), **change}
    with pytest.raises(ShapeError) as caught:
        ops.slstm(call.pop("x"), call.pop("R"), call.pop("b"), **call)
    for fact in facts:
        assert fact in str(caught.value)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_forced_backend_that_cannot_serve_says_why(backend: str) -> None:
    x, R, b = torch.randn(1, 2, 4, 1, 600), torch.randn(4, 1, 600, 600), torch.randn(4, 1, 600)
    with ops.use_backend(backend), pytest.raises(BackendError, match=r"512 units a head, not 600"):
        ops.slstm(x, R, b)
    assert ops.slstm(x, R, b).shape == (1, 2, 1, 600)
