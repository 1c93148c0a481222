"""What a serial line, or two writers, did to bytes: told from the bytes that came. Pure functions.

A frame's check sum proves what happened to it: the repair that makes it right
again names the fault. With CRC-32 a wrong repair of the longest frame, tried in
half a million ways, fits once in some 4,000 times. Text carries no sum, so what
is said of it begins with "looks like".
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator, Sequence

from harness.console.framing import Frame, decode
from harness.console.lines import SOH
from harness.console.patterns import text_in

# As many bytes are looked at, the newest.
LOOK = 16384
_GARBAGE_LOOK = 4096
# A binary file on a console is rare; at a wrong baud rate far more than this is no text.
_GARBAGE_SHARE, _GARBAGE_LEAST = 0.25, 32
# Shorter texts are found in almost anything.
_LEAST_TEXT, _LEAST_WEAVE = 5, 8
_HEAD = 15  # SOH, four digits, space, eight digits, space
_BARE = re.compile(rb"[0-9a-f]{4} [0-9a-f]{8} .*\Z")
# Control characters that consoles show: bell, backspace, tab, line feed, form feed, carriage return, escape, SOH.
_SHOWN = frozenset("\a\b\t\n\f\r\x1b\x01")


def frame_fault(torn: bytes, following: Sequence[bytes] = ()) -> str | None:
    """How `torn`, a frame that cannot be read, was hurt, where its check sum proves it.

    With `following`, the lines that came after it, only whether its other half is one of them.
    """
    for what, repaired in _joined(torn, following) if following else _repairs(torn):
        frame = decode(repaired)
        if isinstance(frame, Frame):
            return "console: " + what.format(f"frame {frame.sequence:04x}")
    return None


def lost_frame(lines: Iterable[bytes]) -> str | None:
    """The frame among lines of text that has lost its first byte, the SOH, if there is one."""
    for line in lines:
        if line.startswith(SOH):
            continue
        if (match := _BARE.search(line)) and isinstance(frame := decode(SOH + match.group()), Frame):
            return f"console: bytes lost in frame {frame.sequence:04x}: its first byte"
    return None


def garbage(data: bytes) -> str | None:
    """Says so when too many of the newest bytes are no text, in ASCII or UTF-8."""
    data = data[-_GARBAGE_LOOK:]
    text = data.decode("utf-8", "surrogateescape")
    bad = sum(not (sign.isprintable() or sign in _SHOWN) for sign in text)
    if len(data) < _GARBAGE_LEAST or bad < _GARBAGE_SHARE * len(data):
        return None
    share = f"{100 * bad / len(data):.0f} % of the last {len(data)} bytes are not text"
    return f"console: looks like a wrong baud rate: {share}"


def text_fault(pattern: str, text: bytes) -> str | None:
    """What became of the text that `pattern` waits for, where something very like it came."""
    wanted, text = text_in(pattern), text[-LOOK:]
    if len(wanted) < _LEAST_TEXT or re.search(pattern.encode(), text, re.MULTILINE):
        return None
    shown = repr(wanted.decode(errors="replace"))
    if (at := text.find(wanted)) >= 0:
        return _text_fault(f"{shown} came, but not as {pattern!r} asks: two CPUs' lines interleaved?", text, at)
    for start, end in _blocks(len(wanted)):
        # Where numbers differ, it is another text and not a damaged one.
        if re.search(rb"\d", wanted[start:end]):
            continue
        lost, twice = wanted[:start] + wanted[end:], wanted[:end] + wanted[start:]
        inside = start > 0 and end < len(wanted) and 3 * (end - start) <= len(wanted)
        if inside and (at := _find(pattern, lost, text)) >= 0:
            return _text_fault(f"looks like bytes lost in {shown}", text, at)
        if (at := _find(pattern, twice, text)) >= 0:
            return _text_fault(f"looks like bytes doubled in {shown}", text, at)
    woven = _woven(wanted, text)
    if woven is not None:
        return _text_fault(f"looks like two CPUs' lines interleaved: the bytes of {shown} stand apart", text, woven)
    return None


def begun(pattern: str, unfinished: bytes) -> bool:
    """Whether the text that `pattern` waits for has begun at the end of `unfinished`, a line without an end yet."""
    wanted = text_in(pattern)
    return any(unfinished.endswith(wanted[:size]) for size in range(max(len(wanted) // 2, 3), len(wanted)))


def _text_fault(what: str, text: bytes, at: int) -> str:
    start, end = text.rfind(b"\n", 0, at) + 1, text.find(b"\n", at)
    line = text[start : end if end >= 0 else len(text)]
    return f"console: {what}; the line: {line.decode(errors='replace')!r}"


def _find(pattern: str, damaged: bytes, text: bytes) -> int:
    """Where `damaged` stands in `text`; at the beginning of a line only, where `pattern` begins with that."""
    if pattern.encode().startswith(b"^" + damaged[:1]):
        return (b"\n" + text).find(b"\n" + damaged)
    return text.find(damaged)


def _woven(wanted: bytes, text: bytes) -> int | None:
    """Where the bytes of `wanted` stand in order, with about as many others between them."""
    at = text.find(wanted[:1]) if len(wanted) >= _LEAST_WEAVE else -1
    while at >= 0:
        end = at
        for byte in wanted[1:]:
            end = text.find(byte, end + 1, at + 3 * len(wanted))
            if end < 0:
                break
        else:
            # Its first bytes may stand in text before it as well: the nearest ones are its own.
            for byte in reversed(wanted):
                end = text.rfind(byte, 0, end + 1) - 1
            return end + 1
        at = text.find(wanted[:1], at + 1)
    return None


def _blocks(size: int) -> Iterator[tuple[int, int]]:
    """All spans within `size` bytes, the short ones first."""
    for length in range(1, size):
        for start in range(size - length + 1):
            yield start, start + length


def _repairs(torn: bytes) -> Iterator[tuple[str, bytes]]:
    """What may have happened, and the line as it was then; `{}` stands for the frame's name."""
    for start, end in _blocks(len(torn)):
        if start == 0:
            continue  # it begins a frame, or it would not be here
        if start >= _HEAD and not _fits(torn, start, b"", end):
            continue
        block = torn[start:end]
        if block in (torn[end : end + len(block)], torn[max(2 * start - end, 0) : start]):
            what = "bytes doubled in {}"
        elif end == len(torn):
            what = "bytes lost in {}: its line end"
        else:
            what = "two CPUs' lines interleaved: another's text stands in {}"
        yield what, torn[:start] + torn[end:]
    for start in range(1, len(torn) + 1):
        for byte in range(256):
            sign = bytes([byte])
            for skip, what in ((0, "bytes lost in {}"), (1, "a byte changed in {}")):
                if start < _HEAD or _fits(torn, start, sign, start + skip):
                    yield what, torn[:start] + sign + torn[start + skip :]


def _joined(torn: bytes, following: Sequence[bytes]) -> Iterator[tuple[str, bytes]]:
    for line in following:
        for end in range(_HEAD, len(torn) + 1):
            yield "two CPUs' lines interleaved: another's line stands in {}", torn[:end] + line


def _fits(torn: bytes, start: int, between: bytes, end: int) -> bool:
    """Whether the sum is right with `between` in the place of the payload's bytes from `start` to `end`."""
    body = torn[1:6] + torn[_HEAD:start] + between + torn[end:]
    return b"%08x" % zlib.crc32(body) == torn[6:14]
