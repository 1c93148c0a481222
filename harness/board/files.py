"""Board files: labgrid environments, read and checked.

labgrid reads the same files, and forgives unknown keys; here each key is
checked against what it may be, and a fault names file, line and the choice.
"""

from __future__ import annotations

import difflib
import fnmatch
import importlib.util
import math
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harness.board.errors import BoardError
from harness.board.model import Board, Wires, memory_mib

DRIVER = "QuoinQemuDriver"
STRATEGY = "QuoinStrategy"
CPU_ONLINE = "cpu-online"
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
    "cpu_online": "",
    "exclusive": False,
    "device_tree": None,
    "fixed": False,
    "initrd_at": 0,
    "monitor_cpus": 0,
    "oldest_qemu": "7.2",
}
# Of a physical board's QuoinStrategy; how it is reached stands in labgrid's own resources and drivers.
_WIRED_REQUIRED = frozenset({"arch", "smp", "memory", "ready", "off_time_s"})
_WIRED_OPTIONAL: Mapping[str, Any] = {
    **{
        key: _OPTIONAL[key]
        for key in ("panic", "stage", "prompt", "boot_timeout_s", "kernel", "initrd", "cmdline", "cpu_online")
    },
    "load": [],
    "firmware": "",
    "image_id": "",
    "oldest_firmware": "",
    "log_ring": "",
    "card": None,
    "wires": "",
}
_PLACE = "RemotePlace"
_SERIAL_PORTS = ("NetworkSerialPort", "RawSerialPort", "USBSerialPort", _PLACE)
_LOADERS = ("UBootDriver", "QuoinGrubDriver")
_TYPES: Mapping[str, tuple[type, ...]] = {
    "smp": (int,),
    "max_smp": (int,),
    "initrd_at": (int,),
    "monitor_cpus": (int,),
    "fixed": (bool,),
    "boot_timeout_s": (int, float),
    "args": (list,),
    "exclusive": (bool,),
    "off_time_s": (int, float),
    "load": (list,),
}


def _power_models() -> list[str]:
    """The switches that labgrid knows; found without an import of labgrid, which takes half a second."""
    spec = importlib.util.find_spec("labgrid")
    folders = [] if spec is None else spec.submodule_search_locations or []
    return sorted(path.stem for folder in folders for path in Path(folder, "driver", "power").glob("[!_]*.py"))


def _number(least: int, most: float = math.inf) -> Callable[[Any], str | None]:
    wanted = f"a number from {least}" + (" on" if most == math.inf else f" to {most}")
    return lambda value: None if type(value) is int and least <= value <= most else wanted


def _one_of(choices: Callable[[], Iterable[str]]) -> Callable[[Any], str | None]:
    return lambda value: None if value in (known := list(choices())) or not known else f"one of {', '.join(known)}"


# Of labgrid's resources what it tells as an error of Python's, if at all: what each wants, where a value is not that.
_RESOURCES: Mapping[str, Mapping[str, Callable[[Any], str | None]]] = {
    "NetworkSerialPort": {
        "port": _number(1, 65535),
        "speed": _number(1),
        "protocol": _one_of(lambda: ("raw", "rfc2217")),
    },
    "RawSerialPort": {"speed": _number(1)},
    "USBSerialPort": {"speed": _number(1)},
    "NetworkPowerPort": {
        "model": _one_of(_power_models),
        "index": lambda value: _number(0)(int(value) if str(value).isdecimal() else value),
    },
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
    for key in {"ready", "panic", "stage", "prompt", "firmware", "image_id", "log_ring"} & value.keys():
        try:
            re.compile(value[key] or "")
        except re.error as error:
            raise driver.fault(driver.line_of(key), f"{key!r} is no regular expression: {error}") from error
    for key in ("ready", "panic"):
        if re.search(value[key], ""):
            found = repr(value[key])
            raise driver.fault(driver.line_of(key), f"{key!r} wants a pattern that not every line fits, not {found}")
    if not 0 < value["boot_timeout_s"] < math.inf:
        found = value["boot_timeout_s"]
        raise driver.fault(driver.line_of("boot_timeout_s"), f"'boot_timeout_s' must be more than 0, not {found}")
    try:
        memory = memory_mib(value["memory"])
    except BoardError as error:
        raise driver.fault(driver.line_of("memory"), str(error)) from error
    options = top.plain("options") or {}
    if not isinstance(options, dict):
        raise top.fault(top.line_of("options"), f"'options' must be a mapping of names to values, not {options!r}")
    wires = _wires(target, driver, value, options) if required is _WIRED_REQUIRED else None
    if wires is not None:  # what there is stands there: nothing is built, and one has it at a time
        value |= {"binary": "", "machine": "", "cpu": "", "max_smp": value["smp"], "args": [], "exclusive": True}
        value |= {"firmware": None, "firmware_vars": None, "device_tree": None}
        value |= {"fixed": True, "initrd_at": 0, "monitor_cpus": 0, "oldest_qemu": "7.2"}
    for key in ("monitor_cpus", "initrd_at"):
        if value[key] < 0:
            raise driver.fault(driver.line_of(key), f"{key!r} is 0 or more, not {value[key]}")
    for word in value["args"]:
        if type(word) not in (str, int, float):
            raise driver.fault(driver.line_of("args"), f"'args' are QEMU's words (in quotes, if need be), not {word!r}")
    if not re.fullmatch(r"\d+\.\d+", value["oldest_qemu"]):
        raise driver.fault(driver.line_of("oldest_qemu"), f"'oldest_qemu' is as '10.0', not {value['oldest_qemu']!r}")
    if value["firmware_vars"] is not None and value["firmware"] is None:
        raise driver.fault(driver.line_of("firmware_vars"), "'firmware_vars' stands without 'firmware', whose they are")
    cpu_online = value["cpu_online"] or ""
    if cpu_online and not all(word in cpu_online for word in ("{cpu}", "{online}")):
        raise driver.fault(driver.line_of("cpu_online"), f"'cpu_online' lacks {{cpu}} or {{online}}: {cpu_online!r}")
    images = top.plain("images") or {}
    if not isinstance(images, dict) or not all(isinstance(image, str) for image in images.values()):
        raise top.fault(top.line_of("images"), f"'images' must be a mapping of names to paths, not {images!r}")
    features = target.plain("features") or []
    if not isinstance(features, list) or not all(isinstance(feature, str) for feature in features):
        raise target.fault(target.line_of("features"), f"'features' must be a list of words, not {features!r}")
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
        # That it can is said by the command, and by nothing else.
        features=frozenset(features) - {CPU_ONLINE} | ({CPU_ONLINE} if cpu_online else set()),
        args=tuple(str(arg) for arg in value["args"]),
        kernel=_image(driver, images, "kernel", value["kernel"]),
        initrd=_image(driver, images, "initrd", value["initrd"]),
        firmware=_image(driver, images, "firmware", value["firmware"]),
        firmware_vars=_image(driver, images, "firmware_vars", value["firmware_vars"]),
        device_tree=_image(driver, images, "device_tree", value["device_tree"]),
        cmdline=value["cmdline"] or "",
        exclusive=value["exclusive"],
        has_fixed_size=value["fixed"],
        initrd_at=value["initrd_at"],
        monitor_cpus=value["monitor_cpus"],
        oldest_qemu=tuple(int(part) for part in value["oldest_qemu"].split(".")),
        cpu_online=cpu_online,
        wires=wires,
    )
    try:
        return board.variant()
    except BoardError as error:
        raise driver.fault(driver.line_of("smp"), str(error)) from error


def _wires(target: _Mapping, driver: _Mapping, value: Mapping[str, Any], options: Mapping[str, Any]) -> Wires:
    """What is said of a physical board's wires, checked as far as that can be done without labgrid."""
    resources, drivers = target.child("resources"), target.child("drivers")
    if sum(port in resources.values for port in _SERIAL_PORTS) != 1:
        raise resources.fault(resources.line, f"a physical board has one console: one of {', '.join(_SERIAL_PORTS)}")
    for name in resources.values.keys() & _RESOURCES.keys():
        resource = resources.child(name)
        for key in resource.values.keys() & _RESOURCES[name].keys():
            node, line = resource.values[key]
            # What has a tag is labgrid's to make, such as `!template $LG_PORT`.
            if not node.tag.startswith("!") and (wanted := _RESOURCES[name][key](resource.plain(key))) is not None:
                raise resource.fault(line, f"{key!r} of {name} is {wanted}, not {resource.plain(key)!r}")
    if value["load"] and not any(loader in drivers.values for loader in _LOADERS):
        wanted = " and no ".join(_LOADERS)
        raise driver.fault(
            driver.line_of("load"), f"'load' are commands for a boot loader, but drivers: has no {wanted}"
        )
    for key, group in (("firmware", "version"), ("image_id", "id"), ("log_ring", "at")):
        if value[key] and group not in re.compile(value[key]).groupindex:
            raise driver.fault(driver.line_of(key), f"{key!r} lacks the group (?P<{group}>...)")
    if not 0 <= value["off_time_s"] < math.inf:
        found = value["off_time_s"]
        raise driver.fault(driver.line_of("off_time_s"), f"'off_time_s' must be 0 or more, not {found}")
    words = {"python": sys.executable, "board": str(driver.path.absolute())}
    try:
        command = tuple(word.format(**words) for word in shlex.split(value["wires"] or ""))
    except (ValueError, LookupError, AttributeError) as error:
        raise driver.fault(driver.line_of("wires"), f"'wires' is no command: {error}") from error
    if value["oldest_firmware"] and not value["firmware"]:
        raise driver.fault(
            driver.line_of("oldest_firmware"), "'oldest_firmware' needs 'firmware', which finds a version"
        )
    place = resources.child(_PLACE).plain("name", "") if _PLACE in resources.values else ""
    return Wires(
        load=tuple(str(line) for line in value["load"]),
        firmware=value["firmware"] or "",
        image_id=value["image_id"] or "",
        off_time_s=float(value["off_time_s"]),
        card=None if value["card"] is None else (driver.path.parent / value["card"]).resolve(),
        command=command,
        oldest_firmware=value["oldest_firmware"] or "",
        log_ring=value["log_ring"] or "",
        place=str(place),
        coordinator=str(options.get("coordinator_address", "")),
    )


def _image(driver: _Mapping, images: Mapping[str, str], key: str, name: str | None) -> Path | None:
    """The file that `images:` gives under `name`, relative to the board file."""
    if name is None:
        return None
    if name not in images:
        known = ", ".join(sorted(images)) or "none"
        raise driver.fault(driver.line_of(key), f"{key!r} names {name!r}, which images: lacks; it has: {known}")
    try:
        return (driver.path.parent / Path(images[name]).expanduser()).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # no such user, a loop of links, no name of a file
        raise driver.fault(driver.line_of(key), f"{key!r} names {images[name]!r}, which is no file: {error}") from error


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
