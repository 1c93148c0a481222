"""A browser for tests of pages: Debian's Chromium, driven through Playwright, with nothing to reach."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, BrowserContext, expect, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# It is a guest's text that it shows, and nobody's data: the sandbox, which root has none of, is not missed.
_QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this host")


# For each wait: a busy host takes long. No wait may evaluate a text: the page's policy forbids that.
LIMIT_MS = 180_000


@contextmanager
def browser() -> Iterator[BrowserContext]:
    """A browser of its own."""
    expect.set_options(timeout=LIMIT_MS)
    with sync_playwright() as playwright:
        running: Browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_QUIET, timeout=LIMIT_MS)
        try:
            context = running.new_context()
            context.set_default_timeout(LIMIT_MS)
            yield context
        finally:
            running.close()
