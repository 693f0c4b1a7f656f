"""The sLSTM reference: against published values, its own definition, autograd, and every promise about ragged, damaged
and extreme input. Other backends are in turn compared with this reference."""

from __future__ import annotations

import itertools

import pytest
import torch

from tests.ops.golden import SLSTM, SLSTM_WITH_STATE, assert_summary
from tests.ops.slstm_cases import (
    NAMES,
    STATE,
    B,
    D,
    H,
    call,
    call_backward,
    cast,
    definition,
    golden_inputs,
    inputs,
    output_weights,
    without_state,
)
from tests.ops.waves import wave
from tests.tolerances import FLOAT64, FORWARD, FORWARD_EXTREME, GRADIENT, HALF_RMS_FACTOR, error
from xecg.ops.reference import slstm

EMPTY_M = torch.finfo(torch.float32).min


def test_golden_values_from_the_zero_state():
    x = without_state(golden_inputs())
    h, _, c, n, m = call(slstm.forward, x)
    dh = wave(tuple(h.shape), (0.3, 0.4, 0.5, 0.6), 0.9)
    dx, dR, _, *states = call_backward((dh, None, None, None, None), x)
    assert states == [None] * 4
    for name, value in {"h": h, "c": c, "n": n, "m": m, "dx": dx, "dR": dR}.items():
        assert_summary(value, SLSTM[name])


def test_golden_values_with_an_initial_state():
    x = golden_inputs()
    h = call(slstm.forward, x)[0]
    ends = [torch.full_like(x["c0"], weight) for weight in (0.5, 0.25, 0.125)]
    dh = wave(tuple(h.shape), (0.3, 0.4, 0.5, 0.6), 0.9)
    grads = call_backward((dh, None, *ends), x)
    values = {"h": h} | {f"d{name}": g for name, g in zip(NAMES, grads)}
    for name, expected in SLSTM_WITH_STATE.items():
        assert_summary(values[name], expected)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("state", ["none", "full", "partly empty"])
@pytest.mark.parametrize("gates", [0.1, 3.0, 24.0])
@pytest.mark.parametrize(
    ("T", "lengths"), [(1, None), (2, (1, 2)), (7, (7, 3)), (33, None), (33, (0, 20)), (65, (65, 64))]
)
def test_forward_and_backward_equal_autograd_of_the_definition(reverse, state, gates, T, lengths):
    """All inputs, initial state and final state; "partly empty": some elements start with n = 0, others do not."""
    lengths = None if lengths is None else torch.tensor(lengths)
    x = inputs(T, gates=gates, seed=T)
    if state == "none":
        x = without_state(x)
    elif state == "partly empty":
        x["n0"] = x["n0"] * (torch.arange(B * H * D).view(B, H, D) % 3 > 0)
    leaves = {name: None if t is None else t.clone().requires_grad_() for name, t in x.items()}
    expected = call(definition, leaves, lengths, reverse=reverse)
    for name, a, b in zip(("h", *STATE), call(slstm.forward, x, lengths, reverse=reverse), expected):
        assert error(a, b.detach()) < FLOAT64, name

    weights = output_weights(T)
    loss = sum((a * w).sum() for a, w in zip(expected, weights))
    wanted = torch.autograd.grad(loss, [t for t in leaves.values() if t is not None])
    got = [g for g in call_backward(weights, x, lengths, reverse=reverse) if g is not None]
    assert len(got) == len(wanted)
    for name, a, b in zip(NAMES, got, wanted):
        assert error(a, b) < FLOAT64, name


@pytest.mark.parametrize("given", range(4))
def test_missing_final_state_gradients_are_zero(given):
    x = inputs(20)
    dh, *ends = output_weights(20)
    some = [e if n == given else None for n, e in enumerate(ends)]
    zeros = [e if n == given else torch.zeros_like(e) for n, e in enumerate(ends)]
    for a, b in zip(call_backward((dh, *some), x), call_backward((dh, *zeros), x)):
        assert torch.equal(a, b)


@pytest.mark.parametrize("reverse", [False, True])
def test_padding_is_never_read_and_gets_zero_output_and_gradient(reverse):
    T, lengths = 20, torch.tensor([20, 7])
    x, grads = inputs(T), output_weights(T)
    dirty, dirty_dh = x | {"x": x["x"].clone()}, grads[0].clone()
    dirty["x"][1, 7:] = torch.nan
    dirty_dh[1, 7:] = torch.nan
    clean_results = (
        *call(slstm.forward, x, lengths, reverse=reverse),
        *call_backward(grads, x, lengths, reverse=reverse),
    )
    results = (
        *call(slstm.forward, dirty, lengths, reverse=reverse),
        *call_backward((dirty_dh, *grads[1:]), dirty, lengths, reverse=reverse),
    )
    for a, b in zip(results, clean_results):
        assert torch.equal(a, b)
    h, dx = results[0], results[5]
    assert not h[1, 7:].any() and not dx[1, 7:].any()


def test_reverse_equals_flipping_the_valid_part():
    T, lengths = 15, (15, 6)
    x = inputs(T)
    h, *state = call(slstm.forward, x, torch.tensor(lengths), reverse=True)
    for row, length in enumerate(lengths):
        alone = x | {name: x[name][row : row + 1] for name in STATE}
        alone["x"] = x["x"][row : row + 1, :length].flip(1)
        h_row, *state_row = call(slstm.forward, alone)
        assert error(h[row, :length].flip(0), h_row[0]) < FLOAT64
        for a, b in zip(state, state_row):
            assert error(a[row], b[0]) < FLOAT64


@pytest.mark.parametrize(
    ("gate", "state", "at"),
    # A first step does not read its forget gate: n = 0.
    [case for case in itertools.product(range(4), (False, True), (0, 5)) if case != (1, False, 0)],
)
def test_nan_stays_in_its_stream_and_never_reaches_earlier_steps(gate, state, at):
    x = inputs(12)
    x = x if state else without_state(x)
    bad = x | {"x": x["x"].clone()}
    bad["x"][0, at, gate, 1] = torch.nan
    clean, dirty = call(slstm.forward, x), call(slstm.forward, bad)
    for a, b in zip(clean, dirty):  # the other row; the other head in the same row
        assert torch.equal(a[1], b[1])
        assert torch.equal(a[0, ..., 0, :], b[0, ..., 0, :])
    assert torch.equal(clean[0][0, :at], dirty[0][0, :at])
    assert dirty[0][0, at:, 1].isnan().all()
    wanted, grads = (call_backward(output_weights(12), s) for s in (x, bad))
    assert torch.equal(wanted[0][1], grads[0][1])
    assert all(a is None or torch.equal(a[1], b[1]) for a, b in zip(wanted[3:], grads[3:]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_infinite_gates_mean_no_input_keep_all_and_forget_all(dtype):
    T, cut = 12, 5
    x = cast(inputs(T), dtype)
    x["x"][:, cut:, 0], x["x"][:, cut:, 1] = -torch.inf, torch.inf
    before = call(slstm.forward, x | {"x": x["x"][:, :cut]})
    after = call(slstm.forward, x)
    for a, b in zip(before[2:], after[2:]):  # c, n, m; h still follows the output gate
        assert torch.equal(a, b)

    x = cast(inputs(T), dtype)
    x["x"][:, cut, 1] = -torch.inf
    h = call(slstm.forward, x)[1:]
    carried = call(slstm.forward, x | {"x": x["x"][:, :cut]})[1]
    empty = torch.zeros_like(carried)
    fresh = x | {"x": x["x"][:, cut:], "h0": carried, "c0": empty, "n0": empty, "m0": empty}
    for a, b in zip(h, call(slstm.forward, fresh)[1:]):
        assert error(a, b) < FORWARD
    grads = call_backward([w.to(dtype) for w in output_weights(T)], x)
    assert all(g.isfinite().all() for g in grads) and not grads[0][:, cut, 1].any()


@pytest.mark.parametrize("state", [False, True])
def test_an_emptied_state_gives_zero_and_starts_afresh(state):
    x = inputs(6)
    x = x if state else without_state(x)
    x["x"][:, :3, 0] = x["x"][:, :3, 1] = -torch.inf  # no input and nothing kept
    h, *end = call(slstm.forward, x | {"x": x["x"][:, :3]})
    assert not h.any() and not end[1].any() and not end[2].any()
    assert (end[3] == EMPTY_M).all()
    tail = without_state(x) | {"x": x["x"][:, 3:]}
    whole, fresh = call(slstm.forward, x), call(slstm.forward, tail)
    assert torch.equal(whole[0][:, 3:], fresh[0])
    assert all(torch.equal(a, b) for a, b in zip(whole[1:], fresh[1:]))
    assert all(g is None or g.isfinite().all() for g in call_backward(output_weights(6), x))


def test_zero_length_rows_pass_state_and_its_gradient_through():
    x, grads, lengths = inputs(6), output_weights(6), torch.tensor([0, 6])
    result = call(slstm.forward, x, lengths)
    assert not result[0][0].any()
    for name, state, gradient, wanted in zip(STATE, result[1:], call_backward(grads, x, lengths)[3:], grads[1:]):
        assert torch.equal(state[0], x[name][0])
        assert torch.equal(gradient[0], wanted[0])


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_pieces_with_carried_state_equal_the_whole_to_the_bit(reverse, dtype):
    x = cast(inputs(30, gates=4.0), dtype)
    state, pieces = {name: x[name] for name in STATE}, []
    spans = [slice(0, 1), slice(1, 12), slice(12, 30)]
    for span in reversed(spans) if reverse else spans:
        h, *end = call(slstm.forward, x | state | {"x": x["x"][:, span]}, reverse=reverse)
        state = dict(zip(STATE, end))
        pieces.append(h)
    whole = call(slstm.forward, x, reverse=reverse)
    assert torch.equal(torch.cat(pieces[::-1] if reverse else pieces, 1), whole[0])
    assert all(torch.equal(a, b) for a, b in zip(state.values(), whole[1:]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_steps_equal_the_sequence(dtype):
    x = cast(inputs(12), dtype)
    expected = call(slstm.forward, x)
    state = [x[name] for name in STATE]
    for t in range(12):
        state = slstm.step(x["x"][:, t], x["R"], x["b"], *state)
        assert torch.equal(state[0].to(dtype), expected[0][:, t])
    assert all(torch.equal(a, b) for a, b in zip(state, expected[1:]))


@pytest.mark.parametrize(("gates", "bar"), [(1, FORWARD), (5, FORWARD), (15, FORWARD_EXTREME)])
@pytest.mark.parametrize("seed", range(3))
def test_float32_stays_near_float64(gates, bar, seed):
    T = 251
    x = cast(inputs(T, gates=gates, seed=seed, size=16), torch.float32)
    x["R"] *= 0.5  # a contracting recurrence: a chaotic one amplifies rounding without bound, in any arithmetic
    exact = cast(x, torch.float64)
    got, wanted = call(slstm.forward, x), call(slstm.forward, exact)
    for name, a, b in zip(("h", *STATE), got, wanted):
        assert a.dtype == torch.float32
        assert error(a, b) < bar, name
    g = torch.Generator().manual_seed(seed)
    grads = [torch.randn(t.shape, generator=g) for t in got]
    wanted = call_backward([t.double() for t in grads], exact)
    for name, a, b in zip(NAMES, call_backward(grads, x), wanted):
        assert error(a, b) < GRADIENT, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_only_inputs_and_outputs(dtype):
    original = inputs(100, gates=2.0, size=8)
    rounded = cast(original, dtype)
    exact = call(slstm.forward, original)[0]
    ideal = call(slstm.forward, cast(rounded, torch.float64))[0].to(dtype).double()
    got = call(slstm.forward, rounded)
    assert [t.dtype for t in got] == [dtype, *[torch.float32] * 4]
    rms, ideal_rms = ((h.double() - exact).square().mean().sqrt() for h in (got[0], ideal))
    assert rms <= HALF_RMS_FACTOR * ideal_rms
    grads = call_backward([torch.ones_like(t) for t in got], rounded)
    assert [g.dtype for g in grads] == [dtype] * 3 + [torch.float32] * 4


@pytest.mark.parametrize(("batch", "T"), [(0, 5), (0, 0), (2, 0)])
def test_empty_batch_and_empty_time_are_legal(batch, T):
    x = inputs(T, batch=batch)
    for lengths, reverse in itertools.product((None, torch.zeros(batch, dtype=torch.int64)), (False, True)):
        result = call(slstm.forward, x, lengths, reverse=reverse)
        assert result[0].shape == (batch, T, H, D)
        assert all(torch.equal(a, x[name]) for name, a in zip(STATE, result[1:]))
        grads = call_backward(result, x, lengths, reverse=reverse)
        assert all(g.shape == x[name].shape for name, g in zip(NAMES, grads))
        assert not grads[1].any() and not grads[2].any()


def test_results_are_new_tensors_and_inputs_are_untouched():
    for T in (0, 9):
        x, grads = inputs(T), output_weights(T)
        before = {name: t.clone() for name, t in x.items()}
        results = (*call(slstm.forward, x), *call_backward(grads, x))
        owned = {t.untyped_storage().data_ptr() for t in (*x.values(), *grads) if t.numel()}
        assert not owned & {t.untyped_storage().data_ptr() for t in results if t.numel()}
        assert all(torch.equal(x[name], before[name]) for name in NAMES)
