"""The pytest plugin: boards as parameters, machines as fixtures, verdicts in reports.

Nothing of the lab is imported here: a run that takes no board pays for pytest
only. What takes a board comes in on first use.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from harness.plugin.clean_target import fresh_target
from harness.plugin.counting import count
from harness.plugin.faults import SEED, faults
from harness.plugin.fixtures import artifacts, board, boot, console, fresh_machine, lab, machine
from harness.plugin.nodes import nodes

if TYPE_CHECKING:
    from harness.board import Board
    from harness.plugin.kernel_tests import KernelTestFile

__all__ = [
    "artifacts",
    "board",
    "boot",
    "console",
    "count",
    "faults",
    "fresh_machine",
    "fresh_target",
    "lab",
    "machine",
    "nodes",
]

# By name, not by import: what measures and what reports stand on this plugin.
pytest_plugins = ("harness.measure.plugin", "harness.report.plugin")

DEFAULT_BOARDS = "qemu-x86_64,qemu-aarch64,qemu-riscv64"
KERNEL_TESTS = "kernel-tests.yaml"
_MARKS = (
    "requirement(*ids): the rows of testsuites/requirements.tsv that this test proves",
    "needs(*expressions): what the board must have, such as 'smp>=2', 'memory>=256M', 'qmp', 'arch==riscv64'",
    "bench: a benchmark; run only when -m names it",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("quoin", "boards")
    group.addoption(
        "--board",
        action="append",
        metavar="NAME[,NAME]",
        help="boards to test on: names or globs of boards/*.yaml, place:NAME or tags (arch=riscv64) of a remote lab "
        f"(default: {DEFAULT_BOARDS})",
    )
    group.addoption("--smp", metavar="N[,N]", help="numbers of CPUs (default: the board's own)")
    group.addoption("--memory", metavar="SIZE[,SIZE]", help="sizes of memory, such as 128M,2G (default: the board's)")
    group.addoption("--icount", action="store_true", help="let the guests' clocks count instructions")
    group.addoption(
        "--deterministic",
        type=int,
        metavar="SEED",
        help="run kernel tests so that SEED brings the same run again: one host thread, debug kernel, nothing typed",
    )
    group.addoption(
        "--soak",
        type=int,
        metavar="N",
        help="run each test N times: kernel tests with the N seeds from --deterministic's (1 if not given) on",
    )
    group.addoption("--soak-variant", metavar="ID", help="with --soak: only the variant with this in its brackets")
    group.addoption("--cold", action="store_true", help="give each fresh_target, and each kernel case, its own boot")
    group.addoption("--debug-kernel", action="store_true", help="test the debug build of the kernel")
    group.addoption("--both-kernels", action="store_true", help="test the release and the debug build")
    group.addoption("--coverage", action="store_true", help="record which lines of kernel and programs tests execute")
    group.addoption("--coverage-folder", default="build/coverage", metavar="DIR", help="where coverage is kept")
    group.addoption(
        "--changed",
        nargs="?",
        const="HEAD",
        metavar="REV",
        help="first the tests that execute lines changed since REV (write --changed=REV; HEAD if not given)",
    )
    group.addoption("--changed-only", action="store_true", help="with --changed: only those tests")
    group.addoption(
        "--lab-retries", type=int, default=1, metavar="N", help="how often a starved or lab-fault test is run again (1)"
    )
    parser.addini("quarantine", "the file of tests whose failure is known (testsuites/quarantine.yaml)", default="")
    group.addoption("--no-wait", action="store_true", help="fail where a board is leased by another, and do not wait")
    group.addoption(SEED, type=int, metavar="SEED", help="draw the faults that a test draws at random as it did before")
    group.addoption("--kernel-args", default="", metavar="WORDS", help="words for the kernel command line")


def pytest_configure(config: pytest.Config) -> None:
    for mark in _MARKS:
        config.addinivalue_line("markers", mark)
    asked = any(config.getoption(name) for name in ("--board", "--smp", "--memory", "--icount"))
    seeded = config.getoption("--deterministic") is not None or config.getoption("--soak") is not None
    if asked or seeded:
        # What was asked for is checked at once, and not once in every module.
        from harness.board import LabError
        from harness.plugin.matrix import seeds, selected

        try:
            seeds(config)
            if asked:
                selected(config)
        except LabError as error:
            raise pytest.UsageError(str(error)) from error

    from harness.plugin.discipline import Discipline

    config.pluginmanager.register(Discipline(config), "quoin-discipline")
    if config.getoption("--no-wait"):
        os.environ["QUOIN_NO_WAIT"] = "1"  # workers and machines of this run inherit it
    if config.getoption("--coverage"):
        from harness.plugin.coverage import begin

        begin(config)


def pytest_unconfigure(config: pytest.Config) -> None:
    from harness.plugin.keys import COVERAGE, LAB

    lab = config.stash.get(LAB, None)
    if lab is not None:
        lab.close()
    if COVERAGE in config.stash:
        config.stash[COVERAGE].close()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if config.getoption("--coverage"):
        from harness.plugin.coverage import tell

        tell(config, terminalreporter)
    if config.getoption("--soak") is not None or config.getoption("--deterministic") is not None:
        from harness.plugin.soak import tell as tell_soak

        tell_soak(config, terminalreporter)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    rounds = metafunc.config.getoption("--soak")
    if rounds is not None:
        metafunc.fixturenames.append("soak_round")
        metafunc.parametrize("soak_round", range(1, rounds + 1), ids=lambda number: f"round{number}")
    if "board" not in metafunc.fixturenames:
        return
    from harness.board import LabError
    from harness.plugin.matrix import parameters

    try:
        boards = parameters(metafunc.config, metafunc.definition)
    except LabError as error:
        raise pytest.Collector.CollectError(str(error)) from error
    metafunc.parametrize("board", boards, scope="session", indirect=True)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from harness.plugin.workers import scheduler

    return scheduler(config, log)


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> KernelTestFile | None:
    if file_path.name != KERNEL_TESTS:
        return None
    from harness.plugin.kernel_tests import KernelTestFile

    return KernelTestFile.from_parent(parent, path=file_path)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        for mark in item.iter_markers("requirement"):
            item.user_properties += [("requirement", str(name)) for name in mark.args]
        callspec = getattr(item, "callspec", None)
        if callspec is not None and "board" in callspec.params:
            item.user_properties.append(("board", callspec.params["board"].id))
    if (variant := config.getoption("--soak-variant")) is not None:
        from harness.plugin.soak import keep_variant

        keep_variant(config, items, variant)
    if config.getoption("--changed") or config.getoption("--changed-only"):
        from harness.board import LabError
        from harness.plugin.coverage import order

        try:
            order(config, items, str(config.getoption("--changed") or "HEAD"))
        except LabError as error:
            raise pytest.UsageError(str(error)) from error
    if "bench" in str(config.getoption("-m", default="")):
        return
    benches = [item for item in items if item.get_closest_marker("bench")]
    if benches:
        config.hook.pytest_deselected(items=benches)
        items[:] = [item for item in items if not item.get_closest_marker("bench")]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, bool | None, bool | None]:
    done = yield
    if item.config.getoption("--coverage"):
        from harness.plugin.coverage import settle

        settle(item)
    return done


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """End the shared machine when the next test does not use it.

    An idle one keeps others waiting: also a lab that the next test starts and waits for.
    """
    from harness.plugin.keys import LAB

    lab = item.config.stash.get(LAB, None)
    if lab is not None:
        lab.drop_unless(board_of(nextitem) if _shares(nextitem) else None)


def board_of(item: pytest.Item | None) -> Board | None:
    """The board that a test takes, if it takes one."""
    callspec = getattr(item, "callspec", None)
    found = callspec.params.get("board") if callspec is not None else getattr(item, "board", None)
    return cast("Board | None", found)


def _shares(item: pytest.Item | None) -> bool:
    """Whether a test uses the machine that tests of its board share."""
    names = getattr(item, "fixturenames", None)
    return names is None or not {"machine", "fresh_target"}.isdisjoint(names)  # a kernel test has no fixtures


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    yield
    from harness.plugin.keys import MACHINES

    if item.stash.get(MACHINES, None):
        from harness.plugin.reporting import check_machines

        check_machines(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    from harness.plugin.keys import MACHINES, TAKES_BOARD

    if item.stash.get(MACHINES, None) or TAKES_BOARD in item.stash:
        from harness.plugin.reporting import add_verdict

        add_verdict(item, call, report)
    return report


def pytest_enter_pdb(config: pytest.Config, pdb: Any) -> None:
    """Hold the machines' clocks while a person is at the debugger's prompt; steps that it runs have theirs."""
    from harness.plugin.keys import LAB

    prompt = pdb.interaction

    def held(*args: Any) -> None:
        with ExitStack() as stack:
            if LAB in config.stash:
                stack.enter_context(config.stash[LAB].clocks_held())
            prompt(*args)

    pdb.interaction = held


def pytest_make_parametrize_id(config: pytest.Config, val: Any, argname: str) -> str | None:
    return str(val.id) if argname == "board" and hasattr(val, "id") else None
