"""`quoin attach BOARD`: a second person at a console that another process owns."""

from __future__ import annotations

import argparse
import os
import select
import socket
import sys
import termios
import tty
from collections.abc import Sequence
from pathlib import Path

SUMMARY = "look on, or type, at the console of a machine that a test or another person has on (leave with Ctrl-])"
PASSES_ON = False
_CTRL_C = b"\x03"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which machine, and what for."""
    parser.add_argument("board", nargs="?", help="a board, or a variant of it; without: list the machines that are on")
    parser.add_argument("--pid", type=int, help="the machine whose QEMU is this process")
    parser.add_argument("--type", action="store_true", help="what you type goes to the target, marked in the log")
    parser.add_argument("--hold", action="store_true", help="hang clock and deadlines stand until you leave")


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """List machines, or join one's console until Ctrl-] or its end."""
    from harness.board import LabError
    from harness.build.artifacts import TOP
    from harness.console.attach import SOCKET, visit
    from harness.machine import attach

    found = attach.running()
    listed = "\n".join(map(str, found)) or "no machine is on"
    if args.board is None and args.pid is None:
        print(listed)
        return 0
    one = attach.choose(found, args.board, (TOP, Path.cwd()), args.pid)
    if one is None:
        raise LabError(
            f"wanted a machine on {args.board} that was switched on in {TOP} or here, found none; "
            f"start one (`quoin console {args.board}`, or a test), or name one by --pid of these:\n{listed}"
        )
    connection, text = visit(one.folder / SOCKET, typing=args.type, hold=args.hold)
    how = f"{'typing' if args.type else 'watching'}{', the clocks stand' if args.hold else ''}"
    print(f"[{one.id}: {how}; Ctrl-] leaves; log: {one.log}]", file=sys.stderr)
    with connection:
        left = join(connection, text, typing=args.type)
    print("" if left else "\n[the session has ended]", file=sys.stderr)
    return 0


def join(connection: socket.socket, text: bytes, *, typing: bool, stdin: int = 0, stdout: int = 1) -> bool:
    """Join a connection to a terminal; True when the person left, False when the session ended."""
    from harness.console.terminal import LEAVE, write_text

    saved = termios.tcgetattr(stdin) if os.isatty(stdin) else None
    sources = [stdin, connection.fileno()]
    try:
        if saved is not None:
            tty.setraw(stdin)
        write_text(stdout, text)
        while True:
            ready, _, _ = select.select(sources, [], [])
            if connection.fileno() in ready:
                if not (text := connection.recv(1 << 16)):
                    return False
                write_text(stdout, text)
            if stdin in ready:
                typed = os.read(stdin, 4096)
                before, leave, _ = typed.partition(LEAVE)
                if typing and before:
                    connection.sendall(before)
                # Who only looks on has no other use for Ctrl-C.
                if leave or (not typing and _CTRL_C in typed):
                    return True
                if not typed:
                    sources.remove(stdin)
    except (ConnectionResetError, BrokenPipeError):
        return False
    finally:
        if saved is not None:
            termios.tcsetattr(stdin, termios.TCSADRAIN, saved)
