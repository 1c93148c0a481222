"""What many runs of one test say: how often it passes, how sure that is, and which seeds to look at."""

from __future__ import annotations

import math
import re
import shlex
from dataclasses import dataclass, field
from typing import Any

import pytest

# 95 % of a normal distribution lie within so many standard deviations.
_Z = 1.959964
_ROUND = re.compile(
    r"-seed(?P<seed>\d+)(?=\])|(?<=\[)round(?P<only>\d+)(?=\])|(?<=\[)round(?P<first>\d+)-|-round(?P<last>\d+)"
)
_SEEDED = re.compile(r"(?:-icount)?(?:-debug)?$")
_SHOWN = 20


@dataclass(slots=True)
class Tally:
    """The runs of one test so far: seeds or rounds, in the order in which they ended."""

    passed: list[int] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)
    seeded: bool = False

    @property
    def runs(self) -> int:
        return len(self.passed) + len(self.failed)


def wilson(passed: int, runs: int) -> tuple[float, float]:
    """The 95 % confidence interval of a pass rate, as two fractions of 1. Wilson, JASA 22 (1927), pages 209 to 212.

    >>> [round(end, 3) for end in wilson(10, 10)]
    [0.722, 1.0]
    """
    rate, square = passed / runs, _Z * _Z
    middle = (rate + square / (2 * runs)) / (1 + square / runs)
    half = _Z / (1 + square / runs) * math.sqrt(rate * (1 - rate) / runs + square / (4 * runs * runs))
    return max(0.0, middle - half), min(1.0, middle + half)


def plain(nodeid: str) -> str:
    """A test's id without its seed or round."""
    return _ROUND.sub("", nodeid).replace("[]", "")


def keep_variant(config: pytest.Config, items: list[pytest.Item], variant: str) -> None:
    """Deselect all but the tests with `variant` in their brackets. Raises pytest.UsageError where none is left."""

    def fits(nodeid: str) -> bool:
        match = _ROUND.search(nodeid)
        # A seeded board counts instructions and is a debug build, and does not say so.
        wanted = _SEEDED.sub("", variant) if match and match["seed"] else variant
        return plain(nodeid).partition("[")[2].removesuffix("]") == wanted

    kept = [item for item in items if fits(item.nodeid)]
    if items and not kept:
        found = ", ".join(list(dict.fromkeys(plain(item.nodeid) for item in items))[:_SHOWN])
        raise pytest.UsageError(f"wanted a test with [{variant}]; found: {found}; next: name one of these")
    config.hook.pytest_deselected(items=list(set(items).difference(kept)))
    items[:] = kept


def tallies(reports: list[Any]) -> dict[str, Tally]:
    """Tests by their ids without seed or round; the reports are of passed calls and of all failures."""
    found: dict[str, Tally] = {}
    for report in reports:
        match = _ROUND.search(report.nodeid)
        if match is None:
            continue
        tally = found.setdefault(plain(report.nodeid), Tally())
        tally.seeded = match["seed"] is not None
        number = int(next(filter(None, match.groups())))
        if report.passed:
            tally.passed.append(number)
            continue
        if number in tally.passed:  # its call passed, and its teardown did not
            tally.passed.remove(number)
        if number not in tally.failed:  # a failure of the call and one of its teardown are one
            tally.failed.append(number)
    return found


def lines(found: dict[str, Tally]) -> list[str]:
    """The summary of a soak."""
    text = []
    for name, tally in found.items():
        low, high = (f"{end * 100:.1f}" for end in wilson(len(tally.passed), tally.runs))
        rate = f"{len(tally.passed) / tally.runs * 100:.1f}"
        text.append(
            f"soak: {name}: {len(tally.passed)} of {tally.runs} passed: {rate} % (95 % confidence: {low} to {high} %)"
        )
        if tally.failed:
            what = "seeds" if tally.seeded else "rounds"
            more = f" and {len(tally.failed) - _SHOWN} more" if len(tally.failed) > _SHOWN else ""
            text.append(f"      failed with {what} {', '.join(map(str, tally.failed[:_SHOWN]))}{more}")
            if tally.seeded:
                text.append(f"      again: ./quoin soak {shlex.quote(name)} -n 1 --seed {tally.failed[0]}")
    return text


def tell(config: pytest.Config, terminal: Any) -> None:
    """Pass rates of a soak, and the traces of single runs."""
    stats = terminal.stats
    reports = [report for report in stats.get("passed", []) if report.when == "call"]
    # A failure in quarantine does not count against the run; whoever soaks wants to know how often it comes.
    reports += stats.get("failed", []) + stats.get("error", []) + stats.get("xfailed", [])
    if config.getoption("--soak") is not None:
        for line in lines(tallies(reports)):
            terminal.write_line(line)
        return
    traces = {}
    for report in reports:
        properties = dict(report.user_properties)
        if "trace" in properties:
            traces[properties["board"]] = properties["trace"]
    for board, trace in traces.items():
        terminal.write_line(f"trace {board}: {trace}")
