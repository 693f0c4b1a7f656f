"""kill -9 at a chosen write, in a process of its own."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable

__all__ = ["killed_at"]


def killed_at(write: int, work: Callable[[], object]) -> bool:
    """Do `work` in a process that gets kill -9 in front of its rename number `write`; False where it has no such rename."""
    child = os.fork()
    if child == 0:
        count, rename = itertools.count(1), os.replace

        def replace(*names: object) -> None:
            if next(count) == write:
                os.kill(os.getpid(), signal.SIGKILL)
            rename(*names)

        os.replace = replace
        try:
            work()
        finally:
            os._exit(0)
    return bool(os.waitpid(child, 0)[1])
