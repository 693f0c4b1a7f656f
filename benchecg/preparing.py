"""What the tasks' data are, how to get them, and getting those that need nobody's consent but yours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from benchecg.fetch import fetch
from benchecg.sources import SOURCES, STEPS, Source
from benchecg.tasks import load_task, task_ids
from xecg.errors import SpecError

__all__ = ["describe", "download", "folders_of"]


def folders_of(names: Sequence[str]) -> list[str]:
    """Folders of the data sets of tasks (default: all tasks), and of names that are themselves such folders, each once."""
    tasks = [load_task(name) for name in names or task_ids() if name not in SOURCES]
    own = [name for name in names if name in SOURCES]
    return list(dict.fromkeys([*own, *(t.dataset.folder for t in tasks if not t.synthetic)]))


def describe(names: Sequence[str], root: Path, say: Callable[[str], None]) -> None:
    """Each task's data in words; a synthetic task's are simulated into `root`."""
    for task in [load_task(name) for name in names or task_ids() if name not in SOURCES]:
        if task.synthetic:
            from benchecg.tasks.synthetic_demo import write_archive

            say(f"{task.id}: simulated into {write_archive(root)}")
            continue
        d = task.dataset
        there = "a folder is there; `benchecg verify` counts it" if (root / d.folder).is_dir() else "not there"
        say(f"{task.id}: {d.name} {d.version} ({d.size}; {d.licence}; {d.access})")
        say(f"  from {d.url}\n  to   {root / d.folder} ({there})")


def download(
    folders: Sequence[str],
    root: Path,
    *,
    say: Callable[[str], None],
    accepts: Callable[[Source], bool],
    mirror: str | None = None,
    progress: Callable[[str], Callable[[Iterable], Iterable]] = lambda label: iter,
) -> bool:
    """Fetch every open data set, say the steps for the others; whether all of them are there now.

    accepts: asked once for each, after its licence and size were said. mirror: root URL of another copy of the one data set.
    Raises as `fetch` does, SpecError also on a mirror of several data sets.
    """
    if mirror is not None and len(folders) != 1:
        raise SpecError(
            f"a mirror is the address of one data set; these tasks need {len(folders)}: {', '.join(folders)}"
        )
    for folder in folders:
        if folder not in SOURCES:
            say(f"{folder}: not for download without you:")
            steps = (step.format(folder=root / folder) for step in STEPS[folder])
            say("\n".join(f"  {i}. {step}" for i, step in enumerate(steps, start=1)))
            continue
        source = SOURCES[folder]
        say(f"{source.name}: about {source.size_mb:,} MB on disk, into {root / folder}")
        say(f"  licence: {source.licence}, {source.licence_url}")
        done = fetch(source, root, accept_licence=accepts(source), mirror=mirror, progress=progress(folder))
        say(f"  {done.files} files whole ({done.kept} were there), {done.received / 1e6:,.1f} MB received")
    return all(folder in SOURCES for folder in folders)
