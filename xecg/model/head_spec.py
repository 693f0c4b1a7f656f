"""What a head answers. No torch here: a benchmark's tables know the kinds too.

kind          outputs                         answer
multiclass    one a class                     probabilities that sum to 1
multilabel    one a label                     a probability each
panel         one a class of each question    probabilities that sum to 1 within a question; classes are "question/class"
binary        one                             probability of `classes[1]`
regression    one                             the number, in `unit`
survival      one                             log hazard relative to the training set's mean
peaks         heights along a token           a curve, from which `xecg.signal.peaks.pick` takes peaks at `threshold`
"""

from __future__ import annotations

from dataclasses import dataclass

from xecg.errors import SpecError

__all__ = ["KINDS", "HeadSpec", "questions"]

KINDS = ("multiclass", "multilabel", "panel", "binary", "regression", "survival", "peaks")
_MANY = 10_000
_CLASSES = {  # kind → least and most
    "multiclass": (2, _MANY),
    "multilabel": (1, _MANY),
    "panel": (2, _MANY),
    "binary": (2, 2),
    "regression": (0, 0),
    "survival": (0, 0),
    "peaks": (1, 1),
}


@dataclass(frozen=True)
class HeadSpec:
    """What a head answers.

    kind: see the module's text. classes: labels of the outputs; of "binary" the two of them, of "regression" and "survival" none,
    of "peaks" the one event. of: "record" (the tokens are pooled) or "token" (each is answered). pooling: "mean" or "max".
    covariates: of the recording, beside the pooled tokens: "age" (years), "sex" (F 0, M 1). unit: of a regression. heights:
    outputs of "peaks" a token. threshold: of "peaks". after: how many tokens past the one that holds an instant are read: a causal
    encoder knows a beat's shape only then. encoder, fingerprint: of the encoder that the tokens come from. Raises SpecError.
    """

    kind: str
    classes: tuple[str, ...] = ()
    of: str = "record"
    pooling: str = "mean"
    covariates: tuple[str, ...] = ()
    unit: str = ""
    heights: int = 0
    threshold: float = 0.5
    after: int = 0
    encoder: str = ""
    fingerprint: str = ""

    def __post_init__(self) -> None:
        for name, allowed in (("kind", KINDS), ("of", ("record", "token")), ("pooling", ("mean", "max"))):
            if getattr(self, name) not in allowed:
                raise SpecError(f"head {name} is {getattr(self, name)!r}; needed one of {', '.join(allowed)}")
        least, most = _CLASSES[self.kind]
        if not least <= len(self.classes) <= most or len(set(self.classes)) < len(self.classes):
            needed = f"{least}" if least == most else f"{least} or more"
            raise SpecError(f"head classes are {self.classes!r}; a {self.kind} head needs {needed}, none twice")
        if self.kind == "panel" and not all("/" in name for name in self.classes):
            raise SpecError(f"head classes are {self.classes!r}; those of a panel are written question/class")
        if (self.kind == "peaks") != (self.heights > 0) or (self.kind == "peaks" and self.of != "token"):
            raise SpecError(
                f"head heights is {self.heights}, of {self.of!r}; a peaks head needs heights, of 'token', others none"
            )
        if set(self.covariates) - {"age", "sex"}:
            raise SpecError(f"head covariates are {self.covariates!r}; needed some of age, sex")
        if self.covariates and self.of == "token":
            raise SpecError("head covariates are of a record; a head of tokens has none")

    @property
    def outputs(self) -> int:
        """How many numbers the linear map gives."""
        if self.kind in ("binary", "regression", "survival"):
            return 1
        return self.heights if self.kind == "peaks" else len(self.classes)


def questions(classes: tuple[str, ...]) -> dict[str, list[int]]:
    """Question of a panel → its outputs, from class names "question/class"."""
    found: dict[str, list[int]] = {}
    for i, name in enumerate(classes):
        found.setdefault(name.rpartition("/")[0], []).append(i)
    return found
