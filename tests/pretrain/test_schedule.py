"""Schedules at the points that the published recipe fixes, and which parameter belongs to which group."""

from __future__ import annotations

import math

import pytest
import torch

from tests.tolerances import GOLDEN
from xecg.model import XECG, XECGConfig
from xecg.pretrain import schedule
from xecg.signal import PRESETS


def test_learning_rate_warms_up_and_falls_to_zero() -> None:
    found = [schedule.learning_factor(step, 1000, 100) for step in (0, 50, 100, 550, 999)]
    assert found == pytest.approx([0, 0.5, 1, 0.5, 0.000003046171], abs=GOLDEN)
    assert schedule.learning_factor(0, 10, 0) == 1


def test_weight_decay_grows_in_a_line() -> None:
    assert [schedule.weight_decay(s, 1000) for s in (0, 500, 999)] == pytest.approx([0.04, 0.22, 0.39964], abs=GOLDEN)


def test_ten_steps_of_the_teacher() -> None:
    config = XECGConfig(blocks="s", dim=8, heads=2, leads=12, patch=25)
    teacher, student = (XECG(config, spec=PRESETS["poly"]) for _ in range(2))
    for model, value in ((teacher, 1.0), (student, 0.0)):
        model.double()
        for parameter in model.parameters():
            parameter.data.fill_(value)
    for step in range(10):
        schedule.update_teacher_(teacher, student, schedule.ema_beta(step, 10))
    for parameter in teacher.parameters():
        assert parameter.flatten()[0].item() == pytest.approx(0.946302006874, abs=GOLDEN)


def test_layer_factors_of_nine_blocks() -> None:
    patch, *blocks = schedule.layer_factors(9)
    expected = [0.387420, 0.430467, 0.478297, 0.531441, 0.59049, 0.6561, 0.729, 0.81, 0.9]
    assert blocks == pytest.approx(expected, abs=1e-6) and patch == pytest.approx(0.348678, abs=1e-6)


def test_every_parameter_is_in_one_group_and_vectors_do_not_decay() -> None:
    model = XECG(XECGConfig.preset("tiny"), spec=PRESETS["poly"])
    groups = schedule.parameter_groups(model)
    owner = {name: group for group in groups for name in group["names"]}
    assert sorted(name for group in groups for name in group["names"]) == sorted(n for n, _ in model.named_parameters())
    assert sum(p.numel() for group in groups for p in group["params"]) == sum(p.numel() for p in model.parameters())
    assert owner["mask_token"]["factor"] == 1 and math.isclose(owner["patch.weight"]["factor"], 0.9**6)
    assert math.isclose(owner["blocks.0.ffn_up"]["factor"], 0.9**5)
    assert math.isclose(owner["blocks.4.ffn_up"]["factor"], 0.9)
    still = [n for n, group in owner.items() if not group["decays"]]
    assert {"mask_token", "blocks.0.bias", "blocks.0.norm.weight", "blocks.2.skip", "blocks.2.gate_i.bias"} <= set(
        still
    )
    assert not {"patch.weight", "blocks.0.R", "blocks.2.up"} & set(still)
    assert all(p.dim() > 1 for g in groups if g["decays"] for p in g["params"])
    assert isinstance(groups[0]["params"][0], torch.nn.Parameter)
