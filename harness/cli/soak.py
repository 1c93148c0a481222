"""`quoin soak`: one test many times, each time with another seed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

SUMMARY = "run a test many times with a seed each; tell its pass rate and the seeds that fail"
PASSES_ON = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The test and how often; the rest is pytest's."""
    parser.add_argument("test", metavar="TEST", help="a test's id, with or without its board in brackets, or a file")
    parser.add_argument("-n", dest="rounds", type=_positive, default=100, metavar="N", help="how often (100)")
    parser.add_argument("--seed", type=_positive, default=1, metavar="SEED", help="the first seed (1)")
    parser.epilog = "Other arguments go to pytest, such as --board qemu-riscv64. Ctrl-C tells what is known so far."


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Set up, and run the test under pytest; what it needs is built on the way."""
    from harness.build.artifacts import TOP
    from harness.cli.setup import ensure
    from harness.cli.suites import RESULTS, run_pytest

    ensure()
    test, bracket, variant = args.test.partition("[")
    boards: list[str] = []
    if bracket:
        known = sorted((path.stem for path in (TOP / "boards").glob("*.yaml")), key=len, reverse=True)
        boards = [f"--board={name}" for name in known if name in variant][:1]
    options = ["--soak", str(args.rounds), "--deterministic", str(args.seed)]
    return run_pytest([test, *boards, *options, "-q", *rest], RESULTS / "soak.xml")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"wants a number from 1 on, not {text!r}")
    return int(text)
