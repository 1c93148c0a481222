"""Runs that a seed brings again, and what many seeds say about a test."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from harness.board import Board
from harness.cli.soak import variant_options
from harness.console import ExpectTimeout
from harness.plugin.lab import Lab
from harness.plugin.seeded import SeededRun
from harness.plugin.soak import tallies, wilson
from support.projects import BOARD, TOP, command, environment

CASES = ["smp:hardware_numbers_differ", "smp:threads_run_on_all_cpus_at_once"]
PLANTED = "planted:lost_wake_up"
PATIENCE_S = 60.0
# Nothing runs any more when a wake-up is lost; to wait longer would show nothing else.
LOST_S = 4.0
SEEDS = 200


def trace(lab: Lab, board: Board, seed: int) -> str:
    run = SeededRun(lab, board.variant(seed=seed), list(CASES))
    found = ""
    for case in CASES:
        run.open()
        outcome = run.outcome(case, PATIENCE_S)
        assert outcome.ok, f"seed {seed}: {case}: {outcome.note}"
        found = outcome.trace
    return found


def wake_up_is_lost(lab: Lab, board: Board, seed: int) -> bool:
    run = SeededRun(lab, board.variant(seed=seed), [PLANTED])
    session = run.open()
    session.wait_ready()
    try:
        return not run.outcome(PLANTED, LOST_S).ok
    except ExpectTimeout:
        return True


def soak(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command("-q", *arguments), cwd=folder, env=environment(), capture_output=True, text=True, timeout=600
    )


@pytest.mark.requirement("TST-30")
@pytest.mark.needs("smp>=2", "release")
def test_a_seed_brings_one_run_and_many_seeds_bring_many(board: Board, lab: Lab) -> None:
    assert len({trace(lab, board, 7) for _ in range(10)}) == 1
    assert len({trace(lab, board, seed) for seed in range(1, 21)}) >= 15


@pytest.mark.requirement("TST-30")
@pytest.mark.needs("smp>=2", "release")
def test_a_lost_wake_up_is_found_and_found_again_by_its_seed(board: Board, lab: Lab) -> None:
    passed = []
    for seed in range(1, SEEDS + 1):
        if wake_up_is_lost(lab, board, seed):
            break
        passed.append(seed)
    else:
        pytest.fail(f"none of {SEEDS} seeds loses the wake-up")
    assert wake_up_is_lost(lab, board, seed), f"seed {seed} lost it once only"
    others = iter(range(seed + 1, SEEDS + 1))
    while not passed:
        other = next(others)
        passed += [] if wake_up_is_lost(lab, board, other) else [other]
    assert not wake_up_is_lost(lab, board, passed[0]), f"seed {passed[0]} loses it now and then"


@pytest.mark.requirement("TST-30", "TST-10")
@pytest.mark.needs("smp>=2", "release")
def test_the_suites_hold_under_seeds(board: Board) -> None:
    suites = [f"testsuites/{name}/kernel-tests.yaml" for name in ("boot", "smp", "user")]
    ran = soak(TOP, *suites, "--board", board.name, "--smp", str(board.smp), "--soak", "4", "--deterministic", "4")
    assert ran.returncode == 0, ran.stdout[-4000:]
    assert "4 of 4 passed: 100.0 %" in ran.stdout


@pytest.mark.requirement("TST-27", "TST-30")
@pytest.mark.needs("arch==aarch64", "smp>=2", "release")
def test_a_process_that_ended_has_given_its_memory_back_in_any_order(board: Board) -> None:
    case = "testsuites/user/kernel-tests.yaml::user:ended_processes_give_their_memory_back"
    ran = soak(TOP, case, "--board", board.name, "--smp", str(board.smp), "--soak", "30")
    assert ran.returncode == 0, ran.stdout[-4000:]
    assert "30 of 30 passed" in ran.stdout


def project(folder: Path, board: Board) -> Path:
    (folder / "boards").mkdir()
    (folder / "boards" / board.path.name).write_text(board.path.read_text())
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "kernel-tests.yaml").write_text("programs: [planted]\nfloor: 1\ntimeout_s: 4\n")
    (folder / "test_by_hand.py").write_text("def test_by_hand(board):\n    pass\n")
    return folder


@pytest.mark.requirement("TST-30")
@pytest.mark.needs("arch==aarch64", "smp>=2", "release")
def test_a_soak_tells_the_rate_and_the_seeds_that_failed(board: Board, tmp_path: Path) -> None:
    ran = soak(
        project(tmp_path, board), "kernel-tests.yaml", "-k", "lost_wake_up", "--board", board.name, "--soak", "16"
    )
    assert ran.returncode == 1, ran.stdout
    line = next(line for line in ran.stdout.splitlines() if line.startswith("soak: "))
    passed = int(line.split(": ")[2].split()[0])
    assert 0 < passed < 16
    assert f"kernel-tests.yaml::{PLANTED}[{board.name}-smp{board.smp}]: {passed} of 16 passed" in line
    failed = (
        next(line for line in ran.stdout.splitlines() if "failed with seeds" in line).split("seeds ")[1].split(", ")
    )
    assert len(failed) == 16 - passed
    assert f"-n 1 --seed {failed[0]}" in ran.stdout


@pytest.mark.requirement("TST-30")
@pytest.mark.needs("arch==riscv64", "release")
def test_what_is_typed_cannot_be_brought_again_and_is_skipped(board: Board, tmp_path: Path) -> None:
    ran = soak(project(tmp_path, board), "test_by_hand.py", "-rs", "--board", board.name, "--deterministic", "3")
    assert "1 skipped" in ran.stdout
    assert "--deterministic is for kernel tests" in ran.stdout


@pytest.mark.requirement("TST-30")
def test_a_test_without_a_board_is_soaked_by_rounds(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_third.py").write_text(
        "ROUNDS = []\n\ndef test_third():\n    ROUNDS.append(1)\n    assert len(ROUNDS) != 3\n"
    )
    ran = soak(tmp_path, "--soak", "5")
    assert "test_third.py::test_third: 4 of 5 passed: 80.0 % (95 % confidence: 37.6 to 96.4 %)" in ran.stdout
    assert "failed with rounds 3" in ran.stdout


@pytest.mark.requirement("TST-30")
def test_a_soak_counts_what_the_quarantine_forgives(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nquarantine = known.yaml\n")
    (tmp_path / "known.yaml").write_text(
        "- test: 'test_known.py::*'\n  owner: ada\n  reason: as ever\n  expires: 9999-12-31\n"
    )
    (tmp_path / "test_known.py").write_text(
        "ROUNDS = []\n\ndef test_known():\n    ROUNDS.append(1)\n    assert len(ROUNDS) != 3\n"
    )
    ran = soak(tmp_path, "--soak", "5")
    assert ran.returncode == 0, ran.stdout
    assert "test_known.py::test_known: 4 of 5 passed: 80.0 %" in ran.stdout
    assert "failed with rounds 3" in ran.stdout


@pytest.mark.requirement("TST-30", "ERR-01")
@pytest.mark.parametrize(
    ("option", "words"),
    [
        (("--deterministic", "0"), "from 1 on"),
        (("--soak", "0"), "from 1 on"),
        (("--soak", "-3"), "from 1 on"),
        (("--deterministic", str(1 << 64)), "wanted seeds up to 18446744073709551615"),
        (("--deterministic", str((1 << 64) - 2), "--soak", "3"), "found: 18446744073709551616"),
    ],
)
def test_a_seed_or_a_number_of_rounds_that_cannot_be_is_refused(
    option: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    (tmp_path / "boards").mkdir()
    (tmp_path / "boards" / "qemu-riscv64.yaml").write_text(BOARD)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    ran = soak(tmp_path, "--board", "qemu-riscv64", *option)
    assert ran.returncode == 4
    assert words in ran.stderr


@pytest.mark.requirement("TST-30", "ERR-01")
def test_a_soak_runs_the_variant_that_it_is_asked_for_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_par.py").write_text(
        "import pytest\n\n@pytest.mark.parametrize('x', ['a', 'b'])\ndef test_par(x):\n    assert x == 'a'\n"
    )
    ran = soak(tmp_path, "test_par.py::test_par", "--soak", "2", *variant_options("a", ["qemu-riscv64"]))
    assert ran.returncode == 0, ran.stdout
    assert [line.split(":")[3] for line in ran.stdout.splitlines() if line.startswith("soak: ")] == ["test_par[a]"]
    ran = soak(tmp_path, "test_par.py::test_par", "--soak", "2", "--soak-variant", "c")
    assert ran.returncode == 4
    assert "wanted a test with [c]; found: test_par.py::test_par[a], test_par.py::test_par[b]" in ran.stderr


@pytest.mark.requirement("TST-30")
def test_what_stands_in_brackets_is_what_a_soak_boots() -> None:
    known = ["qemu-riscv64", "qemu-riscv64-mine"]
    options = {variant: variant_options(variant, known) for variant in (
        "qemu-riscv64", "qemu-riscv64-smp1", "a-qemu-riscv64-mine-smp2-256M-icount-debug", "place:rack.7-smp2", "x-smp3"
    )}  # fmt: skip
    assert options.pop("qemu-riscv64") == ["--board=qemu-riscv64"]
    assert {variant: found[-1] for variant, found in options.items()} == {
        variant: f"--soak-variant={variant}" for variant in options
    }
    assert [found[:-1] for found in options.values()] == [
        ["--board=qemu-riscv64", "--smp=1"],
        ["--board=qemu-riscv64-mine", "--smp=2", "--memory=256M", "--icount", "--debug-kernel"],
        ["--board=place:rack.7", "--smp=2"],
        [],
    ]


@pytest.mark.requirement("TST-30")
def test_a_soaked_kernel_test_runs_on_the_cpus_in_its_brackets(tmp_path: Path) -> None:
    (tmp_path / "boards").mkdir()
    (tmp_path / "boards" / "qemu-riscv64.yaml").write_text(BOARD.replace("smp: 1", "smp: 4"))
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "kernel-tests.yaml").write_text("programs: [planted]\nfloor: 1\n")
    options = variant_options("qemu-riscv64-smp1-debug", ["qemu-riscv64"])
    ran = soak(tmp_path, "--collect-only", "kernel-tests.yaml", "--soak", "2", *options)
    found = [line for line in ran.stdout.splitlines() if PLANTED in line]
    assert found == [f"kernel-tests.yaml::{PLANTED}[qemu-riscv64-smp1-seed{seed}]" for seed in (1, 2)], ran.stdout


@pytest.mark.requirement("TST-30")
def test_the_interval_is_wilsons() -> None:
    # The values of R's binom::binom.confint(x, n, methods = "wilson").
    for passed, runs, low, high in [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (95, 100, 0.8882, 0.9785)]:
        assert list(wilson(passed, runs)) == pytest.approx([low, high], abs=1e-4)


@pytest.mark.requirement("TST-30")
def test_two_failures_of_one_round_are_one() -> None:
    class Report:
        def __init__(self, nodeid: str, passed: bool) -> None:
            self.nodeid = nodeid
            self.passed = passed

    reports = [Report("t::a[b-seed4]", False), Report("t::a[b-seed4]", False), Report("t::a[b-seed5]", True)]
    tally = tallies(reports)["t::a[b]"]
    assert (tally.passed, tally.failed, tally.seeded) == ([5], [4], True)


@pytest.mark.requirement("TST-30")
def test_a_round_whose_teardown_failed_is_one_and_no_passed_one(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_end.py").write_text(
        "import pytest\n\n@pytest.fixture\ndef end():\n    yield\n    assert False\n\ndef test_end(end):\n    pass\n"
    )
    assert "test_end.py::test_end: 0 of 2 passed: 0.0 %" in soak(tmp_path, "--soak", "2").stdout
