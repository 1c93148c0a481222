"""A board that only one may have: leased, held by a heartbeat, and freed whatever becomes of the holder."""

from __future__ import annotations

import itertools
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.board import Holder, Lease, LeaseError, holder_of, stale_of
from harness.board.leases import FOLDER, HEARTBEAT_S, NO_WAIT
from support.elf_files import make_kernel
from support.projects import BOARD, TOP, command, environment

HOLDER = """
import sys
from pathlib import Path
from harness.board import Lease
lease = Lease("rack-7", Path(sys.argv[1]))
lease.doing = "test_a"
lease.take(0.0)
print("held", flush=True)
sys.stdin.read()
lease.release()
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], cwd=TOP, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def foreign(folder: Path, at_s: float) -> None:
    """A lease that another host has written to a shared folder at `at_s` by its own clock."""
    told = {"board": "rack-7", "host": "elsewhere", "user": "eve", "pid": 7, "since_s": 1.0, "doing": "test_b"}
    new = folder / "new"
    new.write_text(json.dumps({**told, "at_s": at_s}))
    new.replace(folder / "rack-7.json")


@contextmanager
def beating(folder: Path, at_s: float) -> Iterator[None]:
    """The heart of a holder on another host, whose clock is wrong."""
    ended = threading.Event()
    foreign(folder, at_s)

    def run() -> None:
        for beat in itertools.count(1):
            if ended.wait(0.05):
                return
            foreign(folder, at_s + beat)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.mark.requirement("DEV-02", "ERR-01")
def test_a_second_session_is_told_who_has_the_board_and_what_it_runs(tmp_path: Path) -> None:
    process = holder(tmp_path)
    try:
        with pytest.raises(
            LeaseError, match=rf"rack-7 is leased by .* on {socket.gethostname()}, process {process.pid}"
        ):
            Lease("rack-7", tmp_path).take(0.0)
        assert "running test_a" in str(holder_of("rack-7", tmp_path))
        heard: list[str] = []
        with pytest.raises(LeaseError):
            Lease("rack-7", tmp_path).take(0.5, heard.append)
        assert len(heard) == 1
        assert "waiting for rack-7: leased by" in heard[0]
    finally:
        process.kill()
        process.communicate(timeout=30)


@pytest.mark.requirement("DEV-02")
def test_a_board_is_free_as_soon_as_its_session_is_killed(tmp_path: Path) -> None:
    process = holder(tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    assert holder_of("rack-7", tmp_path) is None
    gone = stale_of("rack-7", tmp_path)
    assert gone is not None
    assert gone.pid == process.pid
    lease = Lease("rack-7", tmp_path)
    lease.take(0.0)
    lease.release()
    assert stale_of("rack-7", tmp_path) is None


@pytest.mark.requirement("DEV-02")
def test_a_session_that_waits_gets_the_board_when_it_is_given_back(tmp_path: Path) -> None:
    process = holder(tmp_path)
    waiter = Lease("rack-7", tmp_path)

    def give_back(_: str) -> None:
        process.communicate("", timeout=30)

    waiter.take(60.0, give_back)
    found = holder_of("rack-7", tmp_path)
    waiter.release()
    assert found is not None
    assert found.pid == os.getpid()


@pytest.mark.requirement("DEV-02")
@pytest.mark.parametrize("at_s", [1.0, 9e9], ids=["behind", "ahead"])
def test_a_holder_on_another_host_counts_while_its_heart_beats(at_s: float, tmp_path: Path) -> None:
    with beating(tmp_path, at_s):
        with pytest.raises(LeaseError, match="eve on elsewhere, process 7"):
            Lease("rack-7", tmp_path, stale_s=60.0).take(0.0)
        assert holder_of("rack-7", tmp_path, 60.0) is not None
    assert holder_of("rack-7", tmp_path, 0.3) is None
    lease = Lease("rack-7", tmp_path, stale_s=0.3)
    lease.take(0.0)
    lease.release()


class Heard(Lease):
    """A lease that tells of each heartbeat."""

    def __init__(self, board: str, folder: Path) -> None:
        super().__init__(board, folder)
        self.beats: queue.Queue[Holder | None] = queue.Queue()

    def _write(self) -> None:
        super()._write()
        self.beats.put(holder_of("rack-7", self._folder))


@pytest.mark.requirement("DEV-02")
def test_a_holder_says_again_that_it_lives(tmp_path: Path) -> None:
    lease = Heard("rack-7", tmp_path)
    lease.take(0.0)
    try:
        first = lease.beats.get(timeout=60)
        lease.doing = "the next test"
        now = lease.beats.get(timeout=30 * HEARTBEAT_S)  # raises Empty where there is no heartbeat
        assert first is not None and now is not None
        assert (now.at_s > first.at_s, now.doing) == (True, "the next test")
    finally:
        lease.release()


@pytest.mark.requirement("DEV-02", "ERR-01")
def test_a_session_of_an_exclusive_board_leases_it(tmp_path: Path) -> None:
    (tmp_path / "boards").mkdir()
    text = BOARD.replace("kernel: guest", "kernel: guest\n        exclusive: true")
    (tmp_path / "boards" / "rack-7.yaml").write_text(text)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_it.py").write_text("def test_it(boot):\n    boot(ready=False)\n")
    (tmp_path / "guest").write_bytes(make_kernel("riscv64"))
    leases = tmp_path / "leases"
    leases.mkdir()
    process = holder(leases)
    try:
        ran = subprocess.run(
            command("-q", "--board", "rack-7", "--no-wait"),
            cwd=tmp_path,
            env={**environment(), FOLDER: str(leases)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        listed = subprocess.run(
            [sys.executable, "-m", "harness.cli", "boards", "--boards", str(tmp_path / "boards")],
            cwd=TOP,
            env={**environment(), FOLDER: str(leases)},
            capture_output=True,
            text=True,
            timeout=120,
        )
    finally:
        process.kill()
        process.communicate(timeout=30)
    assert ran.returncode == 1, ran.stdout
    assert f"rack-7 is leased by {holder_name(process)}" in ran.stdout
    assert listed.returncode == 0, listed.stderr
    assert f"leased by {holder_name(process)}" in listed.stdout


def holder_name(process: subprocess.Popen[str]) -> str:
    import getpass

    return f"{getpass.getuser()} on {socket.gethostname()}, process {process.pid}"


@pytest.mark.requirement("DEV-02")
def test_without_waiting_a_leased_board_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NO_WAIT, "1")
    process = holder(tmp_path)
    try:
        with pytest.raises(LeaseError):
            Lease("rack-7", tmp_path).take()
    finally:
        process.kill()
        process.communicate(timeout=30)


@pytest.mark.requirement("DEV-02", "ERR-01")
def test_boards_are_listed_and_a_broken_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text(BOARD)
    (tmp_path / "bad.yaml").write_text(BOARD.replace("smp: 1", "smp: many"))
    ran = subprocess.run(
        [sys.executable, "-m", "harness.cli", "boards", "--boards", str(tmp_path)],
        cwd=TOP,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 1
    assert "good   riscv64  1     128M    for everybody  qmp release" in ran.stdout
    assert "bad.yaml:" in ran.stdout
    assert "'smp' must be int" in ran.stdout


@pytest.mark.requirement("DEV-02", "ERR-01")
@pytest.mark.parametrize("at", ['"now"', "null", "1e300", "-1", "NaN", "true"])
def test_a_holder_that_cannot_be_read_holds_nothing(at: str, tmp_path: Path) -> None:
    text = (
        f'{{"board": "rack-7", "host": "elsewhere", "user": "u", "pid": 1, "since_s": {at}, "at_s": {at}, "doing": ""}}'
    )
    (tmp_path / "rack-7.json").write_text(text)
    assert holder_of("rack-7", tmp_path) is None
    lease = Lease("rack-7", tmp_path)
    lease.take(0.0)
    lease.release()


@pytest.mark.requirement("DEV-02", "ERR-01")
def test_a_lease_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "rack-7.lock").mkdir()
    with pytest.raises(LeaseError, match=r"rack-7\.lock cannot be opened: Is a directory; .*QUOIN_LEASES"):
        Lease("rack-7", tmp_path).take(0.0)
