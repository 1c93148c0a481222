"""The pytest side of reports: `--report` keeps the run, and makes its page at the end.

What is told of a test travels in its report, so that under xdist one process writes. `--list-to` and
`--only-from` are what a matrix is made of: the tests that a choice of options has, and those to run.
"""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from harness.report.run import Writer

# A failure's text in the store: its end has the verdict.
LONGEST_TEXT = 1 << 16
_ATTRIBUTE = "quoin_told"
_QUARANTINE = "quarantine: "
_LONGEST_README = 96 << 10
_RULE = re.compile(r"\n+-{72}\n+")
_PLACE = re.compile(r"^(\S+\.\w+:\d+): ", re.MULTILINE)
_BEGAN: pytest.StashKey[float] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("quoin", "boards")
    group.addoption("--report", action="store_true", help="keep this run under build/reports, and make its page")
    group.addoption("--report-into", metavar="DIR", help="keep it as a part of the run that goes on in DIR")
    group.addoption("--list-to", metavar="FILE", help="with --collect-only: write the tests to FILE, as JSON")
    group.addoption("--only-from", metavar="FILE", help="run only the tests whose ids FILE lists, as JSON")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Begin the run, before the metrics look for its name."""
    into = config.getoption("--report-into")
    if hasattr(config, "workerinput") or not (config.getoption("--report") or into):
        return
    from harness.report.run import Writer, new_name

    name = new_name()
    writer = Writer(Path(into)) if into else begin(config, name)
    config.option.metrics_run = config.option.metrics_run or writer.head.name
    config.pluginmanager.register(Recorder(config, writer, whole=not into), "quoin-report")


def begin(config: pytest.Config, name: str) -> Writer:
    """A run of its own: what may be compared with it was given the same arguments."""
    from harness.measure.tools import revision
    from harness.report.run import Writer

    arguments = shlex.join(str(word) for word in config.invocation_params.args if not str(word).startswith("--junit"))
    return Writer.begin(
        config.rootpath,
        name,
        f"pytest {arguments}",
        revision=revision(config.rootpath),
        host=host(),
        command=f"pytest {arguments}",
    )


def host() -> str:
    """This host in a few words."""
    import os
    import platform

    return f"{platform.machine()}, {os.cpu_count()} CPUs, {platform.system()} {platform.release()}"


class Recorder:
    """Writes what reports bring to the run's folder; `whole` where the run ends with this pytest."""

    def __init__(self, config: pytest.Config, writer: Writer, *, whole: bool) -> None:
        self._config = config
        self._writer = writer
        self._whole = whole
        self._machines: set[str] = set()
        self._open: dict[str, list[pytest.TestReport]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._open.setdefault(report.nodeid, []).append(report)
        if report.when == "teardown":
            self._keep(self._open.pop(report.nodeid))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._writer.add(f"{report.nodeid or 'collection'}: {report.longreprtext}"[-LONGEST_TEXT:])

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, exitstatus: int) -> None:
        for reports in list(self._open.values()):  # a worker that was lost tells of no teardown
            self._keep(reports)
        if int(exitstatus) not in (0, 1, 5):
            self._writer.add(f"pytest ended with status {int(exitstatus)}")

    def pytest_unconfigure(self) -> None:
        """Coverage is written by now; all else is made of what was kept."""
        if not self._whole:
            return
        from harness.report.junit import write_junit
        from harness.report.page import write_page
        from harness.report.run import JUNIT, prune

        top = self._config.rootpath
        run = self._writer.finish(metrics=metrics_of(top, self._writer.head.name), coverage=self._coverage())
        write_junit(self._writer.folder / JUNIT, run)
        page = write_page(top, self._writer.folder, run)
        prune(top)
        print(f"report: {page}")

    def _coverage(self) -> list[tuple[str, int, int]]:
        if not self._config.getoption("--coverage"):
            return []
        from harness.plugin.coverage import SUMMARY, folder_of

        return coverage_of(folder_of(self._config) / SUMMARY)

    def _keep(self, reports: list[pytest.TestReport]) -> None:
        from harness.report.run import Case, Machine

        told: dict[str, Any] = {}
        for report in reports:
            told |= getattr(report, _ATTRIBUTE, {})
        for name, board, log, started_s in told.pop("machines", []):
            if name not in self._machines:
                self._machines.add(name)
                self._writer.add(Machine(name, board, log, self._writer.since_begin(started_s)))
            told.setdefault("on", []).append(name)
        properties = [pair for report in reports for pair in report.user_properties]
        named = dict(properties)
        failed = [report for report in reports if report.failed]
        skipped = [report for report in reports if report.skipped]
        outcome = "failed" if failed else "skipped" if skipped else "passed"
        text = "\n\n".join(_text(report) for report in failed)
        known = str(next((getattr(report, "wasxfail", "") for report in reports if hasattr(report, "wasxfail")), ""))
        begin, end = told.get("begin", 0.0), told.get("end", 0.0)
        self._writer.add(
            Case(
                id=reports[0].nodeid,
                outcome=outcome,  # type: ignore[arg-type]  # one of three
                verdict=told.get("verdict") or (outcome if outcome != "passed" else str(named.get("verdict", outcome))),
                board=str(named.get("board", "host")),
                cause=told.get("cause") or _cause(failed, skipped),
                begin_s=self._writer.since_begin(begin) if begin else 0.0,
                end_s=self._writer.since_begin(end) if end else 0.0,
                seconds=sum(report.duration for report in reports),
                requirements=tuple(dict.fromkeys(str(value) for key, value in properties if key == "requirement")),
                retries=tuple(
                    str(value) for report in reports[-1:] for key, value in report.user_properties if key == "retried"
                ),
                quarantine=known.removeprefix(_QUARANTINE) if known.startswith(_QUARANTINE) else "",
                place=told.get("place", ""),
                text=text[-LONGEST_TEXT:],
                rerun=told.get("rerun") or shlex.join(["pytest", reports[0].nodeid]),
                replay=told.get("replay", ""),
                postmortem=told.get("postmortem", ""),
                looked=looked_at(Path(told["postmortem"])) if told.get("postmortem") else (),
                machines=tuple(told.get("on", ())),
                log=told.get("log", ""),
            )
        )


def coverage_of(path: Path) -> list[tuple[str, int, int]]:
    """Executed and known lines by file, from the summary that `--coverage` writes; none where there is no such file."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        if match := re.fullmatch(r"(\S.*?) +(\d+) of +(\d+) +[\d.]+ %", line):
            found.append((match[1], int(match[2]), int(match[3])))
    return [row for row in found if row[0] != "total"]


def metrics_of(top: Path, name: str) -> list[dict[str, Any]]:
    """The metrics that a run kept, as the store has them."""
    from harness.measure.store import Store, to_json

    return [json.loads(to_json(record)) for record in Store(top).run(name)]


def looked_at(postmortem: Path) -> tuple[tuple[str, str], ...]:
    """What a postmortem's README says beside the test's own text, as (title, text): versions, and each CPU."""
    try:
        text = (postmortem / "README").read_bytes()[:_LONGEST_README].decode(errors="replace").replace("\r\n", "\n")
    except OSError:
        return ()  # forgotten meanwhile
    found = []
    for part in _RULE.split(text):
        title, _, rest = part.strip("\n").partition("\n")
        if re.fullmatch(r"CPU \d+", title):
            found.append((title, rest.strip("\n")))
        elif title.startswith(("QEMU: ", "Not looked into")):
            found.append((title.partition(":")[0], part.strip("\n")))
    return tuple(found)


def _text(report: pytest.TestReport) -> str:
    sections = "\n".join(f"--- {name}\n{text}" for name, text in report.sections)
    return f"{report.longreprtext}\n{sections}".strip()


def _cause(failed: list[pytest.TestReport], skipped: list[pytest.TestReport]) -> str:
    """One line: of a failure what pytest's summary says, of a skip its reason."""
    if failed:
        crash = getattr(failed[0].longrepr, "reprcrash", None)
        text = str(crash.message if crash is not None else failed[0].longrepr)
    else:
        reason = skipped[0].longrepr if skipped else ""
        text = str(reason[2] if isinstance(reason, tuple) else getattr(skipped[0], "wasxfail", "") if skipped else "")
    return text.strip().partition("\n")[0].removeprefix("Skipped: ")


# On the side where tests run.


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, bool | None, bool | None]:
    item.stash[_BEGAN] = time.monotonic()
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if item.config.getoption("--report") or item.config.getoption("--report-into"):
        setattr(report, _ATTRIBUTE, _told(item, call, report))
    return report


def _told(item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport) -> dict[str, Any]:
    """What the store wants of a test and its report does not have; plain data, because it travels."""
    from harness.plugin.keys import MACHINES, TOLD

    told: dict[str, Any] = {}
    if report.failed:
        if (known := item.stash.get(TOLD, None)) is not None:
            told |= {"verdict": known.verdict, "cause": known.cause, "rerun": known.rerun, "replay": known.replay}
            told["postmortem"] = "" if known.postmortem is None else str(known.postmortem)
        told["place"] = _place(item, call, report)
    if report.when != "teardown":
        return told
    taken = item.stash.get(MACHINES, [])
    told["machines"] = [
        [
            one.session.log_path.parent.name,
            one.session.board.id,
            str(one.session.log_path),
            one.session.started_s,
        ]
        for one in taken
    ]
    told["log"] = str(taken[0].log) if taken else ""
    told["begin"], told["end"] = item.stash[_BEGAN], time.monotonic()
    # A kernel test's is when its lines came: the target runs ahead, or has to boot first.
    times = getattr(item, "console_times", None)
    if times is not None:
        told["begin"], told["end"] = times
    return told


def _place(item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport) -> str:
    """The line of the test's own file where it stood; of a kernel test, the line that panicked."""
    for entry in reversed(call.excinfo.traceback) if call.excinfo is not None else ():
        if Path(entry.path) == item.path:
            return f"{item.nodeid.partition('::')[0]}:{entry.lineno + 1}"
    match = _PLACE.search(report.longreprtext)
    if match:
        return match[1]
    place, number, _ = item.reportinfo()
    return f"{Path(place).name}:{(number or 0) + 1}"


# What a matrix is made of.


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    path = config.getoption("--only-from")
    if not path:
        return
    wanted = dict.fromkeys(json.loads(Path(path).read_text(encoding="utf-8")))
    known = {item.nodeid: item for item in items}
    missing = [name for name in wanted if name not in known]
    if missing:
        raise pytest.UsageError(f"{path} lists {len(missing)} tests that are not there, such as {missing[0]}")
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in wanted])
    items[:] = [item for item in items if item.nodeid in wanted]


def pytest_collection_finish(session: pytest.Session) -> None:
    path = session.config.getoption("--list-to")
    if path:
        Path(path).write_text(json.dumps([item.nodeid for item in session.items]), encoding="utf-8")
