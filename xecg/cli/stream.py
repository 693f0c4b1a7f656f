"""`xecg stream`: a recording, standard input or local connections through live streams."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xecg.cli._common import reading_options

if TYPE_CHECKING:
    from xecg.signal import Recording
    from xecg.stream import Stream

__all__ = ["command"]


class _Speed(click.ParamType):
    name = "max|FACTOR"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """ "max" → 0, else a factor above 0."""
        if value == "max":
            return 0.0
        try:
            factor = float(value)
        except (TypeError, ValueError):
            factor = 0.0
        if not 0 < factor < float("inf"):
            self.fail(f"{value!r} is neither max nor a factor of real time above 0", param, ctx)
        return factor


@click.command("stream")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--model", "-m", "model_name", default="tiny-causal", show_default=True, help="A model that can stream.")
@click.option("--head", "heads", multiple=True, help="A head of tokens: name or file; may be given more than once.")
@click.option("--chunk", "chunk_s", type=click.FloatRange(min=0.001), default=1.0, help="Seconds a push. Default: 1.")
@click.option("--speed", type=_Speed(), default="max", show_default=True, help="max, or a factor of real time: 1.")
@click.option("--vectors/--no-vectors", default=True, show_default=True, help="Print the tokens' vectors.")
@click.option("--quiet", "-q", is_flag=True, help="Print no tokens and no events, only the first and last line.")
@click.option("--parquet", type=click.Path(path_type=Path), help="Write the tokens to this Parquet file.")
@click.option("--annotations", type=click.Path(path_type=Path), help="Write the events here: WFDB, as 203.qrs.")
@click.option("--reference", default="atr", show_default=True, help="Extension of marks to compare the beats with.")
@click.option(
    "--state", type=click.Path(path_type=Path), help="Keep the stream's state here; go on from it if it exists."
)
@click.option("--state-every", type=click.FloatRange(min=0), default=10.0, help="Seconds of signal. Default: 10.")
@reading_options
def command(*, file: Path, speed: float, chunk_s: float, reading: dict[str, Any], **options: Any) -> None:
    """Play a recording chunk by chunk through a stream; print tokens, events and beats as JSON lines, then a summary.

    Tokens, events and beats are the same whatever --chunk, each kind in time order. Beats come from the classical detector on lead II,
    or on the first lead where there is none; with marks beside the record the summary compares them. With --state a killed run goes on
    from its last state, and its files (--parquet, --annotations) and summary hold what came after it.
    """
    import xecg
    from xecg.model import load_head
    from xecg.stream import Event, Token
    from xecg.stream.results import as_line, token_table, write_annotations
    from xecg.stream.saving import write_blobs

    recording = xecg.read(file, **reading)
    model = xecg.load(options["model_name"])
    heads = {Path(name).stem: load_head(name, model) for name in options["heads"]}
    stream = xecg.Stream(model, rate=recording.rate, leads=recording.leads, heads=heads)
    first = _begin(stream, options["state"])
    facts = {"rate_hz": recording.rate, "leads": list(recording.leads), "model": options["model_name"]}
    _print_line(
        "recording", {**facts, "trained": model.trained, "token_delay_s": stream.delay_s, "first_sample": first}
    )
    events: list[Event] = []
    tokens, began, saved = 0, time.monotonic(), first
    with ExitStack() as stack:
        table = None
        if options["parquet"] is not None:
            width = model.config.dim
            table = stack.enter_context(
                token_table(options["parquet"], width=width, model=model.fingerprint, rate=recording.rate)
            )
        for at, found in _played(stream, recording, first, chunk_s, speed):
            for item in found if not options["quiet"] else ():
                if isinstance(item, Event) and item.kind == "beat":
                    _print_line(
                        "beat", {"sample": item.start, "time_s": round(item.start / recording.rate, 4), "by": item.by}
                    )
                else:
                    line = as_line(item, recording.rate, vectors=options["vectors"])
                    _print_line(line.pop("kind"), line)
            events += [item for item in found if isinstance(item, Event)]
            tokens += sum(isinstance(item, Token) for item in found)
            if table is not None:
                table.add(found)
            if options["state"] is not None and at - saved >= options["state_every"] * recording.rate:
                write_blobs(options["state"], [stream.save("recording")])
                saved = at
    if options["annotations"] is not None:
        write_annotations(options["annotations"], events)
    if options["state"] is not None:
        options["state"].unlink(missing_ok=True)  # the record is through
    seconds = (recording.signal.shape[1] - first) / recording.rate
    _print_line(
        "summary",
        {
            "seconds": round(seconds, 3),
            "tokens": tokens,
            **_comparison(file, events, recording, first, options["reference"]),
            "times_real_time": round(seconds / max(time.monotonic() - began, 1e-9), 1),
        },
    )


def _begin(stream: Stream, state: Path | None) -> int:
    """Open the one stream, or go on with the one in `state`; the next sample."""
    from xecg.stream.saving import read_blobs

    for blob in read_blobs(state) if state is not None else ():
        stream.restore(blob)
    if not stream.ids:
        stream.open("recording")
    return stream.position("recording")


def _played(
    stream: Stream, recording: Recording, first: int, chunk_s: float, speed: float
) -> Iterator[tuple[int, list[Any]]]:
    """(samples gone by, what they gave), chunk by chunk, no faster than `speed` times real time."""
    import numpy as np

    step, n = max(1, round(chunk_s * recording.rate)), recording.signal.shape[1]
    began = time.monotonic()
    for start in range(first, n, step):
        part = slice(start, start + step)
        samples = np.where(recording.mask[:, part], recording.signal[:, part], np.float32(np.nan))
        if speed:
            due = (min(start + step, n) - first) / recording.rate / speed  # a chunk is there when its last sample is
            time.sleep(max(0.0, due - (time.monotonic() - began)))
        yield min(start + step, n), stream.push("recording", samples)
    yield n, stream.flush("recording")


def _comparison(file: Path, events: list[Any], recording: Recording, first: int, extension: str) -> dict[str, Any]:
    """Beats against the marks beside the record, from the first sample on; without marks only their number."""
    import xecg
    from xecg.signal import Annotations
    from xecg.stream.results import beat_summary

    found = [e.start for e in events if e.kind == "beat"]
    beside = file.with_suffix("") if file.suffix == ".hea" else file
    beside = beside.with_name(f"{beside.name}.{extension}")
    if not beside.is_file():
        return {"found_beats": len(found), "reference": None}
    marks = xecg.io.annotations(file, extension)
    late = [i for i, sample in enumerate(marks.sample.tolist()) if sample >= first]
    marks = Annotations(marks.sample[late], tuple(marks.symbol[i] for i in late))
    return {"reference": beside.name, **beat_summary(found, marks, recording.rate)}


def _print_line(kind: str, values: dict[str, Any]) -> None:
    click.echo(json.dumps({"kind": kind, **values}, allow_nan=False))
