"""The dashboard in Chromium: by mouse and keyboard, live, dark, on a phone, for everybody."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from axe_playwright_python.base import AXE_SCRIPT, AxeResults
from playwright.sync_api import FilePayload, Page, Response, expect

from tests.browser.conftest import OpenPage
from tests.conftest import MakeWeir
from tests.support.administrator import PASSWORD, SETTINGS
from tests.support.books import PRICES, Books
from tests.support.servers import Provider, Weir, wait_until
from tests.support.stored_batches import StoredBatches
from tests.support.visitor import Visitor

PAGES = [
    "", "?range=7d&by=provider&metric=tokens", "?outcome=error",
    "keys", "keys/new", "keys/{key}", "keys/{key}/edit", "keys/{key}/revoke",
    "requests", "requests?outcome=error", "requests/{request}", "batches", "batches?kind=job",
    "batches/{batch}", "batches/{invalid_batch}", "batches/{batch}/cancel", "batches/new",
    "providers", "playground",
    "accounts", "accounts/1", "audit", "me", "nothing-here",
]  # fmt: skip
HEAVIEST = 150_000  # bytes
LONG_NAME = f"filled-{'w' * 90}"
PHONE, LARGE = 360, 3840  # widths
AXE_OPTIONS = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21aa", "wcag22aa"],
    "resultTypes": ["violations"],
}
# Series, step, height and whether it is the current step, of each bar of the chart of requests.
BARS_DRAWN = r"""() => [...document.querySelectorAll('#requests-plot path')].flatMap((path) =>
  [...path.getAttribute('d').matchAll(/M(\d+) (\d+)V(\d+)/g)].map(([, step, foot, head]) =>
    [path.dataset.series, +step, foot - head, path.classList.contains('running')]))"""

# The upper and lower end of one, by its series and step.
ENDS_OF_BAR = r"""([series, step]) =>
  [...document.querySelectorAll(`#requests-plot path[data-series="${series}"]`)].flatMap((path) =>
    [...path.getAttribute('d').matchAll(/M(\d+) (\d+)V(\d+)/g)])
    .filter(([, place]) => +place === step).map(([, , foot, head]) => [+head, +foot])[0]"""

# Tables that a phone does not show as cards, cells without a label, and what is to be scrolled.
UNLIKE_CARDS = """() => [
  ...document.querySelectorAll('table:not(.cards, .chart-data table)'),
  ...document.querySelectorAll('.cards tbody td:not([data-label])'),
  ...[...document.querySelectorAll('.scroll:has(.cards)')]
    .filter((box) => box.scrollWidth > box.clientWidth),
].map((element) => element.outerHTML.slice(0, 100))"""


# Tables of rows, by name, that are to be scrolled.
SCROLLED = """() => [...document.querySelectorAll('.scroll:has(.cards)')]
  .filter((box) => box.scrollWidth > box.clientWidth).map((box) => box.ariaLabel)"""


@pytest.fixture(scope="module")
def weir(start_shared_weir: MakeWeir, provider: Provider) -> Weir:
    return start_shared_weir(
        **SETTINGS,
        OPENAI_BASE_URL=provider.base_url,
        MODEL_PRICES=PRICES,
        LLM_MAX_RETRIES=0,
        BREAKER_FAILURES=1000,
    )


@pytest.fixture(scope="module")
def state(weir: Weir, browser: Any) -> Any:
    """The cookies of an administrator: only so many may sign in a minute."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{weir.url}/dashboard/")
    page.get_by_label("Username").fill("admin")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    kept = context.storage_state()
    context.close()
    return kept


@pytest.fixture
def admin(open_page: OpenPage, state: Any) -> Page:
    return open_page(storage_state=state)


@pytest.fixture(scope="module")
def visitor(weir: Weir, state: Any) -> Visitor:
    visitor = Visitor(weir)
    [cookie] = [one for one in state["cookies"] if one["name"] == "weir_session"]
    visitor.session.cookies.set("weir_session", cookie["value"], path="/dashboard")
    return visitor


@pytest.fixture(scope="module")
def stored(weir: Weir) -> Iterator[StoredBatches]:
    stored = StoredBatches(weir)
    yield stored
    stored.close()


@pytest.fixture(scope="module")
def filled(
    weir: Weir, visitor: Visitor, provider: Provider, stored: StoredBatches
) -> dict[str, str]:
    """The names of a key, a request and batches, after some traffic of this key alone."""
    secret = visitor.create_key(LONG_NAME, **{"limits.usd_per_day": "9"})
    key = str(max(visitor.ids_of_keys()))
    bodies = [{"message": f"filled, message {number % 4}"} for number in range(8)]
    ids = [weir.post("/chat", key=secret, json=body) for body in bodies]
    provider.fault(status=500)
    failed = weir.post("/chat", key=secret, json={"message": "filled fails"})
    provider.fault()
    # Pages show what has been written, a moment later.
    wait_until(lambda: 9 in weir.get("/stats").json()["requests_by_key"].values())
    return {
        "key": key,
        "request": ids[0].headers["X-Request-ID"],
        "failed": failed.headers["X-Request-ID"],
        "secret": secret,
        **_batches(stored, int(key)),
    }


def _batches(stored: StoredBatches, key_id: int) -> dict[str, str]:
    """A list of them, one in progress with all that its page can show, and an invalid one."""
    file = stored.file(key_id, b"{}")
    for number in range(60):
        stored.batch(key_id, ago=1e5 + number, total=9, succeeded=8, failed=1, spent_nano=10**8)
    stored.batch(key_id, kind="job", total=1, succeeded=1)
    error = {"code": "invalid_json_line", "message": "The line is not JSON.", "param": None}
    return {
        "batch": stored.batch(
            key_id, "in_progress", total=9, succeeded=2, failed=1, spent_nano=10**8,
            cap_nano=10**9, input_file_id=file, output_file_id="file-gone", metadata={"a": "b"},
            mode_reason="the provider's batch price is lower", failed_lines={1: ("timeout", 0, 1)},
        ),
        "invalid_batch": stored.batch(
            key_id, "failed", errors=[error | {"line": line} for line in range(200)],
            stopped_by={"code": "key_revoked", "message": ""},
        ),
    }  # fmt: skip


def test_a_key_is_made_and_used_by_keyboard_alone(page: Page, weir: Weir) -> None:
    page.goto(f"{weir.url}/dashboard/keys")
    expect(page.get_by_label("Username")).to_be_focused()
    page.keyboard.type("admin")
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Keys")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    page.wait_for_url("**#content")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Create key")).to_be_focused()
    page.keyboard.press("Enter")
    page.wait_for_url("**/keys/new")
    expect(page.get_by_label("Name", exact=True)).to_be_focused()
    page.keyboard.type("by keyboard")
    page.keyboard.press("Enter")
    secret = page.locator("#secret").inner_text()
    assert re.fullmatch(r"weir_\w{12}_[\w-]{43}", secret)
    assert f"X-API-Key: {secret}" in page.locator("#curl").inner_text()
    assert weir.post("/chat", key=secret, json={"message": "hello"}).status_code == 200


def test_the_secret_is_copied(open_page: OpenPage, state: Any, weir: Weir) -> None:
    page = open_page(storage_state=state, permissions=["clipboard-read", "clipboard-write"])
    page.goto(f"{weir.url}/dashboard/keys/new")
    page.get_by_label("Name").fill("copied")
    page.get_by_role("button", name="Create key").click()
    page.get_by_role("button", name="Copy secret").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == page.locator("#secret").inner_text()


def test_a_first_visit_shows_charts_once_there_is_a_request(
    open_page: OpenPage, weir: Weir, visitor: Visitor
) -> None:
    newcomer = {"username": "newcomer", "password": "newcomer's password"}
    visitor.post("/dashboard/accounts", role="member", tier="premium", **newcomer)
    page = open_page()
    page.goto(f"{weir.url}/dashboard/")
    page.get_by_label("Username").fill(newcomer["username"])
    page.get_by_label("Password").fill(newcomer["password"])
    page.get_by_role("button", name="Sign in").click()
    start = page.get_by_role("heading", name="Get started")
    expect(start).to_be_visible()
    empty = page.locator(".chart, .switches, #breakdown, .chart-data, #top, #prompt-caches")
    for part in empty.all():
        expect(part).to_be_hidden()
    secret = visitor.create_key("newcomer's", owner="newcomer")
    assert weir.post("/chat", key=secret, json={"message": "the first"}).status_code == 200
    expect(start).to_be_hidden(timeout=15_000)
    for part in empty.all():
        expect(part).to_be_visible()
    expect(page.locator("#requests-plot path").first).to_be_attached()


def test_the_overview_keeps_up_by_itself(admin: Page, weir: Weir, visitor: Visitor) -> None:
    secret = visitor.create_key("live")
    admin.goto(f"{weir.url}/dashboard/?range=1h")
    tile = admin.locator(".tile", has=admin.get_by_text("Requests", exact=True)).locator("dd").first
    before = int(tile.inner_text())
    admin.evaluate("document.querySelector('#content').dataset.mark = 'the same page'")
    for number in range(3):
        weir.post("/chat", key=secret, json={"message": f"live {number}"})
    expect(tile).to_have_text(str(before + 3), timeout=15_000)
    assert admin.locator("#content").get_attribute("data-mark") == "the same page"
    top = int(admin.locator("#requests-plot text.y").last.text_content() or "")
    drawn = sum(height for _, _, height, _ in admin.evaluate(BARS_DRAWN)) / 200 * top
    cells = admin.locator("#chart-data tbody td:nth-of-type(-n+4)").all_text_contents()
    shown = sum(map(int, cells))
    assert drawn == pytest.approx(shown, rel=0.1)


def test_charts_draw_what_the_table_says_and_lead_to_it_by_keyboard(
    admin: Page, weir: Weir, filled: dict[str, str]
) -> None:
    admin.goto(f"{weir.url}/dashboard/keys/{filled['key']}")
    # Cached, uncached, errors; none was refused. Ten requests are 200 units high.
    today = [["0", 29, 80, True], ["1", 29, 80, True], ["2", 29, 20, True]]
    assert admin.evaluate(BARS_DRAWN) == today
    admin.locator("summary").first.click()
    expect(admin.locator("#chart-data tbody tr")).to_have_count(30)
    assert admin.locator("#chart-data tr").last.locator("td").all_text_contents()[:4] == [
        "4", "4", "1", "0",
    ]  # fmt: skip
    admin.locator("#requests-legend a").last.focus()
    admin.keyboard.press("Tab")
    plot = admin.get_by_role("slider", name="Requests")
    expect(plot).to_be_focused()
    tooltip = admin.locator(".tooltip").first
    expect(tooltip).to_contain_text("Errors1")
    expect(plot).to_have_attribute("aria-valuetext", re.compile("Cached 4, Uncached 4"))
    admin.keyboard.press("ArrowLeft")
    expect(tooltip).to_contain_text("Errors0")
    admin.keyboard.press("Escape")
    expect(tooltip).to_be_hidden()
    # A click on the bar of errors leads to the errors of that day.
    bar = admin.locator('#requests-plot path[data-series="2"]').bounding_box()
    assert bar
    admin.mouse.click(bar["x"] + bar["width"] / 2, bar["y"] + bar["height"] / 2)
    admin.wait_for_url("**/dashboard/requests?*")
    expect(admin.locator("tbody tr")).to_have_count(1)
    expect(admin.locator("tbody tr")).to_contain_text("502")


def test_a_chart_is_zoomed_by_keyboard_and_mouse_and_reset(
    admin: Page, weir: Weir, filled: dict[str, str]
) -> None:
    admin.goto(f"{weir.url}/dashboard/?range=1h&key={filled['key']}&by=provider")
    admin.locator("#requests-legend a").last.focus()
    for key in ("Tab", "Shift+ArrowLeft", "Shift+ArrowLeft", "Enter"):
        admin.keyboard.press(key)
    admin.wait_for_url("**/*since=*")
    zoomed = admin.get_by_text(re.compile("^Zoomed: "))
    expect(zoomed).to_have_attribute("role", "status")
    expect(admin.locator("#chart-data tbody tr")).to_have_count(3)
    admin.reload()
    expect(zoomed).to_be_visible()
    expect(admin.locator("#chart-data tbody tr")).to_have_count(3)
    admin.evaluate(AXE_SCRIPT)
    assert accessibility(admin, "zoomed") == []
    admin.get_by_role("link", name="Reset").click()
    expect(admin.locator("#chart-data tbody tr")).to_have_count(60)
    expect(zoomed).to_be_hidden()
    expect(admin.get_by_role("link", name="By provider")).to_have_attribute("aria-current", "true")
    area = admin.locator("#latency-plot > svg").bounding_box()
    assert area
    admin.locator("#latency-plot").scroll_into_view_if_needed()
    area = admin.locator("#latency-plot > svg").bounding_box()
    assert area
    step, height = area["width"] / 60, area["y"] + 50
    admin.mouse.move(area["x"] + step * 50.5, height)
    admin.mouse.down()
    admin.mouse.move(area["x"] + step * 59.5, height, steps=3)
    admin.mouse.up()
    expect(zoomed).to_be_visible()
    expect(admin.locator("#chart-data tbody tr")).to_have_count(10)
    admin.go_back()
    expect(zoomed).to_be_hidden()


def test_a_form_of_a_key_leads_to_its_errors(admin: Page, weir: Weir) -> None:
    admin.goto(f"{weir.url}/dashboard/keys/new")
    per_minute = admin.get_by_label("Requests per minute")
    expect(per_minute).to_have_attribute("placeholder", "5")
    admin.get_by_label("Tier").select_option("premium")
    expect(per_minute).to_have_attribute("placeholder", "20")
    admin.get_by_label("Name").fill("   ")
    networks = admin.get_by_label("Allowed networks")
    networks.fill("10.0.0.1/8")
    admin.get_by_role("button", name="Create key").click()
    expect(admin.get_by_label("Name")).to_be_focused()
    expect(admin.get_by_label("Name")).to_have_accessible_description("Must not be blank.")
    expect(per_minute).to_have_attribute("placeholder", "20")
    for scheme in ("light", "dark"):
        admin.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        admin.evaluate(AXE_SCRIPT)
        assert accessibility(admin, f"errors ({scheme})") == []
    admin.get_by_role("link", name="Allowed networks").click()
    expect(networks).to_be_focused()
    expect(networks).to_have_accessible_description(re.compile("has host bits set"))


def test_keys_are_sorted_by_keyboard(admin: Page, weir: Weir, filled: dict[str, str]) -> None:
    admin.goto(f"{weir.url}/dashboard/keys?state=works")
    rows = admin.locator("#keys tbody th a")
    shown = sorted(rows.all_inner_texts(), key=str.casefold)
    expect(admin.get_by_role("columnheader", name="Name")).to_have_attribute(
        "aria-sort", "ascending"
    )
    heading = admin.get_by_role("columnheader", name="Requests")
    heading.get_by_role("link").focus()
    admin.keyboard.press("Enter")
    expect(heading).to_have_attribute("aria-sort", "descending")
    assert "state=works" in admin.url
    assert sorted(rows.all_inner_texts(), key=str.casefold) == shown
    first = admin.locator("#keys tbody tr").first
    expect(first.get_by_role("img")).to_have_accessible_name(re.compile("Requests per day"))
    admin.set_viewport_size({"width": PHONE, "height": 800})
    admin.get_by_label("Sort by").select_option("name")
    admin.get_by_role("button", name="Apply").click()
    admin.wait_for_url("**sort=name")
    assert rows.all_inner_texts() == shown


def test_the_failed_request_of_a_minute_is_three_clicks_away(
    admin: Page, weir: Weir, filled: dict[str, str]
) -> None:
    """From the overview: the hour, the bar of the minute's errors, the request."""
    admin.goto(f"{weir.url}/dashboard/requests/{filled['failed']}")
    failed = datetime.fromisoformat(str(admin.locator("time").first.get_attribute("datetime")))
    admin.goto(f"{weir.url}/dashboard/")
    admin.get_by_role("link", name="1 hour").click()
    admin.wait_for_url("**range=1h**")
    plot = admin.locator("#requests-plot > svg")
    plot.scroll_into_view_if_needed()
    starts = [at.get_attribute("datetime") for at in admin.locator("#chart-data time").all()]
    step = starts.index(f"{failed:%Y-%m-%dT%H:%M}:00+00:00")
    [head, foot] = admin.evaluate(ENDS_OF_BAR, ["2", step])
    area = plot.bounding_box()
    assert area
    admin.mouse.click(
        area["x"] + area["width"] * (step + 0.5) / len(starts), area["y"] + (head + foot) / 2
    )
    admin.wait_for_url("**outcome=error**")
    rows = admin.locator("#found tbody tr")
    expect(rows.first).to_be_visible()
    for row in rows.all():
        expect(row).to_contain_text("502")
        assert str(row.locator("time").get_attribute("datetime")).startswith(
            f"{failed:%Y-%m-%dT%H:%M}"
        )
    rows.locator(f"a[href$='{filled['failed']}']").click()
    calls = admin.get_by_role("region", name="Provider calls")
    expect(calls.locator("tbody tr").first).to_contain_text("The provider answered 500")
    expect(calls.locator("svg.bad rect").first).to_be_visible()
    admin.evaluate(AXE_SCRIPT)
    assert accessibility(admin, "request") == []
    admin.get_by_role("button", name="Copy request ID").click()
    admin.get_by_role("navigation", name="Breadcrumb").get_by_role("link").click()
    expect(admin.get_by_role("heading", name="Requests")).to_be_visible()


def test_a_key_is_revoked_after_a_question(admin: Page, weir: Weir, visitor: Visitor) -> None:
    visitor.create_key("to revoke")
    admin.goto(f"{weir.url}/dashboard/keys/{max(visitor.ids_of_keys())}")
    admin.get_by_role("link", name="Revoke").click()
    admin.get_by_role("button", name="Revoke key").click()
    expect(admin.get_by_role("heading").locator(".tag")).to_have_text("Revoked")


def test_a_batch_is_followed_in_local_time_and_cancelled(
    open_page: OpenPage, state: Any, weir: Weir, stored: StoredBatches
) -> None:
    admin = open_page(storage_state=state, timezone_id="America/New_York")
    batch = stored.batch(1, "in_progress", total=100, succeeded=10)
    admin.goto(f"{weir.url}/dashboard/batches")
    expect(admin.get_by_text("Times in UTC")).to_be_visible()
    admin.get_by_role("button", name="Show local time").click()
    expect(admin.get_by_text("Times in local time (America/New_York)")).to_be_visible()
    row = admin.get_by_role("row", name=batch)
    expect(row.get_by_role("progressbar")).to_have_attribute("value", "10")
    update = f"UPDATE batches SET succeeded = 70 WHERE id = '{batch}'"
    Books(weir).write(update)
    expect(row.get_by_role("progressbar")).to_have_attribute("value", "70", timeout=15_000)
    row.get_by_role("link").click()
    expect(admin.get_by_role("progressbar")).to_have_accessible_name("70 of 100 lines done")
    check_local_time(admin)
    Books(weir).write(update.replace("70", "80"))
    expect(admin.get_by_role("progressbar")).to_have_attribute("value", "80", timeout=15_000)
    check_local_time(admin)
    admin.get_by_role("link", name="Cancel").click()
    admin.get_by_role("button", name="Cancel batch").click()
    expect(admin.get_by_role("heading", level=1).locator(".tag")).to_have_text("Cancelling")


def check_local_time(page: Page) -> None:
    """The first time of the page is New York's, with UTC as its title."""
    shown = page.locator("time").first
    sent = datetime.fromisoformat(str(shown.get_attribute("datetime")))
    local = sent.astimezone(ZoneInfo("America/New_York"))
    expect(shown).to_have_text(f"{local:%Y-%m-%d %H:%M:%S}")
    expect(shown).to_have_attribute("title", f"{sent:%Y-%m-%d %H:%M:%S} UTC")


def test_labels_of_a_chart_have_the_date_where_a_local_day_begins(
    open_page: OpenPage, state: Any, weir: Weir, filled: dict[str, str]
) -> None:
    """In India no tick of three hours is at midnight."""
    page = open_page(storage_state=state, timezone_id="Asia/Kolkata")
    page.goto(f"{weir.url}/dashboard/?range=24h")
    page.get_by_role("button", name="Show local time").click()
    expect(page.get_by_text("Times in local time")).to_be_visible()
    labels = page.locator(".chart").first.locator("text[data-at]").all()
    moments = [
        datetime.fromtimestamp(int(label.get_attribute("data-at") or 0), ZoneInfo("Asia/Kolkata"))
        for label in labels
    ]
    expected = [f"{moments[0]:%H:%M}"] + [
        f"{now:%b} {now.day} {now:%H:%M}" if now.day != before.day else f"{now:%H:%M}"
        for before, now in itertools.pairwise(moments)
    ]
    assert any(":" in text and " " in text for text in expected)
    assert [label.text_content() for label in labels] == expected


def test_a_phone_reaches_every_page_and_shows_rows_as_cards(
    open_page: OpenPage, state: Any, weir: Weir, filled: dict[str, str]
) -> None:
    page = open_page(storage_state=state, viewport={"width": PHONE, "height": 740})
    page.goto(f"{weir.url}/dashboard/accounts/1")
    page.get_by_label("New password").fill("half typed")
    menu = page.get_by_role("button", name="Menu")
    menu.press("Enter")
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Sign out")).to_be_hidden()
    expect(menu).to_be_focused()
    menu.press("Enter")
    links = page.get_by_role("navigation", name="Pages").get_by_role("link")
    expect(links).to_have_count(8)
    for entry in (*links.all(), page.get_by_role("link", name="admin", exact=True)):
        expect(entry).to_be_in_viewport(ratio=1)
    expect(page.get_by_role("button", name="Sign out")).to_be_in_viewport(ratio=1)
    page.evaluate(AXE_SCRIPT)
    assert accessibility(page, "the menu") == []
    page.get_by_role("button", name="Theme: system").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "light")
    expect(page.get_by_label("New password")).to_have_value("half typed")
    page.goto(f"{weir.url}/dashboard/?range=1h")
    page.evaluate(AXE_SCRIPT)
    assert accessibility(page, "the overview on a phone") == []
    page.goto(f"{weir.url}/dashboard/requests")
    expect(page.get_by_role("button", name="Apply")).to_be_hidden()
    page.goto(f"{weir.url}/dashboard/requests?outcome=error&range=1h")
    expect(page.get_by_role("button", name="Apply")).to_be_hidden()
    page.goto(f"{weir.url}/dashboard/?outcome=error")
    expect(page.get_by_role("button", name="Apply")).to_be_hidden()
    page.goto(f"{weir.url}/dashboard/audit?range=24h")
    expect(page.get_by_role("button", name="Apply")).to_be_hidden()
    page.get_by_text("Filters", exact=True).press("Enter")
    page.get_by_label("Actor").fill("admin")
    page.get_by_role("button", name="Apply").click()
    page.wait_for_url("**actor=admin**")
    expect(page.get_by_label("Actor")).to_be_visible()
    page.goto(f"{weir.url}/dashboard/requests")
    page.get_by_text("Filters", exact=True).press("Enter")
    page.get_by_label("Status").fill("502")
    page.get_by_role("button", name="Apply").click()
    expect(page.get_by_label("Status")).to_be_visible()
    page.set_viewport_size({"width": 1280, "height": 800})
    page.goto(f"{weir.url}/dashboard/requests")
    expect(page.get_by_text("Filters", exact=True)).to_be_hidden()
    expect(page.get_by_role("button", name="Apply")).to_be_visible()
    box = "document.querySelector('.scroll')"
    assert page.evaluate(f"{box}.scrollWidth <= {box}.clientWidth"), "all columns fit"
    page.set_viewport_size({"width": PHONE, "height": 740})
    page.goto(f"{weir.url}/dashboard/batches")
    expect(page.get_by_role("heading", name="Batches")).to_be_visible()
    row = page.locator("tbody tr").first
    for cell in row.locator("td").all():
        expect(cell).to_have_attribute("data-label", re.compile(r"\w"))
        box = cell.bounding_box()
        assert box
        assert 0 <= box["x"] <= box["x"] + box["width"] <= PHONE
    page.evaluate(AXE_SCRIPT)
    assert accessibility(page, "cards") == []


def test_a_batch_is_started_with_a_file(admin: Page, weir: Weir, filled: dict[str, str]) -> None:
    line = {
        "custom_id": "a",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "x"}]},
    }
    content = FilePayload(name="a.jsonl", mimeType="", buffer=json.dumps(line).encode())
    admin.goto(f"{weir.url}/dashboard/batches")
    admin.get_by_role("link", name="Start batch").click()
    admin.get_by_label("API key").select_option(LONG_NAME)
    admin.get_by_label("Cost cap").fill("0.5")
    admin.locator("input[type=file]").set_input_files(content)
    admin.get_by_role("button", name="Start batch").click()
    state = admin.get_by_role("heading", level=1).locator(".tag")
    expect(state).to_have_text("Completed", timeout=15_000)
    with admin.expect_download() as downloads:
        admin.get_by_role("link", name="Output").click()
    result = json.loads(downloads.value.path().read_text())
    assert (result["custom_id"], result["response"]["status_code"]) == ("a", 200)


def test_the_playground_streams(admin: Page, weir: Weir, provider: Provider) -> None:
    provider.fault(gap=0.3, pieces=6)
    admin.goto(f"{weir.url}/dashboard/playground")
    model = admin.get_by_role("combobox", name="Model")
    expect(model.locator("optgroup")).to_have_attribute("label", "openai")
    expect(model.locator("option:checked")).to_have_text(re.compile(r"\(default\)$"))
    admin.get_by_label("Message").fill("It's a question")
    admin.get_by_label("Message").press("Enter")
    answer = admin.locator("#talk .assistant .words").first
    expect(answer).not_to_be_empty()
    early = answer.inner_text()
    expect(admin.locator("#talk .assistant a")).to_be_visible()
    assert len(answer.inner_text()) > len(early)
    facts = admin.locator("#talk .assistant .quiet")
    expect(facts).to_contain_text("cache MISS · openai")
    expect(facts).to_contain_text(re.compile(r"\d+ tokens \(\d+ in, \d+ out\) · <?\$0\.\d+"))
    total, first, rate = re.findall(
        r"([\d.]+) s · first token (\d+) ms · ([\d.]+) tok", facts.inner_text()
    )[0]
    assert 1.5 <= float(total) < 10
    assert int(first) < 1500
    # Five gaps of 0.3 s lie between six pieces.
    assert 1 < float(rate) < 20
    expect(admin.locator("#bars")).to_contain_text("1 of 1,000")
    # What was said before goes along, and to the model that was chosen.
    provider.fault()
    model.select_option("Other…")
    admin.get_by_label("Model name").fill("gpt-4o")
    admin.get_by_label("Message").fill("And then?")
    admin.get_by_role("button", name="Send").click()
    expect(admin.locator("#talk .assistant a")).to_have_count(2)
    sent = provider.completions()[-1]["body"]
    assert (sent["model"], len(sent["messages"])) == ("gpt-4o", 3)
    admin.locator("#talk a").first.click()
    expect(admin.get_by_text("/dashboard/playground")).to_be_visible()


def test_the_playground_shows_the_same_request_as_code(
    open_page: OpenPage, state: Any, weir: Weir, visitor: Visitor, filled: dict[str, str]
) -> None:
    visitor.create_key("narrow", owner="admin", **{"limits.models": "another"})
    page = open_page(storage_state=state, permissions=["clipboard-read", "clipboard-write"])
    page.goto(f"{weir.url}/dashboard/playground")
    page.get_by_label("Message").fill("It's a question")
    page.get_by_label("Max tokens").fill("7")
    page.get_by_label("Bypass cache").check()
    page.get_by_label("Stream").uncheck()
    tabs = page.get_by_role("tablist", name="Code").get_by_role("tab")
    expect(tabs.first).to_have_text("OpenAI SDK (Python)")
    expect(page.get_by_role("tabpanel")).to_have_count(1)
    page.get_by_role("tabpanel").get_by_role("button", name="Copy").click()
    python = page.evaluate("navigator.clipboard.readText()")
    environment = {"PATH": "", "WEIR_API_KEY": filled["secret"]}
    ran = subprocess.run(
        [sys.executable, "-c", python], env=environment, capture_output=True, text=True, check=False
    )
    assert ran.stdout.strip(), ran.stderr
    assert "max_tokens=7" in python
    tabs.first.focus()
    page.keyboard.press("End")
    expect(tabs.last).to_be_focused()
    expect(page.get_by_role("tabpanel", name="native")).to_contain_text('"max_tokens": 7')
    page.keyboard.press("ArrowLeft")
    curl = page.get_by_role("tabpanel", name="curl")
    expect(curl).to_contain_text("It'\\''s a question")
    shown = subprocess.run(
        ["sh", "-c", curl.locator("pre").inner_text()],
        env=os.environ | environment | {"PATH": os.environ["PATH"]},
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert json.loads(shown)["usage"]["completion_tokens"] <= 7
    assert "weir_" not in page.content()
    page.get_by_label("Temperature").fill("")
    expect(curl).not_to_contain_text("temperature")
    # A model that the key may not use cannot be chosen.
    page.get_by_label("API key").select_option("narrow (premium)")
    expect(page.locator("#model optgroup option").first).to_be_disabled()
    expect(page.get_by_label("Model name")).to_be_visible()


def test_the_playground_stops_follows_and_tells_errors(
    admin: Page, weir: Weir, provider: Provider
) -> None:
    admin.goto(f"{weir.url}/dashboard/playground")
    message, send = admin.get_by_label("Message"), admin.get_by_role("button", name="Send")
    follows = "document.querySelector('#scroller').scrollTop"
    provider.fault(gap=0.05, pieces=600, big=30_000)
    message.fill("A long story")
    send.click()
    wait_until(lambda: admin.evaluate(follows) > 200)
    admin.get_by_role("region", name="Conversation").hover()
    admin.mouse.wheel(0, -100_000)
    latest = admin.get_by_role("button", name="Jump to latest")
    expect(latest).to_be_visible()
    assert admin.evaluate(follows) < 200
    latest.click()
    expect(latest).to_be_hidden()
    admin.get_by_role("button", name="Stop").click()
    stopped = admin.locator("#talk .assistant").first
    expect(stopped.locator(".tag")).to_have_text("stopped")
    expect(stopped.get_by_role("link", name="request")).to_be_visible()
    received = stopped.locator(".words").inner_text()
    # The whole turn goes along with the next message.
    provider.fault(status=429, retry_after="90")
    message.fill("Go on")
    send.click()
    errors = admin.locator("#talk .error")
    expect(errors).to_contain_text("Try again in 90 s.")
    _, answer, again = provider.completions()[-1]["body"]["messages"]
    assert (answer["content"].strip(), again["content"]) == (received.strip(), "Go on")
    expect(message).to_have_value("Go on")
    provider.fault(error_event=True, times=1)
    send.click()
    expect(errors).to_have_count(2)
    expect(errors.last).to_contain_text("The stand-in failed in its stream.")
    expect(admin.locator("#talk .assistant .tag").last).to_have_text("incomplete")
    message.fill("<script>alert(1)</script>")
    with admin.expect_response("**/playground/*"):
        send.click()
    expect(errors.last).to_contain_text("message. Refused: matches the denylist")
    errors.last.get_by_role("link", name="request").click()
    expect(admin.get_by_role("heading", name="Request", exact=True)).to_be_visible()
    # Who stops an answer has not made Weir fail.
    admin.goto(f"{weir.url}/dashboard/requests")
    expect(admin.get_by_text("200 ClientHungUp").first).to_have_class("tag poor")


def test_the_playground_works_without_javascript(
    open_page: OpenPage, state: Any, weir: Weir, provider: Provider
) -> None:
    page = open_page(storage_state=state, java_script_enabled=False)
    page.goto(f"{weir.url}/dashboard/playground")
    expect(page.get_by_role("heading", name="OpenAI SDK (Node)")).to_be_visible()
    expect(page.get_by_label("Stream")).to_be_hidden()
    for message in ("Without a script", "And again"):
        page.get_by_label("Message").fill(message)
        page.get_by_role("button", name="Send").click()
    assert len(provider.completions()[-1]["body"]["messages"]) == 3
    expect(page.locator("#talk .assistant")).to_have_count(2)
    provider.fault(status=429, retry_after="90")
    page.get_by_label("Message").fill("Refused")
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#talk .error")).to_contain_text("Try again in 90 s.")
    expect(page.get_by_label("Message")).to_have_value("Refused")


def test_pages_are_accessible_in_light_and_dark_are_small_and_fit_every_screen(
    open_page: OpenPage, state: Any, weir: Weir, filled: dict[str, str]
) -> None:
    """All with one load of each page."""
    page = open_page(storage_state=state)
    page.context.new_cdp_session(page).send("Network.setCacheDisabled", {"cacheDisabled": True})
    sizes: dict[str, int] = {}
    loaded: list[str] = []

    def count(answer: Response) -> None:
        if answer.request.resource_type != "fetch" or answer.url != page.url:  # not a refresh
            # A file that has not changed (304) has no length, and weighs what it did.
            size = answer.headers.get("content-length") or sizes[answer.url]
            sizes[answer.url] = int(size)
            loaded.append(answer.url)

    page.on("response", count)
    problems = []
    for path in PAGES[:-1]:
        loaded.clear()
        page.emulate_media(color_scheme="light")
        page.set_viewport_size({"width": PHONE, "height": 800})
        page.goto(f"{weir.url}/dashboard/{path.format(**filled)}")
        if width_of(page) > PHONE:
            problems.append(f"{path} is wider than a phone")
        if unlike_cards := page.evaluate(UNLIKE_CARDS):
            problems.append(f"{path} has tables that are no cards on a phone: {unlike_cards}")
        page.evaluate(AXE_SCRIPT)
        page.emulate_media(color_scheme="dark")
        problems += accessibility(page, f"{path} (dark, on a phone)")
        page.emulate_media(color_scheme="light")
        page.set_viewport_size({"width": 1280, "height": 720})
        problems += accessibility(page, path)
        if scrolled := page.evaluate(SCROLLED):
            problems.append(f"{path} has tables that do not fit in 1280 pixels: {scrolled}")
        page.set_viewport_size({"width": LARGE, "height": 800})
        if width_of(page) > LARGE:
            problems.append(f"{path} is wider than a large screen")
        # It has been by now: this does not wait.
        page.wait_for_load_state("networkidle")
        weight = sum(sizes[url] for url in loaded)
        if not 0 < weight < HEAVIEST:
            problems.append(f"{path} has {weight} bytes")
    assert not problems, "\n".join(problems)


def width_of(page: Page) -> int:
    return int(page.evaluate("document.documentElement.scrollWidth"))


def accessibility(page: Page, path: str) -> list[str]:
    """What axe, which is in the page, finds."""
    results = AxeResults(page.evaluate(f"axe.run({json.dumps(AXE_OPTIONS)})"))
    return [f"{path}: {results.generate_report()}"] if results.violations_count else []


def test_pages_work_without_javascript(
    open_page: OpenPage, state: Any, weir: Weir, provider: Provider, filled: dict[str, str]
) -> None:
    provider.fault(status=500)
    weir.post("/chat", key=filled["secret"], json={"message": "the latest failure"})
    page = open_page(storage_state=state, java_script_enabled=False)
    page.goto(f"{weir.url}/dashboard/")
    expect(page.locator(".tile").first).to_be_visible()
    page.get_by_text("View data").first.click()
    expect(page.locator("#chart-data tbody tr")).to_have_count(48)
    expect(page.locator("#requests-plot path").first).to_be_attached()
    page.get_by_title("Theme: system").click()
    assert page.locator("html").get_attribute("data-theme") == "light"
    page.get_by_role("navigation", name="Pages").get_by_role("link", name="Requests").click()
    outcomes = page.get_by_role("navigation", name="Outcome")
    outcomes.get_by_role("link", name="Error", exact=True).click()
    expect(page.locator("tbody tr").first).to_contain_text("502")
