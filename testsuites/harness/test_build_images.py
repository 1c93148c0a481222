"""Boot images and the archive: right bytes out of right files, clear words about wrong ones."""

from __future__ import annotations

import shutil
import struct
import subprocess
from io import BytesIO
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from harness.build.errors import BuildError
from harness.build.images import Elf, boot_image, cpio, flat, read_elf, section_sizes, stripped, what_is
from support.elf_files import (
    BUILD_ID,
    BUILD_ID_NOTE,
    READ_WRITE,
    Load,
    image_header,
    make_elf,
    make_kernel,
)

pytestmark = pytest.mark.requirement("BLD-05")


def elf_at(path: Path, content: bytes) -> Elf:
    path.write_bytes(content)
    return read_elf(path)


@pytest.mark.parametrize("arch", ["aarch64", "riscv64"])
def test_a_flat_image_is_memory_from_the_lowest_load_address(tmp_path: Path, arch: str) -> None:
    text = image_header(arch, 0x3000) + b"T" * 16
    loads = [Load(0x80201000, b"DATA", 0x2000, READ_WRITE), Load(0x80200000, text, len(text))]
    image = flat(elf_at(tmp_path / "kernel", make_elf(arch, loads, virtual_offset=0x7F << 40)))
    assert image[: len(text)] == text
    assert image[len(text) : 0x1000] == bytes(0x1000 - len(text))
    assert image[0x1000:] == b"DATA"  # .bss is left to image_size
    assert what_is(image) == f"a Linux Image for {arch}"


def test_an_image_size_that_forgets_bss_is_refused(tmp_path: Path) -> None:
    text = image_header("riscv64", 0x100)
    elf = elf_at(tmp_path / "kernel", make_elf("riscv64", [Load(0x80200000, text, 0x2000)]))
    with pytest.raises(BuildError, match="image_size of at least 0x2000"):
        flat(elf)


def test_a_kernel_without_an_image_header_is_refused(tmp_path: Path) -> None:
    elf = elf_at(tmp_path / "kernel", make_elf("aarch64", [Load(0, bytes(128), 128)]))
    with pytest.raises(BuildError, match="a Linux Image for aarch64"):
        boot_image(elf)


def test_the_x86_image_keeps_segments_and_notes_and_drops_symbols(tmp_path: Path) -> None:
    whole = make_kernel("x86_64", symbols=b"S" * 5000)
    elf = elf_at(tmp_path / "kernel", whole)
    image = boot_image(elf)
    assert len(image) < len(whole) - 5000
    again = ELFFile(BytesIO(image))
    assert again["e_shnum"] == 0
    before = [(s.header, s.data()) for s in ELFFile(BytesIO(whole)).iter_segments()]
    after = [(s.header, s.data()) for s in again.iter_segments()]
    assert [(dict(h), d) for h, d in after] == [(dict(h), d) for h, d in before]
    assert elf.build_id == BUILD_ID.hex()


def test_an_x86_kernel_without_a_pvh_note_is_refused(tmp_path: Path) -> None:
    elf = elf_at(tmp_path / "kernel", make_elf("x86_64", [Load(0x100000, b"x", 1)], BUILD_ID_NOTE))
    with pytest.raises(BuildError, match="PVH"):
        boot_image(elf)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "other content"),
        (b"#!/bin/sh\n", "other content"),
        (make_kernel("x86_64")[:150], "cut short|other content"),
    ],
)
def test_what_is_no_elf_is_refused_by_name(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(BuildError, match=words):
        elf_at(tmp_path / "kernel", content)


def test_a_missing_elf_names_its_path(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="No such file"):
        read_elf(tmp_path / "nowhere")


def test_the_same_input_gives_the_same_archive_in_any_order() -> None:
    members = [("testd", b"T" * 5), ("init", b"I" * 4)]
    assert cpio(members) == cpio(reversed(members))


@pytest.mark.parametrize("names", [["a", "a"], ["dir/a"], [""]])
def test_archive_names_are_plain_and_stand_once(names: list[str]) -> None:
    with pytest.raises(BuildError, match="plain names"):
        cpio((name, b"") for name in names)


def test_every_member_starts_on_four_bytes() -> None:
    archive = cpio([("init", b"\x7fELF" + bytes(3)), ("odd-name", b"x")])
    at = 0
    seen = []
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        name = archive[at + 110 : at + 110 + fields[11] - 1].decode()
        data = (at + 110 + fields[11] + 3) & ~3
        assert data % 4 == 0
        seen.append((name, archive[data : data + fields[6]]))
        if name == "TRAILER!!!":
            break
        at = (data + fields[6] + 3) & ~3
    assert seen == [("init", b"\x7fELF\0\0\0"), ("odd-name", b"x"), ("TRAILER!!!", b"")]


@pytest.mark.skipif(shutil.which("cpio") is None, reason="this machine has no cpio to read the archive with")
def test_cpio_itself_reads_the_archive() -> None:
    listed = subprocess.run(["cpio", "-t"], input=cpio([("b", b"22"), ("a", b"1")]), capture_output=True, check=True)
    assert listed.stdout.split() == [b"a", b"b"]


def test_sizes_tell_text_data_and_bss_apart(tmp_path: Path) -> None:
    loads = [Load(0x1000, b"t" * 10, 10), Load(0x2000, b"d" * 4, 100, READ_WRITE), Load(0x3000, b"r" * 6, 6, 4)]
    elf = elf_at(tmp_path / "kernel", make_elf("x86_64", loads))
    assert section_sizes(elf) == {"text": 10, "rodata": 6, "data": 4, "bss": 96}


def test_stripping_leaves_a_header_without_sections(tmp_path: Path) -> None:
    image = stripped(elf_at(tmp_path / "kernel", make_kernel("riscv64")))
    assert struct.unpack_from("<Q", image, 0x28) == (0,)
