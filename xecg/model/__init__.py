"""The xECG encoder: configuration, network, checkpoints and the conversion of the published weights.

Names are resolved on first use (PEP 562): torch is imported only when a network is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xecg.model import archive, convert
    from xecg.model.checkpoint import load, save
    from xecg.model.config import XECGConfig
    from xecg.model.encoder import XECG
    from xecg.model.heads import Head, HeadSpec, load_head, save_head

_HOME = {
    "Head": "xecg.model.heads",
    "HeadSpec": "xecg.model.head_spec",
    "XECG": "xecg.model.encoder",
    "XECGConfig": "xecg.model.config",
    "load": "xecg.model.checkpoint",
    "load_head": "xecg.model.heads",
    "save": "xecg.model.checkpoint",
    "save_head": "xecg.model.heads",
}
_MODULES = ("archive", "convert")

__all__ = ["XECG", "Head", "HeadSpec", "XECGConfig", "archive", "convert", "load", "load_head", "save", "save_head"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name in _MODULES:
        return import_module(f"xecg.model.{name}")
    raise AttributeError(f"module 'xecg.model' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
