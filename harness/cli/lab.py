"""`quoin lab up|down|status`: labgrid's coordinator and exporter here, for boards that others reach as places.

`up` starts a process in the background that has them, until `down` or until the
session of its terminal ends. All it keeps lies in build/lab/.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import fcntl
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli.holder import Asker, start_holder

if TYPE_CHECKING:
    from harness.board import Board

SUMMARY = "start labgrid's coordinator and exporter here for boards (pytest --board place:NAME), end or list them"
PASSES_ON = True  # argparse finds no place for boards behind `--file F`
_STARTS_S = 60.0
_ENDS_S = 60.0
_WIRED = ["uboot-*"]
# By which `up` tells the process behind it whose session it shall not outlive.
_LEADER = "QUOIN_LAB_SESSION"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to do, and which boards to export."""
    parser.add_argument("what", choices=["up", "down", "status", "hold"], help="hold: up until this ends")
    parser.add_argument("board", nargs="*", help="boards of boards/ on wires (the bench's: uboot-*)")
    parser.add_argument(
        "--file",
        type=Path,
        metavar="EXPORTER.yaml",
        help="a configuration of labgrid's exporter instead: each group is a place, named as its board file, or NAME.x",
    )


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Do it, and say which places there are then."""
    from harness.board import BoardError

    if options := [word for word in rest if word.startswith("-")]:
        raise BoardError(f"wanted boards, or --file EXPORTER.yaml; found {options[0]}; next: `quoin lab --help`")
    args.board = [*args.board, *rest]
    if args.what in ("down", "status") and (args.board or args.file):
        raise BoardError(f"`quoin lab {args.what}` takes no boards: it is about all of them")
    if args.board and args.file:
        raise BoardError(
            f"wanted boards or --file; found both: {args.file} names its places itself; "
            f"next: leave out {' '.join(args.board)}, or --file"
        )
    if args.what == "hold":
        return _hold(args)
    if args.what == "down":
        return _down()
    if args.what == "up":
        _up()
    return _status()


def _state() -> dict[str, Any] | None:
    """What the lab that is up here says of itself."""
    from harness.hardware.places import STATE, lab_folder

    with contextlib.suppress(OSError, ValueError, KeyError):
        found: dict[str, Any] = json.loads((lab_folder() / STATE).read_text(encoding="utf-8"))
        # The number of one that was killed may be another's by now.
        if b"lab\0hold" in Path(f"/proc/{found['pid']}/cmdline").read_bytes():
            return found
    return None


def _status() -> int:
    from harness.hardware.places import ask, coordinator

    address = coordinator()
    places = ask(address, "list")
    print(f"coordinator: {address}" + ("" if _state() is None else ", up here; `quoin lab down` ends it"))
    for name, place in sorted(places.items()):
        tags = " ".join(f"{key}={value}" for key, value in sorted(place["tags"].items()))
        state = f"held by {place['acquired']}" if place["acquired"] else "free"
        if place["missing"]:
            state = f"dead: no exporter offers {place['missing']}"
        print(f"place:{name}  {tags}  {state}")
    return 0


def _up() -> None:
    """Start a process that has it up. Raises LabError with that one's words."""
    from harness.board import LabError

    if (state := _state()) is not None:
        raise LabError(
            f"a lab is up here (process {state['pid']}); `quoin lab down` ends it, `quoin lab status` shows it"
        )
    words = [*sys.argv[1:]]
    words[words.index("up")] = "hold"
    # The session of this terminal: with it the lab ends. One of our own is none to live with.
    leader = os.getsid(0)
    environment = {_LEADER: "" if leader in (0, os.getpid()) else str(leader)}
    # It waits for boards that others have, as long as people do; all else it does within a minute.
    start_holder(words, "ready", "the lab is not up", environment=environment)


def _down() -> int:
    from harness.board import LabError

    state = _state()
    if state is None:
        print("no lab is up here")
        return 0
    with contextlib.suppress(ProcessLookupError):
        handle = os.pidfd_open(state["pid"])
        try:
            os.kill(state["pid"], signal.SIGTERM)
            if not select.select([handle], [], [], _ENDS_S)[0]:
                raise LabError(f"process {state['pid']}, which has the lab up, did not end within {_ENDS_S:g} s")
        finally:
            os.close(handle)
    print("the lab is down")
    return 0


def _hold(args: argparse.Namespace) -> int:
    """Have it up until SIGTERM, or until the session that asked for it has ended."""
    from harness.hardware.places import ask, lab_folder

    asker = Asker()
    folder = lab_folder()
    config = folder / "exporter.yaml"
    with ExitStack() as stack:
        _take(stack, folder)
        groups, places = _of_file(args.file) if args.file else _of_boards(stack, args.board or _WIRED)
        # A `#` at the begin of a line would be a statement of the template that labgrid takes it for.
        config.write_text(json.dumps(groups), encoding="utf-8")
        coordinator = stack.enter_context(
            _service(folder, "coordinator", ["-l", "127.0.0.1:0"], r"listening on (\S+:\d+)")
        )
        exporter = socket.gethostname()
        words = ["-c", coordinator[1], "-n", exporter, "--hostname", "127.0.0.1", str(config)]
        served = stack.enter_context(_service(folder, "exporter", words, r"Exporter (ready)"))
        ask(
            coordinator[1],
            "make",
            json.dumps({name: {"match": f"{exporter}/{name}/*", "tags": tags} for name, tags in places.items()}),
        )
        _tell_state(folder, coordinator=coordinator[1], exporter=served[0])
        asker.tell("ready")
        leader = os.environ.get(_LEADER)
        if leader:
            with contextlib.suppress(ProcessLookupError):
                handle = os.pidfd_open(int(leader))
                stack.callback(os.close, handle)
                select.select([handle], [], [])
        else:
            signal.pause()
    return 0


def _take(stack: ExitStack, folder: Path) -> None:
    """Have the lab's folder, empty, until the stack unwinds. Raises LabError where it is another's."""
    from harness.board import LabError
    from harness.hardware.places import FOLDER, STATE

    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise LabError(
            f"wanted {folder} as a folder of the lab; found: {error.strerror}; next: name another in {FOLDER}"
        ) from error
    stack.callback(os.close, handle)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Who had it may have removed it since it was opened.
        ours = os.path.samestat(os.fstat(handle), folder.stat())
    except OSError:
        ours = False
    if not ours:
        raise LabError(f"another lab comes up, or goes down, in {folder}; next: `quoin lab status`, or try again")
    if any(folder.iterdir()) and not (folder / STATE).is_file():
        raise LabError(
            f"{folder} has other things in it, and would be emptied; next: name a folder of its own in {FOLDER}"
        )
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    _tell_state(folder)
    # What one that was killed has left.
    for left in folder.iterdir():
        if left.is_dir():
            shutil.rmtree(left)
        elif left.name != STATE:
            left.unlink()


def _tell_state(folder: Path, **more: object) -> None:
    """Tell in the folder whose it is, for `down`, and where its coordinator is."""
    from harness.hardware.places import STATE

    new = folder / f"{STATE}.new"
    new.write_text(json.dumps({"pid": os.getpid(), **more}), encoding="utf-8")
    new.replace(folder / STATE)


def _of_boards(stack: ExitStack, names: Sequence[str]) -> tuple[dict[str, Any], dict[str, dict[str, str]]]:
    """What to export of boards that stand here, whose wires are made and whose leases are held meanwhile."""
    import yaml

    from harness.board import BoardError, Lease, find_boards
    from harness.build.artifacts import TOP
    from harness.hardware.physical import end_wires, start_wires

    groups: dict[str, Any] = {}
    places: dict[str, dict[str, str]] = {}
    for board in find_boards(names, TOP / "boards"):
        if board.wires is None or board.wires.place:
            raise BoardError(f"{board.path} names no wires of this host that could be exported")
        lease = Lease(board.name)
        lease.take(tell=lambda text: print(f"quoin: {text}", file=sys.stderr, flush=True))
        lease.doing = "quoin lab"
        stack.callback(lease.release)
        if board.wires.command:
            process, _ = start_wires(board)
            stack.callback(end_wires, process)
        (target,) = yaml.safe_load(board.path.read_text(encoding="utf-8"))["targets"].values()
        groups[board.name] = {cls: _absolute(board, cls, values) for cls, values in target["resources"].items()}
        places[board.name] = _tags(board)
    return groups, places


def _absolute(board: Board, cls: str, values: dict[str, Any]) -> dict[str, Any]:
    """A resource as an exporter elsewhere in the file system finds it."""
    if cls == "TFTPProvider":
        return {**values, "internal": str((board.path.parent / values["internal"]).resolve()) + "/"}
    if cls == "RawSerialPort" and not str(values["port"]).startswith("/dev/"):
        # labgrid's exporter serves devices alone, and a bench's link leads to one.
        return {**values, "port": str((board.path.parent / values["port"]).resolve())}
    return values


def _of_file(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, str]]]:
    """What labgrid's own configuration of an exporter names."""
    from harness.board import BoardError, LabError, find_boards, read_yaml
    from harness.build.artifacts import TOP

    try:
        groups = read_yaml(path)
    except (OSError, LabError) as error:
        raise BoardError(f"wanted {path}, a configuration of labgrid's exporter; found: {error}") from error
    if not isinstance(groups, dict) or not all(isinstance(group, dict) for group in groups.values()):
        raise BoardError(f"wanted groups of resources in {path}, as labgrid's exporter has them; found: {groups!r}")
    _check_classes(path, groups)
    boards = {name: find_boards([re.sub(r"\..*", "", str(name))], TOP / "boards")[0] for name in groups}
    return groups, {name: _tags(board) for name, board in boards.items()}


def _check_classes(path: Path, groups: dict[str, dict[str, Any]]) -> None:
    """Raise BoardError for a class that labgrid has not: its exporter would offer it, and nobody could take it."""
    from labgrid import resource, target_factory

    from harness.board import BoardError

    del resource  # imported for what it registers
    known = sorted(target_factory.resources)
    for group, resources in groups.items():
        for name, values in resources.items():
            cls = values.get("cls", name) if isinstance(values, dict) else name
            if cls not in (*known, "location"):
                near = difflib.get_close_matches(str(cls), known, n=1)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                raise BoardError(
                    f"wanted a class of resources that labgrid knows in the group {group} of {path}; "
                    f"found: {cls!r}{hint}; next: take one of {', '.join(known)}"
                )


def _tags(board: Board) -> dict[str, str]:
    return {"board": board.path.stem, "arch": board.arch}


@contextlib.contextmanager
def _service(folder: Path, name: str, words: list[str], pattern: str) -> Iterator[tuple[int, str]]:
    """One of labgrid's, until the block is left: its process, and what the pattern finds in what it says at first."""
    from harness.board import LabError

    log = folder / f"{name}.log"
    home = folder / name
    home.mkdir()
    # Python tells of itself at once only unbuffered. It ends with us, and what it starts is of its process group.
    command = ["setpriv", "--pdeathsig", "TERM", "--", sys.executable, "-u", "-m", f"labgrid.remote.{name}", *words]
    with log.open("wb") as said:
        process = subprocess.Popen(
            command, cwd=home, stdin=subprocess.DEVNULL, stdout=said, stderr=said, process_group=0
        )
    try:
        deadline = time.monotonic() + _STARTS_S
        handle = os.pidfd_open(process.pid)
        try:
            while (match := re.search(pattern, log.read_text(errors="replace"))) is None:
                ended = select.select([handle], [], [], 0.05)[0]
                if ended or time.monotonic() > deadline:
                    text = "\n".join(log.read_text(errors="replace").splitlines()[-10:])
                    raise LabError(f"wanted labgrid's {name}; it is not up, and says:\n{text}\nlog: {log}")
        finally:
            os.close(handle)
        yield process.pid, match[1]
    finally:
        process.terminate()
        try:
            process.wait(_ENDS_S / 2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        # A serial server of an exporter that was killed is still there.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
