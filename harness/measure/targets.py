"""Targets: numbers that the tree promises, each in one place, and the scorecard that they make.

`testsuites/targets.yaml` is a list; an entry holds one of `at_most` and `at_least` (a number, or one
for each board), its `unit` and `source`, and the `metric` that measures it. Where nothing can measure
it, `reason` says why, in place of `metric`.
"""

from __future__ import annotations

import ast
import os
import platform
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.board import LabError, read_yaml
from harness.measure.metrics import Metric, MetricError
from harness.measure.store import HOST, Record
from harness.measure.tables import lines, number

FILE = "testsuites/targets.yaml"
_BOUNDS = ("at_most", "at_least")
_KEYS = {*_BOUNDS, "metric", "unit", "source", "reason"}
_BENCH = re.compile(r'kernel_bench!\(\s*"([^"]+)"')

Standing = Literal["met", "NOT MET", "not measurable here"]


@dataclass(frozen=True, slots=True)
class Target:
    """A number that is promised. `limits` is by board; the key "" stands for every board."""

    metric: str
    bound: str
    limits: Mapping[str, float]
    unit: str
    source: str
    reason: str

    def limit(self, board: str) -> float | None:
        """The limit on a board, if it has one."""
        return self.limits.get(board, self.limits.get(""))

    def missed(self, metric: Metric, board: str) -> str | None:
        """By what a metric misses this target, or None. Raises MetricError when the units differ."""
        limit = self.limit(board)
        if limit is None:
            return None
        if metric.unit != self.unit:
            raise MetricError(f"{self.metric} is in {metric.unit}, and its target in {FILE} in {self.unit}")
        over = metric.value > limit if self.bound == "at_most" else metric.value < limit
        wanted = f"{self.bound.replace('_', ' ')} {number(limit)} {self.unit}"
        return (
            f"{metric.name} on {board}: wanted {wanted}, found {metric.value} ({FILE}: {self.source})" if over else None
        )


def read_targets(top: Path) -> list[Target]:
    """The table of the tree at `top`; empty where it has none. Raises MetricError that names the entry."""
    path = top / FILE
    if not path.exists():
        return []
    try:
        data = read_yaml(path)
    except LabError as error:
        raise MetricError(str(error)) from error
    if not isinstance(data, list):
        raise MetricError(f"{path}: wants a list of targets")
    return [_target(path, place, entry) for place, entry in enumerate(data, start=1)]


def _target(path: Path, place: int, entry: Any) -> Target:
    where = f"{path}: target {place}"
    if not isinstance(entry, dict) or set(entry) - _KEYS:
        unknown = ", ".join(sorted(map(str, set(entry) - _KEYS))) if isinstance(entry, dict) else repr(entry)
        raise MetricError(f"{where}: unknown key {unknown}; allowed: {', '.join(sorted(_KEYS))}")
    bounds = [key for key in _BOUNDS if key in entry]
    if len(bounds) != 1 or not entry.get("unit") or not entry.get("source"):
        raise MetricError(f"{where}: wants one of at_most and at_least, and unit and source")
    if ("metric" in entry) == ("reason" in entry):
        raise MetricError(f"{where}: wants metric, or the reason why nothing measures it")
    limits = entry[bounds[0]]
    try:
        limits = {k: float(v) for k, v in limits.items()} if isinstance(limits, dict) else {"": float(limits)}
    except (TypeError, ValueError) as error:
        raise MetricError(f"{where}: a limit is a number, or a number for each board: {error}") from error
    return Target(
        str(entry.get("metric", "")), bounds[0], limits, str(entry["unit"]), entry["source"], entry.get("reason", "")
    )


def known_metrics(top: Path) -> set[str]:
    """Names of all metrics that a test of the tree measures, read from the sources.

    They are the literal first arguments of `metric(...)` and `metric.samples(...)` in testsuites/, and
    those of `kernel_bench!` in the kernel's test programs.
    """
    found: set[str] = set()
    for path in (top / "testsuites").glob("[!h]*/*.py"):  # not harness: its tests make metrics up
        text = path.read_text(encoding="utf-8")
        if "metric" in text:
            found.update(_measured(ast.parse(text, str(path))))
    for path in (top / "kernel-src" / "user" / "tests").rglob("*.rs"):
        found.update(_BENCH.findall(path.read_text(encoding="utf-8")))
    return found


def _measured(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not node.args or not isinstance(node.args[0], ast.Constant):
            continue
        called = node.func.value if isinstance(node.func, ast.Attribute) else node.func
        if isinstance(called, ast.Name) and called.id == "metric" and isinstance(node.args[0].value, str):
            yield node.args[0].value


def check_names(targets: Iterable[Target], known: set[str]) -> None:
    """Raises MetricError for a target whose metric no test measures."""
    for target in targets:
        if target.metric and target.metric not in known:
            raise MetricError(
                f"{FILE} names the metric {target.metric!r}, which no test measures; known: {', '.join(sorted(known))}"
            )


@dataclass(frozen=True, slots=True)
class Score:
    """A line of the scorecard: a target on a board."""

    target: Target
    board: str
    value: float | None
    standing: Standing
    why: str = ""


def scores(targets: Sequence[Target], records: Sequence[Record]) -> list[Score]:
    """Each target on each board where its metric was measured; one line where it was nowhere."""
    found = []
    for target in targets:
        own = [r for r in records if r.metric.name == target.metric and target.limit(r.board) is not None]
        for record in sorted(own, key=lambda r: r.place):
            standing: Standing = "met" if target.missed(record.metric, record.board) is None else "NOT MET"
            found.append(Score(target, record.place, record.metric.value, standing))
        if not own:
            why = target.reason or "its tests did not run on these boards, or did not get so far"
            found.append(Score(target, "-", None, "not measurable here", why))
    return found


def scorecard(rows: Iterable[Score]) -> list[str]:
    """The table, for people."""
    table = [("target", "limit", "unit", "board", "value", "source", "standing")]
    for row in rows:
        target = row.target
        wanted = " / ".join(number(limit) for limit in dict.fromkeys(target.limits.values()))
        if row.value is not None:
            wanted = number(target.limit(board_name(row.board, target)))
        sign = "<=" if target.bound == "at_most" else ">="
        standing = f"{row.standing}: {row.why}" if row.why else row.standing
        name = target.metric or "-"
        table.append((name, f"{sign} {wanted}", target.unit, row.board, number(row.value), target.source, standing))
    return lines(table, frozenset({1, 4}))


def board_name(place: str, target: Target) -> str:
    """The board in a place such as `qemu-riscv64-smp4`, as far as the target knows it by name."""
    return next((name for name in target.limits if name and place.startswith(name)), "")


def machine(records: Iterable[Record]) -> str:
    """Host, emulators and accelerator behind the numbers."""
    emulators = sorted({r.tools["qemu"] for r in records if r.board != HOST and "qemu" in r.tools})
    accelerator = f"boards: {'; '.join(emulators)}, accelerator TCG" if emulators else "no board was measured"
    return f"host: {platform.machine()}, {os.cpu_count()} CPUs, {platform.system()} {platform.release()}; {accelerator}"
