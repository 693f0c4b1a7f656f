"""Tables of README from the JSON under bench/results: `python -m bench readme` writes them, a test fails when they differ."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.registry import SUITES

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


def _suite(result: dict[str, Any]) -> str:
    timed = [row for row in result["rows"] if "value" not in row]
    values = [row for row in result["rows"] if "value" in row]
    first, limits = result["rows"][0], result["ceilings"]
    note = (
        f"On {first['machine']}, torch {first['torch']}; ceilings of the same run: {limits['gemm_flops'] / 1e9:.0f} GFLOP/s "
        f"(float32 matrix product), {limits['copy_bytes'] / 1e9:.1f} GB/s (copy).\n"
    )
    return "\n".join([table(rows) for table, rows in ((_timed, timed), (_values, values)) if rows] + [note])


def _bar(row: dict[str, Any]) -> str:
    return "" if row["bar"] is None else f"{row['bar']:g} ({row['score']}): {'met' if row['met'] else 'not met'}"


def _timed(rows: list[dict[str, Any]]) -> str:
    lines = ["| work (B:T:size) | best peer | times faster | of the ceiling | bar |", "|---|---|---|---|---|"]
    for row in rows:
        part = f"{100 * row['ceiling_fraction']:.0f} % of {row['ceiling']}" if row["ceiling_fraction"] else ""
        ratio = f"{row['ratio']:.1f}" if row["ratio"] else ""
        lines.append(f"| {row['id']} {row['dtype']} | {row['peer'] or ''} | {ratio} | {part} | {_bar(row)} |")
    return "\n".join(lines) + "\n"


def _values(rows: list[dict[str, Any]]) -> str:
    lines = ["| work | value | unit | beside it | bar |", "|---|---|---|---|---|"]
    for row in rows:
        beside = ", ".join(f"{name} {value:.4g}" for name, value in row["peers"].items())
        lines.append(f"| {row['id']} | {row['value']:.4g} | {row['unit']} | {beside} | {_bar(row)} |")
    return "\n".join(lines) + "\n"


def _benchecg(result: dict[str, Any]) -> str:
    lines = ["| task | model | metric | value [95 % interval] | units | patients |", "|---|---|---|---|---|---|"]
    for row in result["rows"]:
        value = f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        lines.append(
            f"| {row['task']} | {row['model']} | {row['metric']} | {value} | {row['units']:,} | {row['clusters']:,} |"
        )
    return "\n".join(lines) + f"\n\n{result['note']}\n"


def _proof(result: dict[str, Any]) -> str:
    lines = [
        "| frozen features | macro F1 of N, S, V | N | S | V | minus random weights | minus RR + waves |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in result["rows"].items():
        if isinstance(row, list):
            lines.append(f"| {name} weights, mean of {len(row)} seeds | {sum(row) / len(row):.3f} | | | | | |")
            continue
        low, high = row["interval"]
        classes = " | ".join(f"{row['f1'][c]:.3f}" for c in "NSV")
        gains = " | ".join(_gain(row.get(f"minus_{of}")) for of in ("random", "rr+waves"))
        lines.append(f"| {name} | {row['macro_f1']:.3f} [{low:.3f}, {high:.3f}] | {classes} | {gains} |")
    return "\n".join(lines) + f"\n\n{result['folds']}; folds SHA-256 {result['folds_sha256'][:16]}….\n"


def _gain(row: dict[str, Any] | None) -> str:
    return "" if row is None else f"{row['value']:+.3f} [{row['interval'][0]:+.3f}, {row['interval'][1]:+.3f}]"


_TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    **dict.fromkeys(SUITES, _suite),
    "benchecg": _benchecg,
    "proof": _proof,
}
