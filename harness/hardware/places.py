"""Boards elsewhere: places of labgrid's coordinator, by name or by tags, held while a session has them.

A place's wires are what its exporter offers, and all else of the board stands in
a board file here: the one that the place's tag `board` names.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.board import Board, BoardError, find_boards
from harness.board.leases import NO_WAIT
from harness.build.artifacts import TOP
from harness.hardware.errors import HardwareError

PREFIX = "place:"
COORDINATOR = "LG_COORDINATOR"
STATE = "quoin-lab.json"
FOLDER = "QUOIN_LAB"
_DEFAULT = "127.0.0.1:20408"
_WAIT_S = 3600.0
_LET_GO_S = 20.0


def coordinator() -> str:
    """The coordinator's address: what LG_COORDINATOR says, the one of `quoin lab up`, or labgrid's default."""
    named = os.environ.get(COORDINATOR)
    if named:
        return named
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads((lab_folder() / STATE).read_text(encoding="utf-8"))["coordinator"])
    return _DEFAULT


def lab_folder() -> Path:
    """Where the lab that is up here keeps all it has: the folder that QUOIN_LAB names, or build/lab."""
    named = os.environ.get(FOLDER)
    return Path(named).absolute() if named else TOP / "build" / "lab"


def ask(address: str, *words: str) -> Any:
    """What the coordinator answers; see place_client. Raises HardwareError with its words."""
    done = subprocess.run(_command(address, *words), stdin=subprocess.DEVNULL, capture_output=True, text=True)
    for line in done.stdout.splitlines():
        answer = json.loads(line)
        if "say" in answer:
            print(f"quoin: {answer['say']}", file=sys.__stderr__, flush=True)
        elif "error" in answer:
            raise HardwareError(answer["error"])
        else:
            return answer["done"]
    raise HardwareError(f"the client of the coordinator {address} ended without a word: {done.stderr[-2000:]}")


def _command(address: str, *words: str) -> list[str]:
    return [sys.executable, "-m", "harness.hardware.place_client", address, str(os.getpid()), *words]


def _wait_s() -> str:
    return "0" if os.environ.get(NO_WAIT) else f"{_WAIT_S:g}"


def choose(patterns: Iterable[str]) -> list[str]:
    """Patterns of boards, with tags (`arch=riscv64`, several joined by `+`) made into the place that has them.

    The coordinator reserves one that is free, or makes us wait for one. Raises HardwareError.
    """
    return [_chosen(pattern) if "=" in pattern else pattern for pattern in patterns]


def _chosen(pattern: str) -> str:
    tags = dict(re.findall(r"([^+=]+)=([^+]*)", pattern.removeprefix(PREFIX)))
    return PREFIX + str(ask(coordinator(), "choose", json.dumps(tags), _wait_s()))


def boards(patterns: Sequence[str], directory: Path) -> list[Board]:
    """Boards by name, glob, place (`place:NAME`) or tags, each at most once. Raises LabError."""
    found = []
    for pattern in choose(patterns):
        found += [_board(pattern, directory)] if pattern.startswith(PREFIX) else find_boards([pattern], directory)
    return list(dict.fromkeys(found))


def _board(pattern: str, directory: Path) -> Board:
    address, name = coordinator(), pattern.removeprefix(PREFIX)
    places = ask(address, "list")
    if name not in places:
        known = ", ".join(sorted(places)) or "none"
        raise BoardError(
            f"wanted the place {name}; found at the coordinator {address}: {known}; see `quoin lab status`"
        )
    file = places[name]["tags"].get("board", name)
    board = find_boards([file], directory)[0]
    if board.wires is None:
        raise BoardError(f"the place {name} is a {file} by its tag `board`, and {board.path} is an emulated board")
    return replace(board, name=pattern, wires=replace(board.wires, place=name, coordinator=address, command=()))


class HeldPlace:
    """A place that is this session's, from now until `close` or this process's end.

    Waits for its holder as a lease does, and tells `say` so. `lost` is called, on a thread of its own, when the
    place's exporter or its coordinator is gone. Raises HardwareError.
    """

    def __init__(
        self,
        name: str,
        address: str,
        say: Callable[[str], None],
        lost: Callable[[str], None],
        wait_s: float | None = None,
    ) -> None:
        self.name = name
        self.resources: list[dict[str, Any]] = []
        self._say, self._lost = say, lost
        self._refused: str | None = None
        self._answered = threading.Event()
        # Of its own session, so that what kills a process group leaves somebody to give the place back.
        self._client = subprocess.Popen(
            _command(address or coordinator(), "hold", name, _wait_s() if wait_s is None else str(wait_s)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name=f"place-{name}", daemon=True)
        self._reader.start()
        try:
            self._answered.wait()
            if self._refused is not None:
                raise HardwareError(self._refused)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the place back. Safe to call twice."""
        assert self._client.stdin is not None
        self._client.stdin.close()
        try:
            self._client.wait(_LET_GO_S)
        except subprocess.TimeoutExpired:
            self._client.kill()
            self._client.wait()
        self._reader.join()

    def _read(self) -> None:
        assert self._client.stdout is not None
        self._refused = f"the client that holds the place {self.name} ended without a word"
        with self._client.stdout as answers:
            for line in answers:
                answer = json.loads(line)
                if "say" in answer:
                    self._say(answer["say"])
                elif "lost" in answer:
                    self._lost(answer["lost"])
                elif "error" in answer:
                    self._refused = answer["error"]
                else:
                    self.resources, self._refused = answer["done"], None
                    self._answered.set()
        self._answered.set()
