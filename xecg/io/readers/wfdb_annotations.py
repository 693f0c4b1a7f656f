"""WFDB annotation files (MIT format), bytes to marks.

Reference: WFDB Applications Guide, annot(5), physionet.org/physiotools/wag/annot-5.htm: words of 16 bits, the upper 6
a code, the lower 10 a time step; 59 SKIP, 60 NUM, 61 SUB, 62 CHN, 63 AUX; a word of 0 ends the file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xecg.errors import ReadError
from xecg.io.readers.common import Request
from xecg.io.readers.files import read_file
from xecg.signal.recording import LogEntry

__all__ = ["SYMBOLS", "Marks", "parse_annotations", "read_annotations"]

FILE_LIMIT = 1 << 30
_SKIP, _AUX = 59, 63
_AUX_LIMIT = 255
_NOTE = 22  # a comment; at time 0 it may state the time resolution

# Annotation codes 1…41 as their one-character symbols; a blank is a code without one. ecgcodes.h of the WFDB library.
_TABLE = """NLRaVFJASEj/Q~ | sT*D"=pB^t+u?![]en@xf()r"""
SYMBOLS = {code: symbol for code, symbol in enumerate(_TABLE, 1) if symbol != " "} | {0: " "}


@dataclass(frozen=True, eq=False)
class Marks:
    """`sample` int64 ascending, in units of the annotation file; resolution: those units a second, None: the record's frames."""

    sample: np.ndarray
    symbol: tuple[str, ...]
    aux: tuple[str, ...]
    resolution: float | None = None

    def at(self, rate: float) -> np.ndarray:
        """Times in frames of a record with `rate` frames a second, int64."""
        if self.resolution is None or self.resolution == rate:
            return self.sample
        return np.rint(self.sample * (rate / self.resolution)).astype(np.int64)


def read_annotations(path: Path, request: Request, *, file: str) -> tuple[Marks, list[LogEntry]]:
    """The marks of an annotation file (links resolved), and a log."""
    return parse_annotations(read_file(path, file=file, limit=FILE_LIMIT), file=file, partial=request.partial)


def parse_annotations(data: bytes, *, file: str, partial: bool = False) -> tuple[Marks, list[LogEntry]]:
    """The marks in `data`. Raises ReadError naming the byte of the first word that cannot be."""
    words = np.frombuffer(data, "<u2", len(data) // 2)
    codes, steps = words >> 10, (words & 0x3FF).astype(np.int64)
    plain = np.ones(len(words), np.bool_)  # is the word an annotation?
    texts: list[tuple[int, bytes]] = []  # (word of the AUX, its bytes)
    free, seen, end = 0, False, None

    def refuse(at: int, field: str, found: object, rule: str) -> ReadError:
        return ReadError(file, f"{field} at byte {2 * at}", found, rule)

    for at in np.flatnonzero((codes >= _SKIP) | (words == 0)).tolist():
        if at < free:  # inside the text or time of the word before
            continue
        seen = seen or at > free
        code, size = int(codes[at]), 1
        if words[at] == 0:
            end = at
            break
        if code == _SKIP:
            size = 3
            if at + size > len(words):
                plain[at:] = False
                break
            skip = int(words[at + 1]) << 16 | int(words[at + 2])
            if skip >= 1 << 31:
                raise refuse(at, "SKIP", skip - (1 << 32), "time goes backwards; needed ascending times")
        elif not seen:
            raise refuse(at, "code", code, "it belongs to an annotation, and none came before")
        elif code == _AUX:
            length = int(steps[at])
            size = 1 + (length + 1) // 2
            if length > _AUX_LIMIT:
                raise refuse(at, "AUX length", length, f"needed {_AUX_LIMIT} or less")
            if 2 * at + 2 + length > len(data):
                if not partial:
                    raise refuse(at, "AUX length", length, f"the file ends at byte {len(data)}")
                plain[at:] = False
                break
            texts.append((at, data[2 * at + 2 : 2 * at + 2 + length]))
        plain[at : at + size] = False
        steps[at : at + size] = 0
        if code == _SKIP:
            steps[at] = skip
        free = at + size
    log: list[LogEntry] = []
    if end is not None:
        plain[end:] = False
    count = int(np.count_nonzero(plain))
    if end is None:
        text = f"{len(data):,} bytes"
        if not partial:
            hint = "Pass partial=True to keep them."
            raise ReadError(file, "annotation file", text, f"no end mark after {count} annotations", hint)
        log.append(LogEntry("repaired", "annotations", f"no end mark in {text}; {count} annotations kept"))
    elif 2 * end + 2 < len(data):
        _check_tail(data, 2 * end + 2, count, log)
    owner = np.cumsum(plain) - 1
    aux = {int(owner[at]): raw for at, raw in texts}
    return _marks(np.cumsum(steps)[plain], codes[plain].tolist(), aux, log), log


def _check_tail(data: bytes, end: int, count: int, log: list[LogEntry]) -> None:
    if not count and not any(data):
        log.append(LogEntry("noted", "annotations", f"all {len(data):,} bytes are zero: no annotation"))
    else:
        log.append(LogEntry("noted", "annotations", f"{len(data) - end:,} bytes after the end mark ignored"))


_RESOLUTION = re.compile(r"## time resolution: (\d{1,9}(?:\.\d{1,9})?)")


_NAMES = tuple(SYMBOLS.get(code) or f"code:{code}" for code in range(_SKIP))


def _marks(samples: np.ndarray, codes: list[int], aux: dict[int, bytes], log: list[LogEntry]) -> Marks:
    texts = [""] * len(codes)
    latin = 0
    for index, raw in aux.items():
        raw = raw.rstrip(b"\0")
        try:
            texts[index] = raw.decode()
        except UnicodeDecodeError:
            texts[index] = raw.decode("latin-1")
            latin += 1
    if latin:
        log.append(LogEntry("guessed", "annotations", f"{latin} texts are not UTF-8; read as Latin-1"))
    symbols = [_NAMES[code] for code in codes]
    unknown = [symbol for symbol in symbols if symbol.startswith("code:")]
    if unknown:
        listed = ", ".join(sorted(set(unknown)))
        log.append(LogEntry("noted", "annotations", f"{len(unknown)} of unassigned codes kept as {listed}"))
    resolution, first = None, 0
    if codes and samples[0] == 0 and codes[0] == _NOTE and (found := _RESOLUTION.fullmatch(texts[0])):
        resolution, first = float(found[1]) or None, 1
    return Marks(samples[first:].astype(np.int64), tuple(symbols[first:]), tuple(texts[first:]), resolution)
