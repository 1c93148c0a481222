"""What must hold for any console: for every stream, and wherever it is cut into pieces."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, configuration, example, given, settings
from hypothesis import strategies as st

from harness.console import Broker, LineCutter, lines
from harness.console.framing import MAX_PAYLOAD, MODULUS, Frame, SequenceCheck, Torn, decode, encode
from harness.console.ktap import Result, parse
from harness.console.line_faults import frame_fault, garbage
from support.faulty_tty import changed, doubled, dropped

TOP = Path(__file__).resolve().parents[2]
RECORDED = TOP / "testsuites" / "support" / "recorded"
RUNS = sorted(RECORDED.glob("*-run.console"))
configuration.set_hypothesis_home_dir(TOP / "build" / "hypothesis")
# The same examples each time: a test that is red by chance is red for nobody else.
PROPERTY = settings(
    derandomize=True, database=None, deadline=None, max_examples=300, suppress_health_check=list(HealthCheck)
)

payloads = st.text(st.characters(codec="utf-8"), max_size=60).filter(str.isprintable)
frames = st.builds(encode, st.integers(0, MODULUS - 1), payloads)
streams = st.lists(
    st.one_of(
        frames,
        st.sampled_from([b"\n", b"\r", b"\r\n", b"\x01", b"$ ", "grün ✓".encode(), b"x" * 15, b"x" * 40]),
        st.binary(max_size=20),
    ),
    max_size=12,
).map(b"".join)
cuts = st.lists(st.integers(1, 30), min_size=1, max_size=12)


def pieces(stream: bytes, sizes: list[int]) -> Iterator[bytes]:
    """The stream in pieces of these sizes, again and again."""
    at = 0
    for size in itertools.cycle(sizes):
        if at >= len(stream):
            return
        yield stream[at : at + size]
        at += size


@pytest.mark.requirement("TST-24", "TST-02")
@PROPERTY
@given(streams, cuts)
@example(b"\nabc\x01", [1])
def test_lines_are_the_same_wherever_a_stream_is_cut(stream: bytes, sizes: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "LONGEST", 16)  # so that lines are too long, often
        whole = LineCutter()
        wanted = whole.cut(stream)
        cutter = LineCutter()
        found = b"".join(map(cutter.cut, pieces(stream, sizes)))
    assert (found, cutter.rest) == (wanted, whole.rest)


@pytest.mark.requirement("TST-24", "TST-02")
@PROPERTY
@given(streams, cuts)
def test_no_byte_but_line_ends_is_lost_or_made_up(stream: bytes, sizes: list[int]) -> None:
    cutter = LineCutter()
    found = b"".join(map(cutter.cut, pieces(stream, sizes))) + cutter.rest
    ends = bytes.maketrans(b"", b"")
    assert found.translate(ends, b"\r\n") == stream.translate(ends, b"\r\n")
    # A line end that the target sent is a line end here.
    assert found.count(b"\n") >= stream.count(b"\n")


@pytest.mark.requirement("TST-24", "TST-02")
@PROPERTY
@given(streams, cuts)
def test_what_expect_sees_is_the_same_wherever_a_stream_is_cut(stream: bytes, sizes: list[int]) -> None:
    whole, cut = seen([stream]), seen(list(pieces(stream, sizes)))
    assert cut == whole


def seen(parts: list[bytes]) -> tuple[bytes, list[Frame | Torn]]:
    ours, theirs = socket.socketpair()
    with theirs, closing(Broker(ours)) as broker:
        for part in parts:
            broker._take(part, 0.0)
        return bytes(broker.window.text), list(broker.frames)


@pytest.mark.requirement("TST-24", "TST-02")
@PROPERTY
@given(st.integers(0, MODULUS - 1), st.text(st.characters(codec="utf-8"), max_size=MAX_PAYLOAD))
def test_a_frame_is_read_as_it_was_written_or_refused_before(sequence: int, payload: str) -> None:
    if payload.isprintable() and len(payload.encode()) <= MAX_PAYLOAD:
        cutter = LineCutter()
        assert decode(cutter.cut(encode(sequence, payload))[:-1]) == Frame(sequence, payload)
    else:
        with pytest.raises(ValueError):
            encode(sequence, payload)


@pytest.mark.requirement("TST-24", "TST-02")
@PROPERTY
@given(st.binary(max_size=100), st.text(max_size=100))
def test_no_bytes_upset_the_parsers(line: bytes, text: str) -> None:
    assert isinstance(decode(b"\x01" + line), Frame | Torn)
    parse(text)
    garbage(line)


Fault = Callable[..., bytes]
faults: st.SearchStrategy[Fault] = st.sampled_from([dropped, doubled, changed])


@pytest.mark.requirement("TST-24", "TST-05")
@PROPERTY
@given(st.sampled_from(RUNS), st.integers(0), st.integers(0, 7), faults, cuts)
def test_no_fault_of_a_line_makes_a_result_that_was_not_sent(
    path: Path, at: int, size: int, fault: Fault, sizes: list[int]
) -> None:
    stream = path.read_bytes()
    truth = results([stream])
    assert len(truth) == 14
    hurt = fault(stream, at % len(stream), size)
    found = results(list(pieces(hurt, [100 * size for size in sizes])))
    assert found == truth[: len(found)]


def results(parts: list[bytes]) -> list[Result]:
    """What a run on a console that said this may believe."""
    cutter, check, found = LineCutter(), SequenceCheck(), []
    for line in b"".join(map(cutter.cut, parts)).split(b"\n"):
        if line.startswith(b"\x01"):
            frame = decode(line)
            if isinstance(frame, Torn) or check.gap(frame) is not None:
                break
            found.append(parse(frame.payload))
    return [one for one in found if isinstance(one, Result)]


@pytest.mark.requirement("TST-24", "TST-05", "OBS-09")
@PROPERTY
@given(cuts)
def test_a_recorded_panic_is_the_same_report_wherever_it_is_cut(sizes: list[int]) -> None:
    ours, theirs = socket.socketpair()
    with theirs, closing(Broker(ours)) as broker:
        for piece in pieces((RECORDED / "qemu-riscv64-panic.console").read_bytes(), [9 * size for size in sizes]):
            broker._take(piece, 0.0)
        report = broker.panic.report
    assert report is not None and report.complete
    assert report.message.startswith("PANIC cpu0: kernel illegal instruction at address 0x0")
    assert [line for line in report.lines if " registers " in line and line.startswith("PANIC cpu3: ")]


NAMES = {dropped: "bytes lost in", doubled: "bytes doubled in", changed: "a byte changed in"}


@pytest.mark.requirement("TST-24", "TST-05")
@settings(PROPERTY, max_examples=60)
@given(st.integers(0, MODULUS - 1), payloads.filter(bool), faults, st.integers(1), st.integers(0, 7))
def test_a_byte_that_a_frame_has_lost_or_gained_is_proven(
    sequence: int, payload: str, fault: Fault, at: int, bit: int
) -> None:
    line = encode(sequence, payload)[:-1]
    place = 1 + at % (len(line) - 1)
    hurt = changed(line, place, bit) if fault is changed else fault(line, place)
    if b"\n" in hurt or isinstance(decode(hurt), Frame):
        return
    assert frame_fault(hurt) == f"console: {NAMES[fault]} frame {sequence:04x}"
