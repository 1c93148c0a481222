"""`quoin matrix FILE`: boards x CPUs x variants x suites, as one run with one report."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from harness.cli.arguments import positive
from harness.cli.side_by_side import side_by_side

if TYPE_CHECKING:
    from harness.build import Artifacts
    from harness.report.matrix import Matrix, Unit
    from harness.report.run import Run, Writer

SUMMARY = "run the matrix of boards, CPUs, variants and suites that a file names; keep the run and its page"
PASSES_ON = True
_PLAN, _PARTS = "plan.json", "parts"
_NOTHING_RAN = 5  # docs.pytest.org, reference/exit-codes
_PLAIN_S = 60.0
# To the line's begin, and what stands there away (ECMA-48: CR, EL).
_CLEARED = "\r\x1b[K"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which part of the matrix, and of the work."""
    parser.add_argument("file", type=Path, metavar="FILE", help="such as testsuites/nightly.yaml")
    parser.add_argument("--only", action="append", default=[], metavar="AXIS=GLOB[,GLOB]", help="cells of these only")
    parser.add_argument("--mode", choices=("full", "pairwise"), help="in place of the file's")
    parser.add_argument("--shard", metavar="N/M", help="the N-th of M shares of the tests, cut by measured seconds")
    parser.add_argument("--jobs", type=positive, metavar="N", help="runs of pytest side by side (as many as cores)")
    parser.add_argument("--list", action="store_true", help="show what would run, and run nothing")
    parser.add_argument("--resume", nargs="?", const="", metavar="RUN", help="go on with a run that was cut short")
    parser.add_argument("--build-only", action="store_true", help="build what the matrix boots, and run nothing")
    parser.add_argument(
        "--pack", type=Path, metavar="PACK", help="with --build-only: put the builds into PACK (tar.gz)"
    )
    parser.add_argument("--from", dest="packed", type=Path, metavar="PACK", help="build nothing: boot what PACK has")
    parser.add_argument("--keep-figures", action="store_true", help="of a full run: write testsuites/nightly-last.json")
    parser.epilog = (
        "Other arguments go to pytest, such as -k text. The budget of vCPUs holds over all runs side by side."
    )


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Plan, build, run, tell; 1 unless all is green."""
    from harness.build import PREBUILT
    from harness.build.artifacts import TOP
    from harness.cli.setup import ensure
    from harness.measure.tools import revision
    from harness.report.figures import kept_durations, measured_durations
    from harness.report.matrix import MatrixError, read_matrix, share, unique
    from harness.report.run import digest, held

    partial = bool(args.only or args.shard or rest or args.mode)
    if args.keep_figures and partial:
        raise MatrixError("--keep-figures is of a full run: without --only, --mode, --shard and pytest's arguments")
    if args.pack and not args.build_only:
        raise MatrixError("--pack goes with --build-only")
    for path in filter(None, (args.pack, args.packed)):
        _check_place(TOP, path)
    jobs = args.jobs or len(os.sched_getaffinity(0))
    matrix = read_matrix(args.file, TOP / "boards", args.only, args.mode)
    # The store's change with each run, and with them where a share is cut.
    durations = kept_durations(TOP) if args.shard else measured_durations(TOP)
    if args.packed:
        from harness.build.packing import unpack

        folder, durations = unpack(args.packed, TOP / "build" / "packed", revision=revision(TOP))
        os.environ[PREBUILT] = str(folder)
    else:
        ensure()
        builds = build_all(matrix, matrix.units())
        if args.build_only:
            return _pack(builds, args.pack, durations)
    units = unique(collected(TOP, matrix.units(), rest, jobs))
    plan = [f"{test} {shlex.join(unit.options)}" for unit in units for test in unit.tests]
    facts = {"plan": digest(plan), "tests": len(plan), "shard": args.shard or ""}
    if args.shard:
        units = share(units, *_shard(args.shard), durations)
    if not units:
        what = f"--shard {args.shard} has none of {len(plan)}" if plan else "pytest found none"
        raise MatrixError(f"{args.file}: wanted tests to run, and {what}; ask for fewer shards, or leave out filters")
    if args.list:
        return listed(units, durations)
    kind = _kind(TOP, matrix, args, rest)
    again = args.resume is not None
    writer = resumed(TOP, args.resume or None, kind, facts) if again else begun(TOP, kind, units, facts)
    with held(writer.folder) as handle:
        units = left(writer) if again else units
        execute(TOP, writer, units, jobs, Progress(writer, units, durations, sys.stdout), inherited=[handle])
        found = finish(TOP, writer)
    if args.keep_figures:
        from harness.report.figures import write_figures

        print(f"figures: {write_figures(TOP, writer.folder, found)}")
    return 0 if found.good else 1


def build_all(matrix: Matrix, units: Sequence[Unit]) -> list[Artifacts]:
    """The builds that the units boot. Raises BuildError."""
    from harness.board import find_boards
    from harness.build import build
    from harness.build.artifacts import TOP
    from harness.cli.build import say

    boards = find_boards(dict.fromkeys(cell.board for cell in matrix.cells), TOP / "boards")
    arches = dict.fromkeys(board.arch for board in boards if board.kernel is None)
    wanted = [(arch, profile) for profile in matrix.profiles(units) for arch in arches]
    return [build(arch, profile, on_line=say) for arch, profile in wanted]  # type: ignore[arg-type]  # of board files


def _pack(builds: Sequence[Artifacts], out: Path | None, durations: Mapping[str, float]) -> int:
    if out is not None:
        from harness.build.artifacts import TOP
        from harness.build.packing import pack
        from harness.measure.tools import revision

        print(f"pack: {out}, sha256 {pack(builds, out, revision=revision(TOP), durations=durations)}")
    return 0


def _check_place(top: Path, path: Path) -> None:
    """Raises MatrixError for a pack that would be a new file of the tree, and so make another revision of it."""
    from harness.report.matrix import MatrixError

    path = path.resolve()
    # 1: git does not ignore it (git-check-ignore(1)).
    ignored = ["git", "check-ignore", "--quiet", str(path)]
    if path.is_relative_to(top) and subprocess.run(ignored, cwd=top, capture_output=True, check=False).returncode == 1:
        raise MatrixError(
            f"{path} would be a change of the tree that it is of; wanted a pack outside of {top}, or in {top / 'build'}"
        )


# The plan.


def _kind(top: Path, matrix: Matrix, args: argparse.Namespace, rest: Sequence[str]) -> str:
    path = matrix.path.resolve()
    name = str(path.relative_to(top) if path.is_relative_to(top) else path)
    words = [f"--only={one}" for one in args.only] + ([f"--mode={args.mode}"] if args.mode else [])
    return " ".join(["matrix", name, *words, *rest])


def listed(units: Sequence[Unit], durations: Mapping[str, float]) -> int:
    """Print what would run."""
    from harness.report.matrix import measured_s

    for unit in units:
        print(f"{unit.name}: {len(unit.tests)} tests of {', '.join(unit.suites)}")
    tests = [test for unit in units for test in unit.tests]
    print(f"{len(tests)} tests, {measured_s(tests, durations):.0f} s as measured")
    return 0


def begun(top: Path, kind: str, units: Sequence[Unit], facts: Mapping[str, Any]) -> Writer:
    """A new run, with what it has to do on disk."""
    from harness.build.artifacts import write_atomically
    from harness.measure.tools import revision
    from harness.report.plugin import host
    from harness.report.run import Writer, new_name

    writer = Writer.begin(top, new_name(), kind, revision=revision(top), host=host(), command=f"quoin {kind}", **facts)
    write_atomically(writer.folder / _PLAN, json.dumps([asdict(unit) for unit in units]).encode())
    return writer


def resumed(top: Path, name: str | None, kind: str, facts: Mapping[str, Any]) -> Writer:
    """A run that was cut short.

    Raises RunError where the matrix, its plan, its share or the tree is another now.
    """
    from harness.measure.tools import revision
    from harness.report.run import RunError, Writer, find, heads

    shard = facts.get("shard", "")
    if name is None:
        name = next((head.name for head in reversed(heads(top)) if (head.kind, head.shard) == (kind, shard)), None)
        if name is None:
            raise RunError(f"no run of `quoin {kind}` to go on with; see: quoin report --list")
    writer = Writer(find(top, name))
    head = writer.head
    if (head.kind, head.revision, head.plan, head.shard) != (kind, revision(top), facts["plan"], shard):
        raise RunError(
            f"{head.name} is `{head.kind}` of {head.revision}, plan {head.plan}, shard {head.shard or '1/1'}, and this "
            f"is `{kind}` of {revision(top)}, plan {facts['plan']}, shard {shard or '1/1'}; "
            "begin a new one, without --resume"
        )
    return writer


def left(writer: Writer) -> list[Unit]:
    """The units of a run that goes on, with what is left of them. Raises RunError and MatrixError."""
    from harness.report.matrix import read_plan
    from harness.report.run import read_events

    plan = read_plan(writer.folder / _PLAN)
    done = {test.id for test in read_events(writer.folder).tests}
    units = [replace(unit, tests=tuple(test for test in unit.tests if test not in done)) for unit in plan]
    writer.resumed()
    more = sum(len(unit.tests) for unit in units)
    print(f"matrix: {writer.head.name} goes on: {len(done)} tests have ended, {more} are left")
    return [unit for unit in units if unit.tests]


def _shard(text: str) -> tuple[int, int]:
    from harness.report.matrix import MatrixError

    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None:
        raise MatrixError(f"--shard takes N/M, such as 2/5, not {text!r}")
    return int(match[1]), int(match[2])


def collected(top: Path, units: Sequence[Unit], rest: Sequence[str], jobs: int) -> list[Unit]:
    """The units with their tests, as pytest collects them. Raises MatrixError with pytest's words where it cannot."""
    from harness.report.matrix import MatrixError

    with tempfile.TemporaryDirectory(prefix="quoin-matrix-") as folder:
        lists = {unit.name: Path(folder) / f"{unit.name}.json" for unit in units}
        commands = {
            unit.name: _pytest(unit, ["--collect-only", "-q", "--list-to", str(lists[unit.name]), *rest])
            for unit in units
        }
        found = []

        def log(name: str) -> Path:
            return Path(folder) / f"{name}.log"

        for name, status in side_by_side(commands, jobs, cwd=top, log=log):
            if status not in (0, _NOTHING_RAN):
                told = log(name).read_text(errors="replace").strip().splitlines()
                raise MatrixError("\n".join([f"{name}: pytest cannot collect (status {status})", *told[-15:]]))
        for unit in units:
            tests = json.loads(lists[unit.name].read_text()) if lists[unit.name].exists() else []
            found.append(replace(unit, options=(*unit.options, *rest), tests=tuple(tests)))
    return found


def _pytest(unit: Unit, more: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *unit.suites, *unit.options, *more]


# The work.


class Progress:
    """How far a matrix is: a line that is written over in a terminal, else one when a unit ends and each minute."""

    def __init__(self, writer: Writer, units: Sequence[Unit], durations: Mapping[str, float], out: TextIO) -> None:
        from harness.report.run import EVENTS

        self._left = {test for unit in units for test in unit.tests}
        self._all = len(self._left)
        self._units = len(units)
        self._durations = durations
        self._events = writer.folder / EVENTS
        self._read = self._events.stat().st_size
        self._out = out
        self._terminal = out.isatty()
        self._failed = self._ended = 0
        self._began = self._told = time.monotonic()
        self._took = 0.0

    def look(self, running: Sequence[str]) -> None:
        """Read what has ended since the last look, and tell."""
        with self._events.open("rb") as file:
            file.seek(self._read)
            lines = file.read().splitlines(keepends=True)
        for line in lines:
            if not line.endswith(b"\n"):
                break
            self._read += len(line)
            test = json.loads(line).get("case")
            if test is not None and test["id"] in self._left:
                self._left.discard(test["id"])
                self._failed += test["outcome"] == "failed"
                self._took += self._expected([test["id"]])
        if self._terminal:
            told = f"{self.line()}: {', '.join(running)}"
            self._out.write(_CLEARED + told[: shutil.get_terminal_size().columns - 1])
            self._out.flush()
        elif time.monotonic() - self._told > _PLAIN_S:
            self._told = time.monotonic()
            print(self.line(), file=self._out, flush=True)

    def ended(self, name: str, status: int, log: Path) -> None:
        """A unit has ended."""
        self._ended += 1
        self.look([])
        said = "done" if status in (0, _NOTHING_RAN) else f"red (pytest's status {status}; {log})"
        start = _CLEARED if self._terminal else ""
        print(f"{start}{name}: {said}; {self.line()}", file=self._out, flush=True)

    def line(self) -> str:
        """Tests, failures, units, and the time that is left if the rest takes as much of what was measured."""
        done = self._all - len(self._left)
        told = f"{done} of {self._all} tests, {self._failed} failed, {self._ended} of {self._units} runs"
        if not self._took or not self._left:
            return told
        left_s = (time.monotonic() - self._began) / self._took * self._expected(self._left)
        return f"{told}, about {left_s / 60:.0f} min left"

    def _expected(self, tests: Iterable[str]) -> float:
        from harness.report.matrix import measured_s

        return measured_s(tests, self._durations)


def execute(
    top: Path, writer: Writer, units: Sequence[Unit], jobs: int, progress: Progress, inherited: Sequence[int] = ()
) -> None:
    """Run all units, the longest rows of tests first; what cannot be told by pytest is told as a fault of the run.

    Each pytest has the descriptors `inherited`.
    """
    from harness.build import PREBUILT
    from harness.report.matrix import HOST

    parts = writer.folder / _PARTS
    parts.mkdir(exist_ok=True)
    attempt = len(list(parts.glob("*.log")))
    commands = {}
    for unit in sorted(units, key=lambda unit: -len(unit.tests)):
        name = f"{unit.name}-{attempt}" if attempt else unit.name
        only = parts / f"{name}.json"
        only.write_text(json.dumps(unit.tests), encoding="utf-8")
        commands[name] = _pytest(unit, ["-q", "--only-from", str(only), "--report-into", str(writer.folder)])

    def environment(name: str) -> Mapping[str, str]:
        # The host's suites build, and test builds.
        own = name.removesuffix(f"-{attempt}") == HOST
        return {key: value for key, value in os.environ.items() if not (own and key == PREBUILT)}

    def log(name: str) -> Path:
        return parts / f"{name}.log"

    ends = side_by_side(commands, jobs, cwd=top, log=log, env=environment, look=progress.look, inherited=inherited)
    for name, status in ends:
        progress.ended(name, status, log(name))
        if status < 0:
            writer.add(f"{name}: pytest was ended by signal {-status}; log: {log(name)}")


def finish(top: Path, writer: Writer) -> Run:
    """Make run, JUnit and page, and print boards against verdicts."""
    from harness.cli.suites import read_junit, table
    from harness.plugin.coverage import FOLDER, SUMMARY
    from harness.report.junit import write_junit
    from harness.report.matrix import read_plan
    from harness.report.page import write_page
    from harness.report.plugin import coverage_of, metrics_of
    from harness.report.run import JUNIT, prune, read_events

    done = {test.id for test in read_events(writer.folder).tests}
    units = read_plan(writer.folder / _PLAN)
    missing = [test for unit in units for test in unit.tests if test not in done]
    if missing:
        writer.add(f"{len(missing)} tests did not run, such as {missing[0]}")
    covered = any("--coverage" in unit.options for unit in units)
    found = writer.finish(
        metrics=metrics_of(top, writer.head.name),
        coverage=coverage_of(top / FOLDER / SUMMARY) if covered else (),
    )
    # Beside the run, and where `quoin requirements` looks.
    for path in (writer.folder / JUNIT, top / "build" / "results" / "matrix.xml"):
        write_junit(path, found)
    print("\n".join(table(read_junit(writer.folder / JUNIT))))
    for fault in found.faults:
        print(f"not whole: {fault.splitlines()[0]}")
    print(f"report: {write_page(top, writer.folder, found)}")
    prune(top)
    return found
