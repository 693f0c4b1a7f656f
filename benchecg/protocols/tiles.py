"""Recordings cut into tiles for a network that is trained: the samples that go in, and which of its tokens answer which unit.

A unit is the mean of the tokens that speak for it, as in `benchecg.protocols.features`. Tiles overlap by a margin on both sides,
so that what is answered in a tile's core has context where the record has it; every instant is in one core. A unit that reaches
over several cores (a long record, a minute before a 10 s network) is trained in each and answered by the mean of their logits.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchecg.protocols.features import recording_of
from benchecg.tasks.base import Task, TaskData
from xecg.errors import SpecError
from xecg.signal import ModelInput

__all__ = ["Cut", "Grid", "Inputs", "Tile", "Tiles", "batch_of", "cuts_of", "features_of", "grid_of", "tiles_of"]

_RECORD_S = 60.0  # of one tile where the unit is the record
_CORE_S, _MARGIN_S = 26.0, 5.0  # where units are instants: 36 s with both margins, as the published beat task
_SPANS = 5  # units that last are answered so many to a tile, with the length of one as margin
_IN_MEMORY = 2 << 30  # bytes of preprocessed recordings that are kept; beyond that they are made again


@dataclass(frozen=True)
class Grid:
    """Where a network's tokens lie. rate_hz of its input; token: samples of one; shift: where the first begins.

    window: samples that it takes at once, None for any number. fixed: shorter input is filled up to the window.
    """

    rate_hz: float
    token: float
    shift: float = 0.0
    window: int | None = None
    fixed: bool = False


@dataclass(frozen=True, eq=False)
class Tile:
    """Samples start..stop of record number `record`; units (u,) it answers, each by its tokens first..last, (u, 2)."""

    record: int
    start: int
    stop: int
    unit: np.ndarray
    tokens: np.ndarray


@dataclass(frozen=True)
class Cut:
    """Samples start..stop of a recording that go in together; begin..end of them, the core, are answered."""

    begin: int
    end: int
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class Tiles:
    """tiles of each split; every one answers a unit."""

    grid: Grid
    train: tuple[Tile, ...]
    val: tuple[Tile, ...]
    test: tuple[Tile, ...]


class Inputs:
    """The preprocessed recordings of a task, by record number."""

    def __init__(self, task: Task, data: TaskData, spec: Any) -> None:
        self._task, self._data, self._spec = task, data, spec
        self._kept: dict[int, ModelInput] = {}
        self._bytes = 0

    def __getitem__(self, i: int) -> ModelInput:
        from xecg import preprocess

        if i in self._kept:
            return self._kept[i]
        made = preprocess(recording_of(self._task, self._data, self._data.records[i]), self._spec)
        ready = ModelInput(np.asarray(made.x, np.float32), np.asarray(made.mask, bool))
        self._bytes += ready.x.nbytes + ready.mask.nbytes
        if self._bytes <= _IN_MEMORY:
            self._kept[i] = ready
        return ready


def grid_of(adapter: Any, module: nn.Module) -> Grid:
    """Of an adapter that can be trained. Raises SpecError where its input has no one rate."""
    spec, contract = adapter.spec, getattr(adapter, "contract", None)
    if spec.rate is None:
        raise SpecError(f"{adapter.id} keeps each recording's own rate; fine-tuning needs one rate for all")
    if contract is None:
        return Grid(spec.rate, float(spec.patch))
    if contract.token is not None:
        token = float(contract.token)
    else:
        with torch.no_grad():
            found = module.eval()(torch.zeros(1, len(spec.leads), contract.window))
        token = contract.window / (1 if found.ndim == 2 else found.shape[1])
    shift = 0.0 if contract.first is None else contract.first - token / 2
    return Grid(spec.rate, token, shift, contract.window, contract.fixed)


def tiles_of(task: Task, data: TaskData, inputs: Inputs, grid: Grid) -> Tiles:
    """Tiles of the records in train, val and test, in their order."""
    found: dict[str, list[Tile]] = {"train": [], "val": [], "test": []}
    for i, record in enumerate(data.records):
        if record.split in found:
            found[record.split] += _of_record(data, i, inputs[i].x.shape[-1], grid)
    return Tiles(grid, *(tuple(found[split]) for split in ("train", "val", "test")))


def _of_record(data: TaskData, i: int, n: int, grid: Grid) -> list[Tile]:
    unit = np.flatnonzero(data.record == i)
    first = data.time_s[unit] * grid.rate_hz
    whole = np.isnan(first)
    last = np.where(whole, n, first + data.span_s * grid.rate_hz)
    first = np.where(whole, 0, first)
    tiles = []
    for cut in cuts_of(grid, n, span_s=data.span_s, whole=bool(whole.all())):
        inside = (first < cut.end) & ((last > cut.begin) | (first >= cut.begin))
        tokens = [
            _tokens(grid, max(a, cut.begin) - cut.start, min(b, cut.end) - cut.start, cut.stop - cut.start)
            for a, b in zip(first[inside], last[inside])
        ]
        kept = [(u, t) for u, t in zip(unit[inside], tokens) if t is not None]
        if kept:
            tiles.append(Tile(i, cut.start, cut.stop, np.array([u for u, _ in kept]), np.array([t for _, t in kept])))
    return tiles


def cuts_of(grid: Grid, n: int, *, span_s: float = 0.0, whole: bool = False) -> Iterator[Cut]:
    """Cuts of a recording of n samples; their cores are the recording. span_s: of a unit. whole: units are recordings."""
    core, margin = _sizes(grid, span_s, whole)
    for begin in range(0, max(1, n), core):
        end = min(n, begin + core)
        start, stop = max(0, begin - margin), min(n, end + margin)
        if grid.window is None and stop - start > grid.token:  # an incomplete last token is no token
            stop = start + int((stop - start) // grid.token * grid.token)
        yield Cut(begin, end, start, stop)


def _sizes(grid: Grid, span_s: float, whole: bool) -> tuple[int, int]:
    """Samples of a core and of each margin, whole tokens of both."""
    core_s, margin_s = (_RECORD_S, 0.0) if whole else (_CORE_S, _MARGIN_S)
    if span_s:
        core_s, margin_s = _SPANS * span_s, span_s
    core, margin = (int(round(s * grid.rate_hz / grid.token) * grid.token) for s in (core_s, margin_s))
    if grid.window is None:
        return core, margin
    margin = min(margin, grid.window // 4)  # a short window keeps half of itself as core
    return max(1, min(core, grid.window - 2 * margin)), margin


def _tokens(grid: Grid, first: float, last: float, n: int) -> tuple[int, int] | None:
    """Tokens that begin in [first, last), samples of a tile of n; the one that holds the middle where none does."""
    count = max(1, int((n - grid.shift) // grid.token))
    a, b = (int(np.ceil((s - grid.shift) / grid.token - 1e-9)) for s in (first, last))
    a, b = max(a, 0), min(b, count)
    if b <= a:
        a = max(0, int(np.floor(((first + last) / 2 - grid.shift) / grid.token + 1e-9)))
        b = a + 1
    return (a, b) if b <= count else None


def batch_of(tiles: Sequence[Tile], inputs: Inputs, grid: Grid, *, size: int = 0) -> tuple[Tensor, Tensor]:
    """x float32 and mask bool, (B, leads, samples): shorter tiles are filled with missing samples. size: samples at least."""
    size = max(size, *(t.stop - t.start for t in tiles))
    if grid.fixed and grid.window is not None:
        size = grid.window
    size = max(int(np.ceil(size / grid.token) * grid.token) if not grid.fixed else size, int(grid.token))
    leads = len(inputs[tiles[0].record].x)
    x, mask = np.zeros((len(tiles), leads, size), np.float32), np.zeros((len(tiles), leads, size), bool)
    for row, tile in enumerate(tiles):
        ready, n = inputs[tile.record], tile.stop - tile.start
        x[row, :, :n] = ready.x[:, tile.start : tile.stop]
        mask[row, :, :n] = ready.mask[:, tile.start : tile.stop]
    return torch.from_numpy(x), torch.from_numpy(mask)


def features_of(
    module: nn.Module, tiles: Sequence[Tile], inputs: Inputs, grid: Grid, device: str, *, size: int = 0
) -> Tensor:
    """Features of every unit of the tiles in their order, float32 (units, D), with a graph where it is wanted. size: see `batch_of`."""
    x, mask = batch_of(tiles, inputs, grid, size=size)
    takes_mask = "mask" in inspect.signature(module.forward).parameters
    tokens = module(x.to(device), mask.to(device)) if takes_mask else module(x.to(device))
    tokens = (tokens[:, None] if tokens.ndim == 2 else tokens).float()
    alive = _alive(mask.any(1).numpy(), grid, tokens.shape[1])
    most = max(len(t.unit) for t in tiles)
    weight = np.zeros((len(tiles), most, tokens.shape[1]), np.float32)
    for row, tile in enumerate(tiles):
        for place, (a, b) in enumerate(np.minimum(tile.tokens, [tokens.shape[1] - 1, tokens.shape[1]])):
            speaks = alive[row, a:b] if alive[row, a:b].any() else np.ones(b - a, bool)
            weight[row, place, a:b] = speaks / speaks.sum()
    pooled = torch.bmm(torch.from_numpy(weight).to(device), tokens)
    return torch.cat([pooled[row, : len(tile.unit)] for row, tile in enumerate(tiles)])


def _alive(known: np.ndarray, grid: Grid, count: int) -> np.ndarray:
    """Which tokens have a valid sample: known (B, samples) → (B, count)."""
    edges = np.clip(np.rint(grid.shift + grid.token * np.arange(count + 1)), 0, known.shape[1]).astype(int)
    total = np.concatenate([np.zeros((len(known), 1), int), np.cumsum(known, 1)], 1)[:, edges]
    return np.diff(total, axis=1) > 0
