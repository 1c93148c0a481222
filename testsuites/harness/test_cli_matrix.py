"""A matrix: which cells it has, fair shares of their tests, builds in a pack, and going on after a kill."""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import os
import re
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as some

from harness import build
from harness.build.artifacts import TOP, Artifacts, load, write_manifest
from harness.build.errors import BuildError
from harness.build.packing import pack, unpack
from harness.cli import matrix as verb
from harness.cli.report import merge
from harness.report.figures import kept_durations, measured_durations, write_figures
from harness.report.matrix import AXES, Cell, MatrixError, Unit, pairwise, read_matrix, share, unique
from harness.report.run import Case, Machine, RunError, Writer, held, read, read_events
from support.projects import environment

pytestmark = pytest.mark.requirement("DEV-01", "DEV-02", "TST-29")
CHECK_LIMIT_S = 300.0
KILL_LIMIT_S = 60.0
FILE = """
boards: ['qemu-*']
cpus: [1, 4]
variants: {release: [], debug: [--debug-kernel]}
suites: [testsuites/boot, testsuites/smp]
exclude: [{suite: '*/smp', cpus: 1}]
host: [testsuites/harness]
"""


def file(folder: Path, text: str = FILE) -> Path:
    path = folder / "nightly.yaml"
    path.write_text(text)
    return path


# Cells.


def test_a_matrix_has_all_cells_but_those_that_are_excluded(tmp_path: Path) -> None:
    matrix = read_matrix(file(tmp_path), TOP / "boards")
    boards = {path.stem for path in (TOP / "boards").glob("qemu-*.yaml")}
    assert len(matrix.cells) == len(set(matrix.cells)) == len(boards) * 2 * 3
    assert not [cell for cell in matrix.cells if cell.suite.endswith("smp") and cell.cpus == 1]
    units = {unit.name: unit for unit in matrix.units()}
    assert units["qemu-riscv64-smp1-release"].suites == ("testsuites/boot",)
    assert units["qemu-riscv64-smp4-debug"].options == ("--board", "qemu-riscv64", "--smp", "4", "--debug-kernel")
    assert units["host"] == Unit("host", (), ("testsuites/harness",))
    assert matrix.profiles(units.values()) == ("release", "debug")


@pytest.mark.parametrize(
    ("only", "cells", "host"),
    [
        (["board=qemu-riscv64", "cpus=4", "variant=rel*"], 2, False),
        (["suite=testsuites/smp,testsuites/harness", "board=qemu-riscv64"], 2, False),
        (["suite=testsuites/harness"], 0, True),
    ],
)
def test_filters_leave_what_fits_all_of_them(tmp_path: Path, only: list[str], cells: int, host: bool) -> None:
    matrix = read_matrix(file(tmp_path), TOP / "boards", only)
    assert (len(matrix.cells), bool(matrix.host)) == (cells, host)


@pytest.mark.parametrize(
    ("text", "only", "told"),
    [
        ("cpus: [1]", [], "suites"),
        (FILE + "colour: red", [], "nothing else"),
        (FILE + "mode: most", [], "full or pairwise"),
        (FILE.replace("[1, 4]", "[999]"), [], "999"),
        (FILE.replace("qemu-*", "nothing"), [], "unknown board"),
        (FILE.replace("suite:", "speed:"), [], "a rule names some of"),
        (FILE, ["speed=1"], "AXIS=GLOB"),
        ("[boards, cpus]", [], 'perhaps exclude, host, mode, variants; found the list ["boards", "cpus"]'),
        (FILE.replace("['qemu-*']", "qemu-x"), [], "boards is a list of texts such as [qemu-riscv64]; found the text"),
        (FILE.replace("[testsuites/boot, testsuites/smp]", "testsuites/boot"), [], "suites is a list"),
        (FILE.replace("[testsuites/harness]", "testsuites/harness"), [], "host is a list"),
        (FILE.replace("[1, 4]", "[0, -1, x]"), [], "nightly.yaml: cpus is a list of numbers from 1 on such as [1, 4]"),
        (FILE.replace("[1, 4]", "2"), [], "found the value 2"),
        (FILE.replace("{release: [], debug: [--debug-kernel]}", "[debug]"), [], "variants is names with lists"),
        (FILE.replace("[--debug-kernel]", "--debug-kernel"), [], "variants is names with lists"),
        (FILE.replace("[{suite: '*/smp', cpus: 1}]", "{cpus: 1}"), [], "exclude is a list of rules"),
        (FILE, ["board=none"], "no cell is left"),
    ],
)
def test_a_matrix_that_means_nothing_is_told(tmp_path: Path, text: str, only: list[str], told: str) -> None:
    with pytest.raises(Exception, match=re.escape(told)):
        read_matrix(file(tmp_path, text), TOP / "boards", only)


@given(some.sets(some.tuples(*[some.integers(0, 3)] * 4), min_size=1, max_size=60))
def test_pairwise_has_each_pair_that_any_cell_has_in_cells_that_are_allowed(choices: set[tuple[int, ...]]) -> None:
    allowed = [Cell(str(a), b, str(c), str(d)) for a, b, c, d in sorted(choices)]
    chosen = pairwise(allowed)
    assert set(chosen) <= set(allowed)
    for left, right in itertools.combinations(AXES, 2):
        wanted = {(getattr(cell, left), getattr(cell, right)) for cell in allowed}
        assert {(getattr(cell, left), getattr(cell, right)) for cell in chosen} == wanted


def test_pairwise_is_much_smaller_than_full() -> None:
    allowed = [Cell(*choice) for choice in itertools.product("abcde", range(4), "rd", "stuvw")]
    assert len(pairwise(allowed)) <= len(allowed) / 5


# Shares.


@given(
    some.lists(some.lists(some.floats(0, 300), max_size=12), min_size=1, max_size=6),
    some.integers(1, 9),
    some.booleans(),
)
@settings(max_examples=200)
def test_shards_are_disjoint_complete_and_as_long_as_the_longest_test_allows(
    seconds: list[list[float]], count: int, known: bool
) -> None:
    units = unique(
        Unit(f"u{n}", (), ("s",), tuple(f"u{n}::t{m}" for m in range(len(row)))) for n, row in enumerate(seconds)
    )
    durations = {f"u{n}::t{m}": took for n, row in enumerate(seconds) for m, took in enumerate(row) if known}
    shards = [[test for unit in share(units, n, count, durations) for test in unit.tests] for n in range(1, count + 1)]
    assert [test for shard in shards for test in shard] == [test for unit in units for test in unit.tests]
    took = {test: durations.get(test) or 0.2 for unit in units for test in unit.tests}
    lengths = [sum(took[test] for test in shard) for shard in shards]
    assert max(lengths) - sum(took.values()) / count <= max(took.values(), default=0) + 1e-6


def test_a_share_that_is_none_is_refused() -> None:
    for number in (0, 6):
        with pytest.raises(MatrixError, match="--shard takes N/M"):
            share([], number, 5, {})


@pytest.mark.parametrize(("tests", "more", "told"), [(3, ["--shard", "1/900"], "none of 3"), (0, [], "found none")])
def test_a_matrix_without_a_test_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tests: int, more: list[str], told: str
) -> None:
    units = [Unit("u", (), ("s",), tuple(f"t{number}" for number in range(tests)))] if tests else []
    monkeypatch.setattr(verb, "build_all", lambda *_: [])
    monkeypatch.setattr(verb, "collected", lambda *_: units)
    with pytest.raises(MatrixError, match=told):
        verb.run(arguments(str(file(tmp_path)), *more), [])


@pytest.mark.parametrize("jobs", ["-3", "0", "x"])
def test_a_number_of_jobs_that_is_none_is_refused(jobs: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments("nightly.yaml", f"--jobs={jobs}")
    assert f"wants a number from 1 on, not '{jobs}'" in capsys.readouterr().err


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    verb.add_arguments(parser)
    return parser.parse_args(words)


def test_a_test_that_several_units_have_is_run_once() -> None:
    units = unique([Unit("a", (), (), ("x", "y")), Unit("b", (), (), ("y",)), Unit("c", (), (), ("y", "z"))])
    assert [(unit.name, unit.tests) for unit in units] == [("a", ("x", "y")), ("c", ("z",))]


# Packs.


def made(folder: Path) -> Artifacts:
    """A build as it stands on disk; what its files hold, nobody looks at here."""
    directory = folder / "riscv64-release"
    (directory / "programs").mkdir(parents=True)
    names = ("kernel.elf", "image", "boot.cpio", "programs/init")
    for name in names:
        (directory / name).write_bytes(name.encode() * 100)
    kernel, image, archive, program = (directory / name for name in names)
    built = Artifacts(
        "riscv64", "release", directory, kernel, image, archive, (program,), "ab12", {"image": 500}, fresh=True
    )
    write_manifest(built, "print", "rustc")
    return built


def test_a_pack_is_the_build_with_its_hashes_and_boots_without_a_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = made(tmp_path)
    out = tmp_path / "out.tar.gz"
    told = pack([built], out, revision="abc", durations={"t": 2.0})
    assert pack([built], tmp_path / "again.tar.gz", revision="abc", durations={"t": 2.0}) == told
    folder, durations = unpack(out, tmp_path / "packed", revision="abc")
    assert durations == {"t": 2.0}
    assert load(folder / "riscv64-release").image.read_bytes() == built.image.read_bytes()
    monkeypatch.setenv(build.PREBUILT, str(folder))
    monkeypatch.setenv("PATH", "")
    assert build.build("riscv64").directory == folder / "riscv64-release"
    with pytest.raises(BuildError, match="a finished build"):
        build.build("riscv64", "debug")
    with pytest.raises(BuildError, match="wanted builds of revision def"):
        unpack(out, tmp_path / "packed", revision="def")


@pytest.mark.parametrize("what", ["changed", "missing", "added", "outside"])
def test_a_pack_whose_files_are_not_those_that_it_tells_is_refused(tmp_path: Path, what: str) -> None:
    import tarfile

    out = tmp_path / "out.tar.gz"
    pack([made(tmp_path)], out, revision="abc", durations={})
    with tarfile.open(out) as archive:
        files = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    name = "riscv64-release/image"
    if what == "changed":
        files[name] = files[name][:-1] + b"!"
    elif what == "missing":
        del files[name]
    else:
        name = "riscv64-release/programs/more" if what == "added" else "riscv64-release/../../evil"
        files[name] = b"more"
    with tarfile.open(out, "w:gz") as archive:
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    with pytest.raises(BuildError, match=re.escape(name)):
        unpack(out, tmp_path / "packed", revision="abc")
    assert not (tmp_path / "packed").exists()
    out.write_bytes(out.read_bytes()[:200])
    with pytest.raises(BuildError, match="a whole pack"):
        unpack(out, tmp_path / "packed", revision="abc")


def test_a_pack_that_would_change_the_tree_is_refused(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / ".gitignore").write_text("/build/\n")
    verb._check_place(tmp_path, tmp_path / "build" / "pack.tar.gz")
    verb._check_place(tmp_path, tmp_path.parent / "pack.tar.gz")
    with pytest.raises(MatrixError, match="would be a change of the tree"):
        verb._check_place(tmp_path, tmp_path / "pack.tar.gz")


# Runs.

SUITE = """
import os
import signal
from pathlib import Path

def said(word):
    with Path("ran").open("a") as file:
        file.write(word + "\\n")

def test_a():
    said("a")

def test_b():
    said("b")
    if not Path("mended").exists():
        os.kill(os.getpid(), signal.SIGKILL)

def test_c():
    said("c")
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["harness.plugin"]\n')
    (tmp_path / "pytest.ini").write_text(f"[pytest]\npythonpath = {TOP}\naddopts = -p no:labgrid\n")
    (tmp_path / "testsuites").mkdir()
    (tmp_path / "testsuites" / "test_it.py").write_text(SUITE)
    return tmp_path


def test_a_killed_matrix_says_what_did_not_run_and_goes_on_where_it_was(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (unit,) = unique(verb.collected(project, [Unit("host", (), ("testsuites",))], [], 1))
    assert [test.partition("::")[2] for test in unit.tests] == ["test_a", "test_b", "test_c"]
    writer = verb.begun(project, "matrix it", [unit], {"plan": "p", "tests": 3})

    def go(units: list[Unit]) -> None:
        verb.execute(project, writer, units, 1, verb.Progress(writer, units, {}, sys.stdout))
        verb.finish(project, writer)

    go([unit])
    cut = read(writer.folder)
    assert [test.id for test in cut.tests] == ["testsuites/test_it.py::test_a"]
    assert not cut.good
    assert re.search(r"signal 9.*2 tests did not run, such as \S*test_b", " ".join(cut.faults))
    (project / "mended").touch()
    again = verb.resumed(project, None, "matrix it", {"plan": "p"})
    assert again.folder == writer.folder
    go(verb.left(again))
    whole = read(writer.folder)
    assert whole.good and len(whole.tests) == 3
    assert (project / "ran").read_text().split() == ["a", "b", "b", "c"], "what has ended is not run again"
    assert "\x1b" not in capsys.readouterr().out, "plain, where it is no terminal"
    assert (writer.folder / "junit.xml").read_text().count("<testcase") == 3
    for kind, facts in (
        ("matrix another", {"plan": "p"}),
        ("matrix it", {"plan": "q"}),
        ("matrix it", {"plan": "p", "shard": "1/2"}),
    ):
        with pytest.raises(RunError, match="begin a new one"):
            verb.resumed(project, writer.head.name, kind, facts)


MATRIX = """
import os, sys
from pathlib import Path
from harness.cli import matrix
from harness.report.matrix import Unit
from harness.report.run import Writer, held

writer = Writer(Path(sys.argv[1]))
units = [Unit("host", (), ("testsuites",), ("testsuites/test_it.py::test_waits",))]
with held(writer.folder) as handle:
    progress = matrix.Progress(writer, units, {}, sys.stdout)
    matrix.execute(Path.cwd(), writer, units, 1, progress, inherited=[handle])
"""
WAITS = """
import os, signal
from pathlib import Path

def test_waits():
    with Path("pytest").open("w") as file:  # a pipe, which somebody reads
        file.write(str(os.getpid()))
    signal.pause()
"""


def test_a_killed_matrix_takes_its_pytests_with_it_and_one_that_runs_has_its_run(project: Path) -> None:
    (project / "testsuites" / "test_it.py").write_text(WAITS)
    os.mkfifo(project / "pytest")
    writer = verb.begun(project, "matrix it", [], {"plan": "p"})
    child = None
    matrix = subprocess.Popen([sys.executable, "-c", MATRIX, str(writer.folder)], cwd=project, env=environment())
    try:
        with (project / "pytest").open("r+b", buffering=0) as pipe:
            assert select.select([pipe], [], [], CHECK_LIMIT_S)[0], "no pytest"
            child = os.pidfd_open(int(pipe.read(20)))
        with pytest.raises(RunError, match=f"process {matrix.pid} has run {writer.head.name}"), held(writer.folder):
            pass
        matrix.kill()
        assert select.select([child], [], [], KILL_LIMIT_S)[0], "its pytest outlives it"
    finally:
        matrix.kill()
        matrix.wait()
        if child is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(child, signal.SIGKILL)
            os.close(child)
    with held(writer.folder):
        pass


def test_a_suite_that_cannot_be_collected_is_told_before_anything_runs(project: Path) -> None:
    (project / "testsuites" / "test_it.py").write_text("import nothing_of_that_name\n")
    with pytest.raises(MatrixError, match="nothing_of_that_name"):
        verb.collected(project, [Unit("host", (), ("testsuites",))], [], 1)


def test_in_a_terminal_progress_is_one_line(tmp_path: Path) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    writer = Writer.begin(tmp_path, "one", "matrix")
    out = Terminal()
    progress = verb.Progress(writer, [Unit("u", (), (), ("a", "b"))], {"a": 10.0, "b": 10.0}, out)
    writer.add(Case("a", "failed", "failed"))
    progress.look(["u"])
    assert out.getvalue().startswith("\r")
    assert "1 of 2 tests, 1 failed, 0 of 1 runs, about 0 min left: u" in out.getvalue()


def shard(top: Path, number: int, tests: list[str], plan: str = "p") -> Path:
    writer = Writer.begin(top, f"{number}", "matrix", plan=plan, shard=f"{number}/2", tests=3)
    writer.add(Machine("m", "b", "", 0.0))
    for test in tests:
        writer.add(Case(test, "passed", "passed", machines=("m",)))
    writer.finish()
    return writer.folder


def test_shards_are_put_together_when_they_are_of_one_plan_and_nothing_is_missing(tmp_path: Path) -> None:
    first, second = shard(tmp_path, 1, ["a"]), shard(tmp_path, 2, ["b", "c"])
    whole = read(merge(tmp_path, [first, second]))
    assert whole.good
    assert [test.id for test in whole.tests] == ["a", "b", "c"]
    assert [test.machines for test in whole.tests] == [("1:m",), ("2:m",), ("2:m",)]
    assert "3 tests are planned, and these shards have 1" in read(merge(tmp_path, [first])).faults
    with pytest.raises(RunError, match="in two shards"):
        merge(tmp_path, [first, shard(tmp_path, 3, ["a", "b"])])
    with pytest.raises(RunError, match="of one plan"):
        merge(tmp_path, [first, shard(tmp_path, 4, ["b", "c"], plan="q")])


def test_figures_of_a_full_run_are_kept_in_the_tree(tmp_path: Path) -> None:
    (tmp_path / "testsuites").mkdir()
    assert kept_durations(tmp_path) == {}
    writer = Writer.begin(tmp_path, "0", "matrix", plan="p")
    writer.add(Case("long", "passed", "passed", "b", seconds=30.0))
    writer.add(Case("short", "failed", "failed", "b", seconds=0.1))
    run = writer.finish()
    figures = json.loads(write_figures(tmp_path, writer.folder, run).read_text())
    assert figures["boards"]["b"] == {"passed": 1, "failed": 1, "skipped": 0, "seconds": 30.1}
    assert (figures["short_s"], kept_durations(tmp_path)) == (0.1, {"long": 30.0})
    assert re.fullmatch("[0-9a-f]{64}", figures["run_sha256"])
    assert measured_durations(tmp_path) == {"long": 30.0}
    shorter = Writer.begin(tmp_path, "01", "pytest")
    shorter.add(Case("long", "passed", "passed", seconds=20.0))
    assert (measured_durations(tmp_path), kept_durations(tmp_path)) == ({"long": 20.0}, {"long": 30.0})
    with pytest.raises(RunError, match="shard 1/2"):
        write_figures(tmp_path, writer.folder, read(shard(tmp_path, 1, ["a"])))


def test_a_line_that_a_kill_has_cut_is_no_event(tmp_path: Path) -> None:
    folder = shard(tmp_path, 1, ["a", "b"])
    events = folder / "events.jsonl"
    events.write_bytes(events.read_bytes()[:-10])
    assert [test.id for test in read_events(folder).tests] == ["a"]
    Writer(folder).resumed()
    Writer(folder).add(Case("c", "passed", "passed"))
    assert [test.id for test in read_events(folder).tests] == ["a", "c"]


# What the tree brings.


def test_the_nightly_names_suites_that_there_are() -> None:
    matrix = read_matrix(TOP / "testsuites" / "nightly.yaml", TOP / "boards")
    known = {str(path.parent.relative_to(TOP)) for path in (TOP / "testsuites").glob("*/test_*.py")}
    known |= {str(path.parent.relative_to(TOP)) for path in (TOP / "testsuites").glob("*/kernel-tests.yaml")}
    assert {cell.suite for cell in matrix.cells} | set(matrix.host) == known - {"testsuites/bench"}
    assert verb._kind(TOP, matrix, argparse.Namespace(only=[], mode=None), []) == "matrix testsuites/nightly.yaml"


def test_matrix_files_of_one_name_are_two_kinds_of_run(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    kinds = {
        verb._kind(tmp_path, read_matrix(path, TOP / "boards"), argparse.Namespace(only=[], mode=None), [])
        for path in (file(tmp_path), file(tmp_path / "other"))
    }
    assert kinds == {"matrix nightly.yaml", "matrix other/nightly.yaml"}


@pytest.mark.parametrize(
    ("path", "schema"), [(".github/workflows/quoin.yml", "github-workflows"), (".gitlab-ci.yml", "gitlab-ci")]
)
def test_the_files_of_ci_services_fit_their_schemas_and_call_just_quoin(path: str, schema: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", TOP / path],
        capture_output=True,
        text=True,
        timeout=CHECK_LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in commands(yaml.safe_load((TOP / path).read_text())) if not line.startswith("mkdir")]
    assert lines and not [line for line in lines if not re.match(r"\./quoin (setup|matrix|report)\b", line)]


def commands(data: object) -> list[str]:
    """All shell lines of a workflow or pipeline."""
    if isinstance(data, list):
        return [line for one in data for line in commands(one)]
    if not isinstance(data, dict):
        return []
    found = [str(data["run"])] if "run" in data else []
    for key in ("script", "before_script", "after_script"):
        found += map(str, data.get(key, []))
    return found + [line for value in data.values() for line in commands(value)]
