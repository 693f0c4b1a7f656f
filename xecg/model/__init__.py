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

_HOME = {
    "XECG": "xecg.model.encoder",
    "XECGConfig": "xecg.model.config",
    "load": "xecg.model.checkpoint",
    "save": "xecg.model.checkpoint",
}
_MODULES = ("archive", "convert")

__all__ = ["XECG", "XECGConfig", "archive", "convert", "load", "save"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name in _MODULES:
        return import_module(f"xecg.model.{name}")
    raise AttributeError(f"module 'xecg.model' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
