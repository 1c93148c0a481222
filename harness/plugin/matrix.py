"""From options to boards: `--board a,b --smp 1,4` is four of them."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.board import Board, BoardError, NeedsError, find_boards, lacks


def boards_directory(config: pytest.Config) -> Path:
    """Where the board files are."""
    return Path(config.rootpath) / "boards"


def selected(config: pytest.Config) -> tuple[Board, ...]:
    """The boards and variants of this run. Raises BoardError for one that does not exist."""
    from harness.plugin import DEFAULT_BOARDS

    names = ",".join(config.getoption("--board") or [DEFAULT_BOARDS])
    return _selected(
        boards_directory(config),
        tuple(filter(None, names.split(","))),
        str(config.getoption("--smp") or ""),
        str(config.getoption("--memory") or ""),
        bool(config.getoption("--icount")),
        (False, True) if config.getoption("--both-kernels") else (bool(config.getoption("--debug-kernel")),),
    )


@functools.cache
def _selected(
    directory: Path, names: tuple[str, ...], smp: str, memory: str, icount: bool, builds: tuple[bool, ...]
) -> tuple[Board, ...]:
    def variants() -> Iterator[Board]:
        for board in find_boards(names, directory):
            for cpus in smp.split(",") if smp else [None]:
                for size in memory.split(",") if memory else [None]:
                    for debug in builds:
                        yield board.variant(smp=_number(cpus), memory=size, icount=icount, debug=debug)

    return tuple(dict.fromkeys(variants()))


def _number(text: str | None) -> int | None:
    if text is not None and not text.strip().isdecimal():
        raise BoardError(f"--smp takes numbers of CPUs such as 1,4, not {text!r}")
    return None if text is None else int(text)


def skip_reason(item: pytest.Item | Any, board: Board) -> str | None:
    """Why a test cannot run on `board`. Raises NeedsError for an expression that is none."""
    for mark in item.iter_markers("needs"):
        try:
            reason = lacks(board, mark.args)
        except NeedsError as error:
            raise NeedsError(f"{item.nodeid}: {error}") from error
        if reason is not None:
            return reason
    return None


def marks(item: Any, board: Board) -> list[pytest.MarkDecorator]:
    """Marks that a test carries on `board`."""
    reason = skip_reason(item, board)
    return [] if reason is None else [pytest.mark.skip(reason=reason)]


def parameters(config: pytest.Config, definition: Any) -> list[Any]:
    """One pytest parameter a board, skipped where the board lacks what the test needs."""
    return [pytest.param(board, id=board.id, marks=marks(definition, board)) for board in selected(config)]
