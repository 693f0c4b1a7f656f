"""Live ECGs: many patients, one model, constant memory, the same bits however the signal was cut."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xecg.stream.events import Event, Token
    from xecg.stream.session import Stream
    from xecg.stream.window import Parity, WindowStream, measure_parity

_HOME = {
    "Event": "events",
    "Parity": "window",
    "Stream": "session",
    "Token": "events",
    "WindowStream": "window",
    "measure_parity": "window",
}

__all__ = ["Event", "Parity", "Stream", "Token", "WindowStream", "measure_parity"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"xecg.stream.{_HOME[name]}"), name)
    raise AttributeError(f"module 'xecg.stream' has no attribute {name!r}")
