"""Adapters by name: our own, a checkpoint folder, or a class of the user's ("module:Class")."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from benchecg.models.base import Adapter, Tokens
from xecg.errors import SpecError

__all__ = ["MODELS", "Adapter", "Tokens", "load_adapter"]

MODELS = {
    "xecg-tiny": "the shipped tiny encoder",
    "xecg-random": "the tiny architecture with random weights of another seed: the floor of the architecture",
    "rr": "RR intervals of detected beats",
    "age-sex": "age, sex and heart rate",
    "majority": "constant: the floor of the metric",
    "qrs": "the QRS detector of xecg.signal, for peaks tasks",
    "beat-75": "a peak every 0.8 s: the floor of a peaks task",
    "sleepecg": "the detector of the sleepecg package, where it is installed, for peaks tasks",
}
_SEEN = ("Georgia 12-lead", "Chapman-Shaoxing/Ningbo", "CODE-15 %", "CPSC 2021")  # parts of them, by the shipped tiny
_FORMS = "or a checkpoint folder, or module:Class for your own"


def load_adapter(name: str) -> Adapter:
    """The adapter called `name`. Raises SpecError on a name that is neither known, nor a folder, nor module:Class."""
    if name in ("rr", "age-sex", "majority"):
        from benchecg.models.baselines import Constant, Demographics, RRIntervals

        baselines: dict[str, type[Adapter]] = {"rr": RRIntervals, "age-sex": Demographics, "majority": Constant}
        return baselines[name]()
    if name in ("qrs", "beat-75", "sleepecg"):
        from benchecg.models.detectors import Detections, Metronome, SleepECG

        detectors: dict[str, type[Any]] = {"qrs": Detections, "beat-75": Metronome, "sleepecg": SleepECG}
        return detectors[name]()
    if name == "xecg-random":
        from benchecg.models.xecg import random_xecg

        return random_xecg()
    if name == "xecg-tiny" or Path(name).is_dir():
        from benchecg.models.xecg import XECGAdapter
        from xecg import load

        ours = name == "xecg-tiny"
        return XECGAdapter(load("tiny" if ours else name), id=Path(name).name, pretrained_on=_SEEN if ours else None)
    if ":" in name:
        return _users(name)
    raise SpecError(f"there is no model {name!r}; the models are {', '.join(MODELS)}, {_FORMS}")


def _users(name: str) -> Adapter:
    module, _, attribute = name.partition(":")
    try:
        adapter = getattr(import_module(module), attribute)()
    except (ImportError, AttributeError) as error:
        raise SpecError(
            f"adapter {name!r} could not be loaded: {error}; needed module:Class on the Python path"
        ) from None
    lacking = [a for a in (*Adapter.__annotations__, "features") if not hasattr(adapter, a)]
    if lacking:
        raise SpecError(
            f"adapter {name!r} has no {', '.join(lacking)}; an adapter needs all of benchecg.models.Adapter"
        )
    return adapter
