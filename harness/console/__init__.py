"""Consoles: one reader, lines, frames, panics, and the face that suites see."""

from harness.console.broker import Broker
from harness.console.channel import Channel
from harness.console.console import Console
from harness.console.errors import (
    ConsoleClosed,
    ConsoleError,
    ConsoleFault,
    ExpectTimeout,
    TargetPanicked,
)
from harness.console.lines import Direction, Line, LineCutter, Lines
from harness.console.log import LogFile, Sink
from harness.console.panic import PanicReport, PanicWatcher
from harness.console.session import Session

__all__ = [
    "Broker",
    "Channel",
    "Console",
    "ConsoleClosed",
    "ConsoleError",
    "ConsoleFault",
    "Direction",
    "ExpectTimeout",
    "Line",
    "LineCutter",
    "Lines",
    "LogFile",
    "PanicReport",
    "PanicWatcher",
    "Session",
    "Sink",
    "TargetPanicked",
]
