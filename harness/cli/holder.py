"""A process in the background that holds what a verb has switched on, when that verb has ended."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

_ENDS_S = 60.0
_ASKER = "QUOIN_HOLDER_ASKER"


class Asker:
    """Who has started this process by `start_holder`: it waits for our word, and until then we end with it.

    Whoever calls a holder's verb by hand is none, and is told all the same.
    """

    def __init__(self) -> None:
        self._told = False
        pid = os.environ.pop(_ASKER, None)
        if pid is not None:
            threading.Thread(target=self._watch, args=(int(pid),), daemon=True).start()

    def tell(self, ready: str) -> None:
        """Say the line that it waits for. From then on this process lives by itself."""
        self._told = True
        print(ready, flush=True)

    def _watch(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(pid)
            select.select([handle], [], [])
            os.close(handle)
        if not self._told:
            os.kill(os.getpid(), signal.SIGTERM)  # which unwinds


def start_holder(
    words: Sequence[str], ready: str, failed: str, *, limit_s: float | None = None, environment: dict[str, str]
) -> None:
    """Start `quoin WORDS` in a session of its own and return when it prints the line `ready`.

    It does so by `Asker.tell`. Whom it waits for is told meanwhile; without `limit_s` that may be as long as people
    do. It ends where this process is interrupted or killed before. Raises LabError, with `failed` and its words, where
    it ends or is not ready in time.
    """
    from harness.board import LabError

    holder = subprocess.Popen(
        [sys.executable, "-m", "harness.cli", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env={**os.environ, **environment, _ASKER: str(os.getpid())},
    )
    assert holder.stdout is not None
    deadline = None if limit_s is None else time.monotonic() + limit_s
    said, told = b"", 0
    try:
        while not said.endswith(f"{ready}\n".encode()):
            left = None if deadline is None else max(deadline - time.monotonic(), 0)
            come = select.select([holder.stdout], [], [], left)[0]
            piece = os.read(holder.stdout.fileno(), 4096) if come else b""
            if not piece:
                holder.terminate()
                holder.wait(_ENDS_S)
                text = said.decode(errors="replace").strip().removeprefix("error: ")
                raise LabError(f"{failed}: {text or 'no answer'}")
            said += piece
            # A line may come in pieces.
            whole = said.rfind(b"\n") + 1
            for line in said[told:whole].decode(errors="replace").splitlines():
                if line.startswith("quoin: "):
                    print(line, file=sys.stderr, flush=True)
            told = whole
    except (KeyboardInterrupt, SystemExit):
        # No Ctrl-C of this terminal reaches a session of its own.
        holder.terminate()
        holder.wait(_ENDS_S)
        raise
