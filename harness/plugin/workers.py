"""Tests over several workers (pytest-xdist): one worker keeps a board, and boots it once.

xdist's own `loadgroup` writes the group into test ids, which pytest 9.2 does not
let it do any more; so the ids that name a board are read instead.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

_BOARD = re.compile(r"\[([^\]]*-smp\d+[^\]]*)\]$")


def group_of(nodeid: str) -> str:
    """What must stay together: the tests of a board; any other test is alone."""
    match = _BOARD.search(nodeid)
    return match[1] if match else nodeid


def scheduler(config: pytest.Config, log: Any) -> Any:
    """A scheduler for this run, or None where xdist's own is right."""
    if config.getoption("dist") == "each":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class BoardScheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist is untyped here
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

        def _reschedule(self, node: Any) -> None:
            """One that comes in a lost one's place has no tests before it has collected; xdist 3.8 does not look."""
            if node in self.registered_collections:
                super()._reschedule(node)

        def remove_node(self, node: Any) -> str | None:
            """The test during which a worker was lost has failed, and is not run again: it may well do it again."""
            units: dict[str, dict[str, bool]] = self.assigned_work.pop(node)
            left = [(unit, test) for unit in units.values() for test, done in unit.items() if not done]
            if not left:
                return None
            unit, crashed = left[0]
            unit[crashed] = True
            self.workqueue.update({scope: unit for scope, unit in units.items() if not all(unit.values())})
            for other in self.assigned_work:
                self._reschedule(other)
            return crashed

    return BoardScheduling(config, log)
