"""A run as data: what each test and each machine came to, on one clock.

While a run goes on, `events.jsonl` in its folder gets a line for each test that ends and for each machine
that is switched on, from as many processes as there are; a killed run has all lines but the last. `run.json`
is all of them at the end. Times are seconds since the run began, by the host's monotonic clock; only a run
that is resumed after a reboot is put together by the host's wall clock.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from harness.board import LabError
from harness.build.artifacts import append_line, write_atomically

FOLDER = Path("build") / "reports"
RUN, EVENTS, HEAD = "run.json", "events.jsonl", "head.json"
JUNIT, CONSOLES, PAGE = "junit.xml", "consoles.json", "index.html"
# Runs that are kept; the last good one of each kind besides.
KEPT = 40
_OWNER = "owner"
_FORMAT = 1
# What comes of reading a file that is damaged, or of another version.
_DAMAGE = (ValueError, KeyError, TypeError, AttributeError)
_NEXT = "take another run, or run the tests again with --report"

_T = TypeVar("_T")
Outcome = Literal["passed", "failed", "skipped"]


class RunError(LabError):
    """A run that is not there, or is none; says where it was looked for."""


@dataclass(frozen=True, slots=True)
class Head:
    """What a run is. `kind` is what two runs must share to be compared; `at` is UTC, ISO 8601.

    `boot` names the host's boot, and `monotonic_s` is its clock when the run began. `plan` is a digest of all
    tests of a matrix, of which `shard` runs a part, and `tests` says how many they are in all.
    """

    name: str
    kind: str
    at: str
    wall_s: float
    monotonic_s: float
    boot: str
    revision: str = ""
    host: str = ""
    command: str = ""
    plan: str = ""
    shard: str = ""
    tests: int = 0


@dataclass(frozen=True, slots=True)
class Case:
    """One test that ended. `seconds` are its set-up, call and teardown; `retries`, the verdicts that were forgiven."""

    id: str
    outcome: Outcome
    verdict: str
    board: str = "host"
    cause: str = ""
    begin_s: float = 0.0
    end_s: float = 0.0
    seconds: float = 0.0
    requirements: tuple[str, ...] = ()
    retries: tuple[str, ...] = ()
    quarantine: str = ""
    place: str = ""
    text: str = ""
    rerun: str = ""
    replay: str = ""
    postmortem: str = ""
    # What its postmortem says of versions and each CPU, as (title, text): the folder may be forgotten.
    looked: tuple[tuple[str, str], ...] = ()
    machines: tuple[str, ...] = ()
    log: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine that was on: `log` is its console's, whose times count from `started_s`."""

    name: str
    board: str
    log: str
    started_s: float


@dataclass(frozen=True, slots=True)
class Run:
    """All of a run; `seconds` from its begin to its end, None while it goes on."""

    head: Head
    tests: tuple[Case, ...] = ()
    machines: tuple[Machine, ...] = ()
    seconds: float | None = None
    metrics: tuple[Mapping[str, Any], ...] = ()
    # Executed and known lines by file, where coverage was recorded.
    coverage: tuple[tuple[str, int, int], ...] = ()
    # What went wrong beside the tests: a pytest that could not collect, tests that are missing.
    faults: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        """Whether it is something to compare with: it ended, something passed, and nothing is red."""
        outcomes = {test.outcome for test in self.tests}
        return self.seconds is not None and not self.faults and "passed" in outcomes and "failed" not in outcomes

    def count(self, outcome: Outcome) -> int:
        """How many tests ended so."""
        return sum(test.outcome == outcome for test in self.tests)


def boot_id() -> str:
    """The boot of this host: its monotonic clock begins anew with it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"


def new_name() -> str:
    """A name that sorts by time."""
    return f"{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%S}-{os.getpid()}"


class Writer:
    """Writes one run; several processes may."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.head = read_head(folder)

    @classmethod
    def begin(cls, top: Path, name: str, kind: str, **facts: Any) -> Writer:
        """Begin a run of the checkout at `top`. Raises RunError where it exists, or cannot be written."""
        folder = top / FOLDER / name
        now = datetime.datetime.now(datetime.UTC)
        head = Head(
            name, kind, now.isoformat(timespec="seconds"), now.timestamp(), time.monotonic(), boot_id(), **facts
        )
        try:
            folder.mkdir(parents=True)
            write_atomically(folder / HEAD, json.dumps(asdict(head), indent=1).encode())
            (folder / EVENTS).touch()
        except FileExistsError:
            raise RunError(f"{folder} is there already; give another name, or `quoin matrix --resume`") from None
        except OSError as error:
            raise RunError(f"{folder} cannot be written: {error.strerror}; make room on that disk") from error
        return cls(folder)

    def since_begin(self, monotonic_s: float) -> float:
        """Seconds between the run's begin and a time of this host's monotonic clock."""
        if self.head.boot == boot_id():
            return monotonic_s - self.head.monotonic_s
        return time.time() - (time.monotonic() - monotonic_s) - self.head.wall_s

    def add(self, event: Case | Machine | str) -> None:
        """Keep a test, a machine, or a fault of the run itself. Raises RunError when it cannot be written."""
        kind = type(event).__name__.lower() if not isinstance(event, str) else "fault"
        try:
            append_line(self.folder / EVENTS, json.dumps({kind: event if isinstance(event, str) else asdict(event)}))
        except OSError as error:
            raise RunError(f"{self.folder} cannot be written: {error.strerror}; make room on that disk") from error

    def resumed(self) -> None:
        """Say that what was cut short goes on: what went wrong then has no weight any more."""
        with (self.folder / EVENTS).open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            text = file.read()
            file.truncate(text.rfind(b"\n") + 1)  # a line that a kill has cut
            file.seek(0, os.SEEK_END)
            file.write(b'{"resumed": true}\n')
        for name in (RUN, CONSOLES):
            (self.folder / name).unlink(missing_ok=True)

    def finish(
        self,
        *,
        metrics: Sequence[Mapping[str, Any]] = (),
        coverage: Sequence[tuple[str, int, int]] = (),
    ) -> Run:
        """Make one JSON of all that was kept. A run that is finished again, after a resume, replaces it."""
        run = replace(
            read_events(self.folder),
            seconds=self.since_begin(time.monotonic()),
            metrics=tuple(metrics),
            coverage=tuple(coverage),
        )
        write(self.folder, run)
        return run


@contextlib.contextmanager
def held(folder: Path) -> Iterator[int]:
    """Have a run until the block ends and all have who inherit the descriptor that it gives.

    Raises RunError where another process has it.
    """
    with (folder / _OWNER).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise RunError(
                f"process {file.read() or '?'} has run {folder.name}, or a pytest that it began has it still; "
                "wait until it has ended, or end it, and call this again"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield file.fileno()


def write(folder: Path, run: Run) -> None:
    """Write `run.json`."""
    write_atomically(folder / RUN, json.dumps({"format": _FORMAT, **asdict(run)}, separators=(",", ":")).encode())


def keep(top: Path, run: Run) -> Path:
    """Give a run that was put together a folder of its own."""
    folder = top / FOLDER / run.head.name
    write_atomically(folder / HEAD, json.dumps(asdict(run.head), indent=1).encode())
    write(folder, run)
    return folder


def read_head(folder: Path) -> Head:
    """What the run in `folder` is. Raises RunError."""
    return _parsed(folder / HEAD, lambda data: Head(**data))


def read_events(folder: Path) -> Run:
    """A run as far as it has come; the newest word on a test counts. Raises RunError."""
    head = read_head(folder)
    tests: dict[str, Case] = {}
    machines: dict[str, Machine] = {}
    faults: list[str] = []
    try:
        text = (folder / EVENTS).read_bytes()
    except OSError as error:
        raise RunError(f"no events of a run in {folder}: {error.strerror}; {_NEXT}") from error
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            break  # cut by a kill, or being written
        try:
            event = json.loads(line)
            if "case" in event:
                test = _case(event["case"])
                tests.pop(test.id, None)
                tests[test.id] = test
            elif "machine" in event:
                machine = Machine(**event["machine"])
                machines[machine.name] = machine
            elif "resumed" in event:
                faults.clear()
            else:
                faults.append(str(event["fault"]))
        except _DAMAGE as error:
            raise RunError(f"{folder / EVENTS}:{number}: no event of a run ({error!r}); {_NEXT}") from error
    return Run(head, tuple(tests.values()), tuple(machines.values()), faults=tuple(faults))


def read(folder: Path) -> Run:
    """The run in `folder`: its JSON, or its events while there is none. Raises RunError."""
    if folder.is_file():
        return _parsed(folder, _run)
    return _parsed(folder / RUN, _run) if (folder / RUN).exists() else read_events(folder)


def find(top: Path, name: str | None) -> Path:
    """The folder of a run by its name, a part of it, or a path; the newest without. Raises RunError."""
    if name is not None and (Path(name) / HEAD).exists():
        return Path(name)
    known = folders(top)
    fitting = [folder for folder in known if name is None or name in folder.name]
    if not fitting:
        there = ", ".join(folder.name for folder in known[-5:]) or "none"
        raise RunError(f"no run {name or ''} in {top / FOLDER}; there are: {there}; `pytest --report` makes one")
    return fitting[-1]


def folders(top: Path) -> list[Path]:
    """All runs of a checkout, the oldest first."""
    return [path.parent for path in sorted((top / FOLDER).glob(f"*/{HEAD}"))]


def heads(top: Path) -> list[Head]:
    """What the runs of a checkout are, the oldest first; damaged ones, and those of another version, are left out."""
    found = []
    for folder in folders(top):
        with contextlib.suppress(RunError):
            found.append(read_head(folder))
    return found


def last_good(top: Path, run: Run) -> Run | None:
    """The newest run of the same kind before this one in which nothing was red."""
    for folder in reversed(folders(top)):
        try:
            if read_head(folder).kind != run.head.kind or folder.name >= run.head.name:
                continue
            other = read(folder)
        except RunError:
            continue  # being removed, or from another version: nothing to compare with
        if other.good and other.head.shard == run.head.shard:
            return other
    return None


def prune(top: Path, kept: int = KEPT) -> None:
    """Forget the oldest runs; the newest good one of each kind stays."""
    known = folders(top)
    old = known[:-kept]
    if not old:
        return
    good: dict[tuple[str, str], Path] = {}
    for folder in known:
        try:
            run = read(folder)
        except RunError:
            continue
        if run.good:
            good[run.head.kind, run.head.shard] = folder
    for folder in old:
        if folder not in good.values():
            shutil.rmtree(folder, ignore_errors=True)


def merged(runs: Sequence[Run], name: str) -> Run:
    """The shards of one matrix as one run, with a fault where they leave tests out.

    Raises RunError where they are of different plans, or overlap.
    """
    if not runs:
        raise RunError("nothing to merge; name the runs")
    first = min(runs, key=lambda run: run.head.wall_s)
    if len({(run.head.plan, run.head.revision) for run in runs}) != 1 or not first.head.plan:
        told = ", ".join(f"{run.head.name}: plan {run.head.plan or 'none'}, {run.head.revision}" for run in runs)
        raise RunError(f"wanted shards of one plan and revision, found {told}")
    tests: dict[str, Case] = {}
    machines: list[Machine] = []
    for number, run in enumerate(runs, 1):
        shift = run.head.wall_s - first.head.wall_s
        names = {machine.name: of_shard(number, machine.name) for machine in run.machines}
        machines += [replace(m, name=names[m.name], started_s=m.started_s + shift) for m in run.machines]
        for test in run.tests:
            if test.id in tests:
                raise RunError(f"{test.id} is in two shards: were they cut by the same durations? (--from gives them)")
            tests[test.id] = replace(
                test,
                begin_s=test.begin_s + shift,
                end_s=test.end_s + shift,
                machines=tuple(names.get(machine, machine) for machine in test.machines),
            )
    faults = [fault for run in runs for fault in run.faults]
    if len(tests) != first.head.tests:
        faults.append(f"{first.head.tests} tests are planned, and these shards have {len(tests)}")
    ends = [run.head.wall_s - first.head.wall_s + (run.seconds or 0.0) for run in runs]
    return Run(
        replace(first.head, name=name, shard=""),
        tuple(tests.values()),
        tuple(machines),
        max(ends),
        tuple(metric for run in runs for metric in run.metrics),
        tuple(dict.fromkeys(row for run in runs for row in run.coverage)),
        tuple(faults),
    )


def of_shard(number: int, machine: str) -> str:
    """A machine's name in a run that was put together: hosts may give the same ones."""
    return f"{number}:{machine}"


def digest(lines: Iterable[str]) -> str:
    """A short digest of lines in their order."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _parsed(path: Path, make: Callable[[Any], _T]) -> _T:
    try:
        return make(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}; {_NEXT}") from error
    except _DAMAGE as error:
        raise RunError(f"{path} is not of a run ({error!r}); {_NEXT}") from error


_TUPLES = tuple(one.name for one in fields(Case) if str(one.type).startswith("tuple"))


def _case(data: dict[str, Any]) -> Case:
    return Case(**data | {key: tuple(data[key]) for key in _TUPLES})


def _run(data: dict[str, Any]) -> Run:
    if data.pop("format") != _FORMAT:
        raise ValueError("another format")
    return Run(
        Head(**data["head"]),
        tuple(_case(test) for test in data["tests"]),
        tuple(Machine(**machine) for machine in data["machines"]),
        data["seconds"],
        tuple(data["metrics"]),
        tuple((str(file), int(run), int(lines)) for file, run, lines in data["coverage"]),
        tuple(data["faults"]),
    )
