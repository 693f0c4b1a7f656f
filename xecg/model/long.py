"""Long records through the encoder: direction by direction, piece by piece, tokens kept in place in memory or in a file.

Blocks that run the same way share one sweep over a record. A forward sweep hands the state on from the first piece to the last, a
reverse sweep from the last to the first, and pieces are counted from the end that the sweep starts at: with pieces of a multiple of
`ALIGNED` tokens the recurrent kernels cut time where they cut it in one call. Records of any lengths go through a sweep side by side,
because the steps of one record come one after another and only a batch fills the machine; who is at its end leaves the batch.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Callable, Sequence
from itertools import count, groupby
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from xecg.model.blocks import MLSTMBlock, SLSTMBlock

__all__ = ["ALIGNED", "Track", "piece_tokens", "spilled", "sweep"]

ALIGNED = 64  # tokens: the chunk of the mLSTM kernels
_PIECE = (
    2048  # tokens of a batch of pieces: enough for the matrix products, and some 0.2 GB in the widest block of `base`
)


class Track(NamedTuple):
    """A record on its way. read(first, last): its embedded patches, (last − first, D). steps: how many there are.
    tokens (≥ steps, D): where they are kept, and the result."""

    read: Callable[[int, int], Tensor]
    steps: int
    tokens: Tensor


def piece_tokens(records: int) -> int:
    """Tokens a piece, where so many records go side by side: a multiple of `ALIGNED`."""
    return max(ALIGNED, _PIECE // max(records, 1) // ALIGNED * ALIGNED)


def sweep(blocks: Sequence[MLSTMBlock | SLSTMBlock], tracks: Sequence[Track], size: int) -> None:
    """Fill the tokens of every track with the output of the last block; pieces have `size` tokens."""
    fresh = True
    for reverse, group in groupby(blocks, key=lambda block: block.reverse):
        _one_way(list(group), [track for track in tracks if track.steps], size, reverse=reverse, fresh=fresh)
        fresh = False


def _one_way(
    blocks: list[MLSTMBlock | SLSTMBlock], live: list[Track], size: int, *, reverse: bool, fresh: bool
) -> None:
    states = [block.initial_state(len(live)) for block in blocks]
    device = blocks[0].norm.weight.device
    for done in count(0, size):
        stay = [n for n, track in enumerate(live) if track.steps > done]
        if not stay:
            return
        if len(stay) < len(live):
            live = [live[n] for n in stay]
            states = [{name: t[torch.tensor(stay, device=device)] for name, t in state.items()} for state in states]
        spans = [_span(track.steps, done, size, reverse) for track in live]
        pieces = [t.read(*span) if fresh else t.tokens[slice(*span)].to(device) for t, span in zip(live, spans)]
        counts = [len(piece) for piece in pieces]
        lengths = None if len(set(counts)) == 1 else torch.tensor(counts, device=device)
        y = pad_sequence(pieces, batch_first=True)  # a copy: the tokens are overwritten below
        for n, block in enumerate(blocks):
            y, states[n] = block.resume(y, states[n], lengths=lengths)
        for row, track, span in zip(y, live, spans):
            track.tokens[slice(*span)] = row[: span[1] - span[0]].to(track.tokens.dtype)


def _span(steps: int, done: int, size: int, reverse: bool) -> tuple[int, int]:
    """First and last token of the piece that comes after `done` tokens of a sweep."""
    return (max(0, steps - done - size), steps - done) if reverse else (done, min(steps, done + size))


def spilled(folder: str | os.PathLike[str], shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor in a new file of `folder`. The file has no name, so it goes with the tensor, whatever ends the process.

    Raises OSError where the folder has no room: the space is taken at once.
    """
    size = prod(shape) * dtype.itemsize
    if size == 0:
        return torch.empty(shape, dtype=dtype)
    with tempfile.TemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, size)
        return torch.frombuffer(mmap.mmap(file.fileno(), size), dtype=dtype).view(shape)
