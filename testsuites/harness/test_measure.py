"""Numbers: kept with all that they depend on, held against baselines and targets, compared over revisions."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from harness.board import Board
from harness.build.artifacts import TOP
from harness.cli import bench
from harness.cli.revisions import measured, resolved
from harness.measure.gate import Verdict, judge, judge_runs, read_baselines, write_baselines
from harness.measure.metrics import Better, Metric, MetricError, kernel_metrics, summary
from harness.measure.store import Record, Store
from harness.measure.targets import check_names, known_metrics, read_targets, scores
from harness.measure.tools import revision, versions
from support.projects import run_pytest

LIMIT_S = 120.0
TOOLS = {"rustc": "1.96.0", "linker": "LLD 14", "qemu": "7.2.22", "firmware": "none"}


def record(
    value: float, name: str = "ipc.call", *, better: Better = "lower", noise: float | None = 0.0, run: str = "one"
) -> Record:
    metric = Metric(name, value, "instructions", better, noise)
    return Record(metric, "qemu-riscv64", "smp1-icount", TOOLS, "test_it", run, "2026-01-01T00:00:00+00:00", "abc")


@pytest.mark.requirement("TST-17")
@pytest.mark.parametrize(
    ("before", "after", "better", "noise", "verdict"),
    [
        (500, 500, "lower", 0.0, Verdict.SAME),
        (500, 501, "lower", 0.0, Verdict.WORSE),
        (500, 499, "lower", 0.0, Verdict.BETTER),
        (500, 501, "higher", 0.0, Verdict.BETTER),
        (500, 499, "higher", 0.0, Verdict.WORSE),
        (500, 510, "lower", 0.02, Verdict.WITHIN),
        (500, 490, "lower", 0.02, Verdict.WITHIN),
        (500, 511, "lower", 0.02, Verdict.WORSE),
        (0, 1, "lower", 0.5, Verdict.WORSE),
    ],
)
def test_a_gate_is_red_beyond_the_noise_in_the_worse_direction_only(
    tmp_path: Path, before: float, after: float, better: Better, noise: float, verdict: Verdict
) -> None:
    write_baselines(tmp_path, [record(before, better=better, noise=noise)])
    now = record(after, better=better, noise=noise)
    assert [row.verdict for row in judge([now], read_baselines(tmp_path))] == [verdict]
    assert bench.gate(tmp_path, 0, [now]) == (1 if verdict is Verdict.WORSE else 0)
    assert bench.gate(tmp_path, 3, [now]) == 3, "what pytest says is not covered up"


@pytest.mark.requirement("TST-17")
def test_other_tools_have_no_baseline_and_that_is_said_and_not_red(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_baselines(tmp_path, [record(500)])
    for tool in TOOLS:
        other = replace(record(900), tools={**TOOLS, tool: "another"})
        assert bench.gate(tmp_path, 0, [other]) == 0
        assert "no baseline for these tools" in capsys.readouterr().out
    assert bench.gate(tmp_path, 0, [record(900)]) == 1
    assert "worse than the baseline: ipc.call on qemu-riscv64-smp1-icount" in capsys.readouterr().out


@pytest.mark.requirement("TST-17")
def test_an_update_changes_only_what_was_measured(tmp_path: Path) -> None:
    newer = replace(record(400), tools={**TOOLS, "rustc": "1.97.0"})
    (path,) = write_baselines(tmp_path, [record(500), record(7, "zero"), newer, record(1, "host.time", noise=None)])
    first = path.read_text()
    assert "host.time" not in first, "what depends on the host has no baseline"
    write_baselines(tmp_path, [newer, record(7, "zero")])
    assert path.read_text() == first, "the order of measuring is not seen"
    write_baselines(tmp_path, [record(450)])
    changed = [(a, b) for a, b in zip(first.splitlines(), path.read_text().splitlines(), strict=True) if a != b]
    assert len(changed) == 1 and "500" in changed[0][0] and "450" in changed[0][1]
    with pytest.raises(MetricError, match="mend them"):
        bench.update(tmp_path, 1, [record(1)])
    path.write_text('{"format": 2}')
    with pytest.raises(MetricError, match=r"qemu-riscv64\.json is not a file of baselines"):
        read_baselines(tmp_path)


@pytest.mark.requirement("TST-16")
def test_a_distribution_leaves_the_warm_up_out() -> None:
    median, spread = summary([9000, 8000, *range(200, 0, -1)], warm_up=2)
    assert (median, spread.least, spread.p99, spread.most) == (100.5, 1, 198, 200)
    assert (spread.samples, spread.warm_up) == (200, 2)
    with pytest.raises(MetricError, match="only warm up"):
        summary([1, 2], warm_up=2)


@pytest.mark.requirement("TST-16")
@pytest.mark.parametrize(
    "bad",
    [("Name", 1, "s"), ("a", float("nan"), "s"), ("a", 1, ""), ("a", 1, "s", "faster"), ("a", 1, "s", "lower", -0.1)],
)
def test_what_is_no_metric_is_refused(bad: tuple[object, ...]) -> None:
    with pytest.raises(MetricError):
        Metric(*bad)  # type: ignore[arg-type]


@pytest.mark.requirement("TST-16")
def test_metrics_are_read_from_what_kernel_tests_print() -> None:
    lines = ["metric: null_call 38.01 instructions", "kernel: metric: a 1.00 s", "metric: b many s"]
    assert [(m.name, m.value, m.unit) for m in kernel_metrics(lines)] == [("null_call", 38.01, "instructions")]


@pytest.mark.requirement("DEV-03")
def test_the_store_is_added_to_and_shows_a_metrics_history(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(tmp_path)
    with pytest.raises(MetricError, match="quoin bench"):
        bench.history(tmp_path, "")
    for run, value in (("one", 500), ("two", 480)):
        store.append(replace(record(value, run=run), revision=f"commit-{run}"))
    store.append(record(9, "other"))
    assert store.run("two") == [replace(record(480, run="two"), revision="commit-two")]
    assert bench.history(tmp_path, "ipc.call") == 0
    told = [line.split()[3:5] for line in capsys.readouterr().out.splitlines()]
    assert told == [["revision", "value"], ["commit-one", "500"], ["commit-two", "480"]]
    with pytest.raises(MetricError, match=r"no value of ipc\.cal .* it holds ipc\.call, other"):
        bench.history(tmp_path, "ipc.cal")
    with store.path.open("a") as file:
        file.write("{torn\n")
    with pytest.raises(MetricError, match=r"metrics\.jsonl:4 "):
        store.read()


TESTS = """
from pathlib import Path
import pytest
from harness.board import read_board

def test_cost(metric):
    debugging = read_board(Path({board!r})).variant(debug=True)
    metric("a.cost", 900, unit="instructions", board=debugging)  # promises nothing, and is not kept
    metric("a.cost", {cost}, unit="instructions")
    metric.samples("a.time", [100.0, 3.0, 1.0, 2.0], unit="ms", warm_up=1, noise=None)

def test_plain():
    pass
"""
BOARD = str(TOP / "boards" / "qemu-riscv64.yaml")
TARGETS = "- {metric: a.cost, at_most: 70, unit: instructions, source: A-01}\n"


def pytest_in(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_pytest(folder, "-q", *arguments, timeout_s=LIMIT_S)


@pytest.mark.requirement("TST-16", "PRF-13")
def test_the_fixture_keeps_numbers_and_fails_what_misses_its_target(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "testsuites").mkdir()
    (tmp_path / "testsuites" / "targets.yaml").write_text(TARGETS)
    (tmp_path / "test_it.py").write_text(TESTS.format(cost=70, board=BOARD))
    done = pytest_in(tmp_path, "-m", "metrics", "--metrics-run", "one", "-n", "1")
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout, "only what measures is marked"
    cost, time = Store(tmp_path).run("one")
    assert (cost.board, cost.metric.value, cost.test) == ("host", 70, "test_it.py::test_cost")
    assert time.metric.value == 2.0 and time.metric.spread is not None and time.metric.spread.samples == 3
    assert cost.at and cost.revision == "none"

    (tmp_path / "test_it.py").write_text(TESTS.format(cost=71, board=BOARD))
    done = pytest_in(tmp_path, "--metrics-run", "two")
    assert done.returncode == 1
    assert "a.cost on host: wanted at most 70 instructions, found 71" in done.stdout
    assert [r.metric.value for r in Store(tmp_path).run("two")] == [71, 2.0], "and all numbers are kept"


def git(folder: Path, *arguments: str) -> str:
    who = {f"GIT_{role}_{what}": "test" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=os.environ | who, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.requirement("TST-17", "DEV-03")
def test_two_revisions_are_measured_each_with_its_own_tree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -p harness.plugin -p no:labgrid\n")
    (tmp_path / ".gitignore").write_text("/build/\n__pycache__/\n")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "before numbers")
    shutil.copytree(TOP / "harness", tmp_path / "harness", ignore=shutil.ignore_patterns("__pycache__"))
    for cost in (70, 65, 66):
        (tmp_path / "test_it.py").write_text(TESTS.format(cost=cost, board=BOARD))
        git(tmp_path, "add", "-A")
        git(tmp_path, "commit", "-qm", f"cost {cost}")
    (tmp_path / "test_it.py").write_text("not committed, and not measured")

    assert bench.compare(tmp_path, ["HEAD~2", "HEAD~1"], []) == 0
    row = next(line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("a.cost"))
    assert row == ["a.cost", "host", "65", "instructions", "70", "-7.14%", "better"]
    Store(tmp_path).append(replace(record(65, "a.cost", run="stored"), board="host", variant="", tools={}))
    assert bench.compare(tmp_path, ["stored", "HEAD"], []) == 1
    assert "worse than the baseline: a.cost on host" in capsys.readouterr().out
    assert not list((tmp_path / "build" / "compare").iterdir()), "worktrees are removed"
    assert len(git(tmp_path, "worktree", "list").splitlines()) == 1

    with pytest.raises(Exception, match="'nothing-like-it' is no git revision"):
        bench.compare(tmp_path, ["HEAD", "nothing-like-it"], [])
    with pytest.raises(Exception, match="has no harness/measure"):
        resolved(tmp_path, "HEAD~3")
    with pytest.raises(Exception, match=r"tests of .* do not pass .*\.log"):
        measured(tmp_path, git(tmp_path, "rev-parse", "HEAD"), ["no_such_test.py"])
    assert not list((tmp_path / "build" / "compare").iterdir())


@pytest.mark.requirement("TST-17")
def test_what_only_one_run_has_is_told() -> None:
    rows = judge_runs([record(5, "gone"), record(7, "kept")], [record(7, "kept"), record(9, "new")])
    assert {row.record.metric.name: row.verdict for row in rows} == {
        "gone": Verdict.NOT_MEASURED,
        "kept": Verdict.SAME,
        "new": Verdict.NO_BASELINE,
    }


@pytest.mark.requirement("PRF-13")
def test_the_scorecard_says_met_not_met_and_not_measurable(tmp_path: Path) -> None:
    (tmp_path / "testsuites").mkdir()
    (tmp_path / "testsuites" / "targets.yaml").write_text(
        "- {metric: ipc.call, at_most: {qemu-riscv64: 500}, unit: instructions, source: A-01}\n"
        "- {metric: rate, at_least: 40, unit: instructions, source: A-02}\n"
        "- {metric: never, at_most: 1, unit: s, source: A-03}\n"
        "- {at_most: 1, unit: s, source: A-04, reason: wants a board}\n"
    )
    targets = read_targets(tmp_path)
    elsewhere = replace(record(900), board="qemu-x86_64")
    rows = scores(targets, [record(500), elsewhere, record(39, "rate")])
    assert [(row.target.source, row.standing) for row in rows] == [
        ("A-01", "met"),
        ("A-02", "NOT MET"),
        ("A-03", "not measurable here"),
        ("A-04", "not measurable here"),
    ]
    assert rows[3].why == "wants a board"
    with pytest.raises(MetricError, match=r"'never', which no test measures; known: ipc\.call, rate"):
        check_names(targets, {"ipc.call", "rate"})
    with pytest.raises(MetricError, match="in s, and its target"):
        targets[0].missed(Metric("ipc.call", 1, "s"), "qemu-riscv64")


@pytest.mark.requirement("PRF-13")
@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("{metric: a, at_most: 1, unit: s, source: X, colour: red}", "unknown key colour"),
        ("{metric: a, unit: s, source: X}", "one of at_most and at_least"),
        ("{metric: a, at_most: 1, source: X}", "unit and source"),
        ("{metric: a, at_most: many, unit: s, source: X}", "a limit is a number"),
        ("{at_most: 1, unit: s, source: X}", "the reason why"),
    ],
)
def test_a_target_that_cannot_be_read_is_named(tmp_path: Path, entry: str, words: str) -> None:
    (tmp_path / "testsuites").mkdir()
    (tmp_path / "testsuites" / "targets.yaml").write_text(f"- {entry}\n")
    with pytest.raises(MetricError, match=f"target 1: .*{words}"):
        read_targets(tmp_path)


def quoin(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "harness.cli", *arguments],
        cwd=TOP,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


@pytest.mark.requirement("PRF-13", "DEV-03")
def test_the_trees_own_targets_and_baselines_are_whole() -> None:
    known = known_metrics(TOP)
    assert {"null_call", "ipc.round_trip", "context_switch", "fresh_target.rate"} <= known
    check_names(read_targets(TOP), known)
    baselines = read_baselines(TOP)
    boards = {board for board, _ in baselines}
    assert boards == {"qemu-x86_64", "qemu-aarch64", "qemu-riscv64"}
    for values in baselines.values():
        assert {name.split()[-1] for name in values} <= known
        assert "smp1-icount ipc.round_trip" in values
    done = quoin(["scorecard", "--run", "no-such-run"])
    assert done.returncode == 1 and "no-such-run" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.requirement("PRF-13")
def test_every_figure_that_the_requirements_promise_is_a_target() -> None:
    lines = (TOP / "testsuites" / "requirements.tsv").read_text().splitlines()
    rows = [line.split("\t") for line in lines[1:]]
    # Below, above, or a number and more; a shift is a size.
    promised = {row[0] for row in rows if len(row) > 4 and re.search(r"(?<!<)[<>](?!<)|\d\+", row[4])}
    assert len(promised) > 10
    told = {target.source.split(",")[0] for target in read_targets(TOP)}
    assert promised <= told, "rows with a figure that testsuites/targets.yaml does not tell"


@pytest.mark.requirement("TST-16")
def test_a_record_names_compiler_linker_emulator_and_firmware(board: Board) -> None:
    found = versions(board)
    assert "rustc 1." in found["rustc"] and found["linker"]
    assert "QEMU emulator version" in found["qemu"]
    assert (found["firmware"] == "none") == (board.arch == "aarch64")
    assert json.loads(json.dumps(found)) == found
    assert set(versions(replace(board, kernel=Path("other")))) == {"qemu", "firmware"}, "its compiler is not ours"


@pytest.mark.requirement("TST-17")
def test_each_state_of_a_tree_has_a_revision_of_its_own(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        who = ["-c", "user.name=ada", "-c", "user.email=ada@example.org"]
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    def now() -> str:
        revision.cache_clear()
        return revision(tmp_path)

    assert now() == "none"
    git("init", "-q")
    (tmp_path / ".gitignore").write_text("build\n")
    (tmp_path / "test_it.py").write_text("assert True\n")
    git("add", "-A")
    git("commit", "-q", "-m", "one")
    clean = now()
    assert re.fullmatch("[0-9a-f]{12}", clean)
    (tmp_path / "build").write_text("ignored")
    assert now() == clean
    seen = [clean]
    for name, text in [("test_it.py", "2"), ("test_it.py", "3"), ("new.py", "a"), ("new.py", "b")]:
        (tmp_path / name).write_text(text)
        assert now() == now()
        seen.append(now())
    assert len(set(seen)) == len(seen)
    assert all(re.fullmatch(rf"{clean}\+[0-9a-f]{{8}}", one) for one in seen[1:])
    git("add", "-A")
    git("commit", "-q", "-m", "two")
    assert re.fullmatch("[0-9a-f]{12}", now()) and now() != clean
