"""Fine-tuning on peaks: every token of a tile is asked for its heights, and the curve of a record is read as that of the probe.

A unit is a token that overlaps a tile's core; of its heights those within the core belong to the record's curve, so that every
instant has one height and no token is cut. The target is the bell of `benchecg.protocols.peak_head`, the loss its squared error.
After every epoch theta is chosen on the validation records by F1 at ±75 ms, and that F1 chooses epoch and setting.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from benchecg.metrics import PEAK_NAMES, peak_counts, peak_metrics
from benchecg.protocols.peak_head import Picked, heights_of, target_of
from benchecg.protocols.tiles import Cut, Grid, Inputs, Tile, Tiles, cuts_of
from benchecg.tasks.base import TaskData

__all__ = ["PeakUnits", "peak_units", "pooled", "truth_of"]


@dataclass(frozen=True, eq=False)
class PeakUnits:
    """n tokens of tiles. record: int (n,). time_s, target: float (n, heights). own: bool (n, heights), within the tile's core."""

    tiles: Tiles
    record: np.ndarray
    time_s: np.ndarray
    own: np.ndarray
    target: np.ndarray

    def curves(self, heights: np.ndarray) -> dict[int, Picked]:
        """Curves by record index. heights (n, heights): NaN of tokens that were not asked."""
        found = {}
        asked = np.isfinite(heights).all(1)
        for i in np.unique(self.record[asked]).tolist():
            rows = asked & (self.record == i)
            own = self.own[rows]
            found[i] = self.time_s[rows][own], heights[rows][own].astype(np.float64)
        return found


def truth_of(data: TaskData) -> dict[int, np.ndarray]:
    """True peaks of each record that is not dropped, ascending, s."""
    used = [i for i, r in enumerate(data.records) if r.split != "dropped"]
    return {i: np.sort(data.time_s[data.record == i]) for i in used}


def peak_units(data: TaskData, inputs: Inputs, grid: Grid) -> PeakUnits:
    """Tiles of the records in train, val and test, their tokens and what these are asked."""
    heights, truth_s = heights_of(grid.token / grid.rate_hz), truth_of(data)
    tiles: dict[str, list[Tile]] = {"train": [], "val": [], "test": []}
    record, time_s, own, target = [], [], [], []
    count = 0
    for i, each in enumerate(data.records):
        if each.split not in tiles:
            continue
        for cut in cuts_of(grid, inputs[i].x.shape[-1]):
            tokens, at = _tokens(grid, cut, heights)
            tiles[each.split].append(
                Tile(i, cut.start, cut.stop, count + np.arange(len(tokens)), np.stack([tokens, tokens + 1], 1))
            )
            count += len(tokens)
            record.append(np.full(len(tokens), i))
            time_s.append(at / grid.rate_hz)
            own.append((at >= cut.begin) & (at < cut.end))
            target.append(target_of(time_s[-1], truth_s[i]))
    parts = (np.concatenate(a) for a in (record, time_s, own, target))
    return PeakUnits(Tiles(grid, *(tuple(tiles[split]) for split in ("train", "val", "test"))), *parts)


def _tokens(grid: Grid, cut: Cut, heights: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of the cut that overlap its core, int (k,), and the samples at which they have heights, (k, heights)."""
    room = (cut.stop - cut.start - grid.shift) / grid.token
    count = max(
        1, int(np.ceil(room - 1e-9) if grid.fixed else room + 1e-9)
    )  # a window that is filled up has the last one, too
    first = cut.start + grid.shift + grid.token * np.arange(count)
    tokens = np.flatnonzero((first + grid.token > cut.begin) & (first < cut.end))
    return tokens, first[tokens, None] + grid.token * (np.arange(heights) + 0.5) / heights


def pooled(data: TaskData, found: Mapping[int, Picked]) -> dict[str, float | None]:
    """Metrics of picked peaks over the records of `found` together, None where undefined."""
    truth_s = truth_of(data)
    counts = np.sum([peak_counts(truth_s[i], at) for i, (at, _) in found.items()], axis=0)
    return {name: None if np.isnan(v) else float(v) for name, v in zip(PEAK_NAMES, peak_metrics(counts))}
