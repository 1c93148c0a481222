"""The broker on real sockets and ptys, with a scripted peer at the other end."""

from __future__ import annotations

import os
import pty
import select
import socket
import threading
import time
import tty
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.console import (
    Broker,
    Channel,
    Console,
    ConsoleClosed,
    ConsoleFault,
    Direction,
    ExpectTimeout,
    Line,
    LogFile,
    TargetPanicked,
)
from harness.console.broker import PIECE
from harness.console.framing import Frame, decode, encode


class Peer:
    """The target's end of a console."""

    def __init__(self) -> None:
        ours, self.socket = socket.socketpair()
        self.broker = Broker(ours)
        self.console = Console(self.broker)
        self.channel = Channel(self.broker)
        self.broker.start()
        self.socket.settimeout(10)

    def says(self, data: bytes) -> None:
        self.socket.sendall(data)

    def read_line(self) -> bytes:
        line = b""
        while not line.endswith(b"\n"):
            line += self.socket.recv(1)
        return line

    def close(self) -> None:
        self.socket.close()
        self.broker.close()


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.close()


def background(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


PANIC = b"PANIC cpu1: index out of range at kernel/src/mm/mod.rs:41:9\nPANIC cpu1: #0 0x10\nPANIC end\n"


@pytest.mark.requirement("TST-02")
def test_text_is_found_in_order_and_once(peer: Peer) -> None:
    peer.says(b"one\r\ntwo\r\ntwo\r\n$ ")
    assert peer.console.expect("^one$", 5).group() == b"one"
    assert peer.console.expect(r"^t(\w+)", 5).group(1) == b"wo"
    assert peer.console.before == b"\n"
    peer.console.expect("^two", 5)
    peer.console.expect(r"^\$ ", 5)
    with pytest.raises(ExpectTimeout, match=r"no 'two' on the console within 0\.05 s"):
        peer.console.expect("two", 0.05)


@pytest.mark.requirement("TST-02")
def test_a_match_over_the_edge_of_two_pieces_is_found(peer: Peer) -> None:
    found: list[bytes] = []
    thread = background(lambda: found.append(peer.console.expect("needle-in-two", 5).group()))
    peer.says(b"x" * 100_000 + b"needle-")
    with peer.broker.changed:
        peer.broker.changed.wait_for(lambda: peer.broker.received >= 100_007, 5)
    peer.says(b"in-two\n")
    thread.join(5)
    assert found == [b"needle-in-two"]


@pytest.mark.requirement("TST-02")
def test_bytes_are_kept_though_nobody_is_reading(peer: Peer) -> None:
    lines = b"".join(b"line %06d\n" % number for number in range(20_000))
    peer.says(lines)
    peer.console.expect("^line 019999$", 10)
    assert peer.broker.received == len(lines)


@pytest.mark.requirement("TST-02")
def test_four_mebibytes_are_searched_in_a_bounded_window(peer: Peer) -> None:
    piece = b"0123456789abcde\n" * 65536
    background(lambda: peer.says(piece * 4 + b"the end\n"))
    peer.console.expect("^the end$", 30)
    assert len(peer.broker.window.text) <= 2 << 20


@pytest.mark.requirement("TST-02")
def test_the_end_of_the_console_wakes_whoever_waits(peer: Peer) -> None:
    peer.says(b"last words")
    background(lambda: peer.socket.shutdown(socket.SHUT_RDWR))
    with pytest.raises(ConsoleClosed, match="ended before 'never'"):
        peer.console.expect("never", 30)
    assert str(peer.console.last_lines(1)[0]) == "last words"


@pytest.mark.requirement("DEV-02", "TST-30")
def test_what_was_printed_before_the_end_is_read_before_the_end_is_told() -> None:
    ours, theirs = socket.socketpair()
    broker = Broker(ours)
    console = Console(broker)
    try:
        theirs.sendall(b"boot: cpus: 4\n" + PIECE * b"x" + b"\nlast words\n")
        # The monitor is heard at once, and the console when its thread gets a CPU.
        broker.stop("the guest reset the machine")
        broker.start()
        assert console.expect("last words", 10)
        with pytest.raises(ConsoleClosed, match="the guest reset the machine"):
            console.expect("more", 10)
        broker.drain(10)
    finally:
        broker.close()
        theirs.close()
    with pytest.raises(ConsoleFault, match="closed by the lab"):
        broker.drain(3600)


@pytest.mark.requirement("OBS-09", "TST-02")
def test_a_panic_ends_every_wait_with_its_whole_report(peer: Peer) -> None:
    peer.says(b"$ " + PANIC)
    with pytest.raises(TargetPanicked) as error:
        peer.console.expect("never", 30)
    report = error.value.report
    assert report.complete
    assert report.location == ("kernel/src/mm/mod.rs", 41)
    with pytest.raises(TargetPanicked):
        peer.channel.receive(30)


@pytest.mark.requirement("OBS-09", "TST-02")
def test_a_panic_that_is_provoked_can_be_asked_for(peer: Peer) -> None:
    peer.says(PANIC)
    assert peer.console.expect_panic(5).message.startswith("PANIC cpu1: index out of range")
    with pytest.raises(ExpectTimeout):
        peer.console.expect("anything", 0.05)


@pytest.mark.requirement("OBS-09", "TST-02")
def test_a_target_that_dies_in_its_panic_does_not_hang_the_report(peer: Peer) -> None:
    peer.says(PANIC[:70])
    peer.socket.shutdown(socket.SHUT_RDWR)
    with pytest.raises((TargetPanicked, ConsoleClosed)):
        peer.console.expect("never", 30)


@pytest.mark.requirement("TST-02")
def test_a_shell_command_gives_what_it_printed(peer: Peer) -> None:
    def shell() -> None:
        for answer in (b"1 init\r\n2 testd\r\n", b""):
            line = peer.read_line()
            peer.says(line.rstrip(b"\n") + b"\r\n" + answer + b"$ ")

    background(shell)
    assert peer.console.command("ps", 5) == "1 init\n2 testd\n"
    assert peer.console.command("true", 5) == ""


@pytest.mark.requirement("TST-02")
def test_an_unacknowledged_frame_is_sent_again(peer: Peer) -> None:
    tries = 0

    def target() -> None:
        nonlocal tries
        for tries in range(1, 4):
            frame = decode(peer.read_line()[:-1])
            assert isinstance(frame, Frame)
            if tries == 3:
                peer.says(encode(0, f"ack {frame.sequence:04x}"))

    thread = background(target)
    peer.channel.send("ping", 5)
    thread.join(5)
    assert tries == 3


@pytest.mark.requirement("TST-02")
def test_an_answer_that_overtakes_the_acknowledgement_is_kept(peer: Peer) -> None:
    def target() -> None:
        frame = decode(peer.read_line()[:-1])
        assert isinstance(frame, Frame)
        peer.says(b"noise\n$ " + encode(5, "pong") + encode(6, f"ack {frame.sequence:04x}"))

    background(target)
    peer.channel.ping(5)
    assert b"pong" not in peer.broker.window.text


@pytest.mark.requirement("TST-02")
@pytest.mark.parametrize(
    "sent", [encode(4, "ok 1 a:b").replace(b"ok", b"ko"), encode(4, "1..1") + encode(6, "ok 1 a:b")]
)
def test_a_torn_or_lost_frame_is_a_fault_and_never_a_result(peer: Peer, sent: bytes) -> None:
    peer.says(encode(3, "KTAP version 1") + sent)
    with pytest.raises(ConsoleFault, match="No result of this run can be trusted"):
        for _ in range(4):
            assert not peer.channel.receive(5).startswith("ok")


@pytest.mark.requirement("TST-02")
def test_a_silent_target_is_a_timeout_that_says_how_often_it_was_asked(peer: Peer) -> None:
    with pytest.raises(ExpectTimeout, match=r"acknowledged no frame within 0.5 s \(3 tries\)"):
        peer.channel.send("ping", 0.5)


@pytest.mark.requirement("TST-02")
def test_a_target_that_reads_nothing_does_not_block_the_sender(peer: Peer) -> None:
    peer.console.send(b"x" * (8 << 20))


@pytest.mark.requirement("TST-02")
def test_a_pty_is_as_good_as_a_socket() -> None:
    target, ours = pty.openpty()
    tty.setraw(ours)

    class Port:
        def fileno(self) -> int:
            return ours

        def close(self) -> None:
            os.close(ours)

    broker = Broker(Port())
    broker.start()
    try:
        console = Console(broker)
        os.write(target, b"hello\r\n$ ")
        console.expect(r"^\$ ", 5)
        console.sendline("ps")
        assert select.select([target], [], [], 5)[0]
        assert os.read(target, 100) == b"ps\n"
        os.close(target)
        with pytest.raises(ConsoleClosed):
            console.expect("never", 5)
    finally:
        broker.close()


@pytest.mark.requirement("TST-02")
def test_the_log_has_every_line_with_time_and_direction(peer: Peer, tmp_path: Path) -> None:
    log = LogFile(tmp_path / "deep" / "console.log", time.monotonic())
    peer.broker.attach(log)
    peer.says(b"hello\r\n" + encode(1, "pong"))
    peer.console.expect("hello\n", 5)
    peer.console.sendline("ps")
    peer.broker.note("the host says so")
    peer.broker.detach(log)
    log.close()
    lines = [line.split(maxsplit=2) for line in log.path.read_text().splitlines()]
    assert [line[1:] for line in lines if line[1] != "|"] == [[">", "ps"], ["!", "the host says so"]]
    assert ["|", "hello"] in [line[1:] for line in lines]
    assert any(line[2].startswith("<SOH>0001") for line in lines)
    times = [float(line[0]) for line in lines]
    assert times == sorted(times) and times[0] >= 0


@pytest.mark.requirement("TST-02")
def test_a_full_disk_is_kept_as_the_logs_fault(tmp_path: Path) -> None:
    path = tmp_path / "console.log"
    path.symlink_to("/dev/full")
    log = LogFile(path, 0.0)
    log.line(Line(b"text", 1.0, Direction.FROM_TARGET))
    log.flush()
    log.line(Line(b"more", 2.0, Direction.FROM_TARGET))
    log.close()
    assert log.fault is not None and "No space left" in str(log.fault)


@pytest.mark.requirement("TST-02")
def test_a_log_that_cannot_be_made_is_a_fault_and_not_a_crash(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert LogFile(tmp_path / "file" / "console.log", 0.0).fault is not None
