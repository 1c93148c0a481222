"""Lines, frames and KTAP: pure functions over bytes, recorded or made up."""

from __future__ import annotations

import random
import zlib

import pytest

from harness.console.framing import MAX_PAYLOAD, Frame, SequenceCheck, Torn, decode, encode, run_payloads
from harness.console.ktap import Plan, Result, Start, parse
from harness.console.lines import LONGEST, LineCutter


@pytest.mark.requirement("TST-02")
@pytest.mark.parametrize("payload", ["ping", "", "run vm:a vm:b", "x" * MAX_PAYLOAD, "ö€ \u2713"])
def test_a_frame_comes_back_as_it_was_sent(payload: str) -> None:
    for sequence in (0, 1, 0xFFFF):
        line = encode(sequence, payload)
        assert line.startswith(b"\x01") and line.endswith(b"\n")
        assert decode(line[:-1]) == Frame(sequence, payload)


@pytest.mark.requirement("TST-02")
def test_a_frame_is_written_as_the_protocol_says() -> None:
    check = zlib.crc32(b"002a ping")
    assert encode(0x2A, "ping") == b"\x01002a %08x ping\n" % check


@pytest.mark.requirement("TST-02")
def test_every_single_flipped_bit_is_noticed() -> None:
    line = encode(7, "ok 1 vm:reads_back # time_ns=81234")[:-1]
    for index in range(8, 8 * len(line)):
        torn = bytearray(line)
        torn[index // 8] ^= 1 << index % 8
        frame = decode(bytes(torn))
        assert isinstance(frame, Torn) or frame == decode(line), (index, frame)


@pytest.mark.requirement("TST-02")
def test_a_truncated_or_joined_frame_is_torn() -> None:
    line = encode(7, "ok 1 vm:reads_back")[:-1]
    for length in range(1, len(line)):
        assert isinstance(decode(line[:length]), Torn)
    assert isinstance(decode(line + b"x"), Torn)


@pytest.mark.requirement("TST-02")
@pytest.mark.parametrize("payload", ["a\nb", "a\x01b", "x" * (MAX_PAYLOAD + 1), "€" * 321])
def test_what_does_not_fit_a_frame_is_refused(payload: str) -> None:
    with pytest.raises(ValueError):
        encode(0, payload)


@pytest.mark.requirement("TST-02")
def test_a_gap_in_the_numbers_is_seen_and_the_wrap_is_none() -> None:
    check = SequenceCheck()
    assert [check.gap(Frame(n, "")) for n in (0xFFFE, 0xFFFF, 0, 1)] == [None] * 4
    assert "frames between them were lost" in str(check.gap(Frame(3, "")))
    assert check.gap(Frame(4, "")) is None


@pytest.mark.requirement("TST-02")
def test_a_long_row_of_cases_is_split_and_none_is_lost() -> None:
    cases = [f"program:case_{number:03}" for number in range(500)]
    batches = list(run_payloads(cases))
    assert [case for _, batch in batches for case in batch] == cases
    assert len(batches) > 1
    assert all(len(payload) <= MAX_PAYLOAD for payload, _ in batches)
    assert all(payload.split() == ["run", *batch] for payload, batch in batches)


@pytest.mark.requirement("TST-02")
def test_ktap_is_read_as_the_protocol_writes_it() -> None:
    recorded = [
        "KTAP version 1",
        "1..2",
        "# start vm:reads_back",
        "ok 1 vm:reads_back # time_ns=81234",
        "# start vm:torn",
        "not ok 2 vm:torn # exit 101",
        "pong",
    ]
    assert [parse(line) for line in recorded] == [
        None,
        Plan(2),
        Start("vm:reads_back"),
        Result(1, "vm:reads_back", True, "time_ns=81234", 81234),
        Start("vm:torn"),
        Result(2, "vm:torn", False, "exit 101", None),
        None,
    ]


@pytest.mark.requirement("TST-02")
def test_lines_do_not_depend_on_how_the_bytes_were_cut() -> None:
    stream = b"one\r\n\r\n$ " + encode(1, "ping") + b"$ typed\r\n" + encode(2, "a") + encode(3, "b") + b"two\nrest"
    whole = LineCutter()
    wanted = whole.cut(stream).splitlines()
    assert wanted[:3] == [b"one", b"", b"$ "]
    assert [line for line in wanted if line.startswith(b"\x01")] == [
        encode(n, p)[:-1] for n, p in ((1, "ping"), (2, "a"), (3, "b"))
    ]
    assert whole.rest == b"rest"
    chance = random.Random(3)
    for _ in range(200):
        cutter, lines, at = LineCutter(), [], 0
        while at < len(stream):
            size = chance.randint(1, 9)
            lines += cutter.cut(stream[at : at + size]).splitlines()
            at += size
        assert (lines, cutter.rest) == (wanted, b"rest")


@pytest.mark.requirement("TST-02")
def test_a_line_without_an_end_is_cut_before_it_fills_the_memory() -> None:
    cutter = LineCutter()
    lines = [line for _ in range(100) for line in cutter.cut(b"x" * 4096).splitlines()]
    assert len(cutter.rest) <= LONGEST
    assert sum(map(len, lines)) + len(cutter.rest) == 100 * 4096
