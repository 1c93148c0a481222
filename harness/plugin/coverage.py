"""`--coverage`: what each test executes of the kernel and the programs; `--changed`: those tests first.

Every machine of the run gets the plugin that records blocks. What ran before a
machine was ready counts as the boot of each test that uses it; the rest belongs
to the test during which it ran.
"""

from __future__ import annotations

import itertools
import json
import re
import tempfile
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.build.artifacts import write_atomically
from harness.machine.counting import Block, Counting
from harness.machine.errors import MachineError
from harness.plugin.keys import COVERAGE, LAB, MACHINES
from harness.verdict.changes import (
    Record,
    Touch,
    changed_files,
    changed_since,
    executed_by_any,
    source_tree,
    touch,
)
from harness.verdict.coverage import Covered, Images, summary
from harness.verdict.symbols import slide_of

if TYPE_CHECKING:
    from harness.board import Board
    from harness.console import Lines, Session
    from harness.plugin.lab import Lab

FOLDER = "build/coverage"
SUMMARY = "summary.txt"


@dataclass
class Watched:
    """One machine: what it has executed, and until when that was its boot."""

    board: Board
    counting: Counting
    session: Session | None = None
    boot: set[Block] | None = None
    boot_lines: Covered | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def see(self, lines: Lines) -> None:
        """Console lines: with the board's ready line the boot ends."""
        if self.boot is None and any(re.search(self.board.ready, str(line)) for line in lines):
            with self.lock:
                self.boot = set(self.counting.take_executed())

    def flush(self) -> None:
        """Nothing is kept back."""

    def take(self) -> set[Block]:
        """What was executed since the last call and not as boot."""
        with self.lock:
            return set(self.counting.take_executed())


@dataclass(frozen=True)
class _Taken:
    """What one machine executed during a test, and where its code is."""

    watched: Watched
    blocks: set[Block]
    images: tuple[Path, ...]
    slide: int | None


class Coverage:
    """The coverage of one run, kept in a folder with one file a test.

    What was executed is taken at a test's end. Finding its lines is work for a thread of its own, while the next test
    waits for its machine.
    """

    def __init__(self, top: Path, folder: Path) -> None:
        self.folder = folder
        self._reader = ThreadPoolExecutor(1, "coverage")
        self._unread: list[Future[None]] = []
        self._tree = source_tree(top)
        self._own_files = tempfile.TemporaryDirectory(prefix="quoin-coverage-")
        self._watched: list[Watched] = []
        self._images: dict[tuple[Path, ...], Images] = {}
        self._numbers = itertools.count()
        self._lost = 0

    def watch(self, board: Board) -> Watched:
        """Before a machine is switched on: its plugin, and the sink that sees it become ready."""
        path = Path(self._own_files.name) / str(next(self._numbers))
        watched = Watched(board, Counting(path, covering=True))
        self._watched.append(watched)
        return watched

    def settle(self, item: pytest.Item, lab: Lab) -> None:
        """After a test: keep what it executed, and forget machines that are off."""
        used = [taken.session for taken in item.stash.get(MACHINES, [])]
        found: list[_Taken] = []
        for watched in list(self._watched):
            session = watched.session
            try:
                blocks = watched.take()
            except MachineError:
                if session is not None:
                    raise
                blocks = set()  # it was never on
            # A board that boots its own has no images of this tree's build.
            if session is not None and session in used and watched.board.kernel is None:
                artifacts = lab.artifacts(watched.board)
                first = slide_of(session.first_lines)
                slide = None if first is None or first[1] != artifacts.build_id else first[0]
                found.append(_Taken(watched, blocks, (artifacts.kernel, *artifacts.programs), slide))
            if session is None or session.closed:
                self._lost += watched.counting.lost_blocks if session is not None else 0
                watched.counting.close()
                self._watched.remove(watched)
        self._wait(for_all=False)
        if found:
            self._unread.append(self._reader.submit(self._read, item.nodeid, found))

    def _read(self, test: str, found: list[_Taken]) -> None:
        """On the thread: find the lines of what a test executed, and write them down."""
        own: Covered = {}
        boot: Covered = {}
        for taken in found:
            images, watched = self._images_at(taken.images), taken.watched
            _merge(own, images.covered(taken.blocks, taken.slide))
            if watched.boot_lines is None:
                watched.boot_lines = images.covered(watched.boot or (), taken.slide)
            _merge(boot, watched.boot_lines)
        if own or boot:
            self._write(test, own, boot)

    def _wait(self, *, for_all: bool = True) -> None:
        """Until all that was taken is on record; raises what the thread met, here or so far."""
        ready = [reading for reading in self._unread if for_all or reading.done()]
        self._unread = [reading for reading in self._unread if reading not in ready]
        for reading in ready:
            reading.result()

    def _images_at(self, paths: tuple[Path, ...]) -> Images:
        if paths not in self._images:
            self._images[paths] = Images(paths[0], paths[1:], self.folder / "lines")
        return self._images[paths]

    @pytest.hookimpl
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """A worker tells what its machines have booted; the records it has written itself."""
        self._wait()
        output = getattr(session.config, "workeroutput", None)
        if output is not None:
            output["coverage"] = {"images": [[str(path) for path in key] for key in self._images], "lost": self._lost}

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """What a worker told. One that was killed tells nothing, and another runs what is left."""
        told = getattr(node, "workeroutput", {}).get("coverage", {"images": [], "lost": 0})
        self._lost += told["lost"]
        for key in told["images"]:
            self._images_at(tuple(Path(path) for path in key))

    def _write(self, test: str, own: Covered, boot: Covered) -> None:
        from harness.plugin.lab import safe_name

        parts = {name: {file: sorted(lines) for file, lines in part.items()} for name, part in _parts(own, boot)}
        record = {"test": test, "tree": self._tree, **parts}
        path = self.folder / "tests" / f"{safe_name(test)}.json"
        write_atomically(path, json.dumps(record, separators=(",", ":")).encode())

    def close(self) -> None:
        """Let go of every machine's file."""
        self._reader.shutdown()
        for watched in self._watched:
            watched.counting.close()
        self._own_files.cleanup()

    def report(self) -> list[str]:
        """Executed lines by file, over all tests on record, for the images of this run."""
        self._wait()
        known: Covered = {}
        for images in self._images.values():
            _merge(known, images.all_lines())
        lost = [f"{self._lost} blocks found no place and are missing"] if self._lost else []
        return [*summary(executed_by_any(read_records(self.folder)), known), *lost]


def _parts(own: Covered, boot: Covered) -> tuple[tuple[str, Covered], ...]:
    return ("own", own), ("boot", boot)


def _merge(into: Covered, other: Covered) -> None:
    for file, lines in other.items():
        into.setdefault(file, set()).update(lines)


def read_records(folder: Path) -> list[Record]:
    """What is on record of each test."""
    found = []
    for path in sorted((folder / "tests").glob("*.json")):
        data: dict[str, Any] = json.loads(path.read_text())
        own, boot = ({file: frozenset(lines) for file, lines in data[part].items()} for part in ("own", "boot"))
        found.append(Record(data["test"], data["tree"], own, boot))
    return found


def folder_of(config: pytest.Config) -> Path:
    """Where coverage is kept."""
    return Path(config.rootpath) / str(config.getoption("--coverage-folder"))


def begin(config: pytest.Config) -> None:
    """Record coverage in this run."""
    coverage = Coverage(Path(config.rootpath), folder_of(config))
    config.stash[COVERAGE] = coverage
    config.pluginmanager.register(coverage, "quoin-coverage")


def settle(item: pytest.Item) -> None:
    """Keep what a test executed."""
    coverage, lab = item.config.stash.get(COVERAGE, None), item.config.stash.get(LAB, None)
    if coverage is not None and lab is not None:
        coverage.settle(item, lab)


def tell(config: pytest.Config, terminal: Any) -> None:
    """The summary: written whole beside the records, and its total shown."""
    coverage = config.stash[COVERAGE]
    lines = coverage.report()
    path = coverage.folder / SUMMARY
    write_atomically(path, ("\n".join(lines) + "\n").encode())
    terminal.write_line(f"coverage: {' '.join(lines[-1].split())}; by file: {path}")


def ranks(config: pytest.Config, items: list[pytest.Item], revision: str) -> dict[pytest.Item, tuple[Touch, int]]:
    """How each test is concerned with what has changed since `revision`: nearest and with most lines first.

    A test that takes a board and has no coverage on record comes before those that are known to be
    unconcerned. Raises LabError.
    """
    from harness.plugin import board_of

    top = Path(config.rootpath)
    records = {record.test: record for record in read_records(folder_of(config))}
    executed = executed_by_any(records.values())
    changed = {tree: changed_since(top, revision, tree) for tree in {record.tree for record in records.values()}}
    files = changed_files(top, revision)

    def rank(item: pytest.Item) -> tuple[Touch, int]:
        path = item.path.relative_to(top).as_posix() if item.path.is_relative_to(top) else ""
        if path in files:
            return Touch.EXECUTES, 0
        record = records.get(item.nodeid)
        if record is None:
            return (Touch.NONE if board_of(item) is None else Touch.UNKNOWN), 0
        nearest, hits = touch(record, changed[record.tree], executed)
        return nearest, -hits

    return {item: rank(item) for item in items}


def order(config: pytest.Config, items: list[pytest.Item], revision: str) -> None:
    """Tests that execute lines changed since `revision` come first; the others go with --changed-only.

    Tests of one rank stay in their order. Raises LabError.
    """
    found = ranks(config, items, revision)
    items.sort(key=lambda item: found[item])
    if config.getoption("--changed-only"):
        unconcerned = [item for item in items if found[item][0] is Touch.NONE]
        config.hook.pytest_deselected(items=unconcerned)
        items[:] = [item for item in items if found[item][0] is not Touch.NONE]
