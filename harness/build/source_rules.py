"""Rules that the kernel's sources keep, read from their text.

Each rule is a function from source text to findings, so that it is tested on
text that breaks it. Counting and its limits: lines of Rust and assembly that run
privileged, without blanks, comments and test modules; `user/` is not privileged.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

LIMIT_WHOLE_MICROKERNEL = 11_500
_OUTSIDE = re.compile(r"/(tests|benches|fuzz|examples|xtask)/|/tests\.rs$|/build\.rs$")
_ASSEMBLY = re.compile(r"\.(S|s|asm)$")
_SAFETY_REACH_LINES = 12
_DISTINCTIVE = 4096  # smaller numbers are equal by chance


@dataclass(frozen=True, slots=True)
class Finding:
    """One line that breaks a rule."""

    path: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text.strip()}"


def product_sources(source: Path) -> dict[str, str]:
    """Text of every privileged source file by its path below `source`: neither user programs nor tests."""
    found: dict[str, str] = {}
    for path in sorted(source.rglob("*")):
        name = str(path.relative_to(source))
        if name.startswith(("user/", "target/")) or _OUTSIDE.search(f"/{name}"):
            continue
        if path.suffix == ".rs" or _ASSEMBLY.search(name):
            found[name] = without_tests(path.read_text(encoding="utf-8"))
    return found


def rust_sources(source: Path) -> dict[str, str]:
    """Text of every Rust file below `source`, user programs and tests included."""
    names = (path for path in sorted(source.rglob("*.rs")) if "target" not in path.parts)
    return {str(path.relative_to(source)): path.read_text(encoding="utf-8") for path in names}


def without_tests(text: str) -> str:
    """The text up to a test module at its end."""
    cut = re.search(r"^#\[cfg\(test\)\]\s*\nmod \w+ \{", text, flags=re.MULTILINE)
    return text[: cut.start()] if cut else text


def code_lines(text: str) -> int:
    """Lines that are neither blank nor comment."""
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    return sum(1 for line in text.splitlines() if line.strip() and not line.strip().startswith("//"))


def privileged_lines(sources: Mapping[str, str]) -> int:
    """Code lines of all of `product_sources`."""
    return sum(code_lines(text) for text in sources.values())


def unexplained_unsafe(path: str, text: str) -> Iterator[Finding]:
    """`unsafe` without a SAFETY argument above it (`# Safety` for a function that callers must prove)."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        code = line.split("//", 1)[0]
        code = re.sub(r'"(?:[^"\\]|\\.)*"', '""', code)
        code = re.sub(r"unsafe\((no_mangle|naked|export_name|link_section)\b", "", code)  # attributes
        if not re.search(r"\bunsafe\b(?!_)", code) or re.search(r"unsafe (extern|fn\()|fn\(.*\bunsafe\b", code):
            continue
        above = lines[max(0, number - _SAFETY_REACH_LINES) : number + 1]
        if not any("SAFETY" in near or "# Safety" in near for near in above):
            yield Finding(path, number + 1, line)


def string_errors(path: str, text: str) -> Iterator[Finding]:
    """Errors that are text: callers cannot tell them apart."""
    pattern = re.compile(r"Result<.*,\s*(&\s*('\w+\s+)?str|String)\s*>|\bErr\(\s*(\"|format!|String::from)")
    yield from _matching(path, text, pattern)


def silenced(path: str, text: str) -> Iterator[Finding]:
    """Warnings silenced where the cause was to be mended: dead and unused code, or everything at once.

    One that holds only in a named configuration (`cfg_attr`) says what it is for, and passes.
    """
    pattern = re.compile(r"^(?!.*cfg_attr).*allow\([^)]*\b(dead_code|unused\w*|warnings|clippy::all)\b")
    yield from _matching(path, text, pattern)


def commented_out(path: str, text: str) -> Iterator[Finding]:
    """Code kept as a comment."""
    pattern = re.compile(
        r"^\s*//\s*((pub |let |use |return\b|mod |impl |struct |#\[).*[;{\]]|\w+(\.|::)\w+\(.*\);)\s*$"
    )
    yield from _matching(path, text, pattern)


def unnamed_work(path: str, text: str) -> Iterator[Finding]:
    """Places left open: panicking placeholders, and variables silenced by an underscore."""
    pattern = re.compile(r"\b(todo|unimplemented)!|\b(TODO|FIXME|XXX)\b|\blet _\w+\s*(:[^=]+)?=")
    yield from _matching(path, text, pattern)


def _matching(path: str, text: str, pattern: re.Pattern[str]) -> Iterator[Finding]:
    for number, line in enumerate(text.splitlines(), start=1):
        if pattern.search(line):
            yield Finding(path, number, line)


def constants(text: str) -> dict[str, int]:
    """Integer constants of a Rust module whose value is a literal or a literal shifted or multiplied by one."""
    found: dict[str, int] = {}
    for name, value in re.findall(r"^\s*(?:pub(?:\([a-z]+\))? )?const (\w+): \w+ = ([^;]+);", text, re.MULTILINE):
        number = _value(value)
        if number is not None:
            found[name] = number
    return found


_LITERAL = r"(?:0x[0-9A-Fa-f_]+|[0-9][0-9_]*)"
_NUMBER = re.compile(rf"(?<![\w.])({_LITERAL})(?:\s*(<<|\*)\s*({_LITERAL}))?(?:[iu](?:8|16|32|64|size))?(?![\w.])")


def _value(text: str) -> int | None:
    whole = _NUMBER.fullmatch(text.strip())
    return None if whole is None else _number(whole)


def _number(match: re.Match[str]) -> int:
    left = (
        int(match[1].replace("_", ""), 0) if not re.fullmatch(r"0[0-9_]+", match[1]) else int(match[1].replace("_", ""))
    )
    if match[2] is None:
        return left
    right = int(match[3].replace("_", ""), 0)
    # A shift by thousands is no tunable, and would cost memory to evaluate.
    return left * right if match[2] == "*" else left << min(right, 64)


def repeated_tunables(config: str, sources: Mapping[str, str]) -> Iterator[Finding]:
    """Places in `sources` that write a tunable's value again instead of naming it.

    `config` is the text of the configuration module. Values below 4096 are equal by chance too often to say anything.
    """
    by_value = {value: name for name, value in constants(config).items() if value >= _DISTINCTIVE}
    for path, text in sources.items():
        for number, line in enumerate(text.splitlines(), start=1):
            code = re.sub(r'"(?:[^"\\]|\\.)*"', '""', line.split("//", 1)[0])
            for match in _NUMBER.finditer(code):
                name = by_value.get(_number(match))
                if name is not None:
                    yield Finding(path, number, f"{line.strip()}  (is {name})")
