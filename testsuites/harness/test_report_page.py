"""The page of a run, in a browser: what it shows, by which keys, how large it gets, and what it never does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, Request, expect

from harness.report.page import embedded, html, write_page
from harness.report.run import Case, Machine, Run, Writer
from support.browser import browser, needs_chromium

pytestmark = [needs_chromium, pytest.mark.requirement("DEV-03")]
BOARD = "qemu-riscv64-smp4"
SCRIPT = "</script><script>window.ran = 1</script>"
HOSTILE = SCRIPT + SCRIPT.replace(">", " >") + "<!--<img src=x onerror='window.ran = 1'>\x1b[31m\u202e]]>"
README = (
    ("QEMU", "QEMU: 7.2.22"),
    ("CPU 0", "  #0 0xffff kernel::trap::fatal+0x4 at kernel/src/trap.rs:72\n\nx1/ra 0000beef"),
)


@pytest.fixture(scope="module")
def chromium() -> Iterator[BrowserContext]:
    with browser() as running:
        yield running


def write(top: Path, *tests: Case, log: str = "", name: str = "20260101T000000-1") -> Path:
    """The page of a run of `tests`; with `log` as the console of the machine that they ran on."""
    writer = Writer.begin(top, name, "pytest", revision="abc")
    if log:
        path = top / "console.log"
        path.write_text(log, encoding="utf-8", errors="surrogateescape")
        writer.add(Machine("one", BOARD, str(path), 0.5))
    for test in tests:
        writer.add(test)
    return write_page(top, writer.folder, writer.finish())


def failure(**more: Any) -> Case:
    told = Case(
        f"testsuites/boot/test_boot.py::test_it[{BOARD}]",
        "failed",
        "panicked",
        BOARD,
        cause="the frame table is torn",
        begin_s=1.0,
        end_s=2.0,
        seconds=1.0,
        place="testsuites/boot/test_boot.py:12",
        rerun=f"pytest --board qemu-riscv64 'testsuites/boot/test_boot.py::test_it[{BOARD}]'",
        replay="./quoin replay 20260101-000000-qemu-riscv64-smp4",
        looked=README,
        machines=("one",),
        requirements=("BLD-01",),
    )
    return replace(told, **more)


def passed(number: int, board: str = BOARD) -> Case:
    return Case(
        f"testsuites/smp/test_counts.py::test_{number}[{board}]",
        "passed",
        "passed",
        board,
        begin_s=number / 10,
        end_s=(number + 1) / 10,
        seconds=0.1,
    )


def opened(chromium: BrowserContext, path: Path, width: int = 1280) -> tuple[Page, list[str], list[str]]:
    """A page, the addresses that it asked for, and what its script complained of."""
    page = chromium.new_page()
    page.set_viewport_size({"width": width, "height": 800})
    asked: list[str] = []
    faults: list[str] = []

    def note(request: Request) -> None:
        asked.append(request.url)

    page.on("request", note)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text))
    page.goto(path.as_uri())
    return page, asked, faults


def test_a_failure_shows_line_registers_backtrace_and_replay_command_after_one_click(
    chromium: BrowserContext, tmp_path: Path
) -> None:
    log = "    0.700000 | boot: entry\n    1.000000 | PANIC the frame table is torn\n"
    page, asked, faults = opened(chromium, write(tmp_path, failure(), passed(1), log=log))
    assert page.locator("h1").inner_text() == "1 of 2 tests failed"
    page.get_by_role("option", name="test_it").click()
    page.wait_for_selector("article.detail")
    for text in (
        "panicked",
        "the frame table is torn",
        "testsuites/boot/test_boot.py:12",
        "./quoin replay 20260101-000000-qemu-riscv64-smp4",
        "kernel::trap::fatal+0x4",
        "kernel/src/trap.rs:72",
        "0000beef",
        "PANIC the frame table is torn",
    ):
        assert page.get_by_text(text).first.is_visible(), text
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert len([url for url in asked if url.startswith("file:")]) == 1
    assert faults == []
    page.close()


def test_no_text_of_guests_and_tests_runs_and_its_control_characters_are_seen(
    chromium: BrowserContext, tmp_path: Path
) -> None:
    hostile = failure(
        cause=HOSTILE, text=HOSTILE, verdict=HOSTILE, board=HOSTILE, place=HOSTILE, looked=((HOSTILE,) * 2,)
    )
    written = write(
        tmp_path, replace(hostile, id=f"testsuites/boot/{HOSTILE}.py::x"), log=f"    0.700000 | {HOSTILE}\n"
    )
    page, asked, faults = opened(chromium, written)
    page.locator("[role=option]").first.click()
    page.wait_for_selector("article.detail")
    text = page.locator("main").inner_text()
    assert SCRIPT in text
    assert "^[[31m⟨U+202E⟩" in text
    for tab, head in (("tests", "Tests"), ("timeline", "Consoles on one clock")):
        page.evaluate(f"location.hash = '{tab}'")
        expect(page.locator("h1")).to_have_text(head)
        assert "<img src=x" in page.locator("main").inner_text()
    assert page.evaluate("window.ran") is None
    assert page.evaluate("document.scripts.length") == 2
    assert len(asked) == len([url for url in asked if url.startswith(("file:", "data:"))]), asked
    assert faults == []
    page.close()


def test_what_is_embedded_ends_no_element() -> None:
    text = embedded({"a": HOSTILE + "\u2028\ud800&amp;"})
    assert json.loads(text) == {"a": HOSTILE + "\u2028\ud800&amp;"}
    assert not {"<", ">", "&", "\u2028"} & set(text)
    assert html({"tests": ["@SCRIPT@ @STYLE@"]}).count("@SCRIPT@") == 1, "what is put in is not looked at again"


def test_all_of_it_is_reached_by_keys(chromium: BrowserContext, tmp_path: Path) -> None:
    tests = [passed(number) for number in range(60)]
    page, _, faults = opened(chromium, write(tmp_path, failure(), failure(id="testsuites/a.py::test_b"), *tests))
    press = page.keyboard.press
    press("2")
    expect(page.locator("h1")).to_have_text("Tests")
    press("/")
    assert page.evaluate("document.activeElement.type") == "search"
    page.keyboard.type("test_4")
    expect(page.locator(".count")).to_have_text("11 tests")
    press("Enter")
    press("End")
    press("ArrowUp")
    assert page.locator("[aria-selected=true]").get_attribute("aria-posinset") == "10"
    assert (
        page.evaluate(
            "document.getElementById(document.activeElement.getAttribute('aria-activedescendant')).getAttribute('aria-selected')"
        )
        == "true"
    )
    press("Enter")
    page.wait_for_selector("article.detail")
    assert "test_48" in page.locator("h1").inner_text()
    press("Escape")
    expect(page.locator(".count")).to_have_text("11 tests")
    press("n")
    expect(page.locator("h1")).to_have_text("test_it")
    press("n")
    expect(page.locator("h1")).to_have_text("test_b")
    press("?")
    assert page.locator("dialog[open]").is_visible()
    press("Escape")
    page.wait_for_selector("dialog[open]", state="detached")
    # And by Tab alone, from the top: each stop can be seen.
    page.evaluate("location.hash = 'overview'")
    page.wait_for_selector(".matrix")
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    stops = []
    for _ in range(14):
        press("Tab")
        stops.append(
            page.evaluate("document.activeElement.textContent.slice(0, 30) || document.activeElement.className")
        )
    assert any("Tests" in stop for stop in stops) and any("test_it" in stop for stop in stops), stops
    assert faults == []
    page.close()


@pytest.mark.parametrize("width", [360, 1280])
def test_ten_thousand_tests_keep_the_page_small(chromium: BrowserContext, tmp_path: Path, width: int) -> None:
    boards = [f"qemu-{arch}-smp{cpus}" for arch in ("riscv64", "aarch64", "x86_64") for cpus in (1, 4)]
    tests = [passed(number, boards[number % 6]) for number in range(10_000)]
    path = write(tmp_path, failure(), *tests, log="    0.100000 | line\n" * 5_000)
    page, _, faults = opened(chromium, path, width)
    for tab in ("overview", "tests", "timeline"):
        page.evaluate(f"location.hash = '{tab}'")
        expect(page.locator("[aria-current]")).to_have_attribute("href", f"#{tab}")
        page.wait_for_selector("[role=option]")
        assert page.evaluate("document.querySelectorAll('*').length") < 1200
        assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{tab} is wider than the screen"
    page.evaluate("location.hash = 'tests'")
    expect(page.locator(".count")).to_have_text("10,001 tests")
    page.locator(".vlist").focus()
    page.keyboard.press("End")
    last = page.locator("[aria-selected=true]")
    assert last.get_attribute("aria-posinset") == "10001"
    assert "test_9999" in last.inner_text()
    assert last.bounding_box()["y"] < 800  # type: ignore[index]  # it is on the screen
    assert page.evaluate("document.querySelectorAll('*').length") < 1200
    assert faults == []
    page.close()


def test_a_run_is_held_against_the_last_good_one(chromium: BrowserContext, tmp_path: Path) -> None:
    tests = [passed(number) for number in range(4)]
    write(tmp_path, *tests, name="20260101T000000-1")
    write(tmp_path, *tests, failure(), name="20260101T000001-1")
    now = [replace(tests[0], outcome="failed"), replace(tests[1], seconds=9.0), tests[3], failure()]
    page, _, faults = opened(chromium, write(tmp_path, *now, name="20260101T000002-1"))
    assert "since 20260101T000000-1" in page.locator("main").inner_text(), "the red run between is passed over"
    page.evaluate("location.hash = 'compare'")
    page.wait_for_selector(".vlist [role=option]")
    rows = page.locator("[role=option]").all_inner_texts()
    wanted = ["was passed, now failed", "new, failed", "not in this run", "took"]
    assert [next(word for word in wanted if word in row) for row in rows] == wanted
    assert faults == []
    page.close()


def test_numbers_are_plotted_and_coverage_is_told(chromium: BrowserContext, tmp_path: Path) -> None:
    metric = {
        "metric": {"name": "ipc.call", "value": 500.0, "unit": "instructions", "better": "lower"},
        **{"board": "qemu-riscv64", "variant": "smp1", "tools": {}, "at": "2026-01-01T00:00:00", "revision": "abc"},
    }
    writer = Writer.begin(tmp_path, "20260101T000000-1", "pytest")
    writer.add(passed(1))
    run: Run = writer.finish(metrics=[metric], coverage=[("kernel/src/trap.rs", 30, 120), ("kernel/src/mm.rs", 9, 10)])
    page, _, faults = opened(chromium, write_page(tmp_path, writer.folder, run))
    page.evaluate("location.hash = 'metrics'")
    page.wait_for_selector("section.plot svg path", state="attached")
    assert "500" in page.locator(".value").inner_text()
    page.evaluate("location.hash = 'coverage'")
    expect(page.locator("h1")).to_have_text("30.0 % of 130 lines executed")
    assert "25.0 %" in page.get_by_role("option", name="trap.rs").inner_text()
    assert faults == []
    page.close()
