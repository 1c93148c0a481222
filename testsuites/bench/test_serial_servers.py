"""How fast a console comes over a serial server, beside the line that it serves.

Run with `pytest -m bench testsuites/bench/test_serial_servers.py`.
"""

from __future__ import annotations

import os
import pty
import threading
import time
import tty
from contextlib import ExitStack

import pytest

from harness.console import Broker, Console
from harness.hardware import RawTcpLine, Rfc2217Line
from harness.hardware.bench import ser2net
from harness.measure.plugin import Metric
from support.wired import SER2NET, free_ports

BAUD = 115200
BITS_A_BYTE = 10  # 8N1: start, eight of data, stop
LINE = b"0123456789abcdef" * 4 + b"\r\n"
BYTES = 1 << 18


@pytest.mark.bench
@pytest.mark.skipif(not SER2NET.exists(), reason="the package ser2net is not installed")
@pytest.mark.requirement("TST-11", "DEV-03")
@pytest.mark.parametrize("protocol", ["raw", "rfc2217"])
def test_a_serial_server_is_read_at_line_speed(protocol: str, metric: Metric) -> None:
    target, device = pty.openpty()
    tty.setraw(device)
    (port,) = free_ports(1)
    kind = {"raw": RawTcpLine, "rfc2217": Rfc2217Line}[protocol]
    with ExitStack() as stack:
        stack.callback(os.close, target)
        stack.callback(os.close, device)
        stack.enter_context(ser2net(os.ttyname(device), port, protocol, BAUD))
        broker = Broker(kind("127.0.0.1", port, BAUD))
        stack.callback(broker.close)
        broker.start()
        text = LINE * (BYTES // len(LINE)) + b"the last line\n"

        def say() -> None:
            left = memoryview(text)
            while left:
                left = left[os.write(target, left) :]

        began = time.monotonic()
        writer = threading.Thread(target=say, daemon=True)
        writer.start()
        Console(broker).expect("^the last line$", 60)
        rate = len(text) / (time.monotonic() - began)
        assert broker.received == len(text)
    times = rate * BITS_A_BYTE / BAUD
    print(f"{protocol}: {rate / 1e3:.0f} kB/s, {times:.1f} times a line of {BAUD} baud")
    if protocol == "raw":
        metric("console.over_raw", times, unit="times", better="higher", noise=None)
    else:
        metric("console.over_rfc2217", times, unit="times", better="higher", noise=None)
