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
from xecg.model.config import SIGNAL_PRESET
from xecg.pretrain.corpus import Corpus, Report, build_corpus, read_report
from xecg.pretrain.trainer import Settings, Summary, train
from xecg.signal import PRESETS

__all__ = ["pretrain", "read_hashes"]


def pretrain(
    folders: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    settings: Settings,
    *,
    synthetic: int = 0,
    forbidden: Sequence[str] = (),
    compare: Sequence[str | os.PathLike[str]] = (),
    save_every: int = 100,
    log_every: int = 10,
    max_memory_mb: float | None = None,
    report: Callable[[dict[str, Any]], None] = lambda line: None,
) -> tuple[Report, Summary]:
    """Build the corpus OUT/corpus unless it is there, then train in OUT. SIGTERM and SIGINT save the state and end the run.

    Called again with the same arguments it goes on, to the same bits as without the break. Arguments and errors as
    `build_corpus` and `train`; SpecError too where OUT/corpus was built from other folders.
    """
    place = Path(out) / "corpus"
    if (place / "report.json").exists():
        built = read_report(place)
        asked = tuple(f"{i}-{Path(folder).resolve().name}" for i, folder in enumerate(folders))
        if (built.sources, built.synthetic) != (asked, synthetic):
            raise SpecError(
                f"{place}: was built from {', '.join(built.sources)} and {built.synthetic} synthetic records; asked for are "
                f"{', '.join(asked)} and {synthetic}. Give the same, or another output folder"
            )
    else:
        spec = PRESETS[SIGNAL_PRESET[settings.model]]
        built = build_corpus(
            folders, place, spec, synthetic=synthetic, seed=settings.seed, forbidden=forbidden, compare=compare
        )
    with _stopping() as stop:
        done = train(
            settings, Corpus(place), out, save_every=save_every, log_every=log_every, max_memory_mb=max_memory_mb,
            stop=stop, report=report,
        )  # fmt: skip
    return built, done


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
