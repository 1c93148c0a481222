"""A second person at a console: real sockets, real processes, a guest that prints without end."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from harness.board import LabError, read_board
from harness.console import Broker, ExpectTimeout, LogFile, Session, attach
from harness.console.attach import SOCKET, AttachServer, visit
from harness.machine import BootFiles, QemuMachine
from harness.machine import attach as machines
from harness.machine.tiny_guest import Then, write_tiny_guest
from support.projects import BOARD, command, environment

TOP = Path(__file__).resolve().parents[2]
RISCV = TOP / "boards" / "qemu-riscv64.yaml"
ROUND = 500
TEXT = "".join(f"line {number:03d} {'x' * 60}\n" for number in range(ROUND))
PIECES = 8
PIECE = 128 << 10

OWNER = """
import sys
from pathlib import Path
from harness.board import read_board
from harness.console.terminal import interact
from harness.machine import BootFiles, QemuMachine
machine = QemuMachine(read_board(Path(sys.argv[1])).variant(smp=1), BootFiles(Path(sys.argv[2])))
interact(machine, Path(sys.argv[3]))
"""


def session_of(folder: Path, text: str, then: Then, *, paused: bool = False) -> Session:
    guest = write_tiny_guest(folder / "guest", text, then)
    machine = QemuMachine(read_board(RISCV).variant(smp=1), BootFiles(guest), paused=paused)
    return Session(machine, folder / "console.log")


def door(session: Session) -> Path:
    return session.machine.scratch / SOCKET


def wait_logged(broker: Broker, pattern: str) -> None:
    """Wait until such a line is in the log."""
    with broker.changed:
        assert broker.changed.wait_for(lambda: any(re.search(pattern, str(line)) for line in broker.recent), 60)


class Owner:
    """A console with a scripted target, its log, and a door for visitors."""

    def __init__(self, folder: Path) -> None:
        ours, self.target = socket.socketpair()
        self.path = folder / SOCKET
        self.broker = Broker(ours)
        self.log = LogFile(folder / "console.log", time.monotonic())
        self.broker.attach(self.log)
        self.server = AttachServer(self.broker, self.path, hold=lambda: None, release=lambda: None)
        self.broker.start()

    def close(self) -> None:
        self.target.close()
        self.broker.close()
        self.server.close()
        self.log.close()


def wait_received(broker: Broker, size: int) -> None:
    with broker.changed:
        assert broker.changed.wait_for(lambda: broker.received >= size, 60)


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owner]:
    owner = Owner(tmp_path)
    yield owner
    owner.close()


# Nothing is lost.


def read_on(connection: socket.socket, text: bytes) -> bytes:
    """All that a visitor is sent until the session ends."""
    pieces = [text]
    while piece := connection.recv(1 << 16):
        pieces.append(piece)
    return b"".join(pieces)


def shown(seen: bytes) -> tuple[bytes, int]:
    """What a visitor has seen of the console, and how many bytes it was told that it has missed."""
    notes = re.findall(rb"\n\[quoin: (\d+) bytes left out[^\n]*\n", seen)
    return re.sub(rb"\n\[quoin: [^\n]*\n", b"", seen), sum(map(int, notes))


def reached(seen: bytes, data: bytes) -> int | None:
    """How far in `data` a visitor is who has seen this; None where it is something else, or ends within a note."""
    at = 0
    for number, piece in enumerate(re.split(rb"\n\[quoin: (\d+) bytes left out[^\n]*\n", seen)):
        if number % 2:
            at += int(piece)
        elif data[at : at + len(piece)] != piece:
            return None
        else:
            at += len(piece)
    return at


def logged(path: Path) -> list[int]:
    """The numbers of the guest's lines in a log."""
    return [int(number) for number in re.findall(rb"^ *[\d.]+ \| line (\d+) x{60}$", path.read_bytes(), re.MULTILINE)]


@pytest.mark.requirement("DEV-08", "TST-05")
def test_nothing_is_lost_while_people_come_and_go_and_some_are_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attach, "BACKLOG", 1 << 16)
    seen: list[bytes] = []
    with session_of(tmp_path, TEXT, Then.REPEAT, paused=True) as session:
        broker = session.broker
        asleep, nothing = visit(door(session))
        assert nothing == b"", "it was there before the guest's first byte"
        awake, _ = visit(door(session))
        reader = threading.Thread(target=lambda: seen.append(read_on(awake, b"")), daemon=True)
        reader.start()
        session.qmp("cont")
        parts = []
        for number in range(1, PIECES + 1):
            part = LogFile(tmp_path / f"part-{number}.log", 0.0)
            parts.append(part.path)
            with session.logging_to(part):
                passing, _ = visit(door(session))
                # A test that looks once in a thousand lines.
                with broker.changed:
                    assert broker.changed.wait_for(lambda: broker.received > len(parts) * PIECE, 60)
                session.console.skip()
                session.console.expect(rf"^line {number:03d} x+$", 60)
                passing.close()
            part.close()
        session.qmp("stop")
        broker.drain(60)
        size = broker.window.end
        ended = threading.Event()

        def end() -> None:
            session.close()
            ended.set()

        # The one that is asleep still has text to take; nobody waits for that.
        threading.Thread(target=end, daemon=True).start()
        assert ended.wait(60)
    numbers = logged(session.log_path)
    assert numbers == [number % ROUND for number in range(len(numbers))]
    assert len(numbers) > PIECES * PIECE // len(TEXT) * ROUND
    for shorter in map(logged, parts):
        assert shorter and shorter == [(shorter[0] + number) % ROUND for number in range(len(shorter))]
    truth = b"".join(re.findall(rb"^ *[\d.]+ \| (.*\n)", session.log_path.read_bytes(), re.MULTILINE))
    reader.join(60)
    text, missed = shown(seen[0])
    assert len(text) + missed == size
    asleep.settimeout(60)
    early = read_on(asleep, b"")
    assert 0 < len(early) < size, "it has what its socket took"
    for text in (seen[0], early):
        assert truth.startswith(text.partition(b"\n[quoin")[0])
    asleep.close()


@pytest.mark.requirement("DEV-08")
def test_who_reads_too_slowly_is_told_how_much_was_left_out(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attach, "BACKLOG", 1 << 16)
    slow, _ = visit(owner.path)
    slow.settimeout(60)
    data = TEXT.encode() * 40
    owner.target.sendall(data)
    wait_received(owner.broker, len(data))
    seen = b""
    while reached(seen, data) != len(data):
        seen += slow.recv(1 << 16)
    assert shown(seen)[1] > 0
    owner.target.sendall(b"and on\n")
    while reached(seen, data + b"and on\n") != len(data) + len(b"and on\n"):
        seen += slow.recv(1 << 16)
    slow.close()


# Who is there, and what they may.


@pytest.mark.requirement("DEV-08")
def test_who_types_is_named_in_the_log_and_who_watches_cannot(owner: Owner) -> None:
    typist, _ = visit(owner.path, typing=True)
    watcher, _ = visit(owner.path)
    watcher.sendall(b"rm everything\r")
    watcher.close()
    wait_logged(owner.broker, "detached: ")
    typist.sendall(b"p")
    typist.sendall(b"s\runame")
    owner.target.settimeout(60)
    typed = b""
    while len(typed) < len(b"ps\runame"):
        typed += owner.target.recv(100)
    assert typed == b"ps\runame"
    typist.close()
    wait_logged(owner.broker, "uname")
    who = rf"\w+, process {os.getpid()}"
    lines = [f"{line.direction.value} {line}" for line in owner.broker.recent]
    for wanted in (rf"! attached: {who}, typing", rf"! attached: {who}, watching", rf"! detached: {who}"):
        assert [line for line in lines if re.fullmatch(wanted, line)], (wanted, lines)
    said = [line for line in lines if line.startswith(">")]
    assert len(said) == 2, said
    assert re.fullmatch(rf"> \[{who}\] ps", said[0]) and re.fullmatch(rf"> \[{who}\] uname", said[1]), said


@pytest.mark.requirement("DEV-08")
def test_the_socket_is_its_owners_alone_and_goes_with_the_session(tmp_path: Path) -> None:
    owner = Owner(tmp_path)
    assert stat.S_IMODE(owner.path.stat().st_mode) == 0o600
    owner.target.sendall(b"hello\n")
    wait_received(owner.broker, len(b"hello\n"))
    connection, text = visit(owner.path)
    owner.target.sendall(b"bye\n")
    wait_received(owner.broker, len(b"hello\nbye\n"))
    stranger = socket.socket(socket.AF_UNIX)
    stranger.connect(str(owner.path))
    stranger.sendall(b"no hello" * 1000)
    stranger.settimeout(60)
    with contextlib.suppress(ConnectionResetError):
        assert stranger.recv(100) == b""
    owner.close()
    assert read_on(connection, text) == b"hello\nbye\n"
    connection.close()
    stranger.close()
    assert not owner.path.exists()
    with pytest.raises(LabError, match=r"wanted an answer at .*, found: .*No such file.*`quoin attach` lists"):
        visit(owner.path)


# Clocks.


@pytest.mark.requirement("DEV-08", "OBS-08")
def test_a_held_attach_stops_the_clocks_until_it_is_gone(tmp_path: Path) -> None:
    with session_of(tmp_path, "hello\n", Then.ECHO) as session:
        session.console.expect("hello")
        pid = str(session.machine.pid)
        holder = quoin("attach", "--pid", pid, "--hold")
        holder.expect(r"\[qemu-riscv64-smp1: watching, the clocks stand; Ctrl-\] leaves; log: .*console.log\]")
        timed_out = threading.Event()

        def wait() -> None:
            with pytest.raises(ExpectTimeout):
                session.console.expect("never", 0.2)
            with pytest.raises(ExpectTimeout):
                session.console.expect_panic(0.2)
            timed_out.set()

        thread = threading.Thread(target=wait, daemon=True)
        began = session.hang_clock.now(), session.hang_clock.host()
        thread.start()
        # The guest itself goes on, for as long as it takes to answer.
        for number in range(20):
            session.broker.send(b"%d\n" % number)
            wait_logged(session.broker, rf"^{number}$")
        assert not timed_out.wait(1)
        assert session.hang_clock.now() <= began[0] and session.hang_clock.host() == began[1]
        # A killed holder lets go, too.
        holder.kill(signal.SIGKILL)
        assert timed_out.wait(60)
        thread.join(60)
        assert session.hang_clock.host() > began[1]
        wait_logged(session.broker, rf"detached: \w+, process {holder.pid}")
        holder.close()


PROJECT = """
import pytest
from harness.console import ExpectTimeout

def runs_out(session):
    with pytest.raises(ExpectTimeout):
        session.console.expect("never", 0.2)

def test_with_a_debugger(boot):
    session = boot(ready=False)
    session.console.expect("hello")
    breakpoint()
    runs_out(session)
    assert session.board.smp == 2
"""


@pytest.mark.requirement("DEV-08", "OBS-08")
def test_clocks_stand_at_the_debuggers_prompt_and_go_in_the_steps_that_it_runs(tmp_path: Path) -> None:
    write_tiny_guest(tmp_path / "guest", "hello\n", Then.SLEEP)
    (tmp_path / "boards").mkdir()
    (tmp_path / "boards" / "own.yaml").write_text(BOARD)
    (tmp_path / "test_own.py").write_text(PROJECT)
    words = command("--board", "own", "--pdb", "test_own.py")
    child = pexpect.spawn(words[0], words[1:], cwd=str(tmp_path), env=environment(), encoding="utf-8", timeout=120)
    child.delaybeforesend = None
    clock = re.compile(r"clock (\d+\.\d+) (\d+\.\d+)\r\n")

    def read_clock() -> tuple[float, float]:
        child.expect_exact("(Pdb) ")
        child.sendline("print('clock', session.hang_clock.now(), session.hang_clock.host())")
        child.expect(clock)
        assert isinstance(child.match, re.Match)
        return float(child.match[1]), float(child.match[2])

    first, second = read_clock(), read_clock()
    assert second[0] <= first[0] and second[1] == first[1]
    # The step ends by its own limit: a clock that stood would let it wait for ever.
    child.sendline("next")
    child.expect_exact("(Pdb) ")
    child.sendline("continue")
    child.expect("PDB post_mortem")
    third, fourth = read_clock(), read_clock()
    assert third[1] > second[1]
    assert fourth[0] <= third[0] and fourth[1] == third[1]
    child.expect_exact("(Pdb) ")
    child.sendline("continue")
    child.expect("1 failed")
    child.expect(pexpect.EOF)
    child.close()


# The whole.


def quoin(*words: str) -> pexpect.spawn[str]:
    child = pexpect.spawn(sys.executable, ["-m", "harness.cli", *words], cwd=str(TOP), encoding="utf-8", timeout=120)
    child.delaybeforesend = None
    return child


@pytest.mark.requirement("DEV-08")
def test_quoin_attach_joins_the_session_of_another_process(tmp_path: Path) -> None:
    guest, log = write_tiny_guest(tmp_path / "guest", "hello\n", Then.ECHO), tmp_path / "console.log"
    owner = pexpect.spawn(
        sys.executable, ["-c", OWNER, str(RISCV), str(guest), str(log)], cwd=str(TOP), encoding="utf-8", timeout=120
    )
    owner.delaybeforesend = None
    owner.expect("hello\r\n")
    (one,) = [one for one in machines.running() if one.owner == owner.pid]
    listing = quoin("attach")
    listing.expect(rf"qemu-riscv64-smp1: QEMU is process {one.pid}, on since [\d:]+ for process {owner.pid}")
    listing.expect(pexpect.EOF)
    watcher = quoin("attach", "--pid", str(one.pid))
    watcher.expect(r"\[qemu-riscv64-smp1: watching; Ctrl-\] leaves; log: .*console.log\]")
    watcher.expect("hello\r\n")
    typist = quoin("attach", "--pid", str(one.pid), "--type")
    typist.expect(r"typing; Ctrl-\] leaves")
    typist.expect("hello\r\n")
    # Its terminal is raw now, so what comes back is the guest's echo alone.
    watcher.send("not this")
    typist.send("abc\n")
    for person in (typist, watcher, owner):
        person.expect("abc")
        assert "not this" not in str(person.before)
    typist.send("\x1d")
    typist.expect(pexpect.EOF)
    owner.send("\x1d")
    owner.expect(pexpect.EOF)
    watcher.expect("the session has ended")
    watcher.expect(pexpect.EOF)
    assert not one.folder.exists()
    assert re.search(rf"> \[\w+, process {typist.pid}\] abc$", log.read_text(), re.MULTILINE), log.read_text()
    assert "not this" not in log.read_text()


@pytest.mark.requirement("DEV-08")
def test_quoin_attach_says_what_there_is_to_attach_to(capfd: pytest.CaptureFixture[str]) -> None:
    from harness.cli import main

    assert main(["attach", "rack-7"]) == 1
    said = capfd.readouterr().err
    assert "wanted a machine on rack-7" in said and "found none; start one (`quoin console rack-7`" in said
