"""Files: bytes to `Recording` (`read`), results to disk (`atomic`, `tables`, `store`). Names are resolved on first use."""

# No "from __future__ import annotations" here: it would define the name `annotations`, which is a function of this package.

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import xecg.io.atomic as atomic
    import xecg.io.store as store
    import xecg.io.tables as tables
    from xecg.io.find import find_records
    from xecg.io.reading import annotations, read
    from xecg.io.writing import write_wfdb

_HOME = {
    "annotations": "xecg.io.reading",
    "find_records": "xecg.io.find",
    "read": "xecg.io.reading",
    "write_wfdb": "xecg.io.writing",
}
_MODULES = ("atomic", "store", "tables")

__all__ = ["annotations", "atomic", "find_records", "read", "store", "tables", "write_wfdb"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
    elif name in _MODULES:
        value = import_module(f"xecg.io.{name}")
    else:
        raise AttributeError(f"module 'xecg.io' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
