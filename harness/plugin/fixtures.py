"""Fixtures that suites ask for: a board, a machine on it, its console.

`machine` is shared: it has been booted once for all tests on the board, and is
booted again only after a test has left it dead or dirty. `fresh_machine` is
this test's own. `boot` boots any number, with any command line and variant.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.plugin.keys import COVERAGE, LAB, MACHINES, TAKES_BOARD, Taken

if TYPE_CHECKING:
    from harness.board import Board
    from harness.build import Artifacts
    from harness.console import Console, LogFile, Session
    from harness.plugin.lab import Lab


def lab_of(config: pytest.Config) -> Lab:
    """The lab of this run, made on first use."""
    lab = config.stash.get(LAB, None)
    if lab is None:
        from harness.plugin.lab import Lab

        lab = Lab(
            Path(config.rootpath),
            kernel_args=str(config.getoption("--kernel-args")),
            coverage=config.stash.get(COVERAGE, None),
            say=_sayer(config),
        )
        config.stash[LAB] = lab
    return lab


def _sayer(config: pytest.Config) -> Callable[[str], None] | None:
    """How to show people a line while a test runs; None in a worker, which has no terminal."""
    terminal: Any = config.pluginmanager.get_plugin("terminalreporter")
    capture: Any = config.pluginmanager.get_plugin("capturemanager")

    def say(text: str) -> None:
        with capture.global_and_fixture_disabled():
            terminal.ensure_newline()
            terminal.write_line(text)
            terminal.flush()  # it may be a pipe

    return None if terminal is None or capture is None else say


def log_folder(item: pytest.Item) -> Path:
    """This test's own folder for logs; a rerun uses it again."""
    from harness.plugin.lab import safe_name

    return lab_of(item.config).logs / safe_name(item.nodeid)


@pytest.fixture(scope="session")
def lab(request: pytest.FixtureRequest) -> Lab:
    """Builds and machines of this run."""
    return lab_of(request.config)


@pytest.fixture(scope="session")
def board(request: pytest.FixtureRequest) -> Board:
    """The board, with its variant, that this test runs on; one of `--board`."""
    found: Board = request.param
    return found


@pytest.fixture
def artifacts(board: Board, lab: Lab) -> Artifacts:
    """The build that this test's board boots: kernel ELF, image, archive, programs."""
    return lab.artifacts(board)


@pytest.fixture
def machine(request: pytest.FixtureRequest, board: Board, lab: Lab) -> Iterator[Session]:
    """A machine at `ready`, shared with other tests of this board.

    A test that leaves it in another state says so: `machine.mark_dirty(why)`.
    """
    item = request.node
    item.stash[TAKES_BOARD] = board
    with ExitStack() as stack:
        log = open_log(stack, log_folder(item) / "console.log")
        session, fresh = lab.shared(board, (log,))
        take(item, session, log)
        if fresh:
            request.addfinalizer(lambda: settle(item, lab, session, log, attached=True))
            session.wait_ready()
        else:
            session.broker.attach(log)
            request.addfinalizer(lambda: settle(item, lab, session, log, attached=True))
            session.console.skip()
        stack.pop_all()
        yield session


@pytest.fixture
def console(machine: Session) -> Console:
    """The shared machine's console."""
    return machine.console


@pytest.fixture
def boot(request: pytest.FixtureRequest, board: Board, lab: Lab) -> Iterator[Callable[..., Session]]:
    """Boots machines of this test's own; all are switched off after it.

    `boot(cmdline="", smp=None, memory=None, icount=None, args=(), ready=True,
    paused=False, on_reset="stop", files=None)`; the answer is a Session, at `ready` unless
    `ready=False`. `files` (a BootFiles) boots something else than this tree's kernel.
    """
    item = request.node
    item.stash[TAKES_BOARD] = board
    with ExitStack() as stack:

        def start(
            cmdline: str = "",
            *,
            smp: int | None = None,
            memory: str | None = None,
            icount: bool | None = None,
            args: tuple[str, ...] = (),
            ready: bool = True,
            paused: bool = False,
            on_reset: Any = "stop",
            files: Any = None,
        ) -> Session:
            from harness.board import BoardError
            from harness.machine import Misuse

            unable = board.fixed(smp=smp, memory=memory, icount=bool(icount), args=args)
            if unable or (board.wires is not None and (paused or on_reset != "stop")):
                pytest.skip(unable or f"{board.name} is a physical board: it is not paused, and starts again by itself")
            number = len(item.stash.get(MACHINES, []))
            name = "console.log" if number == 0 else f"console-{number + 1}.log"
            log = open_log(stack, log_folder(item) / name)
            try:
                variant = board.variant(smp=smp, memory=memory, icount=icount)
            except BoardError as error:
                raise Misuse(str(error)) from error
            what = files if files is not None else lab.files(variant, cmdline)
            how: Any = {"extra_args": args, "paused": paused, "on_reset": on_reset, "by_hand": not ready}
            session = lab.start(variant, what, (log,), **how)
            session.reset_expected = on_reset == "restart"
            stack.callback(session.close)
            take(item, session, log)
            if ready:
                session.wait_ready()
            return session

        # An exception in the test does not come through here, so the machines live until its report is made.
        yield start


@pytest.fixture
def fresh_machine(boot: Callable[..., Session]) -> Session:
    """A machine at `ready` that no other test has touched."""
    return boot()


def open_log(stack: ExitStack, path: Path) -> LogFile:
    from harness.console import LogFile

    log = LogFile(path, time.monotonic())
    stack.callback(log.close)
    return log


def take(item: Any, session: Session, log: LogFile) -> None:
    item.stash.setdefault(MACHINES, []).append(Taken(session, log.path))
    if session.machine.lease is not None:
        session.machine.lease.doing = item.nodeid


def settle(item: Any, lab: Lab, session: Session, log: LogFile, *, attached: bool) -> None:
    if attached:
        session.broker.detach(log)
    log.close()
    if not session.alive or session.ready_line is None:
        lab.drop_shared()
