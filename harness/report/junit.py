"""A run as JUnit XML, in the dialect that pytest writes (xunit1, with properties), for other tools."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from harness.build.artifacts import write_atomically
from harness.report.run import Case, Run

# What XML 1.0 has no place for (section 2.2, Char), not even as a reference.
_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_junit(path: Path, run: Run) -> None:
    """Write all tests of a run. Raises BuildError when the disk does not take it."""
    suite = ElementTree.Element(
        "testsuite",
        name="quoin",
        tests=str(len(run.tests)),
        failures=str(run.count("failed")),
        skipped=str(run.count("skipped")),
        errors="0",
        time=f"{run.seconds or 0:.3f}",
        timestamp=run.head.at,
    )
    suite.extend(_case(test) for test in run.tests)
    root = ElementTree.Element("testsuites", name="quoin")
    root.append(suite)
    write_atomically(path, ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))


def _case(test: Case) -> ElementTree.Element:
    # As pytest's own names are made: the part in brackets may hold anything.
    address, bracket, parameters = test.id.partition("[")
    *path, name = address.split("::")
    classname = ".".join([path[0].removesuffix(".py").replace("/", "."), *path[1:]]) if path else ""
    case = ElementTree.Element(
        "testcase", classname=_legal(classname), name=_legal(name + bracket + parameters), time=f"{test.seconds:.3f}"
    )
    facts = [("verdict", test.verdict), *(("requirement", one) for one in test.requirements)]
    facts += [("board", test.board)] if test.board != "host" else []
    facts += [("retried", one) for one in test.retries]
    properties = ElementTree.SubElement(case, "properties")
    for key, value in facts:
        ElementTree.SubElement(properties, "property", name=key, value=_legal(value))
    if test.outcome != "passed":
        kind = "failure" if test.outcome == "failed" else "skipped"
        ElementTree.SubElement(case, kind, message=_legal(test.cause)).text = _legal(test.text)
    return case


def _legal(text: str) -> str:
    """`text` with each character that XML cannot hold written as its number."""
    return _ILLEGAL.sub(lambda match: f"#x{ord(match[0]):02X}", text)
