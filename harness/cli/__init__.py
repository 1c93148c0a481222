"""The command `quoin`: one module a verb.

A verb's module has `SUMMARY`, `add_arguments` and `run`; what is slow to import
is imported inside `run`, so that `quoin --help` is quick. Faults of the lab and
of its input end in a few lines that say what was wanted, what was found, where
the log is and what to do next; a traceback means a fault in Quoin itself.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn, Protocol

from harness.cli import (
    attach,
    bench,
    bisect,
    boards,
    build,
    clean,
    console,
    doctor,
    flash,
    gdb,
    lab,
    matrix,
    mutants,
    power,
    replay,
    report,
    requirements,
    run,
    scorecard,
    serve,
    setup,
    soak,
    test,
)

INTERRUPTED = 130  # 128 + SIGINT, as shells report it
TERMINATED = 143  # 128 + SIGTERM


class Verb(Protocol):
    """What a verb's module offers."""

    SUMMARY: str
    PASSES_ON: bool  # whether `run` takes arguments that it does not know, for pytest mostly

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, args: argparse.Namespace, rest: Sequence[str]) -> int: ...


VERBS: dict[str, Verb] = {
    "run": run,
    "test": test,
    "build": build,
    "console": console,
    "attach": attach,
    "flash": flash,
    "power": power,
    "replay": replay,
    "gdb": gdb,
    "boards": boards,
    "lab": lab,
    "doctor": doctor,
    "setup": setup,
    "bench": bench,
    "soak": soak,
    "bisect": bisect,
    "matrix": matrix,
    "report": report,
    "serve": serve,
    "scorecard": scorecard,
    "requirements": requirements,
    "mutants": mutants,
    "clean": clean,
}


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="quoin",
        description="Builds Quoin, boots it on boards, and proves what it does.",
        epilog="`quoin VERB --help` tells more; docs/tour.md is the first ten minutes.",
    )
    verbs = top.add_subparsers(dest="verb", metavar="VERB")
    for name, verb in VERBS.items():
        child = verbs.add_parser(name, help=verb.SUMMARY, description=verb.SUMMARY)
        verb.add_arguments(child)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb. Returns the exit status: 0, 1 for a failure that was told, 2 for a wrong command line."""
    from harness.build.errors import BuildError

    top = parser()
    args, rest = top.parse_known_args(argv)
    if args.verb is None:
        top.print_help(sys.stderr)
        return 2
    verb = VERBS[args.verb]
    if rest and not verb.PASSES_ON:
        top.error(f"{args.verb} does not know: {' '.join(rest)}")
    signal.signal(signal.SIGTERM, _on_terminate)
    try:
        return verb.run(args, rest)
    except KeyboardInterrupt:
        print("quoin: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader left (`quoin requirements | head`): nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except BuildError as error:
        return tell(error.lines())
    except Exception as error:
        if not is_lab_error(error):
            raise
        return tell(str(error).splitlines())


def tell(lines: Sequence[str]) -> int:
    """Print an error and return the exit status for it."""
    sys.stdout.flush()
    print("\n".join([f"error: {lines[0]}", *(f"       {line}" for line in lines[1:])]), file=sys.stderr)
    return 1


def is_lab_error(error: Exception) -> bool:
    """Whether `error` is a fault of the lab or its input, made to be shown as it stands."""
    board = sys.modules.get("harness.board")  # not imported yet: then nothing can have raised it
    return board is not None and isinstance(error, board.LabError)


def _on_terminate(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(TERMINATED)  # unwinds, so that children are ended
