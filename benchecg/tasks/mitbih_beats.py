"""T3: beats of the MIT-BIH Arrhythmia Database in five AAMI classes, trained on DS1, tested on DS2 (de Chazal et al. 2004).

The unit is the annotated beat, scored once, by the token that holds its R sample, pooled over DS2. The reference benchmark's
code averages F1 over batches and counts absent classes as 0, so published numbers of it are not comparable with these.
"""

from __future__ import annotations

from benchecg.tasks import _mitdb
from benchecg.tasks.base import Task

__all__ = ["TASK"]

TASK = Task(
    id="mitbih-beats",
    version="1",
    title="MIT-BIH beats, five AAMI classes",
    dataset=_mitdb.DATASET,
    kind="multiclass",
    classes=_mitdb.CLASSES,
    class_sets={"macro_f1_4": ("N", "S", "V", "F"), "macro_f1_3": ("N", "S", "V")},
    metric="macro_f1",
    load=_mitdb.load,
    unit="annotated beat",
    leads="2 (MLII and a chest lead; in 114 MLII is the second channel)",
    rate_hz=_mitdb.RATE_HZ,
    split_rule=_mitdb.SPLIT_RULE,
    label_rule="N = N L R e j; S = A a J S; V = V E; F = F; Q = / f Q; other marks are not beats",
    suite="T3",
    full_records=44,
    expected=_mitdb.EXPECTED,
    split_sha256=_mitdb.SPLIT_SHA256,
    records_per_call=1,
)
