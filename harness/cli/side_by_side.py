"""Commands side by side, a few at a time: who ends makes room for the next."""

from __future__ import annotations

import os
import selectors
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from harness.build.process import bound
from harness.cli.suites import end

_LOOK_S = 1.0


def side_by_side(
    commands: Mapping[str, Sequence[str]],
    jobs: int,
    *,
    cwd: Path,
    log: Callable[[str], Path],
    env: Callable[[str], Mapping[str, str]] = lambda name: os.environ,
    look: Callable[[Sequence[str]], None] = lambda names: None,
    inherited: Sequence[int] = (),
) -> Iterator[tuple[str, int]]:
    """Name and exit status of each command as it ends; `log` says where its output goes.

    `look` is called each second with the names of those that run. They have the descriptors `inherited`. All are ended
    where the caller goes away, and killed where it is killed.
    """
    waiting = list(commands)
    running: dict[int, tuple[str, subprocess.Popen[bytes]]] = {}
    with selectors.DefaultSelector() as selector:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    name = waiting.pop(0)
                    with log(name).open("wb") as file:
                        process = subprocess.Popen(
                            bound(commands[name]),
                            cwd=cwd,
                            env=dict(env(name)),
                            stdin=subprocess.DEVNULL,
                            stdout=file,
                            stderr=subprocess.STDOUT,
                            process_group=0,
                            pass_fds=inherited,
                        )
                    # Readable when the process has ended (pidfd_open(2)).
                    descriptor = os.pidfd_open(process.pid)
                    running[descriptor] = name, process
                    selector.register(descriptor, selectors.EVENT_READ)
                for key, _ in selector.select(_LOOK_S):
                    selector.unregister(key.fd)
                    os.close(key.fd)
                    name, process = running.pop(key.fd)
                    yield name, process.wait()
                look([name for name, _ in running.values()])
        finally:
            for descriptor, (_, process) in running.items():
                os.close(descriptor)
                end(process)
