"""A small valid WFDB record to break: 2 leads, 1,000 samples, format 16, 500 Hz."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest


@dataclass
class Broken:
    """`counts` int16 (1000, 2) of the record; `write` puts it on disk with header lines or data replaced."""

    folder: Path
    counts: np.ndarray

    @property
    def sums(self) -> list[int]:
        return [int(total) for total in self.counts.astype(np.int64).sum(0).astype(np.int16)]

    @property
    def data(self) -> bytes:
        return self.counts.astype("<i2").tobytes()

    def line(
        self, lead: int, name: str | None = None, *, fmt: str = "16", gain: str = "1000(0)/mV", zero: int = 0
    ) -> str:
        name = ("I", "V1")[lead] if name is None else name
        return f"r.dat {fmt} {gain} 16 {zero} {self.counts[0, lead]} {self.sums[lead]} 0 {name}"

    def header(self, *, record: str = "r 2 500 1000", first: str | None = None, second: str | None = None) -> str:
        lines = [record, self.line(0) if first is None else first, self.line(1) if second is None else second]
        return "\n".join(line for line in lines if line) + "\n"

    def write(self, header: str | bytes | None = None, data: bytes | None = None) -> Path:
        text = self.header() if header is None else header
        path = self.folder / "r.hea"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        (self.folder / "r.dat").write_bytes(self.data if data is None else data)
        return path


def ecg_counts(samples: int = 1000, leads: int = 2, seed: int = 0) -> np.ndarray:
    """int16 (samples, leads): beats of about 1 mV at 1,000 counts per mV, no two leads alike, first samples not 0."""
    rng = np.random.default_rng(seed)
    t = np.arange(samples)[:, None]
    beat = 1000 * np.exp(-0.5 * (((t + 37 * np.arange(leads)) % 400 - 200) / 8.0) ** 2)
    return np.rint(beat + rng.normal(0, 30, (samples, leads)) + 11).astype(np.int16)


@pytest.fixture
def broken(tmp_path: Path) -> Broken:
    return Broken(tmp_path, ecg_counts())
