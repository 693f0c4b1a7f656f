"""Features of a task's units from an adapter, in blocks that a cache keeps: an interrupted run goes on where it stopped.

A folder of the cache is named by all that its features depend on, as far as it can be named. Code, and the weights of a model whose
fingerprint says nothing of them, cannot: so a folder holds a witness, too, the features of the start of one recording, and
features that are no longer the adapter's are thrown away.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchecg.models.base import Adapter, Tokens
from benchecg.tasks.base import Record, Task, TaskData
from benchecg.versions import library_version
from xecg.errors import ShapeError, SpecError
from xecg.signal import Recording

__all__ = ["Features", "RecordTokens", "is_synthetic", "record_tokens", "recording_of", "unit_features"]

_WITNESS, _WITNESS_S = "witness.npz", 30.0
_SAME = 1e-6  # of the largest feature: what another number of threads may change, and no training leaves unchanged
_SHOWN = ("age", "sex")  # meta that an adapter may use, unless the task hides it


@dataclass(frozen=True, eq=False)
class Features:
    """values: float32 (n_units, D). valid: bool (n_units,), False where no token holds the unit. cached: blocks not recomputed."""

    values: np.ndarray
    valid: np.ndarray
    blocks: int
    cached: int


@dataclass(frozen=True, eq=False)
class RecordTokens:
    """All tokens of each record that is not dropped: record index → Tokens. cached: blocks not recomputed."""

    tokens: dict[int, Tokens]
    blocks: int
    cached: int


def unit_features(
    task: Task,
    data: TaskData,
    adapter: Adapter,
    *,
    data_sha256: str,
    cache: Path | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
) -> Features:
    """Features of every unit whose record is in train, val or test (others: zeros, not valid).

    A unit with a time takes the token that holds it; a unit without takes the mean of all tokens. cache: folder for the
    blocks, named by adapter, preprocessing, data and units. Raises SpecError when a real task meets a synthetic recording,
    ShapeError when the adapter does not keep its contract.
    """

    def of_block(block: list[int], tokens: list[Tokens]) -> tuple[np.ndarray, ...]:
        units = [_pick(t, data.time_s[data.record == i], data.span_s) for i, t in zip(block, tokens)]
        return np.concatenate([v for v, _ in units]), np.concatenate([ok for _, ok in units])

    units = hashlib.sha256(data.record.tobytes() + data.time_s.tobytes()).hexdigest() + f" {data.span_s:g}"
    folder = None if cache is None else cache / _key(task, data, adapter, data_sha256, units)
    return _assemble(data, *_blocks(task, data, adapter, folder, progress, of_block))


def record_tokens(
    task: Task,
    data: TaskData,
    adapter: Adapter,
    *,
    data_sha256: str,
    cache: Path | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
) -> RecordTokens:
    """Every token of every record that is not dropped, for heads that answer within a token; cached as `unit_features` is."""

    def of_block(block: list[int], tokens: list[Tokens]) -> tuple[np.ndarray, ...]:
        count = np.array([len(t.values) for t in tokens])
        values = np.concatenate([np.asarray(t.values, np.float32) for t in tokens])
        return count, values, np.concatenate([t.start_s for t in tokens]), np.concatenate([t.length_s for t in tokens])

    folder = None if cache is None else cache / _key(task, data, adapter, data_sha256, "tokens")
    parts, cached = _blocks(task, data, adapter, folder, progress, of_block)
    tokens = {}
    for block, (count, *arrays) in parts:
        ends = np.cumsum(count)
        for i, first, last in zip(block, ends - count, ends):
            tokens[i] = Tokens(*(a[first:last] for a in arrays))
    _one_width([t.values for t in tokens.values()])
    return RecordTokens(tokens, len(parts), cached)


_Parts = list[tuple[list[int], tuple[np.ndarray, ...]]]


def _blocks(
    task: Task,
    data: TaskData,
    adapter: Adapter,
    folder: Path | None,
    progress: Callable[[Iterable], Iterable],
    of_block: Callable[[list[int], list[Tokens]], tuple[np.ndarray, ...]],
) -> tuple[_Parts, int]:
    used = [i for i, r in enumerate(data.records) if r.split != "dropped"]
    blocks = [used[i : i + task.records_per_call] for i in range(0, len(used), task.records_per_call)]
    if folder is not None and used:
        _clear_what_is_old(folder, task, data, adapter, used[0])
    parts, cached = [], 0
    for number, block in enumerate(progress(blocks)):
        path = None if folder is None else folder / f"block-{number:05d}.npz"
        part = _load(path)
        cached += part is not None
        if part is None:
            part = of_block(block, _tokens(task, data, adapter, block))
            _store(path, part)
        parts.append((block, part))
    return parts, cached


def _clear_what_is_old(folder: Path, task: Task, data: TaskData, adapter: Adapter, record: int) -> None:
    """Remove the blocks of `folder` unless the adapter still says of its witness what it said when they were made."""
    recording = recording_of(task, data, data.records[record])
    n = max(1, int(_WITNESS_S * recording.rate))
    short = recording.with_(signal=recording.signal[:, :n].copy(), mask=recording.mask[:, :n].copy())
    ask = adapter.unmetered() if hasattr(adapter, "unmetered") else adapter
    tokens = _checked(ask, [short])[0]
    now = tuple(np.asarray(a) for a in (tokens.values, tokens.start_s, tokens.length_s))
    before = _load(folder / _WITNESS)
    if before is not None and len(before) == len(now) and all(map(_same, before, now)):
        return
    for block in folder.glob("block-*.npz"):
        block.unlink()
    _store(folder / _WITNESS, now)


def _same(before: np.ndarray, now: np.ndarray) -> bool:
    if before.shape != now.shape:
        return False
    return bool(np.abs(before - now).max(initial=0) <= _SAME * np.abs(before).max(initial=0))


def _key(task: Task, data: TaskData, adapter: Adapter, data_sha256: str, units: str) -> str:
    ids = [r.id for r in data.records if r.split != "dropped"]
    parts = [
        library_version("xecg"),  # its front end and detectors are part of the features
        task.id,  # a task makes some of its recordings itself
        task.version,
        task.profile,
        adapter.id,
        adapter.fingerprint,
        adapter.spec_hash,
        data_sha256,
        units,
        ids,
        task.hides,
        task.records_per_call,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _tokens(task: Task, data: TaskData, adapter: Adapter, block: list[int]) -> list[Tokens]:
    return _checked(adapter, [recording_of(task, data, data.records[i]) for i in block])


def _checked(adapter: Adapter, recordings: list[Recording]) -> list[Tokens]:
    tokens = adapter.features(recordings)
    if len(tokens) != len(recordings):
        raise ShapeError(
            f"adapter {adapter.id!r} gave {len(tokens)} features for {len(recordings)} recordings; needed one each"
        )
    strange = next((t for t in tokens if not isinstance(t, Tokens)), None)
    if strange is not None:
        raise ShapeError(
            f"adapter {adapter.id!r} gave a {type(strange).__name__} for a recording; needed a benchecg.models.Tokens"
        )
    _one_width([t.values for t in tokens])
    return tokens


def _one_width(values: list[np.ndarray]) -> int:
    widths = sorted({v.shape[1] for v in values})
    if len(widths) != 1:
        raise ShapeError(f"features have widths {widths}; needed one width for all recordings")
    return widths[0]


def recording_of(task: Task, data: TaskData, record: Record) -> Recording:
    """The recording as a model may see it: no annotations, no meta that the task hides. Raises SpecError when it is synthetic."""
    from xecg import read

    recording = read(record.path) if data.read is None else data.read(record)
    synthetic = is_synthetic(record.path, recording)
    if synthetic != task.synthetic:
        what = "is synthetic; a real task takes no synthetic recording" if synthetic else "is not marked synthetic"
        raise SpecError(
            f"record {record.id} {what}, and {task.id} would report it under its name. Check the data folder"
        )
    meta = {k: recording.meta[k] for k in _SHOWN if k in recording.meta and k not in task.hides}
    return recording.with_(annotations=None, meta=meta)


def is_synthetic(path: Path, recording: Recording) -> bool:
    """Marked by the simulator: in memory, or by a comment line of the WFDB header."""
    if recording.meta.get("synthetic"):
        return True
    text = path.read_bytes().decode("utf-8", "replace") if path.suffix == ".hea" else ""
    return any(line.startswith("#") and "synthetic" in line.lower() for line in text.splitlines())


def _pick(tokens: Tokens, time_s: np.ndarray, span_s: float) -> tuple[np.ndarray, np.ndarray]:
    values = np.asarray(tokens.values, np.float32)
    if np.isnan(time_s).all():
        return np.repeat(values.mean(0, keepdims=True), len(time_s), 0), np.ones(len(time_s), bool)
    index, inside = tokens.at(time_s + span_s / 2)
    picked = np.where(inside[:, None], values[index], np.float32(0))
    if not span_s:
        return picked, inside
    first, last = (np.searchsorted(tokens.start_s, t) for t in (time_s, time_s + span_s))
    for row in np.flatnonzero(last > first):
        picked[row] = values[first[row] : last[row]].mean(0)
    return picked, inside | (last > first)


def _load(path: Path | None) -> tuple[np.ndarray, ...] | None:
    if path is None or not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as part:
            return tuple(part[f"arr_{i}"] for i in range(len(part.files)))
    except (ValueError, OSError, KeyError, zipfile.BadZipFile):
        return None  # a damaged block is computed again


def _store(path: Path | None, part: tuple[np.ndarray, ...]) -> None:
    if path is None:
        return
    from xecg.io.atomic import replacing

    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("wb") as handle:
        np.savez(handle, *part)


def _assemble(data: TaskData, parts: _Parts, cached: int) -> Features:
    values = np.zeros((len(data.record), _one_width([part[0] for _, part in parts])), np.float32)
    valid = np.zeros(len(data.record), bool)
    for block, part in parts:
        rows = np.flatnonzero(np.isin(data.record, block))
        values[rows], valid[rows] = part
    return Features(values, valid, len(parts), cached)
