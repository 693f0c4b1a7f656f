"""`pretrain`: from folders of recordings to a trained checkpoint, in one call that goes on where it was stopped."""

from __future__ import annotations

import os
import signal as signals
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from xecg.errors import SpecError, XECGError
from xecg.model.config import SIGNAL_PRESET, XECGConfig
from xecg.pretrain.build import Report, build_corpus, read_report
from xecg.pretrain.corpus import Corpus
from xecg.pretrain.distributed import Group, joined
from xecg.pretrain.settings import Settings
from xecg.pretrain.trainer import Summary, train
from xecg.signal import PRESETS, SignalSpec

__all__ = ["pretrain", "read_hashes", "spec_of"]


def pretrain(
    folders: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    settings: Settings,
    *,
    synthetic: int = 0,
    forbidden: Sequence[str] = (),
    compare: Sequence[str | os.PathLike[str]] = (),
    device: str = "cpu",
    micro: int = 0,
    save_every: int = 100,
    log_every: int = 10,
    max_memory_mb: float | None = None,
    report: Callable[[dict[str, Any]], None] = lambda line: None,
) -> tuple[Report, Summary]:
    """Build the corpus OUT/corpus unless it is there, then train in OUT. SIGTERM and SIGINT save the state and end the run.

    folders: of recordings, or one store (`xecg.pretrain.build`), which is then the corpus.
    Called again with the same arguments it goes on, to the same bits as without the break. Under torchrun all processes
    call it; the first one builds and writes. Arguments and errors as `build_corpus` and `train`; SpecError too where
    OUT/corpus was built from other folders.
    """
    with joined(device) as group, _stopping() as stop:
        place = Path(out) / "corpus"
        if len(folders) == 1 and is_store(folders[0]):
            place = Path(folders[0])
            if synthetic:
                raise SpecError(f"{place}: is a store, taken as it is; synthetic records go into it when it is built")
        else:
            _by_the_first(group, lambda: _build(folders, place, settings, synthetic, forbidden, compare))
        done = train(
            settings, Corpus(place), out, device=device, micro=micro, save_every=save_every, log_every=log_every,
            max_memory_mb=max_memory_mb, stop=stop, report=report,
        )  # fmt: skip
    return read_report(place), done


def spec_of(model: str) -> SignalSpec:
    """The front end of a preset. Raises SpecError for an unknown name."""
    XECGConfig.preset(model)
    return PRESETS[SIGNAL_PRESET[model]]


def is_store(folder: str | os.PathLike[str]) -> bool:
    return (Path(folder) / "manifest.json").is_file() and (Path(folder) / "report.json").is_file()


def _build(
    folders: Sequence[str | os.PathLike[str]],
    place: Path,
    settings: Settings,
    synthetic: int,
    forbidden: Sequence[str],
    compare: Sequence[str | os.PathLike[str]],
) -> None:
    """The corpus of a run in `place`, unless it is there; SpecError where that is one of other folders."""
    for folder in folders:
        if is_store(folder):
            raise SpecError(
                f"{folder}: is a store, given beside other folders; needed one store, or folders of recordings"
            )
    if not (place / "report.json").exists():
        build_corpus(
            folders, place, spec_of(settings.model), synthetic=synthetic, seed=settings.seed, forbidden=forbidden, compare=compare
        )  # fmt: skip
        return
    built = read_report(place)
    asked = tuple(f"{i}-{Path(folder).resolve().name}" for i, folder in enumerate(folders))
    if (built.sources, built.synthetic) != (asked, synthetic):
        raise SpecError(
            f"{place}: was built from {', '.join(built.sources)} and {built.synthetic} synthetic records; asked for are "
            f"{', '.join(asked)} and {synthetic}. Give the same, or another output folder"
        )


def _by_the_first(group: Group, work: Callable[[], None]) -> None:
    """Have the first process do it while the others wait; its mistake ends them all."""
    error: XECGError | None = None
    if group.first:
        try:
            work()
        except XECGError as found:
            error = found
    if group.any(error is not None):
        raise error or XECGError(f"process {group.rank}: the first process failed; its message says why")


def read_hashes(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Content hashes from a text file, one at the start of each line; "#" starts a comment. Raises XECGError."""
    found = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        word = (line.split("#")[0].split() or [""])[0].lower()
        if word and (len(word) < 16 or set(word) - set("0123456789abcdef")):
            raise XECGError(f"{path}: line {number} starts with {word[:40]!r}; needed 16 or more hex digits")
        found += [word] if word else []
    return tuple(found)


@contextmanager
def _stopping() -> Iterator[Callable[[], bool]]:
    """A function that says whether SIGTERM or SIGINT came; outside the main thread, where none can be caught, never."""
    came = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield came.is_set
        return
    caught = (signals.SIGTERM, signals.SIGINT)
    before = [signals.signal(number, lambda *_: came.set()) for number in caught]
    try:
        yield came.is_set
    finally:
        for number, handler in zip(caught, before):
            signals.signal(number, handler)
