"""What setup installs, in which order, and what it says where it may not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.build.artifacts import TOP
from harness.build.errors import BuildError
from harness.cli import setup
from harness.cli.setup import Missing, apt_commands, plan, privilege, rust_packages

pytestmark = pytest.mark.requirement("BLD-01")

ALL_EMULATORS = tuple((name, "is not installed") for name in setup.EMULATORS)
DEBIAN = "\n".join(f"{name} - words" for name in [*setup.DEBIAN_RUST, "rustc-mozilla"])
UBUNTU = "\n".join(f"{k} - words" for n in (80, 89, 91) for k in (f"rustc-1.{n}", f"cargo-1.{n}", f"rust-1.{n}-src"))


def test_the_x86_emulator_goes_first_and_alone_and_utils_after_all() -> None:
    calls = plan(Missing(emulators=ALL_EMULATORS, tools=(("qemu-img", "not in PATH"),)), [])
    assert calls == [["qemu-system-x86"], ["qemu-system-arm", "qemu-system-misc"], ["qemu-utils"]]


def test_new_emulators_bring_utils_of_their_own_version() -> None:
    # apt takes a newer qemu-utils out with the first emulator.
    assert ["qemu-utils"] in plan(Missing(emulators=ALL_EMULATORS[:1]), [])


def test_apt_installs_without_recommendations_and_updates_first() -> None:
    commands = apt_commands([["lld"]])
    assert commands[0] == ["apt-get", "update"]
    assert commands[1] == ["apt-get", "install", "-y", "--no-install-recommends", "lld"]


def test_only_what_is_missing_is_installed() -> None:
    assert plan(Missing(tools=(("ld.lld", "not in PATH"),)), ["rustc-web"]) == [["lld"]]
    assert plan(Missing(), ["rustc-web"]) == []
    assert plan(Missing(rust="Rust: none"), ["rustc-web", "cargo-web"]) == [["cargo-web", "rustc-web"]]


def test_debian_has_its_own_rust_and_ubuntu_its_newest() -> None:
    assert rust_packages(DEBIAN) == list(setup.DEBIAN_RUST)
    assert rust_packages(UBUNTU) == ["rustc-1.91", "cargo-1.91", "rust-1.91-src"]
    assert rust_packages("rustc-1.80 - old") == []
    assert rust_packages("") == []


def test_nothing_missing_is_nothing() -> None:
    assert not Missing()
    assert Missing(firmware="OpenSBI: not there")


def test_who_may_not_install_gets_the_exact_list_and_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "look", lambda: Missing(emulators=ALL_EMULATORS[:1], tools=(("cc", "not in PATH"),)))
    monkeypatch.setattr(setup, "privilege", lambda: None)
    with pytest.raises(BuildError) as caught:
        setup.ensure()
    assert "qemu-system-x86_64: is not installed" in caught.value.found
    assert "sudo apt-get install -y --no-install-recommends qemu-system-x86" in caught.value.next_step
    assert "gcc libc6-dev" in caught.value.next_step


def test_apt_that_fails_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "apt-get").write_text("#!/bin/sh\nexit 100\n")
    (tmp_path / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(setup, "look", lambda: Missing(tools=(("cc", "not in PATH"),)))
    monkeypatch.setattr(setup, "privilege", lambda: [])
    with pytest.raises(BuildError, match="exit status 100"):
        setup.ensure()


def test_still_missing_after_apt_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "apt-get").write_text("#!/bin/sh\nexit 0\n")
    (tmp_path / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(setup, "look", lambda: Missing(tools=(("cc", "not in PATH"),)))
    monkeypatch.setattr(setup, "privilege", lambda: [])
    with pytest.raises(BuildError, match="nothing missing after apt"):
        setup.ensure()


def test_what_is_optional_is_named_and_installed_only_when_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    apt = tmp_path / "apt-get"
    apt.write_text(f"#!/bin/sh\n[ $1 = update ] || cp {apt} {tmp_path}/gdb-multiarch\necho $@ >> {tmp_path}/calls\n")
    apt.chmod(0o755)
    (tmp_path / "cp").symlink_to("/bin/cp")
    (tmp_path / "env").symlink_to("/usr/bin/env")
    monkeypatch.setenv("PATH", str(tmp_path))
    (line,) = setup.optional(install=False)
    assert "gdb-multiarch is missing" in line and line.endswith("next: ./quoin setup --optional")
    assert not (tmp_path / "calls").exists()
    monkeypatch.setattr(setup, "privilege", lambda: None)
    with pytest.raises(BuildError) as caught:
        setup.optional(install=True)
    assert caught.value.next_step.endswith("sudo apt-get install -y --no-install-recommends gdb-multiarch")
    monkeypatch.setattr(setup, "privilege", lambda: [])
    assert setup.optional(install=True) == []
    assert (tmp_path / "calls").read_text().endswith("install -y --no-install-recommends gdb-multiarch\n")


def test_without_apt_nothing_may_be_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert privilege() is None


def test_a_user_without_sudo_may_not_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, status in (("apt-get", 0), ("sudo", 1)):
        (tmp_path / name).write_text(f"#!/bin/sh\nexit {status}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert privilege() is None
    (tmp_path / "sudo").write_text("#!/bin/sh\nexit 0\n")
    assert privilege() == [str(tmp_path / "sudo"), "-n"]


def check(path: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness.cli", "setup", "--check"]
    return subprocess.run(
        command, cwd=TOP, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
    )


def test_a_machine_without_emulators_is_told_each_of_them(tmp_path: Path) -> None:
    done = check(str(tmp_path))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    for package in setup.EMULATORS.values():
        assert package in done.stderr


@pytest.mark.requirement("BLD-06")
def test_an_emulator_that_is_too_old_is_told_with_both_versions(tmp_path: Path) -> None:
    for name in setup.EMULATORS:
        (tmp_path / name).write_text("#!/bin/sh\necho 'QEMU emulator version 5.2.0 (Debian)'\n")
        (tmp_path / name).chmod(0o755)
    done = check(f"{tmp_path}:/usr/bin:/bin")
    assert done.returncode == 1
    assert "5.2" in done.stderr
    assert "7.2" in done.stderr


def test_a_machine_that_has_all_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "look", Missing)
    monkeypatch.setattr(setup, "privilege", lambda: pytest.fail("nothing was to be installed"))
    setup.ensure()
