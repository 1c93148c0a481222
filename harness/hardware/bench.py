"""A bench of fakes: what stands at the other end of a board's wires where there is no board.

    python -m harness.hardware.bench boards/uboot-riscv64.yaml

A process of its own, of which the lab sees wires alone: a tty or a ser2net that
serves it, a power switch that answers HTTP (labgrid's models `rest` and
`simplerest`), a reset line, a folder that TFTP serves, a file that is the SD card.
The tty is a pty that the bench keeps; QEMU, which is the board, joins it when the
power is switched on and leaves it when it is cut. TFTP comes from a server of a
network of their own (harness.hardware.tap) where that can be had, else it is QEMU's
own (slirp); the bench says which, and why not the other.

Which wires there are stands in the board file, under `resources:`; what the board
is made of under `options: bench:`, which the lab does not read:

    qemu     the command line of the board, without console and network
    device   its network device, such as virtio-net-device
    card     the device that the card of `QuoinStrategy` is put into
    tftp     `slirp`, where it is not to be looked for another

It says `ready` when all wires are there, and takes them away when its input ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import tty
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from harness.board import AdmissionError, Place, admission
from harness.build.process import bound
from harness.hardware import tap
from harness.hardware.errors import HardwareError

_STARTS_S = 30.0
_LOOK_S = 0.02
_SER2NET = "/usr/sbin/ser2net"  # not in everybody's PATH


class FakeBoard:
    """A QEMU that is on or off, with its console on a pty that stays."""

    def __init__(self, command: list[str], cpus: int, console: int, inside: list[str]) -> None:
        """`inside` stands before what is to run in the board's network."""
        self._command = command
        self._inside = inside
        self._cpus = cpus
        self._console = console
        self._process: subprocess.Popen[bytes] | None = None
        self._place: Place | None = None
        self._monitor: socket.socket | None = None

    @property
    def is_on(self) -> bool:
        return self._process is not None

    def on(self) -> None:
        """Switch it on, as soon as the host has room for its CPUs. Raises HardwareError or AdmissionError."""
        if self._process is not None:
            return
        self._place = admission().take(self._cpus)
        self._monitor, theirs = socket.socketpair()
        with contextlib.suppress(BlockingIOError):
            while os.read(self._console, 65536):  # a board that is off has heard nothing
                pass
        wires = ["-add-fd", f"fd={self._console},set=1", "-chardev", "serial,id=console,path=/dev/fdset/1"]
        wires += ["-serial", "chardev:console", "-chardev", f"socket,id=monitor,fd={theirs.fileno()}"]
        wires += ["-mon", "chardev=monitor,mode=readline"]
        try:
            self._process = subprocess.Popen(
                [*self._inside, *bound([*self._command, *wires])],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[self._console, theirs.fileno()],
            )
        except OSError as error:
            self.off()
            raise HardwareError(f"the bench cannot start {self._command[0]}: {error}") from error
        finally:
            theirs.close()

    def off(self) -> None:
        """Cut the power."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
        if self._monitor is not None:
            self._monitor.close()
            self._monitor = None
        if self._place is not None:
            admission().give_back(self._place)
            self._place = None

    def reset(self) -> None:
        """Pull the reset line."""
        if self._monitor is not None:
            self._monitor.sendall(b"system_reset\n")


def switch(port: int, board: FakeBoard) -> HTTPServer:
    """A power switch: relay 0 is the power, relay 1 the reset button; `/relay/N` by PUT, `/relay/N/0|1` by GET."""

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self._set(self.path, self.rfile.read(int(self.headers.get("Content-Length", 0))).decode())

        def do_GET(self) -> None:
            parts = self.path.strip("/").split("/")
            if len(parts) == 3:
                self._set("/".join(parts[:2]), parts[2])
            else:
                self._answer(200, str(int(board.is_on)))

        def _set(self, path: str, value: str) -> None:
            try:
                match path.strip("/").removeprefix("relay/"), value:
                    case "0", "1":
                        board.on()
                    case "0", "0":
                        board.off()
                    case "1", "1":
                        board.reset()
                    case "1", "0":
                        pass
                    case _:
                        return self._answer(404, f"no relay {path}, or no value {value!r}")
            except (HardwareError, AdmissionError) as error:
                return self._answer(500, str(error))
            return self._answer(200, value)

        def _answer(self, status: int, text: str) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    try:
        return HTTPServer(("127.0.0.1", port), Handler)
    except OSError as error:
        raise HardwareError(f"the bench's power switch wants port {port}; found: {error.strerror}") from error


@contextlib.contextmanager
def ser2net(device: str, port: int, protocol: str, baud: int) -> Iterator[None]:
    """Serve a tty on a TCP port, as `raw` or `rfc2217`."""
    binary = shutil.which("ser2net") or (_SER2NET if Path(_SER2NET).exists() else None)
    if binary is None:
        raise HardwareError("the bench wants ser2net; found: not installed; next: apt-get install ser2net")
    # Without `local` it waits for the carrier of a modem; what locks /dev/pts by name locks it for everybody.
    connection = {
        "accepter": f"{'telnet(rfc2217),' if protocol == 'rfc2217' else ''}tcp,127.0.0.1,{port}",
        "connector": f"serialdev(nouucplock=true),{device},{baud}n81,local",
        "options": {"chardelay": False, "kickolduser": True},
    }
    with tempfile.TemporaryDirectory(prefix="quoin-bench-") as folder:
        config = Path(folder) / "ser2net.yaml"
        # ser2net wants an anchor at each connection, as its name.
        config.write_text(f"connection: &board {json.dumps(connection)}\n", encoding="utf-8")
        process = subprocess.Popen(
            bound([binary, "-n", "-d", "-c", str(config)]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait_for(port, process)
            yield
        finally:
            process.kill()
            process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until somebody listens; a connection to see that would take the place of the lab's."""
    deadline = time.monotonic() + _STARTS_S
    while process.poll() is None and time.monotonic() < deadline:
        if _listened(port):
            return
        threading.Event().wait(_LOOK_S)
    raise HardwareError(f"ser2net does not serve port {port}: is that another's? (exit status {process.poll()})")


def _listened(port: int) -> bool:
    """Whether a TCP port is listened on (proc(5): of each socket the local address and the state, 0A for that)."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(line[1].endswith(f":{port:04X}") and line[3] == "0A" for line in lines)


def lan(stack: ExitStack, folder: Path, wanted: str | None) -> tuple[str, list[str]]:
    """The board's network, with TFTP on a folder: QEMU's netdev, and what stands before QEMU's command."""
    why = f"the board file wants {wanted}"
    if wanted is None:
        try:
            inside = stack.enter_context(tap.tftp(folder))
        except HardwareError as error:
            why = str(error)
        else:
            print(f"bench: TFTP is dnsmasq on {folder}, through a tap in a network namespace")
            return f"tap,ifname={tap.INTERFACE},script=no,downscript=no", inside
    elif wanted != "slirp":
        raise HardwareError(f"options: bench: tftp: is slirp or left out, not {wanted!r}")
    print(f"bench: TFTP is QEMU's own (slirp) on {folder}; no tap in a network namespace: {why}")
    return f"user,restrict=on,tftp={folder}", []


def serve(path: Path) -> None:
    """Be the bench of one board file until standard input ends."""
    file = yaml.safe_load(path.read_text(encoding="utf-8"))
    (target,) = file["targets"].values()
    resources, made_of = target["resources"], file["options"]["bench"]
    strategy = target["drivers"]["QuoinStrategy"]
    command = [str(word) for word in made_of["qemu"].split()]
    if card := strategy.get("card"):
        image = (path.parent / card).resolve()
        command += ["-drive", f"if=none,id=card,format=raw,file={image}", "-device", f"{made_of['card']},drive=card"]
    with ExitStack() as stack:
        inside: list[str] = []
        if provider := resources.get("TFTPProvider"):
            folder = (path.parent / provider["internal"]).resolve()
            folder.mkdir(parents=True, exist_ok=True)
            netdev, inside = lan(stack, folder, made_of.get("tftp"))
            command += ["-netdev", f"{netdev},id=lan", "-device", f"{made_of['device']},netdev=lan"]
        console, device = pty.openpty()
        tty.setraw(device)
        os.set_blocking(console, False)
        board = FakeBoard(command, int(strategy["smp"]), console, inside)
        stack.callback(board.off)
        if network := resources.get("NetworkSerialPort"):
            served = ser2net(os.ttyname(device), network["port"], network["protocol"], network["speed"])
            stack.enter_context(served)
        else:
            link = Path(resources["RawSerialPort"]["port"])
            link.unlink(missing_ok=True)
            link.symlink_to(os.ttyname(device))
            stack.callback(link.unlink)
        port = urlsplit(resources["NetworkPowerPort"]["host"].replace("{index}", "0").replace("{value}", "0")).port
        server = stack.enter_context(switch(int(port or 80), board))

        def end() -> None:
            sys.stdin.buffer.read()
            os.kill(os.getpid(), signal.SIGTERM)  # it may wait for room on the host just now

        threading.Thread(target=end, daemon=True).start()
        print("ready", flush=True)
        # On this thread: QEMU ends with the thread that started it.
        server.serve_forever()


def main() -> int:
    """The command line: one board file."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is the lab's, which then ends the input
    try:
        serve(Path(sys.argv[1]).absolute())
    except (HardwareError, OSError, KeyError) as error:
        print(f"bench: {error if not isinstance(error, KeyError) else f'the board file lacks {error}'}", flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
