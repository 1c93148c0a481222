"""`quoin soak`: one test many times, each time with another seed."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence

from harness.cli.arguments import positive

SUMMARY = "run a test many times with a seed each; tell its pass rate and the seeds that fail"
PASSES_ON = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The test and how often; the rest is pytest's."""
    parser.add_argument("test", metavar="TEST", help="a test's id, with or without its variant in brackets, or a file")
    parser.add_argument("-n", dest="rounds", type=positive, default=100, metavar="N", help="how often (100)")
    parser.add_argument("--seed", type=positive, default=1, metavar="SEED", help="the first seed (1)")
    parser.epilog = "Other arguments go to pytest, such as --board qemu-riscv64. Ctrl-C tells what is known so far."


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Set up, and run the test under pytest; what it needs is built on the way."""
    from harness.board import known_boards
    from harness.build.artifacts import TOP
    from harness.cli.setup import ensure
    from harness.cli.suites import RESULTS, run_pytest
    from harness.plugin.soak import plain

    ensure()
    test, bracket, variant = plain(args.test).partition("[")
    chosen = variant_options(variant.removesuffix("]"), known_boards(TOP / "boards")) if bracket else []
    options = ["--soak", str(args.rounds), "--deterministic", str(args.seed)]
    return run_pytest([test, *chosen, *options, "-q", *rest], RESULTS / "soak.xml")


def variant_options(variant: str, boards: Sequence[str]) -> list[str]:
    """pytest's options for what stands in a test's brackets: its board as it is there, and that variant alone."""
    names = "|".join(map(re.escape, sorted(boards, key=len, reverse=True)))
    found = re.search(
        rf"(?<![\w.])(?P<board>{names or '(?!)'}|place:[\w.-]+?)"
        r"(?:-smp(?P<smp>\d+)(?:-(?P<memory>\d+[MG]))?(?P<icount>-icount)?(?P<debug>-debug)?)?"
        r"(?=-|$)",
        variant,
    )
    if found is None:
        return [f"--soak-variant={variant}"]
    options = [f"--{key}={found[key]}" for key in ("board", "smp", "memory") if found[key]]
    options += [option for key, option in (("icount", "--icount"), ("debug", "--debug-kernel")) if found[key]]
    # A board's name by itself stands for all that there is on it.
    return options if variant == found["board"] else [*options, f"--soak-variant={variant}"]
