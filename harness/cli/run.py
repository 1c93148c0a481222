"""`quoin run`: from a clean machine to three boards in user mode, proved."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

SUMMARY = "set up, build, boot the boards, run their boot and SMP suites, and print a table of verdicts"
PASSES_ON = True
SUITES = ("testsuites/boot", "testsuites/smp")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What pytest does not know of."""
    parser.add_argument("--debug-kernel", action="store_true", help="boot the debug build")
    parser.epilog = "Other arguments go to pytest, such as --board 'qemu-a*', --smp 1,4 or -k text."


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Set up, build everything, run the suites, print the table."""
    from harness.cli.build import build_all
    from harness.cli.setup import ensure
    from harness.cli.suites import RESULTS, read_junit, run_pytest, table

    ensure()
    from harness.build.artifacts import ARCHES

    build_all(ARCHES, debug=args.debug_kernel)
    junit = RESULTS / "run.xml"
    junit.unlink(missing_ok=True)
    flags = ["--debug-kernel"] if args.debug_kernel else []
    status = run_pytest([*SUITES, "-v", *flags, *rest], junit)
    if junit.exists():
        print()
        print("\n".join(table(r for r in read_junit(junit) if r.board != "host")))
    return status
