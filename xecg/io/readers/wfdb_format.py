"""The sample formats of WFDB: how many bytes hold n samples, and bytes to integers.

Reference: WFDB Applications Guide, signal(5), physionet.org/physiotools/wag/signal-5.htm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Buffer = bytes | memoryview

__all__ = ["FORMATS", "Format", "bytes_for", "decode", "samples_in", "wrapped_sums"]


@dataclass(frozen=True)
class Format:
    """`block` samples lie in `size` bytes; `tail[k]` bytes hold the first k samples of a block.

    bits: width of a sample. invalid: the code of a missing sample, None where the format has none.
    """

    block: int
    size: int
    tail: tuple[int, ...]
    bits: int
    invalid: int | None
    flac: bool = False


FORMATS = {
    8: Format(1, 1, (0,), 16, None),  # differences of 8 bits; the sum may be wider
    16: Format(1, 2, (0,), 16, -(1 << 15)),
    24: Format(1, 3, (0,), 24, -(1 << 23)),
    32: Format(1, 4, (0,), 32, -(1 << 31)),
    61: Format(1, 2, (0,), 16, -(1 << 15)),
    80: Format(1, 1, (0,), 8, -(1 << 7)),
    160: Format(1, 2, (0,), 16, -(1 << 15)),
    212: Format(2, 3, (0, 2), 12, -(1 << 11)),
    310: Format(3, 4, (0, 2, 4), 10, -(1 << 9)),
    311: Format(3, 4, (0, 2, 3), 10, -(1 << 9)),
    508: Format(1, 1, (0,), 8, -(1 << 7), flac=True),
    516: Format(1, 2, (0,), 16, -(1 << 15), flac=True),
    524: Format(1, 3, (0,), 24, -(1 << 23), flac=True),
}


def bytes_for(code: int, samples: int) -> int:
    """Bytes that the first `samples` samples of an uncompressed file take."""
    form = FORMATS[code]
    blocks, rest = divmod(samples, form.block)
    return blocks * form.size + form.tail[rest]


def samples_in(code: int, size: int) -> int:
    """Whole samples in `size` bytes of an uncompressed file."""
    form = FORMATS[code]
    blocks, rest = divmod(size, form.size)
    return blocks * form.block + max(k for k, needed in enumerate(form.tail) if needed <= rest)


def decode(code: int, data: Buffer, samples: int, *, width: int = 1) -> np.ndarray:
    """The first `samples` samples in `data`, which starts at a block: int16, int32 for 24 and 32 bits.

    Shape (samples / width, width), any order in memory. Format 8 gives the differences (int8); the caller adds them up.
    """
    if code == 212 and width == 2 and samples % 2 == 0:
        return _pairs_212(data, samples // 2)
    return _DECODERS[code](data, samples).reshape(-1, width)


def _format_8(data: Buffer, samples: int) -> np.ndarray:
    return np.frombuffer(data, np.int8, samples)


def _format_16(data: Buffer, samples: int) -> np.ndarray:
    return np.frombuffer(data, "<i2", samples)


def _format_24(data: Buffer, samples: int) -> np.ndarray:
    raw = np.frombuffer(data, np.uint8, 3 * samples).reshape(-1, 3)
    wide = np.zeros((samples, 4), np.uint8)
    wide[:, 1:] = raw
    return wide.reshape(-1).view("<i4") >> 8  # an arithmetic shift brings the sign down


def _format_32(data: Buffer, samples: int) -> np.ndarray:
    return np.frombuffer(data, "<i4", samples)


def _format_61(data: Buffer, samples: int) -> np.ndarray:
    return np.frombuffer(data, ">i2", samples).astype(np.int16)


def _format_80(data: Buffer, samples: int) -> np.ndarray:
    return np.frombuffer(data, np.uint8, samples).astype(np.int16) - np.int16(128)


def _format_160(data: Buffer, samples: int) -> np.ndarray:
    return (np.frombuffer(data, "<u2", samples) ^ np.uint16(0x8000)).view(np.int16)


def _pairs_212(data: Buffer, pairs: int) -> np.ndarray:
    """Pair by pair: (pairs, 2) int16, each column contiguous (two leads need no more than that).

    A pair is three bytes: the first sample is byte 0 and the low half of byte 1, the second the high half of byte 1
    above byte 2. Shifted to the top of 16 bits, then down again with the sign. An odd last sample has two bytes.
    """
    if len(data) < 3 * pairs:
        data = bytes(data) + b"\0"
    low = np.ndarray((pairs,), "<u2", data, 0, (3,))
    high = np.ndarray((pairs,), "<u2", data, 1, (3,))
    out = np.empty((2, pairs), np.uint16)
    np.left_shift(low, 4, out=out[0])
    middle = high >> 4
    np.bitwise_or(middle << 12, middle, out=out[1])
    counts = out.view(np.int16)
    counts >>= 4
    return counts.T


def _format_212(data: Buffer, samples: int) -> np.ndarray:
    return _pairs_212(data, (samples + 1) // 2).reshape(-1)[:samples]


def _words(data: Buffer, samples: int) -> np.ndarray:
    blocks = -(-samples // 3)
    padded = bytes(data[: 4 * blocks]).ljust(4 * blocks, b"\0")
    return np.frombuffer(padded, "<u4")


def _signed10(parts: tuple[np.ndarray, ...], samples: int) -> np.ndarray:
    out = np.stack(parts, axis=1).astype(np.uint16) << 6
    return (out.view(np.int16) >> 6).reshape(-1)[:samples]


def _format_310(data: Buffer, samples: int) -> np.ndarray:
    w = _words(data, samples)
    third = (w >> 11) & 0x1F | (w >> 22) & 0x3E0  # five bits from the top of each half
    return _signed10(((w >> 1) & 0x3FF, (w >> 17) & 0x3FF, third), samples)


def _format_311(data: Buffer, samples: int) -> np.ndarray:
    w = _words(data, samples)
    return _signed10((w & 0x3FF, (w >> 10) & 0x3FF, (w >> 20) & 0x3FF), samples)


_DECODERS = {
    8: _format_8,
    16: _format_16,
    24: _format_24,
    32: _format_32,
    61: _format_61,
    80: _format_80,
    160: _format_160,
    212: _format_212,
    310: _format_310,
    311: _format_311,
}

_FOLD = 100  # rows folded into one before summing: adding up two columns row by row is three times the decoding


def wrapped_sums(frames: np.ndarray) -> np.ndarray:
    """The sum of each column modulo 65,536: (frames, width) int16 or int32 to (width,) uint16."""
    count, width = frames.shape
    kind = np.uint16 if frames.dtype.itemsize == 2 else np.uint32
    if frames.flags.f_contiguous:
        return frames.T.view(kind).sum(1, dtype=kind).astype(np.uint16)
    unsigned = np.ascontiguousarray(frames).view(kind)
    whole = count // _FOLD * _FOLD
    folded = unsigned[:whole].reshape(-1, _FOLD * width).sum(0, dtype=kind).reshape(_FOLD, width)
    total = folded.sum(0, dtype=np.uint64) + unsigned[whole:].sum(0, dtype=np.uint64)
    return total.astype(np.uint16)
