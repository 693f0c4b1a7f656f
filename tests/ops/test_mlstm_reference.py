"""The mLSTM reference: against published values, its own definition, autograd, and every promise about ragged, damaged
and extreme input. Other backends are in turn compared with this reference."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from tests.ops.golden import MLSTM, MLSTM_GRADIENTS, assert_summary
from tests.ops.mlstm_cases import (
    DK,
    DV,
    EMPTY_M,
    NAMES,
    H,
    call,
    call_backward,
    cast,
    definition,
    detached,
    golden_inputs,
    inputs,
    output_weights,
    without_state,
)
from tests.ops.waves import wave
from tests.tolerances import FLOAT64, FORWARD, error
from xecg.ops.reference import mlstm

# Explicit gradients against autograd; looser than FLOAT64: numerator and normaliser cancel in dq, wholly so at T = 1.
TOL_F64_GRADIENT = 1e-10


@pytest.mark.parametrize("case", MLSTM)
@pytest.mark.parametrize("form", ["chunkwise", "recurrent"])
def test_golden_values(case, form):
    """Sum, norm, first and last entry of outputs and states on wave inputs, from an independent implementation."""
    x = golden_inputs(gates=10.0 if "10·i" in case else 1.0)
    if "initial state" not in case:
        x = without_state(x)
    options = {"gate": case[:3], "reverse": "reverse" in case}
    lengths = torch.tensor([9, 4]) if "lengths" in case else None
    if form == "chunkwise":
        result = call(mlstm.forward, x, lengths, chunk_size=4, **options)
    else:
        result = call(mlstm.recurrent, x, lengths, **options)
    for name, value in zip("hCnm", result):
        if name in MLSTM[case]:
            assert_summary(value, MLSTM[case][name])


def test_golden_gradients():
    x = golden_inputs()
    weights = zip(("C0", "n0", "m0"), (0.5, 0.25, 0.125))
    grads = (wave((2, 9, 2, 3), (0.3, 0.4, 0.5, 0.6), 0.9), *(torch.full_like(x[name], w) for name, w in weights))
    for name, value in zip(NAMES, call_backward(grads, x, chunk_size=4)):
        assert_summary(value, MLSTM_GRADIENTS[f"d{name}"])


@pytest.mark.parametrize("gate", ["exp", "sig"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize("T", [0, 1, 2, 63, 64, 65, 251])
def test_chunkwise_equals_recurrent(gate, reverse, ragged, state, T):
    x = inputs(T, gates=4.0)
    x = x if state else without_state(x)
    lengths = torch.tensor([T, T // 3]) if ragged else None
    expected = call(mlstm.recurrent, x, lengths, gate=gate, reverse=reverse)
    for chunk_size in (1, 7, 64):
        got = call(mlstm.forward, x, lengths, gate=gate, reverse=reverse, chunk_size=chunk_size)
        for name, a, b in zip("hCnm", got, expected):
            assert a.shape == b.shape
            assert error(a, b) < FLOAT64, (name, chunk_size)


@pytest.mark.parametrize("gate", ["exp", "sig"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize("gates", [0.1, 3.0, 24.0])
@pytest.mark.parametrize(("T", "lengths"), [(1, None), (7, (7, 3)), (33, None), (33, (0, 20)), (70, (70, 64))])
def test_forward_and_backward_equal_autograd_of_the_definition(gate, reverse, state, gates, T, lengths):
    """All inputs, initial state and final state; eps raised as well, so that its path through m carries weight."""
    lengths = None if lengths is None else torch.tensor(lengths)
    x = inputs(T, gates=gates, seed=T)
    x = x if state else without_state(x)
    leaves = {name: None if t is None else t.requires_grad_() for name, t in x.items()}
    options = {"gate": gate, "reverse": reverse, "eps": 0.3 if T == 7 else 1e-6}
    expected = call(definition, leaves, lengths, **options)
    got = call(mlstm.forward, detached(leaves), lengths, **options, chunk_size=16)
    for name, a, b in zip("hCnm", got, expected):
        assert error(a, b.detach()) < FLOAT64, name

    weights = output_weights(T)
    loss = sum((a * w).sum() for a, w in zip(expected, weights))
    wanted = torch.autograd.grad(loss, [t for t in leaves.values() if t is not None], allow_unused=True)
    wanted = dict(zip((name for name, t in leaves.items() if t is not None), wanted))
    for chunk_size in (5, 64):
        grads = call_backward(weights, detached(leaves), lengths, **options, chunk_size=chunk_size)
        assert_gradients(dict(zip(NAMES, grads)), wanted)


def assert_gradients(got: dict[str, Tensor | None], wanted: dict[str, Tensor | None]) -> None:
    for name, value in got.items():
        if name not in wanted:
            assert value is None, name
        elif wanted[name] is None:  # m0 of the sig gate
            assert not value.any(), name
        else:
            assert error(value, wanted[name]) < TOL_F64_GRADIENT, name


@pytest.mark.parametrize("given", [0, 1, 2])
def test_missing_final_state_gradients_are_zero(given):
    x = inputs(20)
    dh, *states = output_weights(20)
    some = [s if n == given else None for n, s in enumerate(states)]
    zeros = [torch.zeros_like(s) if n != given else s for n, s in enumerate(states)]
    for a, b in zip(call_backward((dh, *some), x), call_backward((dh, *zeros), x)):
        assert torch.equal(a, b)


@pytest.mark.parametrize("gate", ["exp", "sig"])
@pytest.mark.parametrize("reverse", [False, True])
def test_padding_is_never_read_and_gets_zero_output_and_gradient(gate, reverse):
    T, lengths = 40, torch.tensor([40, 13])
    x, grads = inputs(T), output_weights(T)
    dirty = {n: t.clone() for n, t in x.items()}
    for name in NAMES[:5]:
        dirty[name][1, 13:] = torch.nan
    dirty_grads = (grads[0].clone(), *grads[1:])
    dirty_grads[0][1, 13:] = torch.nan
    options = {"gate": gate, "reverse": reverse, "chunk_size": 8}
    clean_results = (*call(mlstm.forward, x, lengths, **options), *call_backward(grads, x, lengths, **options))
    results = (*call(mlstm.forward, dirty, lengths, **options), *call_backward(dirty_grads, dirty, lengths, **options))
    for a, b in zip(results, clean_results):
        assert torch.equal(a, b)
    for padded in (results[0], *results[4:9]):
        assert not padded[1, 13:].any()
    for a, b in zip(call(mlstm.recurrent, dirty, lengths, gate=gate, reverse=reverse), results):
        assert error(a, b) < FLOAT64


@pytest.mark.parametrize("gate", ["exp", "sig"])
def test_reverse_equals_flipping_the_valid_part(gate):
    T, lengths = 23, (23, 9)
    x = inputs(T)
    h, *state = call(mlstm.forward, x, torch.tensor(lengths), gate=gate, reverse=True)
    for b, length in enumerate(lengths):
        row = {n: t[b : b + 1, :length].flip(1) if n in NAMES[:5] else t[b : b + 1] for n, t in x.items()}
        h_row, *state_row = call(mlstm.forward, row, gate=gate)
        assert error(h[b, :length].flip(0), h_row[0]) < FLOAT64
        for a, r in zip(state, state_row):
            assert error(a[b], r[0]) < FLOAT64


@pytest.mark.parametrize("form", ["chunkwise", "recurrent"])
@pytest.mark.parametrize("gate", ["exp", "sig"])
@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize("name", NAMES[:5])
@pytest.mark.parametrize("at", [0, 3, 21])
def test_nan_stays_in_its_stream_and_never_reaches_earlier_steps(form, gate, state, name, at):
    T = 30
    x = inputs(T)
    x = x if state else without_state(x)
    bad = {n: t if t is None else t.clone() for n, t in x.items()}
    bad[name][0, at, 1] = torch.nan
    function, options = (mlstm.forward, {"chunk_size": 8}) if form == "chunkwise" else (mlstm.recurrent, {})
    clean, dirty = (call(function, s, gate=gate, **options) for s in (x, bad))
    for a, b in zip(clean, dirty):  # the other head, the other row
        assert torch.equal(a[1], b[1])
    assert torch.equal(clean[0][0, :, 0], dirty[0][0, :, 0])
    assert torch.equal(clean[0][0, :at], dirty[0][0, :at])
    assert dirty[0][0, at, 1].isnan().all()
    assert (dirty[0][0, at + 1 :, 1].isnan().all()) == (name != "q")  # q does not enter the state
    if name != "q":
        assert dirty[1][0, 1].isnan().all()
    grads = call_backward(output_weights(T), bad, gate=gate)
    wanted = call_backward(output_weights(T), x, gate=gate)
    for a, b in zip(wanted, grads):
        assert a is None or torch.equal(a[1], b[1])
    assert name == "k" or torch.equal(wanted[0][:, :at], grads[0][:, :at])  # dq_t reads no later step


@pytest.mark.parametrize("gate", ["exp", "sig"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_infinite_gates_mean_no_input_keep_all_and_forget_all(gate, dtype):
    T, cut = 40, 17
    x = cast(inputs(T), dtype)
    run = lambda s, **o: call(mlstm.forward, s, gate=gate, chunk_size=8, **o)  # noqa: E731
    tolerance = FLOAT64 if dtype == torch.float64 else FORWARD

    x["i"][:, cut:] = -torch.inf
    x["f"][:, cut:] = torch.inf
    state = run({n: t[:, :cut] if n in NAMES[:5] else t for n, t in x.items()})[1:]
    h, *end = run(x)
    assert all(error(a, b) < tolerance for a, b in zip(end, state))
    assert error(h, call(mlstm.recurrent, x, gate=gate)[0]) < tolerance

    x = cast(inputs(T), dtype)
    x["f"][:, cut] = -torch.inf
    tail = {n: t[:, cut:] if n in NAMES[:5] else None for n, t in x.items()}
    h, *end = run(x)
    h_tail, *end_tail = run(tail)
    assert error(h[:, cut:], h_tail) < tolerance
    assert all(error(a, b) < tolerance for a, b in zip(end, end_tail))
    grads = call_backward([t.to(dtype) for t in output_weights(T)], x, gate=gate, chunk_size=8)
    assert all(g.isfinite().all() for g in grads)
    assert not grads[4][:, cut].any()


def test_a_row_without_any_input_gives_zero_and_stays_empty():
    x = without_state(inputs(12))
    x["i"][0] = -torch.inf
    for result in (call(mlstm.forward, x, chunk_size=5), call(mlstm.recurrent, x)):
        h, C, n, m = result
        assert not h[0].any() and not C[0].any() and not n[0].any()
        assert (m[0] == EMPTY_M).all() and m.isfinite().all()
    grads = call_backward(output_weights(12), x)
    assert all(g is None or g.isfinite().all() for g in grads)


@pytest.mark.parametrize("T", [0, 1, 9])
@pytest.mark.parametrize("function", [mlstm.forward, mlstm.recurrent])
def test_the_empty_state_leaves_finite_and_is_accepted_back(function, T):
    x = without_state(inputs(T))
    none = call(function, {n: t if t is None else t[:, :0] for n, t in x.items()})
    assert (none[3] == EMPTY_M).all()
    again = call(function, x | dict(zip(NAMES[5:], none[1:])))
    for a, b in zip(again, call(function, x)):
        assert torch.equal(a, b)
    garbage = {"C0": none[1] + torch.nan, "n0": none[2] + 3, "m0": none[3]}
    for a, b in zip(again, call(function, x | garbage)):
        assert torch.equal(a, b)


@pytest.mark.parametrize("gate", ["exp", "sig"])
def test_zero_length_rows_pass_state_and_its_gradient_through(gate):
    x = inputs(6)
    if gate == "sig":
        x["m0"] = torch.zeros_like(x["m0"])
    result = call(mlstm.forward, x, torch.tensor([0, 6]), gate=gate)
    assert not result[0][0].any()
    grads = output_weights(6)
    back = call_backward(grads, x, torch.tensor([0, 6]), gate=gate)
    for name, a, d, wanted in zip(NAMES[5:], result[1:], back[5:], grads[1:]):
        assert torch.equal(a[0], x[name][0])
        if name != "m0" or gate == "exp":
            assert error(d[0], wanted[0]) < FLOAT64


@pytest.mark.parametrize("gate", ["exp", "sig"])
@pytest.mark.parametrize("reverse", [False, True])
def test_pieces_with_carried_state_equal_the_whole(gate, reverse):
    x = inputs(50, gates=4.0)
    state, pieces = {n: x[n] for n in NAMES[5:]}, []
    spans = [slice(0, 1), slice(1, 20), slice(20, 50)]
    for span in reversed(spans) if reverse else spans:
        part = {n: x[n][:, span] for n in NAMES[:5]} | state
        h, *end = call(mlstm.forward, part, gate=gate, reverse=reverse)
        state = dict(zip(NAMES[5:], end))
        pieces.append(h)
    whole = call(mlstm.forward, x, gate=gate, reverse=reverse)
    assert error(torch.cat(pieces[::-1] if reverse else pieces, 1), whole[0]) < FLOAT64
    assert all(error(a, b) < FLOAT64 for a, b in zip(state.values(), whole[1:]))


@pytest.mark.parametrize("gate", ["exp", "sig"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_steps_equal_the_recurrent_form(gate, dtype):
    x = cast(inputs(12), dtype)
    options = {"gate": gate, "scale": 0.5, "eps": 1e-6}
    state = [x[n] for n in NAMES[5:]]
    expected = call(mlstm.recurrent, x, gate=gate)
    for t in range(12):
        h, *state = mlstm.step(*(x[n][:, t] for n in NAMES[:5]), *state, **options)
        assert h.dtype == dtype and torch.equal(h, expected[0][:, t])
    assert all(torch.equal(a, b) for a, b in zip(state, expected[1:]))


@pytest.mark.parametrize(("batch", "T"), [(0, 5), (0, 0), (2, 0)])
def test_empty_batch_and_empty_time_are_legal(batch, T):
    x = inputs(T, batch=batch)
    for lengths, reverse in itertools.product((None, torch.zeros(batch, dtype=torch.int64)), (False, True)):
        for function in (mlstm.forward, mlstm.recurrent):
            h, C, n, m = call(function, x, lengths, reverse=reverse)
            assert h.shape == (batch, T, H, DV)
            assert torch.equal(C, x["C0"]) and torch.equal(n, x["n0"]) and torch.equal(m, x["m0"])
        grads = call_backward((h, C, n, m), x, lengths, reverse=reverse)
        assert all(g.shape == x[n].shape for n, g in zip(NAMES, grads))


def test_results_are_new_tensors_and_inputs_are_untouched():
    for T in (0, 9):
        x = inputs(T)
        before = {n: t.clone() for n, t in x.items()}
        grads = output_weights(T)
        results = (*call(mlstm.forward, x), *call_backward(grads, x), *call(mlstm.forward, x, gate="sig"))
        owned = {t.untyped_storage().data_ptr() for t in (*x.values(), *grads) if t.numel()}
        assert not owned & {t.untyped_storage().data_ptr() for t in results if t.numel()}
        assert all(torch.equal(x[n], before[n]) for n in NAMES)


def test_views_of_a_fused_projection_give_the_same_bits():
    x = inputs(20)
    fused = torch.cat([x["q"], x["k"], x["v"]], -1)
    views = x | dict(zip("qkv", fused.split([DK, DK, DV], -1)))
    assert not views["q"].is_contiguous()
    for a, b in zip(call(mlstm.forward, views), call(mlstm.forward, x)):
        assert torch.equal(a, b)


def test_gradients_predict_a_finite_difference():
    """A finite-difference witness that shares no code with the definition above."""
    x = inputs(6, seed=3)
    grads = output_weights(6)
    back = dict(zip(NAMES, call_backward(grads, x)))
    direction = inputs(6, seed=4)
    step = 1e-6

    def loss(sign: float) -> Tensor:
        moved = {n: t + sign * step * direction[n] for n, t in x.items()}
        return sum((a * w).sum() for a, w in zip(call(mlstm.recurrent, moved), grads))

    slope = (loss(1) - loss(-1)) / (2 * step)
    predicted = sum((back[n] * direction[n]).sum() for n in NAMES)
    assert abs(slope - predicted) < 1e-7 * abs(slope)
