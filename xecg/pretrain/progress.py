"""What a run says while it goes: lines of JSON on disk, records a second, memory."""

from __future__ import annotations

import json
import math
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from xecg.errors import XECGError
from xecg.io.atomic import write_text

__all__ = ["Clock", "append_line", "board", "cut_lines", "read_lines"]


def append_line(path: Path, line: dict[str, Any]) -> None:
    """Add a line; numbers that JSON lacks are written as text."""
    clean = {k: v if not isinstance(v, float) or math.isfinite(v) else str(v) for k, v in line.items()}
    with open(path, "a", encoding="utf-8") as handle:
        handle.write(json.dumps(clean) + "\n")


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a file that are whole; none where it is absent."""
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        if text.endswith("}"):
            yield json.loads(text)


def cut_lines(path: Path, step: int) -> None:
    """Take out what a killed run logged after its last state, and a line that it did not finish."""
    if path.exists():
        write_text(path, "".join(json.dumps(line) + "\n" for line in read_lines(path) if line["step"] <= step))


def board(folder: Path) -> Callable[[dict[str, Any]], None]:
    """Draws the numbers of a line in TensorBoard, by its step. Raises XECGError where the package is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise XECGError("tensorboard is not installed; install it, or read log.jsonl and report.html") from None
    writer = SummaryWriter(str(folder))

    def draw(line: dict[str, Any]) -> None:
        for name, value in line.items():
            if name != "step" and isinstance(value, (int, float)):
                writer.add_scalar(name, value, line["step"])
        writer.flush()

    return draw


class Clock:
    """Records a second, the share of time spent on waiting for batches, memory."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self._loading = self._computing = 0.0
        self._samples = 0

    def loaded(self) -> None:
        self._loading += self._lap()

    def pause(self) -> None:
        """Do not count what went by since the last lap."""
        self._lap()

    def stepped(self, samples: int) -> None:
        self._computing += self._lap()
        self._samples += samples

    def figures(self) -> dict[str, float]:
        total = max(self._loading + self._computing, 1e-9)
        found = {"records_per_s": self._samples / total, "loading_share": self._loading / total}
        self._loading = self._computing = 0.0
        self._samples = 0
        return found | {"memory_mb": self.memory_mb()}

    @staticmethod
    def memory_mb() -> float:
        """Largest resident memory so far (Linux: ru_maxrss is in kB)."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    def _lap(self) -> float:
        now = time.perf_counter()
        past, self._last = now - self._last, now
        return past
