"""How talks with QEMU's monitor end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qemu.qmp import QMPClient


async def disconnect(client: QMPClient, watcher: asyncio.Task[None] | None) -> None:
    """Leave a monitor whose QEMU was ended on purpose; a broken pipe is what that looks like."""
    from qemu.qmp import QMPError

    with contextlib.suppress(EOFError, OSError, QMPError):
        await client.disconnect()
    if watcher is not None:
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)


async def let_be(answer: Coroutine[Any, Any, object]) -> None:
    """Await an answer that QEMU may owe for ever: it tells by itself that it has ended."""
    from qemu.qmp import QMPError

    with contextlib.suppress(QMPError):
        await answer


async def outcome(task: asyncio.Future[None]) -> BaseException | None:
    """With what a task has failed; None where it has not, or was cancelled."""
    (ended,) = await asyncio.gather(task, return_exceptions=True)
    if isinstance(ended, asyncio.CancelledError):
        return None
    return ended if isinstance(ended, BaseException) else None
