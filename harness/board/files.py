"""Board files: labgrid environments, read and checked.

labgrid reads the same files, and forgives unknown keys; here each key is
checked against what it may be, and a fault names file, line and the choice.
"""

from __future__ import annotations

import difflib
import fnmatch
import math
import re
import shlex
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harness.board.errors import BoardError
from harness.board.model import Board, Wires, memory_mib

DRIVER = "QuoinQemuDriver"
STRATEGY = "QuoinStrategy"
ARCHITECTURES = ("x86_64", "aarch64", "riscv64")

_TOP_KEYS = frozenset({"imports", "targets", "images", "options", "tools", "paths"})
_TARGET_KEYS = frozenset({"features", "drivers", "resources"})
_REQUIRED = frozenset({"arch", "binary", "machine", "cpu", "smp", "memory", "ready"})
_OPTIONAL: Mapping[str, Any] = {
    "max_smp": 8,
    "panic": "^PANIC ",
    "stage": r"^boot: (?P<stage>[a-z]+):",
    "prompt": r"\$ ",
    "boot_timeout_s": 60,
    "args": [],
    "kernel": None,
    "initrd": None,
    "firmware": None,
    "firmware_vars": None,
    "cmdline": "",
    "exclusive": False,
}
# Of a physical board's QuoinStrategy; how it is reached stands in labgrid's own resources and drivers.
_WIRED_REQUIRED = frozenset({"arch", "smp", "memory", "ready", "off_time_s"})
_WIRED_OPTIONAL: Mapping[str, Any] = {
    **{key: _OPTIONAL[key] for key in ("panic", "stage", "prompt", "boot_timeout_s", "kernel", "initrd", "cmdline")},
    "load": [],
    "firmware": "",
    "image_id": "",
    "card": None,
    "wires": "",
}
_SERIAL_PORTS = ("NetworkSerialPort", "RawSerialPort", "USBSerialPort")
_TYPES: Mapping[str, tuple[type, ...]] = {
    "smp": (int,),
    "max_smp": (int,),
    "boot_timeout_s": (int, float),
    "args": (list,),
    "exclusive": (bool,),
    "off_time_s": (int, float),
    "load": (list,),
}


@dataclass(frozen=True, slots=True)
class _Mapping:
    """A YAML mapping whose keys remember their line."""

    path: Path
    what: str
    line: int
    values: Mapping[str, tuple[yaml.Node, int]]

    def fault(self, line: int, text: str) -> BoardError:
        return BoardError(f"{self.path}:{line}: {text}")

    def check_keys(self, allowed: Iterable[str]) -> None:
        names = sorted(allowed)
        for key, (_, line) in self.values.items():
            if key not in names:
                near = difflib.get_close_matches(key, names, n=1)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                raise self.fault(
                    line,
                    f"unknown key {key!r} in {self.what}{hint}; allowed: {', '.join(names)}",
                )

    def child(self, key: str) -> _Mapping:
        if key not in self.values:
            raise self.fault(self.line, f"{self.what} lacks the key {key!r}")
        node, line = self.values[key]
        return _mapping(self.path, f"{self.what}.{key}", node, line)

    def plain(self, key: str, default: Any = None) -> Any:
        if key not in self.values:
            return default
        node, line = self.values[key]
        try:
            return yaml.SafeLoader("").construct_object(node, deep=True)
        except (yaml.YAMLError, ValueError, TypeError) as error:
            what = error.problem if isinstance(error, yaml.MarkedYAMLError) else error
            raise self.fault(line, f"the value of {key!r} cannot be read: {what}") from error

    def line_of(self, key: str) -> int:
        return self.values[key][1] if key in self.values else self.line


def _mapping(path: Path, what: str, node: yaml.Node | None, line: int) -> _Mapping:
    if not isinstance(node, yaml.MappingNode):
        raise BoardError(f"{path}:{line}: {what} must be a mapping of keys to values")
    values: dict[str, tuple[yaml.Node, int]] = {}
    for key, value in node.value:
        at = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise BoardError(f"{path}:{at}: a key in {what} must be a word, not a list or a mapping")
        if key.value in values:
            raise BoardError(f"{path}:{at}: key {key.value!r} stands twice in {what}")
        values[key.value] = (value, at)
    return _Mapping(path, what, line, values)


def read_board(path: Path) -> Board:
    """Read one board file. Raises BoardError with file, line and the allowed keys."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BoardError(f"{path}: no such board file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BoardError(f"{path}: cannot be read: {error}") from error
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = mark.line + 1 if mark is not None else 1
        raise BoardError(f"{path}:{line}: not YAML: {error.problem}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise BoardError(f"{path}:{line}: not YAML: {error.reason}: {chr(error.character)!r}") from error
    except RecursionError as error:
        raise BoardError(f"{path}:1: not YAML that can be read: it is nested too deeply") from error
    top = _mapping(path, "the board file", root, 1)
    top.check_keys(_TOP_KEYS)
    targets = top.child("targets")
    if len(targets.values) != 1:
        raise targets.fault(targets.line, "a board file has exactly one target, 'main'")
    target = targets.child(next(iter(targets.values)))
    target.check_keys(_TARGET_KEYS)
    drivers = target.child("drivers")
    if STRATEGY in drivers.values:
        return _board(path, top, target, drivers.child(STRATEGY), _WIRED_REQUIRED, _WIRED_OPTIONAL)
    return _board(path, top, target, drivers.child(DRIVER), _REQUIRED, _OPTIONAL)


def _board(
    path: Path,
    top: _Mapping,
    target: _Mapping,
    driver: _Mapping,
    required: frozenset[str],
    optional: Mapping[str, Any],
) -> Board:
    driver.check_keys(required | optional.keys())
    for key in sorted(required - driver.values.keys()):
        raise driver.fault(driver.line, f"{driver.what} lacks the key {key!r}")
    value = {key: driver.plain(key) for key in required}
    value |= {key: driver.plain(key, default) for key, default in optional.items()}
    for key, found in value.items():
        # Null stands for the default only where that is null too.
        none = (type(None),) if key in optional and optional[key] in (None, "") else ()
        kinds = _TYPES.get(key, (str, *none))
        if not isinstance(found, kinds) or (isinstance(found, bool) and bool not in kinds):
            wanted = " or ".join(k.__name__ for k in kinds if k is not type(None))
            raise driver.fault(driver.line_of(key), f"{key!r} must be {wanted}, not {found!r}")
    if value["arch"] not in ARCHITECTURES:
        raise driver.fault(
            driver.line_of("arch"),
            f"unknown arch {value['arch']!r}; known: {', '.join(ARCHITECTURES)}",
        )
    for key in {"ready", "panic", "stage", "prompt", "firmware", "image_id"} & value.keys():
        try:
            re.compile(value[key] or "")
        except re.error as error:
            raise driver.fault(driver.line_of(key), f"{key!r} is no regular expression: {error}") from error
    if not 0 < value["boot_timeout_s"] < math.inf:
        found = value["boot_timeout_s"]
        raise driver.fault(driver.line_of("boot_timeout_s"), f"'boot_timeout_s' must be more than 0, not {found}")
    try:
        memory = memory_mib(value["memory"])
    except BoardError as error:
        raise driver.fault(driver.line_of("memory"), str(error)) from error
    wires = _wires(target, driver, value) if required is _WIRED_REQUIRED else None
    if wires is not None:  # what there is stands there: nothing is built, and one has it at a time
        value |= {"binary": "", "machine": "", "cpu": "", "max_smp": value["smp"], "args": [], "exclusive": True}
        value |= {"firmware": None, "firmware_vars": None}
    if value["firmware_vars"] is not None and value["firmware"] is None:
        raise driver.fault(driver.line_of("firmware_vars"), "'firmware_vars' stands without 'firmware', whose they are")
    images = top.plain("images") or {}
    if not isinstance(images, dict) or not all(isinstance(image, str) for image in images.values()):
        raise top.fault(top.line_of("images"), f"'images' must be a mapping of names to paths, not {images!r}")
    features = target.plain("features") or []
    if not isinstance(features, list):
        raise target.fault(target.line_of("features"), f"'features' must be a list, not {features!r}")
    board = Board(
        name=path.stem,
        path=path,
        arch=value["arch"],
        binary=value["binary"],
        machine=value["machine"],
        cpu=value["cpu"],
        smp=value["smp"],
        max_smp=value["max_smp"],
        memory_mib=memory,
        default_memory_mib=memory,
        ready=value["ready"],
        panic=value["panic"],
        stage=value["stage"],
        prompt=value["prompt"],
        boot_timeout_s=float(value["boot_timeout_s"]),
        features=frozenset(str(feature) for feature in features),
        args=tuple(str(arg) for arg in value["args"]),
        kernel=_image(driver, images, "kernel", value["kernel"]),
        initrd=_image(driver, images, "initrd", value["initrd"]),
        firmware=_image(driver, images, "firmware", value["firmware"]),
        firmware_vars=_image(driver, images, "firmware_vars", value["firmware_vars"]),
        cmdline=value["cmdline"] or "",
        exclusive=value["exclusive"],
        wires=wires,
    )
    try:
        return board.variant()
    except BoardError as error:
        raise driver.fault(driver.line_of("smp"), str(error)) from error


def _wires(target: _Mapping, driver: _Mapping, value: Mapping[str, Any]) -> Wires:
    """What is said of a physical board's wires, checked as far as that can be done without labgrid."""
    resources, drivers = target.child("resources"), target.child("drivers")
    if sum(port in resources.values for port in _SERIAL_PORTS) != 1:
        raise resources.fault(resources.line, f"a physical board has one console: one of {', '.join(_SERIAL_PORTS)}")
    if value["load"] and "UBootDriver" not in drivers.values:
        raise driver.fault(driver.line_of("load"), "'load' are commands for U-Boot, but drivers: has no UBootDriver")
    for key, group in (("firmware", "version"), ("image_id", "id")):
        if value[key] and group not in re.compile(value[key]).groupindex:
            raise driver.fault(driver.line_of(key), f"{key!r} lacks the group (?P<{group}>...)")
    if not 0 <= value["off_time_s"] < math.inf:
        found = value["off_time_s"]
        raise driver.fault(driver.line_of("off_time_s"), f"'off_time_s' must be 0 or more, not {found}")
    words = {"python": sys.executable, "board": str(driver.path.absolute())}
    try:
        command = tuple(word.format(**words) for word in shlex.split(value["wires"] or ""))
    except (ValueError, LookupError) as error:
        raise driver.fault(driver.line_of("wires"), f"'wires' is no command: {error}") from error
    return Wires(
        load=tuple(str(line) for line in value["load"]),
        firmware=value["firmware"] or "",
        image_id=value["image_id"] or "",
        off_time_s=float(value["off_time_s"]),
        card=None if value["card"] is None else (driver.path.parent / value["card"]).resolve(),
        command=command,
    )


def _image(driver: _Mapping, images: Mapping[str, str], key: str, name: str | None) -> Path | None:
    """The file that `images:` gives under `name`, relative to the board file."""
    if name is None:
        return None
    if name not in images:
        known = ", ".join(sorted(images)) or "none"
        raise driver.fault(driver.line_of(key), f"{key!r} names {name!r}, which images: lacks; it has: {known}")
    return (driver.path.parent / Path(images[name]).expanduser()).resolve()


def known_boards(directory: Path) -> list[str]:
    """Names of the board files in `directory`, sorted."""
    return sorted(path.stem for path in directory.glob("*.yaml"))


def find_boards(patterns: Iterable[str], directory: Path) -> list[Board]:
    """Boards that match names or globs, each at most once, in the order asked for.

    Raises BoardError for a pattern without a match, and names the known boards.
    """
    known = known_boards(directory)
    names: list[str] = []
    for pattern in patterns:
        matches = fnmatch.filter(known, pattern)
        if not matches:
            near = difflib.get_close_matches(pattern, known, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise BoardError(f"unknown board {pattern!r}{hint}; known in {directory}: {', '.join(known) or 'none'}")
        names += [name for name in matches if name not in names]
    return [read_board(directory / f"{name}.yaml") for name in names]
