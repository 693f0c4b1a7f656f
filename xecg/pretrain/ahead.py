"""The next step's views, made by a thread while the step before is computed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

__all__ = ["Ahead"]

_T = TypeVar("_T")


class Ahead(Generic[_T]):
    """`of(step)` is `make(step)`, made in advance where steps are asked for one after another; steps from `last` on are not made.

    One step is made at a time and one is kept, so memory does not grow. What `make` gives may depend on its step alone: then
    it is the same whenever it was made, and a run that goes on needs to know nothing of what was made in advance. An error of
    `make` is raised by `of` of its own step. Leaving the context ends the thread.
    """

    def __init__(self, make: Callable[[int], _T], last: int) -> None:
        self._make, self._last = make, last
        self._thread = ThreadPoolExecutor(1, "views")
        self._next: tuple[int, Future[_T]] | None = None

    def of(self, step: int) -> _T:
        waiting, self._next = self._next, None
        if waiting is None or waiting[0] != step:
            waiting = self._ask(step)
        found = waiting[1].result()
        if step + 1 < self._last:
            self._next = self._ask(step + 1)
        return found

    def _ask(self, step: int) -> tuple[int, Future[_T]]:
        return step, self._thread.submit(self._make, step)

    def __enter__(self) -> Ahead[_T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
