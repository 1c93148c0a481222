"""What a test needs of a board: `smp>=2`, `memory>=256M`, `arch==riscv64`, `qmp`."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable

from harness.board.errors import BoardError, NeedsError
from harness.board.model import Board, memory_mib, memory_text

_ORDER: dict[str, Callable[[int, int], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
_FACTS = ("smp", "memory", "arch", "board")
_EXPRESSION = re.compile(r"\s*(!?[\w-]+)\s*(?:(<=|>=|==|!=|<|>)\s*([\w.-]+)\s*)?")


def lacks(board: Board, needs: Iterable[str]) -> str | None:
    """Why `board` does not meet `needs`, or None if it does.

    Each expression is `FACT OP VALUE`, `FEATURE` or `!FEATURE`; all must hold.
    Raises NeedsError for one that cannot be read.
    """
    for need in needs:
        reason = _lack(board, need)
        if reason is not None:
            return reason
    return None


def _lack(board: Board, need: str) -> str | None:
    match = _EXPRESSION.fullmatch(need)
    if match is None:
        raise NeedsError(f"cannot read {need!r}; write FACT>=VALUE, FEATURE or !FEATURE")
    name, order, value = match[1], match[2], match[3]
    if order is None:
        return _feature(board, name)
    if name in ("smp", "memory"):
        return _number(board, need, name, order, value)
    if name in ("arch", "board"):
        found = board.arch if name == "arch" else board.name
        if order not in ("==", "!="):
            raise NeedsError(f"{need!r}: {name} is compared with == or != only")
        return None if (found == value) == (order == "==") else f"needs {need}, has {found}"
    raise NeedsError(f"unknown fact {name!r} in {need!r}; known: {', '.join(_FACTS)}")


def _feature(board: Board, name: str) -> str | None:
    if name.startswith("!"):
        return f"needs no {name[1:]}" if name[1:] in board.features else None
    if name in board.features:
        return None
    return f"needs {name}; {board.name} has {', '.join(sorted(board.features)) or 'no features'}"


def _number(board: Board, need: str, name: str, order: str, value: str) -> str | None:
    try:
        wanted = int(value) if name == "smp" else memory_mib(value)
    except (ValueError, BoardError) as error:
        raise NeedsError(f"cannot read the value in {need!r}: {error}") from error
    has = board.smp if name == "smp" else board.memory_mib
    if _ORDER[order](has, wanted):
        return None
    return f"needs {need}, has {has if name == 'smp' else memory_text(has)}"
