"""The answer to `run`: KTAP, one line a frame. A pure parser."""

from __future__ import annotations

import re
from dataclasses import dataclass

_PLAN = re.compile(r"1\.\.(\d+)")
_START = re.compile(r"# start (\S+)")
_RESULT = re.compile(r"(not )?ok (\d+) (\S+)(?: # (.*))?")
_TIME = re.compile(r"time_ns=(\d+)")


@dataclass(frozen=True, slots=True)
class Plan:
    """How many cases will be run."""

    count: int


@dataclass(frozen=True, slots=True)
class Start:
    """A case begins."""

    case: str


@dataclass(frozen=True, slots=True)
class Result:
    """A case has ended; `note` is the cause of a failure."""

    number: int
    case: str
    ok: bool
    note: str
    time_ns: int | None


def parse(payload: str) -> Plan | Start | Result | None:
    """What a line of KTAP says; None for a version line, a comment or another answer."""
    if match := _PLAN.fullmatch(payload):
        return Plan(int(match[1]))
    if match := _START.fullmatch(payload):
        return Start(match[1])
    if match := _RESULT.fullmatch(payload):
        note = match[4] or ""
        time = _TIME.search(note)
        return Result(int(match[2]), match[3], match[1] is None, note, int(time[1]) if time else None)
    return None
