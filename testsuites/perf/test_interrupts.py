"""How long the kernel keeps interrupts off: whatever is asked of it goes in pieces."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness.measure.plugin import Metric
from harness.plugin.counting import AWAKE, Counted

Count = Callable[..., Counted]
# What takes longest of each kind: programs that begin and end, crowds that wake and hear and end at once, reports of
# faults, trees that are revoked, queues of hundreds that are gone through, long messages, and pieces for the console.
CASES = (
    "boot:log_holds_the_boot_stages_in_order",
    "user:exit_statuses_reach_the_parent",
    "user:ended_processes_give_their_memory_back",
    "user:a_crowd_wakes_and_hears_and_ends_at_once",
    "caps:a_chain_ten_thousand_deep_is_revoked",
    "caps:cnodes_have_the_sizes_they_may_have",
    "caps:every_call_wants_each_of_its_rights",
    "quota:all_that_is_charged_ends_wherever_it_is_used",
    "quota:nothing_fails_for_memory_that_needs_none",
    "ipc:every_length_arrives_in_another_process",
    "ipc:sixty_four_clients_of_four_servers_are_served",
    "ipc:partners_killed_while_capabilities_travel_leave_nothing",
    "notification:the_end_of_a_notification_wakes_its_waiters",
    "fault:a_call_that_nobody_answers_ends_the_process",
    "fault:many_faults_at_once_leak_nothing",
)


# Threads that another CPU makes ready. Emulated CPUs that take turns and spin for each other take for ever.
ON_TWO_CPUS = ("user:a_crowd_wakes_and_hears_and_ends_at_once",)


@pytest.mark.needs("release", "smp>=2")
@pytest.mark.requirement("INT-13")
def test_interrupts_are_off_for_a_bounded_time(count: Count, metric: Metric) -> None:
    longest = 0
    for cpus, cases in ((1, CASES), (2, ON_TWO_CPUS)):
        counted = count(smp=cpus, icount=True, args=AWAKE)
        counted.stretches()  # those of the boot
        for case in cases:
            counted.run(case)
            longest = max(longest, *counted.stretches())
    metric("interrupts_off", longest, unit="instructions", noise=0.1, board=counted.session.board)
