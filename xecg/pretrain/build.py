"""From folders of recordings to a corpus: `build_corpus`, in parts, so that a build that was killed goes on where it was.

OUT/parts/NNNNNN/   a store of some recordings' windows, their beats and fingerprints; notes.json is written last
OUT/counts.bin …    the parts joined (`xecg.io.store`), and beside them:
OUT/beats.npz       what is known of every window's beats, for the beat heads and the probes
OUT/patients.npy    a number a window, the same for all windows of a patient: an order of appearance, no identity
OUT/report.json     what the build did; written last, and the parts are removed then
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xecg.errors import ReadError, ShapeError, SpecError, XECGError
from xecg.io import find_records, read
from xecg.io.atomic import remove_stale, replacing, write_json
from xecg.io.store import StoreItem, join_stores, write_store
from xecg.pretrain import synthetic as training
from xecg.pretrain.beats import NO_BEATS, Beats, find_beats
from xecg.pretrain.corpus import Forbidden, Gate, LeftOut, benchmark_of
from xecg.signal import Recording, SignalSpec, preprocess

__all__ = ["Report", "build_corpus", "read_patients", "read_report", "tally"]

_WINDOW_S = 12.0  # of a training record at most; longer ones are cut
_SHORTEST_S = 4.0  # a local view of 0.4 then has six tokens
_FEWEST_VALID = 0.5  # share of valid samples of the best lead, below which a window is left out
_FILES = frozenset(
    ("parts", "counts.bin", "index.parquet", "manifest.json", "beats.npz", "patients.npy", "report.json")
)
_PART_NAME = re.compile(r"\d{6,}")
_PART = 256  # recordings in a part: what a killed build does again


@dataclass(frozen=True)
class Report:
    """What a build did: windows in the store, recordings read, refused files with reasons, duplicates left out.

    left_out: recordings of benchmarks, by folder and reason, none of which is in the store.
    """

    windows: int
    recordings: int
    synthetic: int
    compared: int
    refused: tuple[str, ...]
    duplicates: tuple[str, ...]
    sources: tuple[str, ...]
    patients: int = 0
    left_out: tuple[LeftOut, ...] = ()


class _Source(NamedTuple):
    """A recording to come: a file, or number `number` of the simulator's series."""

    name: str
    path: Path | None
    number: int = 0
    root: Path | None = None  # the folder that was named; None of a file that was

    def key(self, seed: int) -> str:
        """What a part was made from; another size or time of the file makes another."""
        if self.path is None:
            return f"{self.name}:{seed}"
        facts = self.path.stat()
        return f"{self.path.resolve()}:{facts.st_size}:{facts.st_mtime_ns}"


def build_corpus(
    folders: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    spec: SignalSpec,
    *,
    synthetic: int = 0,
    seed: int = 0,
    forbidden: Iterable[str] = (),
    compare: Sequence[str | os.PathLike[str]] = (),
    patients: Mapping[Path, str] | None = None,
    part: int = _PART,
    reading: Callable[[Path], Recording] = read,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Write a store of windows of at most 12 s from every recording under `folders`, as `spec` asks; returns what it did.

    Leads that a recording lacks are 0 and missing; one that has none of the spec's is refused. synthetic: so many simulated
    records beside them. forbidden: content hashes (16 hex digits or more) of recordings that may not be trained on, beside
    those of `xecg.pretrain.known`. compare: folders of benchmark recordings, read only to be compared with. patients: whose
    a file is, for those whose header does not say (`read_patients`); names are kept in memory only. Files that cannot be
    read, and recordings that were there already, are left out and listed in the report (also OUT/report.json). Record ids
    are the folder's number, the path below it and the first second of the window.

    Recordings of benchmarks under a folder, by place, name, hash or shared samples, are left out and counted in the report.
    Called again after a kill it goes on, and ends with the same bytes. Raises XECGError, before anything is written, where one
    of `folders` is a benchmark's folder or file by its name, where OUT lies in a folder that is read, or holds what no build
    wrote; and where a file that was named is a benchmark's by hash or shared samples. A store that was in OUT stays until the
    new one is joined.
    """
    files, left_out = _admitted(folders)
    target = Path(out)
    _check_place(target, folders)
    if not files and not synthetic:
        none = f"no recording in {', '.join(os.fspath(place) for place in folders)}; needed recordings to train on"
        raise XECGError(none + _but(left_out))
    spots = {os.fspath(place): f"{i}-{Path(place).resolve().name}" for i, place in enumerate(folders)}
    sources = [
        _Source(_name(spots[os.fspath(place)], place, path), path, root=place if place.is_dir() else None)
        for place, path in files
    ]
    sources += [_Source(f"synthetic/{seed}-{index:06d}", None, index) for index in range(synthetic)]
    gate = Gate(forbidden, compare, expected=len(files))
    builder = _Builder(spec, seed, gate, patients or {}, reading)
    (target / "parts").mkdir(parents=True, exist_ok=True)
    remove_stale(target)
    made = []
    for number, first in enumerate(range(0, len(sources), part)):
        made.append(target / "parts" / f"{number:06d}")
        builder.part(made[-1], sources[first : first + part])
        progress(min(first + part, len(sources)), len(sources))
    if not builder.owners:
        shutil.rmtree(target / "parts")
        none = f"no window of {_SHORTEST_S:g} s or more in {', '.join(spots)}; needed recordings to train on"
        raise XECGError(none + _but([*left_out, *builder.left_out]))
    (target / "report.json").unlink(missing_ok=True)  # of a former build: what follows is whole only with its own
    windows = join_stores(target, made, spec_hash=spec.hash)
    _join_beats(target / "beats.npz", made)
    with replacing(target / "patients.npy") as temporary, open(temporary, "wb") as handle:
        np.save(handle, np.array(builder.owners, np.int32))
    report = Report(
        windows, builder.recordings, synthetic, gate.compared, tuple(builder.refused), tuple(builder.duplicates),
        tuple(spots.values()), len(set(builder.owners)), tally([*left_out, *builder.left_out]),
    )  # fmt: skip
    write_json(target / "report.json", asdict(report))
    shutil.rmtree(target / "parts")
    return report


def tally(found: Iterable[tuple[str, str]]) -> tuple[LeftOut, ...]:
    """Pairs of folder and reason, counted, in the order of their first."""
    return tuple(LeftOut(folder, reason, count) for (folder, reason), count in Counter(found).items())


def _but(left_out: Sequence[tuple[str, str]]) -> str:
    return f". Left out: {', '.join(map(str, tally(left_out)))}" if left_out else ""


def _admitted(
    folders: Sequence[str | os.PathLike[str]],
) -> tuple[list[tuple[Path, Path]], list[tuple[str, str]]]:
    """(folder, recording) of what may be read, by place and name; folder and reason of each recording that may not."""
    files: list[tuple[Path, Path]] = []
    left_out: list[tuple[str, str]] = []
    for place in map(Path, folders):
        name = benchmark_of(place / "_" if place.is_dir() else place)
        if name is not None:
            raise XECGError(
                f"{place}: belongs to {name}, a benchmark that pretrained weights are scored on; no recording of it may be "
                "trained on. Leave it out; rename it if only its name is like theirs"
            )
        for path in find_records(place):
            name = benchmark_of(path)
            if name is None:
                files.append((place, path))
            else:
                left_out.append((_folder_of(place, path), f"{name}, a benchmark set"))
    return files, left_out


def _folder_of(place: Path, path: Path) -> str:
    """The uppermost folder below `place` that gives `path` away as a benchmark's, or the one that it lies in."""
    parts = path.relative_to(place).parts[:-1]
    tops = ("/".join(parts[:k]) for k in range(1, len(parts)))
    return next((top for top in tops if benchmark_of(place / top / "_")), "/".join(parts)) or place.resolve().name


def _check_place(target: Path, folders: Sequence[str | os.PathLike[str]]) -> None:
    """A build removes OUT/parts and replaces a store in OUT: OUT is a store, a build's, or empty, and no recording's folder."""
    place = target.resolve()
    for source in map(Path, folders):
        if source.is_dir() and place.is_relative_to(source.resolve()):
            raise XECGError(
                f"output {target} lies in {source}, which is read: the store's own files would be taken for recordings; "
                "needed a folder outside of it"
            )
    entries = [path for path in place.iterdir() if not path.name.startswith(".")] if place.is_dir() else []
    foreign = [path.name for path in entries if path.name not in _FILES]
    if (place / "parts").is_dir():
        foreign += [f"parts/{path.name}" for path in (place / "parts").iterdir() if not _PART_NAME.fullmatch(path.name)]
    if foreign or (place.exists() and not place.is_dir()):
        found = f"holds {sorted(foreign)[0]}, which no build wrote" if foreign else "is a file"
        raise XECGError(f"output {target} {found}; needed a new or empty folder, or one that a build wrote")


def read_report(folder: str | os.PathLike[str]) -> Report:
    """The report of the build that wrote `folder`. Raises ReadError where it is damaged."""
    place = Path(folder) / "report.json"
    try:
        data = json.loads(place.read_bytes())
        values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in data.items()}
        values["left_out"] = tuple(LeftOut(*row) for row in values.get("left_out", ()))
        return Report(**values)
    except (ValueError, AttributeError, TypeError) as error:
        raise ReadError(
            os.fspath(place), "report", f"damaged ({error})", "needed what a build wrote", "Build the store again."
        ) from None


def read_patients(table: str | os.PathLike[str]) -> dict[Path, str]:
    """Whose a recording is, from a CSV with columns record (a path, relative to the table) and patient. Raises XECGError."""
    place = Path(table)
    try:
        with open(place, newline="", encoding="utf-8-sig") as handle:
            rows = csv.DictReader(handle)
            if not {"record", "patient"} <= set(rows.fieldnames or ()):
                raise XECGError(f"{place}: columns are {rows.fieldnames}; needed record and patient")
            return {
                _stem(place.parent / row["record"]): row["patient"] for row in rows if row["record"] and row["patient"]
            }
    except (UnicodeDecodeError, csv.Error) as error:
        raise XECGError(
            f"{place} is no table ({error}); needed a CSV in UTF-8 with columns record and patient"
        ) from None


def _stem(path: Path) -> Path:
    return path.resolve().with_suffix("") if path.suffix else path.resolve()


def _name(spot: str, place: Path, path: Path) -> str:
    base = place if place.is_dir() else path.parent
    return f"{spot}/{path.relative_to(base).with_suffix('').as_posix()}"


class _Builder:
    """Makes parts, or takes those that are there, and keeps what goes over their borders."""

    def __init__(
        self,
        spec: SignalSpec,
        seed: int,
        gate: Gate,
        patients: Mapping[Path, str],
        reading: Callable[[Path], Recording],
    ) -> None:
        self._spec, self._seed, self._gate, self._patients, self._reading = spec, seed, gate, patients, reading
        self._numbers: dict[str, int] = {}
        self.owners: list[int] = []
        self.refused: list[str] = []
        self.duplicates: list[str] = []
        self.left_out: list[tuple[str, str]] = []
        self.recordings = 0

    def part(self, folder: Path, sources: Sequence[_Source]) -> None:
        keys = sha256(
            "\n".join([self._spec.hash, self._gate.digest, *(s.key(self._seed) for s in sources)]).encode()
        ).hexdigest()
        notes = folder / "notes.json"
        if not notes.exists() or json.loads(notes.read_bytes())["made_from"] != keys:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            self._make(folder, sources, keys)
        self._take(folder, sources)

    def _make(self, folder: Path, sources: Sequence[_Source], keys: str) -> None:
        notes: dict[str, Any] = {"made_from": keys, "refused": [], "duplicates": [], "left_out": [], "kept": []}
        beats: list[Beats] = []
        marks: list[np.ndarray] = []

        def items() -> Iterator[StoreItem]:
            for place, source in enumerate(sources):
                before, digest, own = len(beats), "", np.zeros(0, np.uint64)
                if source.path is None:
                    recording = training.record(seed=self._seed, index=source.number)
                else:
                    try:
                        recording = self._reading(source.path)
                        digest, own, twin = self._gate.ask(recording, str(source.path))
                    except ReadError as error:
                        notes["refused"].append(str(error))
                        continue
                    except Forbidden as error:
                        if source.root is None:  # named by itself
                            raise
                        notes["left_out"].append([_folder_of(source.root, source.path), error.reason])
                        continue
                    if twin is not None:
                        notes["duplicates"].append(f"{source.path} repeats {twin}")
                        continue
                try:
                    x, mask = preprocess(recording, self._spec)
                except (ShapeError, SpecError) as error:
                    notes["refused"].append(f"{source.path}: {error}")
                    continue
                if source.path is not None:
                    self._gate.admit(str(source.path), digest, own)
                yield from _windows(source.name, recording, x, mask, self._spec, beats)
                marks.append(own)
                grouped = recording.meta.get("exam_group") is not None
                kept = {"source": place, "digest": digest, "windows": len(beats) - before, "grouped": grouped}
                notes["kept"].append(kept)

        write_store(folder, items(), spec_hash=self._spec.hash)
        with replacing(folder / "beats.npz") as temporary, open(temporary, "wb") as handle:
            first = np.cumsum([0, *(len(b.time) for b in beats)])
            time, kind, waves = (np.concatenate(column) for column in zip(NO_BEATS, *beats))
            np.savez(handle, first=first, time=time, kind=kind, waves=waves)
        with replacing(folder / "marks.npz") as temporary, open(temporary, "wb") as handle:
            np.savez(handle, *marks)
        write_json(folder / "notes.json", notes)

    def _take(self, folder: Path, sources: Sequence[_Source]) -> None:
        """What a part says; its patients are numbered in the order of the recordings."""
        notes = json.loads((folder / "notes.json").read_bytes())
        self.refused += notes["refused"]
        self.duplicates += notes["duplicates"]
        self.left_out += [(folder, reason) for folder, reason in notes["left_out"]]
        with np.load(folder / "marks.npz", allow_pickle=False) as marks:
            for i, kept in enumerate(notes["kept"]):
                source = sources[kept["source"]]
                if source.path is not None:
                    self._gate.admit(str(source.path), kept["digest"], marks[f"arr_{i}"])
                    self.recordings += 1
                owner = self._numbers.setdefault(self._patient(source, kept["grouped"]), len(self._numbers))
                self.owners += [owner] * kept["windows"]

    def _patient(self, source: _Source, grouped: bool) -> str:
        """A name for the patient that lives in memory: the table's, else the header's keyed hash, else the recording's."""
        if source.path is not None and (said := self._patients.get(_stem(source.path))) is not None:
            return f"table:{said}"
        if source.path is not None and grouped:  # never written down, so it is read again
            return f"header:{self._reading(source.path).meta.get('exam_group')}"
        return f"record:{source.name}"


def _join_beats(path: Path, parts: Sequence[Path]) -> None:
    columns: dict[str, list[np.ndarray]] = {"time": [], "kind": [], "waves": []}
    first, total = [np.zeros(1, np.int64)], 0
    for part in parts:
        with np.load(part / "beats.npz", allow_pickle=False) as found:
            first.append(found["first"][1:] + total)
            total += len(found["time"])
            for name, column in columns.items():
                column.append(found[name])
    with replacing(path) as temporary, open(temporary, "wb") as handle:
        joined = {name: np.concatenate(column) for name, column in columns.items()}
        np.savez(handle, first=np.concatenate(first), time=joined["time"], kind=joined["kind"], waves=joined["waves"])


def _windows(
    name: str, recording: Recording, x: np.ndarray, mask: np.ndarray, spec: SignalSpec, beats: list[Beats]
) -> Iterator[StoreItem]:
    """x, mask: the whole recording through the front end, as the model sees it later. Cut; each window's beats to `beats`."""
    rate = spec.rate or recording.rate
    found = find_beats(recording, x, rate, second=spec.leads.index("II") if "II" in spec.leads else 0)
    size, least = int(_WINDOW_S * rate), int(_SHORTEST_S * rate)
    for start in range(0, max(1, x.shape[1]), size):
        part, valid = x[:, start : start + size], mask[:, start : start + size]
        if part.shape[1] >= least and valid.mean(1).max() >= _FEWEST_VALID:
            here = (found.time >= start) & (found.time < start + size)
            beats.append(Beats(found.time[here] - start, found.kind[here], found.waves[here]))
            yield StoreItem(f"{name}@{start / rate:g}", part, valid, rate)
