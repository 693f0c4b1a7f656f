"""The one list of entries: each module of bench.ops and bench.jobs offers `entries() -> list[Bench]`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

from bench.harness import Bench

__all__ = ["entries"]


def entries() -> Iterator[Callable[[], list[Bench]]]:
    """Makers of entries, so that the data of one table entry is not held while another is timed."""
    for folder in ("ops", "jobs"):
        for path in sorted((Path(__file__).parent / folder).glob("*.py")):
            if path.stem != "__init__":
                yield import_module(f"bench.{folder}.{path.stem}").entries
