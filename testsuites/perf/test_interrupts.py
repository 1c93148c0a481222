"""How long interrupts are off: no call and no end of an object keeps them off beyond the bound of the design."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness.measure.plugin import Metric
from harness.plugin.counting import AWAKE, Counted

Count = Callable[..., Counted]
# What takes longest of each kind: programs that begin and end, trees that are revoked, long messages, many who wait.
CASES = (
    "user:exit_statuses_reach_the_parent",
    "user:ended_processes_give_their_memory_back",
    "caps:many_copies_are_revoked_in_bounded_steps",
    "caps:cnodes_have_the_sizes_they_may_have",
    "caps:nested_cnodes_resolve_at_every_depth",
    "quota:all_that_is_charged_ends_wherever_it_is_used",
    "quota:processes_end_while_their_quota_does",
    "ipc:every_length_arrives_in_another_process",
    "ipc:sixty_four_clients_of_four_servers_are_served",
    "ipc:partners_killed_while_capabilities_travel_leave_nothing",
    "notification:the_end_of_a_notification_wakes_its_waiters",
    "fault:many_faults_at_once_leak_nothing",
)


@pytest.mark.needs("release", "smp>=2")
@pytest.mark.requirement("INT-13", "PRF-07")
def test_interrupts_are_off_for_a_bounded_time(count: Count, metric: Metric) -> None:
    counted = count(smp=2, icount=True, args=AWAKE)
    counted.stretches()  # those of the boot
    longest = 0
    for case in CASES:
        counted.run(case)
        longest = max(longest, *counted.stretches())
    metric("interrupts_off", longest, unit="instructions", noise=0.1, board=counted.session.board)
