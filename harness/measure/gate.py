"""Is a number worse than it was? Baselines of a board and its tools, and the gate that they make.

`testsuites/baselines/BOARD.json` is a list of entries, one for each set of tool versions; the
file is sorted, so that an update changes the lines that it must and no others.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from harness.build.artifacts import write_atomically
from harness.measure.metrics import MetricError
from harness.measure.store import Record

FOLDER = "testsuites/baselines"
_FORMAT = 1

# (board, tools as sorted pairs) -> "variant metric" -> value, unit
Tools = tuple[tuple[str, str], ...]
Baselines = dict[tuple[str, Tools], dict[str, tuple[float, str]]]


class Verdict(Enum):
    """What the gate says; only `WORSE` is red."""

    SAME = "same"
    BETTER = "better"
    WITHIN = "within noise"
    WORSE = "WORSE"
    NO_BASELINE = "no baseline for these tools"
    NOT_GATED = "not gated"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Judged:
    """A row of the table: what was measured, beside what it is held against."""

    record: Record
    baseline: float | None
    verdict: Verdict

    @property
    def change(self) -> float | None:
        """Share of the baseline by which the value has changed."""
        if not self.baseline or self.verdict is Verdict.NOT_MEASURED:
            return None
        return self.record.metric.value / self.baseline - 1


def compared(record: Record, baseline: float) -> Verdict:
    """The verdict on a record beside `baseline`, by the noise and the direction that the metric states."""
    metric = record.metric
    rise = metric.value - baseline
    worse = rise if metric.better == "lower" else -rise
    if metric.noise is None:
        return Verdict.NOT_GATED
    if worse == 0:
        return Verdict.SAME
    if abs(worse) <= metric.noise * abs(baseline):
        return Verdict.WITHIN
    return Verdict.WORSE if worse > 0 else Verdict.BETTER


def judge(records: Iterable[Record], baselines: Baselines) -> list[Judged]:
    """Hold each record against the baseline of its board, variant and tools."""
    rows = []
    for record in sorted(records, key=lambda r: (r.metric.name, r.key)):
        known = baselines.get((record.board, _tools(record)), {}).get(_name(record))
        if record.metric.noise is None:
            rows.append(Judged(record, None, Verdict.NOT_GATED))
        elif known is None or known[1] != record.metric.unit:
            rows.append(Judged(record, None, Verdict.NO_BASELINE))
        else:
            rows.append(Judged(record, known[0], compared(record, known[0])))
    return rows


def judge_runs(before: Iterable[Record], after: Iterable[Record]) -> list[Judged]:
    """Hold a run against another one, whatever the tools; what only `before` has is told as not measured."""
    old = {record.key: record for record in before}
    new = {record.key: record for record in after}
    rows = []
    for key in sorted(old.keys() | new.keys(), key=lambda k: (k[2], k)):
        if key not in new:
            rows.append(Judged(old[key], old[key].metric.value, Verdict.NOT_MEASURED))
        elif key not in old or old[key].metric.unit != new[key].metric.unit:
            rows.append(Judged(new[key], None, Verdict.NO_BASELINE))
        else:
            value = old[key].metric.value
            rows.append(Judged(new[key], value, compared(new[key], value)))
    return rows


def read_baselines(top: Path) -> Baselines:
    """All baselines of the tree. Raises MetricError for a file that is none."""
    found: Baselines = {}
    for path in sorted((top / FOLDER).glob("*.json")):
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data["format"] != _FORMAT:
                raise ValueError(f"format {data['format']}")
            for entry in data["entries"]:
                values = {name: (float(m["value"]), str(m["unit"])) for name, m in entry["metrics"].items()}
                found[path.stem, _sorted(entry["tools"])] = values
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise MetricError(
                f"{path} is not a file of baselines ({error!r}); take it from git, or: quoin bench --update-baseline"
            ) from error
    return found


def write_baselines(top: Path, records: Iterable[Record]) -> list[Path]:
    """Make the records the baselines of their boards and tools; other entries stay. Returns the files written."""
    baselines = read_baselines(top)
    gated = [record for record in records if record.metric.noise is not None]
    for record in gated:
        values = baselines.setdefault((record.board, _tools(record)), {})
        values[_name(record)] = (float(record.metric.value), record.metric.unit)
    written = []
    for board in sorted({record.board for record in gated}):
        entries = [
            {
                "tools": dict(tools),
                "metrics": {name: {"value": value, "unit": unit} for name, (value, unit) in values.items()},
            }
            for (name_of_board, tools), values in sorted(baselines.items())
            if name_of_board == board
        ]
        path = top / FOLDER / f"{board}.json"
        text = json.dumps({"format": _FORMAT, "entries": entries}, indent=2, sort_keys=True)
        write_atomically(path, f"{text}\n".encode())
        written.append(path)
    return written


def _name(record: Record) -> str:
    return f"{record.variant} {record.metric.name}".strip()


def _tools(record: Record) -> Tools:
    return _sorted(record.tools)


def _sorted(tools: Mapping[str, str]) -> Tools:
    return tuple(sorted(tools.items()))
