"""What an archive run leaves on disk: parts while it works, the table and the list of refusals when it is done."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xecg.errors import ReadError, SpecError

if TYPE_CHECKING:
    from xecg.io.tables import EmbeddingRow
    from xecg.model.archive_inputs import Input
    from xecg.model.encoder import XECG

__all__ = [
    "Shelf",
    "check_output",
    "errors_path",
    "is_whole",
    "n_rows",
    "part_path",
    "provenance",
    "read_facts",
    "working_folder",
    "write_part",
    "write_result",
]

_ONE_FILE_ROWS = 100_000  # a longer table is a folder of files of `_FILE_ROWS` rows
_FILE_ROWS = 10_000
_READ_ROWS = 4096  # of a part, at once
_MANIFEST = "_manifest.json"  # readers of Parquet folders pass over names that start with an underscore


def check_output(out: str | Path) -> Path:
    """`out` as a Path. Raises SpecError when it is a folder that is no table, and where nothing can be written."""
    from xecg.io.outputs import check_output as check

    out = Path(out)
    if (out / _MANIFEST).exists():
        return out
    if out.is_dir():
        raise SpecError(f"output {out} is a folder; needed the name of a file, such as {out / 'embeddings.parquet'}")
    if out.parent.exists():
        check(out)
    check(f"{out}.partial", folder=True)
    return out


def errors_path(out: Path) -> Path:
    """Where the refusals of the run that wrote `out` are listed."""
    return Path(f"{out}.errors.jsonl")


def provenance(model: XECG, **options: Any) -> dict[str, str]:
    """What made a table, as text: goes into its Parquet metadata."""
    import xecg

    return {
        "xecg.version": xecg.__version__,
        "xecg.model": model.name,
        "xecg.trained": "yes" if model.trained else "no: untrained, the embeddings mean nothing",
        "xecg.model_fingerprint": model.fingerprint,
        "xecg.spec_hash": model.spec.hash,
        "xecg.spec": json.dumps(model.spec.to_dict(), sort_keys=True),
        "xecg.options": json.dumps(options, sort_keys=True),
        "xecg.use": "research use only, not a medical device",
    }


@contextmanager
def working_folder(out: Path) -> Iterator[Path]:
    """`OUT.partial`, held by this process alone, with a lock that the kernel drops with its holder.

    Raises SpecError when another process holds it.
    """
    import fcntl

    from xecg.io.atomic import remove_stale

    folder = Path(f"{out}.partial")
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read() or "unknown"
            raise SpecError(
                f"output {out} is being written by process {holder}; wait for it, or name another"
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()} on {platform.node()}")
        lock.flush()
        remove_stale(folder)
        remove_stale(out.parent)
        try:
            yield folder
        finally:
            if folder.exists() and os.listdir(folder) == ["lock"]:  # nothing was done that a next run could take
                shutil.rmtree(folder)


# Parts: one .npz each (named .part: it is no recording), whose CRCs tell a damaged one.


class Shelf:
    """Arrays put away in a file of `folder`, without a name, until the part that they belong to is written."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (open as long as the shelf)

    def put(self, array: np.ndarray) -> np.ndarray:
        """The same array, in the file."""
        begin = self._file.seek(0, os.SEEK_END)
        array.tofile(self._file)
        self._file.flush()
        return np.memmap(self._file, array.dtype, "r", begin, array.shape)


def part_path(folder: Path, origin: Mapping[str, str], records: Sequence[Input]) -> Path:
    """The name says everything that the part's content follows from."""
    facts = json.dumps([origin, [[str(value) for value in astuple(record)] for record in records]], sort_keys=True)
    return folder / f"{hashlib.sha256(facts.encode()).hexdigest()[:32]}.part"


def write_part(path: Path, vectors: Sequence[np.ndarray], rows: list[dict[str, Any]], facts: Mapping[str, Any]) -> None:
    """vectors: float32 (n, D) each, together one for each row; a row with "tokens" stands for so many."""
    from xecg.io.atomic import replacing

    text = json.dumps({**facts, "rows": rows}, default=lambda scalar: scalar.item())  # NumPy's scalars
    blocks = {f"{n:08d}": block for n, block in enumerate(vectors)}
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, facts=np.frombuffer(text.encode(), np.uint8), **blocks)  # type: ignore[arg-type]


def read_facts(path: Path) -> dict[str, Any]:
    """What the part's maker counted, and under "rows" the fields of its rows but for the embeddings."""
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
        return json.loads(stored["facts"].tobytes())


def n_rows(facts: Mapping[str, Any]) -> int:
    """Rows of the table that come from a part with these facts."""
    return sum(sum(b - a for a, b in row["valid"]) if "tokens" in row else 1 for row in facts["rows"])


def is_whole(path: Path) -> bool:
    """False where the part is missing or damaged: it is made again."""
    try:
        with zipfile.ZipFile(path) as stored:
            return stored.testzip() is None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return False


def _vectors(path: Path) -> Iterator[np.ndarray]:
    """The embeddings of a part one by one; no more than `_READ_ROWS` are in memory."""
    with zipfile.ZipFile(path) as stored:
        for name in sorted(stored.namelist()):
            if not name[0].isdigit():
                continue
            with stored.open(name) as member:
                np.lib.format.read_magic(member)
                shape, _, dtype = np.lib.format.read_array_header_1_0(member)
                for first in range(0, shape[0], _READ_ROWS):
                    count = min(_READ_ROWS, shape[0] - first)
                    data = member.read(count * shape[1] * dtype.itemsize)
                    yield from np.frombuffer(data, dtype).reshape(count, shape[1])


# The result.


def write_result(out: Path, parts: Sequence[Path], origin: Mapping[str, str]) -> None:
    """The table, and the list of refusals beside it when there are any."""
    from xecg.io.tables import write_errors

    facts = [read_facts(path) for path in parts]
    many = sum(n_rows(part) for part in facts) > _ONE_FILE_ROWS
    errors = [ReadError(*fields) for part in facts for fields in part["errors"]]
    if errors:
        write_errors(errors_path(out), errors)
    if not many:
        if out.is_dir():  # a longer table of an earlier run
            shutil.rmtree(out)
        _write_table(out, list(_rows(parts)), origin)
    else:
        _write_folder(out, _rows(parts), origin)
    if not errors:
        errors_path(out).unlink(missing_ok=True)  # of an earlier run


def _rows(parts: Iterable[Path]) -> Iterator[EmbeddingRow]:
    from xecg.io.tables import EmbeddingRow

    for path in parts:
        vectors = _vectors(path)
        for row in read_facts(path)["rows"]:
            if "tokens" not in row:
                yield EmbeddingRow(embedding=next(vectors), **row)
                continue
            valid = [range(start, stop) for start, stop in row.pop("valid")]
            begin_s = row.pop("window_start_s")
            for token in range(row.pop("tokens")):
                vector = next(vectors)
                if any(token in part for part in valid):
                    yield EmbeddingRow(embedding=vector, window_start_s=begin_s + token * row["window_s"], **row)


def _write_table(path: Path, rows: list[EmbeddingRow], origin: Mapping[str, str]) -> None:
    import pyarrow.parquet as pq

    from xecg.io.atomic import replacing
    from xecg.io.tables import write_embeddings

    hashes = {name: origin[f"xecg.{name}"] for name in ("spec_hash", "model_fingerprint")}
    with replacing(path) as temporary:
        write_embeddings(temporary, rows, **hashes)
        table = pq.read_table(temporary).replace_schema_metadata(origin)
        pq.write_table(table, temporary, compression="zstd", use_dictionary=list(hashes))


def _write_folder(out: Path, rows: Iterator[EmbeddingRow], origin: Mapping[str, str]) -> None:
    """Made inside the working folder, then put in the place of `out`."""
    from xecg.io.atomic import write_json

    work = Path(f"{out}.partial")
    made, old = work / "table", work / "old"
    for stale in (made, old):
        shutil.rmtree(stale, ignore_errors=True)
    made.mkdir()
    files: list[dict[str, Any]] = []
    while batch := list(islice(rows, _FILE_ROWS)):
        path = made / f"part-{len(files):05d}.parquet"
        _write_table(path, batch, origin)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        ids = {"first_id": batch[0].record_id, "last_id": batch[-1].record_id}
        files.append({"file": path.name, "rows": len(batch), "sha256": digest, **ids})
    write_json(made / _MANIFEST, {"provenance": origin, "files": files})
    if out.exists():
        os.replace(out, old)
    os.replace(made, out)
