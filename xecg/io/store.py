"""A store: a folder of preprocessed recordings for training, read through the page cache.

    FOLDER/counts.bin      int16, little-endian: (leads, samples) of one item after another
    FOLDER/index.parquet   record_id, offset (in int16), leads, samples, rate, gain (counts per unit, one a lead)
    FOLDER/manifest.json   format version, spec_hash, number of items, SHA-256 of the two files; written last

A missing sample is the count -32768. Without a manifest that fits there is no store, so a killed build leaves none.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xecg.errors import ReadError, ShapeError
from xecg.io.atomic import replacing, write_json

__all__ = ["Store", "StoreItem", "join_stores", "write_store"]

FORMAT = 1
_MISSING = -32_768
_FULL_SCALE = 32_000  # counts; the largest sample of a lead lies there, so a count is 1/32,000 of it


@dataclass(frozen=True, eq=False)
class StoreItem:
    """`signal` float32 (leads, samples) in any unit, `mask` bool of the same shape, `rate` Hz."""

    record_id: str
    signal: np.ndarray
    mask: np.ndarray
    rate: float


def write_store(folder: str | os.PathLike[str], items: Iterable[StoreItem], *, spec_hash: str = "") -> int:
    """Write `items`, in their order, as a new store; returns how many. A lead keeps 1/32,000 of its largest sample.

    Raises ShapeError for samples that are not finite where the mask is True, and for a record_id that comes twice.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    (target / "manifest.json").unlink(missing_ok=True)
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    offset = 0
    with replacing(target / "counts.bin") as temporary, open(temporary, "wb") as handle:
        for item in items:
            if item.record_id in seen:
                raise ShapeError(f"record_id {item.record_id!r} comes twice; needed each once")
            seen.add(item.record_id)
            counts, gain = _quantised(item)
            handle.write(counts.tobytes())
            leads, samples = counts.shape
            rows.append(
                {
                    "record_id": item.record_id,
                    "offset": offset,
                    "leads": leads,
                    "samples": samples,
                    "rate": float(item.rate),
                    "gain": gain.tolist(),
                }
            )
            offset += counts.size
    _finish(target, rows, spec_hash)
    return len(rows)


def join_stores(folder: str | os.PathLike[str], parts: Sequence[str | os.PathLike[str]], *, spec_hash: str = "") -> int:
    """Write the items of several stores, in their order, as one new store, count for count; returns how many.

    Raises ReadError where a part is no whole store, ShapeError for a record_id that comes twice.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    (target / "manifest.json").unlink(missing_ok=True)
    rows: list[dict[str, Any]] = []
    offset = 0
    with replacing(target / "counts.bin") as temporary, open(temporary, "wb") as handle:
        for part in parts:
            store = Store(part)
            rows += [row | {"offset": row["offset"] + offset} for row in store._rows]
            with open(store.folder / "counts.bin", "rb") as source:
                shutil.copyfileobj(source, handle, 1 << 24)
            offset += store._counts.size
    names = [row["record_id"] for row in rows]
    if len(set(names)) < len(names):
        again = next(name for name in names if names.count(name) > 1)
        raise ShapeError(f"record_id {again!r} comes twice; needed each once")
    _finish(target, rows, spec_hash)
    return len(rows)


def _finish(target: Path, rows: list[dict[str, Any]], spec_hash: str) -> None:
    """The index, then the manifest that makes a store of the folder."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with replacing(target / "index.parquet") as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=_schema()), temporary)
    digests = {name: _digest(target / name) for name in ("counts.bin", "index.parquet")}
    manifest = {"format": FORMAT, "spec_hash": spec_hash, "items": len(rows), "sha256": digests}
    write_json(target / "manifest.json", manifest)


def _schema() -> Any:
    import pyarrow as pa

    fields = [("record_id", pa.string()), ("offset", pa.int64()), ("leads", pa.int32()), ("samples", pa.int64())]
    return pa.schema([*fields, ("rate", pa.float64()), ("gain", pa.list_(pa.float64()))])


def _quantised(item: StoreItem) -> tuple[np.ndarray, np.ndarray]:
    if item.signal.ndim != 2 or item.signal.shape != item.mask.shape:
        shapes = f"signal {item.signal.shape}, mask {item.mask.shape}"
        raise ShapeError(f"{item.record_id}: {shapes}; needed (leads, samples) twice")
    signal = np.where(item.mask, item.signal, 0).astype(np.float64)
    if not np.isfinite(signal).all():
        raise ShapeError(f"{item.record_id}: signal is not finite where the mask is True")
    most = np.abs(signal).max(axis=1, initial=0.0)
    gain = np.where(most > 0, _FULL_SCALE / np.where(most > 0, most, 1), 1.0)
    counts = np.where(item.mask, np.rint(signal * gain[:, None]), _MISSING)
    return counts.astype("<i2"), gain


def _digest(path: Path) -> str:
    total = hashlib.sha256()
    with open(path, "rb") as handle:
        while part := handle.read(1 << 24):
            total.update(part)
    return total.hexdigest()


class Store:
    """A store opened for reading: `len(store)`, `store[i]`, iteration; `windows` of an item without reading the rest.

    verify: compare both files with the manifest's SHA-256 first. Raises ReadError where the folder is no whole store.
    """

    def __init__(self, folder: str | os.PathLike[str], *, verify: bool = False) -> None:
        import pyarrow.parquet as pq

        self.folder = Path(folder)
        path = self.folder / "manifest.json"
        try:
            manifest = json.loads(path.read_bytes())
            found = manifest["format"], manifest["items"], manifest["sha256"], manifest["spec_hash"]
        except (OSError, ValueError, KeyError, TypeError):
            raise ReadError(
                str(path), "manifest", "absent or damaged", "needed a whole store", "Build it again."
            ) from None
        version, count, digests, self.spec_hash = found
        if version != FORMAT:
            raise ReadError(str(path), "format", version, f"this version reads {FORMAT}")
        self.digest = str(digests["counts.bin"])
        if verify:
            for name, digest in digests.items():
                if _digest(self.folder / name) != digest:
                    raise ReadError(
                        str(self.folder / name), "SHA-256", "another", "needed the manifest's", "Build it again."
                    )
        index = self.folder / "index.parquet"
        try:
            self._rows = pq.read_table(index, schema=_schema()).to_pylist()
        except (OSError, ValueError) as error:  # pyarrow's are among them
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ReadError(
                str(index), "index", f"damaged ({reason})", "needed a whole store", "Build it again."
            ) from None
        if len(self._rows) != count:
            raise ReadError(str(path), "items", count, f"the index holds {len(self._rows)}", "Build it again.")
        size = sum(row["leads"] * row["samples"] for row in self._rows)
        there = (self.folder / "counts.bin").stat().st_size
        if there != 2 * size:
            raise ReadError(
                str(self.folder / "counts.bin"), "size", f"{there:,} bytes", f"the index needs {2 * size:,}"
            )
        self._counts = np.memmap(self.folder / "counts.bin", "<i2", "r") if size else np.zeros(0, "<i2")

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[StoreItem]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> StoreItem:
        return self.window(index)

    @property
    def record_ids(self) -> tuple[str, ...]:
        return tuple(row["record_id"] for row in self._rows)

    def samples(self, index: int) -> int:
        """Length of an item."""
        return int(self._rows[index]["samples"])

    def window(self, index: int, first: int = 0, last: int | None = None) -> StoreItem:
        """Samples first..last of an item; the rest of it is not read."""
        row = self._rows[index]
        shape = row["leads"], row["samples"]
        counts = self._counts[row["offset"] : row["offset"] + shape[0] * shape[1]].reshape(shape)[:, first:last]
        mask = counts != _MISSING
        signal = np.where(mask, counts / np.array(row["gain"])[:, None], 0).astype(np.float32)
        return StoreItem(row["record_id"], signal, mask, row["rate"])
