"""`xecg plot`: a recording on ECG paper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from xecg.cli._common import Finite, Output, printable, reading_options, split_names

__all__ = ["command"]


@click.command("plot")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--output", "-o", required=True, type=Output(), help="A .png, .pdf or .svg file.")
@click.option("--start", "start_s", type=Finite(min=0), default=0.0, help="First second drawn. Default: 0.")
@click.option("--duration", "seconds", type=Finite(min=0, min_open=True), help="Seconds drawn, at most 120.")
@click.option("--show", help="Leads to draw, comma separated. Default: all.")
@reading_options
def command(
    *, file: Path, output: Path, start_s: float, seconds: float | None, show: str | None, reading: dict[str, Any]
) -> None:
    """Draw a recording on ECG paper: 25 mm/s, 10 mm/mV; 3 × 4 leads over a rhythm strip, or a row a lead."""
    import xecg
    from xecg.errors import SpecError
    from xecg.signal import paper

    recording = xecg.read(file, **reading)
    if show is not None:
        names = split_names(show, "--show")
        for name in names:
            if name not in recording.leads:
                raise SpecError(f"--show names lead {name!r}; the recording has {', '.join(recording.leads)}")
        rows = [recording.leads.index(name) for name in names]
        recording = recording.with_(signal=recording.signal[rows], mask=recording.mask[rows], leads=names)
    click.echo(printable(paper.draw(recording, output, start_s=start_s, seconds=seconds)))
