"""Frames as a conversation: each sent one is acknowledged, or sent again."""

from __future__ import annotations

from collections.abc import Iterator

from harness.console.broker import Broker
from harness.console.errors import ConsoleClosed, ConsoleFault, ExpectTimeout, TargetPanicked
from harness.console.framing import MODULUS, Frame, Torn, decode, encode
from harness.console.hang_clock import Deadline
from harness.console.line_faults import frame_fault, lost_frame
from harness.console.lines import SOH
from harness.console.panic import PanicReport

RESEND_S = 0.2
_REPORT_GRACE_S = 2.0
_REST_S, _REST_LINES = 0.5, 3


class Channel:
    """The host's end of the framed protocol. One thread uses it at a time."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.sequence = 0
        self._ready: list[str] = []

    def restart(self, sequence: int) -> None:
        """The target is at the moment at which `sequence` was the newest number sent to it."""
        self.sequence = sequence
        self._ready.clear()

    def send(self, payload: str, timeout_s: float) -> None:
        """Send a frame and wait until the target has acknowledged it.

        Raises ExpectTimeout, TargetPanicked, ConsoleClosed or ConsoleFault.
        """
        self.sequence = (self.sequence + 1) % MODULUS
        data = encode(self.sequence, payload)
        wanted = f"ack {self.sequence:04x}"
        deadline = self._broker.deadline(timeout_s)
        tries = 0
        while left := deadline.left_s():
            tries += 1
            self._broker.send(data)
            until = self._broker.deadline(min(RESEND_S, left))
            while (answer := self._next(until)) is not None:
                if answer == wanted:
                    return
                if not answer.startswith("ack "):
                    self._ready.append(answer)
        raise ExpectTimeout(
            f"the target acknowledged no frame within {timeout_s:g} s ({tries} tries){self._why()}; "
            "is its test daemon running?"
        )

    def receive(self, timeout_s: float) -> str:
        """The next payload that is no acknowledgement; raises as `send`."""
        deadline = self._broker.deadline(timeout_s)
        while True:
            if self._ready:
                return self._ready.pop(0)
            answer = self._next(deadline)
            if answer is None:
                raise ExpectTimeout(f"no frame from the target within {timeout_s:g} s{self._why()}")
            if not answer.startswith("ack "):
                return answer

    def answers(self, timeout_s: float) -> Iterator[str]:
        """Payloads as they come, each within `timeout_s` of the one before."""
        while True:
            yield self.receive(timeout_s)

    def ping(self, timeout_s: float = 5.0) -> None:
        """See that the test daemon answers."""
        self.send("ping", timeout_s)
        answer = self.receive(timeout_s)
        if answer != "pong":
            raise ConsoleFault(f"the target answered 'ping' with {answer!r}, not 'pong'")

    def _next(self, deadline: Deadline) -> str | None:
        broker = self._broker
        with broker.changed:
            broker.check()
            while not broker.frames:
                report = broker.panic.report
                if report is not None and not report.acknowledged:
                    self._whole(report)
                    # A result may have come just before the panic.
                    if not broker.frames:
                        raise TargetPanicked(report)
                    break
                if broker.ended is not None:
                    raise ConsoleClosed(f"the console ended: {broker.ended}")
                left = deadline.left_s()
                if left == 0:
                    return None
                broker.changed.wait(left)
                broker.check()
            frame = broker.frames.popleft()
        if isinstance(frame, Torn):
            raise ConsoleFault(
                f"{self._fault(frame)}. A frame from the target was damaged: {frame.reason}. The line: {frame.line!r}. "
                f"No result of this run can be trusted; look at the console log around it{self._sender()}"
            )
        assert isinstance(frame, Frame)
        return frame.payload

    def _fault(self, torn: Torn) -> str:
        """What happened to a frame, as far as that can be told; raises as Broker.check_text."""
        broker = self._broker
        broker.check_text()
        if isinstance(decode(torn.line), Frame):
            lines = broker.newest_lines()
            twice = "console: bytes doubled: a frame came twice" if lines.count(torn.line) > 1 else None
            return twice or lost_frame(lines) or "console: bytes lost between frames"
        fault = frame_fault(torn.line)
        if fault is None:
            # Where another's line has cut it, its other half comes right behind that.
            with broker.changed:
                broker.changed.wait_for(lambda: broker.ended is not None or len(self._behind(torn)) > 1, _REST_S)
            fault = frame_fault(torn.line, self._behind(torn)[:_REST_LINES])
        return fault or "console: more than one byte lost or changed in a frame"

    def _sender(self) -> str:
        emulated = self._broker.serial_line is None
        return ". An emulated console loses and doubles nothing: the target has sent it so" if emulated else ""

    def _behind(self, torn: Torn) -> list[bytes]:
        lines = self._broker.newest_lines()
        return lines[len(lines) - lines[::-1].index(torn.line) :] if torn.line in lines else []

    def _why(self) -> str:
        """What the line did to the frame that does not come, if that can be told; raises as Broker.check_text."""
        self._broker.check_text()
        lines = self._broker.newest_lines()
        if lines[-1].startswith(SOH):
            return f"; console: bytes delayed or lost: a frame has begun and not ended: {lines[-1]!r}"
        fault = lost_frame(lines)
        return "" if fault is None else f"; {fault}"

    def _whole(self, report: PanicReport) -> None:
        """Wait a little for the rest of a report. Called with the broker's lock held."""
        broker = self._broker
        broker.changed.wait_for(lambda: report.complete or broker.ended is not None, _REPORT_GRACE_S)
