"""The live report: what it shows while a run goes on, who may watch, who may type, and who may not."""

from __future__ import annotations

import http.client
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import expect

from harness.board import read_board
from harness.build import artifacts
from harness.cli.serve import board_states
from harness.console import Session
from harness.machine import BootFiles, QemuMachine
from harness.machine.tiny_guest import Then, write_tiny_guest
from harness.report.run import Case, RunError, Writer
from harness.report.serve import LONGEST_TYPED, TOKEN, Server
from support.browser import browser, needs_chromium
from support.projects import TOP

pytestmark = pytest.mark.requirement("DEV-08", "TST-30")
LIMIT_S = 60.0
SECRET = "a-token-for-this-test"


@contextmanager
def serving(top: Path, token: str = "") -> Iterator[Server]:
    with Server(top, None, 0, boards=lambda: [("rack-7", "leased by eve")], token=token) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(LIMIT_S)


def asked(server: Server, path: str, *, post: bytes | None = None, **headers: str) -> tuple[int, str]:
    """Status and body of a request; `Host` is what the client makes of the address, unless given."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=LIMIT_S)
    told = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("GET" if post is None else "POST", path, post, told)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


@pytest.fixture
def writer(tmp_path: Path) -> Writer:
    return Writer.begin(tmp_path, "20260101T000000-1", "pytest")


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    """A machine that says what is typed, and whose log is in the checkout that is served."""
    board = read_board(TOP / "boards" / "qemu-riscv64.yaml").variant(smp=1)
    guest = write_tiny_guest(tmp_path / "guest", "init: ready\n", Then.ECHO)
    with Session(QemuMachine(board, BootFiles(guest)), tmp_path / "console.log") as session:
        session.wait_ready()
        yield session


def test_a_host_that_is_another_is_refused_everywhere(tmp_path: Path, writer: Writer) -> None:
    with serving(tmp_path, SECRET) as server:
        for path in ("/", "/api/run", "/api/machines", "/api/console?pid=1"):
            for host in ("evil.example", f"evil.example:{server.server_port}", "127.0.0.1"):
                assert asked(server, path, Host=host)[0] == 421, (path, host)
        typed = asked(server, "/api/type?pid=1", post=b"x", Host="evil.example", **{TOKEN: SECRET})
        assert typed[0] == 421
        assert asked(server, "/api/run", Host=f"localhost:{server.server_port}")[0] == 200
        assert asked(server, "/etc/passwd")[0] == 404
        assert server.server_address[0] == "127.0.0.1"
        with pytest.raises(RunError, match="--port"):
            Server(tmp_path, None, server.server_port, boards=list)


def test_only_who_has_the_token_types(tmp_path: Path, writer: Writer, session: Session) -> None:
    path = f"/api/type?pid={session.machine.pid}"
    with serving(tmp_path) as server:
        assert asked(server, path, post=b"no\n")[0] == 403
        assert asked(server, path, post=b"no\n", **{TOKEN: ""})[0] == 403, "no token is not the empty one"
    with serving(tmp_path, SECRET) as server:
        for wrong in ("", SECRET[:-1], SECRET + "x"):
            assert asked(server, path, post=b"no\n", **{TOKEN: wrong})[0] == 403
        assert asked(server, path, post=b"x" * (LONGEST_TYPED + 1), **{TOKEN: SECRET})[0] == 413
        assert asked(server, path, post=b"", Content_Length="9" * 5000, **{TOKEN: SECRET})[0] == 413
        assert asked(server, "/api/type?pid=1", post=b"no\n", **{TOKEN: SECRET})[0] == 404
        assert asked(server, path, post=b"yes\n", **{TOKEN: SECRET})[0] == 204
        session.console.expect("yes", LIMIT_S)
    assert b"no" not in session.console.before


def test_a_broken_board_file_hides_no_other_board(
    tmp_path: Path, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "boards").mkdir()
    (tmp_path / "boards" / "a.yaml").write_text("targets: [\n")
    shutil.copy(TOP / "boards" / "qemu-riscv64.yaml", tmp_path / "boards" / "b.yaml")
    monkeypatch.setattr(artifacts, "TOP", tmp_path)
    with Server(tmp_path, None, 0, boards=board_states) as server:
        broken, whole = server.boards()
        threading.Thread(target=server.handle_request, daemon=True).start()
        status, text = asked(server, "/api/machines")
    assert broken[0] == "a" and broken[1].startswith(f"broken: {tmp_path / 'boards' / 'a.yaml'}:")
    assert whole == ("b", "for everybody")
    assert (status, json.loads(text)["boards"]) == (200, [list(broken), list(whole)])


def test_what_has_not_changed_is_not_sent_again(tmp_path: Path, writer: Writer) -> None:
    with serving(tmp_path) as server:
        first = json.loads(asked(server, "/api/run")[1])
        assert asked(server, f"/api/run?since={first['version']}") == (204, "")
        writer.add(Case("a", "passed", "passed"))
        status, text = asked(server, f"/api/run?since={first['version']}")
        assert status == 200 and [test["id"] for test in json.loads(text)["tests"]] == ["a"]


@needs_chromium
def test_a_run_is_seen_as_it_goes_on_with_consoles_to_watch_and_type_at(
    tmp_path: Path, writer: Writer, session: Session
) -> None:
    writer.add(Case("testsuites/a.py::test_first", "passed", "passed"))
    with serving(tmp_path, SECRET) as server, browser() as chromium:
        page = chromium.new_page()
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(server.address)
        expect(page.locator(".machine pre")).to_contain_text("init: ready")
        assert SECRET not in page.url
        assert "leased by eve" in page.locator("main").inner_text()
        page.get_by_label("Type to qemu-riscv64-smp1").fill("hello there")
        page.keyboard.press("Enter")
        session.console.expect("hello there", LIMIT_S)
        expect(page.locator(".machine pre")).to_contain_text("hello there")
        page.evaluate("location.hash = 'overview'")
        expect(page.locator("h1")).to_have_text("All 1 test passed so far")
        writer.add(Case("testsuites/a.py::test_second", "failed", "reset", cause="it reset"))
        expect(page.locator("h1")).to_have_text("1 of 2 tests failed so far")
        writer.finish()
        expect(page.locator("h1")).to_have_text("1 of 2 tests failed")
        assert faults == []
