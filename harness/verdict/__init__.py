"""Verdicts: why a run ended, with backtraces that people can read."""

from harness.verdict.activity import Activity, Sample, sample
from harness.verdict.symbols import Place, Symbols, slide_of, symbolise
from harness.verdict.verdict import Finding, Verdict, describe, judge, panic_lines

__all__ = [
    "Activity",
    "Finding",
    "Place",
    "Sample",
    "Symbols",
    "Verdict",
    "describe",
    "judge",
    "panic_lines",
    "sample",
    "slide_of",
    "symbolise",
]
