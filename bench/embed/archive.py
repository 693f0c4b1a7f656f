"""Files to embeddings, end to end: a folder of 10-s 12-lead WFDB records, and where the time goes.

The folder is written by the simulator. Shares come from each stage run alone on the same records; the peer reads with `wfdb`, filters,
resamples with scipy in float64, and uses the same encoder in the same batches.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.harness import Bench, Measure
from xecg import XECG, XECGConfig, load, read
from xecg.io import find_records, write_wfdb
from xecg.model.archive import embed_archive
from xecg.signal import PRESETS, preprocess, quality, simulate

__all__ = ["entries"]

_RECORDS, _BATCH = 64, 16
_KEEP: list[tempfile.TemporaryDirectory[str]] = []


@lru_cache
def _folder(rate_hz: int) -> Path:
    _KEEP.append(tempfile.TemporaryDirectory())
    folder = Path(_KEEP[-1].name)
    for seed in range(_RECORDS):
        write_wfdb(simulate.ecg(seed=seed, rate_hz=rate_hz, duration_s=10.0), folder, f"r{seed:03d}")
    return folder


@lru_cache
def _model(name: str) -> XECG:
    model = load(name) if name == "tiny" else XECG(XECGConfig.preset(name), spec=PRESETS["xecg"])
    return model.eval().requires_grad_(False)


def _ours(name: str, rate_hz: int) -> Any:
    with tempfile.TemporaryDirectory() as out:
        return embed_archive([_folder(rate_hz)], _model(name), Path(out) / "e.parquet", batch_size=_BATCH)


def _encoded(model: XECG, inputs: list[Any]) -> None:
    with torch.inference_mode():
        for first in range(0, len(inputs), _BATCH):
            part = inputs[first : first + _BATCH]
            x = torch.from_numpy(np.stack([p.x for p in part]))
            model.embed(x, mask=torch.from_numpy(np.stack([p.mask for p in part])))


def _others(name: str, rate_hz: int) -> None:
    """wfdb and scipy in front of the same encoder."""
    import wfdb
    from scipy.signal import butter, resample, resample_poly, sosfiltfilt

    rows = []
    for path in sorted(_folder(rate_hz).glob("*.hea")):
        x = wfdb.rdrecord(str(path.with_suffix(""))).p_signal.T
        if name == "tiny":
            x = sosfiltfilt(butter(3, (0.5, 40), "bandpass", fs=rate_hz, output="sos"), x)
            x = resample_poly(x, 100, rate_hz, axis=1)
            x = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
        else:
            x = resample(x, 1000, axis=1)
        rows.append(x[:, :1000].astype(np.float32))
    with torch.inference_mode():
        for first in range(0, len(rows), _BATCH):
            _model(name).embed(torch.from_numpy(np.stack(rows[first : first + _BATCH])))


def _best(f: Callable[[], object], turns: int = 3) -> float:
    times = []
    for _ in range(turns):
        start = time.process_time()
        f()
        times.append(time.process_time() - start)
    return min(times)


def _share(name: str, rate_hz: int) -> float:
    """Part of the CPU time of all stages that the encoder takes, percent."""
    paths, model = find_records(_folder(rate_hz)), _model(name)
    recordings = [read(p) for p in paths]
    inputs = [preprocess(r, model.spec) for r in recordings]
    stages = {
        "read": _best(lambda: [read(p) for p in paths]),
        "quality": _best(lambda: [quality.assess(r) for r in recordings]),
        "front end": _best(lambda: [preprocess(r, model.spec) for r in recordings]),
        "encode": _best(lambda: _encoded(model, inputs)),
    }
    return 100 * stages["encode"] / sum(stages.values())


def entries() -> list[Bench | Measure]:
    """`tiny` at three rates and `base` at 500 Hz: time of the whole, and the encoder's share of it."""
    made: list[Bench | Measure] = []
    for name, rate_hz in (("tiny", 100), ("tiny", 360), ("tiny", 500), ("base", 500)):

        def right(name: str = name, rate_hz: int = rate_hz) -> None:
            report = _ours(name, rate_hz)
            if report.n_done != _RECORDS or report.n_refused:
                raise AssertionError(f"{report.n_done} of {_RECORDS} records were embedded")

        made.append(
            Bench(
                id=f"embed.{name}.{rate_hz}hz", op="embed", shape=f"{_RECORDS}x12x{rate_hz * 10}", dtype="float32",
                run=lambda name=name, rate_hz=rate_hz: _ours(name, rate_hz), check=right,
                peers={"wfdb, scipy, same encoder": lambda name=name, rate_hz=rate_hz: _others(name, rate_hz)},
            )
        )  # fmt: skip
        made.append(
            Measure(
                id=f"embed.{name}.{rate_hz}hz.encoder_share", op="embed", shape=f"{_RECORDS}x12x{rate_hz * 10}", unit="%",
                run=lambda name=name, rate_hz=rate_hz: _share(name, rate_hz), bar=50.0 if name == "base" else None,
            )
        )  # fmt: skip
    return made
