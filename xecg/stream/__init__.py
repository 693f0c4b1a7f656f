"""Live ECGs: many patients, one model, constant memory, the same bits however the signal was cut."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xecg.stream.events import Event, Token
    from xecg.stream.session import Stream

_HOME = {"Event": "events", "Stream": "session", "Token": "events"}

__all__ = ["Event", "Stream", "Token"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"xecg.stream.{_HOME[name]}"), name)
    raise AttributeError(f"module 'xecg.stream' has no attribute {name!r}")
