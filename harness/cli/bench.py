"""`quoin bench`: the numbers, and their gates."""

from __future__ import annotations

import argparse
import datetime
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.measure.gate import Judged
    from harness.measure.store import Record

SUMMARY = "set up, build, measure, and hold the numbers against their baselines"
PASSES_ON = True
# All that measures; what costs instructions, which has baselines, is quick.
_ALL, _METRICS = "bench or metrics", "metrics"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to do with the numbers; all else is pytest's."""
    parser.epilog = "Other arguments go to pytest, such as --board qemu-riscv64, -k text or testsuites/perf."
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--compare", nargs=2, metavar=("A", "B"), help="hold B against A; git revisions, or runs that --history shows"
    )
    what.add_argument("--update-baseline", action="store_true", help="make what is measured the baselines")
    what.add_argument(
        "--history",
        nargs="?",
        const="",
        metavar="METRIC",
        help="show a metric's values over revisions; measure nothing",
    )


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Measure and judge. 1 when a test failed or a number became worse than its noise allows."""
    from harness.build.artifacts import TOP

    if args.history is not None:
        return history(TOP, args.history)
    if args.compare:
        return compare(TOP, args.compare, rest)
    status, records = measure(rest)
    return update(TOP, status, records) if args.update_baseline else gate(TOP, status, records)


def measure(rest: Sequence[str]) -> tuple[int, list[Record]]:
    """Set up, build, run what measures, with what it prints shown: pytest's status, and the numbers."""
    from harness.build.artifacts import ARCHES, TOP
    from harness.cli.build import build_all
    from harness.cli.setup import ensure
    from harness.cli.suites import RESULTS, run_pytest
    from harness.measure.store import Store

    ensure()
    build_all(ARCHES, debug=False)
    name = f"{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%S}-{os.getpid()}"
    status = run_pytest(["-m", _ALL, "-s", "--metrics-run", name, *rest], RESULTS / "bench.xml")
    return status, Store(TOP).run(name)


def gate(top: Path, status: int, records: Sequence[Record]) -> int:
    """Print the table; the exit status of the run: pytest's own, or 1 for a number that is worse."""
    from harness.measure.gate import judge, read_baselines

    return _told(judge(records, read_baselines(top)), status)


def update(top: Path, status: int, records: Sequence[Record]) -> int:
    """Write the baselines, unless a test failed: then its numbers are not to be trusted."""
    from harness.measure.gate import write_baselines
    from harness.measure.metrics import MetricError

    if status != 0:
        raise MetricError("baselines want a run that passed, and tests of this one failed; mend them, then again")
    gate(top, status, records)
    for path in write_baselines(top, records):
        print(f"wrote {path.relative_to(top)}")
    return 0


def history(top: Path, name: str) -> int:
    """Print a metric's values, or those of all metrics, oldest first."""
    from harness.measure.metrics import MetricError
    from harness.measure.store import Store
    from harness.measure.tables import history_table

    store = Store(top)
    records = store.read()
    chosen = [record for record in records if name in ("", record.metric.name)]
    if not chosen:
        known = ", ".join(sorted({record.metric.name for record in records})) or "nothing; run: quoin bench"
        raise MetricError(f"no value of {name or 'any metric'} in {store.path}; it holds {known}")
    print("\n".join(history_table(chosen)))
    return 0


def compare(top: Path, names: Sequence[str], rest: Sequence[str]) -> int:
    """Hold one run or revision against another; revisions are built and measured now."""
    from harness.cli.revisions import measured, resolved
    from harness.measure.gate import judge_runs
    from harness.measure.store import Store

    # Both are known before either is measured, which takes minutes.
    sides = [resolved(top, name) for name in names]
    before, after = (
        Store(top).run(side.name) if side.stored else measured(top, side.name, ["-m", _METRICS, *rest])
        for side in sides
    )
    return _told(judge_runs(before, after), 0)


def _told(rows: Sequence[Judged], status: int) -> int:
    from harness.measure.gate import Verdict
    from harness.measure.tables import gate_table

    print("\n" + "\n".join(gate_table(rows)))
    worse = [row for row in rows if row.verdict is Verdict.WORSE]
    if any(row.verdict is Verdict.NO_BASELINE for row in rows):
        print("\nwithout a baseline, for these tools: quoin bench --update-baseline")
    if worse:
        names = ", ".join(f"{row.record.metric.name} on {row.record.place}" for row in worse)
        print(f"\nworse than the baseline: {names}")
    return status or int(bool(worse))
