"""How fast consoles are read: ours beside labgrid's drivers, and beside `head` on a guest that prints flat out.

Run with `pytest -m bench testsuites/bench/test_console_speed.py`.
"""

from __future__ import annotations

import os
import pty
import socket
import subprocess
import threading
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from labgrid import Target
from labgrid.binding import BindingState
from labgrid.driver import QEMUDriver, SerialDriver
from labgrid.resource import NetworkSerialPort

from harness.board import Board
from harness.console import Broker, Console, LogFile
from harness.machine import BootFiles, QemuMachine
from harness.machine.tiny_guest import Then, write_tiny_guest
from harness.measure.plugin import Metric

ROUNDS = 3
# A guest's speed varies with whatever else the host does: the best of more.
FLAT_OUT_ROUNDS = 5
BYTES = 4 << 20
LINE = b"0123456789abcdef" * 4 + b"\r\n"
# As much as each of labgrid's drivers reads in a few seconds.
QEMU_DRIVER_BYTES, SERIAL_DRIVER_BYTES = 1 << 19, 1 << 14
LAST = b"the last line\r\n"


class Port:
    """The master of a pty, as a console."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        os.close(self._fd)


def text(size: int, path: Path) -> Path:
    """A file of about `size` bytes of lines."""
    path.write_bytes(LINE * (size // len(LINE)) + LAST)
    return path


@contextmanager
def fed(path: Path, fd: int) -> Iterator[None]:
    """Another process writes a file to `fd`, as fast as that takes it."""
    with path.open("rb") as source:
        writer = subprocess.Popen(["cat"], stdin=source, stdout=fd)
    try:
        yield
        assert writer.wait(60) == 0
    finally:
        writer.kill()
        writer.wait(10)


def read_ours(path: Path, console: socket.socket | Port, fd: int, log: Path) -> tuple[float, float]:
    """Seconds of this process's CPU, and on the clock, until `expect` has the last line; with a log."""
    broker = Broker(console)
    sink = LogFile(log, 0.0)
    broker.attach(sink)
    broker.start()
    try:
        cpu, clock = time.process_time(), time.monotonic()
        with fed(path, fd):
            Console(broker).expect("^the last line$", 60)
            took = time.process_time() - cpu, time.monotonic() - clock
        assert broker.received == path.stat().st_size
        return took
    finally:
        broker.close()
        sink.close()


def over_a_socket(path: Path, log: Path) -> tuple[float, float]:
    ours, theirs = socket.socketpair()
    with theirs:
        return read_ours(path, ours, theirs.fileno(), log)


def over_a_pty(path: Path, log: Path) -> tuple[float, float]:
    master, slave = pty.openpty()
    tty.setraw(slave)
    try:
        return read_ours(path, Port(master), slave, log)
    finally:
        os.close(slave)


def qemu_driver_seconds(path: Path) -> float:
    """labgrid's QEMUDriver on a socket of ours, in the place of its QEMU's."""
    ours, theirs = socket.socketpair()
    driver = QEMUDriver(Target("main"), "qemu", qemu_bin="qemu", machine="virt", cpu="max", memory="64M")
    driver._clientsocket = ours
    driver.state = BindingState.active
    with ours, theirs, fed(path, theirs.fileno()):
        began = time.monotonic()
        driver.expect("the last line", timeout=120)
        took = time.monotonic() - began
    driver.state = BindingState.bound
    return took


def serial_driver_seconds(path: Path) -> float:
    """labgrid's SerialDriver on a raw TCP port, as a console server offers it."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            client, _ = server.accept()
            with client:
                client.sendall(path.read_bytes())
                client.recv(1)

        threading.Thread(target=serve, daemon=True).start()
        target = Target("main")
        NetworkSerialPort(target, "port", host="127.0.0.1", port=server.getsockname()[1], protocol="raw")
        driver = SerialDriver(target, "serial")
        target.activate(driver)
        try:
            began = time.monotonic()
            driver.expect("the last line", timeout=300)
            return time.monotonic() - began
        finally:
            target.deactivate(driver)


@pytest.mark.bench
@pytest.mark.requirement("TST-11", "DEV-03")
def test_console_beside_labgrids_drivers(tmp_path: Path, metric: Metric) -> None:
    whole, log = text(BYTES, tmp_path / "whole"), tmp_path / "console.log"
    sockets = [over_a_socket(whole, log) for _ in range(ROUNDS)]
    ptys = [over_a_pty(whole, log) for _ in range(ROUNDS)]
    part = text(QEMU_DRIVER_BYTES, tmp_path / "part")
    little = text(SERIAL_DRIVER_BYTES, tmp_path / "little")
    rate = whole.stat().st_size / min(clock for _, clock in sockets)
    over_qemu = rate * qemu_driver_seconds(part) / part.stat().st_size
    over_serial = rate * serial_driver_seconds(little) / little.stat().st_size
    socket_ms, pty_ms = (1000 * min(cpu for cpu, _ in times) for times in (sockets, ptys))
    print(
        f"4 MiB take {socket_ms:.1f} ms of CPU from a socket, {pty_ms:.1f} ms from a pty; {rate / 1e6:.0f} MB/s "
        f"from a socket, {over_qemu:.0f} times QEMUDriver, {over_serial:.0f} times SerialDriver"
    )
    metric("console.socket_cpu", socket_ms, unit="ms", noise=None)
    metric("console.pty_cpu", pty_ms, unit="ms", noise=None)
    metric("console.over_qemudriver", over_qemu, unit="times", better="higher", noise=None)
    metric("console.over_serialdriver", over_serial, unit="times", better="higher", noise=None)


@pytest.mark.bench
@pytest.mark.requirement("TST-11")
def test_round_trip_of_expect(metric: Metric) -> None:
    ours, theirs = socket.socketpair()
    broker = Broker(ours)
    console = Console(broker)
    broker.start()

    def echo() -> None:
        while typed := theirs.recv(4096):
            theirs.sendall(b"heard " + typed)

    threading.Thread(target=echo, daemon=True).start()
    took = []
    for number in range(1000):
        began = time.perf_counter()
        console.sendline(f"say {number}")
        console.expect(f"^heard say {number}$", 10)
        took.append(1e6 * (time.perf_counter() - began))
    broker.close()
    metric.samples("console.expect", took, unit="us", noise=None)


def seconds_for(board: Board, files: BootFiles, size: int, read: Callable[[QemuMachine], None]) -> float:
    """How long a guest that prints flat out takes for `size` bytes that `read` reads."""
    machine = QemuMachine(board, files)
    machine.on()
    try:
        began = time.monotonic()
        read(machine)
        return time.monotonic() - began
    finally:
        machine.off()


@pytest.mark.bench
@pytest.mark.requirement("TST-11", "DEV-08")
def test_console_of_a_guest_that_prints_flat_out(board: Board, tmp_path: Path, metric: Metric) -> None:
    if board.arch != "riscv64":
        pytest.skip("the guest of twenty instructions that prints for ever is one for RISC-V")
    lone = replace(board, smp=1)
    guest = write_tiny_guest(
        tmp_path / "guest", "the quick brown fox jumps over the lazy dog, again\n" * 20, Then.REPEAT
    )
    size, log = 1 << 20, tmp_path / "console.log"

    def plainly(machine: QemuMachine) -> None:
        subprocess.run(
            ["head", "-c", str(size)], stdin=machine.console_socket.fileno(), stdout=subprocess.DEVNULL, check=True
        )

    def ours(machine: QemuMachine) -> None:
        broker = Broker(machine.console_socket)
        sink = LogFile(log, 0.0)
        broker.attach(sink)
        broker.start()
        with broker.changed:
            assert broker.changed.wait_for(lambda: broker.received >= size, 120)
        broker.close()
        sink.close()

    plain_s = ours_s = float("inf")
    for _ in range(FLAT_OUT_ROUNDS):
        plain_s = min(plain_s, seconds_for(lone, BootFiles(guest), size, plainly))
        ours_s = min(ours_s, seconds_for(lone, BootFiles(guest), size, ours))
    print(f"{size >> 20} MiB of a guest's text: {ours_s:.3f} s, by `head` {plain_s:.3f} s")
    metric("console.of_cat", plain_s / ours_s, unit="times", better="higher", noise=None)
