"""What a matrix is: cells of a file, all or pairwise, as runs of pytest; and fair shares of their tests.

boards: [qemu-x86_64, 'qemu-a*']    # names or globs of boards/*.yaml
cpus: [1, 4]
variants:                           # a name, and pytest's options for it
  release: []
  debug: [--debug-kernel]
suites: [testsuites/boot, testsuites/smp]
mode: full                          # or pairwise: each pair of choices at least once
exclude:                            # cells of which all that is named fits are left out
  - {variant: debug, cpus: 1}
host: [testsuites/harness]          # suites that choose their boards themselves, run once
"""

from __future__ import annotations

import fnmatch
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.board import LabError, find_boards, read_yaml

AXES = ("board", "cpus", "variant", "suite")
HOST = "host"
_KEYS = {"boards", "cpus", "variants", "suites", "mode", "exclude", "host"}
_DEBUG = "--debug-kernel"
_SUCH = {"boards": "qemu-riscv64", "suites": "testsuites/boot", "host": "testsuites/harness"}
# A test that was never measured.
_UNKNOWN_S = 0.2


class MatrixError(LabError):
    """A matrix file or a share of it that means nothing; says where it stands."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One suite on one variant of one board."""

    board: str
    cpus: int
    variant: str
    suite: str

    def fits(self, rule: Mapping[str, Any]) -> bool:
        """Whether each axis that the rule names fits; globs, and lists of them."""
        return all(
            any(fnmatch.fnmatchcase(str(getattr(self, axis)), str(one)) for one in _listed(wanted))
            for axis, wanted in rule.items()
        )


@dataclass(frozen=True, slots=True)
class Unit:
    """One run of pytest: suites that share board and variant, so that they share machines."""

    name: str
    options: tuple[str, ...]
    suites: tuple[str, ...]
    tests: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix file."""

    path: Path
    cells: tuple[Cell, ...]
    variants: Mapping[str, tuple[str, ...]]
    host: tuple[str, ...]

    def profiles(self, units: Iterable[Unit]) -> tuple[str, ...]:
        """The builds of the kernel that the units boot."""
        return tuple(dict.fromkeys("debug" if _DEBUG in unit.options else "release" for unit in units))

    def units(self) -> list[Unit]:
        """Runs of pytest for all cells, and one for the host's suites."""
        found: dict[tuple[str, int, str], list[str]] = {}
        for cell in self.cells:
            found.setdefault((cell.board, cell.cpus, cell.variant), []).append(cell.suite)
        units = [
            Unit(
                f"{board}-smp{cpus}-{variant}",
                ("--board", board, "--smp", str(cpus), *self.variants[variant]),
                tuple(suites),
            )
            for (board, cpus, variant), suites in found.items()
        ]
        return units + ([Unit(HOST, (), self.host)] if self.host else [])


def read_matrix(path: Path, boards: Path, only: Sequence[str] = (), mode: str | None = None) -> Matrix:
    """The matrix in `path`, over the board files in `boards`.

    `only` are filters such as `board=qemu-a*` and `suite=testsuites/boot,testsuites/smp`; `mode` goes
    before the file's. Raises MatrixError, and BoardError for what is no board or takes no such CPUs.
    """
    try:
        data = read_yaml(path)
    except OSError as error:
        raise MatrixError(f"{path}: no matrix file: {error.strerror}; testsuites/nightly.yaml is one") from error
    except LabError as error:
        raise MatrixError(str(error)) from error
    try:
        _check(data)
    except MatrixError as error:
        raise MatrixError(f"{path}: {error}; testsuites/nightly.yaml is an example") from None
    variants = {str(k): tuple(map(str, v or ())) for k, v in (data.get("variants") or {"release": []}).items()}
    known = find_boards(tuple(map(str, data["boards"])), boards)
    chosen = mode or data.get("mode", "full")
    if chosen not in ("full", "pairwise"):
        raise MatrixError(f"{path}: mode is full or pairwise, not {chosen!r}")
    rules = data.get("exclude") or []
    for rule in [*rules, filters(only)]:
        if not isinstance(rule, dict) or set(rule) - set(AXES):
            raise MatrixError(f"{path}: a rule names some of {', '.join(AXES)}, not {rule!r}")
    names = [board.name for board in known]
    allowed = [
        cell
        for cell in (Cell(*choice) for choice in itertools.product(names, data["cpus"], variants, data["suites"]))
        if not any(cell.fits(rule) for rule in rules)
    ]
    by_name = {board.name: board for board in known}
    for board, cpus in {(cell.board, cell.cpus) for cell in allowed}:
        by_name[board].variant(smp=cpus)
    cells = allowed if chosen == "full" else pairwise(allowed)
    wanted = filters(only)
    # Suites of the host have no board, CPUs or variant that a filter could ask for.
    host = [suite for suite in data.get("host") or () if not wanted or Cell("", 0, "", suite).fits(wanted)]
    cells = [cell for cell in cells if cell.fits(wanted)]
    if not cells and not host:
        raise MatrixError(f"{path}: no cell is left by {', '.join(only) or 'exclude'}")
    return Matrix(path, tuple(cells), variants, tuple(host))


def _check(data: Any) -> None:
    """Raises MatrixError for what is no matrix."""
    needed = ("boards", "cpus", "suites")
    perhaps = ", ".join(sorted(_KEYS.difference(needed)))
    wanted = f"wants the keys {', '.join(needed)}, and perhaps {perhaps}"
    if not isinstance(data, dict):
        raise MatrixError(f"{wanted}; found {_found(data)}")
    unknown = sorted(map(str, set(data) - _KEYS))
    if unknown:
        raise MatrixError(f"{wanted}, and nothing else; found {', '.join(unknown)}")
    missing = [key for key in needed if not data.get(key)]
    if missing:
        raise MatrixError(f"{wanted}; {', '.join(missing)} is missing, or empty")
    for key in ("boards", "suites", "host"):
        value = data.get(key) or []
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise MatrixError(f"{key} is a list of texts such as [{_SUCH[key]}]; found {_found(value)}")
    cpus = data["cpus"]
    if not isinstance(cpus, list) or not all(type(one) is int and one > 0 for one in cpus):
        raise MatrixError(f"cpus is a list of numbers from 1 on such as [1, 4]; found {_found(cpus)}")
    variants = data.get("variants") or {}
    if not isinstance(variants, dict) or not all(isinstance(one or [], list) for one in variants.values()):
        raise MatrixError(
            f"variants is names with lists of pytest's options such as {{debug: [{_DEBUG}]}}; found {_found(variants)}"
        )
    if not isinstance(data.get("exclude") or [], list):
        raise MatrixError(f"exclude is a list of rules such as [{{cpus: 1}}]; found {_found(data['exclude'])}")


def _found(value: Any) -> str:
    kinds: dict[type, str] = {dict: "keys with values", list: "the list", str: "the text"}
    return f"{kinds.get(type(value), 'the value')} {json.dumps(value, default=str)}"


def filters(only: Sequence[str]) -> dict[str, list[str]]:
    """`AXIS=GLOB,GLOB` as a rule. Raises MatrixError."""
    found: dict[str, list[str]] = {}
    for text in only:
        axis, equals, globs = text.partition("=")
        if axis not in AXES or not equals:
            raise MatrixError(f"--only takes AXIS=GLOB[,GLOB] with an axis of {', '.join(AXES)}, not {text!r}")
        found.setdefault(axis, []).extend(globs.split(","))
    return found


def pairwise(cells: Sequence[Cell]) -> list[Cell]:
    """Some of `cells`, such that each pair of choices that any of them has is in one.

    Greedy, and therefore not the fewest, but exact where cells are excluded: what no cell has is not asked for.
    """
    pairs = {cell: _pairs(cell) for cell in cells}
    left = set().union(*pairs.values())
    chosen = []
    while left:
        best = max(cells, key=lambda cell: len(pairs[cell] & left))
        chosen.append(best)
        left -= pairs[best]
    return sorted(chosen, key=cells.index)


def _pairs(cell: Cell) -> set[tuple[tuple[str, Any], tuple[str, Any]]]:
    choices = [(axis, getattr(cell, axis)) for axis in AXES]
    return set(itertools.combinations(choices, 2))


def unique(units: Iterable[Unit]) -> list[Unit]:
    """The units with each test once, in the first that has it: suites that choose a variant themselves are in many."""
    seen: set[str] = set()
    found = []
    for unit in units:
        own = [test for test in unit.tests if test not in seen]
        seen.update(own)
        if own:
            found.append(Unit(unit.name, unit.options, unit.suites, tuple(own)))
    return found


def share(units: Sequence[Unit], number: int, count: int, durations: Mapping[str, float]) -> list[Unit]:
    """The tests of shard `number` (from 1) of `count`: a row of the plan, cut by measured seconds.

    A test belongs to the shard in which its middle falls; so shards have no test in common, together all
    of them, differ by less than the longest test, and boot few boards twice.
    """
    if not 1 <= number <= count:
        raise MatrixError(f"--shard takes N/M with N from 1 to M, not {number}/{count}")
    took = {test: durations.get(test, _UNKNOWN_S) or _UNKNOWN_S for unit in units for test in unit.tests}
    width = sum(took.values()) / count
    found = []
    before = 0.0
    for unit in units:
        own = []
        for test in unit.tests:
            middle = before + took[test] / 2
            before += took[test]
            # The last shard takes what rounding leaves.
            if min(int(middle / width), count - 1) == number - 1:
                own.append(test)
        if own:
            found.append(Unit(unit.name, unit.options, unit.suites, tuple(own)))
    return found


def measured_s(tests: Iterable[str], durations: Mapping[str, float]) -> float:
    """Seconds that tests took when they were measured, one after the other."""
    return sum(durations.get(test, _UNKNOWN_S) for test in tests)


def read_plan(path: Path) -> list[Unit]:
    """Units out of a run's folder. Raises MatrixError."""
    try:
        return [
            Unit(one["name"], tuple(one["options"]), tuple(one["suites"]), tuple(one["tests"]))
            for one in json.loads(path.read_text(encoding="utf-8"))
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MatrixError(f"{path} is no plan of a matrix ({error!r}); begin a new run, without --resume") from error


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
