"""`quoin requirements`: each row of testsuites/requirements.tsv, the tests that prove it, their verdicts.

Marks are read from the sources without importing them (of the kernel's tests on the host, the line at
their top), kernel tests from the records in the programs' ELF files, verdicts from the JUnit files of the
last runs. No board is touched.
"""

from __future__ import annotations

import argparse
import ast
import fnmatch
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.build.artifacts import TOP
from harness.build.errors import BuildError
from harness.report.requirements import read_rows

SUMMARY = "list each requirement with the tests that prove it and their last verdicts"
PASSES_ON = False

SUITES = TOP / "testsuites"
MARK = "requirement"
HOST_TEST = "testsuites.harness.test_build_checks::test_the_kernels_pure_parts_pass_on_the_host"


@dataclass(frozen=True, slots=True)
class Proof:
    """A test that says that it proves `requirement`. `key` is its name in a JUnit file, mostly without parameters."""

    requirement: str
    test: str
    key: str


def marks_in(source: str, name: str) -> Iterator[Proof]:
    """Proofs in the text of a test module whose path, from the tree's top, is `name`."""
    module = ast.parse(source, filename=name)
    common = [
        found
        for statement in module.body
        if isinstance(statement, ast.Assign) and any(_is_name(t, "pytestmark") for t in statement.targets)
        for found in _ids([statement.value])
    ]
    dotted = name.removesuffix(".py").replace("/", ".")
    yield from _in_body(module.body, common, name, dotted)


def _in_body(body: Sequence[ast.stmt], above: Sequence[str], path: str, dotted: str) -> Iterator[Proof]:
    for statement in body:
        if isinstance(statement, ast.ClassDef) and statement.name.startswith("Test"):
            inner = [*above, *_ids(statement.decorator_list)]
            yield from _in_body(statement.body, inner, f"{path}::{statement.name}", f"{dotted}.{statement.name}")
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef) and statement.name.startswith("test"):
            for found in dict.fromkeys([*above, *_ids(statement.decorator_list)]):
                yield Proof(found, f"{path}::{statement.name}", f"{dotted}::{statement.name}")


def _ids(expressions: Iterable[ast.expr]) -> Iterator[str]:
    """The texts given to `pytest.mark.requirement(...)` anywhere in `expressions`."""
    for expression in expressions:
        for node in ast.walk(expression):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == MARK:
                yield from (a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str))


def _is_name(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def proofs(suites: Path) -> list[Proof]:
    """Every proof in the Python suites and in the kernel's test programs."""
    found: list[Proof] = []
    for path in sorted(suites.rglob("test_*.py")):
        found += marks_in(path.read_text(encoding="utf-8"), str(path.relative_to(suites.parent)))
    return found + list(host_proofs()) + list(kernel_proofs(suites))


def host_proofs() -> Iterator[Proof]:
    """Proofs by the kernel's tests on the host: each file of them is one parameter of one test."""
    from harness.build.host_tests import host_tests

    for test in host_tests():
        for requirement in test.requirements:
            yield Proof(requirement, f"kernel-src/{test.path}", f"{HOST_TEST}[{test.name}]")


def kernel_proofs(suites: Path) -> Iterator[Proof]:
    """Proofs by kernel tests, out of the programs of the builds that there are; none before the first build."""
    import yaml

    from harness.build.artifacts import ARCHES, PROFILES, programs_of
    from harness.plugin.records import read_records

    programs: dict[str, Path] = {}
    for arch in ARCHES:
        for profile in PROFILES:
            try:
                programs |= {path.name: path for path in programs_of(arch, profile)}
            except BuildError:
                continue  # not built, so it has nothing to tell
    for path in sorted(suites.rglob("kernel-tests.yaml")):
        name = str(path.relative_to(suites.parent))
        asked = yaml.safe_load(path.read_text(encoding="utf-8"))["programs"]
        for record in (r for program in asked if program in programs for r in read_records(programs[program])):
            for requirement in record.requirements:
                yield Proof(requirement, f"{name}::{record.case}", f"{name.replace('/', '.')}::{record.case}")


def verdicts(files: Iterable[Path]) -> Mapping[str, Mapping[str, str]]:
    """For each test, its last verdict on each board; `files` are JUnit files, later ones win."""
    from harness.cli.suites import read_junit

    found: dict[str, dict[str, str]] = {}
    for path in files:
        for result in read_junit(path):
            # Parameters other than the board share an entry: one that failed decides. Each has one of its own, too.
            for name in {result.name, result.name.split("[", 1)[0]}:
                own = found.setdefault(name, {})
                if own.get(result.board, "passed") in ("passed", "skipped") or result.outcome == "failed":
                    own[result.board] = result.verdict
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which rows, and how strict."""
    parser.add_argument("id", nargs="*", help="ids or globs, such as BLD-01 or 'SMP-*'; all rows without one")
    parser.add_argument("--missing", action="store_true", help="only rows without a test")
    parser.add_argument("--gate", action="store_true", help="status 1 unless every row shown has a test that passed")


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Print the rows."""
    from harness.cli.suites import RESULTS

    rows = [row for row in read_rows(SUITES / "requirements.tsv") if not args.id or _asked(row.id, args.id)]
    if not rows:
        raise BuildError(f"rows of {SUITES / 'requirements.tsv'}", f"none called {', '.join(args.id)}")
    by_row: dict[str, list[Proof]] = {}
    for proof in proofs(SUITES):
        by_row.setdefault(proof.requirement, []).append(proof)
    seen = verdicts(sorted(RESULTS.glob("*.xml"), key=lambda p: p.stat().st_mtime))
    unproved = 0
    shown = 0
    for row in rows:
        own = by_row.get(row.id, [])
        states = {state for proof in own for state in seen.get(proof.key, {}).values()}
        unproved += "passed" not in states or bool(states - {"passed", "skipped"})
        if args.missing and own:
            continue
        shown += 1
        print(f"{row.id}  {row.text}")
        if row.reading:
            print(f"    read as: {row.reading}")
        for proof in own:
            boards = seen.get(proof.key, {})
            told = ", ".join(f"{board} {verdict}" for board, verdict in sorted(boards.items()))
            print(f"    {proof.test}: {told or 'not run yet'}")
        if not own:
            print("    no test")
    unknown = sorted(set(by_row) - {row.id for row in read_rows(SUITES / "requirements.tsv")})
    if unknown:
        raise BuildError("marks that name rows of requirements.tsv", f"unknown ids: {', '.join(unknown)}")
    proved = len(rows) - unproved
    print(f"\n{shown} rows shown; {sum(row.id in by_row for row in rows)} of {len(rows)} have a test, {proved} passed")
    return 1 if args.gate and unproved else 0


def _asked(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
