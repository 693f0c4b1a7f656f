"""The tasks, one file each, variants of one label rule together (`TASKS`). A task exists when its line is in `_HOME`."""

from __future__ import annotations

from importlib import import_module

from benchecg.tasks.base import Task
from xecg.errors import SpecError

__all__ = ["PARTS", "SUITE", "load_task", "task_ids"]

_HOME = {
    "ptbxl-superclass": "ptbxl_superclass",
    "ptbxl-all": "ptbxl_variants",
    "ptbxl-diag": "ptbxl_variants",
    "ptbxl-subdiag": "ptbxl_variants",
    "ptbxl-form": "ptbxl_variants",
    "ptbxl-rhythm": "ptbxl_variants",
    "cpsc2018": "cpsc2018",
    "mitbih-beats": "mitbih_beats",
    "mitbih-rpeaks": "mitbih_rpeaks",
    "apnea-ecg": "apnea_ecg",
    "deepbeat-af": "deepbeat_af",
    "exercise-rpeaks": "exercise_rpeaks",
    "survival": "survival",
    "blood-tests": "blood_tests",
    "age-mimic": "age_transfer",
    "age-ptbxl": "age_transfer",
    "age-cpsc": "age_transfer",
    "open-age": "open_age",
    "open-sex": "open_sex",
    "open-survival": "open_survival",
    "demo-synthetic": "synthetic_demo",
}

# The ten tasks of the published BenchECG score, equal weights (dlaskalab/bench-xecg, benchscore.py).
SUITE = {
    "T1": "PTB-XL superclass",
    "T2": "CPSC2018 diagnoses",
    "T3": "MIT-BIH beats",
    "T4": "MIT-BIH R-peaks",
    "T5": "Sleep apnea (Apnea-ECG)",
    "T6": "PPG atrial fibrillation (DeepBeat)",
    "T7": "Exercise R-peaks",
    "T8": "Age (MIMIC-IV-ECG, PTB-XL, CPSC2018)",
    "T9": "Blood tests (MIMIC-IV)",
    "T10": "Survival (MIMIC-IV)",
}

# Tasks of which the suite counts the mean: RSMAPE on three test sets.
PARTS = {"T8": ("age-mimic", "age-ptbxl", "age-cpsc")}


def task_ids() -> tuple[str, ...]:
    """The ids of all tasks that can be run."""
    return tuple(_HOME)


def load_task(task_id: str) -> Task:
    """The task of that id. Raises SpecError naming the tasks there are."""
    if task_id not in _HOME:
        raise SpecError(f"there is no task {task_id!r}; the tasks are {', '.join(_HOME)}")
    module = import_module(f"benchecg.tasks.{_HOME[task_id]}")
    return module.TASKS[task_id] if hasattr(module, "TASKS") else module.TASK
