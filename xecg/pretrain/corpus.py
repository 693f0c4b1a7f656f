"""The corpus: recordings of given folders as preprocessed windows in a store, never a recording of a benchmark.

Three walls stand before the store. A folder or record name that belongs to a benchmark set is refused (`BENCHMARKS`); a
recording whose content hash is on a list is refused; a recording that shares a stretch of samples with one of the folders
to compare with is refused, also when it was cut or renamed. Each stops the build: nothing is skipped in silence.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xecg.errors import ReadError, XECGError
from xecg.io import find_records, read
from xecg.io.atomic import replacing, write_json
from xecg.io.store import Store, StoreItem, write_store
from xecg.pretrain import synthetic as training
from xecg.pretrain.beats import Beats, find_beats
from xecg.pretrain.known import BENCHMARK_RECORDINGS
from xecg.signal import Recording, SignalSpec, preprocess

__all__ = [
    "BENCHMARKS",
    "Corpus",
    "Report",
    "Rule",
    "benchmark_of",
    "build_corpus",
    "content_hash",
    "fingerprints",
    "read_report",
]

_WINDOW_S = 12.0  # of a training record at most; longer ones are cut
_SHORTEST_S = 4.0  # a local view of 0.4 then has six tokens
_FEWEST_VALID = 0.5  # share of valid samples of the best lead, below which a window is left out
_RUN = 32  # samples under one fingerprint
_DIGITS = 16  # of a content hash are compared
_ONE_IN = 64  # of the fingerprints that are kept: those that are 0 modulo this
_SHARED = 0.05  # share of fingerprints in common above which two recordings hold the same signal


@dataclass(frozen=True)
class Rule:
    """A benchmark set: names of folders (lower case, at any level) and a pattern of record names that give it away.

    below: the folders count only below one with this name; "" = anywhere.
    """

    name: str
    folders: tuple[str, ...]
    record: str = r"(?!)"
    below: str = ""


BENCHMARKS = (
    Rule("MIT-BIH Arrhythmia Database", ("mitdb", "mit-bih", "mit-bih-arrhythmia-database-1.0.0")),
    Rule("PTB-XL", ("ptb-xl", "ptbxl", "records500", "records100"), r"HR\d{5}|\d{5}_[hl]r"),
    Rule("PTB-XL in Challenge 2021", ("hr", "ptb-xl"), below="challenge-2021"),
    Rule("CPSC 2018", ("cpsc2018", "cpsc_2018", "cpsc_2018_extra"), r"[AQ]\d{4}"),
    Rule("CPSC 2018 in Challenge 2021", ("a", "q"), below="challenge-2021"),
    Rule("Apnea-ECG", ("apnea-ecg", "apnea-ecg-database-1.0.0")),
    Rule("MIMIC-IV-ECG", ("mimic-iv-ecg", "mimic-iv", "mimic-iv-ecg-demo")),
    Rule("DeepBeat", ("deepbeat",)),
    Rule("reader samples", ("wfdb-formats",)),  # pieces of MIT-BIH and others
)


def benchmark_of(path: str | os.PathLike[str]) -> str | None:
    """The benchmark set that a recording belongs to by its place or name, or None."""
    resolved = Path(path).resolve()
    parents = [part.lower() for part in resolved.parts[:-1]]
    for rule in BENCHMARKS:
        after = parents.index(rule.below) + 1 if rule.below in parents else len(parents) if rule.below else 0
        if set(parents[after:]) & set(rule.folders) or re.fullmatch(rule.record, resolved.stem):
            return rule.name
    return None


def content_hash(recording: Recording) -> str:
    """SHA-256 of the samples in whole µV, lead by lead in the order of their names: the same in any file format."""
    order = sorted(range(len(recording.leads)), key=lambda i: recording.leads[i])
    samples = np.rint(np.where(recording.mask, recording.signal, 0).astype(np.float64) * 1000)[order]
    return hashlib.sha256(f"{samples.shape}".encode() + samples.astype("<i4").tobytes()).hexdigest()


def fingerprints(recording: Recording) -> frozenset[int]:
    """Hashes of runs of 32 samples, chosen by their own value, so that shifted and cut copies share them.

    Winnowing modulo (Schleimer et al., SIGMOD 2003) on first differences in whole µV; runs without change are left out.
    """
    powers = np.cumprod(np.full(_RUN, 0x9E3779B97F4A7C15, np.uint64), dtype=np.uint64)
    found: set[int] = set()
    for lead, mask in zip(recording.signal, recording.mask):
        steps = np.diff(np.rint(np.where(mask, lead, 0).astype(np.float64) * 1000)).astype(np.int64).astype(np.uint64)
        if len(steps) < _RUN:
            continue
        runs = np.lib.stride_tricks.sliding_window_view(steps, _RUN)
        total = np.zeros(len(runs), np.uint64)
        busy = np.zeros(len(runs), np.int64)
        for k in range(_RUN):
            total += runs[:, k] * powers[k]
            busy += runs[:, k] != 0
        total = (total ^ (total >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
        total ^= total >> np.uint64(32)
        found.update(total[(total % np.uint64(_ONE_IN) == 0) & (busy > _RUN // 2)].tolist())
    return frozenset(found)


@dataclass(frozen=True)
class Report:
    """What a build did: windows in the store, recordings read, refused files with reasons, duplicates left out."""

    windows: int
    recordings: int
    synthetic: int
    compared: int
    refused: tuple[str, ...]
    duplicates: tuple[str, ...]
    sources: tuple[str, ...]


class Corpus:
    """Preprocessed windows to train on: `len`, `record(i) -> (id, x float32 (leads, n))`, `digest` of their content."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._store = Store(folder)
        self.spec_hash = self._store.spec_hash
        self.ids = self._store.record_ids
        self.digest = hashlib.sha256("\n".join([self._store.digest, *self.ids]).encode()).hexdigest()[:32]
        self._beats: Beats | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def beats(self, index: int) -> Beats:
        """The beats of a window, in its samples. Raises ReadError where the corpus was built without them."""
        if self._beats is None:
            path = self._store.folder / "beats.npz"
            if not path.is_file():
                raise ReadError(str(path), "beats", "absent", "needed for the auxiliary objective", "Build it again.")
            with np.load(path, allow_pickle=False) as found:
                self._beats = Beats(found["time"], found["kind"], found["waves"])
                self._first = found["first"]
        part = slice(self._first[index], self._first[index + 1])
        return Beats(*(column[part] for column in self._beats))

    def record(self, index: int) -> tuple[str, np.ndarray]:
        return self.ids[index], self._store[index].signal


def build_corpus(
    folders: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    spec: SignalSpec,
    *,
    synthetic: int = 0,
    seed: int = 0,
    forbidden: Iterable[str] = (),
    compare: Sequence[str | os.PathLike[str]] = (),
    reading: Callable[[Path], Recording] = read,
) -> Report:
    """Write a store of windows of at most 12 s from every recording under `folders`, as `spec` asks; returns what it did.

    synthetic: so many simulated records beside them. forbidden: content hashes (16 hex digits or more) of recordings that
    may not be trained on, beside those of `xecg.pretrain.known`.
    compare: folders of benchmark recordings, read only to be compared with. Files that cannot be read, and recordings that
    were there already, are left out and listed in the report (also OUT/report.json). Record ids are the folder's number,
    the path below it and the first second of the window.

    Raises XECGError, before anything is written, where a file belongs to a benchmark, by name, hash or shared samples.
    """
    files = [(place, path) for place in folders for path in find_records(place)]
    for _, path in files:
        name = benchmark_of(path)
        if name is not None:
            raise XECGError(
                f"{path}: belongs to {name}, a benchmark that pretrained weights are scored on; no recording of it may be "
                "trained on. Name the folders to train on one by one, without this one; rename it if only its name is like theirs"
            )
    state = _Gate(frozenset(forbidden), _known(compare))
    spots = {os.fspath(place): f"{i}-{Path(place).resolve().name}" for i, place in enumerate(folders)}
    kept = []
    for place, path in files:  # a first pass, so that a refusal leaves nothing behind
        try:
            recording = reading(path)
        except ReadError as error:
            state.refused.append(str(error))
            continue
        if state.admits(recording, path):
            base = Path(place) if Path(place).is_dir() else path.parent
            kept.append((f"{spots[os.fspath(place)]}/{path.relative_to(base).with_suffix('').as_posix()}", path))

    beats: list[Beats] = []

    def items() -> Iterator[StoreItem]:
        for name, path in kept:
            yield from _windows(name, reading(path), spec, beats)
        for index in range(synthetic):
            made = training.record(seed=seed, index=index)
            yield from _windows(f"synthetic/{seed}-{index:06d}", made, spec, beats)

    windows = write_store(out, items(), spec_hash=spec.hash)
    if not windows:
        raise XECGError(f"no window of {_SHORTEST_S:g} s or more in {', '.join(spots)}; needed recordings to train on")
    with replacing(Path(out) / "beats.npz") as temporary, open(temporary, "wb") as handle:
        first = np.cumsum([0, *(len(b.time) for b in beats)])
        time, kind, waves = (np.concatenate(column) for column in zip(*beats))
        np.savez(handle, first=first, time=time, kind=kind, waves=waves)
    report = Report(
        windows,
        len(kept),
        synthetic,
        state.compared,
        tuple(state.refused),
        tuple(state.duplicates),
        tuple(spots.values()),
    )
    write_json(Path(out) / "report.json", asdict(report))
    return report


def read_report(folder: str | os.PathLike[str]) -> Report:
    """The report of the build that wrote `folder`."""
    data = json.loads((Path(folder) / "report.json").read_bytes())
    values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in data.items()}
    return Report(**values)


class _Gate:
    """Lets a recording into the corpus once, and never one that is forbidden."""

    def __init__(self, forbidden: frozenset[str], known: dict[str, frozenset[int]]) -> None:
        self._forbidden = {digest[:_DIGITS] for digest in forbidden | BENCHMARK_RECORDINGS}
        self._seen: dict[str, str] = {}
        self.compared = len(known)
        self._owner = {mark: name for name, marks in known.items() for mark in marks}
        self._corpus: dict[int, str] = {}
        self.refused: list[str] = []
        self.duplicates: list[str] = []

    def admits(self, recording: Recording, path: Path) -> bool:
        """False for a duplicate. Raises XECGError for a forbidden recording."""
        digest = content_hash(recording)
        if digest[:_DIGITS] in self._forbidden:
            raise XECGError(
                f"{path}: its content ({digest[:_DIGITS]}…) is on the list of recordings that may not be trained on; take it out"
            )
        marks = fingerprints(recording)
        twin = _twin(marks, self._owner)
        if twin is not None:
            raise XECGError(f"{path}: shares samples with {twin}, which may not be trained on; take it out")
        before = self._seen.get(digest) or _twin(marks, self._corpus)
        if before is not None:
            self.duplicates.append(f"{path} repeats {before}")
            return False
        self._seen[digest] = str(path)
        self._corpus.update(dict.fromkeys(marks, str(path)))
        return True


def _twin(marks: frozenset[int], owner: dict[int, str]) -> str | None:
    """The recording that holds at least 3 of the marks, and 1 in 20 of them; None when there is none."""
    shared = [owner[mark] for mark in marks if mark in owner]
    if len(shared) < max(3, _SHARED * len(marks)):
        return None
    return max(set(shared), key=shared.count)


def _known(folders: Sequence[str | os.PathLike[str]]) -> dict[str, frozenset[int]]:
    known: dict[str, frozenset[int]] = {}
    for folder in folders:
        for path in find_records(folder):
            try:
                known[str(path)] = fingerprints(read(path))
            except ReadError:  # what cannot be read here cannot be trained on either
                continue
    return known


def _windows(name: str, recording: Recording, spec: SignalSpec, beats: list[Beats]) -> Iterator[StoreItem]:
    """The whole recording through the front end, as the model sees it later, then cut; each window's beats to `beats`."""
    rate = spec.rate or recording.rate
    x, mask = preprocess(recording, spec)
    found = find_beats(recording, x, rate, second=spec.leads.index("II") if "II" in spec.leads else 0)
    size, least = int(_WINDOW_S * rate), int(_SHORTEST_S * rate)
    for start in range(0, max(1, x.shape[1]), size):
        part, valid = x[:, start : start + size], mask[:, start : start + size]
        if part.shape[1] >= least and valid.mean(1).max() >= _FEWEST_VALID:
            here = (found.time >= start) & (found.time < start + size)
            beats.append(Beats(found.time[here] - start, found.kind[here], found.waves[here]))
            yield StoreItem(f"{name}@{start / rate:g}", part, valid, rate)
