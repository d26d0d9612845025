"""The pages of the documentation in Chromium: they work, and ask nobody but Weir."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, Page

from tests.conftest import MakeWeir
from tests.support.servers import Weir


@pytest.fixture(scope="module")
def weir(start_shared_weir: MakeWeir) -> Weir:
    return start_shared_weir()


def test_swagger_ui_authorizes_and_runs_the_example(page: Page, weir: Weir) -> None:
    page.goto(f"{weir.url}/docs")
    page.locator(".btn.authorize").click()
    page.locator(".auth-container input").first.fill("prod_key_456")
    page.locator(".auth-btn-wrapper .authorize").first.click()
    page.locator(".btn-done").first.click()
    page.locator(".opblock-post").first.click()
    page.locator(".execute").click()
    status = page.locator(".live-responses-table tbody .response-col_status").first
    assert status.inner_text().startswith("200")


def test_redoc_shows_the_operations(page: Page, weir: Weir) -> None:
    page.goto(f"{weir.url}/redoc")
    page.get_by_role("heading", name="Answer a message, given the conversation so far").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_landing_page_fits_a_phone(browser: Browser, weir: Weir, scheme: str) -> None:
    page = browser.new_page(viewport={"width": 360, "height": 740}, color_scheme=scheme)  # type: ignore[arg-type]
    page.goto(weir.url)
    assert page.get_by_role("heading", name="Weir").is_visible()
    assert page.get_by_text("No provider is configured").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.close()


@pytest.mark.parametrize("path", ["/", "/docs", "/redoc"])
def test_no_page_allows_inline_script(weir: Weir, path: str) -> None:
    response = weir.get(path, headers={"Accept": "text/html"})
    policy = response.headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert "<script>" not in response.text
    assert "style=" not in response.text
