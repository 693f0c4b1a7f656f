"""`Settings`: everything that a run depends on beside its corpus."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from xecg.errors import SpecError
from xecg.model.config import PRESETS, XECGConfig
from xecg.pretrain import losses
from xecg.pretrain.views import ViewSettings

__all__ = ["Settings", "read_settings"]

_CHOICES = {
    "gamma": losses.GAMMA_RULES,
    "patch_average": ("global", "per-sample"),
    "scope": ("global", "local"),
    "pairing": ("record", "patient"),
    "precision": ("float32", "bfloat16"),
}


@dataclass(frozen=True)
class Settings:
    """Everything that a run depends on beside its corpus. Steps count optimiser steps of `batch` records, over all processes.

    model: a preset of XECGConfig. rate: AdamW's at its height. warmup: share of the steps. clip: norm of the gradient.
    expansion: weight of the coding rate. scope: what it is a rate of, "global": the whole batch, over all processes and
    micro-batches; "local": each micro-batch of each process by itself, a different objective, weighted by its records.
    precision: of the encoder, "bfloat16" = autocast; losses, weights and moments are float32 always.
    pairing: whose views are compared, "record": one window's; "patient": every other view is of another window of the same
    patient, where there is one. auxiliary: weight of the beat heads (`xecg.pretrain.auxiliary`), 0 = none.
    repeat_real: how often an epoch takes each window that is not simulated. held_out: share of the patients that no step takes,
    for the probes (`xecg.pretrain.probes`). Raises SpecError on a value out of range.
    """

    model: str = "tiny"
    steps: int = 1000
    batch: int = 64
    seed: int = 0
    rate: float = 1e-3
    warmup: float = 0.1
    layer_decay: float = 0.9
    first_decay: float = 0.04
    last_decay: float = 0.4
    first_beta: float = 0.99
    clip: float = 3.0
    expansion: float = 0.1
    scope: str = "global"
    gamma: str = "sqrt"
    patch_average: str = "global"
    pairing: str = "record"
    precision: str = "float32"
    auxiliary: float = 0.0
    repeat_real: int = 1
    held_out: float = 0.0
    views: ViewSettings = field(default_factory=ViewSettings)

    def __post_init__(self) -> None:
        XECGConfig.preset(self.model)
        for name, least in (("steps", 1), ("batch", 2), ("seed", 0), ("repeat_real", 1)):
            if type(getattr(self, name)) is not int or getattr(self, name) < least:
                raise SpecError(f"{name} is {getattr(self, name)!r}; needed a whole number, {least} or more")
        for name, low, high in (
            ("rate", 0, 1),
            ("warmup", 0, 1),
            ("layer_decay", 0, 1),
            ("first_beta", 0, 1),
            ("held_out", 0, 0.5),
        ):
            if not low <= getattr(self, name) <= high:
                raise SpecError(f"{name} is {getattr(self, name)!r}; needed {low}..{high}")
        if not self.clip > 0 or self.expansion < 0 or self.auxiliary < 0:
            raise SpecError(
                f"clip is {self.clip!r}, expansion {self.expansion!r}; needed above 0, and 0 or more (as auxiliary)"
            )
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise SpecError(f"{name} is {getattr(self, name)!r}; needed one of {', '.join(choices)}")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Settings:
        """From plain types, `views` being a mapping. What is not said has its default. Raises SpecError on an unknown key."""
        values = dict(_checked(cls, data, "settings"))
        if "views" in values:
            views = values["views"]
            if not isinstance(views, Mapping):
                raise SpecError(f"settings views is {views!r}; needed keys and values")
            values["views"] = ViewSettings(**_checked(ViewSettings, views, "views"))
        return cls(**values)


def read_settings(name_or_file: str | os.PathLike[str]) -> Settings:
    """Settings of a YAML file, or the defaults of a preset of that name. Raises SpecError where the file has other keys."""
    if str(name_or_file) in PRESETS:
        return Settings(model=str(name_or_file))
    import yaml

    try:
        data = yaml.safe_load(Path(name_or_file).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SpecError(f"{name_or_file}: no such file; needed a YAML file or one of {', '.join(PRESETS)}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SpecError(f"{name_or_file}: is no YAML ({' '.join(str(error).split())})") from None
    if not isinstance(data, dict):
        raise SpecError(f"{name_or_file}: holds {type(data).__name__}; needed keys and values")
    try:
        return Settings.from_dict(data)
    except SpecError as error:
        raise SpecError(f"{name_or_file}: {error}") from None


def _checked(kind: type, data: Mapping[str, Any], what: str) -> Mapping[str, Any]:
    """`data`, if it fits the fields of a dataclass by name and type."""
    types = {f.name: f.type for f in fields(kind)}
    for key, value in data.items():
        if key not in types:
            raise SpecError(f"{what} key is {key!r}; needed one of {', '.join(types)}")
        numbers = {"int": (int,), "float": (int, float), "str": (str,)}.get(str(types[key]))
        if numbers is not None and (not isinstance(value, numbers) or isinstance(value, bool)):
            raise SpecError(
                f"{what} {key} is {value!r}, a {type(value).__name__}; needed {types[key]} (1.0e-4, not 1e-4)"
            )
    return data
