"""Checkpoints: a folder of five files, written whole or not at all, read strictly both ways.

    config.json        format, name, trained, model (XECGConfig), written_by, digest
    signal.json        SignalSpec
    model.safetensors  the tensors, float32, under the names of `XECG.state_dict()`
    card.md            origin, licence, limits
    checksums.json     SHA-256 of each of the four

`digest` in config.json is the SHA-256 over the entries of signal.json, model.safetensors and card.md in checksums.json,
so no file can change alone. Reading verifies first bytes, format, checksums, header, names, shapes and values.
Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as _parse_safetensors
from safetensors.torch import save as _safetensors_bytes
from torch import Tensor

from xecg.errors import BackendError, CheckpointError, SpecError
from xecg.io.atomic import replacing, write_bytes
from xecg.model import _strict_json
from xecg.model.config import PRESETS, XECGConfig
from xecg.model.encoder import XECG
from xecg.signal import spec as _spec

__all__ = ["check_tensors", "fingerprint", "foreign", "load", "read_tensors", "save"]

_FORMAT = 1  # of the folder; raised when an older reader would misread a newer folder
_WEIGHTS = Path(__file__).parent.parent / "weights"  # checkpoints that ship with the package
_SEALED = ("card.md", "model.safetensors", "signal.json")
_FILES = (*_SEALED, "config.json", "checksums.json")
_FOREIGN = {
    b"PK": "a PyTorch pickle (zip)",
    b"\x80": "a Python pickle",
    b"<": "an HTML or XML page",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself",
}
_BASE = (
    "model 'base' is not shipped with xecg. Its authors publish the weights (57,021,472 parameters, licence MIT) at "
    "https://huggingface.co/riccardolunelli/xECG_base_model_v1. Download model.safetensors from there, run "
    "`xecg convert model.safetensors -o xecg-base`, then xecg.load('xecg-base')"
)


def load(name_or_folder: str | os.PathLike[str], device: str | torch.device = "cpu") -> XECG:
    """A model by name ("tiny", "tiny-causal") or from a checkpoint folder, on `device`, in evaluation mode.

    `card` says what the weights were trained on, how well they do and what they fall short of. Raises CheckpointError
    (damaged, foreign, incomplete or unknown; for "base": where to get it), SpecError (config.json or signal.json not
    valid), BackendError (no such device).
    """
    place = _device(device)
    if name_or_folder == "base":
        raise CheckpointError(_BASE)
    folder = _WEIGHTS / name_or_folder if name_or_folder in PRESETS else Path(name_or_folder)
    return _read(folder).to(place).eval()


def save(model: XECG, folder: str | os.PathLike[str]) -> None:
    """Write `model` as the checkpoint `folder`, which must not exist yet or be empty: whole or not at all.

    Raises CheckpointError when it has other content, or when a tensor is not float32 or not finite.
    """
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise CheckpointError(
            f"{target}: folder is in use; a checkpoint overwrites nothing. Choose a new name, or remove it"
        )
    tensors = _tensors(model)
    for name, tensor in tensors.items():
        _check_values(str(target), name, tensor)
    files = {
        "card.md": model.card.encode(),
        "model.safetensors": _safetensors_bytes(tensors),
        "signal.json": _json(model.spec.to_dict()),
    }
    sums = {name: _sha256(data) for name, data in files.items()}
    about = {"format": _FORMAT, "name": model.name, "trained": model.trained, "model": model.config.to_dict()}
    files["config.json"] = _json({**about, "written_by": f"xecg {_version()}", "digest": _digest(sums)})
    files["checksums.json"] = _json({**sums, "config.json": _sha256(files["config.json"])})
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = None
    try:
        with replacing(target) as temporary:
            temporary.mkdir()
            for name, data in files.items():
                write_bytes(temporary / name, data)
    except BaseException:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        raise


def fingerprint(model: XECG) -> str:
    """16 hex digits of a SHA-256 over weights, configuration and signal spec: the same in memory and on disk."""
    parts = {
        "model": model.config.to_dict(),
        "signal": model.spec.to_dict(),
        "tensors": _sha256(_safetensors_bytes(_tensors(model))),
    }
    return _sha256(_json(parts))[:16]


def read_tensors(data: bytes, file: str) -> dict[str, Tensor]:
    """The tensors in the bytes of a safetensors file. Raises CheckpointError on a foreign or damaged one, a key twice."""
    _refuse_foreign(data, file)
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > len(data) - 8:
        raise CheckpointError(
            f"{file}: length is {len(data):,} bytes; its header alone needs {8 + size:,}. The file is cut"
        )
    _strict_json.parse(data[8 : 8 + size], f"{file}: header")
    try:
        return _parse_safetensors(data)
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"{file}: content is damaged ({error}); needed valid safetensors. Fetch it anew"
        ) from None


def foreign(start: bytes) -> str | None:
    """What a file that begins with `start` (9 bytes or more) is, when it is no safetensors file but known."""
    if start[8:9] == b"{":  # a header's length may begin with any byte, but the header itself begins so
        return None
    return next((what for magic, what in _FOREIGN.items() if start.startswith(magic)), None)


def _refuse_foreign(data: bytes, file: str) -> None:
    what = foreign(data)
    if what is not None:
        raise CheckpointError(f"{file}: content is {what}; needed safetensors. Fetch or convert the file anew")


def _read(folder: Path) -> XECG:
    data = _files(folder)
    file = str(folder / "model.safetensors")
    _refuse_foreign(data["model.safetensors"], file)
    config_file = str(folder / "config.json")
    about = _strict_json.parse(data["config.json"], config_file)
    _check_about(about, config_file)
    _check_sums(data, about["digest"], folder)
    try:
        config = XECGConfig.from_dict(about["model"])
        spec = _spec.SignalSpec.from_dict(_strict_json.parse(data["signal.json"], str(folder / "signal.json")))
        with torch.device("meta"):
            model = XECG(config, spec=spec, name=about["name"], card=data["card.md"].decode(), trained=about["trained"])
    except SpecError as error:
        raise SpecError(f"{folder}: {error}") from None
    tensors = read_tensors(data["model.safetensors"], file)
    check_tensors(tensors, {name: tuple(t.shape) for name, t in model.state_dict().items()}, file)
    model.load_state_dict(tensors, assign=True)
    return model


def _files(folder: Path) -> dict[str, bytes]:
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder}: no such checkpoint folder; needed a folder with {', '.join(_FILES)}, or one of the names "
            f"{', '.join(PRESETS)}"
        )
    missing = [name for name in _FILES if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder}: {missing[0]} is missing; a checkpoint holds {', '.join(_FILES)}. Copy it whole"
        )
    try:
        return {name: (folder / name).read_bytes() for name in _FILES}
    except OSError as error:
        raise CheckpointError(
            f"{folder}: file is not readable ({error}); needed read access to the whole folder"
        ) from None


def _check_about(about: Mapping[str, Any], file: str) -> None:
    written_by = about.get("written_by", "another version of xecg")
    if type(about.get("format")) is int and about["format"] > _FORMAT:
        raise CheckpointError(
            f"{file}: format is {about['format']}; this xecg ({_version()}) reads up to {_FORMAT}. It was written by "
            f"{written_by}: install that version or a newer one"
        )
    kinds = {"format": int, "name": str, "trained": bool, "model": dict, "written_by": str, "digest": str}
    for key, kind in kinds.items():
        if type(about.get(key)) is not kind:
            raise CheckpointError(
                f"{file}: {key} is {about.get(key)!r:.80}; needed a {kind.__name__}. Fetch the file anew"
            )
    extra = sorted(set(about) - set(kinds))
    if extra:
        raise CheckpointError(f"{file}: key {extra[0]!r} is unknown; known are {', '.join(kinds)}. Fetch the file anew")
    if about["format"] != _FORMAT:
        raise CheckpointError(f"{file}: format is {about['format']}; needed {_FORMAT}. Fetch the file anew")


def _check_sums(data: Mapping[str, bytes], digest: str, folder: Path) -> None:
    file = folder / "checksums.json"
    sums = _strict_json.parse(data["checksums.json"], str(file))
    covered = (*_SEALED, "config.json")
    if set(sums) != set(covered):
        raise CheckpointError(
            f"{file}: entries are {sorted(sums)}; needed exactly {sorted(covered)}. Copy the folder whole"
        )
    for name in covered:
        found = _sha256(data[name])
        if sums[name] != found:
            raise CheckpointError(
                f"{folder / name}: SHA-256 is {found[:16]}…; checksums.json says {str(sums[name])[:16]}…. The file is "
                "damaged or was changed: fetch it anew"
            )
    if _digest(sums) != digest:
        raise CheckpointError(
            f"{file}: digest is {_digest(sums)[:16]}…; config.json says {digest[:16]}…. Files of two checkpoints are "
            "mixed: copy the folder whole"
        )


def check_tensors(tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], file: str) -> None:
    """Raise CheckpointError unless `tensors` are exactly those named in `shapes`, float32 and finite."""
    for name in sorted(set(shapes) | set(tensors)):
        if name not in tensors:
            raise CheckpointError(
                f"{file}: tensor {name!r} is missing; the configuration needs it. Is it of another model?"
            )
        if name not in shapes:
            raise CheckpointError(
                f"{file}: tensor {name!r} is extra; the configuration has none. Is it of another model?"
            )
        if tuple(tensors[name].shape) != shapes[name]:
            found = tuple(tensors[name].shape)
            raise CheckpointError(f"{file}: tensor {name!r} is {found}; the configuration needs {shapes[name]}")
        _check_values(file, name, tensors[name])


def _check_values(file: str, name: str, tensor: Tensor) -> None:
    if tensor.dtype != torch.float32:
        raise CheckpointError(
            f"{file}: tensor {name!r} is {tensor.dtype}; checkpoints hold torch.float32. Convert it first"
        )
    if not bool(torch.isfinite(tensor).all()):
        count = int((~torch.isfinite(tensor)).sum())
        raise CheckpointError(f"{file}: tensor {name!r} has {count:,} values that are NaN or infinite; needed none")


def _tensors(model: XECG) -> dict[str, Tensor]:
    return {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}


def _device(device: str | torch.device) -> torch.device:
    try:
        place = torch.device(device)
    except (RuntimeError, TypeError):
        raise BackendError(f"device is {device!r}; needed 'cpu', 'cuda' or 'cuda:N'") from None
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise BackendError(f"device is {device}; torch finds {torch.cuda.device_count()} CUDA devices here. Use 'cpu'")
    return place


def _digest(sums: Mapping[str, Any]) -> str:
    return _sha256(_json({name: sums[name] for name in _SEALED}))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _version() -> str:
    try:
        return metadata.version("xecg")
    except metadata.PackageNotFoundError:  # run from a source tree that is not installed
        return "of a source tree"
