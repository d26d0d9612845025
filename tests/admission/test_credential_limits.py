"""Limits on wrong credentials and on signing in: whom they hit, whom never, and without Redis."""

from __future__ import annotations

from itertools import count, cycle

import pytest
import requests

from tests.conftest import MakeWeir
from tests.support.administrator import PASSWORD, SETTINGS, Administrator
from tests.support.servers import Valkey, Weir, wait_until
from tests.support.visitor import Visitor

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


def sign_in(weir: Weir, address: str, username: str, password: str = "x") -> requests.Response:
    body = {"username": username, "password": password}
    return weir.post("/token", json=body, headers={"X-Forwarded-For": address})


def visit(weir: Weir, address: str, username: str, password: str = "x") -> requests.Response:
    """Sign in at the dashboard."""
    visitor = Visitor(weir)
    visitor.session.headers["X-Forwarded-For"] = address
    return visitor.sign_in(username, password)


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
    here, there = weirs
    for _ in range(5):
        assert sign_in(here, next(ADDRESSES), "Somebody").status_code == 401
        assert visit(there, next(ADDRESSES), "somebody").status_code == 401
    refused = sign_in(there, next(ADDRESSES), "SOMEBODY")
    assert refused.status_code == 429
    assert refused.json()["details"]["limit"] == "10 per 1 minute"
    assert f"Try again in {refused.headers['Retry-After']} s." in refused.json()["message"]
    page = visit(here, next(ADDRESSES), "somebody")
    assert page.status_code == 429
    assert "Try again in" in page.text


def test_an_account_that_is_refused_does_not_count_against_its_address(weirs: Weirs) -> None:
    address, servers = next(ADDRESSES), cycle(weirs)
    for _ in range(40):
        sign_in(next(servers), address, "one account")
    statuses = [sign_in(next(servers), address, f"name {n}").status_code for n in range(21)]
    assert statuses == [401] * 20 + [429]


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
