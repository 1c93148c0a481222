"""A failed test leaves a folder that tells what was, and a machine that can be reopened."""

from __future__ import annotations

import dataclasses
import errno
import gzip
import json
import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.board import Board, LabError, read_board
from harness.cli.replay import find_gdb
from harness.console import Session
from harness.machine import BootFiles, QemuMachine
from harness.machine.tiny_guest import Then, write_tiny_guest
from harness.verdict import Finding, Verdict, postmortem
from harness.verdict.postmortem import Images, Kept
from support.projects import TOP, command, environment

TESTS = """
from harness.verdict.symbols import Symbols

ILLEGAL = {"x86_64": b"\\x0f\\x0b", "aarch64": bytes(4), "riscv64": b"\\xff" * 4}

def test_assertion(machine):
    machine.console.command("ps")
    assert 1 == 2, "told by the test"

def test_panic(boot, artifacts):
    session = boot()
    with session.gdb() as gdb:
        gdb.write_memory(Symbols(artifacts.kernel).address("syscall::log_read"), ILLEGAL[artifacts.arch])
    session.console.sendline("log")
    session.console.expect("never", 20)

def test_hang(boot):
    session = boot()
    session.console.sendline("test run planted:spins_for_ever")
    session.console.expect("planted: spins", 60)
    session.console.expect("never", 1)

def test_good(machine):
    machine.console.command("ps")
"""
_STATE_BYTES = 64 << 20


def project(folder: Path) -> Path:
    shutil.copytree(TOP / "boards", folder / "boards")
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "test_it.py").write_text(TESTS)
    return folder


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command("-q", *arguments), cwd=folder, env=environment(), capture_output=True, text=True, timeout=600
    )


@pytest.mark.requirement("OBS-08", "OBS-14", "TST-30")
@pytest.mark.needs("gdbstub", "release")
def test_assertion_panic_and_hang_leave_what_is_needed(board: Board, tmp_path: Path) -> None:
    folder = project(tmp_path)
    ran = run(folder, "--board", board.name, "--smp", str(board.smp))
    assert "3 failed, 1 passed" in ran.stdout, ran.stdout[-6000:]
    found = {one.test.split("::")[1].split("[")[0]: one for one in postmortem.kept(folder / postmortem.FOLDER)}
    verdicts = {name: one.verdict for name, one in found.items()}
    assert verdicts == {"test_assertion": "failed", "test_panic": "panicked", "test_hang": "spinning"}
    for name, one in found.items():
        assert f"postmortem: {one.path / 'README'}" in ran.stdout
        assert f"reopen it: ./quoin replay {one.id}" in ran.stdout
        text = (one.path / "README").read_text()
        for wanted in ("verdict: ", "Kernel: build id ", "QEMU: ", "Last ", "Started by: qemu-system-"):
            assert wanted in text, f"{name}: no {wanted!r}"
        for cpu in range(board.smp):
            assert f"\nCPU {cpu}\n" in text
        assert (one.path / "state.gz").stat().st_size < _STATE_BYTES

    told = (found["test_assertion"].path / "README").read_text()
    assert "told by the test" in told
    assert told.count("kernel::sched::idle") >= board.smp - 1, "idle CPUs stand in the kernel's idle loop"
    panicked = (found["test_panic"].path / "README").read_text()
    assert "illegal instruction" in panicked, panicked
    hang = (found["test_hang"].path / "README").read_text()
    assert re.search(r"#\d+ 0x[0-9a-f]+ planted: planted::spins_for_ever\+0x[0-9a-f]+ at \S+main.rs:\d+", hang), hang

    # Reopened, each CPU has the registers that it had, all of them.
    machine = postmortem.reopen(found["test_hang"])
    try:
        for cpu in range(board.smp):
            line = {"command-line": "info registers", "cpu-index": board.monitor_cpus + cpu}
            now = machine.qmp("human-monitor-command", **line)
            assert f"\n\n{now.strip()}\n".replace("\r", "") in hang, f"CPU {cpu}: {now}"
        assert machine.status() == "paused"
    finally:
        machine.off()


@pytest.mark.requirement("OBS-08")
@pytest.mark.needs("arch==riscv64", "gdbstub", "release")
def test_a_machine_is_reopened_for_gdb_and_closed_with_it(board: Board, tmp_path: Path) -> None:
    folder = project(tmp_path)
    run(folder, "--board", board.name, "--smp", "1", "-k", "assertion")
    (one,) = postmortem.kept(folder / postmortem.FOLDER)
    process = subprocess.Popen(
        [sys.executable, "-m", "harness.cli", "replay", one.id, "--folder", str(one.path.parent), "--print"],
        cwd=TOP,
        env={**environment(), "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    said = ""
    try:
        assert process.stdout is not None
        while "until Ctrl-C" not in said:
            # Past Python's buffer: a line that lies there already would wake no select.
            assert select.select([process.stdout], [], [], 120)[0], said
            piece = os.read(process.stdout.fileno(), 65536).decode()
            assert piece, said
            said += piece
        assert "timers" in said, "on RISC-V it says that timers are dead"
        assert f"symbol-file -o 0x0 {one.path / 'kernel.elf'}" in said
        stub = Path(re.search(r"target (?:extended-)?remote (/[^\s']+)", said)[1])  # type: ignore[index]
        assert stub.is_socket()
        command = shlex.split(re.search(r"^gdb: +(.*)$", said, re.MULTILINE)[1])  # type: ignore[index]
        if shutil.which(command[0]):
            told = subprocess.run([*command, "-batch", "-ex", "backtrace"], capture_output=True, text=True, timeout=120)
            assert re.search(r"^#0 .*kernel::.* at kernel/src/\S+:\d+$", told.stdout, re.MULTILINE), told
    finally:
        os.kill(process.pid, signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert not stub.exists(), "the machine outlived the command"


@pytest.mark.requirement("OBS-14")
@pytest.mark.needs("arch==riscv64", "gdbstub", "release")
def test_another_elf_than_the_one_that_ran_explains_nothing(board: Board, tmp_path: Path) -> None:
    folder = project(tmp_path)
    (folder / "test_it.py").write_text(
        "from harness.verdict.symbols import Symbols\n\n"
        "def test_it(machine, lab, tmp_path, monkeypatch):\n"
        "    kernel = lab.artifacts(machine.board).kernel\n"
        "    other = tmp_path / 'other.elf'\n"
        "    other.write_bytes(kernel.read_bytes().replace(bytes.fromhex(Symbols(kernel).build_id()), bytes(20)))\n"
        "    monkeypatch.setattr(lab, 'kernel_elf', lambda board: other)\n"
        "    assert False\n"
    )
    run(folder, "--board", board.name, "--smp", "1")
    (one,) = postmortem.kept(folder / postmortem.FOLDER)
    text = (one.path / "README").read_text()
    assert re.search(
        r"Not looked into: \S+/other.elf has build id 0{40}, but \w+ ran: addresses are not explained", text
    ), text
    assert not (one.path / "kernel.elf").exists(), "gdb would explain by it"
    assert "kernel::" not in text.split("\nCPU 0\n")[1].split("Last ")[0]


def fake(root: Path, number: int, cause: str, size: int = 0) -> Kept:
    folder = root / f"2026010{number}-000000-mine"
    folder.mkdir(parents=True)
    facts = {"test": f"t{number}", "verdict": "failed", "cause": cause}
    (folder / "machine.json").write_text(json.dumps(facts))
    (folder / "state.gz").touch()
    os.truncate(folder / "state.gz", size)
    return postmortem.find(root, folder.name)


@pytest.mark.requirement("OBS-14")
def test_two_are_kept_for_a_cause_and_the_pinned(tmp_path: Path) -> None:
    postmortem.pin(fake(tmp_path, 1, "a"), True)
    for number in (2, 3, 4):
        fake(tmp_path, number, "a")
    fake(tmp_path, 5, "b")
    postmortem.prune(tmp_path)
    assert [one.test for one in postmortem.kept(tmp_path)] == ["t1", "t3", "t4", "t5"]
    postmortem.pin(postmortem.find(tmp_path, "20260101"), False)
    postmortem.prune(tmp_path)
    assert [one.test for one in postmortem.kept(tmp_path)] == ["t3", "t4", "t5"]


@pytest.mark.requirement("OBS-14")
def test_the_oldest_go_when_two_gibibytes_are_spent(tmp_path: Path) -> None:
    for number, cause in enumerate("abcd", 1):
        fake(tmp_path, number, cause, size=900 << 20)
    postmortem.pin(postmortem.find(tmp_path, "20260101"), True)
    postmortem.prune(tmp_path)
    assert [one.test for one in postmortem.kept(tmp_path)] == ["t1", "t4"]
    postmortem.prune(tmp_path, budget=0)
    assert [one.test for one in postmortem.kept(tmp_path)] == ["t1", "t4"], "the newest and the pinned stay"


@pytest.mark.requirement("OBS-14")
def test_what_a_killed_session_left_half_written_goes(tmp_path: Path) -> None:
    for name, age_s in (("20260101-000000-old", 7200), ("20260102-000000-new", 0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "state.gz").touch()
        at = time.time() - age_s
        os.utime(tmp_path / name, (at, at))
    postmortem.prune(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["20260102-000000-new"]


def failed(folder: Path) -> Path:
    """The postmortem of a tiny guest, whose machine has ended since."""
    guest = write_tiny_guest(folder / "guest", "init: ready\n", Then.SLEEP)
    board = read_board(TOP / "boards" / "qemu-riscv64.yaml").variant(smp=1)
    with Session(QemuMachine(board, BootFiles(guest)), folder / "console.log") as session:
        session.wait_ready()
        finding = Finding(Verdict.FAILED, "told by the test")
        root = folder / "postmortem"
        return postmortem.write(root, session, finding, Images(None), test="t", text="", place="here")


@pytest.mark.requirement("OBS-08", "ERR-01")
def test_what_a_postmortem_lacks_is_said_with_the_next_step(tmp_path: Path) -> None:
    folder = failed(tmp_path)
    state = folder / "state.gz"
    os.truncate(state, state.stat().st_size // 2)
    one = postmortem.find(folder.parent, folder.name)
    with pytest.raises(
        LabError, match=r"state\.gz, the saved machine, was not loaded; `gzip -t` .* run the test again"
    ):
        postmortem.reopen(one)
    (folder / "image").unlink()
    with pytest.raises(LabError, match=r"image, the kernel that ran, is missing: this postmortem cannot be reopened"):
        postmortem.reopen(one)


@pytest.mark.requirement("OBS-14", "ERR-01")
@pytest.mark.parametrize("then", ["exit 1", 'sleep 1; exec {gzip} "$@" < {held}'])
def test_the_machine_is_saved_when_gzip_has_written_it(
    then: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    held = tmp_path / "held"
    text = f"#!/bin/sh\ncat > {held}\n{then.format(gzip=shutil.which('gzip'), held=held)}\n"
    (tools / "gzip").write_text(text)
    (tools / "gzip").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    folder = failed(tmp_path)
    assert not (folder / "state.gz.part").exists()
    if then == "exit 1":
        assert not (folder / "state.gz").exists()
        assert "gzip did not write all of it" in (folder / "README").read_text()
    else:
        with gzip.open(folder / "state.gz") as file:
            assert file.read() == held.read_bytes()


@pytest.mark.requirement("OBS-14", "ERR-01")
def test_a_full_disk_leaves_no_half_postmortem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space left"):
        failed(tmp_path)
    assert list((tmp_path / "postmortem").iterdir()) == []


@pytest.mark.requirement("OBS-08")
def test_a_board_is_read_back_as_it_was_written() -> None:
    board = read_board(TOP / "boards" / "qemu-x86_64.yaml")
    board = dataclasses.replace(board, firmware=Path("/code.fd"), firmware_vars=Path("/vars.fd"))
    assert postmortem._board(json.loads(json.dumps(postmortem._plain(board)))) == board


@pytest.mark.requirement("OBS-08", "ERR-01")
@pytest.mark.parametrize("more", [{}, {"board": {"name": "mine"}, "cmdline": "", "arguments": []}, {"board": 7}])
def test_corrupt_facts_are_named(more: dict[str, object], tmp_path: Path) -> None:
    one = fake(tmp_path, 1, "a")
    facts = json.loads((one.path / "machine.json").read_text()) | more
    (one.path / "machine.json").write_text(json.dumps(facts))
    with pytest.raises(LabError, match=r"machine\.json does not tell which machine it was .*; read .*README"):
        postmortem.reopen(one)


@pytest.mark.requirement("OBS-14", "ERR-01")
def test_an_unknown_postmortem_is_told_with_those_there_are(tmp_path: Path) -> None:
    fake(tmp_path, 1, "a")
    with pytest.raises(LabError, match=r"0 postmortems match 'nothing' in .*; the newest are: 20260101-000000-mine"):
        postmortem.find(tmp_path, "nothing")
    listed = subprocess.run(
        [sys.executable, "-m", "harness.cli", "replay", "--folder", str(tmp_path)],
        cwd=TOP,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "20260101-000000-mine  0 MiB  failed: t1" in listed.stdout


@pytest.mark.requirement("OBS-08")
def test_a_gdb_that_does_not_know_the_architecture_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gdb = tmp_path / "gdb"
    gdb.write_text(
        "#!/bin/sh\nfor last; do :; done\ncase $last in *x86-64) ;; *) echo 'Undefined item' >&2; exit 1;; esac\n"
    )
    gdb.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    monkeypatch.setattr("harness.cli.replay._GDBS", ("gdb-of-no-name", "gdb"))
    assert find_gdb("x86_64") == str(gdb)
    assert find_gdb("riscv64") is None
    gdb.write_text("not a program")
    assert find_gdb("x86_64") is None
