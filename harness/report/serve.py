"""The page of a run while it goes on, over HTTP for this host alone; and the consoles of machines that are on.

It listens on 127.0.0.1. A page of another site, opened in a browser on this host, reaches that address too:
by name, which the Host header tells, or by a request that it may send and not read. So another Host is refused,
and typing wants a token in a header, which no other site's page can send.
"""

from __future__ import annotations

import codecs
import contextlib
import hmac
import json
import select
import threading
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from harness.board import LabError
from harness.console.attach import SOCKET, visit
from harness.machine import attach
from harness.report.page import data, html, kept_consoles
from harness.report.run import EVENTS, RUN, RunError, find, read

LONGEST_TYPED = 4096
TOKEN = "X-Quoin-Token"
_PIECE = 1 << 16
# So often a stream says that it lives: a browser that went is seen then.
_BEAT_S = 10.0
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

Boards = Callable[[], Sequence[tuple[str, str]]]


class Server(ThreadingHTTPServer):
    """Serves the newest run of the checkout at `top`, or the one called `run`; `boards` tells each board's state.

    With a `token`, who has it may type. Port 0 takes any that is free. Raises RunError where the port is taken.
    """

    daemon_threads = True

    def __init__(self, top: Path, run: str | None, port: int, *, boards: Boards, token: str = "") -> None:
        self.top, self.run, self.boards, self.token = top, run, boards, token
        self._made: tuple[str, dict[str, Any]] | None = None
        self._making = threading.Lock()
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except OSError as error:
            raise RunError(f"port {port} of 127.0.0.1: {error.strerror}; give another: --port N") from error

    @property
    def address(self) -> str:
        """The page's address; with the token where there is one, in the part that browsers send nowhere."""
        return f"http://127.0.0.1:{self.server_port}/" + (f"#token={self.token}" if self.token else "")

    def content(self, known: str | None = None) -> dict[str, Any] | None:
        """What the page shows; None where that is what `known` is the version of. Raises RunError."""
        folder = find(self.top, self.run)
        events = folder / EVENTS
        version = f"{folder.name}:{events.stat().st_size if events.exists() else 0}:{(folder / RUN).exists()}"
        if version == known:
            return None
        with self._making:
            if self._made is None or self._made[0] != version:
                run = read(folder)
                self._made = version, data(self.top, run, kept_consoles(folder, run)) | {"version": version}
            return self._made[1]

    def machines(self) -> list[attach.Running]:
        """Machines that were switched on in this checkout, and are."""
        return [one for one in attach.running() if one.log.is_relative_to(self.top)]


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        words = {key: values[0] for key, values in parse_qs(address.query).items()}
        routes: dict[str, Callable[[dict[str, str]], None]] = {
            "/": self._page,
            "/api/run": self._run,
            "/api/machines": self._machines,
            "/api/console": self._console,
        }
        self._guarded(routes.get(address.path), words)

    def do_POST(self) -> None:
        address = urlsplit(self.path)
        words = {key: values[0] for key, values in parse_qs(address.query).items()}
        self._guarded(self._type if address.path == "/api/type" else None, words)

    def _guarded(self, act: Callable[[dict[str, str]], None] | None, words: dict[str, str]) -> None:
        port = self.server.server_port
        if self.headers.get("Host") not in (f"127.0.0.1:{port}", f"localhost:{port}"):
            return self._text(HTTPStatus.MISDIRECTED_REQUEST, "this server is 127.0.0.1 alone")
        if act is None:
            return self._text(HTTPStatus.NOT_FOUND, "no such page; the report is at /")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            try:
                act(words)
            except LabError as error:
                self._text(HTTPStatus.NOT_FOUND, str(error))

    # What there is.

    def _page(self, words: dict[str, str]) -> None:
        self._send(HTTPStatus.OK, "text/html", html(self.server.content() or {}, live=True))

    def _run(self, words: dict[str, str]) -> None:
        found = self.server.content(words.get("since"))
        if found is None:
            return self._send(HTTPStatus.NO_CONTENT, "application/json", "")
        self._send(HTTPStatus.OK, "application/json", json.dumps(found))

    def _machines(self, words: dict[str, str]) -> None:
        on = [
            {
                "pid": one.pid,
                "id": one.id,
                "since": time.strftime("%H:%M:%S", time.localtime(one.since_s)),
                "state": "held by a debugger" if attach.held(one.folder) else "on",
            }
            for one in self.server.machines()
        ]
        self._send(HTTPStatus.OK, "application/json", json.dumps({"machines": on, "boards": self.server.boards()}))

    def _console(self, words: dict[str, str]) -> None:
        """A console as events, each a piece of text as JSON, until the session or the reader ends."""
        connection, text = visit(self._machine(words).folder / SOCKET)
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        with connection:
            self._head(HTTPStatus.OK, "text/event-stream")
            self._event(decoder.decode(text))
            while True:
                readable, _, _ = select.select([connection], [], [], _BEAT_S)
                if not readable:
                    self.wfile.write(b":\n\n")
                    continue
                if not (text := connection.recv(_PIECE)):
                    break
                self._event(decoder.decode(text))
            self.wfile.write(b"event: ended\ndata: {}\n\n")

    def _event(self, text: str) -> None:
        self.wfile.write(f"data: {json.dumps(text)}\n\n".encode())

    def _type(self, words: dict[str, str]) -> None:
        given = self.headers.get(TOKEN, "")
        if not self.server.token or not hmac.compare_digest(given.encode(), self.server.token.encode()):
            return self._text(HTTPStatus.FORBIDDEN, "typing wants the token that `quoin serve --token` prints")
        size = self.headers.get("Content-Length", "")
        if not size.isdecimal() or len(size) > len(str(LONGEST_TYPED)) or int(size) > LONGEST_TYPED:
            return self._text(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {LONGEST_TYPED} bytes at once")
        typed = self.rfile.read(int(size))
        connection, _ = visit(self._machine(words).folder / SOCKET, typing=True)
        with connection:
            connection.sendall(typed)
        self._send(HTTPStatus.NO_CONTENT, "text/plain", "")

    def _machine(self, words: dict[str, str]) -> attach.Running:
        found = next((one for one in self.server.machines() if str(one.pid) == words.get("pid")), None)
        if found is None:
            raise RunError(
                f"no machine of this checkout is process {words.get('pid', '')}; it may have been switched off"
            )
        return found

    # How it is said.

    def _text(self, status: HTTPStatus, text: str) -> None:
        self._send(status, "text/plain", text + "\n")

    def _send(self, status: HTTPStatus, kind: str, text: str) -> None:
        content = text.encode()
        self._head(status, kind, len(content))
        self.wfile.write(content)

    def _head(self, status: HTTPStatus, kind: str, size: int | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": f"{kind}; charset=utf-8", **_HEADERS}.items():
            self.send_header(name, value)
        if size is not None:
            self.send_header("Content-Length", str(size))
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads an access log here."""
