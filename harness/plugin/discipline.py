"""What may be forgiven, and how it is shown: retries of lab faults, and tests in quarantine.

Only a run that the host or the lab spoilt is run again: `starved` and
`lab-fault` say nothing about the kernel. A test whose failure is known stands
in a file, with who cares for it, why, and until when. It runs all the same; until
that day its failure does not count.

    # testsuites/quarantine.yaml
    - test: testsuites/smp/test_counts.py::test_idle[qemu-riscv64-*]   # `*` stands for anything
      owner: ada
      reason: the comparator fires early, issue 17
      expires: 2027-01-31
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

RETRIED = "retried"
_FORGIVEN = ("starved", "lab-fault")
# These choose the boards, or change their names in brackets: an entry may name a board that this run leaves out.
_VARIANTS = ("board", "smp", "memory", "icount", "deterministic", "soak", "debug_kernel", "both_kernels")
_KEYS = ("test", "owner", "reason", "expires")
_MARK = "quarantine: "
_AFTER = "Retried after "
_DEFAULT = "testsuites/quarantine.yaml"


@dataclass(frozen=True, slots=True)
class Entry:
    """A test whose failure is known; `test` is an id in which `*` stands for anything."""

    test: str
    owner: str
    reason: str
    expires: datetime.date

    def covers(self, nodeid: str) -> bool:
        pattern = ".*".join(re.escape(part) for part in self.test.split("*"))
        return re.fullmatch(pattern, nodeid) is not None

    def stands_for(self, nodeid: str) -> bool:
        """Whether it covers the test, or another variant of it."""
        name, bracket, _ = self.test.partition("[")
        return self.covers(nodeid) or (bool(bracket) and replace(self, test=name).covers(nodeid.partition("[")[0]))

    def __str__(self) -> str:
        return f"{self.reason} ({self.owner}, until {self.expires})"


def read_quarantine(path: Path) -> list[Entry]:
    """The entries of a quarantine file; none where there is no file. Raises pytest.UsageError for a malformed one."""
    if not path.exists():
        return []
    from harness.board import LabError, read_yaml

    try:
        data = read_yaml(path)
    except LabError as error:
        raise pytest.UsageError(str(error)) from error
    except OSError as error:
        raise pytest.UsageError(f"{path}: cannot be read: {error.strerror}") from error
    if data is None:
        return []
    wanted = f"a list of entries with the keys {', '.join(_KEYS)}"
    if not isinstance(data, list):
        raise pytest.UsageError(f"{path}: wants {wanted}, not {type(data).__name__}")
    entries = []
    for number, entry in enumerate(data, 1):
        if not isinstance(entry, dict) or set(entry) != set(_KEYS):
            found = ", ".join(map(str, entry)) if isinstance(entry, dict) else repr(entry)
            raise pytest.UsageError(
                f"{path}: entry {number} wants the keys {', '.join(_KEYS)}; it has: {found or 'none'}"
            )
        expires = entry["expires"]
        if not isinstance(expires, datetime.date) or isinstance(expires, datetime.datetime):
            raise pytest.UsageError(f"{path}: entry {number}: expires is a date such as 2027-01-31, not {expires!r}")
        test, owner, reason = (entry[key] for key in _KEYS[:3])
        if not all(isinstance(text, str) and text.strip() for text in (test, owner, reason)):
            raise pytest.UsageError(f"{path}: entry {number}: test, owner and reason are texts, and none is empty")
        entries.append(Entry(test, owner, reason, expires))
    return entries


class Discipline:
    """The pytest plugin of one run."""

    def __init__(self, config: pytest.Config) -> None:
        self._path = config.rootpath / str(config.getini("quarantine") or _DEFAULT)
        self._entries = read_quarantine(self._path)
        self._retries = int(config.getoption("--lab-retries"))
        self._today = datetime.date.today()
        self._problems = [
            f"{entry.test}: its quarantine expired on {entry.expires}: mend it, or {entry.owner} gives a new date"
            for entry in self._entries
            if entry.expires < self._today
        ]

    # Quarantine.

    def _entry(self, nodeid: str) -> Entry | None:
        valid = (entry for entry in self._entries if entry.expires >= self._today)
        return next((entry for entry in valid if entry.covers(nodeid)), None)

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        if not _whole_tree(config):
            return
        chosen = any(config.getoption(name) not in (None, False) for name in _VARIANTS)
        for entry in self._entries:
            if not any(map(entry.stands_for if chosen else entry.covers, (item.nodeid for item in items))):
                self._problems.append(f"{entry.test}: in quarantine, but there is no such test: take it out")

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        entry = self._entry(item.nodeid) if report.failed else None
        if entry is not None:
            report.outcome = "skipped"
            report.wasxfail = f"{_MARK}{entry}"
        return report

    # Retries.

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        from harness.plugin import board_of

        if self._retries == 0 or board_of(item) is None:
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._attempts(item, nextitem):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def _attempts(self, item: pytest.Item, nextitem: pytest.Item | None) -> list[pytest.TestReport]:
        """Run the test, again after a lab fault; the reports of the last run, which tell of those before."""
        from _pytest.runner import runtestprotocol

        from harness.plugin.keys import MACHINES

        before = list(item.user_properties)
        past: list[tuple[str, str]] = []
        while True:
            reports = runtestprotocol(item, nextitem=nextitem, log=False)
            fault = _forgivable(reports)
            if fault is None or len(past) >= self._retries or item.session.shouldstop:
                break
            past.append(fault)
            item.user_properties[:] = before
            if MACHINES in item.stash:
                del item.stash[MACHINES]
        for verdict, text in past:
            reports[-1].user_properties.append((RETRIED, verdict))
            reports[-1].sections.append((f"{_AFTER}{verdict}", text))
        return reports

    # What is shown.

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        for report in _reports(terminalreporter):
            for title, text in report.sections:
                if title.startswith(_AFTER):
                    verdict = title.removeprefix(_AFTER)
                    terminalreporter.write_line(f"retried: {report.nodeid}: {verdict}: {_reason(text)}")
            if str(getattr(report, "wasxfail", "")).startswith(_MARK):
                terminalreporter.write_line(f"quarantined: {report.nodeid}: {report.wasxfail.removeprefix(_MARK)}")
        for problem in self._problems:
            terminalreporter.write_line(f"quarantine: {problem} ({self._path})", red=True)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        output = getattr(session.config, "workeroutput", None)
        if output is not None:
            output["quarantine"] = self._problems
        elif self._problems and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        told = getattr(node, "workeroutput", {}).get("quarantine", [])
        self._problems += [problem for problem in told if problem not in self._problems]


def _forgivable(reports: list[pytest.TestReport]) -> tuple[str, str] | None:
    """Verdict and text of a failure that is the lab's; none where something else failed too, in call or teardown."""
    failed = [report for report in reports if report.failed]
    verdicts = [str(dict(report.user_properties).get("verdict", "")) for report in failed]
    if not failed or not set(verdicts).issubset(_FORGIVEN):
        return None
    return verdicts[0], str(failed[0].longrepr)


def _reason(text: str) -> str:
    """What a failure's text says first: of a traceback the error, else its first line without the verdict."""
    lines = [line for line in text.splitlines() if line.strip()]
    errors = [line.removeprefix("E").strip() for line in lines if line.startswith("E  ")]
    first = (errors or lines or ["no reason given"])[0]
    verdict, _, reason = first.partition(": ")
    return reason if verdict in _FORGIVEN else first


def _whole_tree(config: pytest.Config) -> bool:
    chosen = [config.getoption(name, default=None) for name in ("-k", "-m", "--deselect", "--lf", "--changed-only")]
    places = {str(place) for place in config.args}
    return not any(chosen) and places in ({str(path) for path in config.getini("testpaths")}, {str(config.rootpath)})


def _reports(terminalreporter: Any) -> Iterator[Any]:
    for reports in terminalreporter.stats.values():
        yield from (report for report in reports if isinstance(report, pytest.TestReport))
