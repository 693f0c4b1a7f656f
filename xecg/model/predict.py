"""A head's answers for one recording: of the record, or of each of its beats, or the peaks themselves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from xecg.errors import SpecError
from xecg.model.encoder import XECG
from xecg.model.heads import Head
from xecg.signal import Recording, peaks, preprocess, qrs

__all__ = ["AAMI", "Prediction", "against", "covariates_of", "predict"]

_CHUNK = 1_024  # tokens of a block at once
_TOLERANCE_S = 0.075  # of a beat and its annotation, half of AAMI EC57's window

# Symbols of annotated beats by AAMI EC57; fusion and unclassifiable beats are "other".
AAMI = {
    **dict.fromkeys("NLRej", "N"),
    **dict.fromkeys("AaJS", "S"),
    **dict.fromkeys("VE", "V"),
    **dict.fromkeys("F/fQ", "other"),
}


@dataclass(frozen=True, eq=False)
class Prediction:
    """time_s (n,): of each answer, s from the record's start; NaN of the record as a whole. answers (n, outputs): as
    `xecg.model.head_spec` says; of peaks (n, 1), their heights."""

    time_s: np.ndarray
    answers: np.ndarray

    def labels(self, head: Head) -> list[str]:
        """The likeliest class of each answer of a multiclass or binary head."""
        spec = head.spec
        if spec.kind == "binary":
            return [spec.classes[int(p >= 0.5)] for p in self.answers[:, 0]]
        return [spec.classes[i] for i in self.answers.argmax(1)]


def covariates_of(recording: Recording, names: tuple[str, ...]) -> np.ndarray:
    """float32 (names,). Raises SpecError when the recording does not say one."""
    found = {"age": recording.meta.get("age"), "sex": {"F": 0.0, "M": 1.0}.get(str(recording.meta.get("sex")))}
    absent = [name for name in names if found[name] is None]
    if absent:
        raise SpecError(
            f"{recording.source}: {absent[0]} is not known; the head needs it. Use a head without covariates"
        )
    return np.array([found[name] for name in names], np.float32)


@torch.inference_mode()
def predict(recording: Recording, model: XECG, head: Head) -> Prediction:
    """What `head` says of the recording; of a token head with classes, at each beat that `xecg.signal.qrs` finds.

    Raises ShapeError when the recording is shorter than a token, SpecError when a covariate is not known.
    """
    spec = head.spec
    ready = preprocess(recording, model.spec)
    x, mask = (torch.as_tensor(np.asarray(a))[None] for a in (ready.x, ready.mask))
    tokens = model.encode(x, mask=mask, chunk=_CHUNK)
    if spec.of == "record":
        known = torch.from_numpy(covariates_of(recording, spec.covariates))[None] if spec.covariates else None
        answer = head.answer(head(tokens, model.valid_tokens(x, mask=mask), known))
        return Prediction(np.full(1, np.nan), answer.numpy())
    answers = head.answer(head(tokens))[0].numpy()
    step = model.spec.patch / (model.spec.rate or recording.rate)
    if spec.kind == "peaks":
        answers = answers[spec.after :]  # token t + after speaks of token t's time
        grid = step * (np.arange(len(answers) * spec.heights) + 0.5) / spec.heights
        at, height = peaks.pick(grid, answers.ravel(), theta=spec.threshold)
        return Prediction(at, height[:, None])
    beats = np.asarray(qrs.detect(recording.signal, recording.rate)) / recording.rate
    index = np.floor(beats / step).astype(int) + spec.after
    inside = index < len(answers)
    return Prediction(beats[inside], answers[index[inside]])


def against(recording: Recording, head: Head, found: Prediction) -> dict[str, object]:
    """Errors of beats or peaks against the recording's annotations; {} without annotations, or of a head of another kind.

    sensitivity and ppv of the times at ±75 ms, one to one; of classes, `se` and `ppv` of each over all annotated and found beats.
    """
    marks = recording.annotations
    if marks is None or head.spec.of != "token":
        return {}
    known = [(s / recording.rate, AAMI[c]) for s, c in zip(marks.sample.tolist(), marks.symbol) if c in AAMI]
    truth_s, truth = np.array([s for s, _ in known]), np.array([c for _, c in known])
    matches = peaks.match(truth_s, found.time_s, _TOLERANCE_S)
    line: dict[str, object] = {
        "annotated": len(truth),
        "sensitivity": round(matches.sensitivity, 4),
        "ppv": round(matches.ppv, 4),
    }
    if head.spec.kind == "multiclass":
        said = np.array(found.labels(head))
        both = [(truth[i], said[j]) for i, j in matches.pairs.tolist()]
        line["classes"] = {
            name: {
                "annotated": int((truth == name).sum()),
                "se": _share(sum(t == s == name for t, s in both), int((truth == name).sum())),
                "ppv": _share(sum(t == s == name for t, s in both), int((said == name).sum())),
            }
            for name in head.spec.classes
        }
    return line


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None
