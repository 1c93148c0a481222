"""The one asyncio loop of the lab, in a thread of its own.

QMP is asyncio; suites are not. Everything asynchronous stays behind this
module. The thread also starts the emulators: the kernel ties their life to the
thread that forked them (prctl(2), PR_SET_PDEATHSIG), and this one lives as long
as the process.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_loop: asyncio.AbstractEventLoop | None = None
_start = threading.Lock()


def io_loop() -> asyncio.AbstractEventLoop:
    """The loop, started on first use."""
    global _loop
    with _start:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="lab-io", daemon=True).start()
        return _loop


def run(work: Coroutine[Any, Any, T], timeout_s: float) -> T:
    """Run a coroutine on the loop and wait for it. Raises TimeoutError at the deadline."""
    future = asyncio.run_coroutine_threadsafe(work, io_loop())
    try:
        return future.result(timeout_s)
    except concurrent.futures.TimeoutError:
        future.cancel()
        raise TimeoutError(f"no answer within {timeout_s:g} s") from None
    except BaseException:
        future.cancel()
        raise
