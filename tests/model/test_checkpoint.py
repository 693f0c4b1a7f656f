"""Checkpoint folders: bit-exact round trip, whole or not at all, every damage refused by name."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save as safetensors_bytes

import xecg
from xecg.errors import BackendError, CheckpointError, SpecError, XECGError
from xecg.model import XECG, XECGConfig, load, save
from xecg.model.checkpoint import read_tensors
from xecg.signal.spec import PRESETS, SignalSpec

FILES = {"card.md", "checksums.json", "config.json", "model.safetensors", "signal.json"}


@pytest.fixture
def model() -> XECG:
    config = XECGConfig(blocks="sm", dim=16, heads=2)
    return XECG(config, spec=PRESETS["poly"], name="small", card="# small\n\nµ\n", trained=True, seed=5)


@pytest.fixture
def folder(model: XECG, tmp_path: Path) -> Path:
    save(model, tmp_path / "small")
    return tmp_path / "small"


def _seal(folder: Path) -> None:
    """Bring digest and checksums in line with changed files, as somebody who edits a checkpoint on purpose would."""
    sums = {
        n: hashlib.sha256((folder / n).read_bytes()).hexdigest()
        for n in ("card.md", "model.safetensors", "signal.json")
    }
    config = json.loads((folder / "config.json").read_text())
    as_text = json.dumps(sums, indent=2, sort_keys=True) + "\n"
    config["digest"] = hashlib.sha256(as_text.encode()).hexdigest()
    (folder / "config.json").write_text(json.dumps(config))
    sums["config.json"] = hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()
    (folder / "checksums.json").write_text(json.dumps(sums))


def _with_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = dict(load(folder).state_dict())
    change(tensors)
    (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors))
    _seal(folder)


def _refusal(folder: Path, kind: type[XECGError] = CheckpointError) -> str:
    with pytest.raises(kind) as caught:
        load(folder)
    return str(caught.value)


def test_round_trip_is_bit_exact(model: XECG, folder: Path) -> None:
    found = load(folder)
    assert {path.name for path in folder.iterdir()} == FILES
    assert (found.config, found.spec, found.name, found.card, found.trained) == (
        (model.config, model.spec, "small", "# small\n\nµ\n", True)
    )
    ours, theirs = model.state_dict(), found.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert found.fingerprint == model.fingerprint and len(found.fingerprint) == 16
    assert all(parameter.requires_grad for parameter in found.parameters()) and not found.training
    x = torch.randn(1, 12, 100)
    assert torch.equal(found.embed(x), model.embed(x))


def test_same_model_same_bytes(model: XECG, folder: Path, tmp_path: Path) -> None:
    save(load(folder), tmp_path / "again")
    assert all((tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes() for name in FILES)


def test_sealing_as_the_tests_do_it_is_accepted(folder: Path) -> None:
    (folder / "card.md").write_text("new words")
    _seal(folder)
    assert load(folder).card == "new words"


def test_fingerprint_follows_weights_config_and_spec_but_not_the_card(model: XECG) -> None:
    first = model.fingerprint
    model.card = "other"
    assert model.fingerprint == first
    model.spec = PRESETS["xecg"]
    second = model.fingerprint
    with torch.no_grad():
        model.mask_token[0] += 1
    assert len({first, second, model.fingerprint}) == 3


@pytest.mark.parametrize("name", ["tiny", "tiny-causal"])
def test_named_models_are_trained_and_say_how(name: str) -> None:
    model = xecg.load(name)
    assert (model.name, model.config) == (name, XECGConfig.preset(name)) and model.trained
    assert "untrained" not in model.card.lower()
    for word in (
        "not a medical device",
        "auxiliary objective",
        "CC BY 4.0",
        "xecg pretrain",
        "Proof",
        "Bars not met",
        "Limits",
    ):
        assert word in model.card
    assert load(name).fingerprint == model.fingerprint != XECG(model.config, spec=model.spec).fingerprint
    folder = Path(xecg.__file__).parent / "weights" / name
    assert sum(path.stat().st_size for path in folder.iterdir()) < 6e6


def test_weights_of_ones_own_making_say_that_they_are_untrained() -> None:
    model = XECG(XECGConfig.preset("tiny"), spec=PRESETS["poly"], name="mine")
    assert not model.trained and "untrained" in model.card.lower()


def test_base_says_where_it_is_and_how_to_convert_it() -> None:
    with pytest.raises(CheckpointError, match=r"riccardolunelli/xECG_base_model_v1.*xecg convert"):
        load("base")


def test_unknown_names_and_devices_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no such checkpoint folder.*tiny-causal"):
        load(tmp_path / "nothing")
    with pytest.raises(BackendError, match="'toaster'"):
        load("tiny", device="toaster")
    with pytest.raises(BackendError, match="cuda:99"):
        load("tiny", device="cuda:99")


def test_a_checkpoint_overwrites_nothing(model: XECG, folder: Path) -> None:
    with pytest.raises(CheckpointError, match="in use"):
        save(model, folder)
    assert load(folder).name == "small"


def test_failed_save_leaves_nothing(model: XECG, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        save(model, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("value", "fact"), [(float("nan"), "1 values"), (float("-inf"), "1 values")])
def test_non_finite_weights_are_neither_written_nor_read(model: XECG, folder: Path, value: float, fact: str) -> None:
    _with_tensors(folder, lambda tensors: tensors["blocks.1.up"].view(-1)[3:4].fill_(value))
    message = _refusal(folder)  # row 90
    assert "'blocks.1.up'" in message and fact in message
    with torch.no_grad():
        model.mask_token[2] = value
    with pytest.raises(CheckpointError, match="'mask_token'"):
        save(model, folder.parent / "other")


def test_other_types_are_not_written(model: XECG, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"bfloat16.*float32"):
        save(model.bfloat16(), tmp_path / "half")


@pytest.mark.parametrize("name", sorted(FILES))
def test_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert f"{name} is missing" in _refusal(folder)


@pytest.mark.parametrize("name", sorted(FILES - {"checksums.json"}))
def test_any_flipped_bit_is_found(folder: Path, name: str) -> None:  # row 87
    whole = (folder / name).read_bytes()
    for place in {0, len(whole) // 3, len(whole) // 2, len(whole) - 1}:
        for bit in (0, 6):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            (folder / name).write_bytes(damaged)
            assert name in _refusal(folder)
    (folder / name).write_bytes(whole)
    load(folder)


def test_mixed_checkpoints_are_found(model: XECG, folder: Path, tmp_path: Path) -> None:
    with torch.no_grad():
        model.mask_token += 1
    save(model, tmp_path / "other")
    for name in ("model.safetensors", "checksums.json"):
        (folder / name).write_bytes((tmp_path / "other" / name).read_bytes())
    sums = json.loads((folder / "checksums.json").read_text())
    sums["config.json"] = hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()
    (folder / "checksums.json").write_text(json.dumps(sums))
    assert "digest" in _refusal(folder) and "two checkpoints" in _refusal(folder)


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_cut_files_are_refused_even_when_sealed(folder: Path, keep: int) -> None:  # row 86
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    _seal(folder)
    assert "model.safetensors" in _refusal(folder)


def test_trailing_bytes_and_giant_headers_are_refused(folder: Path) -> None:  # row 86
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole + b"more")
    _seal(folder)
    assert "model.safetensors" in _refusal(folder)
    path.write_bytes(struct.pack("<Q", 1 << 62) + whole[8:])
    _seal(folder)
    assert "header" in _refusal(folder)


def test_overlapping_tensors_are_refused(folder: Path) -> None:  # row 86
    path = folder / "model.safetensors"

    def shift(text: bytes) -> bytes:
        header = json.loads(text)
        header["blocks.1.up"]["data_offsets"] = [offset - 4 for offset in header["blocks.1.up"]["data_offsets"]]
        return json.dumps(header).encode()

    _edit_header(path, shift)
    _seal(folder)
    assert "damaged" in _refusal(folder)


def test_a_key_written_twice_is_refused(folder: Path) -> None:  # row 91
    path = folder / "model.safetensors"
    _edit_header(
        path, lambda text: text.replace(b'{"', b'{"mask_token":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"', 1)
    )
    _seal(folder)
    message = _refusal(folder)
    assert "'mask_token' twice" in message


def _edit_header(path: Path, change: Callable[[bytes], bytes]) -> None:
    whole = path.read_bytes()
    size = int.from_bytes(whole[:8], "little")
    header = change(whole[8 : 8 + size])
    assert header != whole[8 : 8 + size]
    path.write_bytes(struct.pack("<Q", len(header)) + header + whole[8 + size :])


def test_missing_and_extra_tensors_are_named(folder: Path) -> None:  # row 88
    _with_tensors(folder, lambda tensors: tensors.pop("blocks.0.R"))
    assert "'blocks.0.R' is missing" in _refusal(folder)


def test_extra_tensor_is_named(folder: Path) -> None:  # row 88
    _with_tensors(folder, lambda tensors: tensors.update(head=torch.zeros(2)))
    assert "'head' is extra" in _refusal(folder)


def test_wrong_shape_and_type_are_named(folder: Path) -> None:  # row 89
    _with_tensors(folder, lambda tensors: tensors.update({"blocks.1.skip": torch.zeros(31)}))
    message = _refusal(folder)
    assert all(fact in message for fact in ("'blocks.1.skip'", "(31,)", "(32,)"))


def test_wrong_type_is_named(folder: Path) -> None:  # row 89
    _with_tensors(folder, lambda tensors: tensors.update(mask_token=torch.zeros(16, dtype=torch.float64)))
    message = _refusal(folder)
    assert all(fact in message for fact in ("'mask_token'", "float64", "float32"))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"PK\x03\x04archive/data.pkl", "zip"),
        (b"\x80\x02}q\x00.", "pickle"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    ],
)
def test_other_content_under_our_name_is_recognised(folder: Path, content: bytes, what: str) -> None:  # row 92
    (folder / "model.safetensors").write_bytes(content)
    assert what in _refusal(folder)


def test_config_of_another_model_is_refused(folder: Path) -> None:  # row 93
    config = json.loads((folder / "config.json").read_text())
    config["model"]["blocks"] = "smm"
    (folder / "config.json").write_text(json.dumps(config))
    _seal(folder)
    assert "'blocks.2." in _refusal(folder)


@pytest.mark.parametrize(
    ("change", "kind", "facts"),
    [
        (
            {"format": 2, "written_by": "xecg 9.1"},
            CheckpointError,
            ("format is 2", "reads up to 1", "xecg 9.1"),
        ),  # row 94
        ({"format": 0}, CheckpointError, ("format is 0",)),
        ({"format": "1"}, CheckpointError, ("format", "'1'", "int")),
        ({"trained": "yes"}, CheckpointError, ("trained", "'yes'")),
        ({"colour": 1}, CheckpointError, ("'colour'",)),
        ({"model": {"blocks": "sm"}}, SpecError, ("'dim'",)),
    ],
)
def test_bad_fields_are_named(folder: Path, change: dict, kind: type[XECGError], facts: tuple[str, ...]) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    _seal(folder)
    message = _refusal(folder, kind)
    assert all(fact in message for fact in facts), message


def test_signal_spec_of_another_model_is_refused(folder: Path) -> None:
    (folder / "signal.json").write_text(json.dumps(SignalSpec(leads=("I", "II")).to_dict()))
    _seal(folder)
    assert "leads" in _refusal(folder, SpecError)


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ('{"format": 1, "format": 1}', "'format' twice"),
        ('{"format": NaN}', "NaN"),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested"),
        ("[1]", "list"),
        ("{", "not JSON"),
        ("\xff", "not JSON"),
        (" " * (16 << 20) + "{}", "bytes long"),
    ],
)
def test_hostile_json_is_refused(folder: Path, text: str, fact: str) -> None:
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    message = _refusal(folder)
    assert fact in message and "config.json" in message


def test_a_giant_config_is_refused_without_allocating(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["model"].update(dim=65_536, blocks="m" * 200)
    (folder / "config.json").write_text(json.dumps(config))
    _seal(folder)
    assert "of another model" in _refusal(folder)


@pytest.mark.parametrize("size", [0x3C, 0x80, 0x4B50])  # '<', a pickle's first byte, 'PK'
def test_header_lengths_that_look_like_other_formats_are_read(size: int) -> None:
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(size)
    found = read_tensors(struct.pack("<Q", size) + header + struct.pack("<f", 2.5), "file")
    assert found["a"].tolist() == [2.5]
