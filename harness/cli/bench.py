"""`quoin bench`: the numbers, and their gates."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

SUMMARY = "set up, build, and measure: the tests marked `bench`"
PASSES_ON = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All arguments are pytest's."""
    parser.epilog = "Arguments go to pytest, such as --board qemu-riscv64 or -k text."


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Set up, build, and run what is marked `bench`, with what it prints shown."""
    from harness.build.artifacts import ARCHES
    from harness.cli.build import build_all
    from harness.cli.setup import ensure
    from harness.cli.suites import RESULTS, run_pytest

    ensure()
    build_all(ARCHES, debug=False)
    return run_pytest(["-m", "bench", "-s", *rest], RESULTS / "bench.xml")
