"""`xecg stream`: a recording played through a live stream."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from xecg.cli._common import reading_options

__all__ = ["command"]


@click.command("stream")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--model", "-m", "model_name", default="tiny-causal", show_default=True, help="A model that can stream.")
@click.option("--chunk", "chunk_s", type=click.FloatRange(min=0.001), default=1.0, help="Seconds a push. Default: 1.")
@click.option("--vectors/--no-vectors", default=True, show_default=True, help="Print the tokens' vectors.")
@reading_options
def command(*, file: Path, model_name: str, chunk_s: float, vectors: bool, reading: dict[str, Any]) -> None:
    """Play a recording chunk by chunk through a stream; print tokens, events and beats as JSON lines.

    The output does not depend on --chunk. Beats come from lead II, or the first lead where there is none.
    """
    import numpy as np

    import xecg
    from xecg.signal.qrs import Detector

    recording = xecg.read(file, **reading)
    model = xecg.load(model_name)
    stream = xecg.Stream(model, rate=recording.rate, leads=recording.leads, beats=False)
    detector = Detector(recording.rate)
    row = recording.leads.index("II") if "II" in recording.leads else 0
    samples = np.where(recording.mask, recording.signal, np.float32(np.nan))  # missing samples are pushed as NaN
    step = max(1, round(chunk_s * recording.rate))
    facts = {"rate_hz": recording.rate, "leads": list(recording.leads), "model": model_name}
    _print_line("recording", {**facts, "trained": model.trained, "token_delay_s": stream.delay_s})
    stream.open("recording")
    for start in range(0, samples.shape[1], step):
        chunk = samples[:, start : start + step]
        _print(stream.push("recording", chunk), vectors=vectors)
        _print_beats(detector.push(recording.signal[row, start : start + step]), recording.rate)
    _print(stream.flush("recording"), vectors=vectors)
    _print_beats(detector.flush(), recording.rate)
    stream.close("recording")


def _print(items: list[Any], *, vectors: bool) -> None:
    for item in items:
        values = {f.name: _plain(getattr(item, f.name)) for f in fields(item)}
        _print_line(
            type(item).__name__.lower(), {k: v for k, v in values.items() if vectors or not isinstance(v, list)}
        )


def _print_beats(samples: list[int], rate_hz: float) -> None:
    for sample in samples:
        _print_line("beat", {"sample": int(sample), "time_s": int(sample) / rate_hz})


def _plain(value: Any) -> Any:
    """Arrays, tensors and their scalars as JSON types."""
    return value.tolist() if hasattr(value, "tolist") else value


def _print_line(kind: str, values: dict[str, Any]) -> None:
    import json

    click.echo(json.dumps({"kind": kind, **values}))
