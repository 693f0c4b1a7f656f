"""`python -m bench.proof.audit --data DIR --json FILE`: does any recording that was trained on share samples with a benchmark?

The comparison is that of `xecg.pretrain.corpus`: hashes of runs of 32 samples, at the recordings' own rates and gains. Copies that
were resampled or filtered escape it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from xecg import read
from xecg.errors import ReadError, XECGError
from xecg.io import find_records
from xecg.io.atomic import write_json
from xecg.pretrain.corpus import content_hash, fingerprints

__all__ = ["audit"]

TRAINED_ON = ("challenge-2021/E", "challenge-2021/JS", "challenge-2025", "cpsc2021")
BENCHMARKS = ("mitdb", "ptb-xl", "challenge-2021/HR", "challenge-2021/A", "challenge-2021/Q", "wfdb-formats")
CONTROL = (("challenge-2021/HR", "mitdb"), ("ptb-xl", "wfdb-formats"))
_FEWEST, _SHARE = 3, 0.05  # shared runs, and their share of the smaller recording's, that make a near duplicate


def audit(
    root: Path, trained_on: tuple[str, ...] = TRAINED_ON, benchmarks: tuple[str, ...] = BENCHMARKS
) -> dict[str, Any]:
    """Counts of every pair of sets: recordings equal, near duplicates, recordings that share any run at all."""
    ours = {name: _marks(root / name) for name in trained_on}
    rows = []
    for name in benchmarks:
        theirs = _marks(root / name)
        for source, records in ours.items():
            near = some = equal = 0
            owner: dict[int, set[str]] = {}
            for path, (_, marks) in records.items():
                for mark in marks:
                    owner.setdefault(mark, set()).add(path)
            for digest, marks in theirs.values():
                equal += any(digest == other for other, _ in records.values())
                count: dict[str, int] = {}
                for mark in marks:
                    for path in owner.get(mark, ()):
                        count[path] = count.get(path, 0) + 1
                some += bool(count)
                near += any(
                    shared >= max(_FEWEST, _SHARE * min(len(marks), len(records[path][1])))
                    for path, shared in count.items()
                )
            rows.append(
                {"trained_on": source, "benchmark": name, "recordings": len(records), "compared_with": len(theirs),
                 "equal": equal, "near_duplicates": near, "share_any_run": some}
            )  # fmt: skip
    return {"rows": rows, "clean": not any(row["equal"] or row["near_duplicates"] for row in rows)}


def _marks(folder: Path) -> dict[str, tuple[str, frozenset[int]]]:
    found = {}
    for path in find_records(folder):
        try:
            recording = read(path)
        except ReadError:
            continue
        found[str(path)] = content_hash(recording), fingerprints(recording)
    return found


@click.command()
@click.option("--data", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--json", "out", type=click.Path(path_type=Path))
def main(data: Path, out: Path | None) -> None:
    """Print the counts; exit status 1 where a near duplicate was found."""
    result = audit(data)
    control = audit(
        data, CONTROL[0], CONTROL[1]
    )  # copies that are known: a search that finds none of them proves nothing
    result["control"] = control["rows"]
    if control["clean"]:
        raise XECGError("the control sets hold copies of each other, and none was found")
    for row in result["rows"]:
        click.echo(row)
    if out is not None:
        write_json(out, result)
    raise SystemExit(0 if result["clean"] else 1)


if __name__ == "__main__":
    main()
