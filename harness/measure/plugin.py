"""The pytest side of metrics: the fixture `metric`, and the numbers that kernel tests print.

A test's numbers travel in its report, so that under xdist one process writes the store. What
misses its target (testsuites/targets.yaml) fails the test that measured it.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from harness.board import Board
    from harness.measure.metrics import Better
    from harness.measure.metrics import Metric as Value

_PROPERTY = "measured"
_MISSED: pytest.StashKey[list[str]] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("quoin", "boards")
    group.addoption("--metrics-run", metavar="NAME", help="the name under which this run's metrics are kept")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "metrics: its numbers have baselines; `quoin bench` runs it")
    now = datetime.datetime.now(datetime.UTC)
    name = config.getoption("--metrics-run") or f"{now:%Y%m%dT%H%M%S}-{os.getpid()}"
    # Neither a worker's numbers, which the run's first process keeps, nor those of a kernel that is not as it ships.
    unlike = config.getoption("--coverage", False) or config.getoption("--kernel-args", "")
    if not hasattr(config, "workerinput") and not unlike:
        config.pluginmanager.register(Keeper(config.rootpath, name), "quoin-metrics")


class Keeper:
    """Writes what reports bring to the checkout's store."""

    def __init__(self, top: Path, run: str) -> None:
        self._top = top
        self._run = run

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        measured = [text for name, text in report.user_properties if name == _PROPERTY]
        if report.when != "call" or not measured:
            return
        from harness.measure.store import Store, from_json
        from harness.measure.tools import revision

        at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        for text in measured:
            record = replace(from_json(str(text)), run=self._run, at=at, revision=revision(self._top))
            Store(self._top).append(record)


class Metric:
    """What the fixture `metric` is: `metric("ipc.call", 512, unit="instructions")`."""

    def __init__(self, item: pytest.Item, board: Board | None) -> None:
        self._item = item
        self._board = board

    def __call__(
        self,
        name: str,
        value: float,
        *,
        unit: str,
        better: Better = "lower",
        noise: float | None = 0.0,
        board: Board | None = None,
    ) -> None:
        """Keep a value; at its end the test fails if it misses its target.

        `noise` is the share of the baseline by which it may be worse (None: it depends on the host, and has no
        baseline); `board` is the variant that was measured, where it is not the test's own. Raises MetricError
        for what is no metric.
        """
        from harness.measure.metrics import Metric as Value

        _keep(self._item, Value(name, value, unit, better, noise), board or self._board)

    def samples(
        self,
        name: str,
        samples: Sequence[float],
        *,
        unit: str,
        warm_up: int = 16,
        better: Better = "lower",
        noise: float | None = 0.0,
        board: Board | None = None,
    ) -> None:
        """Keep the median and the distribution of `samples`; the first `warm_up` of them do not count."""
        from harness.measure.metrics import Metric as Value
        from harness.measure.metrics import summary

        median, spread = summary(samples, warm_up)
        _keep(self._item, Value(name, median, unit, better, noise, spread), board or self._board)


@pytest.fixture
def metric(request: pytest.FixtureRequest) -> Metric:
    """Keeps a number of this test: `metric(name, value, unit=..., better="lower", noise=0)`."""
    board = request.getfixturevalue("board") if "board" in request.fixturenames else None
    return Metric(request.node, board)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Keep what a kernel test printed; then fail what misses a target, when all numbers of the test are kept."""
    yield
    board = getattr(item, "board", None)
    if board is not None and board.icount:  # elsewhere the guest's clock counts no instructions
        from harness.measure.metrics import kernel_metrics

        for value in kernel_metrics(getattr(item, "console_lines", ())):
            _keep(item, value, board)
    if missed := item.stash.get(_MISSED, []):
        pytest.fail("\n".join(missed), pytrace=False)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "metric" in getattr(item, "fixturenames", ()) and not item.get_closest_marker("bench"):
            item.add_marker("metrics")


def _keep(item: pytest.Item, value: Value, board: Board | None) -> None:
    if board is not None and board.debug:  # it checks and traces what the kernel that ships does not
        return
    item.user_properties.append((_PROPERTY, _line(item, value, board)))
    if (missed := _missed(item.config, value, board)) is not None:
        item.stash.setdefault(_MISSED, []).append(missed)


def _line(item: pytest.Item, value: Value, board: Board | None) -> str:
    from harness.measure.store import HOST, Record, to_json

    if board is None:
        return to_json(Record(value, HOST, "", {}, item.nodeid))
    from harness.measure.tools import versions

    return to_json(Record(value, board.name, board.id.removeprefix(f"{board.name}-"), versions(board), item.nodeid))


def _missed(config: pytest.Config, value: Value, board: Board | None) -> str | None:
    from harness.measure.store import HOST
    from harness.measure.targets import read_targets

    on = HOST if board is None else board.name
    told = [target.missed(value, on) for target in read_targets(config.rootpath) if target.metric == value.name]
    return next((text for text in told if text is not None), None)
