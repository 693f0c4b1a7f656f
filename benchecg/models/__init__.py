"""Adapters by name: our own, a checkpoint folder, or a class of the user's ("module:Class")."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from benchecg.models.base import Adapter, Tokens
from xecg.errors import SpecError

__all__ = ["CHECKPOINTS", "MODELS", "Adapter", "Tokens", "load_adapter"]

MODELS = {
    "xecg-tiny": "the shipped tiny encoder",
    "xecg-random": "the tiny architecture with random weights of another seed: the floor of the architecture",
    "xlstm": "a small xLSTM with random weights, to be trained on the task",
    "xresnet1d101": "a residual network with random weights, to be trained on the task",
    "waves": "age, sex, RR intervals and sizes of the waves of detected beats",
    "rr": "RR intervals of detected beats",
    "age-sex": "age, sex and heart rate",
    "majority": "constant: the floor of the metric",
    "qrs": "the QRS detector of xecg.signal, for peaks tasks",
    "beat-75": "a peak every 0.8 s: the floor of a peaks task",
    "sleepecg": "the detector of the sleepecg package, where it is installed, for peaks tasks",
}
CHECKPOINTS = {
    "ecgfounder": "ECGFounder, 12 leads: 12_lead_ECGFounder.pth of huggingface.co/PKUDigitalHealth/ECGFounder",
    "ecgfounder-1": "ECGFounder, lead I: 1_lead_ECGFounder.pth of the same place",
    "ecg-jepa": "ECG-JEPA: multiblock_epoch100.pth of github.com/sehunfromdaegu/ECG_JEPA",
}
_HOME = {
    "xecg-tiny": "xecg:shipped_xecg",
    "xecg-random": "xecg:random_xecg",
    "xlstm": "xecg:supervised_xlstm",
    "xresnet1d101": "xresnet:xresnet1d",
    "waves": "waves:Waves",
    "rr": "baselines:RRIntervals",
    "age-sex": "baselines:Demographics",
    "majority": "baselines:Constant",
    "qrs": "detectors:Detections",
    "beat-75": "detectors:Metronome",
    "sleepecg": "detectors:SleepECG",
    "ecgfounder": "founder:ecgfounder",
    "ecgfounder-1": "founder:ecgfounder_one_lead",
    "ecg-jepa": "jepa:ecg_jepa",
}
_WRAPPED = ("st-mem", "ecg-cpc", "ecg-fm")
_FORMS = "a checkpoint folder, NAME=FILE for a downloaded checkpoint, or module:Class for your own"


def load_adapter(name: str) -> Adapter:
    """The adapter called `name`: one of `MODELS`, one of `CHECKPOINTS` as NAME=FILE, a checkpoint folder, or module:Class.

    Raises SpecError on any other name, CheckpointError on a file that is not that model's.
    """
    if name in MODELS:
        return _ours(name)()
    kind, equals, file = name.partition("=")
    if kind in CHECKPOINTS:
        if not equals:
            raise SpecError(f"{kind} needs its weights: download them ({CHECKPOINTS[kind]}) and say {kind}=FILE")
        return _ours(kind)(file)
    if Path(name).is_dir():
        from benchecg.models.xecg import XECGAdapter
        from xecg import load

        return XECGAdapter(load(name), id=Path(name).name)
    if name in _WRAPPED:
        raise SpecError(
            f"the licence of {name} lets nobody ship or rewrite it here; wrap your own checkout: a class of five lines, which "
            "docs/MODELS.md shows, then module:Class as the model's name"
        )
    if ":" in name:
        return _users(name)
    raise SpecError(
        f"there is no model {name!r}; the models are {', '.join(MODELS)}, {', '.join(f'{c}=FILE' for c in CHECKPOINTS)}; or {_FORMS}"
    )


def _ours(name: str) -> Any:
    module, _, attribute = _HOME[name].partition(":")
    return getattr(import_module(f"benchecg.models.{module}"), attribute)


def _users(name: str) -> Adapter:
    module, _, attribute = name.partition(":")
    try:
        made_by = getattr(import_module(module), attribute)
        if not isinstance(made_by, type):
            raise AttributeError(f"{attribute} of {module} is no class")
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise SpecError(
            f"adapter {name!r} could not be loaded: {error}; needed module:Class on the Python path: mine:Model for class Model "
            "of a mine.py in this folder, with PYTHONPATH=. before the command"
        ) from None
    adapter = made_by()
    lacking = [a for a in (*Adapter.__annotations__, "fingerprint", "features") if not hasattr(adapter, a)]
    if lacking:
        raise SpecError(
            f"adapter {name!r} has no {', '.join(lacking)}; an adapter needs all of benchecg.models.Adapter"
        )
    return adapter
