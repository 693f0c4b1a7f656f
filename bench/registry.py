"""The one list of entries: each module of a suite's folders offers `entries()`, makers of timed rows and of measured values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path

from bench.harness import Bench, Measure

__all__ = ["SUITES", "entries"]

SUITES = {  # suite → folders under bench/
    "cpu": ("ops", "jobs"),
    "frontend": ("frontend",),
    "embed": ("embed",),
    "stream": ("stream",),
    "gpu": ("gpu",),
}


def entries(suite: str) -> Iterator[Callable[[], Sequence[Bench | Measure]]]:
    """Makers of entries, so that the data of one table entry is not held while another is timed."""
    for folder in SUITES[suite]:
        for path in sorted((Path(__file__).parent / folder).glob("*.py")):
            if path.stem != "__init__":
                yield _Maker(f"bench.{folder}.{path.stem}")


class _Maker:
    """Entries of a module, which is imported when they are made: what it needs may be missing."""

    def __init__(self, module: str) -> None:
        self.__module__ = module

    def __call__(self) -> Sequence[Bench | Measure]:
        return import_module(self.__module__).entries()
