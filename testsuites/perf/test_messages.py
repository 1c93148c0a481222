"""What a message and a context switch cost, each counted alone from outside the guest."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness.machine.counting import Instructions, totals
from harness.measure.plugin import Metric
from harness.plugin.counting import AWAKE, Counted

# Pairs of markers around a thing, and how many of them (kernel-src/user/tests/bench).
ROUND_TRIP, SWITCH, COPY, ENDPOINT = (7, 8), (9, 10), (41, 42), (43, 44)
NEAR, FAR = (61, 62), (63, 64)
SIGNAL, PING_PONG, PREEMPT, FAULT, CROSS = (51, 52), (53, 54), (55, 56), (57, 58), (59, 60)
FAULT_AGAIN, FOREIGN_CALL, CALL_FPU = (65, 66), (67, 68), (69, 70)
CALLS = {
    "ipc.call.words_0": (11, 12),
    "ipc.call.words_4": (13, 14),
    "ipc.call.words_8": (15, 16),
    "ipc.call.words_64": (17, 18),
    "ipc.call.capability": (19, 20),
}
TIMES = 256
Count = Callable[..., Counted]


def run(count: Count, *cases: str, smp: int = 1) -> Counted:
    """A machine on which these cases of the benchmark have run."""
    counted = count(smp=smp, icount=True, args=AWAKE)
    for case in cases:
        counted.run(f"bench:{case}")
    return counted


def spent(counted: Counted, pair: tuple[int, int], least_user: int = 8) -> list[Instructions]:
    """What each of the things between two markers has taken: both its sides are in it, and more of the kernel's."""
    spans = [totals(span) for span in counted.spans(*pair)]
    assert len(spans) == TIMES
    assert all(span.user > least_user and span.kernel > span.user for span in spans)
    return spans


@pytest.mark.needs("release")
@pytest.mark.requirement("TST-11", "TST-14", "TST-15", "TST-16")
def test_cost_of_a_message_and_of_a_switch(count: Count, metric: Metric) -> None:
    counted = run(count, "a_message_goes_to_another_process_and_back", "two_threads_switch_by_yield")
    on = counted.session.board

    trips = spent(counted, ROUND_TRIP)
    metric.samples("ipc.round_trip", [trip.total for trip in trips], unit="instructions", board=on)
    metric.samples("ipc.round_trip.kernel", [trip.kernel for trip in trips], unit="instructions", board=on)

    places = [marker.number for marker in counted.markers() if marker.number in SWITCH]
    # Each starts after the other's end, but where the two meet first and part.
    switches = [totals(span).total for span in counted.spans(*SWITCH)]
    assert 2 * TIMES - 8 <= len(switches) <= 2 * TIMES == places.count(SWITCH[0])
    metric.samples("context_switch", switches, unit="instructions", board=on)


@pytest.mark.needs("release")
@pytest.mark.requirement("TST-14", "IPS-03", "IPS-14", "PRF-07")
def test_cost_of_a_call_and_its_reply_by_size(count: Count, metric: Metric) -> None:
    counted = run(count, "a_call_of_each_size_and_its_reply")
    costs = {name: [call.total for call in spent(counted, marks)] for name, marks in CALLS.items()}
    on = counted.session.board
    metric.samples("ipc.call.words_0", costs["ipc.call.words_0"], unit="instructions", board=on)
    metric.samples("ipc.call.words_4", costs["ipc.call.words_4"], unit="instructions", board=on)
    metric.samples("ipc.call.words_8", costs["ipc.call.words_8"], unit="instructions", board=on)
    metric.samples("ipc.call.words_64", costs["ipc.call.words_64"], unit="instructions", board=on)
    metric.samples("ipc.call.capability", costs["ipc.call.capability"], unit="instructions", board=on)


@pytest.mark.needs("release")
@pytest.mark.requirement("TST-14", "IPS-03", "CTX-02", "PRF-07")
def test_what_live_fpu_registers_add_to_a_call(count: Count, metric: Metric) -> None:
    cases = ("a_call_of_each_size_and_its_reply", "a_call_with_live_fpu_registers_and_its_reply")
    counted = run(count, *cases)
    without, live = ([call.total for call in spent(counted, marks)] for marks in (CALLS["ipc.call.words_0"], CALL_FPU))
    # Each side's registers are kept and loaded once a call.
    added = [more - min(without) for more in live]
    metric.samples("ipc.call.live_fpu", added, unit="instructions", board=counted.session.board)


@pytest.mark.needs("release")
@pytest.mark.requirement("TST-11", "TST-14", "TST-16", "PRF-07")
def test_cost_of_a_capability_and_of_an_object(count: Count, metric: Metric) -> None:
    counted = run(count, "capabilities_come_and_go")
    copies, endpoints = (spent(counted, pair) for pair in (COPY, ENDPOINT))
    on = counted.session.board
    metric.samples("caps.copy_delete", [span.total for span in copies], unit="instructions", board=on)
    metric.samples("caps.endpoint_create_delete", [span.total for span in endpoints], unit="instructions", board=on)


@pytest.mark.needs("release")
@pytest.mark.requirement("TST-14", "TST-16", "CAP-02", "PRF-07")
def test_cost_of_a_level_of_look_up(count: Count, metric: Metric) -> None:
    counted = count(smp=1, icount=True, args=AWAKE)
    printed = counted.run("bench:a_name_leads_through_cnodes")
    levels = int(next(line for line in printed if "guest: levels " in line).split()[-1])
    near, far = ([totals(span).kernel for span in counted.spans(*pair)] for pair in (NEAR, FAR))
    assert len(near) == len(far) == TIMES
    assert all(less < more for less, more in zip(near, far, strict=True))
    steps = [(more - less) / (levels - 1) for less, more in zip(near, far, strict=True)]
    metric.samples("caps.look_up.level", steps, unit="instructions", board=counted.session.board)


@pytest.mark.needs("release")
@pytest.mark.requirement("TST-14", "TST-16", "NTF-01", "PRF-07")
def test_cost_of_a_signal(count: Count, metric: Metric) -> None:
    counted = run(count, "signals_go_to_another_process_and_back")
    signals, rounds = (spent(counted, pair, least_user=4) for pair in (SIGNAL, PING_PONG))
    on = counted.session.board
    metric.samples("notification.signal", [span.total for span in signals], unit="instructions", board=on)
    metric.samples("notification.ping_pong", [span.total for span in rounds], unit="instructions", board=on)


@pytest.mark.needs("release")
@pytest.mark.requirement("TST-14", "TST-16", "NTF-01", "SCH-39", "PRF-07")
def test_cost_of_a_signal_to_a_more_urgent_thread(count: Count, metric: Metric) -> None:
    counted = run(count, "a_signal_lets_a_more_urgent_thread_run")
    # The other thread comes back from its wait, looks at the bits and waits again.
    signals = spent(counted, PREEMPT)
    on = counted.session.board
    metric.samples("notification.preempt", [signal.total for signal in signals], unit="instructions", board=on)


@pytest.mark.needs("release")
@pytest.mark.requirement("TST-14", "TST-16", "IPS-12", "INT-01", "PRF-07")
def test_cost_of_a_fault_that_is_handled(count: Count, metric: Metric) -> None:
    counted = run(count, "a_handler_mends_faults_of_another_process")
    faults, again = (spent(counted, pair) for pair in (FAULT, FAULT_AGAIN))
    on = counted.session.board
    # With the handler's calls that read and write all registers; and a fault, its message and the answer alone.
    metric.samples("fault.handled", [fault.total for fault in faults], unit="instructions", board=on)
    metric.samples("fault.round_trip", [fault.total for fault in again], unit="instructions", board=on)


@pytest.mark.needs("release")
@pytest.mark.requirement("TST-14", "TST-16", "IPS-12", "SYS-07", "PRF-07")
def test_cost_of_a_foreign_call(count: Count, metric: Metric) -> None:
    counted = run(count, "calls_of_a_foreign_process_are_served")
    calls = spent(counted, FOREIGN_CALL)
    metric.samples("ipc.foreign_call", [call.total for call in calls], unit="instructions", board=counted.session.board)


@pytest.mark.needs("release", "smp>=2")
@pytest.mark.requirement("TST-14", "TST-16", "IPS-02", "PRF-07")
def test_cost_of_a_call_to_another_cpu(count: Count, metric: Metric) -> None:
    """Of both CPUs together, but for the time that they sleep, and for what firmware does."""
    counted = run(count, "a_call_goes_to_another_cpu_and_back", smp=2)
    # The firmware's part of an interrupt is not ours.
    costs = [call.user + call.kernel for call in spent(counted, CROSS)]
    # One host thread runs both CPUs in turn, and where it changes decides which of them finds the other asleep.
    metric.samples("ipc.call.other_cpu", costs, unit="instructions", noise=0.05, board=counted.session.board)
