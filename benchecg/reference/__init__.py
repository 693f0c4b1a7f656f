"""The published scripts of BenchECG (github.com/dlaskalab/bench-xecg) where they differ from what is done here, as data."""

from benchecg.reference.metrics import reference_metrics
from benchecg.reference.settings import SETTINGS, published_plan
from benchecg.reference.tasks import VARIANTS

__all__ = ["SETTINGS", "VARIANTS", "published_plan", "reference_metrics"]
