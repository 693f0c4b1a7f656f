"""Protocols: what is trained on top of a frozen encoder, with one search budget for every model."""

from benchecg.protocols.features import Features, RecordTokens, record_tokens, unit_features
from benchecg.protocols.few_label import SUBSETS, few_label_train
from benchecg.protocols.knn import K_GRID, knn
from benchecg.protocols.linear_probe import C_GRID, Probe, linear_probe
from benchecg.protocols.peak_head import THETA_GRID, PeakProbe, peak_probe

__all__ = [
    "C_GRID",
    "K_GRID",
    "SUBSETS",
    "THETA_GRID",
    "Features",
    "PeakProbe",
    "Probe",
    "RecordTokens",
    "few_label_train",
    "knn",
    "linear_probe",
    "peak_probe",
    "record_tokens",
    "unit_features",
]
