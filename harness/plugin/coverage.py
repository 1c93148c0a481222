"""`--coverage`: what each test executes of the kernel and the programs; `--changed`: those tests first.

Every machine of the run gets the plugin that notes blocks. What ran before
`wait_ready` returned counts as the boot of each test that uses the machine; the rest belongs
to the test during which it ran.

Boots are what most tests do most of the time, and those of the same images on the same
machine run the same code. So one is recorded, and kept in the folder; in further ones recording
begins when they are ready. A boot that a test drives by hand is recorded each time.

    tests/TEST.json   the sources (a git tree), the test's own code, and the names of its boots
    boots/NAME.json   the code of a boot
    lines/KEY.json    the line table of an image
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.board import LabError
from harness.build.artifacts import write_atomically
from harness.machine.counting import Block, Counting, plugin
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
from harness.verdict.coverage import Images, LineTables, Ran, summary
from harness.verdict.symbols import slide_of

if TYPE_CHECKING:
    from harness.board import Board
    from harness.console import Session
    from harness.machine import QemuMachine
    from harness.plugin.lab import Lab

FOLDER = "build/coverage"
SUMMARY = "summary.txt"


@dataclass
class Watched:
    """One machine: what it executes, and what its boot was."""

    board: Board
    counting: Counting
    boot_name: str
    boot_known: bool
    session: Session | None = None
    boot: list[Block] | None = None

    def attach(self, session: Session) -> None:
        """The machine is on."""
        self.session = session
        if self.board.seed is None:  # with a seed tests run as part of the boot
            session.when_ready = self._ready

    def _ready(self) -> None:
        assert self.session is not None
        if self.boot_known:
            self.counting.begin(self.session.machine)
        else:
            self.boot = self.counting.take_executed()


class Coverage:
    """The coverage of one run, kept in a folder with one file a test."""

    def __init__(self, top: Path, folder: Path) -> None:
        self.folder = folder
        self._tree = source_tree(top)
        self._own_files = tempfile.TemporaryDirectory(prefix="quoin-coverage-")
        self._watched: list[Watched] = []
        self._images: dict[tuple[Path, ...], Images] = {}
        self._numbers = itertools.count()
        self._lost = 0

    def watch(self, machine: QemuMachine, *, by_hand: bool) -> Watched:
        """Before a machine is switched on: its plugin."""
        board, files = machine.board, machine.files
        images = [_digest(*_version(path)) for path in (files.kernel, files.initrd) if path and path.is_file()]
        boot = json.dumps([plugin().name, machine.command(), images, by_hand])
        name = hashlib.sha256(boot.encode()).hexdigest()[:24]
        # Under icount the machine may not be stopped: where that happens is no matter of its instructions.
        known = not by_hand and not board.icount and self._boot(name).is_file()
        path = Path(self._own_files.name) / str(next(self._numbers))
        watched = Watched(board, Counting(path, covering="asked" if known else "on"), name, known)
        self._watched.append(watched)
        return watched

    def settle(self, item: pytest.Item, lab: Lab) -> None:
        """After a test: keep what it executed, and forget machines that are off."""
        used = [taken.session for taken in item.stash.get(MACHINES, [])]
        own: Ran = {}
        boots: list[str] = []
        for watched in list(self._watched):
            session = watched.session
            try:
                blocks = watched.counting.take_executed()
            except MachineError:
                if session is not None:
                    raise
                blocks = []  # it was never on
            # A board that boots its own has no images of this tree's build.
            if session is not None and session in used and watched.board.kernel is None:
                artifacts = lab.artifacts(watched.board)
                first = slide_of(session.first_lines)
                slide = None if first is None or first[1] != artifacts.build_id else first[0]
                images = self._images_at((artifacts.kernel, *artifacts.programs))
                _merge(own, images.place(blocks, slide))
                if watched.boot is not None:
                    _write(self._boot(watched.boot_name), _packed(images.place(watched.boot, slide)))
                    watched.boot = None
                    watched.boot_known = True
                if watched.boot_known:
                    boots.append(watched.boot_name)
            if session is None or session.closed:
                self._lost += watched.counting.lost_blocks if session is not None else 0
                watched.counting.close()
                self._watched.remove(watched)
        if own or boots:
            record = {"test": item.nodeid, "tree": self._tree, "own": _packed(own), "boots": boots}
            _write(self.folder / "tests" / f"{_safe_name(item.nodeid)}.json", record)

    def _boot(self, name: str) -> Path:
        return self.folder / "boots" / f"{name}.json"

    def _images_at(self, paths: tuple[Path, ...]) -> Images:
        if paths not in self._images:
            self._images[paths] = Images(paths[0], paths[1:])
        return self._images[paths]

    @pytest.hookimpl
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """A worker tells what its machines have booted; the records it has written itself."""
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

    def close(self) -> None:
        """Let go of every machine's file."""
        for watched in self._watched:
            watched.counting.close()
        self._own_files.cleanup()

    def report(self) -> list[str]:
        """Executed lines by file, over all tests on record, for the images of this run."""
        images = {image.key: image for group in self._images.values() for image in group}
        for image in images.values():
            image.keep_lines(self.folder / "lines")
        ran: Ran = {}
        boots: set[str] = set()
        for record in _read_all(self.folder / "tests"):
            _merge(ran, {key: pieces for key, pieces in _unpacked(record["own"]).items() if key in images})
            boots.update(record["boots"])
        for name in boots:
            if self._boot(name).is_file():
                boot = _unpacked(json.loads(self._boot(name).read_text()))
                _merge(ran, {key: pieces for key, pieces in boot.items() if key in images})
        for path in (self.folder / "boots").glob("*.json"):
            if path.stem not in boots:
                path.unlink(missing_ok=True)  # of builds that no test on record has booted
        tables = LineTables(self.folder / "lines")
        lost = [f"{self._lost} blocks found no place and are missing"] if self._lost else []
        return [*summary(tables.covered(ran), tables.all_lines(images)), *lost]


@functools.cache
def _digest(path: Path, *version: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _version(path: Path) -> tuple[Path, int, int]:
    """A file as it is now."""
    status = path.stat()
    return path, status.st_mtime_ns, status.st_size


def _merge(into: Ran, other: Ran) -> None:
    for key, pieces in other.items():
        into.setdefault(key, set()).update(pieces)


def _packed(ran: Ran) -> dict[str, str]:
    return {key: " ".join(pieces) for key, pieces in ran.items()}


def _unpacked(packed: dict[str, str]) -> Ran:
    return {key: set(pieces.split()) for key, pieces in packed.items()}


def _write(path: Path, data: Any) -> None:
    write_atomically(path, json.dumps(data).encode())


def _read_all(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob("*.json")):
        data: dict[str, Any] = json.loads(path.read_text())
        if "boots" in data:  # else of an older lab
            yield data


def _safe_name(test: str) -> str:
    from harness.plugin.lab import safe_name

    return safe_name(test)


def read_records(folder: Path) -> list[Record]:
    """What is on record of each test. One whose boot or line table is missing counts as not on record."""
    tables = LineTables(folder / "lines")

    def lines(packed: dict[str, str]) -> dict[str, frozenset[int]]:
        return {file: frozenset(found) for file, found in tables.covered(_unpacked(packed)).items()}

    @functools.cache
    def boot(names: tuple[str, ...]) -> dict[str, frozenset[int]]:
        ran: Ran = {}
        for name in names:
            _merge(ran, _unpacked(json.loads((folder / "boots" / f"{name}.json").read_text())))
        return lines(_packed(ran))

    found = []
    for data in _read_all(folder / "tests"):
        with contextlib.suppress(KeyError, FileNotFoundError):
            found.append(Record(data["test"], data["tree"], lines(data["own"]), boot(tuple(data["boots"]))))
    return found


def folder_of(config: pytest.Config) -> Path:
    """Where coverage is kept."""
    return Path(config.rootpath) / str(config.getoption("--coverage-folder"))


def begin(config: pytest.Config) -> None:
    """Record coverage in this run. Raises pytest.UsageError where there is no git repository to name the sources by."""
    try:
        coverage = Coverage(Path(config.rootpath), folder_of(config))
    except LabError as error:
        raise pytest.UsageError(str(error)) from error
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
