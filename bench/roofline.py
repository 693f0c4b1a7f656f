"""The roofline of a result file (Williams et al., 2009): what each row reaches, over its operations per byte, under both ceilings."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Point", "draw", "points"]

_MARKERS = "osD^vP*X<>"


class Point(NamedTuple):
    """One row: op, type, operations per byte moved once, operations per second."""

    id: str
    op: str
    dtype: str
    intensity: float
    rate: float


def points(result: dict[str, Any]) -> list[Point]:
    """Rows of one thread (or a GPU) with time, operations and bytes; the ceilings of a file are those of one thread."""
    found = []
    for row in result["rows"]:
        time = row.get("device_s", row.get("cpu_s"))
        if time and row.get("flops") and row.get("bytes") and row["threads"] == 1:
            found.append(Point(row["id"], row["op"], row["dtype"], row["flops"] / row["bytes"], row["flops"] / time))
    return found


def draw(result: dict[str, Any], out: Path) -> str:
    """Write the picture to `out` in the format that its ending names; returns a sentence about what is in it."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown, limits = points(result), result["ceilings"]
    gemm, copy = limits["gemm_flops"], limits["copy_bytes"]
    ops = sorted({p.op for p in shown})
    types = sorted({p.dtype for p in shown}, reverse=True)
    left = min([0.5 * p.intensity for p in shown] + [0.1 * gemm / copy])
    right = max([2 * p.intensity for p in shown] + [10 * gemm / copy])
    figure, axes = pyplot.subplots(figsize=(9, 5.5))
    axes.loglog([left, gemm / copy, right], [left * copy, gemm, gemm], color="black", linewidth=1.5)
    colours = pyplot.get_cmap("tab10")
    for i, op in enumerate(ops):
        for j, dtype in enumerate(types):
            chosen = [p for p in shown if (p.op, p.dtype) == (op, dtype)]
            if chosen:
                axes.scatter(
                    [p.intensity for p in chosen],
                    [p.rate for p in chosen],
                    s=30,
                    marker=_MARKERS[i % len(_MARKERS)],
                    facecolors=colours(i % 10) if j == 0 else "none",
                    edgecolors=[colours(i % 10)],
                    label=f"{op}, {dtype}",
                )
    first = result["rows"][0] if result["rows"] else {"machine": "no machine", "commit": "?"}
    matrix = f"{limits.get('gemm_dtype', 'float32')} matrix product {_si(gemm)}FLOP/s, copy {_si(copy)}B/s"
    axes.set_title(f"{first['machine']}, commit {first['commit']}\nceilings: {matrix}", fontsize=10)
    axes.set_xlabel("operations per byte that must move (above the slope: the data stays in caches)")
    axes.set_ylabel("operations per second")
    axes.grid(which="major", alpha=0.3)
    if shown:
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    figure.savefig(out, bbox_inches="tight", metadata={"Date": None} if out.suffix == ".svg" else None)
    pyplot.close(figure)
    left_out = len(result["rows"]) - len(shown)
    return (
        f"{out}: {len(shown)} rows; {left_out} without operations, bytes or time, or of several threads, are left out"
    )


def _si(value: float) -> str:
    for size, letter in ((1e12, "T"), (1e9, "G")):
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g} "
