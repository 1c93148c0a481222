"""One page of a run: a file that needs nothing but a browser.

All that tests and guests said is data in the page, never markup: it is embedded as JSON in which no
character can end the element, and the script puts it on the screen as text. A policy in the page lets run
this one script (by its hash) and nothing be fetched.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.build.artifacts import write_atomically
from harness.report.requirements import read_rows
from harness.report.run import CONSOLES, PAGE, Run, last_good

# What the page holds of consoles, in bytes: in all, and at most of one machine; half of it from the begin.
IN_ALL = 6 << 20
OF_ONE = 192 << 10
# Failures whose registers and backtraces are in the page.
_LOOKED = 200
_HISTORY = 200
_LINE = re.compile(r"^ *(\d+\.\d+) ([|>!]) (.*)$")
# Lines as [seconds, sign, text], and how many bytes were left out.
Console = tuple[list[list[Any]], int]
_HERE = Path(__file__).parent


def write_page(top: Path, folder: Path, run: Run) -> Path:
    """Write the page of a run into its folder. Raises BuildError when the disk does not take it."""
    path = folder / PAGE
    write_atomically(path, html(data(top, run, kept_consoles(folder, run))).encode())
    return path


def html(content: dict[str, Any], *, live: bool = False) -> str:
    """The page around its data; a live one may ask its own server."""
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    parts = {
        "POLICY": f"default-src 'none'; img-src data:; script-src 'sha256-{allowed}'; style-src 'unsafe-inline'; "
        f"connect-src {chr(39)}{'self' if live else 'none'}{chr(39)}; base-uri 'none'; form-action 'none'",
        "STYLE": (_HERE / "page.css").read_text(encoding="utf-8"),
        "DATA": embedded(content | {"live": live}),
        "SCRIPT": script,
    }
    template = (_HERE / "page.html").read_text(encoding="utf-8")
    # In one pass: what is put in is not looked at again.
    return re.sub(r"@(POLICY|STYLE|DATA|SCRIPT)@", lambda match: parts[match[1]], template)


def embedded(content: Any) -> str:
    """JSON that may stand in a script element: ASCII, and without what could end it or begin a comment."""
    text = json.dumps(content, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def data(top: Path, run: Run, consoles: Mapping[str, Console]) -> dict[str, Any]:
    """What the page shows of a run of the checkout at `top`; `consoles` are by machine."""
    good = last_good(top, run)
    rows = top / "testsuites" / "requirements.tsv"
    return {
        "head": asdict(run.head),
        "seconds": run.seconds,
        "faults": run.faults,
        "tests": list(_tests(top, run)),
        "machines": [
            {
                "name": machine.name,
                "board": machine.board,
                "started_s": round(machine.started_s, 3),
                "log": _shown(top, machine.log),
                "lines": consoles.get(machine.name, ([], 0))[0],
                "left_out": consoles.get(machine.name, ([], 0))[1],
            }
            for machine in run.machines
        ],
        "requirements": [[row.id, row.text] for row in read_rows(rows)] if rows.exists() else [],
        "metrics": histories(top, run),
        "coverage": run.coverage,
        "good": None if good is None else _good(good),
    }


def _tests(top: Path, run: Run) -> Iterable[dict[str, Any]]:
    """Tests without what is empty: ten thousand of them are a few megabytes."""
    looked = 0
    for test in map(asdict, run.tests):
        looked += bool(test["looked"])
        if looked > _LOOKED:
            test["looked"] = ()
        test["gone"] = bool(test["replay"]) and not Path(test["postmortem"]).is_dir()
        test["log"] = _shown(top, test["log"])
        del test["postmortem"]
        numbers = {key: round(test[key], 3) for key in ("begin_s", "end_s", "seconds")}
        yield {key: value for key, value in (test | numbers).items() if value or key in numbers}


def _good(run: Run) -> dict[str, Any]:
    metrics = {_metric_key(metric): metric["metric"]["value"] for metric in run.metrics}
    tests = {test.id: [test.outcome, round(test.seconds, 3)] for test in run.tests}
    return {"head": asdict(run.head), "seconds": run.seconds, "tests": tests, "metrics": metrics}


def _shown(top: Path, path: str) -> str:
    return str(Path(path).relative_to(top)) if path and Path(path).is_relative_to(top) else path


def kept_consoles(folder: Path, run: Run) -> Mapping[str, Console]:
    """What the run in `folder` has of its consoles: read from the logs once, because the next run writes over them."""
    path = folder / CONSOLES
    if path.exists():
        return {name: (lines, left) for name, (lines, left) in json.loads(path.read_text(encoding="utf-8")).items()}
    found = consoles(run)
    if run.seconds is not None:
        keep_consoles(folder, found)
    return found


def keep_consoles(folder: Path, found: Mapping[str, Console]) -> None:
    """Keep consoles with their run. Raises BuildError when the disk does not take it."""
    write_atomically(folder / CONSOLES, json.dumps(found, separators=(",", ":")).encode())


def consoles(run: Run) -> dict[str, Console]:
    """The lines of each machine's console, begin and end of long ones; what failed goes first."""
    red = {name for test in run.tests if test.outcome == "failed" for name in test.machines}
    left = IN_ALL
    found: dict[str, Console] = {}
    for machine in sorted(run.machines, key=lambda one: one.name not in red):
        found[machine.name], size = _console(Path(machine.log), min(left, OF_ONE))
        left -= size
    return found


def _console(path: Path, most: int) -> tuple[Console, int]:
    """Lines of a log as [seconds, sign, text], how many bytes were left out, and how many bytes were read."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            if size <= most:
                pieces = [file.read()]
            else:
                first = file.read(most // 2)
                file.seek(size - most // 2)
                pieces = [first[: first.rfind(b"\n") + 1], file.read().partition(b"\n")[2]]
    except OSError:
        return ([], 0), 0  # cleaned away meanwhile
    return (
        [line for piece in pieces for line in parsed_log(piece.decode(errors="replace"))],
        size - sum(map(len, pieces)),
    ), sum(map(len, pieces))


def parsed_log(text: str) -> Iterable[list[Any]]:
    """Lines of a console log as [seconds since it began, sign, text]."""
    for line in text.split("\n"):
        if match := _LINE.match(line):
            yield [float(match[1]), match[2], match[3]]


def histories(top: Path, run: Run) -> list[dict[str, Any]]:
    """Each metric of the run with its values over all runs of the checkout, oldest first."""
    from harness.measure.gate import read_baselines
    from harness.measure.store import Store

    if not run.metrics:
        return []
    wanted = {_metric_key(metric): metric for metric in run.metrics}
    points: dict[str, list[list[Any]]] = {key: [] for key in wanted}
    for record in Store(top).read():
        key = "|".join(record.key)
        if key in points and record.at <= wanted[key]["at"]:
            points[key].append([record.at, record.metric.value, record.revision])
    baselines = read_baselines(top)
    found = []
    for key, metric in sorted(wanted.items(), key=lambda pair: (pair[1]["metric"]["name"], pair[0])):
        known = baselines.get((metric["board"], tuple(sorted(metric["tools"].items()))), {})
        baseline = known.get(f"{metric['variant']} {metric['metric']['name']}".strip())
        own = [metric["at"], metric["metric"]["value"], metric["revision"]]
        found.append(
            {
                "key": key,
                "name": metric["metric"]["name"],
                "place": "-".join(filter(None, (metric["board"], metric["variant"]))),
                "unit": metric["metric"]["unit"],
                "better": metric["metric"]["better"],
                "baseline": None if baseline is None else baseline[0],
                "points": (points[key] or [own])[-_HISTORY:],
            }
        )
    return found


def _metric_key(metric: Any) -> str:
    return "|".join((metric["board"], metric["variant"], metric["metric"]["name"]))
