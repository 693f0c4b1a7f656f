"""Heads: what they answer, the losses that train them, and the file that holds them."""

import numpy as np
import pytest
import torch
from torch import nn

from benchecg.protocols.cox import efron as efron_of_numpy
from xecg.errors import CheckpointError, ShapeError, SpecError
from xecg.model import XECG, Head, HeadSpec, XECGConfig, heads, load, load_head, save_head
from xecg.model.heads import efron, loss_of

SPECS = (
    HeadSpec("multiclass", ("N", "S", "V"), of="token"),
    HeadSpec("multilabel", ("MI", "HYP"), pooling="max"),
    HeadSpec("panel", ("a/low", "a/high", "b/low", "b/normal", "b/high")),
    HeadSpec("binary", ("no", "yes"), covariates=("age", "sex")),
    HeadSpec("regression", unit="years"),
    HeadSpec("survival"),
    HeadSpec("peaks", ("R",), of="token", heights=25, threshold=0.4),
)


def _head(spec: HeadSpec, width: int = 6) -> Head:
    head = Head(spec, width, card="about")
    torch.manual_seed(0)
    with torch.no_grad():
        for t in (head.weight, head.bias, head.centre):
            t.normal_()
        head.scale.uniform_(0.5, 2)
        head.offset.fill_(50.0)
        head.spread.fill_(10.0)
    return head


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.kind)
def test_a_head_comes_back_from_its_file_with_the_same_bits(spec, tmp_path):
    head = _head(spec)
    save_head(head, tmp_path / "h.safetensors")
    assert load_head(tmp_path / "h.safetensors").errors == {}
    head.errors = {"on": "others", "metrics": {"f1": [0.5, None, 0.9]}, "each": "F1", "by_record": {"a": None}}
    save_head(head, tmp_path / "h.safetensors")
    again = load_head(tmp_path / "h.safetensors")
    assert again.spec == spec and again.card == "about" and again.width == 6 and again.errors == head.errors
    tokens, covariates = torch.randn(3, 7, 6), torch.randn(3, 2) if spec.covariates else None
    logits = again(tokens, None, covariates)
    assert torch.equal(logits, head(tokens, None, covariates))
    assert logits.shape == ((3, 7, spec.outputs) if spec.of == "token" else (3, spec.outputs))


def test_answers_are_probabilities_numbers_or_hazards():
    logits = torch.randn(4, 5)
    panel = _head(SPECS[2]).answer(logits)
    torch.testing.assert_close(panel[:, :2].sum(1), torch.ones(4))
    torch.testing.assert_close(panel[:, 2:].sum(1), torch.ones(4))
    torch.testing.assert_close(_head(SPECS[0]).answer(logits).sum(1), torch.ones(4))
    torch.testing.assert_close(_head(SPECS[1]).answer(logits), logits.sigmoid())
    torch.testing.assert_close(_head(SPECS[4]).answer(logits), 50 + 10 * logits)
    assert _head(SPECS[5]).answer(logits) is logits


def test_padding_is_not_pooled():
    head, tokens = _head(SPECS[1]), torch.randn(2, 5, 6)
    valid = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    torch.testing.assert_close(head(tokens, valid)[1:], head(tokens[1:, :3]))


def test_efron_equals_the_worked_value_and_the_numpy_form_with_ties():
    t, e, r = [5.0, 3, 3, 1, 4], [1, 1, 1, 0, 0], [0.5, -0.2, 0.3, 1.0, -1.0]
    value = efron(*(torch.tensor(x, dtype=torch.float64) for x in (r, t, e)))
    assert float(value) == pytest.approx(0.8210810355, abs=1e-9)
    rng = np.random.default_rng(0)
    t, e, r = rng.integers(1, 9, 60).astype(float), rng.integers(0, 2, 60).astype(float), rng.normal(size=60)
    mine = efron(*(torch.from_numpy(x) for x in (r, t, e)))
    assert float(mine) == pytest.approx(efron_of_numpy(r, t, e) / e.sum())
    assert float(efron(torch.ones(2), torch.ones(2), torch.zeros(2))) == 0


def test_efron_has_the_gradient_of_its_value():
    t, e = torch.tensor([5.0, 3, 3, 1, 4, 3]), torch.tensor([1.0, 1, 1, 0, 0, 1])
    r = torch.randn(6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: efron(x, t, e), r)


@pytest.mark.parametrize(
    ("spec", "target", "other"),
    [
        (SPECS[0], torch.tensor([0, 2, -1]), torch.tensor([0, 2, 1])),
        (SPECS[1], torch.tensor([[1, 0], [0, 1], [float("nan")] * 2]), None),
        (SPECS[2], torch.tensor([[1, 0, 0, 0, 1], [0, 1, 1, 0, 0], [float("nan")] * 5]), None),
    ],
    ids=lambda s: getattr(s, "kind", ""),
)
def test_what_is_unknown_adds_nothing_to_the_loss(spec, target, other):
    head, logits = _head(spec), torch.randn(3, spec.outputs, requires_grad=True)
    loss = loss_of(head, logits, target)
    loss.backward()
    assert loss.item() == pytest.approx(float(loss_of(head, logits[:2], target[:2])), rel=1e-6)
    assert not logits.grad[2].any() and logits.grad[:2].any()
    if other is not None:
        assert float(loss_of(head, logits, other)) != pytest.approx(float(loss))


def test_losses_are_those_of_torch():
    logits = torch.randn(5, 1)
    years = torch.tensor([40.0, 50, 60, 70, 80])
    expected = nn.functional.mse_loss(logits[:, 0], (years - 50) / 10)
    torch.testing.assert_close(loss_of(_head(SPECS[4]), logits, years), expected)
    yes = torch.tensor([0.0, 1, 1, 0, 1])
    expected = nn.functional.binary_cross_entropy_with_logits(logits[:, 0], yes)
    torch.testing.assert_close(loss_of(_head(SPECS[3]), logits, yes), expected)


def test_a_head_of_another_encoder_is_refused(tmp_path):
    config = XECGConfig(blocks="ms", dim=8, heads=2)
    mine, other = XECG(config, seed=1, name="mine"), XECG(config, seed=2, name="other")
    spec = HeadSpec("binary", ("no", "yes"), encoder=mine.name, fingerprint=mine.fingerprint)
    save_head(Head(spec, 8), tmp_path / "h.safetensors")
    load_head(tmp_path / "h.safetensors", mine)
    with pytest.raises(CheckpointError, match=r"fitted on encoder 'mine'.*this one is 'other'"):
        load_head(tmp_path / "h.safetensors", other)


def test_every_head_that_ships_is_of_the_encoder_that_ships_beside_it():
    found = sorted(heads._HEADS.glob("*.safetensors"))
    assert found
    for path in found:
        encoder = load_head(path.stem).spec.encoder
        assert load_head(path.stem, load(encoder)).card and path.stat().st_size <= 50_000, path.stem
        assert path.stem.startswith(f"{encoder}-")


def test_a_damaged_absent_or_foreign_file_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="head is not readable"):
        load_head(tmp_path / "absent.safetensors")
    from safetensors.torch import save

    (tmp_path / "w.safetensors").write_bytes(save({"weight": torch.zeros(1, 2)}))
    with pytest.raises(CheckpointError, match="Is it a head"):
        load_head(tmp_path / "w.safetensors")
    path = tmp_path / "h.safetensors"
    save_head(_head(SPECS[0]), path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match="damaged"):
        load_head(path)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"kind": "guess"}, "kind is 'guess'"),
        ({"kind": "binary", "classes": ("a", "b", "c")}, "binary head needs 2"),
        ({"kind": "multiclass", "classes": ("a", "a")}, "none twice"),
        ({"kind": "panel", "classes": ("a", "b")}, "question/class"),
        ({"kind": "peaks", "classes": ("R",)}, "needs heights"),
        (
            {"kind": "multiclass", "classes": ("a", "b"), "of": "token", "covariates": ("age",)},
            "covariates are of a record",
        ),
    ],
)
def test_a_specification_that_cannot_be_is_refused(wrong, says):
    with pytest.raises(SpecError, match=says):
        HeadSpec(**wrong)


def test_wrong_tokens_or_covariates_are_refused():
    with pytest.raises(ShapeError, match=r"needed \(batch, tokens, 6\)"):
        _head(SPECS[1])(torch.zeros(2, 3, 5))
    with pytest.raises(ShapeError, match="age, sex"):
        _head(SPECS[3])(torch.zeros(2, 3, 6))


@pytest.mark.parametrize("name", ["tiny", "tiny-causal"])
def test_the_heads_that_ship_belong_to_the_encoders_that_ship(name):
    from xecg import load

    head = load_head(f"{name}-beats", load(name))
    assert head.spec.classes == ("N", "S", "V", "other") and head.spec.of == "token"
    assert head.spec.after == (1 if name == "tiny-causal" else 0)
    assert "DS1" in head.card and "not a medical device" in head.card and "| 233 |" in head.card
