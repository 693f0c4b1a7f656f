"""The feature cache serves what the adapter says today: nothing of other weights, other code, another recipe, task or data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from bench_data import MeanAdapter
from torch import nn

from benchecg.models import load_adapter
from benchecg.models.network import Contract
from benchecg.models.wrapped import Wrapped
from benchecg.protocols import record_tokens, unit_features
from benchecg.running import load_data, run
from benchecg.tasks import load_task
from xecg.signal import PRESETS


@pytest.fixture(scope="module")
def sex(small_code15):
    loaded = load_data(load_task("open-sex"), small_code15)
    first = {
        name: [i for i, r in enumerate(loaded.data.records) if r.split == name][:4] for name in ("train", "val", "test")
    }
    kept = sorted(i for part in first.values() for i in part)
    place = {i: n for n, i in enumerate(kept)}
    rows = np.isin(loaded.data.record, kept)
    data = replace(
        loaded.data, records=tuple(loaded.data.records[i] for i in kept), time_s=loaded.data.time_s[rows],
        record=np.array([place[i] for i in loaded.data.record[rows]]), label=loaded.data.label[rows],
    )  # fmt: skip
    return replace(loaded, task=replace(loaded.task, records_per_call=4), data=data)


def asked(loaded, adapter, folder, **facts):
    task = replace(loaded.task, **facts)
    return unit_features(task, loaded.data, adapter, data_sha256=loaded.data_sha256, cache=folder)


class Own(Wrapped):
    """A user's checkout; its scale is in no checkpoint, and neither is its code."""

    takes = Contract(PRESETS["xecg"], 100, token=100)
    fingerprint = "v1"

    def network(self):
        torch.manual_seed(0)
        return _Scaled()


class _Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.by = nn.Conv1d(12, 4, 100, stride=100), 1.0

    def forward(self, x):
        return self.by * self.layer(x).transpose(1, 2)


def _train(module):
    with torch.no_grad():
        next(p for p in module.parameters() if p.dim() > 1).add_(1e-3)


@pytest.mark.parametrize("name", ["xecg-random", "own"])
def test_trained_weights_are_another_model(sex, tmp_path, name):
    adapter = Own() if name == "own" else load_adapter(name)
    first = asked(sex, adapter, tmp_path)
    assert asked(sex, adapter, tmp_path).cached == first.blocks
    _train(adapter.module())
    again = asked(sex, adapter, tmp_path)
    assert again.cached == 0 and not np.array_equal(first.values, again.values)
    np.testing.assert_array_equal(again.values, asked(sex, adapter, None).values)


def test_a_wrapped_models_fingerprint_follows_its_weights_and_buffers():
    class Fixed(Own):
        fingerprint = property(Wrapped.fingerprint.fget)

    adapter = Fixed()
    before = adapter.fingerprint
    _train(adapter.module())
    trained = adapter.fingerprint
    adapter.module().register_buffer("mean", torch.zeros(1), persistent=False)
    assert len({before, trained, adapter.fingerprint}) == 3


def test_code_that_no_fingerprint_knows_is_found_by_its_features(sex, tmp_path):
    adapter = Own()
    first = asked(sex, adapter, tmp_path)
    adapter.module().by = 1.001
    again = asked(sex, adapter, tmp_path)
    assert again.cached == 0
    np.testing.assert_allclose(again.values, 1.001 * first.values, rtol=1e-5)
    assert asked(sex, adapter, tmp_path).cached == again.blocks


class Shifted(MeanAdapter):
    """A user's adapter that says v1 for ever."""

    by = 0.0

    def _one(self, r):
        found = super()._one(r)
        return replace(found, values=found.values + np.float32(self.by))


@pytest.mark.parametrize("of", [unit_features, record_tokens])
def test_a_users_adapter_that_forgets_its_fingerprint_is_not_served_what_is_old(sex, tmp_path, of):
    adapter = Shifted()

    def ask():
        return of(sex.task, sex.data, adapter, data_sha256="a", cache=tmp_path)

    blocks = ask().blocks
    assert ask().cached == blocks
    adapter.by = 0.01
    assert ask().cached == 0
    assert ask().cached == blocks


def test_recipe_task_profile_and_data_each_name_their_own_features(sex, tmp_path):
    adapter = MeanAdapter()
    assert asked(sex, adapter, tmp_path).cached == 0 < asked(sex, adapter, tmp_path).cached
    for facts in ({"version": "999"}, {"id": "other"}, {"profile": "authors"}, {"hides": ("age", "sex")}):
        assert asked(sex, adapter, tmp_path, **facts).cached == 0, facts
    other = replace(sex, data_sha256="b" * 64)
    assert asked(other, adapter, tmp_path).cached == 0
    adapter.spec_hash = "another recipe"
    assert asked(sex, adapter, tmp_path).cached == 0


def test_a_changed_sample_of_a_recording_is_other_data(small_mitdb, tmp_path):
    import shutil

    shutil.copytree(small_mitdb, tmp_path / "d")
    task = load_task("mitbih-beats")
    before = load_data(task, tmp_path / "d").data_sha256
    path = tmp_path / "d" / "mitdb" / "232.dat"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert load_data(task, tmp_path / "d").data_sha256 != before


def test_the_witness_costs_a_run_nothing_that_it_reports(small_code15, tmp_path):
    loaded = load_data(load_task("open-sex"), small_code15)
    runs = [run(loaded, MeanAdapter(), out=tmp_path / str(i), cache=tmp_path / "c") for i in range(2)]
    assert runs[0].cost["ecg_hours"] == pytest.approx(200 * 4 / 3_600)
    assert "ecg_hours" not in runs[1].cost and runs[1].cost["feature_blocks_cached"] == runs[1].cost["feature_blocks"]
