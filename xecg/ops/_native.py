"""The compiled modules, or the reason why one is not there."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from types import ModuleType

__all__ = ["address", "load"]

_NOT_BUILT = (
    "the module xecg.{name} is not built; run `pip install .` in the source tree with a C++ compiler{extra}, "
    "or keep the reference backend"
)


@cache
def load(name: str) -> tuple[ModuleType | None, str]:
    """The module xecg.<name> ("_cpu" or "_cuda") and "", or None and the reason."""
    try:
        return import_module(f"xecg.{name}"), ""
    except ModuleNotFoundError:
        return None, _NOT_BUILT.format(name=name, extra=" and nvcc" if name == "_cuda" else "")
    except ImportError as error:
        return None, f"the module xecg.{name} does not load: {error}"


def address(tensor: object) -> int:
    """Address of a tensor's first element, 0 for None."""
    return 0 if tensor is None else tensor.data_ptr()  # type: ignore[attr-defined]
