"""What the lab does where there is no room: `python -m support.full_disk FOLDER [ballast]` tells it as JSON.

With `ballast` the folder is a small file system, which is filled; else no file may become larger than the store.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from harness.board import Lease
from harness.build.artifacts import write_atomically
from harness.measure.store import Store
from harness.report.run import Writer
from support.victims import BLOB_BYTES, home, nothing_is_left, own, record, session


def _fill(ballast: Path) -> None:
    with ballast.open("ab", buffering=0) as file:
        for size in (65536, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue


def main() -> None:
    """Do each thing on a full disk, and some of it again where there is room."""
    folder, ballast = home(Path(sys.argv[1])), Path(sys.argv[1]) / "ballast"
    os.environ.update(own(folder))
    tempfile.tempdir = os.environ["TMPDIR"]
    store, writer = Store(folder), Writer.begin(folder, "run", "test")
    store.append(record(0))
    writer.add("fault 0")
    blob = folder / "build" / "blob"
    write_atomically(blob, b"a" * BLOB_BYTES)
    on = session(folder)
    on.wait_ready(60.0)

    def fill() -> None:
        if len(sys.argv) > 2:
            _fill(ballast)
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, (store.path.stat().st_size + 10, resource.RLIM_INFINITY))

    def lease() -> None:
        taken = Lease("other")
        taken.take(0.0)
        taken.release()

    def log() -> None:
        for _ in range(4):
            on.broker.note("x" * 70_000)
        on.check_log()

    def another() -> None:
        on.close()
        fill()
        session(folder).close()

    deeds: dict[str, Callable[[], None]] = {
        "store": lambda: store.append(record(4999)),
        "run": lambda: writer.add("x" * 9999),
        "file": lambda: write_atomically(blob, b"b" * BLOB_BYTES),
        "lease": lease,
        "log": log,
        "session": another,
    }
    told = {}
    fill()
    for name, deed in deeds.items():
        try:
            deed()
            told[name] = "taken and given back"
        except Exception as error:  # noqa: BLE001  # whatever it is, its words are what is looked at
            told[name] = f"{type(error).__name__}: {error}"
    ballast.unlink(missing_ok=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    on.close()
    store.append(record(1))
    writer.add("fault 1")
    nothing_is_left(folder)
    print(json.dumps(told))


if __name__ == "__main__":
    main()
