"""mlstm: every backend against the definition, which test_mlstm_reference.py holds against golden values."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.ops.harness import assert_half_parity, assert_parity, fast_backends, rerun_under_isa
from tests.tolerances import FORWARD, FORWARD_EXTREME, GRADIENT, HALF_RMS_FACTOR, error, rms_error
from xecg import ops
from xecg.errors import BackendError, ShapeError

OP = "mlstm"
BACKENDS = fast_backends(OP)
LOWEST = torch.finfo(torch.float32).min


def mlstm(**options):
    """The op as a function of tensors only, returning h, C, n, m."""

    def call(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, **rest: Tensor) -> tuple[Tensor, ...]:
        state = (rest["C"], rest["n"], rest["m"]) if "C" in rest else None
        lengths = rest.get("lengths")
        h, s = ops.mlstm(q, k, v, i, f, initial_state=state, lengths=lengths, return_state=True, **options)
        return h, *s

    return call


def inputs(
    B: int, T: int, H: int, DK: int, DV: int, *, gates: float = 3.0, state: bool = True, lengths: bool = False
) -> dict[str, Tensor]:
    """Random call. q and k lean to one side so that the normaliser stays away from 0, where h itself is ill-conditioned."""
    made = {"q": 1 + torch.randn(B, T, H, DK), "k": 1 + torch.randn(B, T, H, DK), "v": torch.randn(B, T, H, DV)}
    made |= {"i": gates * torch.randn(B, T, H), "f": 3 + gates * torch.randn(B, T, H)}
    if state:
        made |= {"C": torch.randn(B, H, DK, DV), "n": 1 + torch.randn(B, H, DK), "m": torch.randn(B, H)}
    if lengths:
        made["lengths"] = torch.tensor([(7 * b + T // 2) % (T + 1) for b in range(B)], dtype=torch.int64)
    return made


def _in_float64(call, made: dict[str, Tensor]) -> tuple[Tensor, ...]:
    with ops.use_backend("reference"):
        return call(**{n: x.double() if x.is_floating_point() else x for n, x in made.items()})


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("gate", ["exp", "sig"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    "shape", [(2, 7, 3, 4, 5), (1, 1, 2, 16, 16), (3, 64, 1, 32, 32), (2, 65, 2, 17, 33), (2, 150, 1, 64, 48), (2, 40, 1, 20, 130),
              (2, 0, 2, 3, 4), (0, 5, 2, 3, 4)],
)  # fmt: skip
@pytest.mark.parametrize("lengths", [False, True])
def test_parity_of_output_state_and_all_gradients(
    backend: str, gate: str, reverse: bool, lengths: bool, shape: tuple[int, ...]
) -> None:
    made = inputs(*shape, lengths=lengths)
    assert_parity(mlstm(gate=gate, reverse=reverse), made, backend, forward=FORWARD, gradient=GRADIENT)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(2, 150, 2, 32, 32), (1, 40, 1, 512, 512), (1, 64, 1, 16, 300)])
def test_parity_from_the_empty_state(backend: str, shape: tuple[int, ...]) -> None:
    made = inputs(*shape, state=False, gates=1.0)
    assert_parity(mlstm(scale=0.3, eps=1e-3), made, backend, forward=FORWARD, gradient=GRADIENT)


@pytest.mark.parametrize("backend", BACKENDS)
def test_parity_of_extreme_gates(backend: str) -> None:
    made = inputs(2, 130, 2, 16, 24, gates=15.0)
    assert_parity(mlstm(), made, backend, forward=FORWARD_EXTREME, gradient=GRADIENT)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [1, 5, 16, 100, 1000])
def test_parity_whatever_the_chunk_size(backend: str, size: int) -> None:
    made = inputs(1, 130, 1, 16, 24, lengths=True)
    assert_parity(mlstm(chunk_size=size), made, backend, forward=FORWARD, gradient=GRADIENT)


@pytest.mark.parametrize("backend", BACKENDS)
def test_parity_over_a_long_sequence(backend: str) -> None:
    made = inputs(1, 3000, 1, 16, 16, state=False)
    assert_parity(mlstm(), made, backend, forward=FORWARD, gradient=GRADIENT)


@pytest.mark.parametrize("backend", BACKENDS)
def test_parity_of_infinite_gates_and_an_empty_state(backend: str) -> None:
    """i = −∞ is no input, f = −∞ forgets all, f = +∞ forgets nothing, m = lowest float means there was nothing before."""
    made = inputs(2, 90, 2, 8, 8, lengths=True)
    made["i"][0, :4], made["i"][0, 70:72] = -torch.inf, -torch.inf
    made["f"][0, 30], made["f"][0, 64], made["f"][1, 5:9] = -torch.inf, -torch.inf, torch.inf
    made["m"][:, 1], made["C"][:, 1], made["n"][:, 1] = (
        LOWEST,
        torch.nan,
        torch.inf,
    )  # an empty state is never looked at
    assert_parity(mlstm(), made, backend, forward=FORWARD, gradient=GRADIENT)
    made["i"][:] = -torch.inf
    with ops.use_backend(backend):
        h, state = ops.mlstm(*(made[x] for x in "qkvif"), return_state=True)
    assert not h.any() and not state.C.any() and not state.n.any() and (state.m == LOWEST).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(2, 90, 2, 32, 64), (3, 9, 2, 19, 20)])
def test_parity_of_bfloat16(backend: str, shape: tuple[int, ...]) -> None:
    made = inputs(*shape, state=False, lengths=True)
    assert_half_parity(mlstm(), made, backend, torch.bfloat16)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize(
    "shape", [(2, 0, 1, 16, 16), (2, 1, 2, 4, 4), (1, 2, 2, 64, 64), (3, 7, 1, 16, 4), (2, 63, 1, 32, 64), (1, 64, 2, 128, 128),
              (2, 65, 1, 4, 40), (2, 251, 2, 33, 31), (1, 1000, 1, 64, 64), (1, 130, 1, 256, 256), (1, 40, 1, 512, 512)],
)  # fmt: skip
def test_parity_of_bfloat16_output_and_its_float32_state(
    backend: str, lengths: bool, reverse: bool, shape: tuple[int, ...]
) -> None:
    made = inputs(*shape, lengths=lengths)
    half = {n: x.bfloat16() if n in "qkvif" else x for n, x in made.items()}
    exact, *state = _in_float64(mlstm(reverse=reverse), half)
    with ops.use_backend(backend):
        h, *found = mlstm(reverse=reverse)(**half)
    assert h.dtype == torch.bfloat16
    if h.numel():
        assert rms_error(h, exact) <= HALF_RMS_FACTOR * rms_error(exact.bfloat16(), exact) + 1e-12
    for a, b in zip(found, state):
        assert error(a, b) <= FORWARD


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("gate", ["exp", "sig"])
@pytest.mark.parametrize("size", [None, 1, 20, 33, 100])
def test_parity_of_bfloat16_with_harsh_gates_whatever_the_chunk_size(backend: str, gate: str, size: int | None) -> None:
    made = inputs(2, 130, 2, 16, 24, gates=15.0)
    made["i"][0, :4], made["f"][0, 30], made["f"][1, 64] = -torch.inf, -torch.inf, torch.inf
    made["m"][:, 1], made["C"][:, 1], made["n"][:, 1] = LOWEST, torch.nan, torch.inf
    half = {n: x.bfloat16() if n in "qkv" else x for n, x in made.items()}
    if gate == "sig":  # m plays no part: a state is never empty
        half["C"][:, 1], half["n"][:, 1] = 0.0, 0.0
    exact = _in_float64(mlstm(gate=gate), half)[0]
    with ops.use_backend(backend):
        h = mlstm(gate=gate, chunk_size=size)(**half)[0]
    assert rms_error(h, exact) <= HALF_RMS_FACTOR * rms_error(exact.bfloat16(), exact)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("argument", ["q", "k", "v", "i", "f"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_parity_of_bfloat16_before_and_beside_what_is_not_finite(backend: str, argument: str, bad: float) -> None:
    made = inputs(2, 170, 2, 32, 48, state=False)
    half = {n: x.bfloat16() if n in "qkv" else x for n, x in made.items()}
    with ops.use_backend(backend):
        clean = mlstm()(**half)[0]
        for t in (5, 70, 169):
            broken = {**half, argument: half[argument].clone()}
            broken[argument][1, t, 0] = bad
            h, C, _, _ = mlstm()(**broken)
            if bad != bad:
                assert h[1, t, 0].isnan().any()
                assert argument == "q" or (h[1, t:, 0].isnan().any(-1).all() and C[1, 0].isnan().any())
            assert torch.equal(h[0], clean[0]) and torch.equal(h[1, :, 1], clean[1, :, 1])
            expected = clean[1, :t, 0].double()
            assert rms_error(h[1, :t, 0], expected) <= rms_error(expected.bfloat16() * 1.004, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_parity_of_bfloat16_is_to_the_bit_in_any_batch_view_and_thread_count(backend: str) -> None:
    fused = torch.randn(5, 90, 3, 100).bfloat16()
    call = {"q": fused[..., :28], "k": fused[..., 28:56], "v": fused[..., 56:]}
    call |= {"i": torch.randn(5, 90, 3), "f": torch.randn(5, 90, 3)}
    with ops.use_backend(backend):
        together = mlstm()(**call)
        for found, x in zip(mlstm()(**{n: x[2:3].contiguous() for n, x in call.items()}), together):
            assert torch.equal(found, x[2:3])
        if backend == "cpu":
            from xecg import _cpu

            _cpu.set_num_threads(3)
            try:
                assert all(torch.equal(a, b) for a, b in zip(mlstm()(**call), together))
            finally:
                _cpu.set_num_threads(0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_parity_of_bfloat16_gradients(backend: str) -> None:
    half = {n: x.bfloat16() for n, x in inputs(2, 90, 2, 16, 24, state=False).items()}
    leaves = {n: x.clone().requires_grad_() for n, x in half.items()}
    wide = {n: x.double().requires_grad_() for n, x in half.items()}
    weight = torch.randn(2, 90, 2, 24).bfloat16()
    with ops.use_backend(backend):
        (ops.mlstm(**leaves) * weight).sum().backward()
    with ops.use_backend("reference"):
        (ops.mlstm(**wide) * weight.double()).sum().backward()
    for leaf, exact in zip(leaves.values(), wide.values()):
        assert leaf.grad.dtype == torch.bfloat16
        bound = 2 * (exact.grad.bfloat16().double() - exact.grad).abs().max() + GRADIENT * exact.grad.abs().max()
        assert (leaf.grad.double() - exact.grad).abs().max() <= bound


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("gate", ["exp", "sig"])
@pytest.mark.parametrize("shape", [(1, 1, 64, 64), (5, 3, 17, 33), (2, 4, 8, 300), (37, 1, 16, 16)])
def test_parity_of_a_step_in_place(backend: str, gate: str, shape: tuple[int, ...]) -> None:
    B, H, DK, DV = shape
    made = inputs(B, 1, H, DK, DV)
    made["m"][0, 0], made["C"][0, 0], made["n"][0, 0] = LOWEST, torch.nan, torch.inf
    tensors, state = [made[x][:, 0] for x in "qkvif"], [made[x] for x in ("C", "n", "m")]
    with ops.use_backend("reference"):
        h, new = ops.mlstm_step(*(x.double() for x in tensors), tuple(x.double() for x in state), gate=gate)
    with ops.use_backend(backend):
        found = ops.mlstm_step_(*tensors, state, gate=gate)
    for f, e in zip((found, *state), (h, *new)):
        assert error(f, e) <= FORWARD


@pytest.mark.parametrize("isa", ["base", "avx2", "avx512"])
def test_isa_levels_below_the_best_pass_the_same_tests(isa: str) -> None:
    rerun_under_isa(str(Path(__file__)), isa)


@pytest.mark.parametrize("backend", BACKENDS)
def test_parity_of_strided_views(backend: str) -> None:
    fused = torch.randn(2, 70, 2, 60)  # heads of one fused projection
    q, k, v = fused[..., :20], fused[..., 20:40], fused[..., 40:]
    i, f = torch.randn(2, 70, 5)[..., :2], torch.randn(70, 2, 2).transpose(0, 1)
    weight = torch.randn(70, 2, 2, 20).transpose(0, 1)

    def everything(*leaves: Tensor) -> list[Tensor]:
        h = ops.mlstm(*(x.requires_grad_() for x in leaves))
        return [h, *torch.autograd.grad((h * weight).sum(), leaves)]

    packed = [x.contiguous() for x in (q, k, v, i, f)]
    with ops.use_backend(backend):
        for a, b in zip(everything(*(x.detach() for x in (q, k, v, i, f))), everything(*packed)):
            assert torch.equal(a, b)
        state = [torch.randn(2, 2, 20, 20), torch.randn(2, 2, 20), torch.randn(2, 2)]
        again = [x.clone() for x in state]
        out = ops.mlstm_step_(q[:, 3], k[:, 3], v[:, 3], i[:, 3], f[:, 3], state)
        assert torch.equal(out, ops.mlstm_step_(*(x.detach()[:, 3] for x in packed), again))
        assert all(torch.equal(a, b) for a, b in zip(state, again))


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
@pytest.mark.parametrize("argument", ["q", "k", "v", "i", "f"])
def test_a_nan_stays_in_its_stream_and_in_later_steps(backend: str, argument: str) -> None:
    made = inputs(2, 90, 2, 16, 20, state=False)
    clean = mlstm()(**made)[0]
    for t in (5, 70):
        broken = {**made, argument: made[argument].clone()}
        broken[argument][1, t, 0] = torch.nan
        with ops.use_backend(backend):
            h, C, _, _ = mlstm()(**broken)
        assert h[1, t, 0].isnan().any()
        assert argument == "q" or (h[1, t:, 0].isnan().any(-1).all() and C[1, 0].isnan().any())
        h[1, t:, 0] = clean[1, t:, 0]
        assert error(h, clean) <= FORWARD


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_padding_never_enters_output_state_or_gradient(backend: str) -> None:
    made = inputs(2, 70, 1, 4, 5, state=False)
    lengths = torch.tensor([66, 0])
    for reverse in (False, True):
        garbage = {n: x.clone() for n, x in made.items()}
        for x in garbage.values():
            x[0, 66:], x[1] = torch.nan, torch.nan
            x.requires_grad_()
        with ops.use_backend(backend):
            h, C, n, m = mlstm(reverse=reverse)(**garbage, lengths=lengths)
            alone = mlstm(reverse=reverse)(**{n: x[:1, :66] for n, x in made.items()})
            (h.sum() + C.sum() + n.sum() + m[0].sum()).backward()
        assert torch.equal(h[:1, :66], alone[0]) and not h[0, 66:].any() and not h[1].any()
        assert torch.equal(C[:1], alone[1]) and not C[1].any() and not n[1].any() and (m[1] == LOWEST).all()
        for x in garbage.values():
            assert not x.grad[0, 66:].any() and not x.grad[1].any() and x.grad[0, :66].isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_bits_ignore_threads_and_batch_companions(backend: str) -> None:
    made = inputs(5, 90, 3, 24, 20)

    def everything(**call: Tensor) -> list[Tensor]:
        leaves = {n: x.detach().clone().requires_grad_() for n, x in call.items()}
        outputs = mlstm()(**leaves)
        return [*outputs, *torch.autograd.grad([x.sum() for x in outputs], tuple(leaves.values()))]

    with ops.use_backend(backend):
        together = everything(**made)
        for found, x in zip(everything(**{n: x[2:3] for n, x in made.items()}), together):
            assert torch.equal(found, x[2:3])
        step = [made[x][:, 0] for x in "qkvif"]
        whole, alone = ([made[x].clone() for x in ("C", "n", "m")] for _ in range(2))
        h = ops.mlstm_step_(*step, whole)
        for b in range(5):
            row = [x[b : b + 1] for x in alone]
            assert torch.equal(ops.mlstm_step_(*(x[b : b + 1] for x in step), row), h[b : b + 1])
        assert all(torch.equal(a, b) for a, b in zip(whole, alone))
        if backend == "cpu":
            from xecg import _cpu

            _cpu.set_num_threads(3)
            try:
                assert all(torch.equal(a, b) for a, b in zip(everything(**made), together))
            finally:
                _cpu.set_num_threads(0)


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
@pytest.mark.parametrize("gate", ["exp", "sig"])
def test_steps_equal_the_sequence(backend: str, gate: str) -> None:
    made = inputs(2, 70, 2, 9, 19)
    with ops.use_backend(backend):
        whole, *final = mlstm(gate=gate)(**made)
        state = tuple(made[x] for x in ("C", "n", "m"))
        in_place = tuple(x.clone() for x in state)
        out = torch.empty(2, 2, 19)
        for t in range(70):
            step = [made[x][:, t] for x in "qkvif"]
            h, state = ops.mlstm_step(*step, state, gate=gate)
            assert ops.mlstm_step_(*step, in_place, gate=gate, out=out) is out
            assert error(out, whole[:, t]) <= FORWARD and error(h, out) <= FORWARD
        for a, b, c in zip(final, state, in_place):
            assert error(a, b) <= FORWARD and error(c, b) <= FORWARD


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_a_sequence_goes_on_from_its_state(backend: str) -> None:
    made = inputs(2, 100, 2, 8, 8)
    state = {x: made.pop(x) for x in ("C", "n", "m")}
    with ops.use_backend(backend):
        whole = mlstm()(**made, **state)
        head = mlstm()(**{n: x[:, :37] for n, x in made.items()}, **state)
        tail = mlstm()(**{n: x[:, 37:] for n, x in made.items()}, **dict(zip("Cnm", head[1:])))
    assert error(torch.cat([head[0], tail[0]], 1), whole[0]) <= FORWARD
    assert all(error(a, b) <= FORWARD for a, b in zip(tail[1:], whole[1:]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_registration_passes_opcheck(dtype: torch.dtype) -> None:
    made = inputs(2, 6, 2, 3, 5)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    tensors = [made[x].to(dtype) for x in "qkvif"]
    state = [made[x].to(wide) for x in ("C", "n", "m")]
    options = (False, False, 0.5, 1e-6, 0, True)
    torch.library.opcheck(
        torch.ops.xecg.mlstm, (tensors[0].requires_grad_(), *tensors[1:], *state, torch.tensor([6, 3]), *options)
    )
    torch.library.opcheck(torch.ops.xecg.mlstm, (*tensors, None, None, None, None, *options))
    step = [x[:, 0].detach() for x in tensors]
    torch.library.opcheck(
        torch.ops.xecg.mlstm_step_, (*step, *state, torch.zeros(2, 2, 5, dtype=dtype), False, 0.5, 1e-6),
        test_utils=("test_schema", "test_faketensor"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        ({"q": torch.randn(2, 6, 3)}, ["q", "(2, 6, 3)", "(B, T, H, DK)"]),
        ({"k": torch.randn(2, 6, 2, 5)}, ["k", "(2, 6, 2, 5)", "(2, 6, 2, 3)"]),
        ({"v": torch.randn(2, 6, 2, 5).double()}, ["v", "float64", "float32"]),
        ({"i": torch.randn(2, 6, 3)}, ["i", "(2, 6, 3)", "(2, 6, 2)"]),
        ({"gate": "relu"}, ["gate", "relu", "'exp' or 'sig'"]),
        ({"chunk_size": 0}, ["chunk_size", "0", "at least 1"]),
        ({"initial_state": (torch.zeros(2, 2, 3, 5),)}, ["initial_state", "1 tensors", "three"]),
        ({"lengths": torch.tensor([7, 1])}, ["lengths", "7", "6"]),
    ],
)
def test_bad_arguments_are_named(change: dict, facts: list[str]) -> None:
    made = inputs(2, 6, 2, 3, 5, state=False)
    with pytest.raises(ShapeError) as caught:
        ops.mlstm(**{**made, **change})
    for fact in facts:
        assert fact in str(caught.value)


def test_a_forced_backend_that_cannot_serve_says_why() -> None:
    made = {n: x.double() for n, x in inputs(1, 4, 1, 3, 3, state=False).items()}
    with ops.use_backend("cpu"), pytest.raises(BackendError, match=r"float64|not built"):
        ops.mlstm(**made)
    if "cpu" in BACKENDS:
        wide = torch.zeros(1, 1, 1, 5000)
        with ops.use_backend("cpu"), pytest.raises(BackendError, match="4096 features, not 5000"):
            ops.mlstm(wide, wide, wide, *torch.zeros(2, 1, 1, 1))
