"""What goes wrong with the lab itself: killed at any moment, no room on the disk, a clock that is stepped.

A hundred kills, drawn at random from the seed that a failure tells: `--faults-seed` brings them again. After each
nothing runs, nothing is locked, and what was kept is whole.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.build import Artifacts
from harness.machine.scratch import PREFIX
from harness.measure.store import Store
from harness.plugin.faults import SEED
from harness.report.run import EVENTS, Writer, read_events
from support.projects import TOP, command, environment
from support.victims import Nursery, Victim, family, home, nothing_is_left, own, record

_LIMIT_S = 60.0
PATHS = {**environment(), "PYTHONPATH": os.pathsep.join([str(TOP), str(TOP / "testsuites")])}
# How many are killed of each kind, and within how long after their first word.
KILLS = {"writes": (42, 0.08), "leases": (14, 0.05), "sessions": (22, 0.4), "waits": (12, 0.05), "pytests": (10, 2.5)}
BUSY = """
import itertools
import pytest

@pytest.mark.parametrize("number", range(1000))
def test_busy(fresh_target, metric, number):
    metric("victim.number", number, unit="count")
"""


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short name, as sockets want it."""
    with tempfile.TemporaryDirectory(prefix="quoin-") as folder:
        yield Path(folder)


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """Where chance comes from; what brings it again stands in the report."""
    seed = request.config.getoption(SEED)
    seed = random.SystemRandom().randrange(1 << 32) if seed is None else seed
    print(f"seed {seed}; again: {SEED} {seed}")
    return random.Random(f"{seed} {request.node.name}")


def after(seconds: float) -> None:
    """Let a victim go on for so long: it is killed wherever it is then."""
    threading.Event().wait(seconds)


@pytest.mark.requirement("TST-26", "DEV-08")
@pytest.mark.parametrize("kind", ["writes", "leases", "sessions"])
def test_a_killed_process_leaves_nothing(nursery: Nursery, chance: random.Random, short: Path, kind: str) -> None:
    kills, longest_s = KILLS[kind]
    folder = home(short / "home")
    for _ in range(kills):
        # Of leases two who want the same board, of which one is killed and the other gets it.
        victims = [Victim(nursery, kind, folder) for _ in range(2 if kind == "leases" else 1)]
        after(chance.uniform(0.0, longest_s))
        for victim in victims:
            victim.kill()
            assert victim.end() == -signal.SIGKILL
            if victim is not victims[-1]:
                seen = sum(1 for _ in zip(range(3), victims[-1].words, strict=False))
                assert seen == 3, "the other does not get the board"
        nothing_is_left(folder)


@pytest.mark.requirement("TST-26", "DEV-08")
def test_a_killed_emulator_ends_its_session_in_good_order(nursery: Nursery, chance: random.Random, short: Path) -> None:
    kills, longest_s = KILLS["waits"]
    folder = home(short / "home")
    for _ in range(kills):
        victim = Victim(nursery, "waits", folder)
        deadline = time.monotonic() + _LIMIT_S
        while not (qemus := [pid for pid in family(folder) if "-nodefaults" in command_of(pid)]):
            assert time.monotonic() < deadline, (folder / "stderr").read_text()
            after(0.001)
        after(chance.uniform(0.0, longest_s))
        os.kill(qemus[0], signal.SIGKILL)
        said = victim.words.read()
        assert victim.end() == 0, (folder / "stderr").read_text()
        assert said == "qemu-died\n", said
        assert not list((folder / "tmp").glob(f"{PREFIX}*"))
        nothing_is_left(folder)


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


@pytest.mark.requirement("TST-26", "DEV-08")
@pytest.mark.needs("arch==riscv64", "release")
def test_a_killed_pytest_leaves_nothing(
    nursery: Nursery, chance: random.Random, short: Path, artifacts: Artifacts
) -> None:
    kills, longest_s = KILLS["pytests"]
    for number in range(kills):
        folder = home(short / str(number), BUSY, "-n 1" if number % 3 == 1 else "")
        if number % 3 == 2:  # a kernel, and not a guest of twenty instructions
            board = folder / "boards" / "tiny.yaml"
            text = board.read_text().replace("kernel: guest", "kernel: guest\n        initrd: archive")
            board.write_text(f"{text}  archive: {artifacts.archive}\n".replace("../guest", str(artifacts.image)))
        victim = Victim(nursery, "pytests", folder)
        after(chance.uniform(0.0, longest_s))
        victim.kill()
        assert victim.end() == -signal.SIGKILL
        nothing_is_left(folder)


@pytest.mark.requirement("TST-26", "DEV-08")
def test_a_line_that_was_cut_is_none_and_the_next_one_is_whole(tmp_path: Path) -> None:
    store, writer = Store(tmp_path), Writer.begin(tmp_path, "run", "test")
    for number in range(3):
        store.append(record(number))
        writer.add(f"fault {number}")
    kept = {path: path.read_bytes() for path in (store.path, writer.folder / EVENTS)}
    for cut in (1, 2, 9, 10_000):
        for path, whole in kept.items():
            path.write_bytes(whole[:-cut])
        left = [whole[:-cut].count(b"\n") for whole in kept.values()]
        assert [len(store.read()), len(read_events(writer.folder).faults)] == left
        store.append(record(9))
        writer.add("fault 9")
        assert [len(store.read()), len(read_events(writer.folder).faults)] == [count + 1 for count in left]


# No room on the disk.


def on_a_full_disk(folder: Path) -> subprocess.CompletedProcess[str]:
    """`support.full_disk` on a file system of its own, or where nobody may mount one, under a limit for files."""
    program = [sys.executable, "-m", "support.full_disk", str(folder)]
    mount = f"mount -t tmpfs -o size=1m tmpfs '{folder}' && exec \"$@\""
    for unshare in (["unshare", "--mount"], ["unshare", "--mount", "--map-root-user"]):
        if subprocess.run([*unshare, "sh", "-c", mount, "-", "true"], check=False, capture_output=True).returncode == 0:
            program = [*unshare, "sh", "-c", mount, "-", *program, "ballast"]
            break
    return subprocess.run(program, env=PATHS, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.requirement("TST-26", "DEV-08")
def test_a_full_disk_is_told_and_costs_nothing_that_was_kept(short: Path) -> None:
    done = on_a_full_disk(short)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    why = "(No space left on device|File too large)"
    room = "make room on "
    assert re.fullmatch(rf"MetricError: .*metrics.jsonl cannot be written: {why}; {room}.*", told["store"])
    assert re.fullmatch(rf"RunError: .* cannot be written: {why}; {room}.*", told["run"])
    assert re.search(rf"^BuildError: .*{why}.*{room}", told["file"], re.DOTALL)
    assert re.fullmatch(rf"LabError: the console log .* cannot be written: {why}; {room}.*", told["log"])
    assert re.search(rf"^\w+Error: .*{why}.*{room}", told["session"]), told["session"]
    assert told["lease"] == "taken and given back"


# A clock that is stepped.


@pytest.mark.requirement("TST-26", "DEV-08")
def test_sessions_whose_clock_leaps_pass_and_share_a_board_with_others(short: Path) -> None:
    tests = "def test_one(fresh_target): pass\ndef test_two(fresh_target, metric): metric('a.b', 1, unit='s')\n"
    folder = home(short, tests)
    runs = [
        subprocess.Popen(
            command("--report", *extra, "test_it.py"),
            cwd=folder,
            env={**PATHS, **own(folder)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for extra in (["-p", "support.leaping_clock"], [])
    ]
    for run in runs:
        said, _ = run.communicate(timeout=300)
        assert run.returncode == 0 and "2 passed" in said, said
    nothing_is_left(folder)


@pytest.mark.requirement("TST-26")
def test_there_are_a_hundred_kills() -> None:
    assert sum(kills for kills, _ in KILLS.values()) == 100
