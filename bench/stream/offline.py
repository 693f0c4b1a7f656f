"""Long records offline: a day through `tiny`, memory apart from the spill, and tokens per second beside batch 32 of the same run."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from functools import partial

import torch

from bench.harness import ROOT, Measure
from xecg.model import XECG, XECGConfig

__all__ = ["entries"]

_TOKENS = 4096  # of a timed call: 17 minutes of signal, long against a piece
_ROUNDS = 3

# A day at 100 Hz with two leads: pages of the other ten that nobody wrote take no memory. Prints seconds and anonymous GB at most.
_DAY = """
import re, sys, tempfile, threading, time, torch
from xecg.model import XECG, XECGConfig, load
name, hours = sys.argv[1], float(sys.argv[2])
torch.set_num_threads(2)
model = (XECG(XECGConfig.preset("base")) if name == "base" else load(name)).eval().requires_grad_(False)
x = torch.zeros(1, 12, 24 * 360_000)
x[0, :2].normal_(generator=torch.Generator().manual_seed(0))
most, over = [0], threading.Event()
def watch():
    while not over.wait(0.05):
        most[0] = max(most[0], int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]))
watcher = threading.Thread(target=watch)
watcher.start()
start = time.perf_counter()
with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
    vector = model.embed(x, lengths=torch.tensor([int(hours * 360_000)]), spill=folder)
seconds = time.perf_counter() - start
over.set()
watcher.join()
assert vector.isfinite().all()
print(seconds, most[0] * 1024 / 1e9)
"""


def _day(name: str, hours: float, *, memory: bool) -> float:
    command = [sys.executable, "-c", _DAY, name, str(hours)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[memory])


def _share(records: int) -> float:
    """Tokens per second of `records` long records side by side over those of batch 32, both the best of interleaved rounds."""
    model = XECG(XECGConfig.preset("base")).eval().requires_grad_(False)
    short, long = torch.randn(32, 12, 1000), torch.randn(records, 12, _TOKENS // records * 25)
    best = {"short": 0.0, "long": 0.0}
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        model.encode(short)
        for _ in range(_ROUNDS):
            for name, x, spill in (("short", short, None), ("long", long, folder)):
                start = time.perf_counter()
                tokens = model.encode(x, spill=spill)
                rate = tokens.shape[0] * tokens.shape[1] / (time.perf_counter() - start)
                best[name] = max(best[name], rate)
    return best["long"] / best["short"]


def entries() -> list[Measure]:
    """The model's part of the job; the front end has rows of its own. A day of `base` takes long: its memory is that of a day's
    record and spill with half an hour encoded, its rate that of 4,096 tokens."""
    day = "1x12x8640000, 2 leads"
    rows = [
        Measure("offline.tiny.day", "encode", day, "s", partial(_day, "tiny", 24, memory=False), bar=40, at_most=True),
        Measure(
            "offline.tiny.memory", "encode", day, "GB", partial(_day, "tiny", 24, memory=True), bar=1, at_most=True
        ),
        Measure(
            "offline.base.memory", "encode", day, "GB", partial(_day, "base", 0.5, memory=True), bar=2, at_most=True
        ),
    ]
    for records, bar in ((1, 0.6), (8, 0.9)):
        shape = f"{records}x12x{_TOKENS // records * 25}"
        name = f"offline.base.rate.{records}"
        rows.append(Measure(name, "encode", shape, "of batch 32", partial(_share, records), bar=bar, threads=2))
    return rows
