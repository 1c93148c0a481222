"""An image is looked at before a machine is started with it."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from harness.machine import ImageError, check_image, image_arch
from harness.machine.tiny_guest import Then, tiny_guest


def elf_head(machine: int) -> bytes:
    return b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack("<HH", 2, machine) + bytes(44)


def written(folder: Path, data: bytes) -> Path:
    path = folder / "image"
    path.write_bytes(data)
    return path


@pytest.mark.requirement("BLD-05")
@pytest.mark.parametrize(("machine", "arch"), [(62, "x86_64"), (183, "aarch64"), (243, "riscv64")])
def test_an_elf_file_tells_its_architecture(tmp_path: Path, machine: int, arch: str) -> None:
    assert image_arch(written(tmp_path, elf_head(machine))) == arch


@pytest.mark.requirement("BLD-05")
def test_a_flat_image_tells_its_architecture(tmp_path: Path) -> None:
    assert image_arch(written(tmp_path, tiny_guest("", Then.SPIN))) == "riscv64"
    arm = bytearray(64)
    arm[0x38:0x3C] = b"ARM\x64"
    assert image_arch(written(tmp_path, bytes(arm))) == "aarch64"


@pytest.mark.requirement("BLD-05")
def test_an_image_of_another_architecture_is_refused_by_name(tmp_path: Path) -> None:
    path = written(tmp_path, tiny_guest("", Then.SPIN))
    with pytest.raises(ImageError, match="image for riscv64, but the board is aarch64"):
        check_image(path, "aarch64")


@pytest.mark.requirement("BLD-05")
def test_an_aarch64_elf_is_refused_because_qemu_gives_it_no_device_tree(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no device tree"):
        check_image(written(tmp_path, elf_head(183)), "aarch64")


@pytest.mark.requirement("BLD-05")
@pytest.mark.parametrize("data", [b"", b"#!/bin/sh\n", bytes(4096)])
def test_a_file_that_is_no_kernel_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ImageError, match="no kernel image"):
        image_arch(written(tmp_path, data))


@pytest.mark.requirement("BLD-05")
def test_a_missing_image_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such image; build it with `quoin build`, or, where images: "):
        image_arch(tmp_path / "none")
