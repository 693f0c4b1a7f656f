"""benchecg: how good an ECG encoder is, said honestly. Research use only, not a medical device.

Names are resolved on first use (PEP 562), so that ``import benchecg`` and ``benchecg --help`` stay cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchecg.comparing import compare
    from benchecg.models import Adapter, Tokens, load_adapter
    from benchecg.predictions import read_predictions
    from benchecg.profiles import task_in
    from benchecg.results import Result, read_result, suite_score
    from benchecg.running import load_data, run
    from benchecg.scoring import score
    from benchecg.tasks import load_task, task_ids
    from benchecg.tasks.base import data_root

_HOME = {
    "Adapter": "benchecg.models",
    "Result": "benchecg.results",
    "Tokens": "benchecg.models",
    "compare": "benchecg.comparing",
    "data_root": "benchecg.tasks.base",
    "load_adapter": "benchecg.models",
    "load_data": "benchecg.running",
    "load_task": "benchecg.tasks",
    "read_predictions": "benchecg.predictions",
    "read_result": "benchecg.results",
    "run": "benchecg.running",
    "score": "benchecg.scoring",
    "suite_score": "benchecg.results",
    "task_ids": "benchecg.tasks",
    "task_in": "benchecg.profiles",
}

__all__ = [
    "Adapter",
    "Result",
    "Tokens",
    "compare",
    "data_root",
    "load_adapter",
    "load_data",
    "load_task",
    "read_predictions",
    "read_result",
    "run",
    "score",
    "suite_score",
    "task_ids",
    "task_in",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'benchecg' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
