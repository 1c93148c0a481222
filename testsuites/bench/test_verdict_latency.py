"""How long after its cause a verdict stands: panic, reset, an emulator that dies; and hangs, after their limit.

Run with `pytest -m bench testsuites/bench/test_verdict_latency.py`. Seconds of the host: on a busy one they say little.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from harness.board import Board
from harness.build import Artifacts
from harness.console import ConsoleError, Session
from harness.measure.plugin import Metric
from harness.verdict import Verdict, judge
from harness.verdict.symbols import Symbols

PATIENCE_S = 60.0
LIMIT_S = 1.0
# A jump to itself, and what is no instruction: `jmp .`, `ud2`; `b .`, `udf 0`; `j .`, all zeros.
SPIN = {"x86_64": b"\xeb\xfe", "aarch64": b"\x00\x00\x00\x14", "riscv64": b"\x6f\x00\x00\x00"}
ILLEGAL = {"x86_64": b"\x0f\x0b", "aarch64": bytes(4), "riscv64": bytes(4)}


def verdict_after(session: Session, cause: Callable[[], object], limit_s: float) -> tuple[Verdict, float]:
    """The verdict on a machine to which `cause` is done, and the seconds from then on."""
    began = time.monotonic()
    cause()
    with pytest.raises(ConsoleError) as error:
        session.console.expect("never", limit_s)
    verdict = judge(session, error.value).verdict
    return verdict, time.monotonic() - began


@pytest.mark.bench
@pytest.mark.needs("gdbstub", "release")
@pytest.mark.requirement("DEV-02", "DEV-03")
def test_seconds_from_cause_to_verdict(
    board: Board, boot: Callable[..., Session], artifacts: Artifacts, metric: Metric
) -> None:
    def planted(code: bytes) -> Session:
        session = boot()
        with session.gdb() as gdb:
            gdb.write_memory(Symbols(artifacts.kernel).address("syscall::log_read"), code)
        return session

    def typed(session: Session, line: str) -> Callable[[], object]:
        return lambda: session.console.sendline(line)

    took: dict[Verdict, float] = {}

    def measure(session: Session, cause: Callable[[], object], limit_s: float, wanted: Verdict) -> None:
        verdict, took[wanted] = verdict_after(session, cause, limit_s)
        # Off before the next: they must not share the host, and a broken machine would turn this test red.
        session.close()
        assert verdict is wanted

    session = planted(ILLEGAL[artifacts.arch])
    measure(session, typed(session, "log"), PATIENCE_S, Verdict.PANICKED)
    session = boot()
    measure(session, typed(session, "reboot"), PATIENCE_S, Verdict.RESET)
    session = boot()
    pid = session.machine.pid
    assert pid is not None
    measure(session, lambda: os.kill(pid, signal.SIGKILL), PATIENCE_S, Verdict.QEMU_DIED)
    session = planted(SPIN[artifacts.arch])
    measure(session, typed(session, "log"), LIMIT_S, Verdict.SPINNING)
    session = boot()
    measure(session, typed(session, "sleep 100000000"), LIMIT_S, Verdict.IDLE)

    beyond = {verdict: took.pop(verdict) - LIMIT_S for verdict in (Verdict.SPINNING, Verdict.IDLE)}
    told = [f"{verdict.value} {seconds:.3f} s" for verdict, seconds in took.items()]
    told += [f"{verdict.value} {seconds:.3f} s beyond its limit" for verdict, seconds in beyond.items()]
    print(f"{board.id}: {', '.join(told)}")
    metric("verdict.after_cause", max(took.values()), unit="s", noise=None)
    metric("verdict.after_hang_limit", max(beyond.values()), unit="s", noise=None)
