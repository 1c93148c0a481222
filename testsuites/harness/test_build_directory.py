"""What a build leaves: whole, once, and found again; and nothing half written when it fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.build.artifacts import load
from harness.build.errors import BuildError
from harness.build.process import stream
from support.checkout import Checkout, make_checkout, set_kernel, set_rustc
from support.elf_files import BUILD_ID, make_elf, make_kernel

WAIT_S = 20.0


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return make_checkout(tmp_path)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Until `condition` holds; fails when the process ends first or time runs out."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        os.sched_yield()


@pytest.mark.requirement("BLD-01", "BLD-05", "BLD-09")
def test_a_build_leaves_image_archive_programs_and_symbols_apart(checkout: Checkout) -> None:
    done = checkout.quoin("build", "riscv64")
    assert done.status == 0, done.err
    built = load(checkout.built())
    assert built.build_id == BUILD_ID.hex()
    assert b"SYMBOLS" in built.kernel.read_bytes()
    assert b"SYMBOLS" not in built.image.read_bytes()
    assert b"SYMBOLS" not in built.archive.read_bytes()
    assert [p.name for p in built.programs] == ["init"]
    assert b"SYMBOLS" in built.programs[0].read_bytes()
    assert built.sizes["image"] == built.image.stat().st_size
    assert f"{built.sizes['image']:,}" in done.out  # sizes are printed
    assert "rustc 1.95.0" in done.out and "targets" in done.out  # the choice, and why
    assert checkout.left_over() == []


@pytest.mark.requirement("BLD-01")
def test_an_unchanged_tree_builds_nothing_and_says_so(checkout: Checkout) -> None:
    assert checkout.quoin("build", "riscv64").status == 0
    assert "nothing built" in checkout.quoin("build", "riscv64").out
    assert checkout.cargo_calls() == 1


@pytest.mark.requirement("BLD-01")
@pytest.mark.parametrize("change", ["source", "toolchain", "lost image", "cut archive"])
def test_what_changes_a_build_is_noticed(checkout: Checkout, change: str) -> None:
    assert checkout.quoin("build", "riscv64").status == 0
    if change == "source":
        (checkout.tree / "kernel-src/kernel/new.rs").write_text("// new\n")
    elif change == "toolchain":
        set_rustc(checkout, "1.96.0")
    elif change == "lost image":
        (checkout.built() / "image").unlink()
    else:
        (checkout.built() / "boot.cpio").write_bytes(b"07")
    assert checkout.quoin("build", "riscv64").status == 0
    assert checkout.cargo_calls() == 2
    assert load(checkout.built()).image.exists()


@pytest.mark.requirement("BLD-01")
def test_two_at_once_build_once(checkout: Checkout) -> None:
    both = [checkout.start("build", "riscv64") for _ in range(2)]
    told = [process.communicate(timeout=WAIT_S)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert checkout.cargo_calls() == 1
    assert sum("nothing built" in text for text in told) == 1


@pytest.mark.requirement("BLD-01")
def test_a_program_that_is_gone_leaves_the_build_too(checkout: Checkout) -> None:
    assert checkout.quoin("build", "riscv64").status == 0
    messages = (
        (checkout.root / "messages").read_text().replace('"init"', '"testd"').replace("linked/init", "linked/testd")
    )
    (checkout.root / "linked/init").rename(checkout.root / "linked/testd")
    (checkout.root / "messages").write_text(messages)
    (checkout.tree / "kernel-src/kernel/new.rs").write_text("")
    assert checkout.quoin("build", "riscv64").status == 0
    assert [p.name for p in (checkout.built() / "programs").iterdir()] == ["testd"]


@pytest.mark.requirement("BLD-01")
def test_a_compile_error_is_told_with_its_place_and_log(checkout: Checkout) -> None:
    (checkout.root / "broken").write_text("error[E0425]: cannot find value `x`\n --> kernel/src/main.rs:3:5\n\nmore\n")
    done = checkout.quoin("build", "riscv64")
    assert done.status == 1
    assert "cannot find value `x`" in done.err
    assert "kernel/src/main.rs:3:5" in done.err
    assert "build/riscv64-release/build.log" in done.err
    assert "Traceback" not in done.err
    assert not (checkout.built() / "manifest.json").exists()


@pytest.mark.requirement("BLD-05")
def test_a_kernel_of_another_architecture_is_refused(checkout: Checkout) -> None:
    set_kernel(checkout, make_kernel("aarch64"))
    done = checkout.quoin("build", "riscv64")
    assert done.status == 1
    assert "wanted: a kernel for riscv64" in done.err
    assert "aarch64" in done.err


@pytest.mark.requirement("BLD-05")
def test_a_kernel_without_a_build_id_is_refused(checkout: Checkout) -> None:
    from support.elf_files import Load, image_header

    set_kernel(checkout, make_elf("riscv64", [Load(0x80200000, image_header("riscv64", 64), 64)]))
    done = checkout.quoin("build", "riscv64")
    assert done.status == 1
    assert "build id" in done.err


@pytest.mark.requirement("BLD-01")
def test_a_full_disk_is_told_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    checkout = make_checkout(tmp_path, padding=256 << 10)
    done = checkout.quoin("build", "riscv64", file_limit=64 << 10)
    assert done.status == 1
    assert "File too large" in done.err or "No space" in done.err
    assert "make room" in done.err
    assert "Traceback" not in done.err
    assert checkout.left_over() == []
    assert not (checkout.built() / "image").exists()
    with pytest.raises(BuildError):
        load(checkout.built())
    assert checkout.quoin("build", "riscv64").status == 0  # with room again, it goes on


@pytest.mark.requirement("BLD-01")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_cargo_and_its_children(checkout: Checkout, number: signal.Signals) -> None:
    (checkout.root / "hang").write_text("")
    process = checkout.start("build", "riscv64")
    child_file = checkout.root / "child"
    wait_for(lambda: child_file.exists() and child_file.read_text().strip() != "", process)
    process.send_signal(number)
    _, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 128 + number
    assert "Traceback" not in err
    child, deadline = int(child_file.read_text()), time.monotonic() + WAIT_S
    while alive(child):  # it has been told to end, and is not waited for
        assert time.monotonic() < deadline
        os.sched_yield()
    assert checkout.left_over() == []
    (checkout.root / "hang").unlink()
    assert checkout.quoin("build", "riscv64").status == 0


@pytest.mark.requirement("BLD-01")
def test_an_interrupt_at_the_start_of_a_tool_leaves_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[str]] = []
    start = subprocess.Popen

    def interrupted(*args: Any, **options: Any) -> subprocess.Popen[str]:
        started.append(start(*args, **options))
        signal.raise_signal(signal.SIGINT)
        return started[0]

    monkeypatch.setattr(subprocess, "Popen", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stream(["sleep", "600"], cwd=tmp_path, env=os.environ)
    assert started[0].poll() == -signal.SIGTERM
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def alive(pid: int) -> bool:
    """Whether a process runs; one that waits to be reaped does not."""
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.requirement("BLD-01")
@pytest.mark.parametrize("content", ["", "{", "[]", '{"arch": "mips"}', '{"arch": "riscv64", "profile": "release"}'])
def test_a_damaged_manifest_is_refused_and_built_again(checkout: Checkout, content: str) -> None:
    assert checkout.quoin("build", "riscv64").status == 0
    manifest = checkout.built() / "manifest.json"
    manifest.write_text(content)
    with pytest.raises(BuildError):
        load(checkout.built())
    assert checkout.quoin("build", "riscv64").status == 0
    assert json.loads(manifest.read_text())["arch"] == "riscv64"


@pytest.mark.requirement("BLD-01")
def test_a_missing_workspace_names_its_folder(checkout: Checkout) -> None:
    (checkout.tree / "kernel-src/Cargo.toml").unlink()
    done = checkout.quoin("build", "riscv64")
    assert done.status == 1
    assert "kernel-src" in done.err and "git checkout" in done.err
