"""What a failed test leaves: a folder that is worth reading, and a machine that can be reopened.

The folder has a README with everything in order (verdict, registers and
backtrace of each CPU, last lines of the console), the files that ran, and the
machine itself, as QEMU's migration stream through gzip: pages of zeros take no
room in it, and no other program is needed to read it again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import shutil
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.board import Board, LabError
from harness.console import ConsoleError, Session
from harness.machine import BootFiles, GdbStub, MachineError, QemuDied, QemuMachine
from harness.verdict.symbols import CORRUPT, Symbols, slide_of
from harness.verdict.verdict import Finding, Verdict

FOLDER = Path("build") / "postmortem"
BUDGET_BYTES = 2 << 30
PER_CAUSE = 2
LINES = 200
_DEEPEST = 32
_CODE_BYTES = 32
_MIGRATE_S = 60.0
_LOOK_S = 0.02
_WRITTEN_S = 10.0
# What has no facts for so long is not being written: its session was killed.
_ABANDONED_S = 3600.0
_PINNED = "pinned"
_STATE = "state.gz"
LOG_RING = "log-ring.txt"
_FACTS = "machine.json"

# Program counter, frame pointer, and where a frame keeps the frame before and the return address: the psABI of each.
_UNWIND = {
    "x86_64": ("rip", "rbp", 0, 8),
    "aarch64": ("pc", "x29", 0, 8),
    "riscv64": ("pc", "fp", -16, -8),
}


@dataclass(frozen=True, slots=True)
class Images:
    """What explains addresses: the kernel's ELF and those of user programs, where they are known."""

    kernel: Path | None
    programs: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Kept:
    """A postmortem on disk."""

    path: Path
    test: str
    verdict: str
    cause: str
    pinned: bool

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def size(self) -> int:
        """Bytes on disk."""
        total = 0
        # Another session may remove it meanwhile.
        with contextlib.suppress(FileNotFoundError):
            for file in self.path.iterdir():
                total += file.stat().st_size
        return total

    @property
    def reopens(self) -> bool:
        return reopens(self.path)


def write(
    root: Path,
    session: Session,
    finding: Finding,
    images: Images,
    *,
    test: str,
    text: str,
    place: str,
    keep_running: bool = False,
) -> Path:
    """Write the postmortem of a session, and forget old ones. The machine is stopped afterwards.

    `place` is where the test failed: after an assertion of the host's the CPUs stand anywhere, so it is the cause.
    With `keep_running` the machine is not saved, and goes on. Raises OSError where the disk does not take it.
    """
    folder = _new(root, f"{time.strftime('%Y%m%d-%H%M%S')}-{session.board.id}")
    try:
        _fill(folder, session, finding, images, test=test, text=text, place=place, keep_running=keep_running)
    except BaseException:
        # Without its facts it would never be found, nor pruned.
        shutil.rmtree(folder, ignore_errors=True)
        raise
    prune(root)
    return folder


def _fill(
    folder: Path,
    session: Session,
    finding: Finding,
    images: Images,
    *,
    test: str,
    text: str,
    place: str,
    keep_running: bool,
) -> None:
    board = session.board
    cpus, top, fault = _look_inside(session, images)
    saved = "not saved: the debugger has it" if keep_running else _save(session, folder)
    seen = [place] if finding.verdict is Verdict.FAILED else top or [finding.cause]
    cause = hashlib.sha256("\n".join([finding.verdict.value, *seen]).encode()).hexdigest()[:16]
    files = session.machine.files
    # An ELF that does not explain what ran would mislead gdb as well.
    elf = None if fault else images.kernel
    for name, source in (("image", files.kernel), ("initrd", files.initrd), ("kernel.elf", elf)):
        if source is not None and source.is_file():
            shutil.copyfile(source, folder / name)
    with session.broker.changed:
        lines = [f"{line.direction.value} {line.shown}" for line in session.broker.recent][-LINES:]
    found = slide_of(session.first_lines)
    facts = {
        "test": test,
        "verdict": finding.verdict.value,
        "cause": cause,
        "board": _plain(board),
        "cmdline": files.cmdline,
        "arguments": _without_plugins(session.machine.extra_args),
        "slide": found[0] if found else 0,
    }
    (folder / _FACTS).write_text(json.dumps(facts, indent=1), encoding="utf-8")
    build_id = found[1] if found else "not told"
    ring = "" if keep_running else _log_ring(session, folder)
    parts = [
        f"{test}\n{board.id}, {time.strftime('%Y-%m-%d %H:%M:%S')}",
        text,
        f"Reopen it: ./quoin replay {folder.name}" if saved == "" else f"The machine cannot be reopened: {saved}",
        f"QEMU: {_version(session)}\nTree: {_revision(folder.parent)}\nKernel: build id {build_id}",
        *([f"Not looked into: {fault}"] if fault else []),
        *([ring] if ring else []),
        *cpus,
        f"Last {len(lines)} lines of the console\n\n" + "\n".join(lines),
        f"Started by: {session.machine.shell_command()}",
    ]
    (folder / "README").write_text(("\n\n" + "-" * 72 + "\n\n").join(parts) + "\n", encoding="utf-8")


def _log_ring(session: Session, folder: Path) -> str:
    """Leave what a physical board's kernel had last written; the line that tells of it."""
    if session.physical is None or not session.physical.wires.log_ring or session.closed:
        return ""
    try:
        (folder / LOG_RING).write_text(session.log_ring(), encoding="utf-8")
    except (LabError, ConsoleError) as error:
        return f"No {LOG_RING}: {error}"
    return f"What the kernel had last written, console or not, read from memory after a reset: {LOG_RING}"


def reopens(folder: Path) -> bool:
    """Whether a postmortem has its machine."""
    return (folder / _STATE).is_file()


def kept(root: Path) -> list[Kept]:
    """All postmortems, the oldest first."""
    found = []
    for path in sorted(path for path in root.glob("*") if path.is_dir()):
        try:
            facts = json.loads((path / _FACTS).read_text(encoding="utf-8"))
            test, verdict, cause = (str(facts[key]) for key in ("test", "verdict", "cause"))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # being written, or broken: nothing is known of it
        found.append(Kept(path, test, verdict, cause, (path / _PINNED).exists()))
    return found


def prune(root: Path, budget: int = BUDGET_BYTES) -> None:
    """Keep two for a cause, and all within the budget; the oldest go first, pinned ones never."""
    for path in root.glob("*"):
        with contextlib.suppress(OSError):
            abandoned = path.is_dir() and not (path / _FACTS).exists() and not (path / _PINNED).exists()
            if abandoned and time.time() - path.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(path, ignore_errors=True)
    left = kept(root)
    for one in list(left):
        same = [other for other in left if other.cause == one.cause and not other.pinned]
        if not one.pinned and len(same) > PER_CAUSE:
            shutil.rmtree(one.path, ignore_errors=True)
            left.remove(one)
    total = sum(one.size for one in left)
    for one in left[:-1]:  # the newest is what was just asked for
        if total > budget and not one.pinned:
            total -= one.size
            shutil.rmtree(one.path, ignore_errors=True)


def find(root: Path, name: str) -> Kept:
    """The postmortem of that id, or of a part of it that only one has. Raises LabError."""
    all_of_them = kept(root)
    matches = [one for one in all_of_them if one.id == name] or [one for one in all_of_them if name in one.id]
    if len(matches) != 1:
        known = ", ".join(one.id for one in all_of_them[-5:]) or "none"
        raise LabError(f"{len(matches)} postmortems match {name!r} in {root}; the newest are: {known}")
    return matches[0]


def pin(one: Kept, on: bool) -> None:
    """Keep it for ever, or no longer."""
    if on:
        (one.path / _PINNED).touch()
    else:
        (one.path / _PINNED).unlink(missing_ok=True)


def reopen(one: Kept) -> QemuMachine:
    """The machine as it was, on and stopped; the caller switches it off. Raises LabError."""
    if not one.reopens:
        raise LabError(f"{one.path} has no saved machine; its README says why")
    try:
        facts = json.loads((one.path / _FACTS).read_text(encoding="utf-8"))
        board, cmdline, arguments = _board(facts["board"]), str(facts["cmdline"]), list(facts["arguments"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LabError(
            f"{one.path / _FACTS} does not tell which machine it was ({error!r}): corrupt, or another version's; "
            f"read {one.path / 'README'}"
        ) from error
    initrd, image = one.path / "initrd", one.path / "image"
    kernel = image if board.firmware is None or image.exists() else None
    if kernel is not None and not kernel.is_file():
        raise LabError(
            f"{image}, the kernel that ran, is missing: this postmortem cannot be reopened, and no other build can "
            f"stand in; read {one.path / 'README'}, and run the test again for a new one"
        )
    files = BootFiles(kernel, initrd if initrd.exists() else None, cmdline)
    incoming = ["-incoming", f"exec:gzip -dc '{one.path / _STATE}'"]
    machine = QemuMachine(board, files, extra_args=[*arguments, *incoming], paused=True, admit="at once")
    try:
        machine.on()
        deadline = time.monotonic() + _MIGRATE_S
        while (status := machine.status()) == "inmigrate":
            if time.monotonic() > deadline:
                raise MachineError(f"{one.path / _STATE} was not loaded within {_MIGRATE_S:g} s")
            machine.wait_exit(_LOOK_S)
    except QemuDied as error:
        machine.off()
        raise LabError(
            f"{one.path / _STATE}, the saved machine, was not loaded; `gzip -t` says whether it is whole. If it is "
            f"not, this postmortem cannot be reopened: read {one.path / 'README'}, and run the test again for a new "
            f"one. {error}"
        ) from error
    except BaseException:
        machine.off()
        raise
    if status not in ("paused", "prelaunch", "shutdown", "guest-panicked", "postmigrate"):
        machine.off()
        raise MachineError(f"{one.path / _STATE} was loaded, but the machine is {status!r} and not stopped")
    return machine


def slide(one: Kept) -> int:
    """Distance of the kernel from its link address."""
    try:
        return int(json.loads((one.path / _FACTS).read_text(encoding="utf-8"))["slide"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


# Looking inside.


def _look_inside(session: Session, images: Images) -> tuple[list[str], list[str], str]:
    """A text a CPU, the names of the first frames of CPU 0 for the cause, and what could not be looked at."""
    if session.closed or not session.machine.running:
        return [], [], "QEMU has ended"
    try:
        session.qmp("stop")
        explain = _Explain(images, slide_of(session.first_lines))
        texts, top = [], []
        with session.gdb() as stub:
            for cpu in range(session.board.smp):
                frames = _backtrace(stub, cpu, explain)
                # By name where there is one: another build has the same cause at another address.
                top += [frame.partition(" ")[2].partition("+")[0].replace("?", frame) for frame in frames[:3]]
                number = session.board.monitor_cpus + cpu
                line = {"command-line": "info registers", "cpu-index": number}
                registers = session.qmp("human-monitor-command", **line)
                frames_text = "\n".join(f"  #{depth} {frame}" for depth, frame in enumerate(frames))
                texts.append(f"CPU {cpu}\n\n{frames_text}\n\n{str(registers).strip()}")
            # Detaching lets the machine run.
            stub.stay_stopped()
    except (MachineError, QemuDied, LabError, OSError) as error:
        return [], [], str(error)
    return texts, top, explain.refusal


class _Explain:
    """From addresses to names, by the ELF of the kernel that ran, or of the program whose code it is."""

    def __init__(self, images: Images, told: tuple[int, str] | None) -> None:
        self.refusal = ""
        self._slide = told[0] if told else 0
        self._kernel: Symbols | None = None
        self._programs = images.programs
        self._known: dict[Path, Symbols] = {}
        if images.kernel is None or not images.kernel.is_file():
            return
        try:
            symbols = Symbols(images.kernel)
        except LabError as error:
            # A flat image of somebody's; registers and programs are told all the same.
            self.refusal = str(error)
            return
        own = symbols.build_id()
        if told is not None and own is not None and own != told[1]:
            self.refusal = f"{images.kernel} has build id {own}, but {told[1]} ran: addresses are not explained"
        else:
            self._kernel = symbols

    def name(self, address: int, back: int, code: bytes) -> str:
        """`back` is 1 for a return address: the call lies before it. `code` are the bytes there."""
        linked = address - self._slide
        if self._kernel is not None and _code(self._kernel.path, linked, 1):
            place = self._kernel.place(linked - back)
            return "?" if place is None else str(dataclasses.replace(place, offset=place.offset + back))
        for path in self._programs if code else ():
            if _code(path, address, len(code)) == code:
                symbols = self._known.setdefault(path, Symbols(path))
                if (place := symbols.place(address - back)) is not None:
                    return f"{path.name}: {dataclasses.replace(place, offset=place.offset + back)}"
        return "?"


@functools.cache
def _segments(path: Path) -> tuple[tuple[int, bytes], ...]:
    """Link address and content of what an ELF loads."""
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        with path.open("rb") as file:
            elf: Any = ELFFile(file)
            return tuple((segment["p_vaddr"], segment.data()) for segment in elf.iter_segments("PT_LOAD"))
    except (OSError, ELFError, *CORRUPT):
        return ()  # what is cut off explains nothing


def _code(path: Path, address: int, length: int) -> bytes:
    """Bytes of an ELF at a link address; nothing where it has none."""
    for start, data in _segments(path):
        if start <= address and address + length <= start + len(data):
            return data[address - start : address - start + length]
    return b""


def _backtrace(stub: GdbStub, cpu: int, explain: _Explain) -> list[str]:
    """The frames of a CPU by its frame pointers, as `symbol+offset`, from the innermost on."""
    stub.select(cpu)
    pc_name, fp_name, previous, link = _UNWIND[stub.arch]
    pc, frame = stub.read_register(pc_name), stub.read_register(fp_name)
    result = []
    for depth in range(_DEEPEST):
        code = b""
        with contextlib.suppress(MachineError):
            code = stub.read_memory(pc, _CODE_BYTES)
        result.append(f"{pc:#018x} {explain.name(pc, min(depth, 1), code)}")
        try:
            before = int.from_bytes(stub.read_memory(frame + previous, 8), "little")
            pc = int.from_bytes(stub.read_memory(frame + link, 8), "little")
        except MachineError:
            break
        if pc == 0 or before <= frame:
            # The outermost frame of this stack; one more address may be its caller's.
            if pc and before == 0:
                result.append(f"{pc:#018x} {explain.name(pc, 1, b'')}")
            break
        frame = before
    return result


# Saving.


def _save(session: Session, folder: Path) -> str:
    """Write the stopped machine to the folder; why that failed, or nothing."""
    machine = session.machine
    if session.closed or not machine.running:
        return "QEMU has ended"
    if "'" in str(folder):
        return "the path of the folder has a quote in it"
    part = folder / f"{_STATE}.part"
    try:
        machine.qmp("stop")
        machine.leave_out_memory(False)
        machine.qmp("migrate", uri=f"exec:gzip -1 > '{part}' && mv '{part}' '{folder / _STATE}' || rm '{part}'")
        deadline = time.monotonic() + _MIGRATE_S
        while (status := machine.qmp("query-migrate").get("status")) not in ("completed", "failed"):
            if time.monotonic() > deadline:
                status = f"not done within {_MIGRATE_S:g} s"
                break
            machine.wait_exit(_LOOK_S)
    except (MachineError, QemuDied) as error:
        status = str(error)
    if status == "completed":
        # QEMU has given all to gzip, which may still write, or have failed at its last piece.
        deadline = time.monotonic() + _WRITTEN_S
        while part.exists() and time.monotonic() < deadline:
            machine.wait_exit(_LOOK_S)
        if (folder / _STATE).exists():
            return ""
        status = "gzip did not write all of it; is the disk full?"
    part.unlink(missing_ok=True)
    return f"QEMU did not save it: {status}"


def _new(root: Path, name: str) -> Path:
    for number in range(1, 1000):
        folder = root / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise LabError(f"{root} is full of folders {name}-*; remove old ones")


def _plain(board: Board) -> dict[str, Any]:
    facts = dataclasses.asdict(board)
    return {key: _json(value) for key, value in facts.items()}


def _json(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dict):
        return {key: _json(one) for key, one in value.items()}
    return sorted(value) if isinstance(value, frozenset) else value


def _board(facts: dict[str, Any]) -> Board:
    files = ("path", "kernel", "initrd", "firmware", "firmware_vars", "device_tree")
    paths = {key: Path(facts[key]) for key in files if facts[key] is not None}
    lists = {"features": frozenset(facts["features"]), "args": tuple(facts["args"])}
    lists["oldest_qemu"] = tuple(facts["oldest_qemu"])
    return Board(**{**facts, **paths, **lists, "exclusive": False})


def _without_plugins(arguments: Sequence[str]) -> list[str]:
    """Arguments without QEMU plugins, whose files go with the session."""
    words: Iterable[tuple[str, str]] = zip(["", *arguments], [*arguments, ""], strict=True)
    return [word for before, word in words if word and word != "-plugin" and before != "-plugin"]


def _version(session: Session) -> str:
    try:
        version = session.qmp("query-version")["qemu"]
    except (MachineError, QemuDied):
        return "ended"
    return ".".join(str(version[part]) for part in ("major", "minor", "micro"))


def _revision(root: Path) -> str:
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True, check=False
        )
    except OSError:
        return "unknown (no git)"
    return done.stdout.strip() or "unknown (no git repository)"
