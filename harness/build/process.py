"""Running a tool so that its lines are seen as they come, and so that it never outlives its caller."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.build.artifacts import OnLine

END_LIMIT_S = 5.0


def bound(command: Sequence[str]) -> list[str]:
    """A command that the kernel kills when the thread that started it ends.

    The process may be gone before setpriv is heard; who finds another parent then does not begin.
    """
    alone = ["sh", "-c", '[ "$PPID" = "$0" ] && exec "$@"', str(os.getpid())]
    return ["setpriv", "--pdeathsig", "KILL", "--", *alone, *command]


@contextlib.contextmanager
def group(
    command: Sequence[str | os.PathLike[str]], *, cwd: Path, env: Mapping[str, str], stdout: int, stderr: int
) -> Iterator[subprocess.Popen[str]]:
    """Start `command` in a process group of its own; leaving the block ends whatever is left of the group.

    An interrupt that comes while it is being started is heard in the block, where it is known whom to end.
    """
    with _interrupts_later() as let_come:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            text=True,
            errors="replace",
            process_group=0,
        )
        try:
            let_come()
            yield process
        finally:
            end_group(process)
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()


@contextlib.contextmanager
def _interrupts_later() -> Iterator[Callable[[], None]]:
    """Interrupts wait until what is given is called. Those that are ignored stay so."""
    came: list[int] = []
    put_off: dict[int, Any] = {}

    def let_come() -> None:
        for number, handler in put_off.items():
            signal.signal(number, handler)
        put_off.clear()
        while came:
            signal.raise_signal(came.pop())

    if threading.current_thread() is threading.main_thread():  # where they are handled
        for number in (signal.SIGINT, signal.SIGTERM):
            if callable(handler := signal.getsignal(number)):
                put_off[number] = handler
                signal.signal(number, lambda number, _: came.append(number))
    try:
        yield let_come
    finally:
        let_come()


def end_group(process: subprocess.Popen[str], limit_s: float = END_LIMIT_S) -> None:
    """End `process` with its children: asked first, then made to."""
    if process.poll() is not None:
        return
    _signal_group(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(limit_s)
    # It may have gone before its children.
    _signal_group(process.pid, signal.SIGKILL)
    process.wait()


def _signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


def stream(
    command: Sequence[str | os.PathLike[str]],
    *,
    cwd: Path,
    env: Mapping[str, str],
    on_line: OnLine | None = None,
) -> tuple[int, list[str]]:
    """Run `command`; each line of stdout and stderr goes to `on_line` as it comes. Exit status and all lines."""
    lines: list[str] = []
    with group(command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            if on_line is not None:
                on_line(lines[-1])
        return process.wait(), lines


def stream_apart(
    command: Sequence[str | os.PathLike[str]], *, cwd: Path, env: Mapping[str, str], on_stderr: OnLine
) -> tuple[int, list[str]]:
    """As `stream`, but stdout is kept for the caller, and only stderr is shown as it comes."""
    with group(command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        errors = process.stderr

        def show() -> None:
            with contextlib.suppress(ValueError):  # an interrupt closes it
                for line in errors:
                    on_stderr(line.rstrip("\n"))

        reader = threading.Thread(target=show, name="stderr", daemon=True)
        reader.start()
        lines = [line.rstrip("\n") for line in process.stdout]
        status = process.wait()
        reader.join()
        return status, lines
