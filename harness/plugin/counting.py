"""The fixture `count`: machines whose instructions are counted from outside."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from harness.plugin.fixtures import log_folder

if TYPE_CHECKING:
    from harness.board import Board
    from harness.console import Session
    from harness.machine.counting import Counting, Instructions, Marker

# Arguments for a machine whose instructions are its time and that runs several cases: between two it is idle, and its
# clock must not jump to the next timer. For RISC-V's comparator that is the end of time.
AWAKE = ("-icount", "shift=0,align=off,sleep=on")
_CASE_LIMIT_S = 120.0


class Counted:
    """A machine at `ready`, and what is counted of it."""

    def __init__(self, session: Session, counting: Counting) -> None:
        self.session = session
        self._counting = counting

    def instructions(self) -> tuple[Instructions, ...]:
        """Instructions since power on, a CPU each."""
        return self._counting.counts()

    def markers(self) -> list[Marker]:
        """The markers that were executed, oldest first."""
        return self._counting.markers()

    def spans(self, start: int, end: int) -> list[tuple[Instructions, ...]]:
        """Each CPU's instructions from a marker `start` to the next `end`, an entry each time."""
        return self._counting.spans(start, end)

    def stretches(self) -> tuple[int, ...]:
        """The longest that each CPU was in the kernel since the last call: see Counting.stretches."""
        return self._counting.stretches()

    def run(self, case: str) -> list[str]:
        """As `run_case`, on this machine."""
        return run_case(self.session, case)


def run_case(session: Session, case: str) -> list[str]:
    """Run a kernel test case, such as `bench:yield_and_info_are_measured`; the lines that it printed.

    Raises AssertionError when it fails, and as Channel.receive.
    """
    from harness.console.framing import run_payloads
    from harness.console.ktap import Result, parse

    broker = session.broker
    with broker.changed:
        before = broker.recent.count
    ((payload, _),) = run_payloads([case])
    session.channel.send(payload, _CASE_LIMIT_S)
    while not isinstance(said := parse(session.channel.receive(_CASE_LIMIT_S)), Result):
        pass
    with broker.changed:
        lines = [str(line) for line in broker.recent.since(before) if not line.is_frame]
    assert said.ok, f"{case} failed: {said.note}\n" + "\n".join(lines)
    return lines


@pytest.fixture
def count(
    request: pytest.FixtureRequest, board: Board, boot: Callable[..., Session]
) -> Iterator[Callable[..., Counted]]:
    """Boots machines whose instructions are counted: `count(smp=1, icount=True)`.

    Takes what `boot` takes. A guest runs several times slower for it, and its
    own clock goes on as ever: give `icount=True` where the guest counts too.
    """
    from harness.machine.counting import Counting

    folder = log_folder(request.node)
    with ExitStack() as stack:
        numbers = itertools.count(1)

        def start(cmdline: str = "", *, args: tuple[str, ...] = (), **how: Any) -> Counted:
            counting = stack.enter_context(Counting(folder / f"counts-{next(numbers)}", counting=True))
            return Counted(boot(cmdline, args=(*args, *counting.arguments(board)), **how), counting)

        yield start
