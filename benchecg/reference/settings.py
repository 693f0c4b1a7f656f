"""Published settings of each task, read from the configuration files of github.com/dlaskalab/bench-xecg; defaults where none is set.

batch, epochs, patience: of the task (the batch is that of the published xECG run where it differs from the task's own). The rest is of
the fine-tuning of xECG. Settings of the published linear probe are kept beside them for the reader: the probe here is fitted to its
optimum instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchecg.protocols.finetune import Plan

__all__ = ["SETTINGS", "Published", "published_plan"]


@dataclass(frozen=True)
class Published:
    """Settings of one task. probe_decay: weight decay of the published linear probe, whose rate is 1e-3 everywhere. class_weights:
    n / (classes · units of the class) in the loss, which is the scripts' default; their probe of beats turns it off."""

    epochs: int
    batch: int
    patience: int
    lr_head: float = 1e-3
    lr_core: float = 1e-5
    decay: float = 0.75
    weight_decay: float = 0.01
    drop_path: float = 0.5
    probe_decay: float = 0.1
    class_weights: bool = False


SETTINGS = {
    "ptbxl-superclass": Published(30, 256, 8, lr_core=3e-5, weight_decay=0.1, class_weights=True),
    "ptbxl-subdiag": Published(30, 256, 8, lr_core=3e-5, weight_decay=0.1, class_weights=True),
    "cpsc2018": Published(30, 256, 10, class_weights=True),
    "mitbih-beats": Published(20, 64, 30, class_weights=True),
    "mitbih-rpeaks": Published(30, 64, 30, lr_core=1e-3, weight_decay=0.0),
    "apnea-ecg": Published(20, 128, 30),
    "deepbeat-af": Published(30, 512, 10),
    "exercise-rpeaks": Published(30, 8, 15),
    "age-mimic": Published(30, 512, 10, lr_head=1e-2, lr_core=3e-5, weight_decay=0.1, drop_path=0.2),
    "age-ptbxl": Published(30, 512, 10, lr_head=1e-2, lr_core=3e-5, weight_decay=0.1, drop_path=0.2),
    "age-cpsc": Published(30, 512, 10, lr_head=1e-2, lr_core=3e-5, weight_decay=0.1, drop_path=0.2),
    "blood-tests": Published(20, 512, 5, probe_decay=0.01),
    "survival": Published(30, 512, 10, probe_decay=0.01),
}


def published_plan(task_id: str, *, seeds: int = 5) -> Plan:
    """The one published setting, no search, and the last epoch, which is what the scripts test without their logger (D19)."""
    from benchecg.protocols.finetune import Plan
    from benchecg.protocols.tuning import Recipe

    s = SETTINGS[task_id]
    recipe = Recipe(
        s.lr_core, s.decay, lr_head=s.lr_head, weight_decay=s.weight_decay, drop_path=s.drop_path, epochs=s.epochs,
        patience=s.patience, batch=s.batch, keep="last", class_weights=s.class_weights,
    )  # fmt: skip
    return Plan((recipe,), seeds=seeds)
