"""The proof's own rules: folds by patient, a probe that learns and does not peek, an audit that finds what is there."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.proof.audit import audit
from bench.proof.probe import CS, folds_of, logistic, ridge
from tests.pretrain.test_corpus import write


def test_folds_keep_patients_whole_and_have_a_hash_of_their_own() -> None:
    patients = [f"p{i % 13}" for i in range(100)]
    fold, digest = folds_of("a", patients)
    assert len({(p, f) for p, f in zip(patients, fold.tolist())}) == 13 and set(fold.tolist()) == set(range(5))
    again, same = folds_of("a", patients[::-1])
    assert np.array_equal(again[::-1], fold) and same == digest
    assert folds_of("b", patients)[1] != digest


def test_the_probe_finds_classes_and_nothing_in_noise() -> None:
    rng = np.random.default_rng(0)
    label, fold = rng.integers(0, 3, 1500), np.arange(1500) % 5
    x = rng.normal(size=(1500, 6)).astype(np.float32)
    noise, _, converged = logistic(x, label, fold, 5)
    assert converged and abs((noise.argmax(1) == label).mean() - 1 / 3) < 0.08
    x[np.arange(1500), label] += 4
    score, chosen, _ = logistic(x, label, fold, 5)
    assert (score.argmax(1) == label).mean() > 0.9 and len(chosen) == 5 and set(chosen) <= set(CS)


def test_no_fold_is_predicted_by_a_head_that_saw_it() -> None:
    rng = np.random.default_rng(1)
    fold = np.arange(500) % 5
    x = np.eye(5)[fold].astype(np.float32) + 0.01 * rng.normal(size=(500, 5)).astype(np.float32)
    value = fold.astype(float)
    assert np.abs(ridge(x, value, fold) - value).mean() > 0.3  # a fold's own column taught nothing
    score, _, _ = logistic(x, fold, fold, 5, thin=1)
    assert (score.argmax(1) == fold).mean() == 0


def test_the_audit_finds_a_copy_and_only_that(tmp_path: Path) -> None:
    write(tmp_path / "train", "a", seed=1)
    write(tmp_path / "train", "b", seed=2)
    write(tmp_path / "bench", "renamed", seed=1)
    write(tmp_path / "clean", "c", seed=3)
    found = audit(tmp_path, ("train",), ("bench", "clean"))
    counts = {row["benchmark"]: (row["equal"], row["near_duplicates"]) for row in found["rows"]}
    assert counts == {"bench": (1, 1), "clean": (0, 0)} and found["clean"] is False
    assert audit(tmp_path, ("train",), ("clean",))["clean"] is True
