"""The face of a console that suites see: expect, send, and the shell on it."""

from __future__ import annotations

import re
import time

from harness.console.broker import WINDOW, Broker
from harness.console.errors import ConsoleClosed, ExpectTimeout, TargetPanicked
from harness.console.hang_clock import Deadline
from harness.console.line_faults import begun, text_fault
from harness.console.lines import Line
from harness.console.panic import PanicReport
from harness.console.patterns import text_in

DEFAULT_TIMEOUT_S = 10.0
# A match may reach this far back over the edge between two pieces.
OVERLAP = 4096
_REPORT_GRACE_S = 2.0
# After its limit a wait goes on for so long where the text has begun, or a prompt is due: late is not never.
LATE_S = 1.0


class Console:
    """Waits for text in order: what one `expect` has passed, the next does not see.

    Patterns are regular expressions in which `^` and `$` mean a line. A match is
    at most 4096 bytes long where it spans pieces.
    """

    def __init__(self, broker: Broker, prompt: str = r"\$ ") -> None:
        self.broker = broker
        self.prompt = prompt
        self.before = b""
        self._cursor = 0

    def expect(self, pattern: str, timeout_s: float = DEFAULT_TIMEOUT_S) -> re.Match[bytes]:
        """The next match of `pattern`.

        Raises TargetPanicked when the target panics first, ConsoleClosed when
        the console ends first, ExpectTimeout at the deadline.
        """
        _, match = self.expect_any([pattern], timeout_s)
        return match

    def expect_any(self, patterns: list[str], timeout_s: float = DEFAULT_TIMEOUT_S) -> tuple[int, re.Match[bytes]]:
        """Which of `patterns` matches first in the text, and its match; raises as `expect`."""
        return self._expect(patterns, timeout_s, late="")

    def _expect(self, patterns: list[str], timeout_s: float, *, late: str) -> tuple[int, re.Match[bytes]]:
        """As `expect_any`; `late` is what to call it when it comes just after its limit, as a prompt may."""
        compiled = [(re.compile(pattern.encode(), re.MULTILINE), text_in(pattern)) for pattern in patterns]
        deadline = self.broker.deadline(timeout_s)
        scanned = self._cursor
        broker = self.broker
        over = ""
        with broker.changed:
            while True:
                broker.check()
                found = self._search(compiled, max(self._cursor, scanned - OVERLAP))
                if found is not None and not over:
                    return found
                if found is not None:
                    raise ExpectTimeout(f"console: {late}: {_names(patterns)} came after its limit of {timeout_s:g} s")
                scanned = broker.window.end
                self._check_alive(patterns)
                left = deadline.left_s()
                if left == 0 and not over:
                    over = f"no {_names(patterns)} on the console within {timeout_s:g} s"
                    if not late and any(begun(pattern, broker.unfinished) for pattern in patterns):
                        late = "bytes delayed"
                    if late:
                        broker.note(f"{over}; {LATE_S:g} s more for what is late")
                        deadline = Deadline(time.monotonic, LATE_S)
                        left = LATE_S
                if left == 0:
                    raise ExpectTimeout(f"{over} ({broker.received} bytes received in all){self._why(patterns)}")
                broker.changed.wait(left)

    def _why(self, patterns: list[str]) -> str:
        """What the line did to the awaited text, if that can be told. Raises ConsoleFault where it brings no text."""
        text = bytes(self.broker.window.text[max(self._cursor - self.broker.window.start, 0) :])
        self.broker.check_text()
        awaited = [*patterns, self.broker.panic.pattern]
        fault = next(filter(None, (text_fault(pattern, text) for pattern in awaited)), None)
        return "" if fault is None else f"; {fault}"

    def expect_panic(self, timeout_s: float = DEFAULT_TIMEOUT_S) -> PanicReport:
        """The whole report of a panic that this test provokes."""
        broker = self.broker
        deadline = broker.deadline(timeout_s)
        with broker.changed:
            watcher = broker.panic
            while watcher.report is None and broker.ended is None and broker.fault is None:
                if (left := deadline.left_s()) == 0:
                    raise ExpectTimeout(f"no panic within {timeout_s:g} s")
                broker.changed.wait(left)
            if watcher.report is None:
                broker.check()
                raise ConsoleClosed(f"the console ended without a panic: {broker.ended}")
            report = self._whole(watcher.report)
            report.acknowledged = True
            self._cursor = broker.window.end
            return report

    def send(self, text: str | bytes) -> None:
        """Type `text` as it is."""
        self.broker.send(text.encode() if isinstance(text, str) else text)

    def sendline(self, text: str = "") -> None:
        """Type `text` and Enter."""
        self.send(text + "\n")

    def command(self, text: str, timeout_s: float = DEFAULT_TIMEOUT_S) -> str:
        """Run a shell command and return what it printed, without echo and prompt."""
        self.sendline(text)
        self.expect(re.escape(text) + r"\n", timeout_s)
        self._expect([rf"^{self.prompt}\Z"], timeout_s, late="late prompt")
        return self.before.decode(errors="replace")

    def skip(self) -> None:
        """Forget all text received so far."""
        with self.broker.changed:
            self._cursor = self.broker.window.end
            self.broker.forgive()

    @property
    def unseen(self) -> bytes:
        """Text that no `expect` has passed; set, it is all that the next one sees of what has come so far."""
        with self.broker.changed:
            return bytes(self.broker.window.text[max(self._cursor - self.broker.window.start, 0) :])

    @unseen.setter
    def unseen(self, text: bytes) -> None:
        with self.broker.changed:
            self.broker.window.add(b"\n" + text)
            self._cursor = self.broker.window.end - len(text)

    def last_lines(self, count: int = 20) -> list[Line]:
        """The newest lines, frames left out."""
        with self.broker.changed:
            lines = [line for line in self.broker.recent if not line.is_frame]
        return lines[-count:]

    def _search(
        self, patterns: list[tuple[re.Pattern[bytes], bytes]], since: int
    ) -> tuple[int, re.Match[bytes]] | None:
        window = self.broker.window
        at = max(since - window.start, 0)
        best: tuple[int, re.Match[bytes]] | None = None
        for index, (pattern, needed) in enumerate(patterns):
            match = pattern.search(window.text, at) if window.text.find(needed, at) >= 0 else None
            if match and (best is None or match.start() < best[1].start()):
                best = index, match
        if best is None:
            return None
        index, match = best
        at_cursor = max(self._cursor - window.start, 0)
        kept = max(at_cursor, match.start() - WINDOW // 16)
        self.before = bytes(window.text[kept : match.start()])
        self._cursor = window.start + match.end()
        report = self.broker.panic.report
        if report is not None and b"PANIC" in match.group():
            report.acknowledged = True
        # The window moves on, so the caller's match is one over bytes of its own.
        line = window.text.rfind(b"\n", 0, match.start()) + 1
        again = patterns[index][0].search(bytes(window.text[line : match.end()]), match.start() - line)
        if again is None:
            again = patterns[index][0].search(bytes(window.text), match.start())
            assert again is not None
        return index, again

    def _check_alive(self, patterns: list[str]) -> None:
        report = self.broker.panic.report
        if report is not None and not report.acknowledged:
            raise TargetPanicked(self._whole(report))
        if self.broker.ended is not None:
            raise ConsoleClosed(f"the console ended before {_names(patterns)}: {self.broker.ended}")

    def _whole(self, report: PanicReport) -> PanicReport:
        """Wait a little for the rest of a report. Called with the broker's lock held."""
        self.broker.changed.wait_for(lambda: report.complete or self.broker.ended is not None, _REPORT_GRACE_S)
        return report


def _names(patterns: list[str]) -> str:
    # As they were written: repr doubles each backslash.
    return " or ".join("'" + pattern.replace("\n", r"\n") + "'" for pattern in patterns)
