"""What a metric is, and how the kernel's test programs print one."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.board import LabError

Better = Literal["lower", "higher"]
# What `kernel_bench!` prints (kernel-src/user/rt/src/testing.rs).
_KERNEL = re.compile(r"^metric: (?P<name>\S+) (?P<value>\d+\.\d\d) (?P<unit>\S+)$")
# It reads a clock at both ends, and console input comes at any moment: the last hundredths are not the kernel's.
KERNEL_NOISE = 0.001


class MetricError(LabError):
    """A metric, a baseline or a target that means nothing; says where it stands."""


@dataclass(frozen=True, slots=True)
class Spread:
    """The distribution behind a median: `samples` are those that count, after `warm_up` that do not."""

    least: float
    p99: float
    most: float
    samples: int
    warm_up: int


@dataclass(frozen=True, slots=True)
class Metric:
    """A value that was measured.

    `noise` is the share of the baseline by which it may be worse, 0 for what is exact. None says that
    the value depends on the host's speed: it is kept and shown, and no baseline judges it.
    """

    name: str
    value: float
    unit: str
    better: Better = "lower"
    noise: float | None = 0.0
    spread: Spread | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_.]*", self.name):
            raise MetricError(f"a metric's name is like ipc.round_trip, not {self.name!r}")
        if not math.isfinite(self.value) or not self.unit or " " in self.unit:
            raise MetricError(f"{self.name} wants a finite value and a unit of one word: {self.value} {self.unit!r}")
        if self.better not in ("lower", "higher"):
            raise MetricError(f"{self.name}: better is 'lower' or 'higher', not {self.better!r}")
        if self.noise is not None and not 0 <= self.noise < 1:
            raise MetricError(f"{self.name}: noise is a share from 0 to below 1, or None; not {self.noise}")


def summary(samples: Sequence[float], warm_up: int) -> tuple[float, Spread]:
    """Median and distribution of `samples` without the first `warm_up`. Raises MetricError when none is left.

    The 99th percentile is the nearest rank: a value that was measured (NIST handbook, 7.2.6.2).
    """
    counted = sorted(samples[warm_up:])
    if not counted:
        raise MetricError(f"{len(samples)} samples, and {warm_up} of them only warm up")
    p99 = counted[math.ceil(0.99 * len(counted)) - 1]
    return statistics.median(counted), Spread(counted[0], p99, counted[-1], len(counted), warm_up)


def kernel_metrics(lines: Iterable[str]) -> Iterator[Metric]:
    """The metrics among the console lines of a kernel test case."""
    for line in lines:
        if match := _KERNEL.match(line):
            yield Metric(match["name"], float(match["value"]), match["unit"], noise=KERNEL_NOISE)
