"""Official weights ↔ ours: bit-exact both ways, every ambiguity decided or refused by name."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.model import official
from xecg.errors import CheckpointError
from xecg.model import XECG, XECGConfig, load
from xecg.model.convert import export_official, import_official, to_official, to_ours

BLOCKS = "ssmms"
STEM = "core.model.blocks"
LAYOUTS = ["cuda", "vanilla"]


def _weights(layout: str = "cuda") -> dict[str, Tensor]:
    return official.random_weights(BLOCKS, dim=32, heads=4, layout=layout)


def _training(student: dict[str, Tensor], teacher: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names as in a training checkpoint."""

    def renamed(prefix: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return {prefix + name.replace("core.model.", "xlstm.model."): tensor for name, tensor in weights.items()}

    other = {
        "model.reconstruction.0.weight": torch.zeros(3),
        "model.attn_pool.query": torch.zeros(1),
        "model.fc.bias": torch.ones(2),
    }
    return renamed("model.", student) | renamed("_teacher.", teacher) | other


def _same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_official_to_ours_and_back_is_bit_exact(layout: str) -> None:
    weights = _weights(layout)
    found = to_ours(weights, layout=layout)
    assert found.config == XECGConfig(blocks=BLOCKS, dim=32, heads=4)
    assert (found.layout, found.ignored) == (layout, ())
    assert _same(to_official(found.tensors, layout=layout), weights)
    model = XECG(found.config)
    model.load_state_dict(found.tensors)
    assert _same(to_official(model, layout=layout), weights)


def test_both_layouts_mean_the_same_tensors() -> None:
    weights = _weights("cuda")
    found = to_ours(weights)
    other = to_official(found.tensors, layout="vanilla")
    name = f"{STEM}.0.xlstm.slstm_cell._bias_"
    assert other[name].shape == weights[name].shape and not torch.equal(other[name], weights[name])
    assert _same(to_ours(other).tensors, found.tensors)


def test_crossed_gate_names_are_straightened_once() -> None:
    weights = _weights()
    ours = to_ours(weights).tensors
    assert torch.equal(ours["blocks.0.in_i"], weights[f"{STEM}.0.xlstm.fgate.weight"])
    assert torch.equal(ours["blocks.0.in_f"], weights[f"{STEM}.0.xlstm.igate.weight"])
    assert torch.equal(ours["blocks.2.gate_i.weight"], weights[f"{STEM}.2.xlstm.mlstm_cell.igate.weight"])


def test_a_stack_without_slstm_needs_no_layout() -> None:
    weights = official.random_weights("mm", dim=32, heads=4, layout="cuda")
    found = to_ours(weights)
    assert found.layout is None and _same(to_official(found.tensors), weights)


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_training_checkpoints_give_the_branch_asked_for(tmp_path: Path, suffix: str) -> None:
    student, teacher = _weights(), _weights()
    path, everything = tmp_path / f"last{suffix}", _training(student, teacher)
    if suffix == ".ckpt":
        torch.save({"state_dict": everything, "epoch": 3, "hyper_parameters": {"lr": 0.1}}, path)
    else:
        save_file(everything, path)
    assert _same(to_official(to_ours(path).tensors), student)
    found = to_ours(path, branch="teacher")
    assert _same(to_official(found.tensors), teacher)
    assert "model.attn_pool.query" in found.ignored and "model.mask_token" in found.ignored
    assert len(found.ignored) == len(student) + 3


def test_release_file_becomes_a_checkpoint_and_goes_back(tmp_path: Path) -> None:
    weights = _weights("vanilla")
    save_file(weights, tmp_path / "model.safetensors")
    import_official(tmp_path / "model.safetensors", tmp_path / "ours")
    model = load(tmp_path / "ours")
    assert model.trained and "riccardolunelli" in model.card and "vanilla" in model.card
    assert model.spec.resample == "fft" and model.spec.normalise == "none"
    export_official(tmp_path / "ours", tmp_path / "back.safetensors", layout="vanilla")
    assert _same(load_file(tmp_path / "back.safetensors"), weights)


def test_code_in_a_pickle_never_runs(tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple:
            return Path.touch, (marker,)

    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"state_dict": Evil()}, protocol=2))
    torch.save({"state_dict": Evil()}, tmp_path / "evil.ckpt")
    for name in ("evil.pt", "evil.ckpt"):
        with pytest.raises(CheckpointError, match=r"refused.*plain tensors"):
            to_ours(tmp_path / name)
    assert not marker.exists()


def test_pickles_need_a_torch_without_the_known_bypasses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(_weights(), tmp_path / "weights.pt")
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion("2.9.1"))
    with pytest.raises(CheckpointError, match=r"2\.9\.1.*torch 2\.10.*CVE-2026-24747"):
        to_ours(tmp_path / "weights.pt")
    assert to_ours(tmp_path / "weights.pt", trust_file=True).layout == "cuda"


def _changed(**changes: Tensor | None) -> dict[str, Tensor]:
    weights = _weights()
    for key, tensor in changes.items():
        name = f"{STEM}.{key}" if key[0].isdigit() else key
        if tensor is None:
            del weights[name]
        else:
            weights[name] = tensor
    return weights


_R = "0.xlstm.slstm_cell._recurrent_kernel_"


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        ({"1.ffn.proj_up.weight": None}, ("1.ffn.proj_up.weight' is missing",)),
        ({"mask_token": None}, ("'mask_token' is missing",)),
        ({"patch_embedding.conv.weight": None}, ("'patch_embedding.conv.weight' is missing",)),
        ({"2.xlstm.mlstm_cell.extra": torch.zeros(1)}, ("2.xlstm.mlstm_cell.extra' is extra",)),
        ({"head.weight": torch.zeros(1)}, ("'head.weight' is extra",)),
        ({"2.xlstm.proj_down.weight": torch.zeros(32, 63)}, ("2.xlstm.proj_down.weight", "(32, 63)", "(32, 64)")),
        ({"patch_embedding.conv.weight": torch.zeros(32, 12)}, ("patch_embedding.conv.weight", "3 dimensions")),
        ({_R: torch.zeros(4, 9, 9)}, (_R, "(4, 9, 9)", "(4, 8, 32)", "(4, 32, 8)")),
        ({_R: torch.zeros(4, 32, 8)}, ("mixed", "cuda", "vanilla")),
        ({"4.ffn_norm.weight": torch.full((32,), torch.nan)}, ("4.ffn_norm.weight", "NaN")),
        ({"mask_token": torch.zeros(32, dtype=torch.float16)}, ("'mask_token'", "float16")),
    ],
)
def test_wrong_tensors_are_named(change: dict[str, Tensor | None], facts: tuple[str, ...]) -> None:
    with pytest.raises(CheckpointError) as caught:
        to_ours(_changed(**change))
    assert all(fact in str(caught.value) for fact in facts), str(caught.value)


def test_duplicates_layouts_and_branches_are_refused_by_name() -> None:
    weights = _weights()
    with pytest.raises(CheckpointError, match=r"twice.*'mask_token'.*'model.mask_token'"):
        to_ours(weights | {"model.mask_token": weights["mask_token"]})
    with pytest.raises(CheckpointError, match=r"layout is 'cuda'.*'vanilla' was asked"):
        to_ours(weights, layout="vanilla")
    with pytest.raises(CheckpointError, match="'metal'"):
        to_ours(weights, layout="metal")
    with pytest.raises(CheckpointError, match="'metal'"):
        to_official(to_ours(weights).tensors, layout="metal")
    with pytest.raises(CheckpointError, match="teacher tensors are 0 of 6"):
        to_ours(weights, branch="teacher")
    with pytest.raises(CheckpointError, match="'ema'"):
        to_ours(weights, branch="ema")
    with pytest.raises(CheckpointError, match="is a int; needed a tensor"):
        to_ours(weights | {"epoch": 3})  # type: ignore[dict-item]


def test_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        to_ours(tmp_path / "none.safetensors")
    (tmp_path / "page.safetensors").write_text("<html>not found</html>")
    with pytest.raises(CheckpointError, match="HTML"):
        to_ours(tmp_path / "page.safetensors")
    torch.save(torch.zeros(3), tmp_path / "one.pt")
    with pytest.raises(CheckpointError, match="Tensor; needed a state dict"):
        to_ours(tmp_path / "one.pt")
