"""Of every task: on shuffled labels a model scores at chance, one that is handed the label scores best, and odd labels are refused.

The labels are made here in the form that each task's loader gives them, so that every task is covered, credentialed ones too; the
loaders have tests of their own. Features hold the label; of those of a shuffled one nothing is left.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchecg.metrics import statistic
from benchecg.models import Tokens
from benchecg.protocols import linear_probe, peak_probe
from benchecg.running import load_data
from benchecg.tasks import load_task, task_ids
from benchecg.tasks.base import Record, Task, TaskData
from xecg.errors import SpecError
from xecg.model.head_spec import questions

TASKS = task_ids()
N, PERMUTATIONS = 240, 199  # two sided: within the 99 % interval is all but the outermost of 200


def labels_of(task: Task, rng: np.random.Generator, n: int = N) -> np.ndarray:
    """Labels in the task's own form, every class in every part of the split."""
    c = len(task.classes)
    if task.kind in ("multiclass", "binary"):
        return rng.permutation(np.arange(n) % c)
    if task.kind == "multilabel":
        return (rng.random((n, c)) < 0.4).astype(np.int64)
    if task.kind == "panel":
        label = np.full((n, c), np.nan)
        for columns in questions(task.classes).values():
            answered = rng.random(n) < 0.8
            label[answered] = np.where(np.isin(np.arange(c), columns), 0.0, label[answered])
            label[answered, rng.choice(columns, answered.sum())] = 1.0
        return label
    if task.kind == "regression":
        return rng.uniform(20, 80, n)
    return np.stack([rng.exponential(5, n) + 0.1, (rng.random(n) < 0.7).astype(float)], 1)


def told(task: Task, label: np.ndarray) -> np.ndarray:
    """Scores of a model that is handed the label, float (n,) or (n, C)."""
    if task.kind == "multiclass":
        return 9.0 * np.eye(len(task.classes))[label.astype(int)]
    if task.kind == "survival":
        return -label[:, 0]
    return np.nan_to_num(label.astype(float))


def value(task: Task, truth: np.ndarray, score: np.ndarray) -> float:
    n = len(truth)
    stat = statistic(
        task.kind, truth=truth, score=score, valid=np.ones(n, bool), cluster=np.arange(n), classes=task.classes,
        class_sets=task.class_sets,
    )  # fmt: skip
    return float(stat.point()[task.metric])


def probed(task: Task, features: np.ndarray, label: np.ndarray, test: np.ndarray) -> np.ndarray:
    train = np.arange(N) % 4 < 2
    val = ~train & ~test
    return linear_probe(
        task, features=features, valid=np.ones(N, bool), label=label, train=train, val=val, test=test, refit=False
    ).score


UNITS = [i for i in TASKS if load_task(i).kind != "peaks"]


@pytest.mark.parametrize("task_id", UNITS)
def test_shuffled_labels_score_at_chance_and_true_ones_above_it(task_id: str) -> None:
    task = load_task(task_id)
    few = task.classes[:12]  # of a long list its beginning: the same code, less time
    if task.kind == "panel":
        few = tuple(c for c in task.classes if c.rpartition("/")[0] in list(questions(task.classes))[:4])
    task = replace(task, classes=few)
    rng = np.random.default_rng(list(task_id.encode()))
    label = labels_of(task, rng)
    x = told(task, label).reshape(N, -1)
    features = (x + 0.5 * x.std() * rng.normal(size=x.shape)).astype(np.float32)
    test = np.arange(N) % 4 == 3
    order = rng.permutation(N)
    score = probed(task, features, label[order], test)
    truth = label[order][test]
    null = np.array([value(task, truth[rng.permutation(len(truth))], score) for _ in range(PERMUTATIONS)])
    low, high = np.quantile(null, [0.005, 0.995])
    assert low <= value(task, truth, score) <= high
    learned = value(task, label[test], probed(task, features, label, test))
    assert learned > high if task.higher_is_better else learned < low


@pytest.mark.parametrize("task_id", UNITS)
def test_a_model_that_is_handed_the_label_scores_best(task_id: str) -> None:
    task = load_task(task_id)
    label = labels_of(task, np.random.default_rng(1))
    if task.kind == "survival":
        label[:, 1] = 1.0  # of censored times the label does not tell the order
    assert value(task, label, told(task, label)) == pytest.approx(1.0 if task.higher_is_better else 0.0)


def _peaks(seed: int) -> tuple[Tokens, np.ndarray]:
    rng = np.random.default_rng(seed)
    n, length_s = 160, 0.25
    start = np.arange(n) * length_s
    truth = np.cumsum(rng.uniform(0.6, 1.1, 60))
    truth = truth[truth < n * length_s]
    grid = start[:, None] + length_s * (np.arange(12) + 0.5) / 12
    near = np.abs(grid[..., None] - truth).min(-1)
    return Tokens(np.exp(-0.5 * (near / 0.03) ** 2).astype(np.float32), start, np.full(n, length_s)), truth


def _f1(task: Task, truth: dict[int, np.ndarray], found: dict[int, np.ndarray]) -> float:
    y = np.concatenate([np.r_[np.ones(len(truth[i])), np.zeros(len(found[i]))] for i in found])
    record = np.concatenate([np.full(len(truth[i]) + len(found[i]), i) for i in found])
    time_s = np.concatenate([np.r_[truth[i], found[i]] for i in found])
    stat = statistic(
        "peaks", truth=y, score=y * 0, valid=y == 0, cluster=record, classes=task.classes, record=record, time_s=time_s
    )
    return float(stat.point()[task.metric])


@pytest.mark.parametrize("task_id", [i for i in TASKS if load_task(i).kind == "peaks"])
def test_peaks_of_another_record_score_at_chance_and_the_true_ones_best(task_id: str) -> None:
    task, rng = load_task(task_id), np.random.default_rng(0)
    made = {i: _peaks(i) for i in range(12)}
    tokens = {i: t for i, (t, _) in made.items()}
    truth = {i: s for i, (_, s) in made.items()}
    split = {"train": [0, 1, 2, 3], "val": [4, 5], "test": list(range(6, 12))}

    def turned(shift: np.ndarray) -> dict[int, np.ndarray]:
        return {i: np.sort((s + shift[i]) % 40.0) for i, s in truth.items()}

    shuffled = turned(rng.uniform(0, 40, 12))
    found = {i: at for i, (at, _) in peak_probe(tokens, shuffled, **split).found.items()}
    null = [_f1(task, turned(rng.uniform(0, 40, 12)), found) for _ in range(PERMUTATIONS)]
    low, high = np.quantile(null, [0.005, 0.995])
    assert low <= _f1(task, shuffled, found) <= high
    learned = {i: at for i, (at, _) in peak_probe(tokens, truth, **split).found.items()}
    assert _f1(task, truth, learned) > high
    assert _f1(task, truth, {i: truth[i] for i in split["test"]}) == 1.0


def data_of(task: Task, label: np.ndarray) -> TaskData:
    n = len(label)
    records = tuple(Record(str(i), str(i), "train", Path("none.csv")) for i in range(n))
    return TaskData(records, np.arange(n), np.arange(n, dtype=float), label, True, ())


@pytest.mark.parametrize("task_id", TASKS)
def test_labels_of_a_tasks_kind_fit_and_others_are_told(task_id: str) -> None:
    task, rng = load_task(task_id), np.random.default_rng(0)
    n = 12
    label = np.ones(n, int) if task.kind == "peaks" else labels_of(task, rng, n)
    fitting = data_of(task, label)
    assert task.misfit(fitting) is None
    assert task.misfit(replace(fitting, label=label[:, None])) is not None  # another shape
    if task.kind == "peaks":
        assert "time_s is not finite" in str(task.misfit(replace(fitting, time_s=np.full(n, np.nan))))
        return
    odd = label.astype(float).copy()
    odd.reshape(-1)[0] = {"regression": np.nan, "survival": -1.0}.get(task.kind, 7.0 + len(task.classes))
    assert task.misfit(replace(fitting, label=odd)) is not None
    if task.kind == "survival":
        event = label.copy()
        event[3, 1] = 0.5
        assert "for an event" in str(task.misfit(replace(fitting, label=event)))
    if task.kind == "panel":
        columns = next(iter(questions(task.classes).values()))
        for answer in (np.nan, 1.0):
            wrong = label.copy()
            wrong[0, columns] = 0.0
            wrong[0, columns[0]] = answer
            if answer == 1.0:
                wrong[0, columns] = 1.0
            assert "no one answer" in str(task.misfit(replace(fitting, label=wrong)))


def test_a_loader_whose_labels_do_not_fit_is_refused(small_code15: Path) -> None:
    task = load_task("open-age")
    broken = replace(task, load=lambda root: replace(task.load(root), label=np.full(200, np.nan)))
    with pytest.raises(SpecError, match="not finite"):
        load_data(broken, small_code15)
