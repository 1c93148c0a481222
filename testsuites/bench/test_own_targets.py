"""Do target specifications of our own beat the standard ones? The same kernel and programs, built for both."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import pytest

from harness.board import Board
from harness.build import build
from harness.build.artifacts import Artifacts
from harness.machine import BootFiles
from harness.machine.counting import totals
from harness.measure.plugin import Metric
from harness.plugin.counting import Counted

AWAKE = ("-icount", "shift=0,align=off,sleep=on")
# Pairs of markers around a thing (kernel-src/user/tests/bench).
ROUND_TRIP, SWITCH = (7, 8), (9, 10)


@pytest.mark.requirement("BLD-03")
@pytest.mark.needs("release")
def test_own_targets_beside_the_standard_ones(
    count: Callable[..., Counted], artifacts: Artifacts, board: Board, metric: Metric
) -> None:
    own, standard = costs(count, build(artifacts.arch, own_target=True)), costs(count, artifacts)
    assert own.keys() == standard.keys()
    for name, value in own.items():
        ratio = value / standard[name]
        print(f"{board.name} {name}: {value} with our target, {standard[name]} with the standard one ({ratio:.3f})")
        metric(f"own_target.{name}", ratio, unit="ratio", noise=None)


def costs(count: Callable[..., Counted], artifacts: Artifacts) -> dict[str, float]:
    """Instructions of the paths that are used most, and bytes of code."""
    counted = count(smp=1, icount=True, args=AWAKE, files=BootFiles(artifacts.image, artifacts.archive))
    to_ready = sum(cpu.kernel for cpu in counted.instructions())  # firmware is the same in both
    counted.run("bench:a_message_goes_to_another_process_and_back")
    counted.run("bench:two_threads_switch_by_yield")
    trips = [totals(span).total for span in counted.spans(*ROUND_TRIP)]
    switches = [totals(span).total for span in counted.spans(*SWITCH)]
    counted.session.close()
    return {
        "ipc.round_trip": statistics.median(trips),
        "context_switch": statistics.median(switches),
        "boot_to_ready": to_ready,
        "code_bytes": artifacts.sizes["kernel text"],
    }
