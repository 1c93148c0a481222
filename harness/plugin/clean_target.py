"""`fresh_target`: a machine at `ready` that no test has touched, without a boot for each.

The first test on a board boots it, and saves it at `ready`; each further one
loads that. Where it cannot be saved its reset button is pressed, or it is
switched off and on, and the report of the test says why. With `--cold` every
test boots.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from harness.plugin.fixtures import log_folder, open_log, settle, take
from harness.plugin.keys import TAKES_BOARD

if TYPE_CHECKING:
    from harness.board import Board
    from harness.console import LogFile, Session
    from harness.plugin.lab import Lab


@pytest.fixture
def fresh_target(request: pytest.FixtureRequest, board: Board, lab: Lab) -> Iterator[Session]:
    """A machine at `ready`, as clean as after a boot; loaded from a snapshot where the board can."""
    from harness.console import clean_target
    from harness.machine.snapshot import NoSnapshot

    item = request.node
    item.stash[TAKES_BOARD] = board
    cold = bool(item.config.getoption("--cold"))
    with ExitStack() as stack:
        log = open_log(stack, log_folder(item) / "console.log")
        session, how = obtain(lab, board, log, cold=cold)
        take(item, session, log)
        request.addfinalizer(lambda: settle(item, lab, session, log, attached=True))
        item.user_properties.append(("fresh_target", how))
        item.add_report_section("setup", "fresh target", how)
        if session.ready_line is None:
            session.wait_ready()
            if not cold and session.unsaved is None:
                try:
                    session.clean_point = clean_target.save(session)
                except NoSnapshot as error:
                    session.unsaved = str(error)
        stack.pop_all()
        yield session


def obtain(lab: Lab, board: Board, log: LogFile, *, cold: bool) -> tuple[Session, str]:
    """The machine that tests share, clean or about to be ready, and how it came there."""
    from harness.console import clean_target
    from harness.machine.snapshot import NoSnapshot

    session = lab.alive(board)
    if cold:
        how = "booted: --cold"
    elif session is None:
        how = "booted"
    elif session.clean_point is not None:
        try:
            clean_target.load(session, session.clean_point)
        except NoSnapshot as error:
            how = f"booted: {error}"
        else:
            session.broker.attach(log)
            return session, "loaded from a snapshot"
    elif session.unsaved is None:
        how = "booted: other tests had used the machine before it could be saved"
    elif "reset" in board.features:
        session.broker.attach(log)
        session.ready_line = None
        session.reset()
        return session, f"reset: {session.unsaved}"
    else:
        how = f"booted: {session.unsaved}"
    lab.drop_shared()
    return lab.shared(board, (log,))[0], how
