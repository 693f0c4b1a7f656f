"""Protocols: what is trained on top of a frozen encoder, with one search budget for every model."""

from benchecg.protocols.features import Features, unit_features
from benchecg.protocols.linear_probe import C_GRID, Probe, linear_probe

__all__ = ["C_GRID", "Features", "Probe", "linear_probe", "unit_features"]
