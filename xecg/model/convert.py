"""The published xECG weights ↔ ours: names, layouts and the crossed gate names, bit for bit both ways.

Three things in the official files mislead; each is undone here and nowhere else:
· the sLSTM tensor named `fgate` feeds the input gate and `igate` the forget gate (the published code unpacks them so);
· the recurrent kernel has one layout for the "cuda" backend, (H, in, 4·out), and another for "vanilla", (H, 4·out, in);
· the sLSTM bias has one shape in both, but (H, 4, D) order under "cuda" and (4, H, D) under "vanilla". As 4·D ≠ D, the
  kernel of the same block always tells which.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save as _safetensors_bytes
from torch import Tensor

from xecg.errors import CheckpointError
from xecg.io.atomic import write_bytes
from xecg.model.checkpoint import check_tensors, foreign, load, read_tensors, save
from xecg.model.config import PRESETS, XECGConfig
from xecg.model.encoder import XECG
from xecg.signal.spec import SignalSpec

__all__ = ["Converted", "export_official", "import_official", "to_official", "to_ours"]

LAYOUTS = ("cuda", "vanilla")
_STEM = "core.model.blocks"
_OUTSIDE = {"patch.weight": "patch_embedding.conv.weight", "mask_token": "mask_token"}
_BOTH = {
    "norm.weight": "xlstm_norm.weight",
    "conv.weight": "xlstm.conv1d.conv.weight",
    "conv.bias": "xlstm.conv1d.conv.bias",
}
_BLOCK = {
    "m": _BOTH
    | {
        "up": "xlstm.proj_up.weight",
        "q": "xlstm.q_proj.weight",
        "k": "xlstm.k_proj.weight",
        "v": "xlstm.v_proj.weight",
        "gate_i.weight": "xlstm.mlstm_cell.igate.weight",
        "gate_i.bias": "xlstm.mlstm_cell.igate.bias",
        "gate_f.weight": "xlstm.mlstm_cell.fgate.weight",
        "gate_f.bias": "xlstm.mlstm_cell.fgate.bias",
        "headnorm.weight": "xlstm.mlstm_cell.outnorm.weight",
        "skip": "xlstm.learnable_skip",
        "down": "xlstm.proj_down.weight",
    },
    "s": _BOTH
    | {
        "in_i": "xlstm.fgate.weight",  # crossed: see above
        "in_f": "xlstm.igate.weight",
        "in_z": "xlstm.zgate.weight",
        "in_o": "xlstm.ogate.weight",
        "R": "xlstm.slstm_cell._recurrent_kernel_",
        "bias": "xlstm.slstm_cell._bias_",
        "headnorm.weight": "xlstm.group_norm.weight",
        "ffn_norm.weight": "ffn_norm.weight",
        "ffn_up": "ffn.proj_up.weight",
        "ffn_down": "ffn.proj_down.weight",
    },
}
_IGNORED = re.compile(r"(reconstruction\.|attn_pool\.|fc)")  # parts of training checkpoints that are not the encoder
_CARD = """# xECG, converted from the published weights

Origin: `{source}`, sLSTM layout "{layout}". The published model: https://huggingface.co/riccardolunelli/xECG_base_model_v1
(licence MIT). Input: 12 leads, 100 Hz, raw mV, patches of 25 samples, unless signal.json says otherwise.

Research use only, not a medical device.
"""


@dataclass(frozen=True)
class Converted:
    """Ours, and what the source was: its sLSTM layout (None without such a block) and the names left out."""

    config: XECGConfig
    tensors: dict[str, Tensor]
    layout: str | None
    ignored: tuple[str, ...]


def to_ours(
    source: str | os.PathLike[str] | Mapping[str, Tensor],
    *,
    layout: str | None = None,
    branch: str = "student",
    trust_file: bool = False,
) -> Converted:
    """Official weights as ours.

    source: a safetensors file, a pickled training checkpoint (.ckpt, .pt, .bin; read with `weights_only=True`), or the
    state dict itself. layout: "cuda" or "vanilla", only to check what the tensors say. branch: "student" or "teacher" of
    a training checkpoint; what is not the encoder is listed in `ignored`. trust_file: read a pickle even below torch
    2.10, where `weights_only` was bypassed twice (CVE-2025-32434, CVE-2026-24747).
    Raises CheckpointError naming the tensor: unknown, missing, twice, wrong shape or type, not finite, mixed layouts.
    """
    file = "state dict" if isinstance(source, Mapping) else str(source)
    for name, value, allowed in (("layout", layout, (None, *LAYOUTS)), ("branch", branch, ("student", "teacher"))):
        if value not in allowed:
            raise CheckpointError(f"{file}: {name} is {value!r}; needed one of {', '.join(map(repr, allowed))}")
    state = source if isinstance(source, Mapping) else _read(Path(source), trust_file=trust_file)
    official, ignored = _encoder_only(state, branch, file)
    config = _config(official, file)
    found = _layout(official, config, file)
    if layout is not None and found not in (None, layout):
        raise CheckpointError(
            f"{file}: sLSTM layout is {found!r}; {layout!r} was asked for. Leave the layout out, or check the file"
        )
    with torch.device("meta"):
        needed = to_official(XECG(config, spec=_any_spec(config)), layout=found or "cuda")
    check_tensors(official, {name: tuple(t.shape) for name, t in needed.items()}, file)
    tensors = {ours: _ours(official[name], ours, config, found) for ours, name in _names(config.blocks).items()}
    return Converted(config, tensors, found, ignored)


def to_official(model: XECG | Mapping[str, Tensor], *, layout: str = "cuda") -> dict[str, Tensor]:
    """Our weights under the official names, shapes and sLSTM layout. Raises CheckpointError on an unknown layout."""
    if layout not in LAYOUTS:
        raise CheckpointError(f"layout is {layout!r}; needed one of {', '.join(LAYOUTS)}")
    tensors = model.state_dict() if isinstance(model, XECG) else model
    count = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blocks."))
    kinds = "".join("s" if f"blocks.{n}.R" in tensors else "m" for n in range(count))
    return {name: _official(tensors[ours], ours, layout) for ours, name in _names(kinds).items()}


def import_official(
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    layout: str | None = None,
    branch: str = "student",
    trust_file: bool = False,
    spec: SignalSpec | None = None,
) -> Converted:
    """Convert an official file into the checkpoint `folder`. spec: its input contract; default: the published model's.

    Raises as `to_ours` and `xecg.model.save`, and SpecError when the spec's leads or patch are not the weights'.
    """
    found = to_ours(source, layout=layout, branch=branch, trust_file=trust_file)
    name = "base" if found.config == PRESETS["base"] else "converted"
    card = _CARD.format(source=Path(source).name, layout=found.layout)
    with torch.device("meta"):
        model = XECG(found.config, spec=spec, name=name, card=card, trained=True)
    model.load_state_dict(found.tensors, assign=True)
    save(model, folder)
    return found


def export_official(folder: str | os.PathLike[str], file: str | os.PathLike[str], *, layout: str = "cuda") -> None:
    """Write the weights of the checkpoint `folder` as an official safetensors file. Raises as `xecg.load`."""
    write_bytes(file, _safetensors_bytes(to_official(load(folder), layout=layout)))


def _names(blocks: str) -> dict[str, str]:
    """Our name → official name."""
    inside = {
        f"blocks.{n}.{ours}": f"{_STEM}.{n}.{name}"
        for n, kind in enumerate(blocks)
        for ours, name in _BLOCK[kind].items()
    }
    return _OUTSIDE | inside


def _ours(tensor: Tensor, name: str, config: XECGConfig, layout: str | None) -> Tensor:
    H, last = config.heads, name.rpartition(".")[2]
    if name.endswith("conv.weight"):
        tensor = tensor[:, 0]
    elif last == "R" and layout == "cuda":
        tensor = tensor.unflatten(2, (4, -1)).permute(2, 0, 1, 3)  # (H, in, 4, out) → (4, H, in, out)
    elif last == "R":
        tensor = tensor.unflatten(1, (4, -1)).permute(1, 0, 3, 2)  # (H, 4, out, in) → (4, H, in, out)
    elif _is_slstm_bias(name) and layout == "cuda":
        tensor = tensor.view(H, 4, -1).transpose(0, 1)
    elif _is_slstm_bias(name):
        tensor = tensor.view(4, H, -1)
    return tensor.clone(memory_format=torch.contiguous_format)


def _official(tensor: Tensor, name: str, layout: str) -> Tensor:
    last = name.rpartition(".")[2]
    if name.endswith("conv.weight"):
        tensor = tensor[:, None]
    elif last == "R" and layout == "cuda":
        tensor = tensor.permute(1, 2, 0, 3).flatten(2)
    elif last == "R":
        tensor = tensor.permute(1, 0, 3, 2).flatten(1, 2)
    elif _is_slstm_bias(name):
        tensor = (tensor.transpose(0, 1) if layout == "cuda" else tensor).flatten()
    return tensor.detach().clone(memory_format=torch.contiguous_format)


def _is_slstm_bias(name: str) -> bool:
    return re.fullmatch(r"blocks\.\d+\.bias", name) is not None


def _encoder_only(state: Mapping[str, Tensor], branch: str, file: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors of one branch under the names of the release, and the names of everything left out."""
    official: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    ignored = []
    for key, tensor in state.items():
        name = key.removeprefix("model.")
        of_teacher = name.startswith("_teacher.")
        name = name.removeprefix("_teacher.").removeprefix("model.")
        if name.startswith("xlstm.model."):
            name = "core.model." + name.removeprefix("xlstm.model.")
        if _IGNORED.match(name) or of_teacher != (branch == "teacher"):
            ignored.append(key)
        elif not isinstance(tensor, Tensor):
            raise CheckpointError(f"{file}: {key!r} is a {type(tensor).__name__}; needed a tensor")
        elif name in official:
            raise CheckpointError(
                f"{file}: tensor {name!r} is there twice, as {origin[name]!r} and {key!r}; needed once"
            )
        else:
            official[name], origin[name] = tensor, key
    if not official:
        raise CheckpointError(
            f"{file}: {branch} tensors are 0 of {len(state)}; needed those of an xECG encoder. Is it one?"
        )
    return official, tuple(ignored)


def _config(official: Mapping[str, Tensor], file: str) -> XECGConfig:
    """The shape of the encoder, as its tensors tell it. The published models alternate directions."""

    def shape(name: str, rank: int) -> tuple[int, ...]:
        if name not in official:
            raise CheckpointError(f"{file}: tensor {name!r} is missing; needed to tell the shape of the encoder")
        if official[name].dim() != rank:
            raise CheckpointError(f"{file}: tensor {name!r} is {tuple(official[name].shape)}; needed {rank} dimensions")
        return tuple(official[name].shape)

    dim, leads, patch = shape(_OUTSIDE["patch.weight"], 3)
    found = re.compile(rf"{re.escape(_STEM)}\.(\d{{1,3}})\.")
    count = 1 + max((int(m[1]) for m in map(found.match, official) if m), default=-1)
    kinds = "".join("s" if f"{_STEM}.{n}.{_BLOCK['s']['R']}" in official else "m" for n in range(count))
    first = "in_i" if kinds.startswith("s") else "gate_i.weight"
    heads = shape(f"{_STEM}.0.{_BLOCK[kinds[:1] or 's'][first]}", 3 if first == "in_i" else 2)[0]
    return XECGConfig(blocks=kinds, dim=dim, heads=heads, leads=leads, patch=patch)


def _layout(official: Mapping[str, Tensor], config: XECGConfig, file: str) -> str | None:
    H, D = config.heads, config.dim // config.heads
    shapes = {(H, D, 4 * D): "cuda", (H, 4 * D, D): "vanilla"}
    seen: dict[str, str] = {}
    for n, kind in enumerate(config.blocks):
        name = f"{_STEM}.{n}.{_BLOCK['s']['R']}"
        if kind == "s":
            shape = tuple(official[name].shape)
            if shape not in shapes:
                raise CheckpointError(
                    f"{file}: tensor {name!r} is {shape}; needed {' (cuda) or '.join(map(str, shapes))} (vanilla)"
                )
            seen.setdefault(shapes[shape], name)
    if len(seen) > 1:
        raise CheckpointError(f"{file}: layouts are mixed: {seen}; needed one for all sLSTM blocks")
    return next(iter(seen), None)


def _any_spec(config: XECGConfig) -> SignalSpec:
    return SignalSpec(leads=tuple(f"lead {n}" for n in range(config.leads)), patch=config.patch)


def _read(path: Path, *, trust_file: bool) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; needed official weights (.safetensors, .ckpt, .pt or .bin)")
    with path.open("rb") as handle:
        what = foreign(handle.read(16))
    if what is None or "pickle" not in what:
        return read_tensors(path.read_bytes(), str(path))
    if torch.__version__ < (2, 10) and not trust_file:  # type: ignore[operator]
        raise CheckpointError(
            f"{path}: content is {what} and torch is {torch.__version__}; needed torch 2.10, as `weights_only` was "
            "bypassed below (CVE-2025-32434, CVE-2026-24747). Update torch, use safetensors, or say that you trust it"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises a dozen classes; all mean that the file cannot be taken
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{path}: content is refused ({reason}); needed a state dict of plain tensors") from None
    content = content.get("state_dict", content) if isinstance(content, Mapping) else content
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: content is a {type(content).__name__}; needed a state dict of plain tensors")
    return content
