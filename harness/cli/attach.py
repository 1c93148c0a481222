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

SUMMARY = "look on, or type, at the console of a running session: a test's or another person's (leave with Ctrl-])"
PASSES_ON = False
_CTRL_C = b"\x03"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which session, and what for."""
    parser.add_argument("session", nargs="?", help="a board, or one session of it; without: list those that run")
    parser.add_argument("--type", action="store_true", help="what you type goes to the target, marked in the log")
    parser.add_argument("--hold", action="store_true", help="the session's clocks stand until you leave")


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """List sessions, or join one until Ctrl-] or its end."""
    from harness.console.attach import find, running, visit

    if args.session is None:
        for session in running():
            print(f"{session.path.stem}  {session.board}  process {session.pid}")
        return 0
    connection, about, text = visit(find(args.session), typing=args.type, hold=args.hold)
    how = f"{'typing' if args.type else 'watching'}{', its clocks stand' if args.hold else ''}"
    sys.stderr.write(f"[{about['board']}, process {about['pid']}: {how}; Ctrl-] leaves; log: {about['log']}]\r\n")
    with connection:
        left = join(connection, text, typing=args.type)
    sys.stderr.write("\n" if left else "\n[the session has ended]\n")
    return 0


def join(connection: socket.socket, text: bytes, *, typing: bool, stdin: int = 0, stdout: int = 1) -> bool:
    """Join a connection to a terminal; True when the person left, False when the session ended."""
    from harness.console.terminal import LEAVE, write_text

    saved = termios.tcgetattr(stdin) if os.isatty(stdin) else None
    sources: list[int] = [stdin, connection.fileno()]
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
                # A terminal that only looks on has no other use for Ctrl-C.
                if leave or (not typing and _CTRL_C in typed):
                    return True
                if not typed:
                    sources.remove(stdin)
    except ConnectionResetError:
        return False
    finally:
        if saved is not None:
            termios.tcsetattr(stdin, termios.TCSADRAIN, saved)
