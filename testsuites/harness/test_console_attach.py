"""A second person at a console: real sockets, real processes, a guest that prints as fast as memory."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pexpect
import pytest

from harness.board import read_board
from harness.console import Broker, Console, ExpectTimeout, LogFile, Session, attach
from harness.console.attach import AttachServer, NoSession, Running, find, running, visit
from harness.machine import BootFiles, QemuMachine
from harness.machine.tiny_guest import Then, write_tiny_guest

TOP = Path(__file__).resolve().parents[2]
BOARD = TOP / "boards" / "qemu-riscv64.yaml"
# More than a watcher's backlog and a socket hold together.
LINES = 100_000
LINE = "line %06d " + "x" * 84 + "\n"

OWNER = """
import sys
from pathlib import Path
from harness.board import read_board
from harness.console.terminal import interact
from harness.machine import BootFiles, QemuMachine
machine = QemuMachine(read_board(Path(sys.argv[1])).variant(smp=1), BootFiles(Path(sys.argv[2])))
interact(machine, Path(sys.argv[3]))
"""


def nothing() -> None:
    """A clock that is nobody's."""


class Owner:
    """A console with a scripted target, its log, and a door for visitors."""

    def __init__(self, folder: Path) -> None:
        ours, self.target = socket.socketpair()
        self.broker = Broker(ours)
        self.console = Console(self.broker)
        self.log = LogFile(folder / "console.log", time.monotonic())
        self.broker.attach(self.log)
        self.server = AttachServer(
            self.broker, "rack-7-smp2", self.log.path, hold=nothing, release=nothing, folder=folder
        )
        self.session = Running("rack-7-smp2", os.getpid(), self.server.path)
        self.broker.start()

    def close(self) -> None:
        self.target.close()
        self.broker.close()
        self.server.close()
        self.log.close()

    def has_logged(self, pattern: str) -> None:
        """Wait until a line of the host's, or of a visitor's, is in the log."""
        with self.broker.changed:
            assert self.broker.changed.wait_for(
                lambda: any(re.search(pattern, str(line)) for line in self.broker.recent), 30
            ), pattern


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owner]:
    owner = Owner(tmp_path)
    yield owner
    owner.close()


def read_until(connection: socket.socket, text: bytes, wanted: bytes) -> bytes:
    connection.settimeout(60)
    while wanted not in text[-4096:]:
        piece = connection.recv(1 << 16)
        assert piece, text[-200:]
        text += piece
    return text


@pytest.mark.requirement("DEV-01", "TST-05")
def test_nothing_is_lost_while_people_come_and_go_and_some_are_slow(owner: Owner, tmp_path: Path) -> None:
    late = LogFile(tmp_path / "late.log", time.monotonic())
    asleep, _, _ = visit(owner.session)
    watching, _, seen = visit(owner.session)
    owner.has_logged("attached: .*watching")
    data = "".join(LINE % number for number in range(LINES)).encode()
    writer = threading.Thread(target=owner.target.sendall, args=(data + b"the end\n",), daemon=True)
    writer.start()
    visitors = 0
    for number in range(0, LINES, LINES // 20):
        # A test that is slow, and looks at the console now and then.
        owner.console.expect(rf"^line {number:06d} ", 60)
        if number % (LINES // 10) == 0:
            owner.broker.attach(late)
            guest, _, _ = visit(owner.session)
            guest.close()
            visitors += 1
            owner.broker.detach(late)
    seen = read_until(watching, seen, b"the end\n")
    owner.console.expect("^the end$", 60)
    assert owner.broker.received == len(data) + len(b"the end\n")
    # Who reads has it all; who does not is told how much is missing, and had what fits its backlog.
    assert seen.count(b"\n") > LINES // 2
    last = [int(number) for number in re.findall(rb"^line (\d+) x+$", seen, re.MULTILINE)]
    if b"bytes left out" not in seen:
        assert last == list(range(LINES))
    drowsy = read_until(asleep, b"", b" bytes left out")
    missing = int(re.findall(rb"(\d+) bytes left out", drowsy)[0])
    assert 0 < missing < len(data)
    asleep.close()
    watching.close()
    owner.has_logged("detached")
    owner.broker.detach(owner.log)
    owner.log.close()
    logged = re.findall(r"^ *[\d.]+ \| (line \d+ x+)$", owner.log.path.read_text(), re.MULTILINE)
    assert logged == [(LINE % number)[:-1] for number in range(LINES)]
    assert visitors == 10


@pytest.mark.requirement("DEV-01")
def test_who_types_is_named_in_the_log_and_who_watches_cannot(owner: Owner) -> None:
    typist, about, _ = visit(owner.session, typing=True)
    watcher, _, _ = visit(owner.session)
    assert about["board"] == "rack-7-smp2" and about["log"] == str(owner.log.path)
    watcher.sendall(b"rm everything\r")
    typist.sendall(b"p")
    typist.sendall(b"s\runame")
    owner.target.settimeout(30)
    typed = b""
    while len(typed) < len(b"ps\runame"):
        typed += owner.target.recv(100)
    assert typed == b"ps\runame"
    typist.close()
    watcher.close()
    owner.has_logged("detached")
    owner.has_logged(r"uname")
    lines = [(line.direction.value, str(line)) for line in owner.broker.recent]
    who = rf"\w+, process {os.getpid()}"
    for sign, wanted in (
        ("!", rf"attached: {who}, typing"),
        (">", rf"\[{who}\] ps"),
        (">", rf"\[{who}\] uname"),
        ("!", rf"attached: {who}, watching"),
    ):
        assert [text for s, text in lines if s == sign and re.fullmatch(wanted, text)], (wanted, lines)
    assert not [text for _, text in lines if "rm everything" in text]


@pytest.mark.requirement("DEV-01")
def test_the_socket_is_its_owners_alone_and_goes_with_the_session(tmp_path: Path) -> None:
    folder = tmp_path / ("deep" * 30) / ("er" * 40)
    folder.mkdir(parents=True)
    assert len(str(folder)) > 200
    owner = Owner(folder)
    try:
        assert stat.S_IMODE(owner.server.path.stat().st_mode) == 0o600
        assert [session.board for session in running(folder)] == ["rack-7-smp2"]
        connection, _, _ = visit(find("rack-7", folder))
        second = Owner(folder)
        try:
            with pytest.raises(
                NoSession, match=r"2 sessions of rack-7 are running; name one of them:\n  rack-7-smp2\."
            ):
                find("rack-7", folder)
            assert find(second.server.path.stem, folder).path == second.server.path
        finally:
            second.close()
        with pytest.raises(NoSession, match=r"no session of 'rack-8' is running.*\n  rack-7-smp2\."):
            find("rack-8", folder)
    finally:
        owner.close()
    assert connection.recv(10) == b""
    connection.close()
    assert running(folder) == [] and list(folder.glob("*.sock")) == []


@pytest.mark.requirement("DEV-01")
def test_the_socket_of_a_killed_session_is_cleared_away(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    gone = tmp_path / f"rack-7.{child.pid}-1.sock"
    listener = socket.socket(socket.AF_UNIX)
    with attach.short(gone) as name:
        listener.bind(name)
    listener.close()
    # The process lives, but the socket is nobody's: its number was given anew.
    with pytest.raises(NoSession, match=r"does not answer \(.*refused"):
        visit(find("rack-7", tmp_path))
    assert not gone.exists()
    gone.write_text("")
    child.send_signal(signal.SIGKILL)
    child.wait(30)
    assert child.stdin is not None
    child.stdin.close()
    assert running(tmp_path) == [] and not gone.exists()


@contextmanager
def session_of(guest: Path, log: Path) -> Iterator[Session]:
    board = read_board(BOARD).variant(smp=1)
    with Session(QemuMachine(board, BootFiles(guest)), log) as session:
        yield session


@pytest.mark.requirement("DEV-01", "DEV-08")
def test_a_held_attach_stops_the_clocks_until_it_is_let_go(tmp_path: Path) -> None:
    with session_of(write_tiny_guest(tmp_path / "guest", "hello\n", Then.SLEEP), tmp_path / "log") as session:
        session.console.expect("hello")
        held, _, _ = visit(find(str(os.getpid())), hold=True)
        with session.broker.changed:
            assert session.broker.changed.wait_for(
                lambda: any("holding the clocks" in str(line) for line in session.broker.recent), 30
            )
        began, timed_out = session.hang_clock.now(), threading.Event()

        def wait() -> None:
            with pytest.raises(ExpectTimeout):
                session.console.expect("never", 0.2)
            timed_out.set()

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        assert not timed_out.wait(1)
        assert session.hang_clock.now() <= began
        # However it goes, a killed `quoin attach` too.
        held.close()
        assert timed_out.wait(30)
        thread.join(30)


def run(program: list[str]) -> pexpect.spawn[str]:
    child = pexpect.spawn(sys.executable, program, cwd=str(TOP), encoding="utf-8", timeout=60)
    child.delaybeforesend = None
    return child


@pytest.mark.requirement("DEV-01", "DEV-08")
def test_quoin_attach_joins_the_session_of_another_process(tmp_path: Path) -> None:
    guest, log = write_tiny_guest(tmp_path / "guest", "hello\n", Then.ECHO), tmp_path / "console.log"
    owner = run(["-c", OWNER, str(BOARD), str(guest), str(log)])
    owner.expect("hello\r\n")
    name = str(owner.pid)
    watcher = run(["-m", "harness.cli", "attach", name])
    watcher.expect(r"\[qemu-riscv64-smp1, process \d+: watching; Ctrl-\] leaves")
    watcher.expect("hello\r\n")
    typist = run(["-m", "harness.cli", "attach", name, "--type"])
    typist.expect("typing")
    typist.expect("hello\r\n")
    typist.send("abc\n")
    for one in (typist, watcher, owner):
        one.expect("abc")
    typist.send("\x1d")
    typist.expect(pexpect.EOF)
    owner.send("\x1d")
    owner.expect(pexpect.EOF)
    watcher.expect("the session has ended")
    watcher.expect(pexpect.EOF)
    assert not [session for session in running() if session.pid == owner.pid]
    assert re.search(rf"> \[\w+, process {typist.pid}\] abc$", log.read_text(), re.MULTILINE), log.read_text()
