"""Leases: who has a board that only one may have.

An emulated board is made anew for each session, and the vCPU budget is all that
sessions share. A physical board, or one whose file says `exclusive: true`, is
one thing: a session leases it. The lease is a locked file, which the host frees
with the process, however that ends. Beside it the holder writes who it is, and
again every two seconds: so that others read whom they wait for, and a holder on
another host, whose lock a shared folder may not show, counts as gone when its
heartbeat has stopped. That is seen by watching it, for hosts' clocks differ: it
lives while what it writes changes, by the clock of the host that looks.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from harness.board.errors import LeaseError

HEARTBEAT_S = 2.0
# A holder that was watched for so long and said nothing is gone: well over a heartbeat, under what people wait for.
STALE_S = 8.0
_LATEST_S = 1e11  # seconds since 1970 that the host's calendar can show
_RETRY_S = 0.2
FOLDER = "QUOIN_LEASES"
NO_WAIT = "QUOIN_NO_WAIT"


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has a board, as it last said; `at_s` and `since_s` are seconds since 1970 by the holder's clock."""

    board: str
    host: str
    user: str
    pid: int
    since_s: float
    at_s: float
    doing: str = ""

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since_s))
        doing = f", running {self.doing}" if self.doing else ""
        return f"{self.user} on {self.host}, process {self.pid}, since {since}{doing}"


def leases_directory() -> Path:
    """Where leases lie: the folder that QUOIN_LEASES names, shared by hosts perhaps, or one of this user's."""
    named = os.environ.get(FOLDER)
    return Path(named) if named else Path(tempfile.gettempdir()) / f"quoin-leases-{os.getuid()}"


def holder_of(board: str, folder: Path | None = None, stale_s: float = STALE_S) -> Holder | None:
    """Who has `board` now; None where nobody has it.

    One on another host is watched until its heart beats, or for `stale_s`.
    """
    folder = leases_directory() if folder is None else folder
    watch, never = _Watch(stale_s), threading.Event()
    while True:
        told = _read(folder / f"{board}.json")
        if _locked(folder / f"{board}.lock"):
            return told or Holder(board, socket.gethostname(), "somebody", 0, 0.0, 0.0)
        state = watch.state(told)
        if state != "unsure":
            return told if state == "alive" else None
        never.wait(_RETRY_S)


def stale_of(board: str, folder: Path | None = None) -> Holder | None:
    """Who had `board` and went without giving it back; the next session takes it. For a board that nobody has."""
    folder = leases_directory() if folder is None else folder
    return _read(folder / f"{board}.json")


class Lease:
    """A board that is this process's own from `take` to `release`."""

    def __init__(self, board: str, folder: Path | None = None, stale_s: float = STALE_S) -> None:
        self.board = board
        self._stale_s = stale_s
        self._folder = leases_directory() if folder is None else folder
        self._lock: int | None = None
        self._ended = threading.Event()
        self._beat: threading.Thread | None = None
        self._since_s = 0.0
        self.doing = ""

    def take(self, timeout_s: float | None = None, tell: Callable[[str], None] | None = None) -> None:
        """Wait until the board is free and take it; `tell` hears once whom it waits for.

        Without a time limit it waits an hour, or not at all where QUOIN_NO_WAIT is set; but a holder on another
        host is always watched until its heart beats, or for `stale_s`. Raises LeaseError, which names the holder.
        """
        if timeout_s is None:
            timeout_s = 0.0 if os.environ.get(NO_WAIT) else 3600.0
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise LeaseError(
                f"the folder of leases {self._folder} cannot be made: {error.strerror}; name another in {FOLDER}"
            ) from error
        deadline = time.monotonic() + timeout_s
        told, watch = False, _Watch(self._stale_s)
        while (holder := self._try(watch)) is not None:
            if time.monotonic() >= deadline and not watch.unsure:
                raise LeaseError(
                    f"{self.board} is leased by {holder}; wait for it, end it, or choose another board "
                    f"(leases in {self._folder})"
                )
            if tell is not None and not told:
                tell(f"waiting for {self.board}: leased by {holder}")
                told = True
            self._ended.wait(_RETRY_S)
        self._since_s = time.time()
        self._write()
        self._beat = threading.Thread(target=self._run, name=f"lease-{self.board}", daemon=True)
        self._beat.start()

    def release(self) -> None:
        """Give the board back. Safe to call twice."""
        if self._lock is None:
            return
        self._ended.set()
        if self._beat is not None:
            self._beat.join()
        with contextlib.suppress(OSError):
            (self._folder / f"{self.board}.json").unlink()
        os.close(self._lock)
        self._lock = None

    def _try(self, watch: _Watch) -> Holder | None:
        """Take the lock; the holder where that cannot be, or where `watch` is not sure yet that it is gone."""
        told = _read(self._folder / f"{self.board}.json")
        path = self._folder / f"{self.board}.lock"
        try:
            lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise LeaseError(
                f"the lease {path} cannot be opened: {error.strerror}; mend that, or name another folder in {FOLDER}"
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            watch.unsure = False
            return told or Holder(self.board, socket.gethostname(), "somebody", 0, 0.0, 0.0)
        if watch.state(told) != "gone":
            os.close(lock)
            return told
        self._lock = lock
        return None

    def _run(self) -> None:
        while not self._ended.wait(HEARTBEAT_S):
            self._write()

    def _write(self) -> None:
        now = Holder(
            self.board, socket.gethostname(), getpass.getuser(), os.getpid(), self._since_s, time.time(), self.doing
        )
        path = self._folder / f"{self.board}.json"
        new = path.with_suffix(f".{os.getpid()}.new")
        # A full disk costs the heartbeat and not the session: the lock is held all the same.
        with contextlib.suppress(OSError):
            new.write_text(json.dumps(asdict(now)), encoding="utf-8")
            new.replace(path)


def _read(path: Path) -> Holder | None:
    """What a holder says of itself; None where nobody does, or where it is not what a holder writes."""
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(data, dict) or data.keys() != set(Holder.__slots__):
        return None
    texts = all(isinstance(data[key], str) for key in ("board", "host", "user", "doing"))
    times = all(type(data[key]) in (int, float) and 0 <= data[key] < _LATEST_S for key in ("since_s", "at_s"))
    return Holder(**data) if texts and times and type(data["pid"]) is int else None


class _Watch:
    """Whether a holder on another host lives: whether its heartbeat changes, by this host's clock."""

    def __init__(self, stale_s: float) -> None:
        self.unsure = False
        self._stale_s = stale_s
        self._last: Holder | None = None
        self._since_s = 0.0
        self._beats = False

    def state(self, told: Holder | None) -> Literal["alive", "unsure", "gone"]:
        """What is known when the lease's file says `told` now."""
        self.unsure = False
        if told is None or told.host == socket.gethostname():
            return "gone"
        now = time.monotonic()
        if told != self._last:
            self._beats = self._last is not None
            self._last, self._since_s = told, now
        elif now - self._since_s >= self._stale_s:
            return "gone"
        self.unsure = not self._beats
        return "alive" if self._beats else "unsure"


def _locked(path: Path) -> bool:
    try:
        lock = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False
