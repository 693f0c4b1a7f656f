"""How much signal an adapter was given and how long it took: its cost, whatever the probe and the disk cost besides."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from benchecg.models.base import Adapter, Tokens
from xecg.signal import Recording

__all__ = ["Metered"]


class Metered:
    """The adapter, counting. ecg_s: seconds of recordings answered. wall_s: seconds that took."""

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter
        self.ecg_s = self.wall_s = 0.0

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._adapter, name)
        return self._counted(value) if name == "peaks_s" else value

    def features(self, recordings: Sequence[Recording]) -> list[Tokens]:
        """As the adapter's."""
        start = time.perf_counter()
        tokens = self._adapter.features(recordings)
        self._count(time.perf_counter() - start, sum(r.duration_s for r in recordings))
        return tokens

    def unmetered(self) -> Adapter:
        """The adapter itself."""
        return self._adapter

    def cost(self) -> dict[str, float]:
        """For a result: what was computed in this run; nothing when every feature came from the cache."""
        if not self.ecg_s or not self.wall_s:
            return {}
        hours = self.ecg_s / 3_600
        return {"ecg_hours": hours, "encode_wall_s": self.wall_s, "ecg_hours_per_s": hours / self.wall_s}

    def _counted(self, detect: Callable[[Recording], Any]) -> Callable[[Recording], Any]:
        def peaks_s(recording: Recording) -> Any:
            start = time.perf_counter()
            found = detect(recording)
            self._count(time.perf_counter() - start, recording.duration_s)
            return found

        return peaks_s

    def _count(self, wall_s: float, ecg_s: float) -> None:
        self.wall_s, self.ecg_s = self.wall_s + wall_s, self.ecg_s + ecg_s
