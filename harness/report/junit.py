"""JUnit files of the parts of a run, as one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree


def join(parts: Iterable[Path], whole: Path) -> None:
    """Write all test suites of `parts` to `whole`; what is no JUnit file, of a pytest that was killed, is left out."""
    suites = ElementTree.Element("testsuites", name="quoin")
    for part in parts:
        try:
            suites.extend(ElementTree.parse(part).getroot().iter("testsuite"))
        except (OSError, ElementTree.ParseError):
            continue
    ElementTree.ElementTree(suites).write(whole, encoding="utf-8", xml_declaration=True)
