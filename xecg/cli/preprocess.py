"""`xecg preprocess`: a recording as a model sees it, in an .npz file or as a picture beside the raw one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xecg.cli._common import Output, print_json, printable, reading_options

if TYPE_CHECKING:
    from xecg.signal import ModelInput, SignalSpec

__all__ = ["command"]


@click.command("preprocess")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--output", "-o", type=Output(), help="The .npz file to write.")
@click.option("--plot", type=Output(), help="A .png, .pdf or .svg file: raw and processed signal, lead by lead.")
@click.option("--preset", default="poly", show_default=True, help="A named signal specification.")
@click.option("--model", "model_name", help="Take the signal specification of this model instead of a preset.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@reading_options
def command(
    *,
    file: Path,
    output: Path | None,
    plot: Path | None,
    preset: str,
    model_name: str | None,
    as_json: bool,
    reading: dict[str, Any],
) -> None:
    """Filter, resample, normalise and map the leads of a recording as a preset or a model asks.

    The .npz holds x float32 and mask bool (leads, samples), rate (Hz), leads, and the specification as JSON. The
    picture shows records of up to 20 s whole, of longer ones the first and the last 10 s.
    """
    if output is None and plot is None:
        raise click.UsageError("nothing to write; give --output FILE.npz, --plot FILE.png, or both")
    import xecg
    from xecg.errors import SpecError
    from xecg.signal import PRESETS, before_after

    if model_name is not None:
        spec = xecg.load(model_name).spec
    elif preset in PRESETS:
        spec = PRESETS[preset]
    else:
        raise SpecError(f"preset is {preset!r}; known presets are {', '.join(sorted(PRESETS))}")
    recording = xecg.read(file, **reading)
    result = xecg.preprocess(recording, spec)
    rate_hz = spec.rate if spec.rate is not None else recording.rate
    if plot is not None:
        before_after.draw(recording, result, spec, plot)
    if output is not None:
        _store(output, result, spec, rate_hz)
    written = {name: printable(path) for name, path in (("output", output), ("plot", plot)) if path is not None}
    summary = {
        **written,
        "leads": len(spec.leads),
        "samples": int(result.x.shape[-1]),
        "rate_hz": float(rate_hz),
        "valid_fraction": float(result.mask.mean()),
        "spec_hash": spec.hash,
    }
    if as_json:
        print_json(summary)
    else:
        click.echo(
            f"{', '.join(written.values())}: {summary['leads']} leads, {summary['samples']} samples at {rate_hz:g} Hz, "
            f"{summary['valid_fraction']:.1%} valid, specification {spec.hash}"
        )


def _store(output: Path, result: ModelInput, spec: SignalSpec, rate_hz: float) -> None:
    import json

    import numpy as np

    from xecg.io.atomic import replacing

    with replacing(output) as temporary, open(temporary, "wb") as stream:
        np.savez(
            stream,
            x=result.x,
            mask=result.mask,
            rate=np.float64(rate_hz),
            leads=np.array(spec.leads),
            spec=np.array(json.dumps(spec.to_dict(), sort_keys=True)),
        )
