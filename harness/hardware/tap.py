"""TFTP through a tap: a network of its own that holds a fake board and a server, and nothing else.

The network namespace needs root, or a user namespace where users may have them. It
has no name and is no file: it is gone when the server and the QEMU in it are, which
the kernel kills with the bench.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from harness.build.process import bound
from harness.hardware.errors import HardwareError

INTERFACE = "lan"
"""The tap's name, for QEMU's `-netdev tap,ifname=`."""
_STARTS_S = 30.0
_LOOK_S = 0.02
# The addresses are slirp's, so that a board file does for both. By --no-daemon dnsmasq stays who it is: a change of
# user would undo setpriv's word, and in a user namespace there is no other user.
_SERVER = f"""
set -e
PATH="$PATH:/usr/sbin:/sbin"
ip tuntap add dev {INTERFACE} mode tap
ip address add 10.0.2.2/24 dev {INTERFACE}
ip link set {INTERFACE} up
exec dnsmasq --no-daemon --conf-file=/dev/null --log-facility=- --port=0 \\
    --interface={INTERFACE} --bind-interfaces --enable-tftp --tftp-root="$1"
"""


@contextlib.contextmanager
def tftp(folder: Path) -> Iterator[list[str]]:
    """Serve a folder; what is to stand before a command for it to run in that network.

    Its servers end with the thread that called. Raises HardwareError, with the reason in one line, where it cannot be.
    """
    mine = os.geteuid() == 0
    enter = ["unshare", "--net", *([] if mine else ["--map-root-user"]), "--"]
    # A change of user namespace would undo setpriv's word too: that comes after it, here as in `inside`.
    server = bound(["sh", "-c", _SERVER, "sh", str(folder)])
    with tempfile.TemporaryFile() as said:
        try:
            process = subprocess.Popen([*enter, *server], stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        except OSError as error:
            raise HardwareError(f"no network namespace: {error}") from error
        try:
            if not _serves(process):
                said.seek(0)
                words = "; ".join(said.read().decode(errors="replace").split("\n")).strip("; ")
                raise HardwareError(words or f"no server within {_STARTS_S:g} s (exit status {process.poll()})")
            spaces = f"/proc/{process.pid}/ns"
            inside = ["nsenter", f"--net={spaces}/net"]
            yield [*inside, *([] if mine else [f"--user={spaces}/user", "--preserve-credentials"]), "--"]
        finally:
            process.kill()
            process.wait()


def _serves(process: subprocess.Popen[bytes]) -> bool:
    """Wait until there is a socket at TFTP's port in that network (proc(5): the second word is the local address)."""
    sockets = Path(f"/proc/{process.pid}/net/udp")
    deadline = time.monotonic() + _STARTS_S
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError):  # it ended just now
            if any(line.split()[1].endswith("0202000A:0045") for line in sockets.read_text().splitlines()):
                return True
        threading.Event().wait(_LOOK_S)
    return False
