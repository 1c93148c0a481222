"""The numbers of a checkout: one file of JSON lines, to which each run adds.

A line is added under a lock, so runs side by side do not tear each other's; one that a kill has cut is none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.build.artifacts import append_line
from harness.measure.metrics import Metric, MetricError, Spread

HOST = "host"


@dataclass(frozen=True, slots=True)
class Record:
    """A metric, and all that it depends on. `board` is "host" where none was measured; `at` is UTC, ISO 8601."""

    metric: Metric
    board: str
    variant: str
    tools: Mapping[str, str]
    test: str
    run: str = ""
    at: str = ""
    revision: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes two records comparable, the tools aside."""
        return self.board, self.variant, self.metric.name

    @property
    def place(self) -> str:
        """Board and variant, for people."""
        return f"{self.board}-{self.variant}" if self.variant else self.board


def to_json(record: Record) -> str:
    """One line."""
    return json.dumps(asdict(record), sort_keys=True)


def from_json(text: str) -> Record:
    """A record out of its line. Raises ValueError, KeyError or TypeError when it is none."""
    data: dict[str, Any] = json.loads(text)
    metric = data.pop("metric")
    spread = metric.pop("spread")
    return Record(Metric(**metric, spread=None if spread is None else Spread(**spread)), **data)


class Store:
    """The file `build/metrics/metrics.jsonl` of the checkout at `top`."""

    def __init__(self, top: Path) -> None:
        self.path = top / "build" / "metrics" / "metrics.jsonl"

    def append(self, record: Record) -> None:
        """Add a record at the end. Raises MetricError when it cannot be written."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            append_line(self.path, to_json(record))
        except OSError as error:
            raise MetricError(f"{self.path} cannot be written: {error.strerror}; make room on that disk") from error

    def read(self) -> list[Record]:
        """All records, oldest first. Raises MetricError that names the line which is none."""
        if not self.path.exists():
            return []
        found = []
        for number, line in enumerate(self.path.read_text(encoding="utf-8").splitlines(keepends=True), start=1):
            if not line.endswith("\n"):
                break
            try:
                found.append(from_json(line))
            except (ValueError, KeyError, TypeError) as error:
                raise MetricError(
                    f"{self.path}:{number} is not a record of a metric ({error}); take that line out"
                ) from error
        return found

    def run(self, run: str) -> list[Record]:
        """The records of one run; of a metric that was measured again, the last."""
        return list({record.key: record for record in self.read() if record.run == run}.values())
