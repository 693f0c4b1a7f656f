"""Profiles: `corrected` is the benchmark; `authors` does what the published scripts do where they differ, defect by defect.

A profile is data: how it does a task, and how it scores a table of predictions. A run has one, its result says which, and results of
two profiles are shown side by side but never in one figure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchecg.predictions import Predictions
from benchecg.reference import VARIANTS, reference_metrics
from benchecg.stats import Difference, Estimate, estimate, paired_difference
from benchecg.tasks import load_task
from benchecg.tasks.base import Task
from xecg.errors import SpecError

__all__ = ["DEFECTS", "PROFILES", "Defect", "Profile", "profile_of", "task_in"]


@dataclass(frozen=True)
class Defect:
    """what: the published scripts do. instead: what is done here. reproduced: by the authors profile, or why not."""

    what: str
    instead: str
    reproduced: str = "yes"


_ONE_MODEL = "no: it concerns adapters of single models that are not here"
_ABSENT = "no: nothing here has it"

DEFECTS = {
    "D01": Defect("beat F1 is averaged over batches, absent classes count 0", "pooled over beats"),
    "D02": Defect("411 PTB-XL records without a superclass stay as negatives", "left out"),
    "D03": Defect("PTB-XL subclass labels are superclass names", "the subclasses"),
    "D04": Defect("the CPSC class list is made of the labels of each split", "nine fixed classes"),
    "D05": Defect("CODE-15 % is split by record, without a seed", "by patient, by hash"),
    "D06": Defect("PTB-XL records without an age are kept with age 0", "left out"),
    "D07": Defect("signed time differences pick the laboratory value farthest after the ECG", "the nearest"),
    "D08": Defect("Apnea-ECG validation records follow the order of a Python set", "subjects by hash"),
    "D09": Defect("a sigmoid on the Cox risk, ties ignored, a batch as risk set", "Efron ties, whole training set"),
    "D10": Defect("beats are labelled by patch, the last sample of a tile is lost", "every annotated beat once"),
    "D11": Defect(
        "many peaks near one true peak are one hit; false ones in empty tiles are lost", "one to one, whole records"
    ),
    "D12": Defect("true peaks are rounded to the model's samples", "times in seconds"),
    "D13": Defect("peak checkpoints by sample-exact F1, no picking", "F1 at ±75 ms, strict picking"),
    "D14": Defect("apnea minutes of short-window models are votes of thresholded windows", "the mean", _ONE_MODEL),
    "D15": Defect(
        "the blood-test metric is the mean of its running values, absent classes count 0", "one pooled value"
    ),
    "D16": Defect("AUROC of probabilities in half precision, sigmoid by batch", "ranks of float32 logits"),
    "D17": Defect("one pooled vector gives 5,000 peak logits for ECGFounder", "tokens in time", _ONE_MODEL),
    "D18": Defect("every model has its own window", "the same seconds for all", _ONE_MODEL),
    "D19": Defect("without its logger the last epoch is tested", "the best on validation"),
    "D20": Defect("no seeds", "seeds 0 to 4", "no: the authors profile fixes the seeds, too"),
    "D21": Defect("one metric object for three test sets", "one task for each set", _ABSENT),
    "D22": Defect("validation of overlapping windows of training patients", "by patient", _ABSENT),
    "D23": Defect("data sets shrink silently where files are absent", "counted, marked as a subset", _ABSENT),
    "D24": Defect("misspelt settings are ignored", "refused", _ABSENT),
    "D25": Defect("the suite's mean is taken over the tasks that are there", "refused unless all ten ran"),
    "D26": Defect("ecgfm names ECGFounder", "ids say what a model is", _ABSENT),
    "D27": Defect("a lead mask hides one time step", "masks are (leads, samples)", _ABSENT),
    "D28": Defect("ST-MEM is standardised before its filters", "an option of its signal spec", _ONE_MODEL),
    "D29": Defect("records 201 and 202 of one subject are in training and test", "201 is dropped"),
}


@dataclass(frozen=True)
class Profile:
    """task: a task as the profile does it, raises SpecError where it has none. estimates: metrics of a table by name.

    subgroups: whether its results have the table of subgroups. difference: of two tables' headline metric.
    """

    name: str
    task: Callable[[Task], Task]
    estimates: Callable[[Predictions], dict[str, Estimate]]
    subgroups: bool
    difference: Callable[[Predictions, Predictions], Difference]


def _authors_task(task: Task) -> Task:
    if task.id not in VARIANTS:
        raise SpecError(f"no published script does {task.id}; the authors profile has {', '.join(VARIANTS)}")
    return VARIANTS[task.id](task)


def _jackknifed(p: Predictions) -> dict[str, Estimate]:
    return estimate(p.statistic(), seed=p.facts.seed)


def _points(p: Predictions) -> dict[str, Estimate]:
    return {
        name: Estimate(None if np.isnan(value) else float(value), None, None)
        for name, value in reference_metrics(p).items()
    }


def _paired(a: Predictions, b: Predictions) -> Difference:
    f = a.facts
    return paired_difference(a.statistic(), b.statistic(), f.metric, seed=f.seed)


def _pointwise(a: Predictions, b: Predictions) -> Difference:
    value = reference_metrics(a)[a.facts.metric] - reference_metrics(b)[a.facts.metric]
    return Difference(None if np.isnan(value) else float(value), None, None, None)


PROFILES = {
    "corrected": Profile("corrected", lambda task: task, _jackknifed, True, _paired),
    "authors": Profile("authors", _authors_task, _points, False, _pointwise),
}


def profile_of(name: str) -> Profile:
    """The profile of that name. Raises SpecError."""
    if name not in PROFILES:
        raise SpecError(f"there is no profile {name!r}; the profiles are {', '.join(PROFILES)}")
    return PROFILES[name]


def task_in(profile: str, task_id: str) -> Task:
    """A task as a profile does it. Raises SpecError on an unknown name, or where the profile does not have the task."""
    return profile_of(profile).task(load_task(task_id))
