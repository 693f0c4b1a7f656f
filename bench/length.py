"""How long a context is useful: `python -m bench length --data DIR --json FILE`.

The beats of MIT-BIH in the classes N, S, V by one linear probe on frozen tokens, DS1 → DS2 as the task mitbih-beats pins it, for
contexts of 10 s, 1 min, 10 min and the whole half hour: each context is preprocessed and encoded as a recording of its own, as
`xecg embed --window` does. A causal model's beat is read a token later, when it has been seen whole, unless its context ends there.
Beside the scores: how large tokens and recurrent states are after each of these times of a whole record.
Every fourth training beat teaches, and every validation and test beat counts. Results hold counts, scores and norms, never samples.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from bench.harness import commit, machine
from benchecg.metrics import statistic
from benchecg.metrics.statistic import Statistic
from benchecg.models.xecg import XECGAdapter
from benchecg.protocols.linear_probe import linear_probe
from benchecg.stats import estimate, paired_difference
from benchecg.tasks import mitbih_beats
from benchecg.tasks.base import TaskData, split_hash
from xecg import XECG, read
from xecg.model.archive_records import cut
from xecg.signal import Recording, preprocess

__all__ = ["CONTEXTS", "MODELS", "beat_features", "evaluate", "norms", "useful"]

CONTEXTS: dict[str, float | None] = {"10 s": 10.0, "1 min": 60.0, "10 min": 600.0, "record": None}
MODELS = ("tiny", "tiny-causal")
_METRIC = "macro_f1_3"
_THIN = 4
_SPLITS = ("train", "val", "test")


def evaluate(data: TaskData, models: Sequence[XECG]) -> dict[str, Any]:
    """Scores of every model and context, and norms, as plain JSON types. The first context is what the others are compared with."""
    began = time.process_time()
    features = {(model.name, context): [] for model in models for context in CONTEXTS}  # type: ignore[var-annotated]
    sizes: dict[str, list[dict[str, Any]]] = {model.name: [] for model in models}
    for i, record in enumerate(data.records):
        recording, beats_s = read(record.path).with_(annotations=None), data.time_s[data.record == i]
        for model in models:
            for context, context_s in CONTEXTS.items():
                unused = record.split not in _SPLITS
                features[model.name, context].append(
                    np.zeros((len(beats_s), model.config.dim), np.float32)
                    if unused
                    else beat_features(model, recording, beats_s, context_s)
                )
            if record.split == "test":
                sizes[model.name].append(norms(model, recording))
    rows: list[dict[str, Any]] = []
    for model in models:
        first: Statistic | None = None
        for context in CONTEXTS:
            row, stat = _score(data, np.concatenate(features[model.name, context]))
            first = first or stat
            d = paired_difference(stat, first, _METRIC)
            against = {"value": d.value, "interval": [d.low, d.high], "p": d.p}
            rows.append({"model": model.name, "fingerprint": model.fingerprint, "context": context, **row})
            rows[-1]["minus_first"] = None if stat is first else against
    return {
        "rows": rows,
        "useful": {model.name: useful([row for row in rows if row["model"] == model.name]) for model in models},
        "norms": {name: _mean(found) for name, found in sizes.items()},
        "beats": {split: int(data.in_split(split).sum()) for split in _SPLITS},
        "taught_by": int((data.in_split("train") & _thin(data)).sum()) + int(data.in_split("val").sum()),
        "split_sha256": split_hash(data.records),
        "cpu_s": round(time.process_time() - began, 1),
        "machine": machine(),
        "torch": torch.__version__,
        "commit": commit(),
    }


def useful(rows: Sequence[dict[str, Any]]) -> str:
    """The longest of the contexts, which stand in ascending order, up to which no score is below that of the shortest."""
    longest: str = rows[0]["context"]
    for row in rows[1:]:
        if row["macro_f1"] < rows[0]["macro_f1"]:
            break
        longest = row["context"]
    return longest


def beat_features(model: XECG, recording: Recording, beats_s: np.ndarray, context_s: float | None) -> np.ndarray:
    """float32 (beats, D): of the context that holds each R peak, the token that does (of a causal model the next one)."""
    adapter = XECGAdapter(model, id="length")
    late = model.spec.patch / (model.spec.rate or recording.rate) * model.config.causal
    starts, windows = zip(*cut(recording, context_s))
    inside = np.searchsorted(starts, beats_s, side="right") - 1
    out = np.zeros((len(beats_s), model.config.dim), np.float32)
    used = np.unique(inside)
    for n, tokens in zip(used, adapter.features([windows[n] for n in used])):
        beats = inside == n
        at = np.searchsorted(tokens.start_s, beats_s[beats] - starts[n] + late, side="right") - 1
        out[beats] = tokens.values[np.clip(at, 0, len(tokens.values) - 1)]
    return out


def _thin(data: TaskData) -> np.ndarray:
    return np.arange(len(data.record)) % _THIN == 0


def _score(data: TaskData, x: np.ndarray) -> tuple[dict[str, Any], Statistic]:
    task = replace(mitbih_beats.TASK, metric=_METRIC)
    train, val, test = (data.in_split(split) for split in _SPLITS)
    probe = linear_probe(
        task, features=x, valid=np.ones(len(x), bool), label=data.label, train=train & _thin(data), val=val, test=test
    )
    _, cluster = np.unique(data.clusters()[test], return_inverse=True)
    stat = statistic(
        task.kind, truth=data.label[test], score=probe.score, valid=np.ones(int(test.sum()), bool), cluster=cluster,
        classes=task.classes, class_sets=task.class_sets,
    )  # fmt: skip
    found = estimate(stat)
    row = {
        "macro_f1": found[_METRIC].value,
        "interval": [found[_METRIC].low, found[_METRIC].high],
        "f1": {name: found[f"f1/{name}"].value for name in task.class_sets[_METRIC]},
        "c": probe.c,
        "validation": probe.validation[f"{probe.c:g}"],
        "converged": probe.converged,
    }
    return row, stat


@torch.inference_mode()
def norms(model: XECG, recording: Recording) -> dict[str, Any]:
    """Root mean square of the tokens in the last 10 s before each time, and of the state of every block after it.

    A block that runs backward in time is asked after as much signal, counted from the end.
    """
    ready, token_s = preprocess(recording, model.spec), model.spec.patch / (model.spec.rate or recording.rate)
    total = ready.x.shape[-1] // model.spec.patch
    ends = [total if s is None else min(total, round(s / token_s)) for s in CONTEXTS.values()]
    last = max(1, round(min(s for s in CONTEXTS.values() if s is not None) / token_s))
    x = torch.from_numpy(np.where(ready.mask, ready.x, 0)[None, :, : total * model.spec.patch])
    y = model.patch(x)
    states: dict[str, dict[str, dict[str, float]]] = {}
    blocks: list[Any] = list(model.blocks)
    for number, block in enumerate(blocks):
        state, parts, done = block.initial_state(1), [], 0
        name = f"{number} {model.config.blocks[number]} {'backward' if block.reverse else 'forward'}"
        states[name] = {key: {} for key in state if key != "conv"}
        for context, end in zip(CONTEXTS, ends):
            if end > done:
                span = slice(total - end, total - done) if block.reverse else slice(done, end)
                part, state = block.resume(y[:, span], state)
                parts.append(part)
                done = end
            for key, of_time in states[name].items():
                of_time[context] = _rms(state[key])
        y = torch.cat(parts[::-1] if block.reverse else parts, 1)
    return {"tokens": {c: _rms(y[:, max(0, end - last) : end]) for c, end in zip(CONTEXTS, ends)}, "states": states}


def _rms(x: torch.Tensor) -> float:
    return float(x.double().pow(2).mean().sqrt())


def _mean(found: Sequence[Any]) -> Any:
    """Means of numbers, leaf by leaf."""
    if isinstance(found[0], dict):
        return {key: _mean([each[key] for each in found]) for key in found[0]}
    return float(np.mean(found))
