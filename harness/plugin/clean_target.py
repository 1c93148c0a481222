"""`fresh_target`: a machine at `ready` that no test has touched, without a boot for each.

The first test on a board boots it, and saves it at `ready`; each further one
loads that. Where it cannot be saved it is switched off and on instead, and the
report of the test says why. With `--cold` that is done for every test.
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
    from harness.console import Session
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
        session = None if cold else loaded(lab, board)
        if session is not None:
            session.broker.attach(log)
        else:
            lab.drop_shared()
            session, _ = lab.shared(board, (log,))
        take(item, session, log)
        request.addfinalizer(lambda: settle(item, lab, session, log, attached=True))
        if session.ready_line is None:
            session.wait_ready()
            try:
                clean_target.wait_idle(session)
                if not cold:
                    session.clean_point = clean_target.save(session)
            except NoSnapshot as error:
                item.add_report_section("setup", "fresh target", f"a new boot, not a snapshot: {error}")
        stack.pop_all()
        yield session


def loaded(lab: Lab, board: Board) -> Session | None:
    """The shared machine, clean again; None where one must be booted."""
    from harness.console import clean_target
    from harness.machine.snapshot import NoSnapshot

    session = lab.alive(board)
    if session is None or session.clean_point is None:
        return None
    try:
        clean_target.load(session, session.clean_point)
    except NoSnapshot as error:
        session.broker.note(str(error))
        return None
    return session
