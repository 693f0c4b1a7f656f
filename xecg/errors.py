"""The one exception family of xecg: every message says what was found, what is needed, what to do."""

from __future__ import annotations

__all__ = [
    "BackendError",
    "CheckpointError",
    "DataMissing",
    "ReadError",
    "ShapeError",
    "SpecError",
    "StreamError",
    "XECGError",
]


class XECGError(Exception):
    """Base of every error that a user's input can cause."""


class ShapeError(XECGError, ValueError):
    """A tensor argument has the wrong rank, size, type, device or layout."""


class BackendError(XECGError, RuntimeError):
    """A backend that was asked for by name cannot serve the call."""


class SpecError(XECGError, ValueError):
    """A configuration, signal specification or plan is not valid."""


class CheckpointError(XECGError, ValueError):
    """A checkpoint folder or official weight file is damaged, foreign or incomplete."""


class StreamError(XECGError, ValueError):
    """A live stream was used out of order or handed a chunk that it cannot take."""


class DataMissing(XECGError, FileNotFoundError):
    """A data set that a task needs is not there; the message names it, its size, licence and source."""


class ReadError(XECGError, ValueError):
    """A file was refused.

    Attributes: file, field, found, rule, hint: the parts of the message, all text.
    """

    def __init__(self, file: str, field: str, found: object, rule: str, hint: str = "") -> None:
        self.file, self.field, self.found, self.rule, self.hint = str(file), field, str(found), rule, hint
        super().__init__(f"{file}: {field} is {found}; {rule}.{' ' + hint if hint else ''}")

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.file, self.field, self.found, self.rule, self.hint)
