#!/usr/bin/env python3
"""Fetches Debian's kernels and busybox, and packs what the boards of this folder boot: build/ARCH/{kernel,initrd}.

    python fetch.py [x86_64] [aarch64] [riscv64]

apt does it in a root of its own under build/, for any architecture, without a word to the machine's own apt: only
its mirror and its proxies are taken. What is there is not fetched again.
"""

from __future__ import annotations

import argparse
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from harness.build.images import cpio

HERE = Path(__file__).resolve().parent
BUILD = HERE / "build"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
LIMIT_S = 300


class FetchError(Exception):
    """What cannot be had, and why."""


@dataclass(frozen=True)
class Package:
    """Where an architecture's kernel comes from, and its drivers in the order in which they are loaded.

    Debian 12 has no kernel for riscv64. The boards' links use the card e1000, whose driver needs no other module.
    """

    arch: str
    suite: str
    modules: tuple[str, ...] = ("e1000.ko",)


PACKAGES = {
    "x86_64": Package("amd64", "bookworm", ("e1000.ko", "watchdog.ko", "i6300esb.ko")),
    "aarch64": Package("arm64", "bookworm"),
    "riscv64": Package("riscv64", "trixie"),
}


def images(arch: str, mirror: str | None = None) -> Path:
    """The folder with `kernel` and `initrd` for `arch`, fetched where they are not there yet. Raises FetchError."""
    folder, package = BUILD / arch, PACKAGES[arch]
    needed = ("kernel", "busybox", *package.modules)
    if not all((folder / name).is_file() for name in needed):
        shutil.rmtree(folder, ignore_errors=True)
        BUILD.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=BUILD) as name:
            unpacked = Path(name) / "unpacked"
            unpacked.mkdir()
            _unpack(_download(package, mirror or own_mirror(), Path(name)), unpacked, needed)
            unpacked.rename(folder)
    members = {name: (folder / name).read_bytes() for name in needed[1:]}
    (folder / "initrd").write_bytes(cpio({"init": (HERE / "init").read_bytes(), **members}.items()))
    return folder


def own_mirror() -> str:
    """The Debian mirror of this machine's apt. Raises FetchError."""
    targets = _run(["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"])
    found = next((line for line in targets.splitlines() if line.rstrip("/").endswith("/debian")), None)
    if found is None:
        raise FetchError(
            "wanted a Debian mirror among apt's sources, found none; next: apt-get update, or --mirror URL"
        )
    return found


def _download(package: Package, mirror: str, work: Path) -> list[Path]:
    for folder in ("lists/partial", "cache/archives/partial"):
        (work / folder).mkdir(parents=True)
    (work / "sources").write_text(f"deb [signed-by={KEYRING}] {mirror} {package.suite} main\n")
    # The machine's own hooks clean the machine's own caches.
    hooks = [f"#clear APT::Update::{hook};" for hook in ("Pre-Invoke", "Post-Invoke", "Post-Invoke-Success")]
    settings = {
        "Dir::State": work,
        "Dir::State::status": "/dev/null",
        "Dir::State::lists": work / "lists",
        "Dir::Cache": work / "cache",
        "Dir::Etc::sourcelist": work / "sources",
        "Dir::Etc::sourceparts": "/dev/null",
        "APT::Architecture": package.arch,
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
    }
    lines = [f'{key} "{value}";' for key, value in settings.items()]
    lines += ["#clear APT::Architectures;", f'APT::Architectures {{ "{package.arch}"; }};', *hooks]
    (work / "conf").write_text("\n".join(lines) + "\n")
    _run(["apt-get", "-c", "conf", "update", "-qq"], work)
    depends = _run(["apt-cache", "-c", "conf", "depends", f"linux-image-{package.arch}"], work)
    kernel = next((line.split()[-1] for line in depends.splitlines() if "Depends: linux-image-" in line), None)
    if kernel is None:
        raise FetchError(f"wanted linux-image-{package.arch} of {package.suite} at {mirror}, found:\n{depends}")
    _run(["apt-get", "-c", "conf", "download", "-qq", kernel, "busybox-static"], work)
    return sorted(work.glob("*.deb"))


def _unpack(debs: list[Path], into: Path, needed: tuple[str, ...]) -> None:
    """Write `kernel`, `busybox` and the modules. Raises FetchError where one is missing."""
    for deb in debs:
        with (
            subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE) as unpack,
            tarfile.open(fileobj=unpack.stdout, mode="r|") as files,
        ):
            for file in files:
                path = Path(file.name)
                content = files.extractfile(file) if file.isfile() else None
                if content is None:
                    continue
                if path.parent.name == "boot" and path.name.startswith("vmlinu"):
                    (into / "kernel").write_bytes(content.read())
                elif path.parent.name == "bin" and path.name == "busybox":
                    (into / "busybox").write_bytes(content.read())
                elif path.suffix == ".ko" and path.name in needed:
                    (into / path.name).write_bytes(content.read())
                elif path.suffix == ".xz" and path.stem in needed:
                    (into / path.stem).write_bytes(lzma.decompress(content.read()))
    missing = {*needed} - {path.name for path in into.iterdir()}
    if missing:
        raise FetchError(f"wanted {', '.join(sorted(missing))} in {', '.join(deb.name for deb in debs)}, found none")


def _run(command: list[str], folder: Path | None = None) -> str:
    if shutil.which(command[0]) is None:
        raise FetchError(f"wanted {command[0]}, found none in PATH; next: take a host with apt, such as Debian")
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise FetchError(f"{' '.join(command)} did not end within {LIMIT_S} s") from error
    if done.returncode:
        raise FetchError(f"{' '.join(command)} ended with status {done.returncode}: {done.stderr.strip()[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("arch", nargs="*", help=f"of {', '.join(PACKAGES)} (all)")
    parser.add_argument("--mirror", help="a Debian mirror (that of this machine's apt)")
    chosen = parser.parse_args()
    try:
        for name in chosen.arch or PACKAGES:
            if name not in PACKAGES:
                raise FetchError(f"wanted one of {', '.join(PACKAGES)}, found {name!r}")
            print(images(name, chosen.mirror))
    except FetchError as problem:
        sys.exit(f"fetch: {problem}")
