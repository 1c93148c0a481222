"""Numbers and their gates: metrics, the store of a checkout, baselines, targets, tables of them."""

from harness.measure.gate import Judged, Verdict, judge, read_baselines, write_baselines
from harness.measure.metrics import Metric, MetricError, Spread, kernel_metrics
from harness.measure.store import Record, Store

__all__ = [
    "Judged",
    "Metric",
    "MetricError",
    "Record",
    "Spread",
    "Store",
    "Verdict",
    "judge",
    "kernel_metrics",
    "read_baselines",
    "write_baselines",
]
