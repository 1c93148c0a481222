"""Two Linux machines and what lies between them: a network that loses and is cut, and a serial line."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from harness.console import ConsoleClosed, Session
from harness.plugin.nodes import Nodes

PINGS, LOSS, SEED = 20, 0.3, 3
LIMIT_S = 120
TWO = "10.0.0.1", "10.0.0.2"
# The second serial port, as Linux numbers it: behind the first where that is of its kind.
PORT = {"x86_64": "ttyS1", "aarch64": "ttyS0", "riscv64": "ttyS1"}


def ping(session: Session, count: int, target: str, wait_s: int = 30) -> set[int]:
    """The sequence numbers that came back, of those from 0 on; for the last one it waits that long at most."""
    said = session.console.command(f"ping -c {count} -i 0.1 -W {wait_s} {target}", LIMIT_S)
    assert f"{count} packets transmitted" in said
    return {int(number) for number in re.findall(r"seq=(\d+) ", said)}


@pytest.mark.requirement("TST-26", "BLD-10")
def test_two_machines_over_a_lossy_then_cut_network_and_a_serial_line(nodes: Callable[..., Nodes]) -> None:
    two = nodes(2, link="delay=1ms", uart="", seed=SEED, card="e1000", smp=1)
    for number, session in enumerate(two):
        other = 1 - number
        # Nothing but pings shall pass, so that each frame is one.
        session.console.command("sysctl -q net.ipv6.conf.default.disable_ipv6=1; insmod /e1000.ko", LIMIT_S)
        session.console.command(f"ip addr add {TWO[number]}/24 dev eth0; ip link set eth0 up")
        session.console.command(f"arp -s {TWO[other]} {two.link.address(other)}")
    for session in two:
        session.console.command("until grep -q 1 /sys/class/net/eth0/carrier; do usleep 100000; done", LIMIT_S)
    assert ping(two[0], 3, TWO[1]) == {0, 1, 2}

    before = two.link.counts(0, 1), two.link.counts(1, 0)
    two.link.set(f"loss={LOSS:.0%}")
    back = ping(two[0], PINGS, TWO[1])
    there, home = two.link.counts(0, 1), two.link.counts(1, 0)
    asked, answered = there.sent - before[0].sent, home.sent - before[1].sent
    lost = there.lost - before[0].lost, home.lost - before[1].lost
    assert asked == PINGS, "every ping is one frame"
    assert answered == asked - lost[0], "who was asked answers"
    assert len(back) == answered - lost[1], "what came back is what the switch let through"
    assert min(lost) > 0 and LOSS / 3 < sum(lost) / (asked + answered) < 3 * LOSS

    two.link.cut()
    assert ping(two[0], 3, TWO[1], 1) == set()
    assert two.link.counts(0, 1).cut == 3 and two.link.counts(1, 0).sent == home.sent
    two.link.heal()
    two.link.set("loss=0")
    assert ping(two[0], 3, TWO[1]) == {0, 1, 2}

    for session in two:
        session.console.command(f"exec 3<>/dev/{PORT[session.board.arch]}; stty 115200 raw -echo <&3")
    two[0].console.command("echo over the line >&3")
    assert two[1].console.command("head -n 1 <&3", 30).strip() == "over the line"
    assert two.uart.counts(0, 1).delivered == len("over the line\n")

    two[1].console.sendline("poweroff -f")
    with pytest.raises(ConsoleClosed):
        two[1].console.expect("never", LIMIT_S)
    assert two[1].machine.guest_off is not None
    assert ping(two[0], 3, TWO[1], 1) == set()
