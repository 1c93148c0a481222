"""A remote lab: labgrid's coordinator and exporter, with a board of the bench at the exporter's wires."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.board import BoardError, Lease, holder_of
from harness.build import build
from harness.cli.doctor import Place, examine_board
from harness.console import ConsoleError, Session
from harness.hardware import HardwareError, PhysicalMachine, places
from harness.hardware.physical import end_wires, start_wires
from harness.machine import BootFiles
from harness.verdict.verdict import Verdict, judge
from support.wired import MISSING, TOP, uboot_board

pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"not installed, see `quoin setup`: {', '.join(MISSING)}"),
    pytest.mark.requirement("DEV-08", "DEV-09"),
]
# As long as a bench may wait for room on the host, and the boot.
WAIT_S = 900
ENDS_S = 100
BOARD = "uboot-riscv64"
NAME = f"{BOARD}.tty"


@dataclass
class RemoteLab:
    """One that is up in a folder of its own; its coordinator is everybody's in this process."""

    folder: Path
    address: str

    def quoin(self, *words: str, status: int = 0) -> str:
        command = [sys.executable, "-m", "harness.cli", *words]
        done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, timeout=WAIT_S, check=False)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    def places(self) -> dict[str, Any]:
        found: dict[str, Any] = places.ask(self.address, "list")
        return found


@pytest.fixture(scope="module")
def exporter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A configuration of labgrid's exporter: a board on a tty, so that the exporter's own ser2net serves it."""
    folder = tmp_path_factory.mktemp("exporter")
    tty = folder / "tty"
    board = uboot_board(
        folder,
        "riscv64",
        ("smp: 1", "smp: 4"),
        ("-smp 1", "-smp 4"),
        ("NetworkSerialPort:", "RawSerialPort:"),
        ("        host: localhost\n        port: ", f"        port: {tty} #"),
        ("        protocol: raw\n", ""),
    )
    process, _ = start_wires(board)
    try:
        resources = yaml.safe_load(board.path.read_text())["targets"]["main"]["resources"]
        resources["RawSerialPort"]["port"] = str(tty.resolve())
        served = resources["TFTPProvider"]
        served["internal"] = str((board.path.parent / served["internal"]).resolve())
        config = folder / "exporter.yaml"
        config.write_text(json.dumps({NAME: resources}))
        yield config
    finally:
        end_wires(process)


@pytest.fixture
def lab(exporter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RemoteLab]:
    monkeypatch.setenv(places.FOLDER, str(tmp_path / "lab"))
    monkeypatch.delenv(places.COORDINATOR, raising=False)
    one = RemoteLab(tmp_path / "lab", "")
    assert f"place:{NAME}  arch=riscv64 board={BOARD}  free" in one.quoin("lab", "up", "--file", str(exporter))
    try:
        one.address = places.coordinator()
        yield one
    finally:
        assert "the lab is down" in one.quoin("lab", "down")
    assert not one.folder.exists()


def processes(*words: str) -> list[str]:
    """Command lines with these words, of processes that live."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if all(word in line for word in words):
            found.append(line)
    return found


def files() -> BootFiles:
    built = build("riscv64")
    return BootFiles(built.image, built.archive)


def board_of(pattern: str) -> Any:
    return places.boards([pattern], TOP / "boards")[0]


def test_suites_pass_over_the_coordinator_on_the_place_that_the_tags_name(lab: RemoteLab) -> None:
    suites = ["testsuites/smp", "testsuites/boot/kernel-tests.yaml"]
    options = ["-q", "-p", "no:cacheprovider", "-rA", "--board", "arch=riscv64"]
    command = [sys.executable, "-m", "pytest", *options, *suites]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode == 0, done.stdout
    assert re.search(r"\b[1-9]\d* passed", done.stdout)
    assert "failed" not in done.stdout
    assert f"[place:{NAME}-smp4]" in done.stdout
    assert lab.places()[NAME]["acquired"] is None
    # Two more words about the same place.
    assert f"place:{NAME}: flashed with " in lab.quoin("flash", f"place:{NAME}")
    with pytest.raises(
        HardwareError, match=r"wanted a place with arch=x86_64; found at .*: uboot-riscv64.tty: .*arch="
    ):
        board_of("arch=x86_64")
    with pytest.raises(BoardError, match=rf"wanted the place nowhere; found at the coordinator {lab.address}: {NAME}"):
        board_of("place:nowhere")


def test_a_dead_exporter_is_a_lab_fault_that_names_place_exporter_and_next_step(lab: RemoteLab, tmp_path: Path) -> None:
    board = board_of(f"place:{NAME}")
    state = json.loads((lab.folder / places.STATE).read_text())
    with Session(PhysicalMachine(board, files()), tmp_path / "console.log") as session:
        session.wait_ready(WAIT_S)
        holder = lab.places()[NAME]["acquired"]
        assert holder.endswith(f".{os.getpid()}")
        os.kill(state["exporter"], signal.SIGKILL)
        with pytest.raises((ConsoleError, HardwareError)) as error:
            session.console.expect("never printed", WAIT_S)
        finding = judge(session, error.value)
        assert not session.alive
    assert finding.verdict is Verdict.LAB_FAULT
    words = (
        rf"lab fault at the place {NAME}: its exporter \S+ is not there: .*; next: start labgrid-exporter on its host"
    )
    assert re.search(words, finding.cause), finding
    with pytest.raises(HardwareError, match=words), Session(PhysicalMachine(board, files()), tmp_path / "again.log"):
        pass
    found = [str(one) for one in examine_board(Place(TOP), board.name)]
    assert len(found) == 1
    assert re.search(words, found[0]), found
    assert f"place:{NAME}  arch=riscv64 board={BOARD}  dead: no exporter offers " in lab.quoin("lab", "status")


HOLDER = """
import os, sys
from pathlib import Path
from harness.hardware import PhysicalMachine, places
from harness.machine import BootFiles
machine = PhysicalMachine(places.boards([sys.argv[1]], Path("boards"))[0], BootFiles(None))
machine.take()
print(machine._place._client.pid, flush=True)
sys.stdin.read()
"""


def test_the_place_of_a_killed_session_is_released_and_a_live_ones_waited_for(
    lab: RemoteLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"place:{NAME}"
    for both in (False, True):
        with subprocess.Popen(
            [sys.executable, "-c", HOLDER, name], cwd=TOP, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as session:
            assert session.stdout is not None
            client = int(session.stdout.readline())
            holder = lab.places()[NAME]["acquired"]
            assert holder.endswith(f".{session.pid}")
            monkeypatch.setenv("QUOIN_NO_WAIT", "1")
            with pytest.raises(HardwareError, match=rf"found: {NAME} has {holder}; next: wait for it"):
                places.HeldPlace(NAME, lab.address, print, print)
            monkeypatch.delenv("QUOIN_NO_WAIT")
            handle = os.pidfd_open(client)
            if both:
                os.kill(client, signal.SIGKILL)
            session.kill()
            assert select.select([handle], [], [], WAIT_S)[0]
            os.close(handle)
        if not both:
            assert lab.places()[NAME]["acquired"] is None
    # Nobody was left to give it back: the doctor does, and who comes next.
    said: list[str] = []
    assert lab.places()[NAME]["acquired"] == holder
    places.HeldPlace(NAME, lab.address, said.append, said.append).close()
    assert said == [f"{NAME} was held by {holder}, which is gone: taken from it"]
    assert lab.places()[NAME]["acquired"] is None


def test_boards_of_the_bench_are_leased_while_they_are_exported_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "lab"
    monkeypatch.setenv(places.FOLDER, str(folder))
    monkeypatch.delenv(places.COORDINATOR, raising=False)
    lab = RemoteLab(folder, "")
    # In a session of its own, whose leader lives as long as its input.
    script = f"{sys.executable} -m harness.cli lab up {BOARD} && read line"
    with subprocess.Popen(
        ["sh", "-c", script], cwd=TOP, start_new_session=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as terminal:
        assert terminal.stdout is not None
        terminal.stdout.readline()
        assert terminal.stdout.readline().decode() == f"place:{BOARD}  arch=riscv64 board={BOARD}  free\n"
        state = json.loads((folder / places.STATE).read_text())
        assert "a lab is up here" in lab.quoin("lab", "up", BOARD, status=1)
        holder = holder_of(BOARD)
        assert holder is not None
        assert holder.pid == state["pid"]
        ours = processes("labgrid.remote.", state["coordinator"])
        assert any(str(folder / "exporter.yaml") in line for line in ours)
        handle = os.pidfd_open(state["pid"])
        # Its session ends, and the lab with it.
        assert terminal.stdin is not None
        terminal.stdin.close()
        try:
            assert select.select([handle], [], [], ENDS_S)[0]
        finally:
            os.close(handle)
            lab.quoin("lab", "down")
    assert not folder.exists()
    assert not processes("labgrid.remote.", state["coordinator"])
    now = holder_of(BOARD)
    assert now is None or now.pid != state["pid"]
    assert "no lab is up here" in lab.quoin("lab", "down")


def test_a_folder_that_has_other_things_in_it_is_not_taken_for_a_labs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    for name in ("thesis", "exporter.yaml", "state.json"):
        (mine / name).touch()
    monkeypatch.setenv(places.FOLDER, str(mine))
    said = RemoteLab(mine, "").quoin("lab", "up", BOARD, status=1)
    assert f"{mine} has other things in it" in said
    assert len(list(mine.iterdir())) == 3
    monkeypatch.setenv(places.FOLDER, str(mine / "thesis"))
    said = RemoteLab(mine, "").quoin("lab", "up", BOARD, status=1)
    assert f"error: the lab is not up: wanted {mine / 'thesis'} as a folder of the lab; found: File exists" in said


def test_boards_beside_a_configuration_are_refused(exporter: Path) -> None:
    for words in ([BOARD, "--file", str(exporter)], ["--file", str(exporter), BOARD]):
        said = RemoteLab(exporter, "").quoin("lab", "up", *words, status=1)
        assert f"error: wanted boards or --file; found both: {exporter} names its places itself" in said
        assert f"; next: leave out {BOARD}, or --file" in said
    said = RemoteLab(exporter, "").quoin("lab", "up", "--fil", str(exporter), "--board", status=1)
    assert "error: wanted boards, or --file EXPORTER.yaml; found --board; next: `quoin lab --help`" in said


@pytest.mark.requirement("ERR-01")
@pytest.mark.parametrize(
    "text",
    [
        f"{BOARD}: {{TinCanAndString: {{}}, location: here}}",
        f"{BOARD}: {{console: {{cls: TinCanAndString}}}}",
    ],
)
def test_a_class_of_resources_that_labgrid_has_not_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv(places.FOLDER, str(tmp_path / "lab"))
    config = tmp_path / "exporter.yaml"
    config.write_text(text)
    said = RemoteLab(tmp_path / "lab", "").quoin("lab", "up", "--file", str(config), status=1)
    wanted = (
        f"wanted a class of resources that labgrid knows in the group {BOARD} of {config}; found: 'TinCanAndString'"
    )
    assert re.search(
        f"error: the lab is not up: {wanted}; next: take one of .*NetworkSerialPort, .*USBSerialPort", said
    )
    assert not (tmp_path / "lab").exists()


def test_a_lab_that_waits_for_a_board_is_one_and_goes_with_its_asker_or_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a lab"
    monkeypatch.setenv(places.FOLDER, str(folder))
    monkeypatch.setenv("QUOIN_LEASES", str(tmp_path / "leases"))
    lab = RemoteLab(folder, "")
    lease = Lease(BOARD)
    lease.take()
    try:
        for ends_by in ("Ctrl-C", "SIGKILL", "down"):
            command = [sys.executable, "-m", "harness.cli", "lab", "up", BOARD]
            with subprocess.Popen(command, cwd=TOP, stderr=subprocess.PIPE, text=True) as waits:
                assert waits.stderr is not None
                said = waits.stderr.readline()
                handle = os.pidfd_open(json.loads((folder / places.STATE).read_text())["pid"])
                try:
                    assert f"quoin: waiting for {BOARD}: leased by " in said
                    assert "a lab is up here" in lab.quoin("lab", "up", BOARD, status=1)
                    # One that came at the same moment has not seen the first one's state.
                    assert f"another lab comes up, or goes down, in {folder}" in lab.quoin("lab", "hold", status=1)
                    if ends_by == "down":
                        assert "the lab is down" in lab.quoin("lab", "down")
                    else:
                        waits.send_signal(signal.SIGINT if ends_by == "Ctrl-C" else signal.SIGKILL)
                    assert waits.wait(ENDS_S) == {"down": 1, "Ctrl-C": 130, "SIGKILL": -9}[ends_by]
                    # Whoever asked has ended, and nothing waits on; nobody saw to it that a killed one's is gone first.
                    assert select.select([handle], [], [], ENDS_S if ends_by == "SIGKILL" else 0)[0]
                finally:
                    waits.kill()
                    with contextlib.suppress(ProcessLookupError):
                        signal.pidfd_send_signal(handle, signal.SIGTERM)
                    os.close(handle)
            assert not folder.exists()
    finally:
        lease.release()


def test_a_coordinator_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(places.COORDINATOR, "127.0.0.1:1")
    with pytest.raises(HardwareError, match=r"wanted labgrid's coordinator at 127.0.0.1:1; found: nobody .*; next: "):
        board_of("place:any")
    (found,) = examine_board(Place(TOP), "place:any")
    assert found.wanted == "labgrid's coordinator at 127.0.0.1:1"
    assert found.next_step.startswith("`quoin lab up` starts one here")


def test_a_file_may_name_a_place_itself(tmp_path: Path) -> None:
    text = re.sub(
        r"    resources:\n.*?    drivers:\n",
        "    resources:\n      RemotePlace: {name: rack-7}\n    drivers:\n",
        (TOP / "boards" / f"{BOARD}.yaml").read_text(),
        flags=re.DOTALL,
    )
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace("options:\n", "options:\n  coordinator_address: lab.example:20408\n"))
    board = places.boards(["mine"], tmp_path)[0]
    assert board.wires is not None
    assert (board.wires.place, board.wires.coordinator) == ("rack-7", "lab.example:20408")
