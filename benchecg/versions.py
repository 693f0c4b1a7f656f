"""Versions of what a result depends on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

__all__ = ["library_version", "library_versions"]

_LIBRARIES = ("xecg", "torch", "numpy", "scipy", "scikit-learn", "pyarrow")


def library_version(name: str) -> str:
    """Version of an installed distribution, without importing it."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def library_versions() -> dict[str, str]:
    """Python's version and those of the libraries that scores depend on."""
    return {"python": platform.python_version(), **{name: library_version(name) for name in _LIBRARIES}}
