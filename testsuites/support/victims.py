"""Processes of the lab that are there to be killed: what they were about must be whole afterwards.

A nursery imports the lab once and forks a victim for each order, as `python -m support.victims`: a process of its own
group, with a folder of its own for temporary files, stores and leases. It does the same again and again.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from dataclasses import replace
from pathlib import Path

from harness.board import Admission, Board, Lease, read_board, stale_of
from harness.board.leases import FOLDER
from harness.build.artifacts import write_atomically
from harness.console import ConsoleError, Session
from harness.machine import BootFiles, MachineError, QemuMachine, snapshot
from harness.machine.scratch import PREFIX, Scratch
from harness.machine.tiny_guest import Then, write_tiny_guest
from harness.measure.metrics import Metric
from harness.measure.store import Record, Store
from harness.report.run import EVENTS, Writer, read, read_events
from harness.report.run import FOLDER as REPORTS
from harness.verdict.verdict import judge
from support.projects import BOARD, TOP, command, environment

TAG = "QUOIN_VICTIM"
BLOB_BYTES = 300_000
LIMIT_S = 60.0
SLOTS = 4
NUMBER = "victim.number"


def record(number: int) -> Record:
    """A record that is known again by its number, longer than a page now and then."""
    return Record(Metric(NUMBER, number, "count"), "host", "", {}, "x" * (number % 5000))


def writes(folder: Path) -> None:
    """Add to the stores of a checkout, and write files, without end."""
    store, writer = Store(folder), Writer.begin(folder, f"run-{os.getpid()}", "test")
    for number in itertools.count():
        store.append(record(number))
        writer.add(f"fault {number} {'x' * (number % 5000)}")
        write_atomically(folder / "build" / "blob", bytes([number % 256]) * BLOB_BYTES)
        if number % 5 == 4:
            writer.finish()
        print(number, flush=True)


def leases(folder: Path) -> None:
    """Take the board and give it back, without end."""
    for number in itertools.count():
        lease = Lease("tiny")
        lease.take(60.0)
        print(number, flush=True)
        lease.release()
        threading.Event().wait(0.02)  # the other's turn


def session(folder: Path) -> Session:
    """A session on a machine that is not ready yet."""
    board: Board = read_board(folder / "boards" / "tiny.yaml")
    machine = QemuMachine(board, BootFiles(board.kernel))
    machine.say = lambda text: None
    return Session(machine, folder / "build" / "logs" / "console.log")


def sessions(folder: Path) -> None:
    """Switch a machine on, save it, load it, and switch it off, without end."""
    for number in itertools.count():
        with session(folder) as on:
            on.wait_ready(60.0)
            print(number, flush=True)
            on.qmp("stop")
            memory = snapshot.save(on.machine)
            for _ in range(2):
                on.qmp("cont")
                snapshot.load(on.machine, memory)


def waits(folder: Path) -> None:
    """Wait on a machine for what never comes; its end is the end of this, in good order, and the verdict is told."""
    print("begins", flush=True)
    try:
        with session(folder) as on:
            try:
                on.wait_ready(LIMIT_S)
                on.console.expect("never", 10 * LIMIT_S)
            except (ConsoleError, MachineError) as error:
                print(judge(on, error).verdict.value, flush=True)
    except MachineError as error:
        print(judge(None, error).verdict.value, flush=True)


def pytests(folder: Path) -> None:
    """Be a pytest on a board."""
    print("begins", flush=True)
    os.chdir(folder)
    words = command("--report", "test_it.py")
    os.execve(words[0], words, {**environment(), **own(folder)})


KINDS = {kind.__name__: kind for kind in (writes, leases, sessions, waits, pytests)}


def own(folder: Path) -> dict[str, str]:
    """Variables by which a process keeps to a folder, and is known as one of its family."""
    return {TAG: str(folder), "TMPDIR": str(folder / "tmp"), FOLDER: str(folder / "leases")}


def _be(kind: str, folder: Path, out: int) -> None:
    os.setsid()
    os.dup2(out, 1)
    os.dup2(os.open(folder / "stderr", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    os.environ.update(own(folder))
    tempfile.tempdir = str(folder / "tmp")
    KINDS[kind](folder)


def main() -> None:
    """Read orders, a JSON list of kind, folder and a named pipe for its words; answer each with a process id.

    An order of a number alone waits for that process, and is answered by how it ended.
    """
    for line in sys.stdin:
        order = json.loads(line)
        if isinstance(order, int):
            print(os.waitstatus_to_exitcode(os.waitpid(order, 0)[1]), flush=True)
            continue
        kind, folder, pipe = order
        child = os.fork()
        if child == 0:
            try:
                _be(kind, Path(folder), os.open(pipe, os.O_WRONLY))
                os._exit(0)
            except BaseException:  # noqa: BLE001  # the nursery's own code must not go on in a child
                traceback.print_exc()
                os._exit(1)
        print(child, flush=True)


class Nursery:
    """The process that forks victims, and waits for them."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.victims"],
            cwd=TOP,
            env={**environment(), "PYTHONPATH": os.pathsep.join([str(TOP), str(TOP / "testsuites")])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _ask(self, order: object) -> int:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


class Victim:
    """One victim, from its first word on."""

    def __init__(self, nursery: Nursery, kind: str, folder: Path) -> None:
        self.folder = folder
        self._nursery = nursery
        pipe = Path(tempfile.mktemp(prefix="words-", dir=folder))
        os.mkfifo(pipe)
        self.pid = nursery._ask([kind, str(folder), str(pipe)])
        self.words = pipe.open("r", encoding="utf-8")  # closed by end
        pipe.unlink()
        self.first = self.words.readline().strip()
        assert self.first, (folder / "stderr").read_text()

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def end(self) -> int:
        """Wait for its end; how it ended, as subprocess.Popen.returncode."""
        code = self._nursery._ask(self.pid)
        self.words.close()
        return code


def home(folder: Path, tests: str = "", options: str = "") -> Path:
    """A folder for victims: a board that only one may have, whose guest sleeps."""
    for name in ("boards", "tmp", "leases"):
        (folder / name).mkdir(parents=True)
    board = BOARD.replace("[qmp]", "[qmp, snapshot]").replace("smp: 1", "smp: 1\n        exclusive: true")
    (folder / "boards" / "tiny.yaml").write_text(board)
    write_tiny_guest(folder / "guest", "init: ready\n", Then.SLEEP)
    (folder / "pytest.ini").write_text(f"[pytest]\naddopts = --board tiny {options}\n")
    (folder / "test_it.py").write_text(tests)
    return folder


def family(folder: Path) -> list[int]:
    """The processes that have to do with the victims of a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            tagged = f"{TAG}={folder}\0".encode() in (process / "environ").read_bytes()
            state = (process / "stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            continue  # another's, or it ended while we looked
        if tagged and state not in "ZX":
            found.append(int(process.name))
    return found


def all_have_ended(folder: Path, deadline: float) -> None:
    while left := family(folder):
        assert time.monotonic() < deadline, f"processes {left} are left of {folder}"
        threading.Event().wait(0.005)


def nothing_is_left(folder: Path) -> None:
    """No process, no lock, no folder and nothing half written is left of the victims of a folder."""
    deadline = time.monotonic() + LIMIT_S
    all_have_ended(folder, deadline)
    # A process that is in the middle of execve has no environment, so it is in no family. It ends as the others do.
    with Admission(SLOTS, folder / "tmp" / f"quoin-vcpu-{os.getuid()}").lease(SLOTS, deadline - time.monotonic()):
        pass
    all_have_ended(folder, deadline)
    lease = Lease("tiny", folder / "leases")
    lease.take(0.0)
    lease.release()
    assert stale_of("tiny", folder / "leases") is None
    for scratch in (folder / "tmp").glob(f"{PREFIX}*"):
        os.utime(scratch, (time.time() - 1000, time.time() - 1000))
    before, tempfile.tempdir = tempfile.tempdir, str(folder / "tmp")
    try:
        Scratch().close()  # the next machine's
    finally:
        tempfile.tempdir = before
    assert not list((folder / "tmp").glob(f"{PREFIX}*"))
    stores_are_whole(folder)


def stores_are_whole(folder: Path) -> None:
    """Each store can be read, has no hole, and takes more."""
    store = Store(folder)
    numbers = [int(one.metric.value) for one in store.read() if one.metric.name == NUMBER]
    assert all(number in (0, before + 1) for before, number in itertools.pairwise([-1, *numbers])), numbers
    count = len(store.read())
    store.append(replace(record(0), metric=Metric("victim.checked", 1, "count")))
    assert len(store.read()) == count + 1
    for run in (folder / REPORTS).glob("*/run.json"):
        read(run.parent)
    for events in (folder / REPORTS).glob(f"*/{EVENTS}"):
        faults = len(read_events(events.parent).faults)
        Writer(events.parent).add("one more")
        assert read_events(events.parent).faults[faults:] == ("one more",)
    blob = folder / "build" / "blob"
    if blob.exists():
        content = blob.read_bytes()
        assert len(content) == BLOB_BYTES and len(set(content)) == 1


if __name__ == "__main__":
    main()
