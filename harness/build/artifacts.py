"""What a build leaves behind, and the manifest that finds it again without cargo."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Literal, cast, get_args

from harness.build.errors import BuildError

Arch = Literal["x86_64", "aarch64", "riscv64"]
Profile = Literal["release", "debug"]
OnLine = Callable[[str], None]

ARCHES: tuple[Arch, ...] = get_args(Arch)
PROFILES: tuple[Profile, ...] = get_args(Profile)
TOP = Path(__file__).resolve().parents[2]
SOURCE = TOP / "kernel-src"
MANIFEST = "manifest.json"
_PIECE = 4096


@dataclass(frozen=True)
class Artifacts:
    """One kernel with its programs, built for one architecture and profile.

    `sizes` are bytes: one entry a file that boots, and one a kernel segment kind.
    `fresh` says whether this call had to build.
    """

    arch: Arch
    profile: Profile
    directory: Path
    kernel: Path
    image: Path
    archive: Path
    programs: tuple[Path, ...]
    build_id: str
    sizes: Mapping[str, int]
    fresh: bool


def directory_of(arch: Arch, profile: Profile, top: Path = TOP, *, own_target: bool = False) -> Path:
    """Where the build of `arch` and `profile` lives."""
    return top / "build" / f"{arch}-{profile}{'-own-target' if own_target else ''}"


def append_line(path: Path, line: str) -> None:
    """Add a line to a file, whole or not at all, under a lock that processes share.

    A line without an end, which a kill has cut, goes. Raises OSError; then nothing was added.
    """
    with path.open("a+b", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        whole = _whole(file)
        file.truncate(whole)
        data = memoryview(f"{line}\n".encode())
        try:
            while data:
                data = data[file.write(data) :]
        except BaseException:
            file.truncate(whole)
            raise


def _whole(file: FileIO) -> int:
    """How many bytes of a file end with a line."""
    end = file.seek(0, os.SEEK_END)
    while end:
        begin = max(end - _PIECE, 0)
        file.seek(begin)
        last = file.read(end - begin).rfind(b"\n")
        if last >= 0:
            return begin + last + 1
        end = begin
    return 0


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path` whole or not at all; a full disk leaves what was there before.

    Raises BuildError when the file system refuses.
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
        Path(temporary).replace(path)
        temporary = None
    except OSError as error:
        raise BuildError(
            f"to write {path} ({len(data)} bytes)",
            f"{error.strerror or error}",
            next_step=f"make room on the file system of {path.parent}, then build again",
        ) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def write_manifest(artifacts: Artifacts, fingerprint: str, toolchain: str) -> None:
    """Write the manifest last, so that its presence says that the rest is whole."""
    files = [artifacts.kernel, artifacts.image, artifacts.archive, *artifacts.programs]
    record = {
        "arch": artifacts.arch,
        "profile": artifacts.profile,
        "kernel": artifacts.kernel.name,
        "image": artifacts.image.name,
        "archive": artifacts.archive.name,
        "programs": [program.name for program in artifacts.programs],
        "build_id": artifacts.build_id,
        "sizes": dict(artifacts.sizes),
        "fingerprint": fingerprint,
        "toolchain": toolchain,
        "files": {str(f.relative_to(artifacts.directory)): f.stat().st_size for f in files},
    }
    text = json.dumps(record, indent=2, sort_keys=True) + "\n"
    write_atomically(artifacts.directory / MANIFEST, text.encode())


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of `directory`; BuildError when it is absent, unreadable or not a manifest."""
    path = directory / MANIFEST
    try:
        record = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise BuildError(f"a finished build in {directory}", f"no {MANIFEST} there", next_step="quoin build") from error
    except (OSError, ValueError) as error:
        raise BuildError(f"a readable {path}", str(error), next_step="quoin clean && quoin build") from error
    if not isinstance(record, dict) or record.get("arch") not in ARCHES or record.get("profile") not in PROFILES:
        raise BuildError(f"a build manifest in {path}", "other content", next_step="quoin clean && quoin build")
    return cast("dict[str, Any]", record)


def load(directory: Path) -> Artifacts:
    """The build in `directory`, as its manifest tells it; every file is checked to be there, whole.

    Raises BuildError when the manifest or a file is missing, or a file's size is another.
    """
    record = read_manifest(directory)
    try:
        for name, size in record["files"].items():
            path = directory / name
            found = path.stat().st_size if path.is_file() else None
            if found != size:
                raise BuildError(
                    f"{path} of {size} bytes",
                    "no such file" if found is None else f"{found} bytes",
                    next_step="quoin build",
                )
        return Artifacts(
            arch=record["arch"],
            profile=record["profile"],
            directory=directory,
            kernel=directory / record["kernel"],
            image=directory / record["image"],
            archive=directory / record["archive"],
            programs=tuple(directory / "programs" / name for name in record["programs"]),
            build_id=record["build_id"],
            sizes=record["sizes"],
            fresh=False,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise BuildError(
            f"a whole manifest in {directory}", f"no usable {error}", next_step="quoin clean && quoin build"
        ) from error


def programs_of(arch: Arch, profile: Profile = "release", top: Path = TOP) -> tuple[Path, ...]:
    """The user programs of the last build, with symbols; cargo is not asked. Raises BuildError."""
    return load(directory_of(arch, profile, top)).programs
