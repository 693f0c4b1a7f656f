"""Tables of README and docs from the JSON under bench/results: `python -m bench readme` writes them, a test fails when they differ."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.registry import SUITES

__all__ = ["PAGES", "README", "gpu_table", "intervals_table", "length_table", "qrs_table", "rendered"]

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = (README, *(ROOT / "docs" / f"{name}.md" for name in ("BENCHMARKS", "INTERVALS", "LONG_RECORDINGS")))
_BLOCK = re.compile(r"(<!-- table: (\w+)( barred)? -->\n).*?(<!-- end -->)", re.DOTALL)


def rendered(text: str) -> str:
    """The text with every table block made anew; a block without a result file says that nothing was measured.

    `<!-- table: NAME barred -->` shows the rows that have a bar alone.
    """

    def block(match: re.Match[str]) -> str:
        path = ROOT / "bench" / "results" / f"{match[2]}.json"
        if not path.exists():
            return f"{match[1]}Not measured yet.\n{match[4]}"
        result = json.loads(path.read_text())
        if match[3]:
            result["rows"] = [row for row in result["rows"] if row["bar"] is not None]
        return f"{match[1]}{_TABLES[match[2]](result)}{match[4]}"

    return _BLOCK.sub(block, text)


def gpu_table(result: dict[str, Any]) -> str:
    """Times on a GPU, which are shown, beside the floor of the same run; peers that could not run, and why."""
    limits, rows = result["ceilings"], result["rows"]
    lines = [
        "| work | backend | time | of the ceiling | best peer | times faster | bar |",
        "|---|---|---|---|---|---|---|",
    ]
    absent: dict[str, str] = {}
    for row in rows:
        time = f"failed: {row['failed']}" if "failed" in row else f"{row['device_s'] * 1e6:.1f} µs"
        part = f"{100 * row['ceiling_fraction']:.0f} % of {row['ceiling']}" if row["ceiling_fraction"] else ""
        ratio = f"{row['ratio']:.2f}" if row["ratio"] else ""
        cells = (f"{row['id']} {row['dtype']}", row["backend"], time, part, row["peer"] or "", ratio, _bar(row))
        lines.append("| " + " | ".join(cells) + " |")
        absent |= row["not_run"]
    first = rows[0] if rows else {"machine": "no machine", "torch": "not at hand"}
    note = [
        f"On {first['machine']}, torch {first['torch']}; ceilings of the same run: {limits['gemm_flops'] / 1e12:.0f} TFLOP/s "
        f"({limits['gemm_dtype']} matrix product), {limits['copy_bytes'] / 1e12:.2f} TB/s (copy)."
    ]
    note += [f"{name} did not run: {why}." for name, why in absent.items()]
    return "\n".join([*lines, "", " ".join(note)]) + "\n"


def _suite(result: dict[str, Any]) -> str:
    timed = [row for row in result["rows"] if "value" not in row]
    values = [row for row in result["rows"] if "value" in row]
    first, limits = result["rows"][0], result["ceilings"]
    note = (
        f"On {first['machine']}, torch {first['torch']}; ceilings of the same run: {limits['gemm_flops'] / 1e9:.0f} GFLOP/s "
        f"({limits.get('gemm_dtype', 'float32')} matrix product), {limits['copy_bytes'] / 1e9:.1f} GB/s (copy).\n"
    )
    return "\n".join([table(rows) for table, rows in ((_timed, timed), (_values, values)) if rows] + [note])


def _bar(row: dict[str, Any]) -> str:
    if row["bar"] is None:
        return ""
    met = {True: "met", False: "not met", None: "not judged"}[row["met"]]
    return f"{row['bar']:.3g} ({row['score']}): {met}"


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


def intervals_table(result: dict[str, Any]) -> str:
    """Coverage and median width of the benchmark's interval by metric and number of patients; then of those it was chosen from."""
    cells: dict[str, dict[tuple[str, ...], dict[int, str]]] = {"own": {}, "other": {}}
    for row in result["rows"]:
        what = (row["population"], row["metric"])
        cell = f"{100 * row['coverage']:.1f} ({row['width']:.3g})"
        if row["rarest"] is not None and row["rarest"] < 30:
            cell += f", {row['rarest']:.0f} of the rarest class"
        if row["method"] == "jackknife":
            cells["own"].setdefault(what, {})[row["clusters"]] = cell
        if what in (("beats", "macro_f1"), ("exams", "auroc")):
            cells["other"].setdefault((*what, row["method"]), {})[row["clusters"]] = cell.partition(",")[0]
    lines = []
    for header, table in zip((("population", "metric"), ("population", "metric", "interval")), cells.values()):
        clusters = sorted({n for each in table.values() for n in each})
        lines += ["| " + " | ".join([*header, *(f"{n:,} patients" for n in clusters)]) + " |"]
        lines += ["|" + "---|" * (len(header) + len(clusters))]
        order = list(dict.fromkeys(key[0] for key in table))
        rows = sorted(table.items(), key=lambda row: order.index(row[0][0]))
        lines += ["| " + " | ".join([*key, *(each.get(n, "") for n in clusters)]) + " |" for key, each in rows]
        lines += [""]
    studies = [row["standard_error"] for row in result["rows"]]
    note = (
        f"Coverage in % (median width). Standard errors of the coverages are at most {100 * max(studies):.1f} points."
    )
    return "\n".join([*lines, note]) + "\n"


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


def qrs_table(result: dict[str, Any]) -> str:
    """Gross scores of every detector: clean in each way of counting, then DS2 apart, then under each synthetic noise."""
    lines = [
        "| signal | detector | Se ±75 ms | PPV ±75 ms | F1 ±75 ms | F1 ±10 ms | F1 ±150 ms | error at ±75 ms, mean (sd) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, str, str], dict[int, dict[str, Any]]] = {}
    for row in result["rows"]:
        what = row["noise"] if row["snr_db"] is None else f"{row['noise']}, {row['snr_db']:g} dB"
        for part, name in (("gross", what), ("ds2", f"{what}, DS2")):
            if row["variant"] == "full" or (part == "gross" and row["noise"] == "clean"):
                signal = name if row["variant"] == "full" else f"{name}, {row['variant']}"
                if part == "gross" or row["noise"] == "clean":
                    groups.setdefault((signal, row["detector"], part), {})[row["tolerance_ms"]] = row[part]
    order = list(dict.fromkeys(signal for signal, _, _ in groups))
    for (signal, detector, _), at in sorted(groups.items(), key=lambda item: order.index(item[0][0])):
        near, mid, far = (at[ms] for ms in (10, 75, 150))
        figures = [mid["sensitivity"], mid["ppv"], mid["f1"], near["f1"], far["f1"]]
        cells = " | ".join("" if value is None else f"{value:.4f}" for value in figures)
        error = "" if mid["mean_ms"] is None else f"{mid['mean_ms']:+.1f} ({mid['sd_ms']:.1f}) ms"
        lines.append(f"| {signal} | {detector} | {cells} | {error} |")
    cost = ", ".join(f"{name} {value:.0f}" for name, value in result["cost_us_per_second_of_signal"].items())
    note = (
        f"{len(result['records'])} records of MIT-BIH, first lead; all noise is synthetic. xecg decides a beat at most "
        f"{result['delay_ms']:.0f} ms after it; the others see the whole record. CPU time in µs for a second of signal: "
        f"{cost}. On {result['machine']}.\n"
    )
    return "\n".join(lines) + "\n\n" + note


def length_table(result: dict[str, Any]) -> str:
    """Scores of each model by context, then the norms of tokens and of the state that grew most over a record."""
    lines = [
        "| weights | context | macro F1 of N, S, V | N | S | V | minus 10 s | tokens, RMS | state that grew most, RMS |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        low, high = row["interval"]
        sizes = result["norms"][row["model"]]
        name, of_time = max(
            ((f"{block} {key}", v) for block, found in sizes["states"].items() for key, v in found.items()),
            key=lambda item: item[1]["record"] / max(item[1]["10 s"], 1e-12),
        )
        classes = " | ".join(f"{row['f1'][c]:.3f}" for c in "NSV")
        lines.append(
            f"| {row['model']} | {row['context']} | {row['macro_f1']:.3f} [{low:.3f}, {high:.3f}] | {classes} | "
            f"{_gain(row['minus_first'])} | {sizes['tokens'][row['context']]:.3g} | {of_time[row['context']]:.3g} ({name}) |"
        )
    longest = ", ".join(f"{model} {context}" for model, context in result["useful"].items())
    note = (
        f"{result['beats']['test']:,} beats of DS2, linear probe taught by {result['taught_by']:,} beats of DS1; intervals and "
        f"differences over patients. Longest context up to which no score is below that of 10 s: {longest}. "
        f"On {result['machine']}, torch {result['torch']}.\n"
    )
    return "\n".join(lines) + "\n\n" + note


_TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    **dict.fromkeys(SUITES, _suite),
    "gpu": gpu_table,
    "benchecg": _benchecg,
    "intervals": intervals_table,
    "length": length_table,
    "proof": _proof,
    "qrs": qrs_table,
}
