"""CSV tables: a column a lead, a row a sample; names (and units) in the first row, perhaps a column of time.

Header cells are `name`, `name (unit)` or `name [unit]`. Rate and unit that the table does not state come from the caller.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xecg.errors import ReadError
from xecg.io.readers.common import Request, check_rate, from_arrays, lead_names, per_mv
from xecg.io.readers.files import read_file, shown
from xecg.signal.recording import LogEntry, Recording

__all__ = ["Table", "parse_table", "read_csv"]

_MISSING = ("", "nan", "NaN", "NAN")
_SHORTEST = 64  # samples; below it rows and columns are not told apart by their number
_STEP_TOLERANCE = 0.01  # of a sampling step
_TRANSPOSED = "Is it transposed? A row is a sample, a column a lead."
_NAME_AND_UNIT = re.compile(r"(.*?)\s*(?:\(([^()]*)\)|\[([^\[\]]*)\])")
_TIMES = {"time": None, "t": None, "time_s": 1.0, "seconds": 1.0, "sec": 1.0, "time_ms": 1e-3, "ms": 1e-3}
_TIME_UNITS = {"s": 1.0, "sec": 1.0, "seconds": 1.0, "ms": 1e-3}
_INDEXES = frozenset(("", "index", "sample", "samples", "unnamed: 0"))


@dataclass(frozen=True, eq=False)
class Table:
    """The facts: `header` cells or None, `values` float64 (rows, columns), NaN where a cell is empty or nan."""

    header: tuple[str, ...] | None
    values: np.ndarray
    log: tuple[LogEntry, ...]


def parse_table(data: bytes, *, file: str, decimal: str = ".") -> Table:
    """Cells of a table as numbers. Raises ReadError with row and column of the first cell that is none."""
    import pyarrow as pa
    import pyarrow.csv as pc

    text, log = _text(data, file)
    first = text.split("\n", 1)[0].rstrip("\r")
    separators = ";\t" if decimal == "," else ",;\t"
    separator = max(separators, key=first.count)
    cells = [cell.strip().strip('"') for cell in first.split(separator)]
    header = None if all(_is_number(cell, decimal) for cell in cells) else tuple(cells)
    names = [f"c{index}" for index in range(len(cells))]
    try:
        table = pc.read_csv(
            io.BytesIO(text.encode()),
            read_options=pc.ReadOptions(column_names=names, skip_rows=0 if header is None else 1, use_threads=False),
            parse_options=pc.ParseOptions(delimiter=separator, ignore_empty_lines=False),
            convert_options=pc.ConvertOptions(
                column_types=dict.fromkeys(names, pa.float64()),
                null_values=list(_MISSING),
                quoted_strings_can_be_null=True,
                decimal_point=decimal,
            ),
        )
    except pa.ArrowInvalid as error:
        raise _explained(text, separator, len(cells), header is not None, decimal, file, str(error)) from None
    columns = [table.column(name).to_numpy() for name in names]
    values = np.stack(columns, axis=1) if table.num_rows else np.zeros((0, len(names)))
    return Table(header, values, tuple(log))


def _text(data: bytes, file: str) -> tuple[str, list[LogEntry]]:
    log = []
    if b"\0" in data:
        raise ReadError(file, f"byte {data.index(0)}", "NUL", "needed text")
    if data.startswith(b"\xef\xbb\xbf"):
        data = data[3:]
        log.append(LogEntry("repaired", "table", "byte-order mark removed"))
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = data.decode("latin-1")
        log.append(LogEntry("guessed", "table", "not UTF-8; read as Latin-1"))
    text = text.rstrip()
    if not text:
        raise ReadError(file, "table", f"{len(data)} bytes without a row", "the file is empty")
    return text + "\n", log


def _is_number(cell: str, decimal: str) -> bool:
    if cell in _MISSING:
        return cell != ""
    try:
        float(cell.replace(decimal, ".") if decimal == "," else cell)
    except ValueError:
        return False
    return True


def _explained(
    text: str, separator: str, width: int, has_header: bool, decimal: str, file: str, reason: str
) -> ReadError:
    """The first row or cell that keeps the table from being one of numbers."""
    lines = re.split(r"\r\n|\r|\n", text)
    for row, line in enumerate(lines[:-1], 1):
        if row == 1 and has_header:
            continue
        cells = [cell.strip().strip('"') for cell in line.split(separator)]
        commas = decimal == "." and separator == "," and width and len(cells) == 2 * width
        if commas or (decimal == "." and any(re.fullmatch(r"[+-]?\d+,\d+", cell) for cell in cells)):
            hint = "Pass decimal=',' (columns are then parted by ; or tabs)."
            return ReadError(file, f"row {row}", shown(line), "numbers are written with a point", hint)
        if len(cells) != width:
            return ReadError(file, f"row {row}", f"{len(cells)} cells", f"the first row has {width}")
        for column, cell in enumerate(cells, 1):
            if cell and not _is_number(cell, decimal):
                where = f"row {row}, column {column}"
                rule = "needed a number; an empty cell or nan is a missing sample"
                return ReadError(file, where, shown(cell), rule, _TRANSPOSED if width > len(lines) else "")
    return ReadError(file, "table", shown(reason), "needed rows of numbers")


def read_csv(path: Path, request: Request, *, source: str) -> Recording:
    """The recording in the table at `path` (links resolved)."""
    data = read_file(path, file=source, limit=request.max_decoded)
    table = parse_table(data, file=source, decimal=request.decimal)
    log = list(table.log)
    cells = [_name_and_unit(cell) for cell in table.header or ()]
    values, rate = table.values, request.rate
    if np.isinf(values).any():
        row, column = np.argwhere(np.isinf(values))[0]
        raise ReadError(
            source, f"row {row + 1 + bool(cells)}, column {column + 1}", "infinite", "needed a finite number"
        )
    rows, columns = values.shape
    if rows < _SHORTEST or rows < columns:
        rule = f"needed {_SHORTEST} rows or more, one a sample, and fewer columns, one a lead"
        raise ReadError(source, "table", f"{rows} rows × {columns} columns", rule, _TRANSPOSED)
    keep = list(range(columns))
    if cells:
        for index, (name, unit) in enumerate(cells):
            if name.lower() in _INDEXES and _counts_up(values[:, index]):
                log.append(LogEntry("dropped", "column", f"{index + 1} counts the rows"))
                keep.remove(index)
            elif name.lower() in _TIMES:
                values, rate = _timed(values, index, name, unit, request, log, source)
                keep.remove(index)
    elif request.leads is None or isinstance(request.leads, (str, dict)):
        raise ReadError(source, "header", "absent", "needed lead names in the first row", "Pass leads=[…].")
    if rate is None:
        raise ReadError(source, "sampling rate", "absent", "needed in Hz, or a column time (s)", "Pass rate=.")
    found: Sequence[str | None] = [cells[i][0] for i in keep] if cells else list(request.leads or ())
    if len(found) != len(keep):
        raise ReadError(source, "leads", f"{len(found)} names", f"the table has {len(keep)} columns")
    units = [request.unit or (cells[i][1] if cells else None) for i in keep]
    ecg = [unit is None or per_mv(unit) is not None for unit in units]
    names, named = lead_names(found, ecg, request, file=source)
    log += named
    log += [
        LogEntry("dropped", "column", f"{shown(n or '')}: unit {u}") for n, u, ok in zip(found, units, ecg) if not ok
    ]
    scales = {index: _scale(unit, name, source) for index, unit, name in zip(keep, units, names) if name is not None}
    chosen = values[:, list(scales)].T / np.array(list(scales.values()))[:, None]
    return from_arrays(chosen, rate, [n for n in names if n is not None], request, log, source=source)


def _name_and_unit(cell: str) -> tuple[str, str | None]:
    found = _NAME_AND_UNIT.fullmatch(cell)
    return (cell, None) if found is None else (found[1], (found[2] or found[3] or "").strip() or None)


def _scale(unit: str | None, name: str, source: str) -> float:
    scale = None if unit is None else per_mv(unit)
    if scale is None:
        hint = "Pass unit=, or write it as 'name (mV)' in the first row."
        raise ReadError(source, f"unit of {name}", unit or "absent", "needed mV, uV, V or nV", hint)
    return scale


def _counts_up(column: np.ndarray) -> bool:
    return bool(column[0] in (0.0, 1.0) and (np.diff(column) == 1.0).all())


def _timed(
    values: np.ndarray, index: int, name: str, unit: str | None, request: Request, log: list[LogEntry], source: str
) -> tuple[np.ndarray, float]:
    """Rows on a regular time axis, and the rate that the column of times says."""
    times = values[:, index]
    steps = np.diff(times)
    step = float(np.median(steps))
    if not np.isfinite(times).all() or not (steps > 0).all():
        row = int(np.flatnonzero(~(steps > 0))[0]) + 2 if not (steps > 0).all() else 1
        raise ReadError(source, f"column {name}", f"not ascending at row {row + 1}", "needed ascending times")
    second = _TIME_UNITS.get((unit or "").lower()) or _TIMES[name.lower()]
    if second is None and request.rate is not None:
        second = next((size for size in (1.0, 1e-3) if abs(step * size * request.rate - 1) <= _STEP_TOLERANCE), None)
    if second is None:
        rule = "its unit is not stated, and no rate= tells it"
        raise ReadError(source, f"column {name}", f"steps of {step:g}", rule, "Call it 'time (s)' or 'time (ms)'.")
    multiples = np.rint(steps / step)
    away = np.abs(steps / step - multiples)
    if (away > _STEP_TOLERANCE).any() or multiples.min() < 1:
        row = int(np.argmax(away)) + 3
        raise ReadError(
            source, f"column {name}", f"a step of {steps[row - 3]:g} at row {row}", f"the others are {step:g}"
        )
    at = np.concatenate([[0], np.cumsum(multiples)]).astype(np.int64)
    count = int(at[-1]) + 1
    rate = float(f"{(count - 1) / ((times[-1] - times[0]) * second):.6g}")  # six digits: times are written rounded
    if request.rate is not None:
        if abs(request.rate - rate) > _STEP_TOLERANCE * rate:
            raise ReadError(source, f"rate by column {name}", f"{rate:g} Hz", f"the caller says {request.rate:g} Hz")
        rate = request.rate
    check_rate(rate, file=source)
    log.append(LogEntry("noted", "rate", f"{rate:g} Hz by column {name}"))
    if count == len(values):
        return values, rate
    size = count * values.shape[1] * values.itemsize
    if size > request.max_decoded:
        raise ReadError(
            source, f"column {name}", f"{count:,} steps", f"at most {request.max_decoded:,} bytes (max_decoded)"
        )
    spread = np.full((count, values.shape[1]), np.nan)
    spread[at] = values
    log.append(LogEntry("repaired", "gaps", f"{count - len(values):,} rows missing by column {name}, masked"))
    return spread, rate
