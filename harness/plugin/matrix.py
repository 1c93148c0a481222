"""From options to boards: `--board a,b --smp 1,4` is four of them."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.board import Board, BoardError, NeedsError, lacks
from harness.board.model import LAST_SEED
from harness.hardware import places
from harness.machine.errors import QemuMissing
from harness.machine.qemu_binary import OLDEST, find_qemu


def boards_directory(config: pytest.Config) -> Path:
    """Where the board files are."""
    return Path(config.rootpath) / "boards"


def selected(config: pytest.Config) -> tuple[Board, ...]:
    """The boards and variants of this run. Raises BoardError for one that does not exist."""
    from harness.plugin import DEFAULT_BOARDS

    names = ",".join(config.getoption("--board") or [DEFAULT_BOARDS]).split(",")
    if any("=" in name for name in names):
        # A place for the tags, once a run: workers hear its name.
        names = places.choose(names)
        config.option.board = names
    return _selected(
        boards_directory(config),
        tuple(filter(None, names)),
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
        for board in places.boards(names, directory):
            for cpus in smp.split(",") if smp else [None]:
                for size in memory.split(",") if memory else [None]:
                    for debug in builds:
                        yield board.variant(smp=_number(cpus), memory=size, icount=icount, debug=debug)

    return tuple(dict.fromkeys(variants()))


def seeds(config: pytest.Config) -> range:
    """The seeds of this run's kernel tests; none, where it is an ordinary run. Raises BoardError."""
    first, rounds = config.getoption("--deterministic"), config.getoption("--soak")
    if first is None and rounds is None:
        return range(0)
    if (first is not None and first < 1) or (rounds is not None and rounds < 1):
        raise BoardError("--deterministic takes a seed from 1 on, and --soak a number of rounds from 1 on")
    if (last := (first or 1) + (rounds or 1) - 1) > LAST_SEED:
        raise BoardError(f"wanted seeds up to {LAST_SEED}, for QEMU takes no larger one; found: {last}")
    return range(first or 1, last + 1)


def kernel_test_boards(config: pytest.Config) -> list[Board]:
    """The boards of kernel tests: one a seed, where there are seeds. Raises BoardError."""
    chosen = seeds(config)
    return [board.variant(seed=seed) for board in selected(config) for seed in chosen or [None]]


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
    return too_old(board)


def too_old(board: Board) -> str | None:
    """Why this host's emulator cannot be the board, where it is older than the board's model in it."""
    if board.oldest_qemu <= OLDEST or board.wires is not None:
        return None
    try:
        find_qemu(board.binary, board.oldest_qemu)
    except QemuMissing as error:
        return f"{board.name}: {error}"
    return None


def marks(item: Any, board: Board) -> list[pytest.MarkDecorator]:
    """Marks that a test carries on `board`."""
    reason = skip_reason(item, board)
    return [] if reason is None else [pytest.mark.skip(reason=reason)]


def parameters(config: pytest.Config, definition: Any) -> list[Any]:
    """One pytest parameter a board, skipped where the board lacks what the test needs."""
    typed = []
    if config.getoption("--deterministic") is not None and config.getoption("--soak") is None:
        typed = [pytest.mark.skip(reason="drives its board by hand; --deterministic is for kernel tests")]
    return [pytest.param(board, id=board.id, marks=marks(definition, board) or typed) for board in selected(config)]
