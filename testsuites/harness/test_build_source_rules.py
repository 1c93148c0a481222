"""The kernel's sources keep the rules, and each rule sees the text that breaks it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest

from harness.build.artifacts import SOURCE, TOP
from harness.build.source_rules import (
    LIMIT_WHOLE_MICROKERNEL,
    Finding,
    commented_out,
    constants,
    privileged_lines,
    product_sources,
    repeated_tunables,
    rust_sources,
    silenced,
    string_errors,
    unexplained_unsafe,
    unnamed_work,
)

Rule = Callable[[str, str], Iterator[Finding]]
CONFIG = "kernel/src/config.rs"
TEXTS = (".py", ".md", ".yaml", ".tsv", ".patch", ".dts", ".ini")


def broken(rule: Rule) -> list[str]:
    return [str(f) for path, text in rust_sources(SOURCE).items() for f in rule(path, text)]


@pytest.mark.requirement("PRF-01")
def test_privileged_code_stays_within_its_lines() -> None:
    lines = privileged_lines(product_sources(SOURCE))
    assert 0 < lines <= LIMIT_WHOLE_MICROKERNEL


@pytest.mark.requirement("PRF-01")
def test_comments_blanks_and_test_modules_are_not_counted() -> None:
    from harness.build.source_rules import code_lines, without_tests

    text = "//! head\n\nfn a() {}\n/* two\n lines */\n#[cfg(test)]\nmod tests {\n fn b() {}\n}\n"
    assert code_lines(without_tests(text)) == 1


@pytest.mark.requirement("ERR-04")
def test_every_unsafe_says_why_it_holds() -> None:
    assert broken(unexplained_unsafe) == []


@pytest.mark.requirement("ERR-02")
def test_no_error_is_a_string() -> None:
    assert broken(string_errors) == []


@pytest.mark.requirement("ERR-10")
def test_no_dead_code_is_allowed() -> None:
    assert broken(silenced) == []


@pytest.mark.requirement("ERR-10")
def test_no_code_is_kept_as_a_comment() -> None:
    assert broken(commented_out) == []


@pytest.mark.requirement("ERR-09", "BTA-10")
def test_nothing_stands_for_missing_work() -> None:
    assert broken(unnamed_work) == []


@pytest.mark.requirement("ERR-09", "DOC-19")
def test_no_merge_is_left_unfinished() -> None:
    marks = re.compile(r"^(<{7}|>{7}) ", re.MULTILINE)
    folders = [TOP / name for name in ("boards", "docs", "harness", "testsuites")]
    paths = [path for folder in folders for path in folder.rglob("*") if path.suffix in TEXTS] + [TOP / "README.md"]
    assert len(paths) > 300
    assert [str(path) for path in paths if marks.search(path.read_text(encoding="utf-8", errors="replace"))] == []
    assert [path for path, text in rust_sources(SOURCE).items() if marks.search(text)] == []


@pytest.mark.requirement("BLD-12")
def test_no_tunable_is_written_twice() -> None:
    sources = product_sources(SOURCE)
    config = sources.pop(CONFIG)
    # Numbers under arch/ are the hardware's own bits and sizes; that some equal a tunable is chance.
    checked = {n: t for n, t in sources.items() if n.startswith("kernel/") and "/arch/" not in n}
    assert len(checked) > 20
    assert [str(f) for f in repeated_tunables(config, checked)] == []


BAD: list[tuple[Rule, str]] = [
    (unexplained_unsafe, "fn a() {\n    unsafe { b() }\n}"),
    (unexplained_unsafe, "unsafe impl Sync for A {}"),
    (string_errors, "fn a() -> Result<u8, &'static str> {"),
    (string_errors, "fn a() -> Result<(), String> {"),
    (string_errors, '    return Err("no memory");'),
    (silenced, "#[allow(dead_code)]"),
    (silenced, "#![allow(clippy::all, unused_variables)]"),
    (commented_out, "    // let x = y;"),
    (commented_out, "    // frames.free(page);"),
    (unnamed_work, "    todo!()"),
    (unnamed_work, "    let _unused = delegate(x);"),
]


@pytest.mark.requirement("ERR-02", "ERR-09", "ERR-10")
@pytest.mark.parametrize(("rule", "text"), BAD)
def test_a_rule_sees_what_breaks_it(rule: Rule, text: str) -> None:
    assert len(list(rule("a.rs", text))) == 1


GOOD: list[tuple[Rule, str]] = [
    (unexplained_unsafe, "// SAFETY: b has no other caller.\nunsafe { b() }"),
    (unexplained_unsafe, "#[unsafe(no_mangle)]"),
    (unexplained_unsafe, "// the unsafe part lives elsewhere"),
    (string_errors, "fn a() -> Result<&'static str, Error> {"),
    (silenced, "#![allow(unsafe_code)]"),
    (commented_out, "// Freed pages come back; see `free`."),
    (unnamed_work, "let (_, rest) = split(x);"),
]


@pytest.mark.requirement("ERR-02", "ERR-09", "ERR-10")
@pytest.mark.parametrize(("rule", "text"), GOOD)
def test_a_rule_leaves_sound_text_alone(rule: Rule, text: str) -> None:
    assert list(rule("a.rs", text)) == []


@pytest.mark.requirement("BLD-12")
def test_constants_are_read_as_numbers() -> None:
    text = "pub const A: usize = 4096;\nconst B: u64 = 32 << 10;\npub(crate) const C: u64 = 0xFFFF_0000;\n"
    text += "const D: u8 = A;\n"
    assert constants(text) == {"A": 4096, "B": 32768, "C": 0xFFFF_0000}


@pytest.mark.requirement("BLD-12")
@pytest.mark.parametrize("again", ["let a = 32 << 10;", "f(32_768)", "[0u8; 0x8000]", "x * 32768usize"])
def test_a_tunable_written_again_is_seen(again: str) -> None:
    config = "pub const STACK: usize = 32 << 10;"
    assert [f.line for f in repeated_tunables(config, {"kernel/src/a.rs": again})] == [1]
    assert list(repeated_tunables(config, {"kernel/src/a.rs": "let a = STACK; // 32 << 10"})) == []
