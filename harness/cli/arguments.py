"""Numbers on the command line, refused before anything begins."""

from __future__ import annotations

import argparse

_LAST_PORT = 65535


def positive(text: str) -> int:
    """A number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"wants a number from 1 on, not {text!r}")
    return int(text)


def port(text: str) -> int:
    """A port of this machine; 0 is any that is free."""
    if not text.isdecimal() or len(text) > len(str(_LAST_PORT)) or int(text) > _LAST_PORT:
        raise argparse.ArgumentTypeError(f"wants a port from 0 to {_LAST_PORT}, not {text!r}")
    return int(text)
