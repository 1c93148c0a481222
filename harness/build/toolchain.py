"""Which Rust builds the kernel.

Looked for in this order: a rustup toolchain that has the three bare-metal
targets; any rustc whose `rust-src` is there, so that `core` and `alloc` can be
built from source; the distribution's own packages, which are the second kind
in a known place. Older compilers are refused by name. Looking (`candidates`)
and choosing (`choose`) are apart, so that the choice is tested on plain data.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.build.artifacts import Arch
from harness.build.errors import BuildError

Version = tuple[int, int, int]
Origin = Literal["named", "rustup", "path", "system"]

MINIMUM: Version = (1, 88, 0)
TARGETS: Mapping[Arch, str] = {
    "x86_64": "x86_64-unknown-none",
    "aarch64": "aarch64-unknown-none-softfloat",
    "riscv64": "riscv64gc-unknown-none-elf",
}
NAMED = "QUOIN_RUSTC"
DESCRIBE_LIMIT_S = 20.0


def own_target(arch: Arch) -> str:
    """The name of the target that kernel-src/targets specifies for `arch`."""
    return f"quoin-{arch}"


def dotted(version: Version) -> str:
    """`(1, 88, 0)` as people write it."""
    return ".".join(str(part) for part in version)


@dataclass(frozen=True)
class Candidate:
    """A Rust toolchain that was found, as far as choosing needs it."""

    origin: Origin
    bin: Path
    version: Version
    targets: frozenset[str]
    has_source: bool
    has_lld: bool
    identity: str

    @property
    def name(self) -> str:
        """How a message refers to it."""
        return f"rustc {dotted(self.version)} in {self.bin}"


@dataclass(frozen=True)
class Toolchain:
    """The toolchain that builds: where it is, how it is driven, and why it was chosen."""

    candidate: Candidate
    build_std: bool
    linker: Path | None  # None: the toolchain's own rust-lld
    why: str

    @property
    def cargo(self) -> Path:
        """The cargo beside the chosen rustc."""
        return self.candidate.bin / "cargo"

    @property
    def identity(self) -> str:
        """What a build depends on: compiler, linker, and whether core comes from source."""
        return f"{self.candidate.identity}; build-std={self.build_std}; linker={self.linker or 'rust-lld'}"

    def describe(self) -> str:
        """One line for people."""
        linker = "its rust-lld" if self.linker is None else str(self.linker)
        return f"{self.candidate.name}, linker {linker}: {self.why}"

    def cargo_flags(self) -> list[str]:
        """Flags that every cargo call for a bare-metal target takes."""
        if not self.build_std:
            return []
        return ["-Zbuild-std=core,alloc,compiler_builtins", "-Zbuild-std-features=compiler-builtins-mem"]

    def environment(self, base: Mapping[str, str]) -> dict[str, str]:
        """`base` with what cargo needs to find this rustc and no other.

        PATH begins with the toolchain's folder: rustup's shims would shadow it.
        """
        environment = {key: value for key, value in base.items() if key not in _FOREIGN}
        environment["PATH"] = f"{self.candidate.bin}{os.pathsep}{base.get('PATH', '/usr/bin:/bin')}"
        environment["RUSTC"] = str(self.candidate.bin / "rustc")
        if self.build_std:
            environment["RUSTC_BOOTSTRAP"] = "1"
        if self.linker is not None:
            for target in [*TARGETS.values(), *map(own_target, TARGETS)]:
                key = f"CARGO_TARGET_{target.upper().replace('-', '_')}_LINKER"
                environment[key] = str(self.linker)
        return environment


# Variables by which a caller's own Rust set-up would leak into the build.
_FOREIGN = frozenset(
    {
        "RUSTFLAGS",
        "CARGO_BUILD_RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "CARGO_TARGET_DIR",
        "CARGO_BUILD_TARGET",
    }
)


def choose(candidates: Sequence[Candidate], ld_lld: Path | None) -> Toolchain:
    """Pick the toolchain, by the order at the top of this file.

    A candidate of origin `named` is what the user asked for: it is taken or refused, never passed over.
    Raises BuildError naming the versions found and wanted, when none will do.
    """
    named = [c for c in candidates if c.origin == "named"]
    pool = named or list(candidates)
    modern = [c for c in pool if c.version >= MINIMUM]
    wanted = f"rustc of at least {dotted(MINIMUM)}, with {', '.join(TARGETS.values())} or rust-src"
    if not pool:
        raise BuildError(wanted, "no rustc at all", next_step="quoin setup")
    if not modern:
        found = ", ".join(f"{c.name} (older than {dotted(MINIMUM)})" for c in pool)
        raise BuildError(
            wanted, found, next_step=_REMEDY if not named else f"unset {NAMED}, or name a newer rustc in it"
        )

    complete = [c for c in modern if set(TARGETS.values()) <= c.targets]
    with_source = [c for c in modern if c.has_source]
    # Within a kind: rustup first, then whatever is in PATH, then the system's; the newest of equals.
    rank = {"named": 0, "rustup": 1, "path": 2, "system": 3}

    def order(candidate: Candidate) -> tuple[int, tuple[int, ...]]:
        return rank[candidate.origin], tuple(-part for part in candidate.version)

    for pick in sorted(complete, key=order):
        if pick.has_lld or ld_lld is not None:
            return Toolchain(pick, False, None if pick.has_lld else ld_lld, "it has the three bare-metal targets")
    for pick in sorted(with_source, key=order):
        if pick.has_lld or ld_lld is not None:
            linker = None if pick.has_lld else ld_lld
            return Toolchain(pick, True, linker, _why_source(pick, modern))
    usable = complete or with_source
    if usable:
        raise BuildError(
            f"a linker for {usable[0].name}",
            "neither its rust-lld nor ld.lld",
            next_step="quoin setup (package lld)",
        )
    found = ", ".join(f"{c.name} without the targets and without rust-src" for c in modern)
    raise BuildError(wanted, found, next_step=_REMEDY)


_REMEDY = "quoin setup, or: rustup target add " + " ".join(TARGETS.values())


def _why_source(pick: Candidate, modern: Iterable[Candidate]) -> str:
    passed = [c.name for c in modern if c.bin != pick.bin and not c.has_source]
    reason = "its rust-src builds core and alloc for the three targets"
    return f"{reason}; passed over for want of targets and source: {', '.join(passed)}" if passed else reason


def discover(environment: Mapping[str, str] | None = None) -> Toolchain:
    """Look at this machine and choose. Raises BuildError."""
    environment = os.environ if environment is None else environment
    lld = shutil.which("ld.lld", path=environment.get("PATH"))
    return choose(list(candidates(environment)), Path(lld) if lld else None)


def candidates(environment: Mapping[str, str]) -> Iterator[Candidate]:
    """Every toolchain on this machine that answers `rustc -vV` and has a cargo beside it."""
    seen: set[Path] = set()
    for origin, given in _folders(environment):
        folder = given.resolve() if given.is_symlink() else given  # /bin is /usr/bin on merged systems
        rustc = folder / "rustc"
        if folder in seen or not rustc.is_file() or not (folder / "cargo").is_file():
            continue
        seen.add(folder)
        described = _describe(rustc, environment)
        if described is None:
            if origin == "named":
                raise BuildError(f"a rustc at {rustc}, as {NAMED} says", "a program that does not answer -vV")
            continue
        version, identity, host = described
        root = folder.parent / "lib" / "rustlib"
        yield Candidate(
            origin=origin,
            bin=folder,
            version=version,
            targets=frozenset(t for t in TARGETS.values() if (root / t / "lib").is_dir()),
            has_source=_has_source(root),
            has_lld=os.access(root / host / "bin" / "rust-lld", os.X_OK),
            identity=identity,
        )


def _folders(environment: Mapping[str, str]) -> Iterator[tuple[Origin, Path]]:
    """The `bin` folders to look in, best origin first; rustup's shims are left out, for they choose by themselves."""
    if named := environment.get(NAMED):
        rustc = Path(named)
        if not (rustc.is_file() and (rustc.parent / "cargo").is_file()):
            raise BuildError(
                f"rustc and cargo at {named}, as {NAMED} says", "no such files", next_step=f"unset {NAMED}"
            )
        yield "named", rustc.parent
        return
    home = Path(environment.get("RUSTUP_HOME") or Path(environment.get("HOME", "/")) / ".rustup")
    toolchains = home / "toolchains"
    if toolchains.is_dir():
        for folder in sorted(toolchains.iterdir()):
            if "nightly" not in folder.name and "beta" not in folder.name:
                yield "rustup", folder / "bin"
    for entry in environment.get("PATH", "").split(os.pathsep):
        folder = Path(entry or ".")
        if entry and not (folder / "rustup").exists() and folder != Path("/usr/bin"):
            yield "path", folder
    yield "system", Path("/usr/bin")
    for folder in sorted(Path("/usr/lib").glob("rust-*/bin"), reverse=True):
        yield "system", folder


def _describe(rustc: Path, environment: Mapping[str, str]) -> tuple[Version, str, str] | None:
    try:
        answer = subprocess.run(
            [rustc, "-vV"],
            capture_output=True,
            text=True,
            timeout=DESCRIBE_LIMIT_S,
            env=dict(environment),
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return parse_version(answer)


def parse_version(answer: str) -> tuple[Version, str, str] | None:
    """Version, identity and host triple out of what `rustc -vV` prints; None when it is something else."""
    release = re.search(r"^release: (\d+)\.(\d+)\.(\d+)", answer, re.MULTILINE)
    host = re.search(r"^host: (\S+)", answer, re.MULTILINE)
    if release is None or host is None:
        return None
    version = (int(release[1]), int(release[2]), int(release[3]))
    return version, " ".join(answer.split()), host[1]


def _has_source(rustlib: Path) -> bool:
    return (rustlib / "src" / "rust" / "library" / "core" / "Cargo.toml").is_file()
