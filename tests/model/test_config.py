"""`XECGConfig` and the seeded initial weights."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
import torch

from xecg.errors import SpecError
from xecg.model import XECG, XECGConfig
from xecg.model.config import PRESETS, SIGNAL_PRESET
from xecg.model.convert import to_official
from xecg.signal.spec import PRESETS as SIGNALS
from xecg.signal.spec import SignalSpec


def _on_meta(config: XECGConfig) -> XECG:
    with torch.device("meta"):
        return XECG(config)


@pytest.mark.parametrize(("name", "count"), [("base", 57_021_472), ("tiny", 581_520), ("tiny-causal", 364_040)])
def test_presets_have_the_stated_parameter_counts(name: str, count: int) -> None:
    assert sum(p.numel() for p in _on_meta(XECGConfig.preset(name)).parameters()) == count


def test_base_has_the_123_official_tensors() -> None:
    official = to_official(_on_meta(PRESETS["base"]))
    assert len(official) == 123
    assert official["core.model.blocks.0.xlstm.slstm_cell._recurrent_kernel_"].shape == (4, 256, 1024)
    assert official["core.model.blocks.8.ffn.proj_up.weight"].shape == (2688, 1024)
    assert official["core.model.blocks.2.xlstm.mlstm_cell.fgate.weight"].shape == (4, 6144)
    assert official["core.model.blocks.7.xlstm.conv1d.conv.weight"].shape == (2048, 1, 4)


@pytest.mark.parametrize(("dim", "ffn"), [(96, 128), (128, 192), (160, 256), (192, 256), (256, 384), (1024, 1344)])
def test_feed_forward_width_is_the_published_one(dim: int, ffn: int) -> None:
    assert XECGConfig(dim=dim).ffn == ffn


@pytest.mark.parametrize("name", PRESETS)
def test_config_survives_json(name: str) -> None:
    config = XECGConfig.preset(name)
    assert XECGConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert len(SIGNALS[SIGNAL_PRESET[name]].leads) == config.leads
    assert SIGNALS[SIGNAL_PRESET[name]].patch == config.patch


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        ({"blokcs": "sm"}, ("'blokcs'", "'blocks'")),
        ({"zzz": 1}, ("'zzz'", "known keys")),
        ({"blocks": "sxm"}, ("'sxm'", "'m' (mLSTM)")),
        ({"blocks": ""}, ("''",)),
        ({"dim": 130}, ("130", "multiple of heads")),
        ({"dim": "128"}, ("'128'", "whole number")),
        ({"dim": True}, ("True", "whole number")),
        ({"heads": 0}, ("0", "1..")),
        ({"alternate": 1}, ("1", "true or false")),
        ({"pooling": "sum"}, ("'sum'", "'mean' or 'max'")),
    ],
)
def test_bad_config_is_refused_with_the_value_and_the_rule(change: dict, facts: tuple[str, ...]) -> None:
    with pytest.raises(SpecError) as caught:
        XECGConfig.from_dict(PRESETS["tiny"].to_dict() | change)
    assert all(fact in str(caught.value) for fact in facts)


def test_incomplete_config_is_refused() -> None:
    data = PRESETS["tiny"].to_dict()
    del data["heads"]
    with pytest.raises(SpecError, match="'heads'"):
        XECGConfig.from_dict(data)


def test_signal_spec_must_fit_the_config() -> None:
    with pytest.raises(SpecError, match=r"leads is 12.*says 2"):
        XECG(PRESETS["tiny"], spec=SignalSpec(leads=("I", "II")))


def test_direction_alternates_from_forward() -> None:
    assert [PRESETS["base"].reverse(n) for n in range(9)] == [False, True] * 4 + [False]
    assert [block.reverse for block in _on_meta(PRESETS["tiny-causal"]).blocks] == [False] * 3
    assert PRESETS["tiny-causal"].causal and not PRESETS["tiny"].causal and XECGConfig(blocks="s").causal


def test_same_seed_same_bits_whatever_ran_before() -> None:
    first = XECG(PRESETS["tiny"], seed=3).state_dict()
    torch.randn(7)
    again, other = XECG(PRESETS["tiny"], seed=3).state_dict(), XECG(PRESETS["tiny"], seed=4).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["patch.weight"], other["patch.weight"])


def test_initial_weights_follow_the_published_rules() -> None:
    model = XECG(XECGConfig(blocks="smms", dim=256))
    s, m, last = model.blocks[0], model.blocks[1], model.blocks[3]
    small, wang = math.sqrt(2 / (5 * 256)), 2 / (4 * math.sqrt(256))
    for parameter, std in (
        (m.up, small),
        (m.q, small),
        (s.in_f, small),
        (s.ffn_up, small),
        (m.down, wang),
        (s.ffn_down, wang),
    ):
        assert abs(float(parameter.detach().std()) / std - 1) < 0.1
    assert torch.equal(m.gate_f.bias, torch.linspace(3, 6, 4))
    for zero in (
        m.gate_i.weight,
        m.gate_f.weight,
        s.R,
        s.bias[[0, 2, 3]],
        m.norm.weight,
        s.headnorm.weight,
        s.conv.bias,
    ):
        assert not zero.any()
    assert torch.equal(m.skip, torch.ones(512))
    place = torch.arange(64) / 63
    torch.testing.assert_close(s.bias[1], (5 - 12 * place**0.3).expand(4, 64))
    torch.testing.assert_close(last.bias[1], (5 - 12 * place**1.6).expand(4, 64))
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_config_needs_no_torch() -> None:
    code = "import sys, xecg.model; xecg.model.XECGConfig(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
