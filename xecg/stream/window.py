"""`WindowStream`: live tokens of any weights, also of those that look ahead, from windows that are encoded anew at every hop.

A window is a recording of its own: it goes through the offline front end and `encode`, and of its tokens those of the hop are kept,
which have the context before them and the look-ahead after them. They differ from the tokens of the whole record, because filters,
z-score and recurrences see less signal; `measure_parity` says by how much.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import torch

from xecg.errors import StreamError
from xecg.signal import ECGFrontend, ModelInput, canonical_leads, preprocess
from xecg.stream.beats import Beats
from xecg.stream.events import DETECTOR, Event, Token
from xecg.stream.heads import LiveHeads

if TYPE_CHECKING:
    from xecg.model import XECG, Head
    from xecg.signal import Recording

__all__ = ["Parity", "WindowStream", "measure_parity"]

_GRID = 8  # a window begins where a token begins on a whole input sample, if one of so many tokens does
_CHUNK_TOKENS = 1024  # longer windows go through the blocks in pieces
_LONGEST_S = 86_400.0
_PUSH_S = 60.0


class WindowStream:
    """One live patient through windows. Research use only, not a medical device.

    model: any `XECG`. rate: Hz of the samples. leads: their names, in row order. context_s, look_ahead_s (≥ 0): signal before and after
    the tokens that a window gives, in seconds; hop_s (> 0): signal that a window gives tokens for, and the time between two windows.
    Each is rounded up to whole tokens, and the attributes of these names hold what is kept. id: of tokens and events. beats: run the
    classical detector, as in `Stream`; its beats owe nothing to the windows. heads: name → head of tokens, as in `Stream`; an event
    tells that a label begins.

    Until enough signal has come, the context is what there is; where tokens do not begin on whole samples it is up to seven tokens
    longer, and windows begin half a sample off at worst at rates that are no multiple of an eighth of the tokens'. The same samples
    give the same bits, however they were cut into pushes. Memory: one window.
    Raises StreamError for a duration out of range, SpecError for leads or rates that the model's spec cannot take, or heads that do not
    fit.
    """

    def __init__(
        self,
        model: XECG,
        rate: float,
        leads: Sequence[str],
        *,
        context_s: float,
        hop_s: float,
        look_ahead_s: float,
        id: str = "window",
        beats: bool = True,
        heads: Mapping[str, Head] | None = None,
    ) -> None:
        for name, value in (("context_s", context_s), ("hop_s", hop_s), ("look_ahead_s", look_ahead_s)):
            if not 0 <= value <= _LONGEST_S or (name == "hop_s" and value == 0):
                least = "more than 0" if name == "hop_s" else "at least 0"
                raise StreamError(f"{name} is {value!r}; needed {least} and at most {_LONGEST_S:,.0f} s")
        self.model, self.rate, self.leads, self.id = model, float(rate), tuple(leads), id
        self._frontend = ECGFrontend(model.spec, in_rate=rate, leads=leads)
        self._heads = LiveHeads(heads or {}, width=model.config.dim, fingerprint=model.fingerprint if heads else "")
        token_s = model.spec.patch / self._frontend.out_rate
        self._context, self._hop, self._ahead = (_ceil(s / token_s) for s in (context_s, hop_s, look_ahead_s))
        self._hop = max(self._hop, 1)
        self.context_s, self.hop_s, self.look_ahead_s = (n * token_s for n in (self._context, self._hop, self._ahead))
        exact = Fraction(token_s * self.rate)
        near = exact.limit_denominator(_GRID)
        on_grid = abs(near - exact) <= 1e-9 * exact
        self._stride = near if on_grid else exact  # input samples a token
        self._align = near.denominator if on_grid else 1
        longest = self._context + self._hop + self._ahead + self._align
        self._wait = np.zeros((len(self.leads), math.ceil(longest * self._stride) + 1), np.float32)
        self.position = 0  # absolute index of the next sample
        names = canonical_leads(self.leads)
        self._lead = names.index("II") if "II" in names else 0
        self._with_beats = beats
        self._fill, self._from, self._until = (
            0,
            0,
            0,
        )  # samples that wait; of `_base`, where they begin and the window ends
        self._restart()

    @property
    def latency_s(self) -> float:
        """Seconds of signal from a sample to the token that covers it, at worst and to a sample: hop, look-ahead and the delay of the
        front end where it is causal. The time that a window takes to compute and the length of a push come on top."""
        return self.hop_s + self.look_ahead_s + self._frontend.delay_s

    @property
    def buffer_bytes(self) -> int:
        """Bytes of signal kept; they do not grow."""
        return self._wait.nbytes

    def push(self, samples: np.ndarray) -> list[Token | Event]:
        """Add samples (leads, n), float mV, not-a-number where one is missing, and get what is now decided: tokens, beats
        and labels, in time order.

        Raises StreamError for a wrong shape or type, before anything is changed.
        """
        x = np.asarray(samples)
        if x.ndim != 2 or len(x) != len(self.leads) or not np.issubdtype(x.dtype, np.floating):
            raise StreamError(f"samples are {x.dtype} {x.shape}; needed float mV ({len(self.leads)}, n): {self.leads}")
        out: list[Token | Event] = [] if self._beats is None else self._told(self._beats.push(x[self._lead]))
        at = 0
        while at < x.shape[1]:
            take = min(x.shape[1] - at, self._until - self._from - self._fill)
            self._wait[:, self._fill : self._fill + take] = x[:, at : at + take]
            at, self._fill, self.position = at + take, self._fill + take, self.position + take
            if self._from + self._fill == self._until:
                out += self._window(self._token + self._hop)
                self._aim(self._token + self._hop)
        return sorted(out, key=lambda item: item.start)

    def flush(self) -> list[Token | Event]:
        """What still waits, with what look-ahead there is, as at a record's end; then the stream begins anew at the sample it had
        reached, without context."""
        out: list[Token | Event] = [] if self._beats is None else self._told(self._beats.flush())
        last = self._frontend.output_length(self.position - self._base) // self.model.spec.patch
        if last > self._token:
            out += self._window(last)
        self._restart()
        return sorted(out, key=lambda item: item.start)

    def _restart(self) -> None:
        self._base, self._fill, self._from = self.position, 0, 0
        self._on = np.zeros(len(self._heads), bool)  # labels of the last token
        self._beats = Beats(self.rate, math.ceil(self.rate), origin=self.position) if self._with_beats else None
        self._aim(0)

    def _told(self, beats: list[int]) -> list[Token | Event]:
        return [Event(self.id, "beat", at, 0, DETECTOR) for at in beats]

    def _aim(self, token: int) -> None:
        """The next window gives tokens from this one on: where it begins and ends, and what is kept for it. Tokens and samples count
        from `_base`."""
        self._token = token
        self._first = max(0, token - self._context) // self._align * self._align
        begin = math.floor(self._first * self._stride)
        drop = begin - self._from
        if drop:
            self._wait[:, : self._fill - drop] = self._wait[:, drop : self._fill].copy()
        self._fill, self._from = self._fill - drop, begin
        self._until = math.ceil((token + self._hop + self._ahead) * self._stride)

    def _window(self, stop: int) -> list[Token | Event]:
        """Tokens from the next one to `stop`, of the window of all samples that wait, each before the labels that begin with it."""
        skip = self._token - self._first
        vectors, valid = _encode(self.model, self._frontend.apply(self._wait[:, : self._fill].copy()))
        edges = [self._sample(token) for token in range(self._token, stop + 1)]
        out: list[Token | Event] = []
        for n in range(stop - self._token):
            vector, seen, start = vectors[skip + n].copy(), bool(valid[skip + n]), edges[n]
            out.append(Token(self.id, self._token + n, start, edges[n + 1], vector, seen))
            if len(self._heads):
                out += self._labels(vector, seen, start, edges[n + 1] - start)
        return out

    def _labels(self, vector: np.ndarray, seen: bool, start: int, samples: int) -> list[Event]:
        """An event for each label that begins with this token; a token without samples ends all."""
        scores = self._heads.probabilities(torch.from_numpy(vector)[None])[0]
        now = (scores >= self._heads.thresholds) & seen
        begun = np.flatnonzero(now & ~self._on).tolist()
        self._on = now
        told = [(*self._heads.labels[k], float(scores[k])) for k in begun]
        return [Event(self.id, label, start, samples, by, score) for by, label, score in told]

    def _sample(self, token: int) -> int:
        """Absolute input sample at which a token begins: as in `Stream`, less the resampler's delay."""
        return self._base + max(0, round(token * self._stride - Fraction(self._frontend.fir_delay_s * self.rate)))


@dataclass(frozen=True)
class Parity:
    """Tokens of windows against those of the whole record in one piece. Cosines: median and worst. largest_relative: largest length of
    a difference over the length of the offline token. tokens: compared, of signal that is there; latency_s: `WindowStream.latency_s`.
    """

    tokens: int
    median_cosine: float
    worst_cosine: float
    largest_relative: float
    latency_s: float


def measure_parity(model: XECG, recording: Recording, *, context_s: float, hop_s: float, look_ahead_s: float) -> Parity:
    """How far the tokens of a `WindowStream` are from those of the same record offline, start and end included.

    Equality is not promised; the figures hold for this model, record and setting. Raises StreamError for a record without a valid
    token, and as `WindowStream`.
    """
    stream = WindowStream(
        model,
        recording.rate,
        recording.leads,
        context_s=context_s,
        hop_s=hop_s,
        look_ahead_s=look_ahead_s,
        beats=False,
    )
    offline, valid = _encode(model, preprocess(recording, model.spec))
    cosines: list[float] = []
    relative: list[float] = []
    step, n = max(1, round(_PUSH_S * recording.rate)), recording.signal.shape[1]
    for start in range(0, n + step, step):  # the last turn flushes
        part = slice(start, start + step)
        samples = np.where(recording.mask[:, part], recording.signal[:, part], np.float32(np.nan))
        for token in stream.push(samples) if start < n else stream.flush():
            if isinstance(token, Token) and token.valid and token.index < len(valid) and valid[token.index]:
                ours, theirs = token.embedding.astype(np.float64), offline[token.index].astype(np.float64)
                length = max(float(np.linalg.norm(theirs)), 1e-30)
                cosines.append(float(ours @ theirs) / max(float(np.linalg.norm(ours)) * length, 1e-30))
                relative.append(float(np.linalg.norm(ours - theirs)) / length)
    if not cosines:
        raise StreamError(
            f"recording of {recording.duration_s:g} s has no token to compare; needed one patch of valid samples"
        )
    return Parity(len(cosines), float(np.median(cosines)), min(cosines), max(relative), stream.latency_s)


def _encode(model: XECG, ready: ModelInput) -> tuple[np.ndarray, np.ndarray]:
    """Tokens float32 (T, D) of one record, 0 where nothing is valid, and which have a valid sample, bool (T,)."""
    size = model.spec.patch
    count = ready.x.shape[-1] // size
    valid = np.asarray(ready.mask[:, : count * size].reshape(len(ready.mask), count, size).any((0, 2)))
    if not valid.any():
        return np.zeros((count, model.config.dim), np.float32), valid
    device = next(model.parameters()).device
    x, mask = (torch.from_numpy(np.ascontiguousarray(a))[None].to(device) for a in ready)
    with torch.inference_mode():
        return model.encode(x, mask=mask, chunk=_CHUNK_TOKENS)[0].float().cpu().numpy(), valid


def _ceil(tokens: float) -> int:
    """Whole tokens, up; a duration that is whole but for rounding stays."""
    return math.ceil(tokens - 1e-9)
