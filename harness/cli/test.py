"""`quoin test`: everything that proves Quoin, in one report.

Linters, types, the kernel's host-side tests and the line count are pytest items too
(testsuites/harness), so pytest's closing line is the whole truth and comes last.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

SUMMARY = "set up, then pass all tests: harness, kernel on the host, every suite on the boards with both builds"
PASSES_ON = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All arguments are pytest's."""
    parser.epilog = "Arguments go to pytest, such as --board qemu-riscv64, -k text or a folder of testsuites."


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Set up, build, and hand over to pytest."""
    from harness.build.artifacts import ARCHES
    from harness.cli.build import build_all
    from harness.cli.setup import ensure
    from harness.cli.suites import RESULTS, run_pytest

    ensure()
    both = [] if "--debug-kernel" in rest else ["--both-kernels"]
    for debug in (False, True) if both else (True,):
        build_all(ARCHES, debug=debug)
    return run_pytest([*both, *rest], RESULTS / "test.xml")
