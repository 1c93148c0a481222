"""The last full nightly in a few lines that are kept in the tree: its figures, its hash, and what tests took."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.report.run import RUN, Run, RunError, folders, read

FILE = "testsuites/nightly-last.json"
_FORMAT = 1
# Shorter tests are told by their mean.
_WORTH_S = 1.0
# Runs of the store that are asked what tests take.
_ASKED = 5


def write_figures(top: Path, folder: Path, run: Run) -> Path:
    """Write the figures of the run in `folder`. Raises RunError where it is not a whole one."""
    if run.seconds is None or run.head.shard or run.faults:
        what = run.faults[0] if run.faults else f"shard {run.head.shard}" if run.head.shard else "it has not ended"
        raise RunError(f"figures are kept of a full run, and {run.head.name} is none: {what}")
    boards: dict[str, dict[str, Any]] = {}
    for test in run.tests:
        row = boards.setdefault(test.board, {"passed": 0, "failed": 0, "skipped": 0, "seconds": 0.0})
        row[test.outcome] += 1
        row["seconds"] = round(row["seconds"] + test.seconds, 1)
    short = [test.seconds for test in run.tests if test.seconds < _WORTH_S]
    figures = {
        "format": _FORMAT,
        "at": run.head.at,
        "revision": run.head.revision,
        "host": run.head.host,
        "kind": run.head.kind,
        "seconds": round(run.seconds, 1),
        "plan": run.head.plan,
        "run_sha256": hashlib.sha256((folder / RUN).read_bytes()).hexdigest(),
        "tests": {outcome: run.count(outcome) for outcome in ("passed", "failed", "skipped")},
        "boards": dict(sorted(boards.items())),
        "short_s": round(sum(short) / max(len(short), 1), 3),
        "long_s": {test.id: round(test.seconds, 1) for test in run.tests if test.seconds >= _WORTH_S},
    }
    path = top / FILE
    path.write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return path


def kept_durations(top: Path) -> Mapping[str, float]:
    """Seconds by test that the tree keeps; empty where it keeps none. Raises RunError."""
    path = top / FILE
    if not path.exists():
        return {}
    try:
        return {str(test): float(took) for test, took in json.loads(path.read_text(encoding="utf-8"))["long_s"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{path} has no figures ({error!r}); take it from git") from error


def measured_durations(top: Path) -> Mapping[str, float]:
    """Seconds by test: what the tree keeps, and over it what this checkout's newest runs measured."""
    found = dict(kept_durations(top))
    for folder in folders(top)[-_ASKED:]:
        with contextlib.suppress(RunError):  # damaged, or of another version
            found |= {test.id: test.seconds for test in read(folder).tests if test.outcome == "passed"}
    return found
