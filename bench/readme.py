"""Tables of README from the JSON under bench/results: `python -m bench readme` writes them, a test fails when they differ."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["README", "rendered"]

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
_BLOCK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def rendered(text: str) -> str:
    """The text with every table block made anew; a block without a result file says that nothing was measured."""

    def block(match: re.Match[str]) -> str:
        path = ROOT / "bench" / "results" / f"{match[2]}.json"
        table = _TABLES[match[2]](json.loads(path.read_text())) if path.exists() else "Not measured yet.\n"
        return f"{match[1]}{table}{match[3]}"

    return _BLOCK.sub(block, text)


def _cpu(result: dict[str, Any]) -> str:
    lines = ["| work (B:T:size) | best peer | times faster | of the ceiling | bar |", "|---|---|---|---|---|"]
    for row in result["rows"]:
        bar = "" if row["bar"] is None else f"{row['bar']:g} ({row['score']}): {'met' if row['met'] else 'not met'}"
        part = f"{100 * row['ceiling_fraction']:.0f} % of {row['ceiling']}" if row["ceiling_fraction"] else ""
        ratio = f"{row['ratio']:.1f}" if row["ratio"] else ""
        lines.append(f"| {row['id']} {row['dtype']} | {row['peer'] or ''} | {ratio} | {part} | {bar} |")
    first, limits = result["rows"][0], result["ceilings"]
    lines.append(
        f"\nOn {first['machine']}, torch {first['torch']}; ceilings of the same run: {limits['gemm_flops'] / 1e9:.0f} GFLOP/s "
        f"(float32 matrix product), {limits['copy_bytes'] / 1e9:.1f} GB/s (copy)."
    )
    return "\n".join(lines) + "\n"


def _benchecg(result: dict[str, Any]) -> str:
    lines = ["| task | model | metric | value [95 % interval] | units | patients |", "|---|---|---|---|---|---|"]
    for row in result["rows"]:
        value = f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        lines.append(
            f"| {row['task']} | {row['model']} | {row['metric']} | {value} | {row['units']:,} | {row['clusters']:,} |"
        )
    return "\n".join(lines) + f"\n\n{result['note']}\n"


_TABLES: dict[str, Callable[[dict[str, Any]], str]] = {"cpu": _cpu, "benchecg": _benchecg}
