"""xecg: embeddings, tokens and events from raw ECGs with an xLSTM encoder. Research use only, not a medical device.

Names are resolved on first use (PEP 562), so that ``import xecg`` stays cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xecg import errors, io, model, ops, pretrain, signal, stream
    from xecg.io import read
    from xecg.model import XECG, XECGConfig, load
    from xecg.signal import ECGFrontend, Recording, SignalSpec, preprocess
    from xecg.stream import Stream

_HOME = {
    "ECGFrontend": "xecg.signal",
    "Recording": "xecg.signal",
    "SignalSpec": "xecg.signal",
    "Stream": "xecg.stream",
    "XECG": "xecg.model",
    "XECGConfig": "xecg.model",
    "load": "xecg.model",
    "preprocess": "xecg.signal",
    "read": "xecg.io",
}
_MODULES = ("errors", "io", "model", "ops", "pretrain", "signal", "stream")

__all__ = [
    "ECGFrontend",
    "Recording",
    "SignalSpec",
    "Stream",
    "XECG",
    "XECGConfig",
    "errors",
    "io",
    "load",
    "model",
    "ops",
    "preprocess",
    "pretrain",
    "read",
    "signal",
    "stream",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
    elif name in _MODULES:
        value = import_module(f"xecg.{name}")
    elif name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            value = version("xecg")
        except PackageNotFoundError:
            value = "0+not-installed"  # a source tree on the path; only `pip install` knows the version
    else:
        raise AttributeError(f"module 'xecg' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
