"""`pretrain` and `distill`: from folders of recordings to a trained checkpoint, in one call that goes on where it was stopped."""

from __future__ import annotations

import os
import signal as signals
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from xecg.errors import SpecError, XECGError
from xecg.io.atomic import write_json
from xecg.model import XECG
from xecg.model.config import SIGNAL_PRESET, XECGConfig
from xecg.pretrain import progress
from xecg.pretrain.build import Report, build_corpus, read_report
from xecg.pretrain.corpus import Corpus
from xecg.pretrain.distill import Distillation
from xecg.pretrain.distributed import Group, joined
from xecg.pretrain.settings import Settings
from xecg.pretrain.trainer import Summary, train
from xecg.signal import PRESETS, SignalSpec

__all__ = ["distill", "is_store", "pretrain", "read_hashes", "spec_of"]


def pretrain(
    folders: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    settings: Settings,
    *,
    synthetic: int = 0,
    forbidden: Sequence[str] = (),
    compare: Sequence[str | os.PathLike[str]] = (),
    device: str = "cpu",
    tensorboard: bool = False,
    **running: Any,
) -> tuple[Report, Summary]:
    """Build the corpus OUT/corpus unless it is there, then train in OUT. SIGTERM and SIGINT save the state and end the run.

    folders: of recordings, or one store (`xecg.pretrain.build`), which is then the corpus. tensorboard: draw the log in
    OUT/tensorboard too. running: keyword arguments of `train`. Called again with the same arguments it goes on, to the same
    bits as without the break. Under torchrun all processes call it; the first one builds and writes. Arguments and errors as
    `build_corpus` and `train`; SpecError too where OUT/corpus was built from other folders.
    """
    with joined(device) as group, _stopping() as stop:
        if tensorboard and group.first:
            running["board"] = progress.board(Path(out) / "tensorboard")
        builder = _Builder(group, synthetic, settings.seed, forbidden, compare)
        place = builder.place(folders, Path(out) / "corpus", spec_of(settings.model))
        built = _noted(group, place, Path(out))  # now: what is wrong with it is not said after the last step
        done = train(settings, Corpus(place), out, device=device, stop=stop, **running)
    return built, done


def distill(
    teacher: XECG,
    folders: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    settings: Settings,
    *,
    look_ahead: int,
    teacher_data: str | os.PathLike[str] | None = None,
    synthetic: int = 0,
    forbidden: Sequence[str] = (),
    compare: Sequence[str | os.PathLike[str]] = (),
    device: str = "cpu",
    tensorboard: bool = False,
    **running: Any,
) -> tuple[Report, Summary]:
    """As `pretrain`, with the objective of `xecg.pretrain.distill`: OUT/student learns the tokens of `teacher`.

    teacher_data: a store of the same recordings for the teacher's front end, where folders is a store for the student's;
    needed where the two differ. From folders of recordings both are built, OUT/corpus and OUT/teacher-corpus.
    """
    with joined(device) as group, _stopping() as stop:
        if tensorboard and group.first:
            running["board"] = progress.board(Path(out) / "tensorboard")
        builder = _Builder(group, synthetic, settings.seed, forbidden, compare)
        spec = spec_of(settings.model)
        place = builder.place(folders, Path(out) / "corpus", spec)
        taught = None
        if teacher_data is not None:
            taught = Corpus(teacher_data)
        elif spec.hash != teacher.spec.hash and place == Path(out) / "corpus":
            taught = Corpus(builder.place(folders, Path(out) / "teacher-corpus", teacher.spec))
        corpus = Corpus(place)
        goal = Distillation(settings, corpus, group.device, teacher=teacher, taught=taught, look_ahead=look_ahead)
        built = _noted(group, place, Path(out))
        done = train(settings, corpus, out, objective=goal, device=device, stop=stop, **running)
    return built, done


def _noted(group: Group, place: Path, out: Path) -> Report:
    """The report of a run's corpus, kept beside its log too: OUT/data.json says what was trained on and what was left out."""
    built = read_report(place)
    if group.first:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "data.json", asdict(built))
    return built


def spec_of(model: str) -> SignalSpec:
    """The front end of a preset. Raises SpecError for an unknown name."""
    XECGConfig.preset(model)
    return PRESETS[SIGNAL_PRESET[model]]


def is_store(folder: str | os.PathLike[str]) -> bool:
    return (Path(folder) / "manifest.json").is_file() and (Path(folder) / "report.json").is_file()


@dataclass(frozen=True)
class _Builder:
    """Builds the corpora of a run, in the first process."""

    group: Group
    synthetic: int
    seed: int
    forbidden: Sequence[str]
    compare: Sequence[str | os.PathLike[str]]

    def place(self, folders: Sequence[str | os.PathLike[str]], place: Path, spec: SignalSpec) -> Path:
        """Where the corpus of `folders` is: the store that they are, or `place`, once it is built."""
        if len(folders) == 1 and is_store(folders[0]):
            if self.synthetic:
                raise SpecError(
                    f"{folders[0]}: is a store, taken as it is; synthetic records go into it when it is built"
                )
            return Path(folders[0])
        _by_the_first(self.group, lambda: self._build(folders, place, spec))
        return place

    def _build(self, folders: Sequence[str | os.PathLike[str]], place: Path, spec: SignalSpec) -> None:
        for folder in folders:
            if is_store(folder):
                raise SpecError(
                    f"{folder}: is a store, given beside other folders; needed one store, or folders of recordings"
                )
        if not (place / "report.json").exists():
            build_corpus(
                folders, place, spec, synthetic=self.synthetic, seed=self.seed, forbidden=self.forbidden, compare=self.compare
            )  # fmt: skip
            return
        built = read_report(place)
        asked = tuple(f"{i}-{Path(folder).resolve().name}" for i, folder in enumerate(folders))
        if (built.sources, built.synthetic) != (asked, self.synthetic):
            raise SpecError(
                f"{place}: was built from {', '.join(built.sources)} and {built.synthetic} synthetic records; asked for are "
                f"{', '.join(asked)} and {self.synthetic}. Give the same, or another output folder"
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
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise XECGError(f"{path} is no text; needed lines of hex digits, as UTF-8") from None
    for number, line in enumerate(text.splitlines(), 1):
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
