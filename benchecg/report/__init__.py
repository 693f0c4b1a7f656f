"""The page that a reviewer reads."""

from benchecg.report.html import render

__all__ = ["render"]
