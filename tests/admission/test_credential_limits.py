"""Limits on wrong credentials, signing in and /stats: whom they hit, whom never, without Redis."""

from __future__ import annotations

from collections import Counter
from itertools import count, cycle

import pytest
import requests

from tests.conftest import MakeWeir
from tests.support.administrator import PASSWORD, SETTINGS, Administrator
from tests.support.servers import Valkey, Weir, wait_until
from tests.support.visitor import Visitor, text_of, token_of

BODY = {"message": "hello"}
KEY = "test_key_0123456789"
ADDRESSES = (f"198.51.100.{number}" for number in count(1))
Weirs = tuple[Weir, Weir]


@pytest.fixture(scope="module")
def weirs(start_shared_weir: MakeWeir, fresh_shared_valkey: Valkey) -> Weirs:
    """Two servers, each with a database of its own, on one Redis."""
    settings = {
        **SETTINGS, "API_KEYS": f"test:enterprise:{KEY}", "REDIS_URL": fresh_shared_valkey.url,
        "WEB_CONCURRENCY": 1, "TRUSTED_PROXIES": 1,
    }  # fmt: skip
    return start_shared_weir(**settings), start_shared_weir(**settings)


def chat(weir: Weir, address: str, **headers: str) -> requests.Response:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return weir.post("/chat", json=BODY, headers={**sent, "X-Forwarded-For": address})


def sign_in(
    weir: Weir, address: str, username: str, password: str = "x", cookie: str = ""
) -> requests.Response:
    body = {"username": username, "password": password}
    headers = {"X-Forwarded-For": address} | ({"Cookie": cookie} if cookie else {})
    return weir.post("/token", json=body, headers=headers)


def visitor_at(weir: Weir, address: str, browser: str | None = None) -> Visitor:
    """Somebody at the dashboard, with the cookie of a browser that has signed in before."""
    visitor = Visitor(weir)
    visitor.session.headers["X-Forwarded-For"] = address
    if browser:
        visitor.session.cookies.set("weir_browser", browser, path="/dashboard")
    return visitor


def visit(weir: Weir, address: str, username: str, password: str = "x") -> requests.Response:
    """Sign in at the dashboard."""
    return visitor_at(weir, address).sign_in(username, password)


def known_browser(weir: Weir, username: str = "admin", password: str = PASSWORD) -> str:
    """The cookie of a browser that has signed in as this account."""
    visitor = visitor_at(weir, next(ADDRESSES))
    assert visitor.sign_in(username, password).status_code == 200
    return str(visitor.session.cookies["weir_browser"])


def use_up(weir: Weir, address: str) -> None:
    """Try names until this address may not sign in any more."""
    statuses = [sign_in(weir, address, f"stranger {n}").status_code for n in range(31)]
    assert statuses[-1] == 429


def test_two_servers_count_wrong_credentials_as_one(weirs: Weirs) -> None:
    address, servers = next(ADDRESSES), cycle(weirs)
    statuses = [chat(next(servers), address, api_key=f"w{n}").status_code for n in range(31)]
    assert statuses == [403] * 30 + [429]
    for weir in weirs:
        refused = chat(weir, address, Authorization="Bearer wrong")
        assert (refused.status_code, refused.json()["error"]) == (429, "RateLimitExceeded")
        seconds = int(refused.headers["Retry-After"])
        assert 0 < seconds <= 60
        assert "30 per 1 minute" in refused.json()["message"]
        assert f"Try again in {seconds} s." in refused.json()["message"]
        details = refused.json()["details"]
        assert list(details) == ["limit", "size", "used", "reset"]
        assert (details["size"], details["used"]) == (30, 30)


def test_a_valid_credential_is_never_refused_for_its_address(weirs: Weirs) -> None:
    address, weir = next(ADDRESSES), weirs[0]
    token = Administrator(weir).token
    while chat(weir, address, api_key="wrong").status_code != 429:
        pass
    for valid in ({"X_API_Key": KEY}, {"Authorization": f"Bearer {KEY}"}):
        assert chat(weir, address, **valid).status_code == 200
    assert chat(weir, address, Authorization=f"Bearer {token}").status_code == 200
    assert chat(weir, address).status_code == 403, "a missing credential is no wrong one"
    assert chat(weir, address, api_key="wrong").status_code == 429


def test_addresses_of_one_ipv6_network_are_one(weirs: Weirs) -> None:
    weir = weirs[0]
    for host in range(30):
        assert chat(weir, f"2001:db8::{host:x}", api_key="wrong").status_code == 403
    assert chat(weir, "2001:db8:0:0:ffff::1", api_key="wrong").status_code == 429
    assert chat(weir, "2001:db8:0:1::1", api_key="wrong").status_code == 403


def test_attempts_to_sign_in_count_as_one_at_every_server_and_form(weirs: Weirs) -> None:
    (here, there), address = weirs, next(ADDRESSES)
    for _ in range(5):
        assert sign_in(here, address, "Somebody").status_code == 401
        assert visit(there, address, "somebody").status_code == 401
    refused = sign_in(there, address, "SOMEBODY")
    assert refused.status_code == 429
    assert refused.json()["details"]["limit"] == "10 per 1 minute"
    assert f"Try again in {refused.headers['Retry-After']} s." in refused.json()["message"]
    page = visit(here, address, "somebody")
    assert page.status_code == 429
    assert "Try again in" in page.text


@pytest.mark.parametrize(
    ("strangers", "owner"),
    [
        (["203.0.113.1"] * 11, "203.0.113.2"),
        ([f"2001:db8:1:1::{host:x}" for host in range(11)], "2001:db8:1:2::1"),
    ],
    ids=["ipv4", "ipv6"],
)
def test_strangers_lock_nobody_out_from_another_network(
    weirs: Weirs, strangers: list[str], owner: str
) -> None:
    servers = cycle(weirs)
    statuses = [sign_in(next(servers), address, "admin").status_code for address in strangers]
    assert statuses == [401] * 10 + [429]
    assert sign_in(weirs[0], owner, "admin", PASSWORD).status_code == 200
    assert visit(weirs[1], owner, "admin", PASSWORD).status_code == 200


def test_an_address_that_tries_many_names_leaves_few_keys_in_redis(
    weirs: Weirs, valkey: Valkey
) -> None:
    address, servers = next(ADDRESSES), cycle(weirs)
    statuses = [sign_in(next(servers), address, f"name {n}").status_code for n in range(100)]
    assert statuses == [401] * 30 + [429] * 70
    with valkey.client() as client:
        kept = [key for key in client.scan_iter("*") if address.encode() in key]
    assert len(kept) == 30 + 1, "30 names, and the address"


def test_a_browser_that_has_signed_in_before_has_a_limit_of_its_own(weirs: Weirs) -> None:
    """For each account that has signed in with it."""
    weir, address = weirs[0], next(ADDRESSES)
    account = {"username": "mia", "password": "mia's password"}
    assert Administrator(weir).post("/admin/accounts", account).status_code == 201
    visitor = visitor_at(weir, next(ADDRESSES))
    visitor.sign_in()
    visitor.sign_in(**account)
    browser = str(visitor.session.cookies["weir_browser"])
    use_up(weir, address)
    assert visit(weir, address, "admin", PASSWORD).status_code == 429
    for _ in range(9):
        assert visitor_at(weir, address, browser).sign_in("admin", "wrong").status_code == 401
    assert visitor_at(weir, address, browser).sign_in("ADMIN", PASSWORD).status_code == 200
    assert visitor_at(weir, address, browser).sign_in("admin", PASSWORD).status_code == 429
    assert visitor_at(weir, address, browser).sign_in(**account).status_code == 200
    assert visitor_at(weir, address, browser).sign_in("stranger").status_code == 429
    assert visitor_at(weir, address, known_browser(weir)).sign_in().status_code == 200


def test_browsers_that_know_an_account_have_together_what_an_address_has(weirs: Weirs) -> None:
    weir, address = weirs[0], next(ADDRESSES)
    browsers = [known_browser(weir) for _ in range(4)]
    statuses = Counter(
        visitor_at(weir, address, browser).sign_in("admin", "wrong").status_code
        for browser in browsers
        for _ in range(9)
    )
    assert statuses == {401: 30, 429: 6}


def test_a_forged_cookie_or_that_of_another_account_counts_for_nothing(weirs: Weirs) -> None:
    weir, other = weirs
    account = {"username": "nia", "password": "nia's password"}
    assert Administrator(weir).post("/admin/accounts", account).status_code == 201
    genuine = known_browser(weir)
    signed_in = visitor_at(weir, next(ADDRESSES))
    signed_in.sign_in()
    payload, _, signature = genuine.partition(".")
    forged = [
        known_browser(weir, "nia", "nia's password"),
        known_browser(other),  # signed with another server's SECRET_KEY
        str(signed_in.session.cookies["weir_session"]),
        f"{payload}x.{signature}", genuine[:-2] + "xx", payload, "x", "\xe9",
    ]  # fmt: skip
    address = next(ADDRESSES)
    use_up(weir, address)
    for cookie in forged:
        visitor = visitor_at(weir, address, cookie)
        assert visitor.sign_in("admin", PASSWORD).status_code == 429, cookie
    assert visitor_at(weir, address, genuine).sign_in().status_code == 200
    cookie = f"weir_browser={genuine}"
    assert sign_in(weir, address, "admin", PASSWORD, cookie).status_code == 429, "a program"


def test_the_cookie_of_a_known_browser_is_kept_from_scripts_and_other_sites(weirs: Weirs) -> None:
    visitor = visitor_at(weirs[0], next(ADDRESSES))
    form = visitor.get("/dashboard/sign-in")
    data = {"csrf_token": token_of(form.text), "username": "admin", "password": PASSWORD}
    for scheme, secure in (("http", False), ("https", True)):
        headers = {"X-Forwarded-Proto": scheme, "Referer": form.url.replace("http:", f"{scheme}:")}
        answer = visitor.session.post(form.url, data=data, headers=headers, allow_redirects=False)
        assert answer.status_code == 302, text_of(answer.text)
        cookies = answer.raw.headers.getlist("Set-Cookie")
        [cookie] = [one for one in cookies if one.startswith("weir_browser=")]
        attributes = set(cookie.split("; "))
        assert {"HttpOnly", "SameSite=Lax", "Path=/dashboard", "Max-Age=31536000"} <= attributes
        assert ("Secure" in attributes) is secure
        data["csrf_token"] = token_of(visitor.get("/dashboard/me").text)


def test_stats_are_limited_by_address_without_a_credential(weirs: Weirs) -> None:
    here, servers, address = weirs[0], cycle(weirs), next(ADDRESSES)

    def stats(weir: Weir, address: str, key: str | None = None) -> requests.Response:
        return weir.get("/stats", key=key, headers={"X-Forwarded-For": address})

    statuses = [stats(next(servers), address).status_code for _ in range(61)]
    assert statuses == [200] * 60 + [429]
    refused = stats(here, address)
    assert 0 < int(refused.headers["Retry-After"]) <= 60
    assert refused.json()["details"]["limit"] == "60 per 1 minute"
    assert {stats(here, address, KEY).status_code for _ in range(3)} == {200}
    assert stats(here, next(ADDRESSES)).status_code == 200


@pytest.mark.parametrize("outage", ["stop", "pause"])
def test_without_redis_each_process_counts_for_itself(
    weirs: Weirs, valkey: Valkey, outage: str
) -> None:
    weir = weirs[0]
    wait_until(lambda: weir.get("/health").json()["checks"]["cache"] == "healthy")
    getattr(valkey, outage)()
    address = next(ADDRESSES)
    statuses = [chat(weir, address, api_key="wrong").status_code for _ in range(31)]
    assert statuses == [403] * 30 + [429]
    assert chat(weir, address, Authorization="Bearer wrong").status_code == 429
    assert chat(weir, next(ADDRESSES), Authorization="Bearer wrong").status_code == 401
    assert chat(weir, address, X_API_Key=KEY).status_code == 200
    assert sign_in(weir, address, "admin", PASSWORD).status_code == 200
    statuses = [sign_in(weir, address, f"nobody {outage}").status_code for _ in range(11)]
    assert statuses == [401] * 10 + [429]
    assert visit(weir, address, f"nobody {outage}").status_code == 429
    assert visit(weir, address, f"somebody {outage}").status_code == 401
