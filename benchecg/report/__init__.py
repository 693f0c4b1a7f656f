"""The page that a reviewer reads."""

from benchecg.report.calibration import Calibration, calibration
from benchecg.report.html import render
from benchecg.report.tables import latex, markdown

__all__ = ["Calibration", "calibration", "latex", "markdown", "render"]
