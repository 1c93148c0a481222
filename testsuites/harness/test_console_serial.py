"""A console on a tty, and what ttys do: real ptys, a scripted peer, each fault named as itself."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from labgrid import Environment

from harness.console import (
    Broker,
    Channel,
    Console,
    ConsoleFault,
    Direction,
    ExpectTimeout,
    Lines,
    LogFile,
    TargetPanicked,
)
from harness.console import console as console_module
from harness.console.framing import encode
from harness.hardware import HardwareError, SerialTty
from harness.verdict.verdict import Verdict, judge
from support.faulty_tty import FaultyTty, changed, doubled, dropped, heard_at, interleaved

RECORDED = Path(__file__).resolve().parents[1] / "support" / "recorded" / "qemu-riscv64-run.console"
BAUD = 115200


class Target:
    """A target behind a faulty tty, and the lab's end of its console."""

    def __init__(self, folder: Path, baud: int = BAUD, return_s: float = 60.0) -> None:
        self.tty = FaultyTty(folder)
        self.broker = Broker(SerialTty(self.tty.link, baud, return_s=return_s))
        self.log = LogFile(folder / "console.log", time.monotonic())
        self.broker.attach(self.log)
        self.console = Console(self.broker)
        self.channel = Channel(self.broker)
        self.broker.start()

    def says(self, data: bytes) -> None:
        """Say it, and wait until the broker has it."""
        wanted = self.broker.received + len(data)
        self.tty.says(data)
        with self.broker.changed:
            assert self.broker.changed.wait_for(lambda: self.broker.received >= wanted, 60)

    def when_noted(self, text: str, then: Callable[[], None]) -> None:
        """Do `then`, once, when the lab writes a line with `text` into the log."""
        self.broker.attach(_Then(text.encode(), then))

    def close(self) -> None:
        self.broker.close()
        self.log.close()
        self.tty.close()


class _Then:
    def __init__(self, text: bytes, then: Callable[[], None]) -> None:
        self._text = text
        self._then: Callable[[], None] | None = then

    def see(self, lines: Lines) -> None:
        if lines.direction is Direction.HOST and self._text in lines.data and self._then is not None:
            then, self._then = self._then, None
            then()

    def flush(self) -> None:
        pass


@contextmanager
def on_board(folder: Path, baud: int = BAUD, return_s: float = 60.0) -> Iterator[Target]:
    target = Target(folder, baud, return_s)
    try:
        yield target
    finally:
        target.close()


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    with on_board(tmp_path) as target:
        yield target


def verdict(error: pytest.ExceptionInfo[BaseException]) -> tuple[Verdict, str]:
    finding = judge(None, error.value)
    return finding.verdict, finding.cause


@pytest.mark.requirement("TST-05", "TST-02")
def test_a_tty_carries_every_byte_both_ways(target: Target) -> None:
    everything = bytes(range(256))
    target.console.send(everything)
    assert target.tty.hears(256) == everything
    heard: list[bytes] = []
    target.broker.tap(heard.append)
    # SOH begins a frame, which is not text; line ends are `\n` alone.
    target.says(everything.replace(b"\x01", b"") + b"the end\n")
    target.console.expect("the end\n", 60)
    assert b"".join(heard) == everything.replace(b"\x01", b"") + b"the end\n"


@pytest.mark.requirement("TST-05", "TST-02")
def test_a_tty_is_set_to_the_boards_baud_rate_and_has_one_reader(tmp_path: Path) -> None:
    import termios

    with on_board(tmp_path, 9600) as target:
        fd = os.open(target.tty.device, os.O_RDWR | os.O_NOCTTY)
        try:
            assert termios.tcgetattr(fd)[4:6] == [termios.B9600, termios.B9600]
        finally:
            os.close(fd)
        with pytest.raises(HardwareError, match="another process has it"):
            SerialTty(target.tty.link)


@pytest.mark.requirement("TST-05")
def test_a_port_that_is_none_is_named_with_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(HardwareError, match=r"wanted the serial port .*/ttyUSB7; found: no such device; there are: "):
        SerialTty(tmp_path / "ttyUSB7")
    (tmp_path / "file").write_text("")
    with pytest.raises(HardwareError, match=r"/file; found: Could not configure port"):
        SerialTty(tmp_path / "file")


def frame_with(fault: Callable[[bytes], bytes]) -> bytes:
    return encode(6, "1..1") + fault(encode(7, "ok 1 vm:maps # time_ns=81234")) + encode(8, "pong")


HALVES = encode(7, "ok 1 vm:maps")
TORN_FRAMES = {
    "a byte dropped": (frame_with(lambda frame: dropped(frame, 20)), "bytes lost in frame 0007"),
    "a byte of the head dropped": (frame_with(lambda frame: dropped(frame, 3)), "bytes lost in frame 0007"),
    "the first byte dropped": (frame_with(lambda frame: dropped(frame, 0)), "bytes lost in frame 0007: its first byte"),
    "the line end dropped": (
        encode(6, "1..1") + dropped(HALVES, len(HALVES) - 1) + b"fault: x\n",
        "bytes lost in frame 0007: its line end",
    ),
    "half of a character dropped": (
        encode(6, "1..1") + dropped(encode(7, "größer"), 18),
        "bytes lost in frame 0007",
    ),
    "a whole frame dropped": (frame_with(lambda frame: b""), "bytes lost between frames"),
    "many bytes dropped": (frame_with(lambda frame: dropped(frame, 17, 5)), "more than one byte lost or changed"),
    "a byte doubled": (frame_with(lambda frame: doubled(frame, 16)), "bytes doubled in frame 0007"),
    "a block doubled": (frame_with(lambda frame: doubled(frame, 18, 6)), "bytes doubled in frame 0007"),
    "a frame doubled": (frame_with(lambda frame: frame * 2), "bytes doubled: a frame came twice. "),
    "a bit changed": (frame_with(lambda frame: changed(frame, 22)), "a byte changed in frame 0007"),
    "interleaved with a part of a line": (
        frame_with(lambda frame: interleaved(frame, b"cpu1: ", [20, 6])),
        "two CPUs' lines interleaved: another's text stands in frame 0007",
    ),
    "interleaved with a whole line": (
        frame_with(lambda frame: interleaved(frame, b"cpu1: timer\n", [20, 12])),
        "two CPUs' lines interleaved: another's line stands in frame 0007",
    ),
    "interleaved with another frame": (
        frame_with(lambda frame: interleaved(frame, encode(8, "# start vm:other"), [20, 99])),
        "two CPUs' lines interleaved: another's line stands in frame 0007",
    ),
}


@pytest.mark.requirement("TST-05", "TST-02")
@pytest.mark.parametrize("what", TORN_FRAMES)
def test_what_a_line_did_to_a_frame_is_the_verdicts_cause(target: Target, what: str) -> None:
    sent, name = TORN_FRAMES[what]
    target.says(sent)
    with pytest.raises(ConsoleFault) as error:
        while target.channel.receive(60) != "pong":
            pass
    kind, cause = verdict(error)
    assert kind is Verdict.LAB_FAULT
    assert cause.startswith(f"console: {name}"), cause


TORN_TEXTS = {
    "a byte dropped": (dropped(b"init: ready\n", 7), "looks like bytes lost in 'init: ready'"),
    "a byte doubled": (doubled(b"init: ready\n", 7), "looks like bytes doubled in 'init: ready'"),
    "interleaved by the byte": (
        interleaved(b"init: ready\n", b"boot: cpus\n", [1] * 22),
        "looks like two CPUs' lines interleaved: the bytes of 'init: ready' stand apart; the line: 'ibnoiott:: ",
    ),
    "interleaved by the piece": (
        interleaved(b"init: ready\n", b"boot: cpus\n", [4, 10]),
        "looks like two CPUs' lines interleaved",
    ),
    "behind another's line": (
        interleaved(b"boot: cpus\n", b"init: ready\n", [4, 12]),
        "'init: ready' came, but not as '^init: ready' asks: two CPUs' lines interleaved?",
    ),
    "a panic behind another's line": (
        interleaved(b"boot: cpus\n", b"PANIC cpu1: boom at x.rs:1:2\n", [4, 29]),
        "'PANIC ' came, but not as '^PANIC ' asks: two CPUs' lines interleaved?",
    ),
    # "PIC " is "PANIC " without two of its bytes.
    "nothing at all": (b"boot: interrupts: xAPIC and I/O APIC\nboot: cpus\n", ""),
}


@pytest.mark.requirement("TST-05", "TST-02")
@pytest.mark.parametrize("what", TORN_TEXTS)
def test_what_a_line_did_to_text_is_told_with_the_timeout(target: Target, what: str) -> None:
    sent, name = TORN_TEXTS[what]
    target.says(b"quoin 0.1.0\n" + sent + b"boot: the rest\n")
    with pytest.raises(ExpectTimeout) as error:
        target.console.expect("^init: ready", 0.05)
    kind, cause = verdict(error)
    assert kind is Verdict.FAILED
    assert cause.startswith("no '^init: ready' on the console within 0.05 s")
    assert f"; console: {name}" in cause if name else "console: " not in cause, cause


@pytest.mark.requirement("TST-05", "TST-02")
def test_a_character_that_comes_in_two_pieces_is_one(target: Target) -> None:
    for byte in "größer ✓\n".encode():
        target.says(bytes([byte]))
    assert target.console.expect("^größer ✓$", 5)
    target.log.flush()
    assert "größer ✓" in target.log.path.read_text(encoding="utf-8")
    target.says(dropped("größer ✓\n".encode(), 2))
    with pytest.raises(ExpectTimeout, match="looks like bytes lost in 'größer'"):
        target.console.expect("^größer", 0.05)


@pytest.mark.requirement("TST-05", "TST-02")
def test_a_late_prompt_is_called_late_and_is_not_the_next_commands(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console_module, "LATE_S", 60.0)
    target.says(b"ps\r\n1 init\r\n")
    target.when_noted("more for what is late", lambda: target.tty.says(b"$ "))
    with pytest.raises(ExpectTimeout) as error:
        target.console.command("ps", 0.5)
    assert verdict(error)[1] == r"console: late prompt: '^\$ \Z' came after its limit of 0.5 s"
    target.says(b"id\r\nroot\r\n$ ")
    assert target.console.command("id", 60) == "root\n"


@pytest.mark.requirement("TST-05", "TST-02")
def test_a_prompt_that_never_comes_is_not_called_late(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console_module, "LATE_S", 0.05)
    target.says(b"ps\r\n1 init\r\n")
    with pytest.raises(ExpectTimeout, match=r"^no .* on the console within 0.5 s \(12 bytes received in all\)$"):
        target.console.command("ps", 0.5)


@pytest.mark.requirement("TST-05", "TST-02")
def test_bytes_that_are_delayed_within_a_text_are_called_so(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console_module, "LATE_S", 60.0)
    target.says(b"boot: user\ninit: rea")
    target.when_noted("more for what is late", lambda: target.tty.says(b"dy\n"))
    with pytest.raises(ExpectTimeout, match=r"^console: bytes delayed: '\^init: ready' came after its limit of 0.05 s"):
        target.console.expect("^init: ready", 0.05)


@pytest.mark.requirement("TST-05", "TST-02")
def test_a_frame_that_stops_in_its_middle_is_told_and_read_when_its_rest_comes(target: Target) -> None:
    frame = encode(7, "pong")
    target.says(frame[:12])
    with pytest.raises(ExpectTimeout, match=r"no frame .*; console: bytes delayed or lost: a frame has begun and not"):
        target.channel.receive(0.05)
    target.says(frame[12:])
    assert target.channel.receive(60) == "pong"


@pytest.mark.requirement("TST-05", "TST-02")
@pytest.mark.parametrize(("sent", "host"), [(115200, 9600), (9600, 115200), (115200, 57600), (38400, 115200)])
def test_a_wrong_baud_rate_is_named_with_the_share_that_is_no_text(tmp_path: Path, sent: int, host: int) -> None:
    said = RECORDED.read_bytes()
    assert heard_at(said, sent, sent) == said
    with on_board(tmp_path, host) as target:
        target.says(heard_at(said, sent, host))
        for wait in (lambda: target.console.expect("^init: ready", 0.05), lambda: target.channel.send("ping", 0.05)):
            with pytest.raises(ConsoleFault) as error:
                wait()
            kind, cause = verdict(error)
            assert kind is Verdict.LAB_FAULT
            assert "console: looks like a wrong baud rate: " in cause and "bytes are not text" in cause, cause
            assert f"the port is set to {host}" in cause


@pytest.mark.requirement("TST-05", "TST-02")
def test_text_at_the_right_baud_rate_is_never_called_garbage(target: Target) -> None:
    coloured = "init: umläute äöü ✓✓✓ \x1b[31mred\x1b[0m".encode()
    target.says(RECORDED.read_bytes().replace(b"init: ready", coloured))
    with pytest.raises(ExpectTimeout):
        target.console.expect("^init: ready", 0.05)


@pytest.mark.requirement("TST-05", "TST-02")
def test_an_adapter_that_comes_back_under_another_name_is_found_and_told(target: Target) -> None:
    first = target.tty.device
    target.says(b"half a li")
    target.when_noted("hung up", target.tty.plug)
    threading.Timer(0, target.tty.unplug).start()
    with pytest.raises(ConsoleFault) as error:
        target.console.expect("never", 60)
    kind, cause = verdict(error)
    second = target.tty.device
    assert first != second
    assert kind is Verdict.LAB_FAULT
    assert cause.startswith(f"adapter gone: {target.tty.link} ({first}) vanished, came back as {second} after ")
    with pytest.raises(ConsoleFault, match="adapter gone"):  # whoever waits behind the hole without knowing of it
        target.channel.receive(60)
    target.console.skip()
    target.says(b"line\n$ ")
    target.console.expect(r"^line\n\$ ", 60)
    target.console.sendline("ps")
    assert target.tty.hears(3) == b"ps\n"
    target.log.flush()
    log = target.log.path.read_text()
    assert log.index("| half a li\n") < log.index("! the serial line hung up") < log.index("! adapter gone")


@pytest.mark.requirement("TST-05", "TST-02")
def test_what_was_typed_before_an_adapter_went_is_not_typed_into_what_comes_back(target: Target) -> None:
    back = threading.Event()

    def typed_while_away() -> None:
        target.broker.send(b"rm -r /\n")
        target.tty.plug()

    target.when_noted("hung up", typed_while_away)
    target.when_noted("came back as", back.set)
    target.tty.unplug()
    assert back.wait(60)
    target.console.skip()
    target.console.send("x")
    assert target.tty.hears(1) == b"x"


@pytest.mark.requirement("TST-05", "TST-02")
def test_an_adapter_that_stays_away_ends_the_console(tmp_path: Path) -> None:
    with on_board(tmp_path, return_s=0.2) as target:
        threading.Timer(0, target.tty.unplug).start()
        with pytest.raises(ConsoleFault) as error:
            target.console.expect_panic(60)
        kind, cause = verdict(error)
        assert kind is Verdict.LAB_FAULT
        assert f"adapter gone: {target.tty.link} (" in cause and "vanished, and is not back after " in cause
        assert "no such device" in cause
        target.console.skip()
        with pytest.raises(ConsoleFault, match="is not back"):
            target.console.expect("never", 60)
        target.tty.plug()


@pytest.mark.requirement("TST-05", "TST-02")
def test_a_console_without_its_adapter_can_be_closed(tmp_path: Path) -> None:
    target = Target(tmp_path, return_s=3600)
    gone = threading.Event()
    target.when_noted("hung up", gone.set)
    target.tty.unplug()
    assert gone.wait(60)
    target.broker.close()
    assert target.broker.closed is not None
    target.tty.plug()
    target.close()


@pytest.mark.requirement("TST-05", "OBS-09")
def test_a_panic_on_a_tty_ends_every_wait(target: Target) -> None:
    target.says(b"$ PANIC cpu1: boom at kernel/src/x.rs:1:2\nPANIC end\n")
    with pytest.raises(TargetPanicked, match="boom"):
        target.console.expect("never", 60)


ENVIRONMENT = """
imports: [harness.hardware.labgrid_driver]
targets:
  main:
    resources:
      RawSerialPort: {{port: {port}, speed: 9600}}
    drivers:
      QuoinSerialDriver: {{}}
"""


@pytest.mark.requirement("TST-05")
def test_labgrids_own_tools_have_the_tty_as_their_console(tmp_path: Path) -> None:
    tty = FaultyTty(tmp_path)
    file = tmp_path / "board.yaml"
    file.write_text(ENVIRONMENT.format(port=tty.link))
    labgrid_target = Environment(str(file)).get_target("main")
    try:
        driver = labgrid_target.get_driver("ConsoleProtocol")
        tty.says(b"init: ready\r\n$ ")
        driver.expect("init: ready", timeout=60)
        driver.sendline("ps")
        assert tty.hears(3) == b"ps\n"
        tty.unplug()
        tty.plug()
        with pytest.raises(HardwareError, match=f"vanished, came back as {tty.device}"):
            driver.expect("never", timeout=60)
        tty.says(b"again\r\n")
        driver.expect("again", timeout=60)
        assert driver.get_export_vars() == {"port": str(tty.link), "speed": "9600"}
    finally:
        labgrid_target.cleanup()
        tty.close()
