"""`quoin report`: the page of a run that was kept."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.report.run import Run

SUMMARY = "make the page of a run that `pytest --report` or `quoin matrix` kept, or one of several shards"
PASSES_ON = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which run."""
    parser.add_argument("run", nargs="?", metavar="RUN", help="its name, a part of it, or its folder (the newest)")
    parser.add_argument("--list", action="store_true", help="show the runs that there are")
    parser.add_argument(
        "--merge", nargs="+", metavar="FOLDER", type=Path, help="put the shards of one matrix together as a run"
    )


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Write the page and say where; 1 where shards that were put together are red."""
    from harness.build.artifacts import TOP
    from harness.report.page import write_page
    from harness.report.run import RunError, find, folders, read

    if args.list:
        for folder in folders(TOP):
            try:
                print(told(read(folder)))
            except RunError as error:
                print(f"{folder.name}  cannot be read: {error}")
        return 0
    folder = merge(TOP, args.merge) if args.merge else find(TOP, args.run)
    found = read(folder)
    print(told(found))
    for fault in found.faults:
        print(f"  {fault}")
    print(f"report: {write_page(TOP, folder, found)}")
    return 1 if args.merge and not found.good else 0


def merge(top: Path, shards: Sequence[Path]) -> Path:
    """The folder of a new run out of the runs in `shards`, JUnit included. Raises RunError."""
    from harness.report.junit import write_junit
    from harness.report.page import keep_consoles, kept_consoles
    from harness.report.run import JUNIT, keep, merged, new_name, of_shard, read

    runs = [read(shard) for shard in shards]
    whole = merged(runs, new_name())
    folder = keep(top, whole)
    consoles = {
        of_shard(number, name): console
        for number, (shard, run) in enumerate(zip(shards, runs, strict=True), 1)
        for name, console in kept_consoles(shard, run).items()
    }
    keep_consoles(folder, consoles)
    write_junit(folder / JUNIT, whole)
    return folder


def told(run: Run) -> str:
    """A line on a run."""
    end = "goes on, or was cut short" if run.seconds is None else f"{run.seconds:.0f} s"
    counts = f"{run.count('passed')} passed, {run.count('failed')} failed, {run.count('skipped')} skipped"
    return f"{run.head.name}  {run.head.revision}  {counts}  {end}  {run.head.kind}"
