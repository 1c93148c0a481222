"""What a message and a context switch cost, each counted alone from outside the guest."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness.machine.counting import totals
from harness.measure.plugin import Metric
from harness.plugin.counting import Counted

# Pairs of markers around a thing, and how many of them (kernel-src/user/tests/bench).
ROUND_TRIP, SWITCH, COPY, ENDPOINT = (7, 8), (9, 10), (41, 42), (43, 44)
NEAR, FAR = (61, 62), (63, 64)
SIGNAL, PING_PONG, PREEMPT, FAULT, CROSS = (51, 52), (53, 54), (55, 56), (57, 58), (59, 60)
FAULT_AGAIN, FOREIGN_CALL = (65, 66), (67, 68)
CALLS = {
    "ipc.call.words_0": (11, 12),
    "ipc.call.words_4": (13, 14),
    "ipc.call.words_8": (15, 16),
    "ipc.call.words_64": (17, 18),
    "ipc.call.capability": (19, 20),
}
TIMES = 256
# Between two cases the machine is idle, and its clock must not jump to the next timer: for RISC-V's comparator that
# is the end of time.
AWAKE = ("-icount", "shift=0,align=off,sleep=on")


@pytest.mark.needs("release")
@pytest.mark.requirement("TST-11", "TST-14", "TST-15", "TST-16")
def test_cost_of_a_message_and_of_a_switch(count: Callable[..., Counted], metric: Metric) -> None:
    counted = count(smp=1, icount=True, args=AWAKE)
    counted.run("bench:a_message_goes_to_another_process_and_back")
    counted.run("bench:two_threads_switch_by_yield")
    on = counted.session.board

    trips = [totals(span) for span in counted.spans(*ROUND_TRIP)]
    assert len(trips) == TIMES
    # Both sides are in it: each trip enters the kernel from the caller and from the server.
    assert all(trip.user > 8 and trip.kernel > trip.user for trip in trips)
    metric.samples("ipc.round_trip", [trip.total for trip in trips], unit="instructions", board=on)
    metric.samples("ipc.round_trip.kernel", [trip.kernel for trip in trips], unit="instructions", board=on)

    places = [marker.number for marker in counted.markers() if marker.number in SWITCH]
    # Each starts after the other's end, but where the two meet first and part.
    switches = [totals(span).total for span in counted.spans(*SWITCH)]
    assert 2 * TIMES - 8 <= len(switches) <= 2 * TIMES == places.count(SWITCH[0])
    metric.samples("context_switch", switches, unit="instructions", board=on)


@pytest.mark.needs("release")
@pytest.mark.requirement("TST-14", "IPS-03", "IPS-14", "PRF-07")
def test_cost_of_a_call_and_its_reply_by_size(count: Callable[..., Counted], metric: Metric) -> None:
    counted = count(smp=1, icount=True, args=AWAKE)
    counted.run("bench:a_call_of_each_size_and_its_reply")
    costs = {}
    for name, marks in CALLS.items():
        calls = [totals(span) for span in counted.spans(*marks)]
        assert len(calls) == TIMES
        assert all(call.user > 8 and call.kernel > call.user for call in calls)
        costs[name] = [call.total for call in calls]
    on = counted.session.board
    metric.samples("ipc.call.words_0", costs["ipc.call.words_0"], unit="instructions", board=on)
    metric.samples("ipc.call.words_4", costs["ipc.call.words_4"], unit="instructions", board=on)
    metric.samples("ipc.call.words_8", costs["ipc.call.words_8"], unit="instructions", board=on)
    metric.samples("ipc.call.words_64", costs["ipc.call.words_64"], unit="instructions", board=on)
    metric.samples("ipc.call.capability", costs["ipc.call.capability"], unit="instructions", board=on)


@pytest.mark.needs("release")
@pytest.mark.requirement("TST-11", "TST-14", "TST-16", "PRF-07")
def test_cost_of_a_capability_and_of_an_object(count: Callable[..., Counted], metric: Metric) -> None:
    counted = count(smp=1, icount=True, args=AWAKE)
    counted.run("bench:capabilities_come_and_go")
    copies, endpoints = ([totals(span) for span in counted.spans(*pair)] for pair in (COPY, ENDPOINT))
    for spans in (copies, endpoints):
        assert len(spans) == TIMES
        assert all(span.user > 8 and span.kernel > span.user for span in spans)
    on = counted.session.board
    metric.samples("caps.copy_delete", [span.total for span in copies], unit="instructions", board=on)
    metric.samples("caps.endpoint_create_delete", [span.total for span in endpoints], unit="instructions", board=on)


@pytest.mark.needs("release")
@pytest.mark.requirement("TST-14", "TST-16", "CAP-02", "PRF-07")
def test_cost_of_a_level_of_look_up(count: Callable[..., Counted], metric: Metric) -> None:
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
def test_cost_of_a_signal(count: Callable[..., Counted], metric: Metric) -> None:
    counted = count(smp=1, icount=True, args=AWAKE)
    counted.run("bench:signals_go_to_another_process_and_back")
    signals, rounds = ([totals(span) for span in counted.spans(*pair)] for pair in (SIGNAL, PING_PONG))
    for spans in (signals, rounds):
        assert len(spans) == TIMES
        assert all(span.user > 4 and span.kernel > span.user for span in spans)
    on = counted.session.board
    metric.samples("notification.signal", [span.total for span in signals], unit="instructions", board=on)
    metric.samples("notification.ping_pong", [span.total for span in rounds], unit="instructions", board=on)


@pytest.mark.needs("release")
@pytest.mark.requirement("TST-14", "TST-16", "NTF-01", "SCH-39", "PRF-07")
def test_cost_of_a_signal_to_a_more_urgent_thread(count: Callable[..., Counted], metric: Metric) -> None:
    counted = count(smp=1, icount=True, args=AWAKE)
    counted.run("bench:a_signal_lets_a_more_urgent_thread_run")
    signals = [totals(span) for span in counted.spans(*PREEMPT)]
    assert len(signals) == TIMES
    # Both threads are in it: the other comes back from its wait, looks at the bits and waits again.
    assert all(signal.user > 8 and signal.kernel > signal.user for signal in signals)
    on = counted.session.board
    metric.samples("notification.preempt", [signal.total for signal in signals], unit="instructions", board=on)


@pytest.mark.needs("release")
@pytest.mark.requirement("TST-14", "TST-16", "IPS-12", "INT-01", "PRF-07")
def test_cost_of_a_fault_that_is_handled(count: Callable[..., Counted], metric: Metric) -> None:
    counted = count(smp=1, icount=True, args=AWAKE)
    counted.run("bench:a_handler_mends_faults_of_another_process")
    faults, again = ([totals(span) for span in counted.spans(*pair)] for pair in (FAULT, FAULT_AGAIN))
    for spans in (faults, again):
        assert len(spans) == TIMES
        assert all(fault.user > 8 and fault.kernel > fault.user for fault in spans)
    on = counted.session.board
    # With the handler's calls that read and write all registers; and a fault, its message and the answer alone.
    metric.samples("fault.handled", [fault.total for fault in faults], unit="instructions", board=on)
    metric.samples("fault.round_trip", [fault.total for fault in again], unit="instructions", board=on)


@pytest.mark.needs("release")
@pytest.mark.requirement("TST-14", "TST-16", "IPS-12", "SYS-07", "PRF-07")
def test_cost_of_a_foreign_call(count: Callable[..., Counted], metric: Metric) -> None:
    counted = count(smp=1, icount=True, args=AWAKE)
    counted.run("bench:calls_of_a_foreign_process_are_served")
    calls = [totals(span) for span in counted.spans(*FOREIGN_CALL)]
    assert len(calls) == TIMES
    assert all(call.user > 8 and call.kernel > call.user for call in calls)
    metric.samples("ipc.foreign_call", [call.total for call in calls], unit="instructions", board=counted.session.board)


@pytest.mark.needs("release", "smp>=2")
@pytest.mark.requirement("TST-14", "TST-16", "IPS-02", "PRF-07")
def test_cost_of_a_call_to_another_cpu(count: Callable[..., Counted], metric: Metric) -> None:
    """Of both CPUs together, but for the time that they sleep, and for what firmware does."""
    counted = count(smp=2, icount=True, args=AWAKE)
    counted.run("bench:a_call_goes_to_another_cpu_and_back")
    calls = [totals(span) for span in counted.spans(*CROSS)]
    assert len(calls) == TIMES
    assert all(call.user > 8 and call.kernel > call.user for call in calls)
    costs = [call.user + call.kernel for call in calls]  # the firmware's part of an interrupt is not ours
    # One host thread runs both CPUs in turn, and where it changes decides which of them finds the other asleep.
    metric.samples("ipc.call.other_cpu", costs, unit="instructions", noise=0.05, board=counted.session.board)
