"""The kernel's tests that run on the machine that builds: what there is, and which requirements each file proves.

A file says so at its top, in the rows of testsuites/requirements.tsv:

    //! Proves: CAP-12, TST-24
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from harness.build.artifacts import SOURCE
from harness.build.errors import BuildError

_PROVES = re.compile(r"^//! Proves: (\S+(?:, \S+)*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class HostTest:
    """One file of tests, which cargo makes one program of; `path` is relative to kernel-src."""

    name: str
    path: str
    requirements: tuple[str, ...]


def host_tests(source: Path = SOURCE) -> list[HostTest]:
    """The kernel's files of tests, by name. Raises BuildError where one does not say what it proves."""
    found = []
    for path in sorted((source / "kernel" / "tests").glob("*.rs")):
        proves = _PROVES.search(path.read_text(encoding="utf-8"))
        if proves is None:
            raise BuildError(
                f"a line `//! Proves: ID, ...` in {path}", "none", next_step="name rows of testsuites/requirements.tsv"
            )
        found.append(HostTest(path.stem, str(path.relative_to(source)), tuple(proves[1].split(", "))))
    return found
