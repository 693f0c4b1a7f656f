"""The losses against values computed in float64 from the equations of SimDINO (arXiv 2502.10385) and RankMe."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.ops.waves import wave
from tests.tolerances import FLOAT64, GOLDEN, error
from xecg.errors import SpecError
from xecg.pretrain import losses

STUDENT = wave((4, 8, 6), (0.7, 0.9, 0.4), 0.1)
TEACHER = wave((2, 8, 6), (0.5, 0.8, 0.45), 0.2)
TWO_VIEWS = torch.stack([wave((8, 6), (0.9, 0.4), 0.1), wave((8, 6), (0.5, 0.7), 0.3)])
P, Q = wave((3, 10, 5), (0.7, 0.3, 0.9), 0.1), wave((3, 10, 5), (0.6, 0.35, 0.8), 0.2)
HIDDEN = torch.zeros(3, 10, dtype=torch.bool)
HIDDEN[0, 2:5] = True
HIDDEN[1, 0:6] = True


def gradient(value: Tensor, of: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(value, of)
    return found


def test_compression_value_and_gradient() -> None:
    z = STUDENT.clone().requires_grad_()
    loss = losses.compression(z, TEACHER)
    assert float(loss.detach()) == pytest.approx(0.766053149911, abs=GOLDEN)
    assert float(gradient(loss, z).norm()) == pytest.approx(0.092600510760, abs=GOLDEN)


@pytest.mark.parametrize(
    ("m", "p", "rate", "slope", "expansion"),
    [
        (8, 6, 4.082185449905, 0.069059945303, (-0.096218033790, -1.190637422889, -0.430300128430)),
        (5, 12, 4.747699693938, 0.084928598080, (-0.068527142408, None, None)),
        (32, 6, 4.098966523106, 0.022729166126, (-0.193227134956, None, None)),
    ],
)
def test_coding_rate_value_gradient_and_scales(m: int, p: int, rate: float, slope: float, expansion: tuple) -> None:
    z = wave((m, p), (0.9, 0.4), 0.1).requires_grad_()
    found = losses.coding_rate(z)
    assert float(found) == pytest.approx(rate, abs=GOLDEN)
    rows = torch.nn.functional.normalize(z.detach(), dim=-1)
    alpha = p / (m * losses.EPSILON)
    closed = alpha * rows @ torch.linalg.inv(torch.eye(p).double() + alpha * rows.mT @ rows)
    assert float(through_norm(closed, z.detach()).norm()) == pytest.approx(slope, abs=GOLDEN)
    assert error(gradient(found, z), through_norm(closed, z.detach())) < FLOAT64
    for rule, value in zip(losses.GAMMA_RULES, expansion):
        if value is not None:
            assert float(losses.expansion(z.detach()[None], rule=rule)) == pytest.approx(value, abs=GOLDEN)


def through_norm(slope: Tensor, z: Tensor) -> Tensor:
    """The gradient for z, from the one for its normalised rows."""
    norm = z.norm(dim=-1, keepdim=True)
    rows = z / norm
    return (slope - rows * (slope * rows).sum(-1, keepdim=True)) / norm


def test_coding_rate_of_collapsed_and_of_spread_vectors() -> None:
    assert float(losses.coding_rate(torch.ones(8, 6).double())) == pytest.approx(2.397895272798, abs=GOLDEN)
    assert float(losses.coding_rate(torch.eye(6).double())) == pytest.approx(9.133567313170, abs=GOLDEN)
    assert losses.rate_maximum(6, 6) == pytest.approx(9.133567313170, abs=GOLDEN)


def test_coding_rate_stays_exact_under_autocast() -> None:
    z = wave((32, 6), (0.9, 0.4), 0.1).float()
    with torch.autocast("cpu", torch.bfloat16):
        found = losses.coding_rate(z)
    assert found.dtype == torch.float32
    assert torch.equal(found, losses.coding_rate(z))


def test_coding_rate_of_broken_vectors_is_not_finite_and_raises_nothing() -> None:
    assert not math.isfinite(float(losses.coding_rate(torch.full((4, 3), math.nan))))


def test_expansion_is_the_mean_over_views() -> None:
    assert float(losses.expansion(TWO_VIEWS)) == pytest.approx(-0.096294639658, abs=GOLDEN)
    with pytest.raises(SpecError, match=r"gamma rule is 'half'.*sqrt, sum, root"):
        losses.expansion(TWO_VIEWS, rule="half")


def test_patch_term_in_both_averages() -> None:
    assert float(losses.patch_term(P, Q, HIDDEN)) == pytest.approx(0.009556192837, abs=GOLDEN)
    assert float(losses.patch_term(P, Q, HIDDEN, average="per-sample")) == pytest.approx(0.008432367004, abs=GOLDEN)


def test_patch_term_sees_hidden_tokens_only() -> None:
    p = P.clone().requires_grad_()
    slope = gradient(losses.patch_term(p, Q, HIDDEN), p)
    assert bool((slope[~HIDDEN] == 0).all()) and bool((slope[HIDDEN].abs().amax(-1) > 0).all())
    with pytest.raises(SpecError, match="no token is hidden"):
        losses.patch_term(P, Q, torch.zeros_like(HIDDEN))


def test_total_of_the_three_parts() -> None:
    total = losses.compression(STUDENT, TEACHER) + 0.1 * losses.expansion(TWO_VIEWS) + losses.patch_term(P, Q, HIDDEN)
    assert float(total) == pytest.approx(0.765979878781, abs=GOLDEN)


def test_rank_me() -> None:
    assert losses.rank_me(wave((16, 6), (0.9, 0.4), 0.1)) == pytest.approx(1.965789357912, abs=GOLDEN)
