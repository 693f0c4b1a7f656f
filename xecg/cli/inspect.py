"""`xecg inspect`: what is in a file or a folder, and what was repaired or guessed on the way in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xecg.cli._common import print_json, printable, reading_options, records

if TYPE_CHECKING:
    from xecg.signal import Recording

__all__ = ["command"]


@click.command("inspect")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
@reading_options
@click.pass_context
def command(context: click.Context, *, paths: tuple[Path, ...], as_json: bool, reading: dict[str, Any]) -> None:
    """Show leads, rate, length, missing samples, quality and log of recordings and folders of recordings."""
    import xecg
    from xecg.errors import XECGError

    found, n_refused = [], 0
    for path in records(paths):
        try:
            facts = describe(xecg.read(path, **reading), path)
        except XECGError as error:
            n_refused += 1
            facts = {"file": printable(path), "error": printable(error)}
        if as_json:
            found.append(facts)
        else:
            click.echo(_text(facts))
    if as_json:
        print_json(found)
    if n_refused:
        context.exit(3)


def describe(recording: Recording, path: Path) -> dict[str, Any]:
    """The facts of one recording as JSON types. `quality` leaves out figures that are not finite."""
    import math

    from xecg.signal import quality

    assessed = quality.assess(recording)
    return {
        "file": printable(path),
        "leads": [printable(lead) for lead in recording.leads],
        "rate_hz": recording.rate,
        "duration_s": recording.duration_s,
        "samples": int(recording.signal.shape[1]),
        "unit": "mV",
        "missing_fraction": 1.0 - float(recording.mask.mean()) if recording.mask.size else 1.0,
        "annotations": len(recording.annotations) if recording.annotations is not None else 0,
        "quality": {
            name.removeprefix("quality_"): value if isinstance(value, bool) else float(value)
            for name, value in assessed.as_columns().items()
            if math.isfinite(value)
        },
        "reasons": [printable(reason) for reason in assessed.reasons],
        "log": [{"kind": e.kind, "field": e.field, "text": printable(e.text)} for e in recording.log],
    }


def _text(facts: dict[str, Any]) -> str:
    if "error" in facts:
        return f"{facts['file']}\n  refused   {facts['error']}"
    quality = facts["quality"]
    flags = [name for name, value in quality.items() if value is True]
    fractions = [f"{name} {value:.3g}" for name, value in quality.items() if value is not True and value]
    lines = [
        facts["file"],
        f"  leads     {len(facts['leads'])}: {' '.join(facts['leads'])}",
        f"  signal    {facts['rate_hz']:g} Hz, {facts['duration_s']:g} s, {facts['unit']}, "
        f"{facts['missing_fraction']:.2%} missing, {facts['annotations']} annotations",
        f"  quality   {', '.join(flags + fractions) or 'nothing to report'}",
    ]
    lines += [f"  attention {reason}" for reason in facts["reasons"]]
    lines += [f"  {entry['kind']:9} {entry['field']}: {entry['text']}" for entry in facts["log"]]
    return "\n".join(lines)
