"""Builds: from kernel-src to what a machine boots.

`build` is the one call: it finds a toolchain, asks cargo, makes the boot image
and the archive, and leaves `build/ARCH-PROFILE/` with a manifest. A tree that
has not changed since costs a walk over its files and nothing else. Callers in
several processes wait for one another and build once.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.build.artifacts import (
    ARCHES,
    MANIFEST,
    PROFILES,
    SOURCE,
    TOP,
    Arch,
    Artifacts,
    OnLine,
    Profile,
    directory_of,
    load,
    programs_of,
    read_manifest,
    write_atomically,
    write_manifest,
)
from harness.build.cargo import Binary, build_workspace
from harness.build.errors import BuildError
from harness.build.images import Elf, boot_image, cpio, read_elf, section_sizes, stripped
from harness.build.toolchain import Toolchain, discover

__all__ = [
    "ARCHES",
    "PREBUILT",
    "PROFILES",
    "Arch",
    "Artifacts",
    "BuildError",
    "Profile",
    "build",
    "load",
    "programs_of",
]

# A folder of builds that another machine made (harness.build.packing); nothing is built where it is set.
PREBUILT = "QUOIN_PREBUILT"
_IMAGE_RULES = ("images.py", "cargo.py")  # a change of these changes what a build leaves


def build(
    arch: Arch,
    profile: Profile = "release",
    *,
    own_target: bool = False,
    on_line: Callable[[str], None] | None = None,
) -> Artifacts:
    """The kernel and its programs for `arch`, built if anything has changed since the last time.

    `own_target` builds for the specification in kernel-src/targets, into a directory of its own.
    `on_line` gets each line worth showing. Raises BuildError.
    """
    say: OnLine = on_line if on_line is not None else _silent
    if arch not in ARCHES or profile not in PROFILES:
        raise BuildError(
            f"an architecture of {', '.join(ARCHES)} and a profile of {', '.join(PROFILES)}",
            f"{arch} {profile}",
        )
    if (packed := os.environ.get(PREBUILT)) and not own_target:
        return load(Path(packed) / f"{arch}-{profile}")
    directory = directory_of(arch, profile, own_target=own_target)
    with _held(directory):
        toolchain = discover()
        now = fingerprint(SOURCE, toolchain.identity)
        kept = _unchanged(directory, now)
        if kept is not None:
            say(f"{arch} {profile}: nothing changed, nothing built ({directory.relative_to(TOP)})")
            return kept
        say(f"{arch} {profile}: building with {toolchain.describe()}")
        (directory / MANIFEST).unlink(missing_ok=True)  # what follows is not whole until the new one stands
        found = build_workspace(toolchain, arch, profile, directory / "build.log", say, own_target=own_target)
        artifacts = _assemble(found, toolchain, arch, profile, directory, now)
    for line in size_lines(artifacts):
        say(line)
    return artifacts


def _silent(line: str) -> None:
    """Where lines go that nobody asked for."""


def _assemble(
    found: list[Binary], toolchain: Toolchain, arch: Arch, profile: Profile, directory: Path, now: str
) -> Artifacts:
    kernel = _the_kernel(found, arch)
    users = [read_elf(b.path) for b in found if not b.is_kernel]
    image = boot_image(kernel)
    archive = cpio((elf.path.name, stripped(elf)) for elf in users)

    write_atomically(directory / "kernel.elf", kernel.raw)
    write_atomically(directory / "image", image)
    write_atomically(directory / "boot.cpio", archive)
    programs = tuple(directory / "programs" / elf.path.name for elf in users)
    for path, elf in zip(programs, users, strict=True):
        write_atomically(path, elf.raw)
    for stale in set((directory / "programs").glob("*")) - set(programs):
        stale.unlink()

    sizes = {"image": len(image), "boot.cpio": len(archive)}
    sizes |= {f"kernel {kind}": size for kind, size in section_sizes(kernel).items()}
    sizes |= {f"program {elf.path.name}": len(stripped(elf)) for elf in users}
    artifacts = Artifacts(
        arch=arch,
        profile=profile,
        directory=directory,
        kernel=directory / "kernel.elf",
        image=directory / "image",
        archive=directory / "boot.cpio",
        programs=programs,
        build_id=kernel.build_id,
        sizes=sizes,
        fresh=True,
    )
    write_manifest(artifacts, now, toolchain.identity)
    return artifacts


def _the_kernel(found: list[Binary], arch: Arch) -> Elf:
    kernels = [b for b in found if b.is_kernel and b.name == "kernel"]
    if len(kernels) != 1:
        raise BuildError("one binary called kernel outside of user/", ", ".join(b.name for b in found) or "no binaries")
    elf = read_elf(kernels[0].path)
    if elf.arch != arch:
        raise BuildError(f"a kernel for {arch}", f"one for {elf.arch} at {elf.path}")
    if not elf.build_id:
        raise BuildError(f"a GNU build id in {elf.path}", "none", next_step="link with --build-id=sha1")
    return elf


def size_lines(artifacts: Artifacts) -> list[str]:
    """Binary sizes for people, in bytes."""
    width = max(len(name) for name in artifacts.sizes)
    head = f"{artifacts.arch} {artifacts.profile}: build id {artifacts.build_id}, bytes:"
    return [head, *(f"  {name:<{width}} {size:>10,}" for name, size in artifacts.sizes.items())]


def fingerprint(source: Path, identity: str) -> str:
    """A hash that changes when a build would: files' names, sizes and times, the toolchain, and how images are made."""
    digest = hashlib.sha256(identity.encode())
    own = [Path(__file__).parent / name for name in _IMAGE_RULES]
    for path in [*sorted(_source_files(source)), *own]:
        status = path.stat()
        digest.update(f"\n{path}\0{status.st_size}\0{status.st_mtime_ns}".encode())
    return digest.hexdigest()


def _source_files(source: Path) -> Iterator[Path]:
    for entry in source.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            if entry.name != "target":
                yield from _source_files(entry)
        elif entry.is_file():
            yield entry


def _unchanged(directory: Path, now: str) -> Artifacts | None:
    """The build in `directory`, when it is whole and of this fingerprint."""
    try:
        if read_manifest(directory).get("fingerprint") != now:
            return None
        return load(directory)
    except BuildError:
        return None  # not there, or not whole: built again


@contextlib.contextmanager
def _held(directory: Path) -> Iterator[None]:
    """Hold the directory against other processes that build; they wait."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = (directory / ".lock").open("a")
    except OSError as error:
        raise BuildError(
            f"to write in {directory}",
            error.strerror or str(error),
            next_step="make room, or mend its rights",
        ) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
