"""Chromium, and pages that end their test if they complain or ask another host."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.support.servers import Weir

QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip

OpenPage = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Of one module: Playwright runs an event loop in this thread; others need their own."""
    chromium = shutil.which("chromium")
    if chromium is None and not os.environ.get("CI"):
        pytest.skip("Chromium is not installed (Debian's package chromium)")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=QUIET)
        yield launched
        launched.close()


@pytest.fixture
def open_page(browser: Browser, weir: Weir) -> Iterator[OpenPage]:
    """Opens pages, each in a context of its own, which takes Playwright's options."""
    complaints: list[str] = []
    with ExitStack() as stack:

        def open_one(**options: Any) -> Page:
            context = browser.new_context(**options)
            stack.callback(context.close)
            page = context.new_page()
            page.on("console", lambda said: complaints.append(said.text) if worth(said) else None)
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("request", lambda asked: _check_own(asked.url, weir, complaints))
            page.on("response", lambda answer: _check_found(answer, complaints))
            return page

        yield open_one
    assert complaints == []


@pytest.fixture
def page(open_page: OpenPage) -> Page:
    return open_page()


def worth(said: Any) -> bool:
    """Whether a line of the console is a complaint: Chromium also gives hints on forms, and tells
    of refused requests, which the page shows itself."""
    return said.type != "verbose" and not said.text.startswith("Failed to load resource")


def _check_own(url: str, weir: Weir, complaints: list[str]) -> None:
    if not url.startswith((weir.url, "data:", "blob:")):
        complaints.append(url)


def _check_found(answer: Any, complaints: list[str]) -> None:
    if answer.status >= 400 and answer.request.resource_type not in {"document", "fetch"}:
        complaints.append(f"{answer.status} {answer.url}")
