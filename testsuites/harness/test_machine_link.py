"""The switch between boards, by its own counters. Boards are sockets here, or guests of a few instructions."""

from __future__ import annotations

import itertools
import json
import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness.machine import MachineError, Misuse
from harness.machine.link import Conditions, Counts, NetworkLink, SerialLink, Way
from harness.machine.tiny_bridge import write_tiny_bridge
from support.projects import lay_out, run_pytest

pytestmark = pytest.mark.requirement("TST-26")
LIMIT_S = 60.0
ALL = b"\xff" * 6


class Nic:
    """A board's end of a network, in QEMU's framing."""

    def __init__(self, link: NetworkLink, node: int) -> None:
        self.address = bytes.fromhex(link.address(node).replace(":", ""))
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(LIMIT_S)
        self._socket.connect(link.path(node))

    def close(self) -> None:
        self._socket.close()

    def send(self, to: bytes, *numbers: int) -> None:
        for number in numbers:
            frame = to + self.address + b"\x88\xb5" + number.to_bytes(4, "big")
            self._socket.sendall(len(frame).to_bytes(4, "big") + frame)

    def receive(self, count: int) -> list[int]:
        frames = [self._read(int.from_bytes(self._read(4), "big")) for _ in range(count)]
        return [int.from_bytes(frame[14:], "big") for frame in frames]

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self._socket.recv(size - len(data))
            assert piece, "the switch has closed"
            data += piece
        return data


@contextmanager
def network(nodes: int, conditions: str = "", seed: int = 1) -> Iterator[tuple[NetworkLink, list[Nic]]]:
    """A switch whose boards are all there."""
    with ExitStack() as stack:
        link = NetworkLink(nodes, conditions, seed=seed)
        stack.callback(link.close)
        cards = [Nic(link, node) for node in range(nodes)]
        for card in cards:
            stack.callback(card.close)
        link.wait_joined(LIMIT_S)
        yield link, cards


def fates(seed: int, conditions: str, count: int) -> list[int]:
    """The numbers that arrive of `count` frames, and of a last one that nothing befalls, on a link of its own."""
    with network(2, conditions, seed) as (link, (one, two)):
        one.send(two.address, *range(count))
        link.wait(0, 1, lambda counts: counts.sent == count, LIMIT_S)
        link.set("loss=0,reorder=0")
        one.send(two.address, count)
        after = link.wait(0, 1, lambda counts: counts.sent == count + 1 and counts.waiting == 0, LIMIT_S)
        assert (after.delivered + after.lost, after.dropped) == (count + 1, 0)
        return two.receive(after.delivered)


def test_the_same_seed_is_the_same_loss_and_order() -> None:
    first = fates(7, "loss=20%,reorder=20%", 200)
    assert fates(7, "loss=20%,reorder=20%", 200) == first
    assert fates(8, "loss=20%,reorder=20%", 200) != first
    kept = sorted(first)
    assert kept != first and len(set(first)) == len(first), "some were overtaken, none came twice"
    assert 0.1 < 1 - len(first) / 201 < 0.3
    assert sorted(fates(7, "loss=20%", 200)) == kept, "whether frames are overtaken does not change which are lost"


def test_a_frame_that_is_held_back_is_overtaken_by_the_next_and_by_no_other() -> None:
    with network(2, "reorder=100%") as (link, (one, two)):
        one.send(two.address, 1, 2, 3, 4, 5)
        assert two.receive(4) == [2, 1, 4, 3]
        counts = link.wait(0, 1, lambda counts: counts.sent == 5, LIMIT_S)
        assert (counts.reordered, counts.waiting) == (2, 1)


def test_a_switch_sends_to_who_is_known_and_to_all_who_is_not() -> None:
    with network(3) as (link, (one, two, three)):
        two.send(ALL, 1)
        assert (one.receive(1), three.receive(1)) == ([1], [1])
        one.send(two.address, 2)
        assert two.receive(1) == [2]
        assert link.counts(0, 2) == Counts()
        one.send(three.address, 3)  # who has not spoken yet
        assert (two.receive(1), three.receive(1)) == ([3], [3])


def test_a_partition_lets_each_group_talk_and_none_hear_the_other() -> None:
    with network(3, "delay=3600s") as (link, (one, two, three)):
        three.send(one.address, 1)
        link.wait(2, 0, lambda counts: counts.waiting == 1, LIMIT_S)
        told: list[str] = []
        link.tell = told.append
        link.partition([0, 1], [2])
        cut = link.counts(2, 0)
        assert (cut.waiting, cut.cut) == (0, 1), "what was under way is cut as well"
        link.set("delay=0")
        one.send(ALL, 2)
        assert two.receive(1) == [2]
        link.wait(0, 2, lambda counts: counts.cut == 1, LIMIT_S)
        link.heal()
        one.send(ALL, 3)
        assert (two.receive(1), three.receive(1)) == ([3], [3])
        three.send(one.address, 4)
        assert one.receive(1) == [4], "it waits for nothing that has been cut"
        link.cut()
        two.send(one.address, 5)
        link.wait(1, 0, lambda counts: counts.cut == 1, LIMIT_S)
        assert told == ["parts 0,1 | 2", "delay=0", "heals", "parts 0 | 1 | 2"]


def test_delay_and_bandwidth_say_when_a_frame_arrives() -> None:
    way = Way(0, 1, random.Random(1))
    slow = Conditions().changed("delay=5ms, bandwidth=8k")
    arrivals = [way.arrival_s(100.0, 8 * 100, slow) for _ in range(2)]
    assert arrivals == pytest.approx([100.105, 100.205])
    assert way.arrival_s(100.1, 8, slow.changed("delay=0,bandwidth=0")) == arrivals[1], "none overtakes"
    assert way.arrival_s(200.0, 8, slow.changed("bandwidth=0")) == pytest.approx(200.005)


def test_a_full_queue_and_a_board_that_is_off_are_dropped_frames() -> None:
    with network(2, "delay=3600s") as (link, (one, two)):
        one.send(two.address, *range(1100))
        counts = link.wait(0, 1, lambda counts: counts.sent == 1100, LIMIT_S)
        assert (counts.waiting, counts.dropped) == (1000, 100)
    link = NetworkLink(2)
    try:
        alone = Nic(link, 0)
        alone.send(ALL, 1)
        assert link.wait(0, 1, lambda counts: counts.sent == 1, LIMIT_S).dropped == 1
        alone.close()
    finally:
        link.close()


@pytest.mark.parametrize("text", ["los=1%", "loss=0.1", "loss=101%", "delay=5", "delay=-5ms", "bandwidth=1X", "foo=0"])
def test_other_conditions_are_refused_with_what_was_wanted(text: str) -> None:
    with pytest.raises(MachineError, match=r"wanted conditions of a link such as .*; found .*; next: "):
        Conditions().changed(text)


def test_a_switch_has_addresses_for_255_boards() -> None:
    assert NetworkLink.address(254) == "52:54:00:00:00:ff"
    with pytest.raises(MachineError, match="wanted at most 255 boards on one switch; found: 256"):
        NetworkLink(256)


def test_conditions_are_changed_one_by_one() -> None:
    both = Conditions().changed("delay=2s,loss=1%,bandwidth=1.5M").changed("loss=0,reorder=25%")
    assert (both.delay, both.loss, both.reorder, both.bandwidth) == (2.0, 0.0, 0.25, 1.5e6)


def test_a_serial_line_has_two_ends_and_keeps_its_order() -> None:
    with pytest.raises(MachineError, match="wanted 2 boards at the ends of a serial line, found 3"):
        SerialLink(3)
    with pytest.raises(MachineError, match="its bytes keep their order"):
        SerialLink(2, "reorder=1%")
    line = SerialLink(2, "bandwidth=1M")
    try:
        ends = [socket.socket(socket.AF_UNIX) for _ in range(2)]
        for node, end in enumerate(ends):
            end.settimeout(LIMIT_S)
            end.connect(line.path(node))
        line.wait_joined(LIMIT_S)
        text = bytes(range(256)) * 8
        ends[0].sendall(text)
        heard = b""
        while len(heard) < len(text):
            heard += ends[1].recv(4096)
        assert heard == text, "a sender waits, and a queue does not overflow"
        for end in ends:
            end.close()
    finally:
        line.close()


BRIDGE = """\
targets:
  main:
    features: [qmp]
    drivers:
      QuoinQemuDriver:
        arch: x86_64
        binary: qemu-system-x86_64
        machine: q35
        cpu: max
        smp: 1
        memory: 64M
        ready: '^bridge: ready'
        boot_timeout_s: 60
        kernel: guest
images:
  guest: ../guest
"""
TALK = r"""
import os
import subprocess
import sys

import pytest

HOLDERS = "from harness.board import admission; print(admission().holders())"

def test_talk(nodes):
    with pytest.raises(ValueError, match="wanted one machine of bridge or more"):
        nodes(0)
    two = nodes(2, uart="")
    held = subprocess.run([sys.executable, "-c", HOLDERS], capture_output=True, text=True, check=True).stdout
    ours = next(words for words in held.split("; ") if words.startswith(f"process {os.getpid()} "))
    assert ours.rpartition(": ")[2].strip() == "2", held
    two[0].console.send("to the other one\n")
    two[1].console.expect(r"^to the other one\n", 60)
    two[1].console.send("and back\n")
    two[0].console.expect(r"^and back\n", 60)
    two.uart.cut()
    two[0].console.send("gone\n")
    two.uart.wait(0, 1, lambda counts: counts.cut == len("gone\n"), 60)
    two.uart.heal()
    two[0].console.send("there again\n")
    two[1].console.expect(r"there again\n", 60)
    assert b"gone" not in two[1].console.before
    for _ in range(2):
        two[1].reset()
        two[1].wait_ready()
        two[0].console.send("after a reset\n")
        two[1].console.expect(r"^after a reset\n", 60)
    assert two[1].machine.guest_reset is None
    two[1].reset_expected = True
    two[1].qmp("inject-nmi")  # without a table of vectors a triple fault
    two[1].machine.wait_event("SHUTDOWN", 60)
    assert two[1].machine.guest_reset is not None, "what comes after the first line is the kernel's"
"""


@pytest.mark.requirement("BLD-10", "OBS-14")
def test_two_boards_talk_over_their_second_ports_and_the_report_has_both_on_one_clock(tmp_path: Path) -> None:
    lay_out(tmp_path, TALK, name="bridge", board=BRIDGE)
    write_tiny_bridge(tmp_path / "guest", "bridge: ready\n")
    ran = run_pytest(tmp_path, "-q", "--board", "bridge", "--report", timeout_s=600)
    assert ran.returncode == 0, ran.stdout[-6000:]
    (folder,) = (tmp_path / "build" / "reports").iterdir()
    run = json.loads((folder / "run.json").read_text())
    consoles = json.loads((folder / "consoles.json").read_text())
    first, second = run["machines"]
    assert run["tests"][0]["machines"] == [first["name"], second["name"]]

    def when(machine: dict[str, Any], sign: str, text: str) -> float:
        lines, _ = consoles[machine["name"]]
        at_s: float = next(at for at, how, line in lines if how == sign and text in line)
        return at_s + float(machine["started_s"])

    told = [
        when(first, ">", "to the other one"),
        when(second, "|", "to the other one"),
        when(second, ">", "and back"),
        when(first, "|", "and back"),
        when(first, "!", "uart of 2 boards, this is 0: parts 0 | 1"),
        when(second, "!", "uart of 2 boards, this is 1: heals"),
        when(second, "|", "there again"),
    ]
    # Each console's clock is rounded in the report, by a millisecond at most.
    assert all(before <= after + 0.002 for before, after in itertools.pairwise(told)), told


@pytest.mark.requirement("ERR-01")
def test_groups_and_ways_that_there_are_not_are_refused_and_change_nothing() -> None:
    with network(3) as (link, (one, two, _)):
        link.partition([0, 1], [2])
        for groups in (([-1],), ([0, 1], [0]), ([0], [7]), (["0"],), (1,)):
            with pytest.raises(
                Misuse, match=r"wanted groups of boards from 0 to 2, each in one .*; found: partition\("
            ):
                link.partition(*groups)
        one.send(two.address, 1)
        assert two.receive(1) == [1]
        with pytest.raises(Misuse, match=r"wanted the way from one board to another, 0 to 2; found: from 0 to 0"):
            link.counts(0, 0)
        with pytest.raises(Misuse, match=r"found: from 0 to 3"):
            link.wait(0, 3, lambda counts: True, LIMIT_S)
