"""Signals: what a recording is, and what turns it into model input.

Names are resolved on first use (PEP 562): scipy and matplotlib are loaded by the functions that need them, not by
this import.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from xecg.signal.leads import STANDARD_LEADS, canonical_lead, canonical_leads
from xecg.signal.recording import Annotations, LogEntry, Recording
from xecg.signal.spec import PRESETS, FilterSpec, SignalSpec

if TYPE_CHECKING:
    from xecg.signal import before_after, paper, peaks, qrs, quality, simulate
    from xecg.signal.frontend import ECGFrontend, ModelInput, preprocess
    from xecg.signal.frontend_stream import FrontendStream

_HOME = {
    "ECGFrontend": "frontend",
    "FrontendStream": "frontend_stream",
    "ModelInput": "frontend",
    "preprocess": "frontend",
}
_MODULES = ("before_after", "paper", "peaks", "qrs", "quality", "simulate")

__all__ = [
    "PRESETS",
    "STANDARD_LEADS",
    "Annotations",
    "ECGFrontend",
    "FilterSpec",
    "FrontendStream",
    "LogEntry",
    "ModelInput",
    "Recording",
    "SignalSpec",
    "before_after",
    "canonical_lead",
    "canonical_leads",
    "paper",
    "peaks",
    "preprocess",
    "qrs",
    "quality",
    "simulate",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(f"xecg.signal.{_HOME[name]}"), name)
    elif name in _MODULES:
        value = import_module(f"xecg.signal.{name}")
    else:
        raise AttributeError(f"module 'xecg.signal' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
