"""docs/limits.md is whole: what stands in for a limit is there, and every reason for a skip is told."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.build.artifacts import TOP
from harness.cli import VERBS

TEXT = (TOP / "docs" / "limits.md").read_text()
LIMITS, SKIPS = (
    [line.split(" | ") for line in part.splitlines() if line.startswith("| ")] for part in TEXT.split("##")
)


@pytest.mark.requirement("TST-31")
def test_what_stands_in_for_a_limit_is_there() -> None:
    assert len(LIMITS) > 5
    for row in LIMITS[1:]:
        what, why, instead = (cell.strip(" |") for cell in row)
        named = re.findall(r"`([^`]+)`", instead)
        assert what and why and (named or instead == "nothing"), row
        for name in named:
            verb = name.removeprefix("quoin ")
            assert verb in VERBS if verb != name else (TOP / name).exists(), f"{what}: there is no {name}"


@pytest.mark.requirement("TST-31")
def test_every_reason_for_a_skip_is_told() -> None:
    told = [row[0].strip(" |") for row in SKIPS[1:]]
    given = dict(reasons())
    for reason, where in given.items():
        assert any(words in reason for words in told), f"{where}: docs/limits.md does not tell of '{reason}'"
    for words in told:
        assert any(words in reason for reason in given), f"docs/limits.md: no test is skipped for '{words}' any more"


def reasons() -> Iterator[tuple[str, Path]]:
    """Why tests are skipped, and where."""
    for path in sorted((TOP / "testsuites").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            given = {"skip": node.args, "skipif": []}.get(node.func.attr)
            if given is None:
                continue
            parts = [*given, *(keyword.value for keyword in node.keywords if keyword.arg == "reason")]
            words = [str(n.value) for part in parts for n in ast.walk(part) if isinstance(n, ast.Constant)]
            if words:  # a console's skip() gives none
                yield "".join(words), path
