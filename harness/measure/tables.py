"""Numbers as tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.measure.gate import Judged, Verdict
from harness.measure.store import Record


def number(value: float | None) -> str:
    """A value as short as it can be said."""
    if value is None:
        return "-"
    return str(int(value)) if value == int(value) else f"{value:.4g}" if abs(value) < 100 else f"{value:.2f}"


def lines(rows: Sequence[Sequence[str]], right: frozenset[int] = frozenset()) -> list[str]:
    """`rows` in columns, the first being the head; columns of `right` end flush."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if n in right else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def gate_table(rows: Iterable[Judged]) -> list[str]:
    """Metric, board, value, unit, baseline, change, verdict."""
    table = [("metric", "board", "value", "unit", "baseline", "change", "verdict")]
    for row in rows:
        metric = row.record.metric
        measured = row.verdict is not Verdict.NOT_MEASURED
        change = "-" if row.change is None else f"{row.change:+.2%}"
        table.append(
            (
                metric.name,
                row.record.place,
                number(metric.value if measured else None),
                metric.unit,
                number(row.baseline),
                change,
                row.verdict.value,
            )
        )
    return lines(table, frozenset({2, 4, 5}))


def history_table(records: Iterable[Record]) -> list[str]:
    """A value a revision and run, oldest first, with the distribution where there is one."""
    table = [("metric", "board", "at", "revision", "value", "unit", "min", "p99", "samples")]
    for record in sorted(records, key=lambda r: (r.metric.name, r.place, r.at)):
        spread = record.metric.spread
        table.append(
            (
                record.metric.name,
                record.place,
                record.at,
                record.revision,
                number(record.metric.value),
                record.metric.unit,
                number(None if spread is None else spread.least),
                number(None if spread is None else spread.p99),
                "1" if spread is None else str(spread.samples),
            )
        )
    return lines(table, frozenset({4, 6, 7, 8}))
