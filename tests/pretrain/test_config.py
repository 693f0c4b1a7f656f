"""Promises of settings from files: the recipe that ships parses and costs what its page says; strict about keys and types."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from tests.pretrain.test_corpus import write
from xecg import load
from xecg.cli import main
from xecg.errors import SpecError
from xecg.model import XECG, XECGConfig
from xecg.pretrain.corpus import BENCHMARKS
from xecg.pretrain.settings import Settings, read_settings
from xecg.pretrain.views import ViewSettings

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "configs" / "base-public.yaml"


def test_the_recipe_is_the_published_one() -> None:
    found = read_settings(RECIPE)
    assert (found.model, found.batch, found.steps, found.rate, found.warmup) == ("base", 512, 76_000, 1e-4, 0.1)
    assert (found.layer_decay, found.first_decay, found.last_decay, found.first_beta) == (0.9, 0.04, 0.4, 0.99)
    assert (found.expansion, found.gamma, found.scope, found.precision) == (0.1, "sqrt", "global", "bfloat16")
    assert (found.views.gain, found.views.mask_ratio, found.views.mask_block) == (0.05, 0.3, 4)
    written = set(re.findall(r"^ {0,2}(\w+):", RECIPE.read_text(), re.MULTILINE))
    assert {"steps", "rate", "clip", "lead_drop", "local_views"} <= written


@pytest.mark.parametrize("name", ["tiny", "tiny-causal"])
def test_the_weights_that_ship_name_a_recipe_that_parses(name: str) -> None:
    found, card = read_settings(ROOT / "configs" / f"{name}.yaml"), load(name).card
    assert found.model == name and f"--config configs/{name}.yaml" in card
    assert f"{found.steps:,} steps of {found.batch} records" in card


def test_the_page_counts_right() -> None:
    page = " ".join((ROOT / "docs" / "PRETRAINING.md").read_text().split())
    with torch.device("meta"):
        parameters = sum(p.numel() for p in XECG(XECGConfig.preset("base")).parameters())
    recipe = read_settings(RECIPE)
    views, patch = recipe.views, XECGConfig.preset("base").patch

    def passes(samples: int) -> int:
        wide, narrow = (int(samples * f) // patch for f in (views.global_fraction, views.local_fraction))
        student = views.global_views * wide + views.local_views * narrow
        return 3 * student + views.global_views * wide

    records, visits = 345_779 + 45_152, recipe.steps * recipe.batch
    per_record = 2 * parameters * passes(1200)
    hours = [per_record * visits / (share * 800e12) / 3600 for share in (0.25, 0.4)]
    for text in (
        f"{parameters / 1e6:.1f} M parameters", f"{passes(1200)} token passes, {per_record / 1e9:.0f} GFLOP",
        f"{passes(1000)} token passes, {2 * parameters * passes(1000) * visits / 1e18:.1f} EFLOP",
        f"| {per_record * recipe.batch / 1e12:.0f} TFLOP |", f"{per_record * visits / 1e18:.1f} EFLOP at 12 s",
        f"{records:,}, one a record", f"{records * 12 * 1000 * 2 / 1e9:.1f} GB of counts",
        f"× 512 = {visits / 1e6:.1f} M, {visits / records:.0f} epochs",
        f"25 % of 800 TFLOP/s | {hours[0]:.1f} |", f"40 % of 800 TFLOP/s | {hours[1]:.1f} |",
    ):  # fmt: skip
        assert text in page, text
    for rule in BENCHMARKS[:1] + BENCHMARKS[5:8]:
        assert rule.name.removesuffix(" Database") in page


def invoke(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def test_the_recipe_is_taken_by_the_command(tmp_path: Path) -> None:
    write(tmp_path / "in", "r", seed=1)
    done = invoke("pretrain", "--config", RECIPE, "--data", tmp_path / "in", "-o", tmp_path / "out")
    assert done.exit_code == 1 and "corpus holds 1 windows; needed at least one batch, 512" in done.stderr


def test_options_come_before_the_file_and_defaults_do_not(tmp_path: Path) -> None:
    for i in range(4):
        write(tmp_path / "in", f"r{i}", seed=i)
    (tmp_path / "mine.yaml").write_text("model: tiny-causal\nsteps: 1\nbatch: 3\nviews: {local_views: 0, gain: 0.07}\n")
    asked = ["pretrain", "--config", tmp_path / "mine.yaml", "--data", tmp_path / "in", "-o", tmp_path / "out"]
    done = invoke(*asked, "--batch", 2, "--stretch", 0.02)
    assert done.exit_code == 0, done.stderr
    import json

    found = Settings.from_dict(json.loads((tmp_path / "out" / "settings.json").read_text()))
    views = ViewSettings(local_views=0, gain=0.07, rate=0.02)
    assert found == Settings(model="tiny-causal", steps=1, batch=2, views=views)


def test_a_preset_is_its_defaults() -> None:
    assert read_settings("tiny-causal") == Settings(model="tiny-causal")
    assert Settings.from_dict(Settings(model="tiny", seed=3).to_dict()) == replace(Settings(model="tiny"), seed=3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: tiny\nstep: 3\n", "settings key is 'step'"),
        ("views: {gian: 0.1}\n", "views key is 'gian'"),
        ("views: 3\n", "needed keys and values"),
        ("rate: 1e-4\n", "rate is '1e-4', a str; needed float"),
        ("steps: 3.5\n", "steps is 3.5, a float; needed int"),
        ("steps: true\n", "steps is True, a bool"),
        ("scope: some\n", "scope is 'some'"),
        ("- a\n- b\n", "holds list; needed keys and values"),
        ("a: [1\n", "is no YAML"),
        ("a: !!python/object/apply:os.system ['true']\n", "is no YAML"),
        ("model: nothing\n", "nothing"),
    ],
)
def test_what_a_file_may_not_say(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(SpecError, match=re.escape(message)):
        read_settings(tmp_path / "c.yaml")
    with pytest.raises(SpecError, match="no such file; needed a YAML file or one of"):
        read_settings(tmp_path / "none.yaml")
