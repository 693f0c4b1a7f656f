"""`XECG.encode`, `embed` and `step`: padding, masks, pieces, steps, gradients, refusals."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.tolerances import MODEL_FLOAT32, MODEL_FLOAT64, STREAM, error
from xecg.errors import ShapeError, XECGError
from xecg.model import XECG, XECGConfig
from xecg.signal.spec import SignalSpec

PATCH = 25


def _model(blocks: str = "ssmms", *, seed: int = 0, **kwargs: object) -> XECG:
    """A small encoder whose weights are all random, so that every path carries signal."""
    model = XECG(XECGConfig(blocks=blocks, dim=32, heads=4, **kwargs))  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def model() -> XECG:
    return _model()


def test_a_token_is_a_whole_patch(model: XECG) -> None:
    x = torch.randn(3, 12, 7 * PATCH + 24)
    assert model.encode(x).shape == (3, 7, 32)
    assert torch.equal(model.encode(x), model.encode(x[..., : 7 * PATCH]))
    assert model.encode(x[:0]).shape == (0, 7, 32)
    assert model.embed(x).shape == (3, 32)


def test_padding_never_enters(model: XECG) -> None:
    x, lengths = torch.randn(3, 12, 9 * PATCH), torch.tensor([9 * PATCH, 4 * PATCH + 24, 0])
    other = x.clone()
    other[1, :, 4 * PATCH :] = torch.nan  # an incomplete patch is padding, too
    other[2] = 1e30
    tokens = model.encode(x, lengths=lengths)
    assert torch.equal(model.encode(other, lengths=lengths), tokens)
    assert not tokens[1, 4:].any() and not tokens[2].any() and tokens[1, :4].all()
    hide = torch.zeros(3, 9, dtype=torch.bool)
    hide[1:, 4:] = True  # the mask token in place of padding stays out, too
    assert torch.equal(model.encode(x, lengths=lengths, hide=hide)[:2], tokens[:2])
    changed = x.clone()
    changed[1, :, 4 * PATCH - 1] += 1
    assert not torch.equal(model.encode(changed, lengths=lengths)[1, 0], tokens[1, 0])


def test_ragged_batch_equals_single_records(model: XECG) -> None:
    x, lengths = torch.randn(4, 12, 11 * PATCH), [11 * PATCH, 1 * PATCH, 5 * PATCH + 3, 8 * PATCH]
    tokens, vectors = model.encode(x, lengths=torch.tensor(lengths)), model.embed(x, lengths=torch.tensor(lengths))
    for b, n in enumerate(lengths):
        single = x[b : b + 1, :, :n]
        assert error(tokens[b, : n // PATCH], model.encode(single)[0]) < MODEL_FLOAT32
        assert error(vectors[b], model.embed(single)[0]) < MODEL_FLOAT32


@pytest.mark.parametrize("rank", [2, 3])
def test_trailing_missing_samples_shorten_the_record(model: XECG, rank: int) -> None:
    x = torch.randn(2, 12, 6 * PATCH)
    mask = torch.ones(2, 6 * PATCH, dtype=torch.bool)
    mask[1, 4 * PATCH :] = False
    shaped = mask if rank == 2 else mask[:, None].expand(-1, 12, -1)
    lengths = torch.tensor([6 * PATCH, 4 * PATCH])
    assert torch.equal(model.encode(x, mask=shaped), model.encode(x, lengths=lengths))
    assert torch.equal(model.embed(x, mask=shaped), model.embed(x, lengths=lengths))


def test_inner_gap_stays_in_the_sequence_but_not_in_the_mean(model: XECG) -> None:
    x, mask = torch.randn(1, 12, 6 * PATCH), torch.ones(1, 12, 6 * PATCH, dtype=torch.bool)
    mask[..., 2 * PATCH : 3 * PATCH] = False
    filled = x.masked_fill(~mask, 0)
    tokens = model.encode(x, mask=mask)
    assert torch.equal(tokens, model.encode(filled, lengths=torch.tensor([6 * PATCH])))
    assert model.valid_tokens(x, mask=mask).tolist() == [[True, True, False, True, True, True]]
    assert error(model.embed(x, mask=mask), tokens[:, [0, 1, 3, 4, 5]].mean(1)) < MODEL_FLOAT32
    junk = x.clone()
    junk[~mask] = torch.nan
    assert torch.equal(model.encode(junk, mask=mask), tokens)


def test_one_valid_sample_in_one_lead_makes_a_token_valid(model: XECG) -> None:
    x, mask = torch.randn(1, 12, 3 * PATCH), torch.zeros(1, 12, 3 * PATCH, dtype=torch.bool)
    mask[0, 7, PATCH + 13] = True
    assert model.valid_tokens(x, mask=mask).tolist() == [[False, True, False]]
    assert model.valid_tokens(x).all() and model.valid_tokens(x).shape == (1, 3)
    both = model.valid_tokens(x, mask=mask, lengths=torch.tensor([2 * PATCH - 1]))
    assert not both.any()


def test_max_pooling_takes_valid_tokens_only() -> None:
    model = _model("sm", pooling="max")
    x = torch.randn(2, 12, 5 * PATCH)
    lengths = torch.tensor([5 * PATCH, 2 * PATCH])
    tokens = model.encode(x, lengths=lengths)
    expected = torch.stack([tokens[0].amax(0), tokens[1, :2].amax(0)])
    assert torch.equal(model.embed(x, lengths=lengths), expected)


@pytest.mark.parametrize("blocks", ["s", "m", "sm", "mss", "ssmms"])
def test_pieces_give_the_same_tokens(blocks: str) -> None:
    model, x = _model(blocks).double(), torch.randn(3, 12, 23 * PATCH, dtype=torch.float64)
    lengths = torch.tensor([23, 9, 0]) * PATCH
    assert torch.equal(model.encode(x, chunk=23), model.encode(x))
    for chunk in (1, 5, 8, 22):
        assert error(model.encode(x, chunk=chunk), model.encode(x)) < MODEL_FLOAT64
        assert error(model.encode(x, chunk=chunk, lengths=lengths), model.encode(x, lengths=lengths)) < MODEL_FLOAT64


def test_hidden_patches_are_replaced_by_the_mask_token(model: XECG) -> None:
    x, hide = torch.randn(2, 12, 4 * PATCH), torch.tensor([[True, False, False, True], [False] * 4])
    other = x.clone()
    other[0, :, :PATCH] = 7
    assert torch.equal(model.encode(x, hide=hide), model.encode(other, hide=hide))
    assert torch.equal(model.encode(x, hide=hide)[1], model.encode(x)[1])
    assert not torch.equal(model.encode(x, hide=hide)[0], model.encode(x)[0])


def test_alternating_blocks_look_both_ways_and_causal_ones_only_back() -> None:
    x = torch.randn(1, 12, 8 * PATCH)
    late = x.clone()
    late[..., 6 * PATCH :] += 1
    both, causal = _model("sms"), _model("sms", alternate=False)
    assert (both.encode(x) != both.encode(late)).any(-1).all()
    assert (causal.encode(x) != causal.encode(late)).any(-1)[0].tolist() == [False] * 6 + [True] * 2


def test_steps_equal_one_call() -> None:
    model = _model("sms", alternate=False)
    x, state = torch.randn(3, 12, 40 * PATCH), model.initial_state(3)
    tokens = []
    for t in range(40):
        before = {name: value.clone() for name, value in state.items()}
        token, after = model.step(x[..., t * PATCH : (t + 1) * PATCH], state)
        assert all(torch.equal(state[name], before[name]) for name in state)
        tokens.append(token)
        state = after
    assert error(torch.stack(tokens, 1), model.encode(x)) < STREAM
    assert all(value.shape[0] == 3 for value in state.values())


def test_in_place_steps_have_the_same_bits() -> None:
    model = _model("ms", alternate=False)
    x, state, own = torch.randn(2, 12, PATCH), model.initial_state(2), model.initial_state(2)
    for _ in range(3):
        token, state = model.step(x, state)
        assert torch.equal(model.step_(x, own), token)
        assert all(torch.equal(own[name], state[name]) for name in own)


def test_state_size_is_the_stated_one() -> None:
    from xecg.model import load

    state = load("tiny-causal").initial_state(1)
    assert sum(t.numel() * t.element_size() for t in state.values()) == 76_816  # bytes a stream


def test_steps_are_refused_when_a_block_runs_backward(model: XECG) -> None:
    with pytest.raises(XECGError, match=r"backward in time.*tiny-causal"):
        model.initial_state(1)
    with pytest.raises(XECGError, match=r"backward in time.*tiny-causal"):
        model.step(torch.zeros(1, 12, PATCH), {})


def test_gradients_reach_every_parameter_and_only_valid_samples() -> None:
    model = _model().requires_grad_(True)
    x = torch.randn(2, 12, 6 * PATCH)
    x[1, :, 3 * PATCH :] = torch.nan
    x.requires_grad_(True)
    hide = torch.zeros(2, 6, dtype=torch.bool)
    hide[0, 2] = True
    model.encode(x, lengths=torch.tensor([6, 3]) * PATCH, hide=hide).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name
    assert x.grad is not None and not x.grad[1, :, 3 * PATCH :].any() and x.grad[1, :, : 3 * PATCH].any()


def test_other_leads_and_patches_work() -> None:
    config = XECGConfig(blocks="sm", dim=16, heads=2, leads=2, patch=10)
    model = XECG(config, spec=SignalSpec(leads=("I", "II"), patch=10))
    assert model.encode(torch.randn(1, 2, 100)).shape == (1, 10, 16)


def test_half_precision_stays_close() -> None:
    model, x = _model("sm"), torch.randn(2, 12, 8 * PATCH)
    expected = model.embed(x)
    found = model.bfloat16().embed(x)
    assert found.dtype == torch.bfloat16
    assert float(torch.cosine_similarity(found.float(), expected).min()) > 0.99  # bfloat16 has 8 bits


_X = torch.zeros(2, 12, 3 * PATCH)


@pytest.mark.parametrize(
    ("kwargs", "facts"),
    [
        ({"x": _X[0]}, ("(12, 75)", "(batch, 12, samples)")),
        ({"x": _X[:, :3]}, ("(2, 3, 75)", "12")),
        ({"x": _X.long()}, ("int64", "floating")),
        ({"x": _X[..., :24]}, ("24 samples", "25 samples")),
        ({"lengths": torch.tensor([75])}, ("lengths is (1,)", "(2,)")),
        ({"lengths": torch.tensor([75, 76])}, ("[76]", "0..75")),
        ({"lengths": torch.tensor([-1, 75])}, ("[-1]", "0..75")),
        ({"lengths": torch.tensor([75.0, 75.0])}, ("float32", "integer")),
        ({"mask": torch.ones(2, 75)}, ("float32", "bool")),
        ({"mask": torch.ones(2, 3, dtype=torch.bool)}, ("mask is (2, 3)", "(2, 75)")),
        ({"pad_rule": "zeros"}, ("'zeros'", "'first-sample'")),
        ({"pad_rule": "first-sample", "lengths": torch.tensor([75, 75])}, ("pad_rule", "lengths")),
    ],
)
def test_bad_arguments_name_what_was_found_and_what_is_needed(
    model: XECG, kwargs: dict, facts: tuple[str, ...]
) -> None:
    kwargs = {"x": _X} | kwargs
    for call in (model.encode, model.embed, model.valid_tokens):
        with pytest.raises(ShapeError) as caught:
            call(kwargs["x"], **{name: value for name, value in kwargs.items() if name != "x"})
        assert all(fact in str(caught.value) for fact in facts), str(caught.value)


def test_other_bad_arguments_are_refused(model: XECG) -> None:
    with pytest.raises(ShapeError, match=r"records \[1\]"):
        model.embed(_X, lengths=torch.tensor([75, 24]))
    with pytest.raises(ShapeError, match="hide is"):
        model.encode(_X, hide=torch.zeros(2, 4, dtype=torch.bool))
    with pytest.raises(ShapeError, match="chunk is 0"):
        model.encode(_X, chunk=0)
    with pytest.raises(ShapeError, match="one patch a stream"):
        _model("s").step(torch.zeros(1, 12, 24), {})


def test_first_sample_rule_keeps_padding_in_the_recurrence(model: XECG) -> None:
    x = torch.randn(1, 12, 4 * PATCH)
    x[..., 3 * PATCH :] = 0
    tokens: Tensor = model.encode(x, pad_rule="first-sample")
    assert torch.equal(tokens, model.encode(x)) and tokens[0, 3].any()
    assert model.valid_tokens(x, pad_rule="first-sample").tolist() == [[True, True, True, False]]


@pytest.mark.slow
def test_encoder_compiles_without_a_graph_break(model: XECG) -> None:
    x = torch.randn(2, 12, 8 * PATCH)
    with torch.no_grad():
        found = torch.compile(model.encode, fullgraph=True)(x)
        torch.testing.assert_close(found, model.encode(x), rtol=1e-4, atol=1e-4)
