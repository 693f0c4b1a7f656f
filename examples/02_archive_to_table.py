"""A folder of recordings to a table, and a classifier on it: split by patient, scored on patients it has not seen.

    python examples/02_archive_to_table.py

The archive is synthetic: atrial fibrillation or not, one to three recordings a patient.
"""

import tempfile
from pathlib import Path

import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import xecg
from xecg.model.archive import embed_archive

with tempfile.TemporaryDirectory() as folder:
    labels_csv = xecg.signal.simulate.archive(Path(folder, "archive"), patients=40, seed=7)
    labels = {row["record"]: row for row in pyarrow.csv.read_csv(labels_csv).to_pylist()}
    model = xecg.load("tiny")
    print(embed_archive(Path(folder, "archive"), model, Path(folder, "table.parquet")))
    table = pq.read_table(Path(folder, "table.parquet"))

# What pyarrow, pandas or polars can read, any classifier can use: one row a recording, one vector a row.
X = np.array(table["embedding"].to_pylist())
y = np.array([labels[name]["rhythm"] == "af" for name in table["record_id"].to_pylist()])
patients = np.array([labels[name]["patient"] for name in table["record_id"].to_pylist()])
train, test = next(GroupShuffleSplit(test_size=0.4, random_state=0).split(X, y, patients))

head = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000)).fit(X[train], y[train])
auroc = roc_auc_score(y[test], head.predict_proba(X[test])[:, 1])
print(f"AF against the rest, {len(set(patients[test]))} unseen synthetic patients: AUROC {auroc:.3f}")
if not model.trained:
    print(f"model {model.name!r} is untrained: expect little more than chance")
