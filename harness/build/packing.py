"""Builds in one file, for machines that only test: each file with its hash, and the revision that it is of."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.build.artifacts import MANIFEST, Artifacts, load, write_atomically
from harness.build.errors import BuildError

_FACTS = "pack.json"
_FORMAT = 1
_NAME = re.compile(r"[a-z0-9_]+-(?:release|debug)/(?:programs/)?[\w.-]+")
_NEXT = "pack it again: quoin matrix FILE --build-only --pack PACK"


def pack(builds: Sequence[Artifacts], out: Path, *, revision: str, durations: Mapping[str, float]) -> str:
    """Write `builds` to `out`, a tar.gz that is the same for the same contents; its SHA-256. Raises BuildError.

    `durations` are seconds by test: all who test a part of the pack cut it by the same ones.
    """
    files: dict[str, bytes] = {}
    for build in builds:
        paths = [build.directory / MANIFEST, build.kernel, build.image, build.archive, *build.programs]
        files |= {f"{build.directory.name}/{p.relative_to(build.directory)}": p.read_bytes() for p in paths}
    facts = {
        "format": _FORMAT,
        "revision": revision,
        "durations": dict(durations),
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=0, compresslevel=6) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.GNU_FORMAT) as archive,
    ):
        for name, content in {
            _FACTS: json.dumps(facts, sort_keys=True).encode(),
            **dict(sorted(files.items())),
        }.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o644
            archive.addfile(member, io.BytesIO(content))
    write_atomically(out, packed.getvalue())
    return hashlib.sha256(packed.getvalue()).hexdigest()


def unpack(path: Path, into: Path, *, revision: str) -> tuple[Path, dict[str, float]]:
    """The folder below `into` with the builds of a pack, and its durations.

    Each file's hash is checked, and that nothing else is there. Raises BuildError for another revision
    than `revision`, and for what is no whole pack.
    """
    try:
        content = path.read_bytes()
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
            members = {member.name: _bytes(archive, member) for member in archive}
        facts: dict[str, Any] = json.loads(members.pop(_FACTS))
        hashes: dict[str, str] = facts["files"]
        if facts["format"] != _FORMAT:
            raise ValueError(f"format {facts['format']}")
    except OSError as error:
        raise BuildError(f"a pack of builds at {path}", error.strerror or str(error), next_step=_NEXT) from error
    except (tarfile.TarError, EOFError, ValueError, KeyError, TypeError) as error:
        raise BuildError(f"a whole pack of builds in {path}", repr(error), next_step=_NEXT) from error
    if facts["revision"] != revision:
        raise BuildError(
            f"builds of revision {revision}, as this tree is", f"{facts['revision']} in {path}", next_step=_NEXT
        )
    bad = sorted(
        name
        for name in members.keys() | hashes.keys()
        if not _NAME.fullmatch(name)
        or ".." in name
        or hashlib.sha256(members.get(name, b"")).hexdigest() != hashes.get(name)
    )
    if bad:
        raise BuildError(
            f"files in {path} that have the hashes it tells", f"others: {', '.join(bad[:3])}", next_step=_NEXT
        )
    folder = into / hashlib.sha256(content).hexdigest()[:16]
    shutil.rmtree(folder, ignore_errors=True)
    for name, data in members.items():
        write_atomically(folder / name, data)
    for directory in {folder / name.partition("/")[0] for name in members}:
        load(directory)
    return folder, {str(test): float(took) for test, took in facts["durations"].items()}


def _bytes(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member) if member.isreg() else None
    if file is None:
        raise ValueError(f"{member.name} is no plain file")
    return file.read()
