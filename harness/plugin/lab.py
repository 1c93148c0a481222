"""The lab of one pytest run: builds asked for once, machines booted and shared."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from harness.board import Board, BoardError
from harness.console import Session, Sink
from harness.hardware import PhysicalMachine
from harness.machine import BootFiles, QemuMachine
from harness.machine.qemu import OnReset

if TYPE_CHECKING:
    from harness.build import Artifacts
    from harness.plugin.coverage import Coverage

_LONGEST_NAME = 160


def safe_name(text: str) -> str:
    """A folder's name made of a test id; long ones keep their end, which names case and board."""
    name = re.sub(r"[^\w.=-]+", "_", text).strip("_")
    return name[-_LONGEST_NAME:]


class Lab:
    """Builds and machines of one run; `close` ends what still runs."""

    def __init__(
        self, top: Path, *, kernel_args: str, coverage: Coverage | None = None, say: Callable[[str], None] | None = None
    ) -> None:
        self.logs = top / "build" / "logs"
        self._kernel_args = kernel_args
        self._coverage = coverage
        self._say = say
        self._artifacts: dict[tuple[str, bool], Artifacts] = {}
        self._shared: tuple[Board, Session] | None = None
        self._started: list[Session] = []
        self._count = itertools.count(1)
        self._worker = os.environ.get("PYTEST_XDIST_WORKER", "")

    def artifacts(self, board: Board) -> Artifacts:
        """The build that `board` boots. Raises harness.build.BuildError."""
        from harness.build import build

        key = (board.arch, board.debug)
        if key not in self._artifacts:
            profile = "debug" if board.debug else "release"
            self._artifacts[key] = build(board.arch, profile)  # type: ignore[arg-type]  # checked in the file
        return self._artifacts[key]

    def kernel_elf(self, board: Board) -> Path | None:
        """The ELF whose symbols explain this board's kernel, if there is one."""
        if board.kernel is not None:
            return board.kernel
        known = self._artifacts.get((board.arch, board.debug))
        return None if known is None else known.kernel

    def programs(self, board: Board) -> tuple[Path, ...]:
        """The ELFs of user programs that this board's kernel may run, as far as they are known."""
        known = None if board.kernel is not None else self._artifacts.get((board.arch, board.debug))
        return () if known is None else tuple(known.programs)

    def files(self, board: Board, cmdline: str = "") -> BootFiles:
        """What to boot on `board`: its own images, or else this tree's kernel."""
        words = " ".join(filter(None, [self._kernel_args, cmdline]))
        if board.kernel is not None:
            return BootFiles(board.kernel, board.initrd, words)
        artifacts = self.artifacts(board)
        return BootFiles(artifacts.image, artifacts.archive, words)

    def start(
        self,
        board: Board,
        files: BootFiles,
        sinks: tuple[Sink, ...] = (),
        *,
        extra_args: Sequence[str] = (),
        paused: bool = False,
        on_reset: OnReset = "stop",
        by_hand: bool = False,
    ) -> Session:
        """Switch a machine on, with a log of its own. The caller closes it; `by_hand`: and drives its boot."""
        name = f"{board.id}-{self._worker}{os.getpid()}-{next(self._count)}"
        machine: QemuMachine | PhysicalMachine
        watched = None
        if board.wires is None:
            machine = QemuMachine(board, files, extra_args=extra_args, paused=paused, on_reset=on_reset)
            machine.say = self._say or machine.say
            if self._coverage is not None:
                watched = self._coverage.watch(machine, by_hand=by_hand or paused)
                machine.extra_args += watched.counting.arguments(board)
                if board.icount:
                    # Cases run one by one, and a machine that is idle between them must not see its clock jump to the
                    # next timer: for RISC-V's comparator that is the end of time.
                    machine.extra_args += ("-icount", "shift=0,align=off,sleep=on")
        elif extra_args or self._coverage is not None:
            raise BoardError(f"{board.name} is a physical board, which takes no QEMU arguments: it cannot be counted")
        else:
            machine = PhysicalMachine(board, files)
        session = Session(machine, self.logs / "boots" / safe_name(name) / "console.log", sinks)
        if watched is not None:
            watched.attach(session)
        self._started = [*(one for one in self._started if not one.closed), session]
        return session

    @contextmanager
    def clocks_held(self) -> Iterator[None]:
        """Let the hang clocks of all machines that are on stand meanwhile."""
        with ExitStack() as stack:
            for session in self._started:
                session.hang_clock.hold()
                stack.callback(session.hang_clock.release)
            yield

    def shared(self, board: Board, sinks: tuple[Sink, ...] = ()) -> tuple[Session, bool]:
        """The machine that tests on `board` share, and whether it was switched on just now.

        A new one is not ready yet: `wait_ready` is the caller's, so that a
        failure to boot is seen with its session.
        """
        if (session := self.alive(board)) is not None:
            return session, False
        return self.replace(board, "", sinks), True

    def replace(self, board: Board, cmdline: str, sinks: tuple[Sink, ...] = ()) -> Session:
        """A machine switched on now, with words of its own on the command line, in the place of the shared one."""
        self.drop_shared()
        session = self.start(board, self.files(board, cmdline), sinks)
        self._shared = board, session
        return session

    def alive(self, board: Board) -> Session | None:
        """The machine that tests on `board` share, if there is one that a further test may use."""
        if self._shared is None:
            return None
        shared, session = self._shared
        return session if shared == board and session.alive and session.ready_line is not None else None

    def drop_unless(self, board: Board | None) -> None:
        """End the machine that tests share, unless it is on `board`."""
        if self._shared is not None and self._shared[0] != board:
            self.drop_shared()

    def drop_shared(self) -> None:
        """End the machine that tests share."""
        if self._shared is not None:
            _, session = self._shared
            self._shared = None
            session.close()

    def close(self) -> None:
        self.drop_shared()
