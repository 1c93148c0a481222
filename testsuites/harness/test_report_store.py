"""A run that is kept: what pytest says of each test, with and without workers, and what other tools read of it."""

from __future__ import annotations

import argparse
import subprocess
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from harness.build import artifacts
from harness.cli import report
from harness.machine.tiny_guest import Then, write_tiny_guest
from harness.report.figures import measured_durations
from harness.report.junit import write_junit
from harness.report.page import write_page
from harness.report.plugin import coverage_of
from harness.report.run import Case, Run, RunError, Writer, find, folders, heads, last_good, prune, read
from support.browser import browser, needs_chromium
from support.projects import BOARD, run_pytest

pytestmark = pytest.mark.requirement("TST-30", "DEV-01")
LIMIT_S = 600.0
TESTS = """
import pytest

@pytest.mark.requirement("BLD-01", "TST-30")
def test_never_comes(boot):
    boot().console.expect("never", 0.5)

def test_says_ready(machine):
    assert machine.ready_line == "init: ready"

@pytest.mark.skip(reason="not today")
def test_skipped():
    pass

def test_host(metric):
    metric("host.answer", 42, unit="count", noise=None)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "boards").mkdir()
    (tmp_path / "boards" / "mine.yaml").write_text(BOARD)
    write_tiny_guest(tmp_path / "guest", "init: ready\n", Then.SPIN)
    (tmp_path / "testsuites").mkdir()
    (tmp_path / "testsuites" / "test_it.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\ntestpaths = testsuites\n")
    return tmp_path


def run(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_pytest(project, "-q", "--board", "mine", *arguments, timeout_s=LIMIT_S)


@needs_chromium
def test_a_planted_failure_is_on_the_page_with_verdict_line_registers_and_replay_command(project: Path) -> None:
    began_s = time.monotonic()
    done = run(project, "--report", "-n", "2")
    took_s = time.monotonic() - began_s
    assert done.returncode == 1, done.stdout + done.stderr
    kept = read(find(project, None))
    tests = {test.id.partition("::")[2]: test for test in kept.tests}
    assert {name: test.outcome for name, test in tests.items()} == {
        "test_never_comes[mine-smp1]": "failed",
        "test_says_ready[mine-smp1]": "passed",
        "test_skipped": "skipped",
        "test_host": "passed",
    }
    red, green = tests["test_never_comes[mine-smp1]"], tests["test_says_ready[mine-smp1]"]
    assert (red.verdict, red.board, red.requirements) == ("spinning", "mine-smp1", ("BLD-01", "TST-30"))
    assert red.place == "testsuites/test_it.py:6"
    assert red.replay == f"./quoin replay {Path(red.postmortem).name}"
    assert "no 'never' on the console" in red.cause
    assert tests["test_skipped"].cause == "not today"
    assert [metric["metric"]["name"] for metric in kept.metrics] == ["host.answer"]
    # One clock, from the run's begin on: a machine is switched on and a test ends within the run, in that order.
    assert kept.seconds is not None and kept.seconds < took_s
    on = {machine.name: machine for machine in kept.machines}
    assert on.keys() == {*red.machines, *green.machines}
    assert all(0 < test.begin_s < on[test.machines[0]].started_s < test.end_s < kept.seconds for test in (red, green))
    with browser() as chromium:
        page = chromium.new_page()
        page.set_viewport_size({"width": 360, "height": 740})
        page.goto((find(project, None) / "index.html").as_uri())
        page.get_by_role("option", name="test_never_comes").click()
        page.wait_for_selector("article.detail")
        text = page.locator("article.detail").inner_text()
        assert page.evaluate("document.documentElement.scrollWidth") == 360
    for word in ("spinning", red.place, red.replay, "CPU 0", "x1/ra", "init: ready", 'expect("never", 0.5)'):
        assert word in text, word


def test_without_report_nothing_is_kept(project: Path) -> None:
    assert run(project, "-k", "test_host").returncode == 0
    assert folders(project) == []


def test_a_run_that_cannot_collect_is_not_whole(project: Path) -> None:
    (project / "testsuites" / "test_bad.py").write_text("import nothing_of_that_name\n")
    assert run(project, "--report", "-k", "test_host").returncode != 0
    kept = read(find(project, None))
    assert not kept.good
    assert "nothing_of_that_name" in kept.faults[0]


def test_junit_has_what_other_tools_ask_for_and_no_character_that_is_none(tmp_path: Path) -> None:
    writer = Writer.begin(tmp_path, "1", "pytest")
    bad = Case(
        "testsuites/a/test_b.py::TestC::test_d[x::y-\x1b]", "failed", "reset", "b-smp1", cause="\x00<", text="\ud800"
    )
    for case in (bad, Case("testsuites/a/kernel-tests.yaml::p:c[b]", "skipped", "skipped", requirements=("BLD-01",))):
        writer.add(case)
    write_junit(tmp_path / "junit.xml", writer.finish())
    root = ElementTree.parse(tmp_path / "junit.xml").getroot()
    first, second = root.iter("testcase")
    assert (first.get("classname"), first.get("name")) == ("testsuites.a.test_b.TestC", "test_d[x::y-#x1B]")
    assert (second.get("classname"), second.get("name")) == ("testsuites.a.kernel-tests.yaml", "p:c[b]")
    failure = first.find("failure")
    assert failure is not None and (failure.get("message"), failure.text) == ("#x00<", "#xD800")
    assert [(p.get("name"), p.get("value")) for p in first.iter("property")] == [
        ("verdict", "reset"),
        ("board", "b-smp1"),
    ]
    assert second.find("skipped") is not None


def kept(top: Path, name: str, outcome: str = "passed", kind: str = "pytest") -> Run:
    writer = Writer.begin(top, name, kind)
    writer.add(Case("a", outcome, outcome))  # type: ignore[arg-type]  # one of three
    return writer.finish()


def test_old_runs_are_forgotten_and_the_last_good_one_is_not(tmp_path: Path) -> None:
    kept(tmp_path, "1")
    kept(tmp_path, "2", kind="other")
    for number in range(3, 8):
        newest = kept(tmp_path, str(number), "failed")
    prune(tmp_path, kept=3)
    assert [folder.name for folder in folders(tmp_path)] == ["1", "2", "5", "6", "7"]
    good = last_good(tmp_path, newest)
    assert good is not None and good.head.name == "1"
    with pytest.raises(RunError, match="there are: 1, 2, 5, 6, 7"):
        find(tmp_path, "nothing")


@pytest.mark.parametrize(
    "damage",
    [
        b"garbage\n",
        b"\xff\n",
        b"5\n",
        b'{"case": {}}\n',
        b'{"case": 5}\n',
        b'{"nope": 1}\n',
        b'{"machine": {"name": 1}}\n',
    ],
)
def test_a_damaged_run_is_told_and_hinders_no_other(
    tmp_path: Path, damage: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept(tmp_path, "1")
    bad = Writer.begin(tmp_path, "2", "pytest")
    bad.add(Case("a", "passed", "passed"))
    with (bad.folder / "events.jsonl").open("ab") as file:
        file.write(damage)
    with pytest.raises(RunError, match=r"events.jsonl:2: no event of a run .*take another run"):
        read(bad.folder)
    newest = kept(tmp_path, "3")
    good = last_good(tmp_path, newest)
    assert good is not None and good.head.name == "1"
    assert measured_durations(tmp_path) == {"a": 0.0}
    assert str(write_page(tmp_path, tmp_path / "build/reports/3", newest)).endswith("index.html")
    monkeypatch.setattr(artifacts, "TOP", tmp_path)
    assert report.run(argparse.Namespace(list=True), []) == 0
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.startswith("1  ") and third.startswith("3  ")
    assert second.startswith("2  cannot be read: ")
    prune(tmp_path, kept=1)
    assert [folder.name for folder in folders(tmp_path)] == ["3"]


def test_a_run_of_another_version_is_told_and_left_out(tmp_path: Path) -> None:
    kept(tmp_path, "1")
    folder = tmp_path / "build/reports/1"
    (folder / "run.json").write_text((folder / "run.json").read_text().replace('"retries"', '"tries"'))
    with pytest.raises(RunError, match="is not of a run"):
        read(folder)
    assert last_good(tmp_path, kept(tmp_path, "2")) is None
    (folder / "head.json").write_text('{"of": "another version"}')
    assert [head.name for head in heads(tmp_path)] == ["2"]


def test_coverage_is_read_from_its_summary(tmp_path: Path) -> None:
    path = tmp_path / "summary.txt"
    path.write_text(
        "kernel/src/a.rs     10 of     20   50.0 %\ntotal     10 of     20   50.0 %\n3 blocks found no place\n"
    )
    assert coverage_of(path) == [("kernel/src/a.rs", 10, 20)]
    assert coverage_of(tmp_path / "none") == []
