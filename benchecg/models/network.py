"""Any torch network as an adapter: recordings are preprocessed, cut into windows, encoded in batches, and its tokens get their times.

Every convolutional or attention model here is this class around a module; what differs is the input contract.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from benchecg.models.base import Tokens
from xecg.errors import ShapeError
from xecg.signal import Recording, SignalSpec

__all__ = ["Contract", "NetworkAdapter", "fingerprint_of", "seeded", "weights_of"]

_BATCH = 16  # windows encoded at once: bounds memory, changes no value


@dataclass(frozen=True)
class Contract:
    """What a network takes and what its tokens mean.

    spec: preprocessing. window: samples (at spec.rate) of one input. fixed: a shorter recording is padded with zeros to the window;
    else to whole tokens. token: samples of one token; None: the window in equal parts, as many as the network gives. first:
    sample that the first token is centred on; None: the middle of a token.
    """

    spec: SignalSpec
    window: int
    fixed: bool = True
    token: int | None = None
    first: float | None = None


@dataclass(frozen=True)
class _Window:
    """A cut of recording number `owner`, from sample `start`; `valid` samples of it are signal, `done` of them were answered before."""

    owner: int
    start: int
    valid: int
    done: int


class NetworkAdapter:
    """network: float32 (B, leads, samples) → (B, tokens, D), or (B, D) for one token a window. See `Contract`.

    A recording is cut into windows end to end; the last one is moved back to end with the recording, and of it only what no window
    before it covers is kept. Padding makes no tokens.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        id: str,
        contract: Contract,
        about: str,
        trained: bool | None = False,
        pretrained_on: tuple[str, ...] | None = (),
        fingerprint: str | None = None,
    ) -> None:
        self._network = network.eval()
        self.contract = contract
        self.id = id
        self._named = fingerprint
        self.spec_hash = contract.spec.hash
        self.trained = trained
        self.about = about
        self.pretrained_on = pretrained_on

    @property
    def fingerprint(self) -> str:
        """Of the weights and the contract as they are now, after the name that was given, if any."""
        now = fingerprint_of(self._network, self.contract)
        return now if self._named is None else f"{self._named}-{now[:8]}"

    @property
    def spec(self) -> SignalSpec:
        """The preprocessing that the network expects."""
        return self.contract.spec

    def module(self) -> nn.Module:
        """The network itself, for training: preprocessed (B, leads, samples) → tokens (B, T, D)."""
        return self._network

    def features(self, recordings: Sequence[Recording]) -> list[Tokens]:
        """Tokens of each recording; windows of one length are encoded together. Raises ShapeError on a network's wrong output."""
        from xecg import preprocess

        x = [np.asarray(preprocess(r, self.spec).x, np.float32) for r in recordings]
        windows = [w for i, signal in enumerate(x) for w in self._cuts(i, signal.shape[-1])]
        values = self._encode([self._input(x[w.owner], w) for w in windows])
        mine: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in recordings]
        for window, value in zip(windows, values):
            mine[window.owner].append(self._timed(value, window))
        return [self._joined(parts, r) for parts, r in zip(mine, recordings)]

    def _cuts(self, owner: int, n: int) -> list[_Window]:
        size = self.contract.window
        if n <= size:
            return [_Window(owner, 0, n, 0)]
        whole = [_Window(owner, start, size, 0) for start in range(0, n - size + 1, size)]
        rest = n % size
        return whole if not rest else [*whole, _Window(owner, n - size, size, size - rest)]

    def _input(self, signal: np.ndarray, window: _Window) -> np.ndarray:
        part = signal[:, window.start : window.start + window.valid]
        token = self.contract.token or 1
        size = self.contract.window if self.contract.fixed else -(-window.valid // token) * token
        return np.pad(part, ((0, 0), (0, size - part.shape[1]))) if size > part.shape[1] else part

    def _encode(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        same: dict[int, list[int]] = {}
        for i, one in enumerate(inputs):
            same.setdefault(one.shape[-1], []).append(i)
        values: dict[int, np.ndarray] = {}
        for members in same.values():
            for first in range(0, len(members), _BATCH):
                batch = members[first : first + _BATCH]
                for i, value in zip(batch, self._forward(np.stack([inputs[i] for i in batch]))):
                    values[i] = value
        return [values[i] for i in range(len(inputs))]

    def _forward(self, x: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            found = self._network(torch.from_numpy(x))
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        if not isinstance(found, Tensor) or found.ndim not in (2, 3) or len(found) != len(x):
            raise ShapeError(
                f"the network of {self.id} gave {shape} for {len(x)} windows; needed ({len(x)}, tokens, D) or ({len(x)}, D)"
            )
        return (found[:, None] if found.ndim == 2 else found).float().numpy()

    def _timed(self, values: np.ndarray, window: _Window) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of a window that say something new, and their edges in samples of the recording, (n,) and (n, 2)."""
        c, count = self.contract, len(values)
        token = c.window / count if c.token is None else c.token
        first = token / 2 if c.first is None else c.first
        edges = np.clip(first - token / 2 + token * np.arange(count + 1), 0, window.valid)
        edges[[0, -1]] = 0, window.valid
        spans = np.stack([np.maximum(edges[:-1], window.done), edges[1:]], 1)
        kept = spans[:, 1] > spans[:, 0]
        return values[kept], window.start + spans[kept]

    def _joined(self, parts: list[tuple[np.ndarray, np.ndarray]], recording: Recording) -> Tokens:
        spans = np.concatenate([s for _, s in parts]) / (self.spec.rate or recording.rate)
        return Tokens(np.concatenate([v for v, _ in parts]), start_s=spans[:, 0], length_s=spans[:, 1] - spans[:, 0])


def fingerprint_of(network: nn.Module, contract: Contract) -> str:
    """16 hex digits that name weights and input contract."""
    takes = repr((contract.spec.hash, contract.window, contract.fixed, contract.token, contract.first))
    return hashlib.sha256(f"{takes}\n{weights_of(network)}".encode()).hexdigest()[:16]


def weights_of(network: nn.Module) -> str:
    """SHA-256 of all parameters and buffers, those too that no checkpoint keeps."""
    digest = hashlib.sha256()
    for name, value in sorted([*network.named_parameters(), *network.named_buffers()]):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """`with seeded(7):` random initial weights from that seed; torch's own generator is put back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
