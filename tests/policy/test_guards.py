"""Every endpoint of the application lets in whom it is for, and nobody else.

The endpoints are those of the application's own URL map. One that is not named public here needs a
key; all under /admin need the token of an administrator, all under /dashboard somebody who has
signed in.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.conftest import MakeWeir
from tests.support.administrator import SETTINGS, Administrator
from tests.support.servers import Weir
from tests.support.visitor import Visitor
from webapp.application import create_app
from webapp.settings import load

KEY = "test_key_0123456789"
MEMBER = ("mia", "mia's password")
REFUSED = {401, 403}
# Each also under /v1, as far as it is there.
PUBLIC = {
    "/", "/token", "/health", "/health/detailed", "/health/ready", "/readiness", "/liveness",
    "/stats", "/metrics", "/docs", "/redoc", "/openapi.json", "/static/<path:filename>",
}  # fmt: skip
# Who is signed out may see and send these; anything else leads to the form.
SIGNED_OUT = {
    "/dashboard/sign-in", "/dashboard/sign-out", "/dashboard/theme", "/dashboard/time",
    "/dashboard/<path:anything>",  # not found
}  # fmt: skip
# Of the dashboard, what members neither see nor do.
ADMINISTRATORS = {
    "GET /dashboard/keys/new", "POST /dashboard/keys/new",
    "GET /dashboard/keys/<int:key_id>/edit", "POST /dashboard/keys/<int:key_id>/edit",
    "POST /dashboard/keys/<int:key_id>/budget",
    "GET /dashboard/providers", "POST /dashboard/providers/<name>/test", "GET /dashboard/audit",
    "GET /dashboard/accounts", "POST /dashboard/accounts",
    "GET /dashboard/accounts/<int:account_id>", "POST /dashboard/accounts/<int:account_id>",
    "POST /dashboard/accounts/<int:account_id>/password",
}  # fmt: skip
# What members see and do; of a key, a request or a batch that is not theirs, nothing.
MEMBERS = {
    "GET /dashboard/", "GET /dashboard/keys", "GET /dashboard/requests",
    "GET /dashboard/requests.csv", "GET /dashboard/batches", "GET /dashboard/batches/new",
    "POST /dashboard/batches/new", "GET /dashboard/playground", "POST /dashboard/playground",
    "GET /dashboard/playground/<int:key_id>/bars",  # empty for a key of another
    "GET /dashboard/me", "POST /dashboard/me/password",
}  # fmt: skip
OF_OTHERS = {
    "GET /dashboard/keys/<int:key_id>", "POST /dashboard/keys/<int:key_id>/rotate",
    "GET /dashboard/keys/<int:key_id>/revoke", "POST /dashboard/keys/<int:key_id>/revoke",
    "GET /dashboard/requests/<request_id>", "POST /dashboard/playground/<int:key_id>",
    "GET /dashboard/batches/<batch_id>", "GET /dashboard/batches/<batch_id>/files/<which>",
    "GET /dashboard/batches/<batch_id>/cancel", "POST /dashboard/batches/<batch_id>/cancel",
}  # fmt: skip


@pytest.fixture(scope="module")
def weir(start_shared_weir: MakeWeir) -> Weir:
    tiers = "enterprise=9999/minute;free=9999/minute"
    return start_shared_weir(**SETTINGS, API_KEYS=f"test:enterprise:{KEY}", TIERS=tiers)


@pytest.fixture(scope="module")
def administrator(weir: Weir) -> Administrator:
    return Administrator(weir)


@pytest.fixture(scope="module")
def member(weir: Weir, administrator: Administrator) -> Administrator:
    body = {"username": MEMBER[0], "password": MEMBER[1], "role": "member", "tier": "free"}
    assert administrator.post("/admin/accounts", body).status_code == 201
    return Administrator(weir, *MEMBER)


@pytest.fixture(scope="module")
def endpoints(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Method and rule of each, such as `GET /admin/keys/<int:key_id>`."""
    folder: Path = tmp_path_factory.mktemp("guards")
    rules = create_app(load({"DATA_DIR": str(folder)})).url_map.iter_rules()
    return {
        f"{method} {rule.rule}"
        for rule in rules
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }


def those_of(endpoints: set[str], kind: str) -> set[str]:
    return {endpoint for endpoint in endpoints if kind_of(endpoint) == kind}


def kind_of(endpoint: str) -> str:
    rule = endpoint.split()[1]
    if rule.startswith("/admin/"):
        return "admin"
    if rule.startswith("/dashboard/"):
        return "form" if rule in SIGNED_OUT else "dashboard"
    return "public" if {rule, rule.removeprefix("/v1")} & PUBLIC else "key"


def path_of(rule: str) -> str:
    return re.sub(r"<int:\w+>", "1", re.sub(r"<(path:)?[a-z_]+>", "x", rule))


def ask(weir: Weir, endpoint: str, headers: dict[str, str]) -> requests.Response:
    method, rule = endpoint.split()
    path = path_of(rule)
    body = {"json": {}} if method in {"POST", "PATCH"} else {}
    return weir.request(method, path, headers=headers, allow_redirects=False, **body)


def statuses(weir: Weir, endpoints: set[str], headers: dict[str, str]) -> dict[str, int]:
    return {endpoint: ask(weir, endpoint, headers).status_code for endpoint in endpoints}


def only(found: dict[str, int], allowed: set[int]) -> dict[str, int]:
    """What has another status than these."""
    return {endpoint: status for endpoint, status in found.items() if status not in allowed}


def test_all_that_is_named_here_exists(endpoints: set[str]) -> None:
    rules = {endpoint.split()[1] for endpoint in endpoints}
    assert rules >= PUBLIC | SIGNED_OUT
    assert those_of(endpoints, "dashboard") == ADMINISTRATORS | MEMBERS | OF_OTHERS
    assert len(those_of(endpoints, "admin")) > 15
    assert len(those_of(endpoints, "key")) > 15


def test_what_is_public_is_open_to_everybody(weir: Weir, endpoints: set[str]) -> None:
    found = statuses(weir, those_of(endpoints, "public"), {})
    # /token without a password is a mistake, and not a refusal.
    assert only(found, {200, 404, 422}) == {}


def test_nobody_gets_in_without_a_key(weir: Weir, endpoints: set[str]) -> None:
    assert only(statuses(weir, those_of(endpoints, "key"), {}), REFUSED) == {}


def test_a_key_and_a_member_s_token_get_in(
    weir: Weir, endpoints: set[str], member: Administrator
) -> None:
    for headers in ({"X-API-Key": KEY}, member.headers):
        found = statuses(weir, those_of(endpoints, "key"), headers)
        assert {name: status for name, status in found.items() if status in REFUSED} == {}


def test_admin_is_for_administrators_alone(
    weir: Weir, endpoints: set[str], member: Administrator, administrator: Administrator
) -> None:
    guarded = those_of(endpoints, "admin")
    for headers in ({}, {"X-API-Key": KEY}, {"Authorization": f"Bearer {KEY}"}, member.headers):
        assert only(statuses(weir, guarded, headers), REFUSED) == {}, headers
    found = statuses(
        weir, {one for one in guarded if one.startswith("GET ")}, administrator.headers
    )
    assert only(found, {200, 404}) == {}


def test_pages_are_for_those_who_have_signed_in(
    weir: Weir, endpoints: set[str], administrator: Administrator
) -> None:
    pages = those_of(endpoints, "dashboard")
    # Neither a key nor a token is a session.
    for headers in ({}, {"X-API-Key": KEY}, administrator.headers):
        for page in pages:
            answer = ask(weir, page, headers)
            if page.startswith("GET "):
                location = answer.headers.get("Location", "")
                assert (answer.status_code, "/dashboard/sign-in" in location) == (302, True), page
            else:
                assert answer.status_code in REFUSED, page


def test_members_reach_nothing_of_the_administrators_pages(
    weir: Weir, endpoints: set[str], member: Administrator
) -> None:
    visitor = Visitor(weir)
    assert visitor.sign_in(*MEMBER).status_code == 200

    def visit(endpoint: str) -> Any:
        method, rule = endpoint.split()
        path = path_of(rule)
        return visitor.get(path) if method == "GET" else visitor.post(path, on="/dashboard/me")

    found = {endpoint: visit(endpoint).status_code for endpoint in ADMINISTRATORS | OF_OTHERS}
    assert only(found, {403, 404}) == {}
    assert visitor.get("/dashboard/keys").status_code == 200
