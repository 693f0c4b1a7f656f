"""Self-supervised pretraining of the encoder (SimDINOv2 on ECGs): corpus, views, losses, schedules, the training loop.

Names are resolved on first use (PEP 562): torch is imported only when training is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xecg.pretrain import corpus, distributed, losses, schedule, trainer, views
    from xecg.pretrain.build import build_corpus
    from xecg.pretrain.corpus import Corpus
    from xecg.pretrain.settings import Settings
    from xecg.pretrain.trainer import train

_HOME = {
    "Corpus": "xecg.pretrain.corpus",
    "Settings": "xecg.pretrain.settings",
    "build_corpus": "xecg.pretrain.build",
    "train": "xecg.pretrain.trainer",
}
_MODULES = ("corpus", "distributed", "losses", "schedule", "trainer", "views")

__all__ = [
    "Corpus",
    "Settings",
    "build_corpus",
    "corpus",
    "distributed",
    "losses",
    "schedule",
    "train",
    "trainer",
    "views",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name in _MODULES:
        return import_module(f"xecg.pretrain.{name}")
    raise AttributeError(f"module 'xecg.pretrain' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
