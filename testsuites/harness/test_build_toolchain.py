"""Which Rust is chosen, and what is said of one that will not do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.build.errors import BuildError
from harness.build.toolchain import (
    MINIMUM,
    TARGETS,
    Candidate,
    Origin,
    Version,
    candidates,
    choose,
    discover,
    parse_version,
)

ALL = frozenset(TARGETS.values())
LLD = Path("/usr/bin/ld.lld")
pytestmark = pytest.mark.requirement("BLD-02")


def found(
    origin: Origin,
    version: Version,
    *,
    targets: frozenset[str] = frozenset(),
    source: bool = False,
    lld: bool = False,
    where: str = "",
) -> Candidate:
    folder = Path(where or f"/{origin}-{version[1]}/bin")
    return Candidate(origin, folder, version, targets, source, lld, f"rustc {version}")


def test_a_toolchain_with_the_targets_goes_before_one_with_source() -> None:
    complete = found("rustup", (1, 88, 0), targets=ALL, lld=True)
    chosen = choose([found("system", (1, 96, 0), source=True), complete], LLD)
    assert chosen.candidate is complete
    assert not chosen.build_std
    assert chosen.linker is None
    assert chosen.cargo_flags() == []


def test_source_serves_where_no_toolchain_has_the_targets() -> None:
    chosen = choose([found("rustup", (1, 95, 0)), found("system", (1, 96, 0), source=True)], LLD)
    assert chosen.candidate.origin == "system"
    assert chosen.build_std
    assert chosen.linker == LLD
    assert "1.95.0" in chosen.why  # what was passed over is named
    assert any(flag.startswith("-Zbuild-std=") for flag in chosen.cargo_flags())


def test_two_of_three_targets_are_not_enough() -> None:
    partial = found("rustup", (1, 95, 0), targets=ALL - {TARGETS["riscv64"]}, lld=True)
    with pytest.raises(BuildError, match="without the targets"):
        choose([partial], LLD)


def test_rustup_goes_before_the_system_and_newer_before_older() -> None:
    picks = [
        found("system", (1, 99, 0), source=True),
        found("rustup", (1, 90, 0), source=True),
        found("rustup", (1, 91, 0), source=True),
    ]
    assert choose(picks, LLD).candidate is picks[2]


def test_an_older_rustc_is_refused_with_both_versions() -> None:
    with pytest.raises(BuildError) as caught:
        choose([found("path", (1, 63, 0), targets=ALL, source=True, lld=True)], LLD)
    assert "1.63.0" in caught.value.found
    assert "1.88.0" in caught.value.wanted
    assert caught.value.next_step


def test_a_named_toolchain_is_never_passed_over() -> None:
    good = found("system", (1, 96, 0), source=True)
    with pytest.raises(BuildError, match=r"1\.70\.0"):
        choose([found("named", (1, 70, 0)), good], LLD)


def test_without_any_rust_the_next_step_is_setup() -> None:
    with pytest.raises(BuildError, match="quoin setup"):
        choose([], LLD)


def test_without_a_linker_the_linker_is_named() -> None:
    with pytest.raises(BuildError, match="lld"):
        choose([found("system", (1, 96, 0), source=True)], None)


def test_the_oldest_that_is_taken_is_the_documented_one() -> None:
    assert choose([found("path", MINIMUM, source=True)], LLD).candidate.version == (1, 88, 0)


def test_environment_puts_the_chosen_rust_first_and_drops_the_callers_flags() -> None:
    chosen = choose([found("system", (1, 96, 0), source=True, where="/usr/bin")], LLD)
    environment = chosen.environment({"PATH": "/home/me/shims:/usr/bin", "RUSTFLAGS": "-Cevil", "HOME": "/h"})
    assert environment["PATH"].split(os.pathsep)[0] == "/usr/bin"
    assert environment["RUSTC"] == "/usr/bin/rustc"
    assert environment["RUSTC_BOOTSTRAP"] == "1"
    assert environment["CARGO_TARGET_AARCH64_UNKNOWN_NONE_SOFTFLOAT_LINKER"] == str(LLD)
    assert environment["HOME"] == "/h"
    assert "RUSTFLAGS" not in environment


def test_version_text_of_distributions_and_nightlies_is_read() -> None:
    text = "rustc 1.96.0 (ac68 2026-05-25) (built from a source tarball)\n"
    text += "host: x86_64-unknown-linux-gnu\nrelease: 1.96.0\n"
    parsed = parse_version(text)
    assert parsed is not None
    assert parsed[0] == (1, 96, 0)
    assert parsed[2] == "x86_64-unknown-linux-gnu"
    nightly = parse_version("release: 1.99.0-nightly\nhost: a-b-c\n")
    assert nightly is not None
    assert nightly[0] == (1, 99, 0)
    assert parse_version("rustup: no default toolchain") is None


def plant(folder: Path, version: str) -> None:
    """A rustc that says that it is `version`, with a cargo beside it."""
    folder.mkdir(parents=True)
    (folder / "rustc").write_text(f"#!/bin/sh\nprintf 'release: {version}\\nhost: x86_64-unknown-linux-gnu\\n'\n")
    (folder / "cargo").write_text("#!/bin/sh\nexit 0\n")
    for name in ("rustc", "cargo"):
        (folder / name).chmod(0o755)


def test_looking_finds_rustup_and_path_and_their_targets(tmp_path: Path) -> None:
    plant(tmp_path / "rustup/toolchains/stable-x/bin", "1.90.1")
    plant(tmp_path / "rustup/toolchains/nightly-x/bin", "1.99.0")
    plant(tmp_path / "own/bin", "1.89.0")
    plant(tmp_path / "shims", "1.90.1")
    (tmp_path / "shims/rustup").write_text("")
    for target in ALL:
        (tmp_path / "rustup/toolchains/stable-x/lib/rustlib" / target / "lib").mkdir(parents=True)
    (tmp_path / "own/lib/rustlib/src/rust/library/core").mkdir(parents=True)
    (tmp_path / "own/lib/rustlib/src/rust/library/core/Cargo.toml").write_text("")
    path = f"{tmp_path}/shims:{tmp_path}/own/bin:/usr/bin:/bin"
    seen = list(candidates({"RUSTUP_HOME": f"{tmp_path}/rustup", "PATH": path}))
    ours = {c.bin: c for c in seen if c.bin.is_relative_to(tmp_path)}
    assert set(ours) == {tmp_path / "rustup/toolchains/stable-x/bin", tmp_path / "own/bin"}
    assert ours[tmp_path / "rustup/toolchains/stable-x/bin"].targets == ALL
    assert ours[tmp_path / "own/bin"].has_source


def test_a_named_rustc_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="QUOIN_RUSTC"):
        discover({"QUOIN_RUSTC": str(tmp_path / "rustc"), "PATH": "/usr/bin"})


def test_a_named_old_rustc_is_refused(tmp_path: Path) -> None:
    plant(tmp_path / "bin", "1.63.0")
    with pytest.raises(BuildError) as caught:
        discover({"QUOIN_RUSTC": str(tmp_path / "bin/rustc"), "PATH": "/usr/bin:/bin"})
    assert "1.63.0" in str(caught.value)
    assert "1.88.0" in str(caught.value)
