"""Networks as adapters: windows and token times, the architectures, other people's checkpoints, a user's own checkout."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from bench_data import MeanAdapter
from click.testing import CliRunner

from benchecg.cli import main
from benchecg.comparing import compare
from benchecg.models import Tokens, load_adapter
from benchecg.models.founder import Net1D
from benchecg.models.jepa import JEPAEncoder, _sees
from benchecg.models.network import Contract, NetworkAdapter
from benchecg.models.waves import Waves
from benchecg.models.wrapped import CONTRACTS, Wrapped
from benchecg.models.xresnet import XResNet1d
from benchecg.running import load_data, run
from benchecg.tasks import load_task
from benchecg.validation import _origin, validate_adapter
from xecg.errors import CheckpointError, ReadError, ShapeError, SpecError
from xecg.signal import Recording, SignalSpec, simulate

TOL_FLOAT32 = 1e-5  # float32 sums in another order
RATE = 100.0


class _Means(torch.nn.Module):
    """A token per 50 samples: the mean of lead 0 in it."""

    def forward(self, x):
        return x[:, 0].unflatten(-1, (-1, 50)).mean(-1, keepdim=True)


def _ramp(seconds: float) -> Recording:
    signal = np.arange(round(seconds * RATE), dtype=np.float32)[None] / RATE
    return Recording(signal=signal, rate=RATE, leads=("I",), mask=np.ones(signal.shape, bool))


def _means(**contract) -> NetworkAdapter:
    spec = SignalSpec(leads=("I",), patch=50)
    return NetworkAdapter(_Means(), id="means", contract=Contract(spec, **contract), about="means")


@pytest.mark.parametrize(
    "contract", [{"window": 500}, {"window": 500, "fixed": False, "token": 50}, {"window": 200, "token": 50}]
)
@pytest.mark.parametrize("seconds", [5.0, 17.0, 17.3, 0.7])
def test_tokens_cover_the_recording_once_and_speak_for_their_time(contract, seconds):
    tokens = _means(**contract).features([_ramp(seconds)])[0]
    ends = tokens.start_s + tokens.length_s
    assert tokens.start_s[0] == 0 and ends[-1] == pytest.approx(seconds)
    np.testing.assert_allclose(ends[:-1], tokens.start_s[1:], atol=1e-9)
    whole = tokens.length_s > 0.499
    middle = (tokens.start_s + ends)[whole] / 2
    np.testing.assert_allclose(tokens.values[whole, 0], middle - 0.005, atol=1e-4)  # the ramp's value is its time


def test_padding_makes_no_tokens():
    long = _means(window=500).features([_ramp(5.0)])[0]
    short = _means(window=500).features([_ramp(1.0)])[0]
    assert len(long.values) == 10 and len(short.values) == 2


def test_the_last_window_has_full_context_and_repeats_nothing():
    network = _means(window=400)
    tokens = network.features([_ramp(5.0)])[0]  # windows at 0 and, moved back, at 1 s
    assert len(tokens.values) == 8 + 2 and (np.diff(tokens.values[:, 0]) > 0.4).all()


def test_a_network_of_another_shape_is_named():
    adapter = _means(window=500)
    adapter._network = torch.nn.Flatten(0)
    with pytest.raises(ShapeError, match=r"gave \(500,\) for 1 windows; needed \(1, tokens, D\)"):
        adapter.features([_ramp(5.0)])


def test_fingerprint_names_weights_and_contract():
    a, b = load_adapter("xresnet1d101"), load_adapter("xresnet1d101")
    assert a.fingerprint == b.fingerprint
    with torch.no_grad():
        next(b.module().parameters()).view(-1)[0] += 1e-6
    changed = NetworkAdapter(b.module(), id="x", contract=a.contract, about="")
    other = NetworkAdapter(a.module(), id="x", contract=Contract(a.spec, window=320), about="")
    assert len({a.fingerprint, changed.fingerprint, other.fingerprint}) == 3


def test_loading_a_random_network_leaves_torchs_generator_alone():
    torch.manual_seed(5)
    want = torch.rand(3)
    torch.manual_seed(5)
    load_adapter("xresnet1d101")
    assert torch.equal(torch.rand(3), want)


@pytest.mark.parametrize("name", ["xlstm", "xresnet1d101", "xecg-tiny"])
def test_module_gives_the_adapters_tokens_and_trains(name):
    from xecg import preprocess

    adapter = load_adapter(name)
    recording = simulate.ecg(seed=4, duration_s=8)
    x = torch.as_tensor(preprocess(recording, adapter.spec).x)[None]
    module = adapter.module()
    tokens = module(x)
    found = adapter.features([recording])[0].values
    np.testing.assert_allclose(tokens[0].detach().numpy()[: len(found)], found, atol=1e-4)
    tokens.square().mean().backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in module.parameters())


@pytest.mark.parametrize("depth", [50, 101])
def test_xresnet_has_the_published_depth_and_stride(depth):
    network = XResNet1d(depth=depth)
    deep = [m for n, m in network.named_modules() if isinstance(m, torch.nn.Conv1d) and "shortcut" not in n]
    assert len(deep) == depth + 1  # three convolutions of the stem in place of one; the classifier is not here
    assert network(torch.zeros(1, 12, 1000)).shape == (1, 32, 256)


def test_xresnet_token_is_centred_on_its_samples():
    """The network is a chain of centred kernels: a change reaches its own token most when every weight is positive."""
    network = XResNet1d(depth=50, leads=1).eval()
    with torch.no_grad():
        for p in network.parameters():
            p.abs_().add_(1e-3)
        quiet = network(torch.zeros(1, 1, 1024))
        for token in (10, 11, 20):
            x = torch.zeros(1, 1, 1024)
            x[0, 0, 32 * token] = 1.0
            assert (network(x) - quiet).abs().sum(-1)[0].argmax() == token


# ---------------------------------------------------------------------------
# ECGFounder and ECG-JEPA: against a second, plain computation of the description.


def _same(x, weight, bias, stride, groups):
    """A padded convolution in loops, float64: ceil(n / stride) outputs, the odd zero at the end."""
    n, kernel = x.shape[1], weight.shape[2]
    count = -(-n // stride)
    extra = max(0, (count - 1) * stride + kernel - n)
    padded = np.pad(x, ((0, 0), (extra // 2, extra - extra // 2)))
    inputs, outputs = x.shape[0] // groups, weight.shape[0] // groups
    out = np.zeros((weight.shape[0], count))
    for o in range(weight.shape[0]):
        mine = padded[o // outputs * inputs :][:inputs]
        for t in range(count):
            out[o, t] = (mine[:, t * stride : t * stride + kernel] * weight[o]).sum() + bias[o]
    return out


def _swish(x):
    return x / (1 + np.exp(-x))


def test_net1d_block_is_the_described_one():
    from benchecg.models.founder import _Block

    torch.manual_seed(0)
    block = _Block(16, 48, halves=True, opens=False).eval()
    x = np.random.default_rng(0).normal(size=(16, 13))
    w = {name: value.double().numpy() for name, value in block.state_dict().items()}
    y = _swish(x)
    for i, (stride, groups) in enumerate([(1, 1), (2, 3), (1, 1)], start=1):
        y = _same(y if i == 1 else _swish(y), w[f"conv{i}.conv.weight"], w[f"conv{i}.conv.bias"], stride, groups)
    gate = w["se_fc1.weight"] @ y.mean(1) + w["se_fc1.bias"]
    gate = 1 / (1 + np.exp(-(w["se_fc2.weight"] @ _swish(gate) + w["se_fc2.bias"])))
    shortcut = np.pad(x, ((0, 0), (0, 1))).reshape(16, 7, 2).max(-1)
    want = y * gate[:, None]
    want[16:32] += shortcut  # widened by 16 zero channels on each side
    with torch.no_grad():
        found = block(torch.from_numpy(x).float()[None])[0].numpy()
    np.testing.assert_allclose(found, want, atol=TOL_FLOAT32)


def test_net1d_has_the_published_size():
    network = Net1D()
    stages = [stage.block_list[0].conv2.conv for stage in network.stage_list]
    assert [c.out_channels for c in stages] == [64, 160, 160, 400, 400, 1024, 1024]
    assert all(c.kernel_size == (16,) and c.stride == (2,) and c.out_channels // c.groups == 16 for c in stages)
    assert [len(s.block_list) for s in network.stage_list] == [2, 2, 2, 3, 3, 4, 4]
    with torch.no_grad():
        assert network(torch.zeros(1, 12, 5000)).shape == (1, 20, 1024)


def test_net1d_token_is_the_256_samples_that_its_shortcuts_pool():
    """With the blocks' own paths silent, a sample reaches the token of its 256, and no other."""
    network = Net1D(1).eval()
    with torch.no_grad():
        for name, p in network.named_parameters():
            p.zero_() if ".conv3." in name or "bias" in name else p.abs_()
        for at in (20, 2_300, 2_320, 2_550, 4_990):
            x = torch.zeros(1, 1, 5000)
            x[0, 0, at] = 1.0
            assert network(x)[0].sum(-1).argmax() == at // 256


def test_jepa_patch_sees_its_lead_and_its_instant_only():
    sees = _sees(torch.device("cpu"))
    assert sees.shape == (400, 400) and torch.equal(sees, sees.T)
    assert (sees.sum(1) == 50 + 8 - 1).all()
    assert sees[3, 49] and sees[3, 53] and not sees[3, 54]


def test_jepa_is_a_prenorm_transformer_with_positions_before_every_layer():
    torch.manual_seed(0)
    network = JEPAEncoder().eval()
    x = torch.randn(1, 8, 2500)
    with torch.no_grad():
        found = network(x)[0]
        y = (x.reshape(400, 50) @ network.W_P.weight.T + network.W_P.bias)[None]
        hidden = ~_sees(torch.device("cpu"))
        for layer in network.encoder_blocks.blocks:
            y = y + network.pos_embed
            a = layer.norm1(y)
            q, k, v = (a @ layer.attn.qkv.weight.T).chunk(3, -1)
            heads = []
            for h in range(16):
                part = slice(48 * h, 48 * (h + 1))
                logits = (q[..., part] @ k[..., part].transpose(1, 2)) / 48**0.5
                heads.append(logits.masked_fill(hidden, -torch.inf).softmax(-1) @ v[..., part])
            y = y + layer.attn.proj(torch.cat(heads, -1))
            y = y + layer.mlp.fc2(torch.nn.functional.gelu(layer.mlp.fc1(layer.norm2(y))))
        want = network.norm(y)[0].reshape(8, 50, 768).mean(0)
    np.testing.assert_allclose(found.numpy(), want.numpy(), atol=1e-4)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Random weights under the names that the published files use, with what those hold besides."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(3)
    one = Net1D(1)
    more = {"dense.weight": torch.zeros(150, 1024), "first_bn.weight": torch.ones(64)}
    more |= {"stage_list.0.block_list.0.bn1.running_mean": torch.zeros(64)}
    torch.save({"state_dict": {**one.state_dict(), **more}, "step": 7}, folder / "1_lead.pth")
    jepa = JEPAEncoder()
    torch.save({"encoder": jepa.state_dict(), "epoch": 99}, folder / "jepa.pth")
    return folder


@pytest.mark.parametrize(
    ("name", "file"), [("ecgfounder-1", "1_lead.pth"), pytest.param("ecg-jepa", "jepa.pth", marks=pytest.mark.slow)]
)
def test_a_checkpoint_adapter_keeps_the_contract_and_is_not_validated(checkpoints, name, file):
    adapter = load_adapter(f"{name}={checkpoints / file}")
    assert adapter.validated is False and "NOT validated" in adapter.about
    failed = [c for c in validate_adapter(adapter, long_s=31) if not c.passed]
    assert [c.name for c in failed] == ["features equal those of the origin's own code"]
    assert "no reference was given" in failed[0].found


def _reference(adapter, path, *, off=0.0):
    x = np.random.default_rng(0).normal(0, 0.3, (3, len(adapter.spec.leads), adapter.contract.window)).astype("f")
    with torch.no_grad():
        features = adapter.module()(torch.from_numpy(x)).mean(1).numpy()
    np.savez(path, x=x, features=features + off)
    return path


def test_validation_by_reference_is_remembered_for_these_bytes(checkpoints, tmp_path):
    file = tmp_path / "w.pth"
    file.write_bytes((checkpoints / "1_lead.pth").read_bytes())
    name = f"ecgfounder-1={file}"
    good = _reference(load_adapter(name), tmp_path / "good.npz")
    bad = _reference(load_adapter(name), tmp_path / "bad.npz", off=0.01)
    refused = _origin(load_adapter(name), bad)
    assert not refused.passed and refused.found.startswith("largest difference 0.01")
    assert load_adapter(name).validated is False
    passed = CliRunner().invoke(main, ["validate-adapter", name, "--long-s", "5", "--reference", str(good)])
    assert passed.exit_code == 0, passed.output
    assert load_adapter(name).validated is True and "NOT" not in load_adapter(name).about
    weights = torch.load(file, weights_only=True)
    weights["state_dict"]["first_conv.conv.bias"] += 1
    torch.save(weights, file)
    assert load_adapter(name).validated is False


class Unvalidated(MeanAdapter):
    id = "foreign"
    validated = False


def test_an_unvalidated_model_stays_out_of_comparisons(small_code15, tmp_path):
    loaded = load_data(load_task("open-sex"), small_code15)
    for adapter in (MeanAdapter(), Unvalidated()):
        run(loaded, adapter, out=tmp_path / "open-sex" / adapter.id)
    assert "UNVALIDATED" in json.loads((tmp_path / "open-sex" / "foreign" / "result.json").read_text())["notes"][0]
    with pytest.raises(SpecError, match=r"foreign is not validated against its origin.*validate-adapter"):
        compare(tmp_path, "mean", "foreign")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"model": {}}, "has no entry 'encoder'"),
        ({"encoder": {"norm.weight": torch.ones(768)}}, "lacks .* weights"),
        (b"not a checkpoint", "cannot be read as plain weights"),
        (None, "there is no file"),
    ],
)
def test_a_wrong_checkpoint_is_refused_with_what_it_lacks(tmp_path, content, says):
    file = tmp_path / "x.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        torch.save(content, file)
    with pytest.raises(CheckpointError, match=says):
        load_adapter(f"ecg-jepa={file}")


class _Harmful:
    def __reduce__(self):
        return print, ("this must never run",)


def test_a_checkpoint_that_would_run_something_is_refused(tmp_path, capsys):
    torch.save({"encoder": _Harmful()}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="cannot be read as plain weights"):
        load_adapter(f"ecg-jepa={tmp_path / 'x.pth'}")
    assert "never run" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: p.write_bytes(b"no"), "unreadable"),
        (lambda p: np.savez(p, x=np.zeros((2, 12, 5000)), features=np.zeros((2, 4))), r"needed \(n, 1, 5000\)"),
        (lambda p: np.savez(p, x=np.zeros((2, 1, 5000)), features=np.zeros((2, 1024))), "the same for every input"),
    ],
)
def test_a_reference_that_proves_nothing_is_refused(checkpoints, tmp_path, make, says):
    make(tmp_path / "r.npz")
    adapter = load_adapter(f"ecgfounder-1={checkpoints / '1_lead.pth'}")
    with pytest.raises(ReadError, match=says):
        adapter.differs_from(tmp_path / "r.npz")


@pytest.mark.parametrize("name", ["ecgfounder", "ecg-jepa", "st-mem", "ecg-fm", "ecg-cpc"])
def test_a_model_without_its_weights_says_what_to_do(name):
    with pytest.raises(SpecError, match=r"=FILE|wrap your own checkout"):
        load_adapter(name)


# ---------------------------------------------------------------------------
# A user's own checkout.


class Mine(Wrapped):
    takes = "st-mem"
    pretrained_on = ("CODE-15 %",)

    def network(self):
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Conv1d(12, 8, 75, stride=75), torch.nn.Flatten(1), torch.nn.Linear(240, 16))


class Contractless(Wrapped):
    def network(self):
        return torch.nn.Identity()


class NoNetwork(Wrapped):
    takes = "ecg-fm"

    def network(self):
        return "weights.pt"


def test_a_wrapped_checkout_gets_the_published_contract():
    adapter = load_adapter("test_bench_networks:Mine")
    assert adapter.id == "mine" and adapter.pretrained_on == ("CODE-15 %",) and adapter.contract is CONTRACTS["st-mem"]
    assert not [c for c in validate_adapter(adapter, long_s=20) if not c.passed]
    tokens = adapter.features([simulate.ecg(seed=1, duration_s=20)])[0]
    np.testing.assert_allclose(tokens.length_s, [9, 9, 2])


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Contractless", "takes is ''; needed one of st-mem"),
        ("NoNetwork", r"network\(\) gave str; needed a torch module"),
    ],
)
def test_a_wrong_wrapper_is_named(name, says):
    with pytest.raises(SpecError, match=says):
        load_adapter(f"test_bench_networks:{name}")


# ---------------------------------------------------------------------------
# Wave measurements.


def test_waves_measure_what_was_drawn():
    """Triangular P, QRS and T of known sizes on lead II, an R peak a second: the token holds those sizes."""
    rate, n = 500.0, 10_000
    t = np.arange(n) / rate
    lead = np.zeros(n)
    for centre, width, size in ((-0.15, 0.03, 0.2), (0.0, 0.03, 1.2), (0.25, 0.06, -0.4)):
        distance = np.abs((t - 0.5 - centre + 0.5) % 1.0 - 0.5)
        lead += size * np.clip(1 - distance / width, 0, None)
    signal = np.stack([lead, 0.5 * lead]).astype(np.float32)
    recording = Recording(signal=signal, rate=rate, leads=("II", "V5"), mask=np.ones(signal.shape, bool))
    tokens = Waves().features([recording])[0].values[3:-3]
    assert len(tokens) >= 12
    p, q, r, s, st, t_wave, area = (tokens[:, 12 + 7 + k] for k in range(7))  # person 4, RR 8, then I, II
    np.testing.assert_allclose(p, 0.2, atol=0.01)
    np.testing.assert_allclose(r, 1.2, atol=0.02)
    np.testing.assert_allclose(t_wave, -0.4, atol=0.01)
    assert np.abs(np.stack([q, s, st])).max() < 0.02 and (area > 0.1).all()
    width, t_peak = tokens[:, 96], tokens[:, 97]
    np.testing.assert_allclose(width, 0.06, atol=0.01)
    np.testing.assert_allclose(t_peak, 0.25, atol=0.01)
    assert tokens[0, -12:].tolist() == [0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]
    np.testing.assert_allclose(tokens[:, 12 + 7 * 10 + 2], 0.6, atol=0.02)  # R of V5


def test_waves_know_age_and_sex_only_where_shown():
    recording = simulate.ecg(seed=1, age=70, sex="F")
    known, unknown = (t.values[0, :4].tolist() for t in Waves().features([recording, recording.with_(meta={})]))
    assert known == [70, 0, 0, 1] and unknown == [50, 1, 0, 0]


@pytest.mark.parametrize("name", ["waves", "xlstm", "xresnet1d101"])
def test_new_baselines_keep_the_contract(name):
    assert not [c for c in validate_adapter(load_adapter(name), long_s=30) if not c.passed]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["waves", "xlstm", "xresnet1d101", "xecg-tiny", "xecg-random", "rr", "age-sex", "majority"]
)
def test_half_an_hour_is_encoded(name):
    assert not [c for c in validate_adapter(load_adapter(name)) if not c.passed]


class Late(MeanAdapter):
    """Tokens that speak for another time than the one they were made of."""

    def _one(self, r):
        t = super()._one(r)
        return Tokens(np.roll(t.values, 3, axis=0), t.start_s, t.length_s)


def test_self_test_finds_tokens_of_another_time():
    failed = [c.name for c in validate_adapter(Late(), long_s=5) if not c.passed]
    assert failed == ["a change in the signal changes the tokens of its time"]
