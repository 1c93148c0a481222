"""Frames on a console line, as docs/protocol.md writes them. Pure functions."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

MAX_PAYLOAD = 960
MODULUS = 1 << 16
_HEAD = re.compile(rb"[0-9a-f]{4} [0-9a-f]{8} ")


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame whose check sum is right."""

    sequence: int
    payload: str


@dataclass(frozen=True, slots=True)
class Torn:
    """A frame that cannot be trusted, and why."""

    line: bytes
    reason: str


def encode(sequence: int, payload: str) -> bytes:
    """A frame with its line end. Raises ValueError where the payload is too long or unprintable."""
    data = payload.encode()
    if len(data) > MAX_PAYLOAD:
        raise ValueError(f"a payload is at most {MAX_PAYLOAD} bytes, not {len(data)}")
    if not payload.isprintable():
        raise ValueError(f"a payload is printable text: {payload!r}")
    body = b"%04x %s" % (sequence % MODULUS, data)
    return b"\x01%04x %08x %s\n" % (sequence % MODULUS, zlib.crc32(body), data)


def decode(line: bytes) -> Frame | Torn:
    """Read a line that begins with SOH, without its line end."""
    head, data = line[1:15], line[15:]
    if not _HEAD.fullmatch(head):
        return Torn(line, "its head is not a sequence number and a check sum")
    sequence, claimed = int(head[:4], 16), int(head[5:13], 16)
    found = zlib.crc32(head[:5] + data)
    if found != claimed:
        return Torn(line, f"check sum {claimed:08x} was sent, {found:08x} is right")
    try:
        return Frame(sequence, data.decode())
    except UnicodeDecodeError as error:
        return Torn(line, f"its payload is not UTF-8: {error}")


class SequenceCheck:
    """Sees that the target's frames count up by one; a gap is a fault of the console."""

    def __init__(self, last: int | None = None) -> None:
        self.last = last

    def gap(self, frame: Frame) -> str | None:
        """What is wrong with this frame's number, if anything."""
        last, self.last = self.last, frame.sequence
        if last is None or frame.sequence == (last + 1) % MODULUS:
            return None
        if frame.sequence == last:
            return f"frame {last:04x} came twice"
        return f"frame {frame.sequence:04x} follows {last:04x}: frames between them were lost"


def run_payloads(cases: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """`run` payloads that carry `cases` in order, each with the cases in it."""
    batch: list[str] = []
    size = len("run")
    for case in cases:
        length = len(case.encode()) + 1
        if batch and size + length > MAX_PAYLOAD:
            yield " ".join(["run", *batch]), batch
            batch, size = [], len("run")
        batch.append(case)
        size += length
    if batch:
        yield " ".join(["run", *batch]), batch
