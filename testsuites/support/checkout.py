"""A checkout of its own in a temporary folder: this harness, a tiny workspace, and a cargo that plays from a script.

What a build leaves, and how it ends when things go wrong, is tested here without
waiting for a compiler and without touching the real build folder.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.build.artifacts import TOP
from harness.build.toolchain import TARGETS
from support.elf_files import Load, make_elf, make_kernel

RUN_LIMIT_S = 60.0

_CARGO = """#!/bin/sh
echo "$@" >> '{root}/cargo-calls'
echo '   Compiling kernel' >&2
if [ -e '{root}/hang' ]; then
    sleep 600 &
    echo "$!" > '{root}/child'
    wait
fi
if [ -e '{root}/broken' ]; then cat '{root}/broken' >&2; exit 101; fi
cat '{root}/messages'
"""


@dataclass(frozen=True)
class Checkout:
    """`root` is the folder, `tree` the checkout in it."""

    root: Path

    @property
    def tree(self) -> Path:
        return self.root / "tree"

    def environment(self) -> dict[str, str]:
        """What makes a child use this checkout and its toolchain."""
        return os.environ | {
            "PYTHONPATH": str(self.tree),
            "QUOIN_RUSTC": str(self.root / "rust/bin/rustc"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "harness.cli", *arguments]

    def quoin(self, *arguments: str, env: Mapping[str, str] | None = None, file_limit: int | None = None) -> Ended:
        """Run the CLI to its end. `file_limit` is the largest file that it may write, in bytes: a disk that is full."""
        limit: Callable[[], None] | None = None
        if file_limit is not None:
            most = file_limit

            def limit() -> None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

        done = subprocess.run(
            self.command(*arguments),
            cwd=self.tree,
            env=self.environment() | dict(env or {}),
            capture_output=True,
            text=True,
            timeout=RUN_LIMIT_S,
            preexec_fn=limit,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the CLI and leave it running."""
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.tree,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def cargo_calls(self) -> int:
        """How often cargo was called."""
        calls = self.root / "cargo-calls"
        return len(calls.read_text().splitlines()) if calls.exists() else 0

    def built(self) -> Path:
        return self.tree / "build" / "riscv64-release"

    def left_over(self) -> list[str]:
        """Temporary files that a build left."""
        return [str(p) for p in (self.tree / "build").rglob(".*") if p.is_file() and p.name != ".lock"]


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str


def make_checkout(root: Path, padding: int = 64) -> Checkout:
    """A checkout that builds for riscv64; its kernel carries `padding` bytes of text."""
    checkout = Checkout(root)
    shutil.copytree(TOP / "harness", checkout.tree / "harness", ignore=shutil.ignore_patterns("__pycache__"))
    for crate in ("kernel", "user/init"):
        folder = checkout.tree / "kernel-src" / crate
        folder.mkdir(parents=True)
        (folder / "Cargo.toml").write_text("")
    (checkout.tree / "kernel-src/Cargo.toml").write_text("[workspace]\n")
    rust = root / "rust"
    (rust / "bin").mkdir(parents=True)
    for target in TARGETS.values():
        (rust / "lib/rustlib" / target / "lib").mkdir(parents=True)
    lld = rust / "lib/rustlib/x86_64-unknown-linux-gnu/bin/rust-lld"
    lld.parent.mkdir(parents=True)
    set_rustc(checkout, "1.95.0")
    for path, text in ((rust / "bin/cargo", _CARGO.format(root=root)), (lld, "#!/bin/sh\n")):
        path.write_text(text)
        path.chmod(0o755)
    set_kernel(checkout, make_kernel("riscv64", padding=padding))
    return checkout


def set_rustc(checkout: Checkout, version: str) -> None:
    """Let the checkout's rustc say that it is `version`."""
    rustc = checkout.root / "rust/bin/rustc"
    rustc.write_text(f"#!/bin/sh\nprintf 'rustc {version}\\nrelease: {version}\\nhost: x86_64-unknown-linux-gnu\\n'\n")
    rustc.chmod(0o755)


def set_kernel(checkout: Checkout, kernel: bytes) -> None:
    """What cargo will say that it has linked: `kernel`, and a program called init."""
    source = checkout.tree / "kernel-src"
    init = make_elf("riscv64", [Load(0x400000, b"init", 4)], symbols=b"SYMBOLS")
    messages = []
    for crate, name, content in (("kernel", "kernel", kernel), ("user/init", "init", init)):
        path = checkout.root / "linked" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        messages.append(
            {
                "reason": "compiler-artifact",
                "manifest_path": str(source / crate / "Cargo.toml"),
                "target": {"kind": ["bin"], "name": name},
                "executable": str(path),
            }
        )
    text = "\n".join(json.dumps(m) for m in [*messages, {"reason": "build-finished", "success": True}])
    (checkout.root / "messages").write_text(text + "\n")
