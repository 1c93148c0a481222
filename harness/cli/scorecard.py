"""`quoin scorecard`: every number that is promised, and whether it is kept."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

SUMMARY = "measure every target of testsuites/targets.yaml: met, not met, or not measurable here"
PASSES_ON = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which numbers."""
    parser.epilog = "Other arguments go to pytest, such as --board qemu-riscv64."
    parser.add_argument("--run", metavar="RUN", help="measure nothing: take the numbers of a run that was stored")


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Measure and print the table; 1 when a target is not met, or a test failed."""
    from harness.build.artifacts import TOP
    from harness.cli.bench import measure
    from harness.measure.metrics import MetricError
    from harness.measure.store import Store
    from harness.measure.targets import check_names, known_metrics, machine, read_targets, scorecard, scores

    targets = read_targets(TOP)
    check_names(targets, known_metrics(TOP))
    status = 0
    if args.run is None:
        status, records = measure(rest)
    elif not (records := Store(TOP).run(args.run)):
        raise MetricError(f"no run {args.run!r} in {Store(TOP).path}; see quoin bench --history")
    rows = scores(targets, records)
    print("\n" + machine(records) + "\n\n" + "\n".join(scorecard(rows)))
    count = {standing: sum(row.standing == standing for row in rows) for standing in ("met", "NOT MET")}
    print(f"\n{count['met']} met, {count['NOT MET']} not met, {len(rows) - sum(count.values())} not measurable here")
    return status or int(count["NOT MET"] > 0)
