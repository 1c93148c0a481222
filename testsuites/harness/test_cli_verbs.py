"""The command line: every verb is there, and what goes wrong is told in words."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.build.artifacts import TOP
from harness.cli import VERBS, parser
from harness.cli.requirements import HOST_TEST, host_proofs, marks_in, proofs, verdicts
from harness.cli.suites import board_of, read_junit, table
from harness.report.requirements import read_rows
from support.checkout import Checkout, make_checkout, set_rustc

LIMIT_S = 60.0


def quoin(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "harness.cli", *arguments],
        cwd=TOP,
        env=os.environ | env,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        stdin=subprocess.DEVNULL,
        check=False,
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return make_checkout(tmp_path)


@pytest.mark.requirement("BLD-01")
def test_help_names_every_verb() -> None:
    done = quoin("--help")
    assert done.returncode == 0
    for verb in ("build", "run", "test", "bench", "clean", "setup", "console", "requirements", "mutants"):
        assert verb in done.stdout
        assert VERBS[verb].SUMMARY


@pytest.mark.requirement("BLD-01")
@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args([verb, "--help"])
    assert ended.value.code == 0
    assert VERBS[verb].SUMMARY.split()[0] in capsys.readouterr().out


@pytest.mark.requirement("BLD-01")
@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["build", "mips"], 1, "x86_64, aarch64, riscv64"),
        (["build", "--bad"], 2, "--bad"),
        (["fly"], 2, "fly"),
        (["console", "qemu-mips"], 1, "qemu-riscv64"),
        (["console", "qemu-riscv64", "--smp", "999"], 1, "999"),
        (["console", "qemu-riscv64", "--memory", "much"], 1, "128M"),
        (["console", "qemu-riscv64", "--image", "/nonexistent"], 1, "no such image"),
        (["console", "qemu-riscv64", "--initrd", "/nonexistent"], 1, "--image"),
        (["requirements", "NONE-99"], 1, "NONE-99"),
        (["mutants", "no-such-patch"], 1, "mutants"),
        (["serve", "--port", "99999"], 2, "wants a port from 0 to 65535, not '99999'"),
        (["serve", "--port", "-1"], 2, "wants a port from 0 to 65535, not '-1'"),
    ],
)
def test_bad_input_ends_in_words_and_not_in_a_traceback(arguments: list[str], status: int, words: str) -> None:
    done = quoin(*arguments)
    assert done.returncode == status, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.requirement("BLD-01")
def test_an_image_of_another_architecture_is_refused(tmp_path: Path) -> None:
    from support.elf_files import image_header

    image = tmp_path / "image"
    image.write_bytes(image_header("aarch64", 4096) + bytes(64))
    done = quoin("console", "qemu-riscv64", "--image", str(image))
    assert done.returncode == 1
    assert "aarch64" in done.stderr and "riscv64" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.requirement("BLD-02")
def test_an_old_rustc_ends_a_build_with_both_versions(checkout: Checkout) -> None:
    set_rustc(checkout, "1.63.0")
    done = checkout.quoin("build", "riscv64")
    assert done.status == 1
    assert "1.63.0" in done.err and "1.88.0" in done.err
    assert checkout.cargo_calls() == 0


@pytest.mark.requirement("BLD-01")
def test_clean_removes_what_was_built_and_nothing_else(checkout: Checkout) -> None:
    assert checkout.quoin("build", "riscv64").status == 0
    done = checkout.quoin("clean")
    assert done.status == 0, done.err
    assert not (checkout.tree / "build").exists()
    assert (checkout.tree / "kernel-src/Cargo.toml").exists()
    assert checkout.quoin("clean").status == 0  # twice is no fault


@pytest.mark.requirement("BLD-01")
def test_clean_does_not_follow_a_link(checkout: Checkout, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "data").write_text("kept")
    (checkout.tree / "build").symlink_to(precious)
    assert checkout.quoin("clean").status == 1
    assert (precious / "data").exists()


JUNIT = """<testsuites><testsuite>
<testcase classname="testsuites.boot.test_a" name="test_x[qemu-riscv64-smp4]" time="1.5">
  <properties><property name="board" value="qemu-riscv64-smp4"/><property name="verdict" value="passed"/></properties>
</testcase>
<testcase classname="testsuites.boot.test_a" name="test_y[qemu-riscv64-smp4]" time="0.5">
  <properties><property name="verdict" value="panicked"/></properties><failure message="boom">text</failure></testcase>
<testcase classname="testsuites.boot.test_a" name="test_x[two-qemu-x86_64-smp4-2G]" time="2"/>
<testcase classname="testsuites.harness.test_b" name="test_z" time="0.1"><skipped message="no"/></testcase>
</testsuite></testsuites>"""


@pytest.mark.requirement("DEV-02")
def test_the_table_names_each_board_and_its_verdict(tmp_path: Path) -> None:
    path = tmp_path / "run.xml"
    path.write_text(JUNIT)
    lines = table(read_junit(path))
    assert lines[0].split() == ["board", "verdict", "passed", "failed", "skipped", "seconds"]
    assert [line.split() for line in lines[1:]] == [
        ["host", "nothing", "ran", "0", "0", "1", "0.1"],
        ["qemu-riscv64-smp4", "panicked", "1", "1", "0", "2.0"],
        ["two-qemu-x86_64-smp4-2G", "passed", "1", "0", "0", "2.0"],
    ]


@pytest.mark.requirement("DEV-02")
def test_a_board_is_found_in_a_test_id() -> None:
    assert board_of("test_a[qemu-x86_64-smp4]") == "qemu-x86_64-smp4"
    assert board_of("vm:reads[qemu-aarch64-smp1-2G]") == "qemu-aarch64-smp1-2G"
    assert board_of("test_a[3]") == "host"
    assert board_of("test_a") == "host"


SOURCE = """
import pytest
pytestmark = [pytest.mark.slow, pytest.mark.requirement("A-01")]

@pytest.mark.requirement("B-02", "B-03")
def test_one(): ...

class TestGroup:
    @pytest.mark.requirement("C-04")
    def test_two(self): ...

def helper(): ...
"""


@pytest.mark.requirement("TST-04")
def test_marks_are_read_from_modules_classes_and_functions() -> None:
    found = [(p.requirement, p.test) for p in marks_in(SOURCE, "testsuites/a/test_b.py")]
    assert found == [
        ("A-01", "testsuites/a/test_b.py::test_one"),
        ("B-02", "testsuites/a/test_b.py::test_one"),
        ("B-03", "testsuites/a/test_b.py::test_one"),
        ("A-01", "testsuites/a/test_b.py::TestGroup::test_two"),
        ("C-04", "testsuites/a/test_b.py::TestGroup::test_two"),
    ]


@pytest.mark.requirement("TST-04")
def test_a_verdict_is_found_by_board_and_a_failure_is_not_hidden(tmp_path: Path) -> None:
    path = tmp_path / "run.xml"
    path.write_text(JUNIT)
    seen = verdicts([path])
    assert seen["testsuites.boot.test_a::test_y"] == {"qemu-riscv64-smp4": "panicked"}
    proof = next(marks_in('@pytest.mark.requirement("A")\ndef test_y(): ...', "testsuites/boot/test_a.py"))
    assert proof.key in seen


@pytest.mark.requirement("TST-06")
def test_each_file_of_host_side_tests_has_its_requirements_and_its_verdict(tmp_path: Path) -> None:
    path = tmp_path / "run.xml"
    module, _, name = HOST_TEST.partition("::")
    path.write_text(
        f"""<testsuite><testcase classname="{module}" name="{name}[buddy]" time="1"/>
        <testcase classname="{module}" name="{name}[acpi]" time="1"><failure message="no">no</failure></testcase>
        </testsuite>"""
    )
    seen = verdicts([path])
    told = {(proof.requirement, proof.test): seen.get(proof.key) for proof in host_proofs()}
    assert told["PMM-02", "kernel-src/kernel/tests/buddy.rs"] == {"host": "passed"}
    assert told["SMP-08", "kernel-src/kernel/tests/acpi.rs"] == {"host": "failed"}
    assert told["CAP-12", "kernel-src/kernel/tests/derivation.rs"] is None, "not run"


@pytest.mark.requirement("TST-04")
def test_every_mark_names_a_row_of_the_requirements() -> None:
    suites = TOP / "testsuites"
    rows = {row.id for row in read_rows(suites / "requirements.tsv")}
    assert [p for p in proofs(suites) if p.requirement not in rows] == []
