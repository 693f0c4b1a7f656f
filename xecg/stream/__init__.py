"""Live ECGs: many patients, one model, constant memory, the same bits however the signal was cut."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xecg.stream.session import Event, Stream, Token

__all__ = ["Event", "Stream", "Token"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("xecg.stream.session"), name)
    raise AttributeError(f"module 'xecg.stream' has no attribute {name!r}")
