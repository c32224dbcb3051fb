"""Debian's Chromium, driven by Playwright, and pages over recorded answers for it to show.

The fixtures ``browser`` and ``recorded`` are in ``conftest.py``. The test modules have a fixture
``open_page`` of their own, which says what a page must not do.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.answers import ANSWERS, EMPTY
from tests.processes import Process, free_port, wait_until

#: The shell alone costs half of what the whole browser does.
NAMES = ("chromium-headless-shell", "chromium", "chromium-browser")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
PACKAGES = {"playwright": "playwright", "axe-playwright-python": "axe_playwright_python"}
MISSING = [name for name, module in PACKAGES.items() if not importlib.util.find_spec(module)]
if CHROMIUM is None:
    MISSING.append("chromium")

#: For ``pytestmark``.
needs_chromium = [
    pytest.mark.browser,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]

PATH = "/api/celery-stats/"
#: Milliseconds; a refresh comes every five seconds, and a broker may take some to answer.
SOON = 20_000

Page = Any  # playwright's, which may not be installed
#: What the fixture ``open_page`` of each module is.
OpenPage = Callable[..., Page]


@contextmanager
def chromium() -> Iterator[Any]:
    """Start the browser."""
    from playwright.sync_api import sync_playwright

    options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@contextmanager
def pages(browser: Any, prepare: Callable[[Page], None]) -> Iterator[OpenPage]:
    """Return a function that opens pages, each with a browser profile of its own.

    Args:
        browser: as :func:`chromium` returns it.
        prepare: is called with each page before it loads anything.
    """
    contexts = []

    def open_page(url: str = "", **options: Any) -> Page:
        context = browser.new_context(**options)
        context.set_default_timeout(SOON)
        contexts.append(context)
        page = context.new_page()
        prepare(page)
        if url:
            page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()


@dataclass
class Recorded:
    """A page server, and the file with the report that it shows."""

    url: str
    file: Path
    process: Process

    def say(self, answers: dict[str, Any] | None = None, **state: Any) -> None:
        """Show these answers from now on; ``state`` is as in ``page_server.py``."""
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps({"answers": {**EMPTY, **(answers or {})}, **state}))
        new.replace(self.file)


#: What the fixture ``recorded`` is.
Record = Callable[..., Recorded]


@contextmanager
def page_servers(folder: Path) -> Iterator[Record]:
    """Return a function that gives page servers that anybody may see.

    Each shows ``ANSWERS`` when it is asked for. Those with other settings are other processes.

    Args:
        folder: where they keep their files.
    """
    servers: dict[str, Recorded] = {}

    def serve(prefix: str = "", **settings: Any) -> Recorded:
        anybody = {
            "PERMISSION_CLASSES": ["rest_framework.permissions.AllowAny"],
            "AUTHENTICATION_CLASSES": [],
        }
        overrides = json.dumps({"DRF_CELERY_STATS": anybody, **settings})
        key = prefix + overrides
        if key not in servers:
            port, file = free_port(), folder / f"{len(servers)}.json"
            args = [str(port), str(file), overrides, prefix]
            process = Process(
                [sys.executable, "-m", "tests.page_server", *args], log=file.with_suffix(".log")
            )
            servers[key] = Recorded(f"http://127.0.0.1:{port}{prefix}{PATH}", file, process)

            def listening() -> bool:
                assert process.popen.poll() is None, process.log.read_text()
                with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    return True
                return False

            wait_until(listening, what="the page server")
        servers[key].say(ANSWERS)
        return servers[key]

    try:
        yield serve
    finally:
        for server in servers.values():
            server.process.stop()
