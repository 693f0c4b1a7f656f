"""Adapters: the token contract, the baselines, xECG's own, and the self-test for a user's."""

import numpy as np
import pytest
from bench_data import MeanAdapter

from benchecg.models import MODELS, Adapter, Tokens, load_adapter
from benchecg.models.baselines import Constant, Demographics, RRIntervals
from benchecg.validation import validate_adapter
from xecg.errors import ShapeError, SpecError
from xecg.signal import simulate


def _tokens(start, length, values=None):
    values = np.arange(len(start), dtype=np.float32)[:, None] if values is None else values
    return Tokens(values, start_s=np.array(start, float), length_s=np.array(length, float))


def test_a_time_takes_the_token_that_holds_it():
    index, inside = _tokens([0, 0.25, 1.0], [0.25, 0.25, 0.25]).at(np.array([-0.1, 0, 0.249, 0.25, 0.6, 1.2, 1.25]))
    assert inside.tolist() == [False, True, True, True, False, True, False]
    assert index[inside].tolist() == [0, 0, 1, 2]


@pytest.mark.parametrize(
    ("start", "values", "says"),
    [
        ([0.0], np.ones((2, 1), np.float32), r"start_s has shape \(1,\); needed \(2,\)"),
        ([0.0, 1.0], np.array([[1.0], [np.nan]], np.float32), "1 token values are not finite"),
        ([1.0, 0.0], np.ones((2, 1), np.float32), "ascending starts"),
        ([], np.ones((0, 3), np.float32), "at least one token"),
    ],
)
def test_tokens_out_of_contract_are_refused(start, values, says):
    with pytest.raises(ShapeError, match=says):
        Tokens(values, start_s=np.array(start), length_s=np.ones(len(values)))


@pytest.mark.parametrize("name", ["majority", "rr", "age-sex", "xecg-tiny", "xecg-random"])
def test_our_adapters_keep_the_contract(name):
    failed = [c for c in validate_adapter(load_adapter(name), long_s=30) if not c.passed]
    assert not failed


def test_self_test_finds_a_model_that_depends_on_its_companions():
    class Leaky(MeanAdapter):
        def features(self, recordings):
            shift = np.float32(len(recordings) - 1)
            return [Tokens(t.values + shift, t.start_s, t.length_s) for t in super().features(recordings)]

    failed = [c.name for c in validate_adapter(Leaky(), long_s=5) if not c.passed]
    assert failed == ["companions in the batch change nothing"]


def test_self_test_reports_a_crash_as_a_finding():
    class Crashing(MeanAdapter):
        def features(self, recordings):
            if recordings[0].duration_s < 2:
                raise RuntimeError("too short for my convolution")
            return super().features(recordings)

    failed = [c for c in validate_adapter(Crashing(), long_s=5) if not c.passed]
    assert [c.name for c in failed] == ["1 s"] and "too short for my convolution" in failed[0].found


def test_rr_tokens_cover_the_record_and_hold_the_true_beats():
    recording = simulate.ecg(seed=3, rate_hz=360, duration_s=60, rhythm="af")
    tokens = RRIntervals().features([recording])[0]
    assert tokens.start_s[0] == 0
    assert tokens.start_s[-1] + tokens.length_s[-1] == pytest.approx(recording.duration_s)
    index, inside = tokens.at(recording.annotations.sample / recording.rate)
    assert inside.all() and len(set(index.tolist())) >= 0.95 * len(index)


def test_rr_features_do_not_use_annotations():
    recording = simulate.ecg(seed=3, duration_s=20)
    with_marks, without = RRIntervals().features([recording, recording.with_(annotations=None)])
    np.testing.assert_array_equal(with_marks.values, without.values)


def test_demographics_flag_what_is_unknown():
    recording = simulate.ecg(seed=1, age=70, sex="F")
    known, unknown = (t.values[0] for t in Demographics().features([recording, recording.with_(meta={})]))
    assert known[:4].tolist() == [70, 0, 0, 1]
    assert unknown[:4].tolist() == [50, 1, 0, 0]


def test_a_signal_without_beats_still_gives_features():
    flat = simulate.ecg(seed=1, duration_s=2).with_(signal=np.zeros((12, 1000), np.float32))
    for adapter in (Constant(), RRIntervals(), Demographics()):
        assert adapter.features([flat])[0].values.shape[0] == 1


def test_xecg_tokens_are_the_models_own():
    import torch

    from xecg import load, preprocess

    recording = simulate.ecg(seed=2, duration_s=10)
    tokens = load_adapter("xecg-tiny").features([recording])[0]
    model = load("tiny")
    ready = preprocess(recording, model.spec)
    with torch.inference_mode():
        want = model.encode(torch.as_tensor(ready.x)[None], mask=torch.as_tensor(ready.mask)[None])[0].numpy()
    np.testing.assert_allclose(tokens.values, want, atol=1e-5)
    assert tokens.start_s[:3] == pytest.approx([0, 0.25, 0.5]) and (tokens.length_s == 0.25).all()


def test_untrained_weights_are_called_untrained():
    tiny, floor = load_adapter("xecg-tiny"), load_adapter("xecg-random")
    assert floor.trained is False and "UNTRAINED" in floor.about and floor.fingerprint != tiny.fingerprint
    assert tiny.trained and "UNTRAINED" not in tiny.about and "CODE-15 %" in (tiny.pretrained_on or ())


def test_a_users_adapter_is_loaded_by_module_and_class():
    assert load_adapter("bench_data:MeanAdapter").id == "mean"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gpt", "no model 'gpt'; the models are xecg-tiny"),
        ("nowhere:Thing", "could not be loaded"),
        ("bench_data:Nothing", "could not be loaded"),
        ("fractions:Fraction", "has no .*features"),
    ],
)
def test_a_wrong_adapter_is_named_with_what_is_needed(name, says):
    with pytest.raises(SpecError, match=says):
        load_adapter(name)


def test_every_listed_model_loads():
    for name in MODELS:
        adapter = load_adapter(name)
        assert adapter.id == name and all(hasattr(adapter, a) for a in Adapter.__annotations__)


def test_tokens_that_are_no_arrays_are_refused_by_name():
    with pytest.raises(ShapeError, match="token start_s is a float; needed numpy arrays"):
        Tokens(np.ones((1, 2), np.float32), start_s=0.0, length_s=np.ones(1))


def test_a_users_class_that_is_not_found_says_where_it_is_looked_for():
    with pytest.raises(SpecError, match=r"PYTHONPATH=\."):
        load_adapter("no_such_module:Model")
    with pytest.raises(SpecError, match="no attribute 'Nope'"):
        load_adapter("bench_data:Nope")


def test_a_bug_in_a_users_constructor_is_not_called_a_missing_module():
    with pytest.raises(AttributeError, match="own_bug"):
        load_adapter("bench_data:BrokenConstructor")


@pytest.mark.parametrize("name", [":", "os:path", "os:nothing", ".:x", "no_such_module:X"])
def test_what_is_no_class_of_a_module_is_refused_with_the_form_that_is_needed(name):
    with pytest.raises(SpecError, match="needed module:Class on the Python path"):
        load_adapter(name)
