"""`python -m bench.proof --data DIR --json FILE tiny=FOLDER tiny-causal=FOLDER`: the proof table. Counts and scores only."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from sklearn.metrics import f1_score, r2_score, roc_auc_score

from bench.proof import data as source
from bench.proof.probe import folds_of, logistic, ridge
from benchecg.metrics import statistic
from benchecg.metrics.statistic import Statistic
from benchecg.stats import estimate
from benchecg.tasks import mitbih_beats, open_age, open_sex
from benchecg.tasks.base import TaskData
from xecg import XECG, XECGConfig, load, read
from xecg.io.atomic import replacing, write_json
from xecg.model.config import SIGNAL_PRESET
from xecg.pretrain import synthetic
from xecg.signal import PRESETS

SEEDS = (101, 102, 103, 104, 105)
_METRIC = "macro_f1_3"
_SOURCE_RECORDS = 300


@click.command()
@click.argument("weights", nargs=-1)
@click.option("--data", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--cache", required=True, type=click.Path(path_type=Path), help="Folder for scores, so that a run goes on."
)
@click.option("--json", "out", type=click.Path(path_type=Path))
@click.option("--only-beats", is_flag=True)
def main(weights: tuple[str, ...], data: Path, cache: Path, out: Path | None, only_beats: bool) -> None:
    """Compare each NAME=FOLDER (NAME alone: only what stands beside it) with random weights and classical features."""
    beats = mitbih_beats.TASK.load(data)
    fold, digest = folds_of("mit-bih-5", [beats.records[i].patient for i in beats.record])
    run = _Beats(beats, fold, cache)
    rows: dict[str, Any] = {}
    baselines = {"rr": run.of("rr", lambda: source.beat_features(beats, source.classical)[:, :8]),
                 "rr+waves": run.of("rr+waves", lambda: source.beat_features(beats, source.classical))}  # fmt: skip
    for name in ("rr", "rr+waves"):
        rows[name] = run.summary(name)
        click.echo(f"{name}: {rows[name]}")
    for text in weights:
        name, _, folder = text.partition("=")
        floor = [run.of(f"{name}-random-{seed}", _RandomBeats(beats, name, seed)) for seed in SEEDS]
        rows[f"{name} random"] = [run.summary(f"{name}-random-{s}")["macro_f1"] for s in SEEDS]
        click.echo(f"{name} random: {rows[f'{name} random']}")
        if not folder:
            continue
        model = load(folder)
        key = f"{name}-{model.fingerprint}"
        mine = run.of(key, lambda model=model: source.beat_features(beats, source.encoder(model)))
        rows[name] = run.summary(key) | {"fingerprint": model.fingerprint}
        rows[name] |= {"minus_random": _difference(mine, floor)}
        rows[name] |= {f"minus_{b}": _difference(mine, [stat]) for b, stat in baselines.items()}
        if not only_beats:
            for prefix, each in (("", model), ("random_", _random(name, SEEDS[0]))):
                others = _kept(cache / f"others-{each.fingerprint}.json", partial(_others, data, beats, each))
                rows[name] |= {prefix + key: value for key, value in others.items()}
        click.echo(f"{name}: {rows[name]}")
    if out is not None:
        about = {"folds": "5 by patient, 44 records, 43 patients", "folds_sha256": digest, "beats": len(fold)}
        write_json(
            out, {**about, "counts": mitbih_beats.TASK.counts(beats, "train", "val", "test", "dropped"), "rows": rows}
        )


def _random(name: str, seed: int) -> XECG:
    return XECG(XECGConfig.preset(name), spec=PRESETS[SIGNAL_PRESET[name]], seed=seed, name=f"{name} random").eval()


class _RandomBeats:
    """Beat features by random weights, when called."""

    def __init__(self, data: TaskData, name: str, seed: int) -> None:
        self._data, self._name, self._seed = data, name, seed

    def __call__(self) -> np.ndarray:
        return source.beat_features(self._data, source.encoder(_random(self._name, self._seed)))


class _Beats:
    """Cross-validated scores of the beats by one set of features after another, kept in a folder."""

    def __init__(self, data: TaskData, fold: np.ndarray, cache: Path) -> None:
        self._data, self._fold, self._cache = data, fold, cache
        self._task = replace(mitbih_beats.TASK, metric=_METRIC)
        self._stats: dict[str, tuple[Statistic, list[float], bool]] = {}

    def of(self, key: str, features: Any) -> Statistic:
        path = self._cache / f"{key}.npz"
        if not path.exists():
            score, chosen, converged = logistic(features(), self._data.label, self._fold, len(self._task.classes))
            self._cache.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary, temporary.open("wb") as handle:
                np.savez(handle, found=score.argmax(1).astype(np.int8), c=chosen, converged=converged)
        with np.load(path) as kept:
            found, chosen, converged = kept["found"].astype(int), kept["c"].tolist(), bool(kept["converged"])
        score = np.eye(len(self._task.classes))[found]
        stat = statistic(
            self._task.kind, truth=self._data.label, score=score, valid=np.ones(len(score), bool),
            cluster=self._data.clusters(), classes=self._task.classes, class_sets=self._task.class_sets,
        )  # fmt: skip
        self._stats[key] = stat, chosen, converged
        return stat

    def summary(self, key: str) -> dict[str, Any]:
        stat, chosen, converged = self._stats[key]
        point = stat.point()
        found = estimate(stat)[_METRIC]
        f1 = {name: point[f"f1/{name}"] for name in self._task.classes}
        per_class = {name: round(v, 4) if np.isfinite(v) else None for name, v in f1.items()}
        return {
            "macro_f1": found.value, "interval": [found.low, found.high], "f1": per_class,
            "c": chosen, "converged": converged,
        }  # fmt: skip


def _difference(mine: Statistic, others: list[Statistic]) -> dict[str, Any]:
    """Macro F1 minus the mean of the others', the same patients left out of all."""
    column = mine.names.index(_METRIC)

    def values(weights: np.ndarray) -> np.ndarray:
        theirs = np.mean([o.values(weights)[:, column] for o in others], 0)
        return (mine.values(weights)[:, column] - theirs)[:, None]

    found = estimate(Statistic((_METRIC,), mine.n_clusters, values, {_METRIC: "any"}))[_METRIC]
    return {"value": found.value, "interval": [found.low, found.high]}


def _kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    if not path.exists():
        write_json(path, make())
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _others(root: Path, beats: TaskData, model: XECG) -> dict[str, Any]:
    return {
        "simulated_beats": _simulated_beats(model),
        "exams": _exams(root, model),
        "heart_rate": _heart_rate(root, beats, model),
    }


def _simulated_beats(model: XECG) -> dict[str, Any]:
    """Macro F1 over N, S, V in simulated records of another seed, by folds of records: what choices may be made by."""
    found, label, record = [], [], []
    for index in range(_SOURCE_RECORDS):
        made = synthetic.record(seed=1, index=index)
        assert made.annotations is not None
        start, rows = source.encoder(model)(made)
        at = np.searchsorted(start, made.annotations.sample / made.rate, side="right") - 1
        found.append(rows[np.clip(at, 0, len(rows) - 1)])
        label += [synthetic.kind_of(symbol) for symbol in made.annotations.symbol]
        record += [index] * len(at)
    truth, fold = np.array(label), np.array(record) % 5
    score, _, _ = logistic(np.concatenate(found), truth, fold, len(synthetic.KINDS), thin=1)
    f1 = f1_score(truth, score.argmax(1), labels=[0, 1, 2], average=None, zero_division=0)
    return {"macro_f1": float(f1.mean()), "f1": dict(zip("NSV", f1.round(4).tolist())), "records": _SOURCE_RECORDS}


def _exams(root: Path, model: XECG) -> dict[str, Any]:
    """Sex and age of the CODE-15 %-style exams: recordings that the pretraining saw, without these labels."""
    out: dict[str, Any] = {"note": "seen unlabelled"}
    for name, task in (("sex_auroc", open_sex.TASK), ("age_mae_years", open_age.TASK)):
        data = task.load(root)
        x = source.pooled(model, [read(r.path) for r in data.records])
        fold, out["folds_sha256"] = folds_of("code-15-5", [r.patient for r in data.records])
        if name == "age_mae_years":
            guess = ridge(x, data.label, fold)
            out[name], out["age_mae_of_mean"] = (
                float(np.abs(guess - data.label).mean()),
                float(np.abs(data.label - data.label.mean()).mean()),
            )
        else:
            score = logistic(x, data.label.astype(int), fold, 2, thin=1)[0]
            out[name] = float(roc_auc_score(data.label, score[:, 1]))
        out["exams"] = len(data.label)
    return out


def _heart_rate(root: Path, beats: TaskData, model: XECG) -> dict[str, Any]:
    """R² of a ridge regression on pooled tokens: inside simulated records by folds, from them to real ones as it is."""
    made = source.simulated(2000)
    truth, x = source.heart_rates(made), source.pooled(model, made)
    fold = np.arange(len(made)) % 5
    out: dict[str, Any] = {"simulated_r2": float(r2_score(truth, ridge(x, truth, fold))), "simulated": len(made)}
    for name, recordings in source.real_windows(root, beats).items():
        rate = source.heart_rates([r if name == "mit-bih" else r.with_(annotations=None) for r in recordings])
        known = np.isfinite(rate)
        features = source.pooled(model, [r for r, ok in zip(recordings, known) if ok])
        both, target = np.concatenate([x, features]), np.r_[truth, rate[known]]
        moved = ridge(both, target, np.r_[np.ones(len(x)), np.zeros(len(features))])[len(x) :]
        within = ridge(features, rate[known], np.arange(len(features)) * 5 // len(features))
        out[name] = {
            "records": int(known.sum()), "r2_from_simulated": float(r2_score(rate[known], moved)),
            "r2_within": float(r2_score(rate[known], within)),
            "truth": "annotated beats" if name == "mit-bih" else "the project's detector",
        }  # fmt: skip
    return out


if __name__ == "__main__":
    main()
