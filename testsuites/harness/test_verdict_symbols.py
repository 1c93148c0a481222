"""Backtraces that people can read."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from harness.board import LabError
from harness.verdict import Symbols, slide_of, symbolise
from harness.verdict.symbols import demangle

SOURCE = """\
int deep(int x) {
    return x + 1;
}

int outer(int x) {
    return deep(x) + 2;
}

void _start(void) {
    outer(3);
}
"""


@pytest.fixture(scope="module")
def elf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler on this host")
    folder = tmp_path_factory.mktemp("elf")
    (folder / "deep.c").write_text(SOURCE)
    flags = ["-g", "-O0", "-nostdlib", "-static", "-no-pie", "-Wl,--build-id=0xfeedface"]
    subprocess.run([compiler, *flags, "-o", "deep", "deep.c"], cwd=folder, check=True, timeout=60)
    return folder / "deep"


@pytest.mark.requirement("OBS-09")
def test_an_address_becomes_a_function_with_file_and_line(elf: Path) -> None:
    symbols = Symbols(elf)
    for name, first, last in (("deep", 1, 3), ("outer", 5, 7), ("_start", 9, 11)):
        place = symbols.place(symbols.address(name) + 8)
        assert place is not None
        assert (place.symbol, place.offset) == (name, 8)
        assert place.file is not None and place.file.endswith("deep.c")
        assert place.line is not None and first <= place.line <= last
    assert symbols.place(0x10) is None
    assert symbols.build_id() == "feedface"


@pytest.mark.requirement("OBS-09")
def test_a_report_is_symbolised_with_the_slide_taken_off(elf: Path) -> None:
    symbols = Symbols(elf)
    slide = 0x600000
    report = [
        "PANIC cpu0: oh at a.rs:1:2",
        f"PANIC cpu0: #0 {symbols.address('deep') + 4 + slide:#x}",
        f"PANIC cpu0: #1 {symbols.address('outer') + 4 + slide:#x}",
        "PANIC end",
    ]
    shown = symbolise(report, symbols, slide)
    assert shown[0] == report[0] and shown[3] == report[3]
    assert "  deep+0x4 at " in shown[1] and "deep.c:" in shown[1]
    assert "  outer+0x4 at " in shown[2]


@pytest.mark.requirement("OBS-09")
def test_the_slide_is_read_from_the_kernels_first_line() -> None:
    lines = ["OpenSBI v1.1", "quoin 0.1.0 riscv64 slide=0x200000 build=0123abcd"]
    assert slide_of(lines) == (0x200000, "0123abcd")
    assert slide_of(lines[:1]) is None


@pytest.mark.requirement("OBS-09")
@pytest.mark.parametrize(
    ("mangled", "readable"),
    [
        ("_ZN6kernel5panic4stop17h0123456789abcdefE", "kernel::panic::stop"),
        ("_ZN4core3ptr13drop_in_place17h0123456789abcdefE", "core::ptr::drop_in_place"),
        ("_ZN41_$LT$a..B$u20$as$u20$core..fmt..Debug$GT$3fmt17h0123456789abcdefE", "<a::B as core::fmt::Debug>::fmt"),
        ("_RNvNtCs8EnsJirGtVW_6kernel7syscall8log_read", "kernel::syscall::log_read"),
        ("memcpy", "memcpy"),
        ("_ZNbroken", "_ZNbroken"),
    ],
)
def test_rust_names_are_demangled(mangled: str, readable: str) -> None:
    assert demangle(mangled) == readable


@pytest.mark.requirement("OBS-09")
def test_a_file_that_is_no_elf_is_named(tmp_path: Path) -> None:
    path = tmp_path / "kernel.elf"
    path.write_text("no")
    with pytest.raises(LabError, match=r"kernel\.elf: no ELF file"):
        Symbols(path)


@pytest.mark.requirement("OBS-09")
def test_a_file_that_was_cut_off_is_named(elf: Path, tmp_path: Path) -> None:
    whole = elf.read_bytes()
    path = tmp_path / "kernel.elf"
    for length in (16, 64, 1000, len(whole) // 2, len(whole) - 100):
        path.write_bytes(whole[:length])
        with pytest.raises(LabError, match=r"kernel\.elf: no ELF file"):
            Symbols(path)


@pytest.mark.requirement("OBS-09")
def test_an_ambiguous_or_unknown_symbol_is_refused(elf: Path) -> None:
    with pytest.raises(LabError, match="0 symbols match 'nothing'"):
        Symbols(elf).address("nothing")
