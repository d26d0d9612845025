"""Accounts: signing in, what a token is worth, and when it ends."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import jwt
import pytest
from sqlalchemy import text
from werkzeug.security import generate_password_hash

from tests.conftest import MakeWeir
from tests.support.administrator import PASSWORD, SETTINGS, Administrator
from tests.support.books import Books
from tests.support.servers import Valkey, Weir, wait_until

CHAT = {"message": "hello"}
ADA = {"username": "Ada", "password": "ada's long password", "tier": "premium"}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def weir(
    request: pytest.FixtureRequest,
    start_shared_weir: MakeWeir,
    fresh_shared_valkey: Valkey,
    fresh_shared_database: str,
) -> Weir:
    """Two workers, on either database."""
    database = {"DATABASE_URL": fresh_shared_database} if request.param == "postgresql" else {}
    url = fresh_shared_valkey.url.replace("/0", f"/{len(database)}")
    return start_shared_weir(
        **SETTINGS, **database, REDIS_URL=url, WEB_CONCURRENCY=2, TRUSTED_PROXIES=1,
        STATS_ACCESS="admin",
    )  # fmt: skip


@pytest.fixture(scope="module")
def admin(weir: Weir) -> Administrator:
    return Administrator(weir)


numbers = count()


def address() -> str:
    """Another one each time: wrong credentials are limited by address."""
    number = next(numbers)
    return f"10.9.{number // 250}.{number % 250}"


def new_account(admin: Administrator, **fields: Any) -> dict[str, Any]:
    body = {"username": f"member{next(numbers)}", "password": "a long password", **fields}
    answer = admin.post("/admin/accounts", body)
    assert answer.status_code == 201, answer.text
    return {**answer.json(), "password": body["password"]}


def signed_in(weir: Weir, account: dict[str, Any]) -> Administrator:
    return Administrator(weir, account["username"], account["password"])


def test_a_token_is_as_the_contract_has_it(weir: Weir) -> None:
    answer = weir.post("/token", json={"username": "ADMIN", "password": PASSWORD})
    assert answer.headers["Cache-Control"] == "no-store"
    token = answer.json()
    assert (token["token_type"], token["expires_in"]) == ("bearer", 1800)
    claims = jwt.decode(token["access_token"], options={"verify_signature": False})
    assert set(claims) == {"sub", "tier", "iat", "exp", "jti"}
    assert claims["exp"] - claims["iat"] == 1800
    assert jwt.get_unverified_header(token["access_token"])["alg"] == "HS256"
    form = {"grant_type": "password", "username": "admin", "password": PASSWORD}
    assert weir.post("/token", data=form).status_code == 200


def test_an_account_has_tier_limits_and_budget_as_a_key_has(
    weir: Weir, admin: Administrator
) -> None:
    account = new_account(admin, tier="premium")
    member, again = signed_in(weir, account), signed_in(weir, account)
    first = member.post("/chat", CHAT)
    assert (first.status_code, first.headers["X-RateLimit-Limit"]) == (200, "20")
    assert again.post("/chat", CHAT).headers["X-RateLimit-Remaining"] == "18"
    limits = {"limits": {"usd_per_month": 5, "requests_per_minute": 7}}
    changed = admin.patch(f"/admin/accounts/{account['id']}", limits).json()
    assert changed["limits"] == {"usd_per_month": 5.0, "requests_per_minute": 7}

    def seen() -> bool:
        key = member.get("/v1/key").json()
        budgets = [(budget["limit"], budget["size"]) for budget in key["budget"]]
        return budgets == [("usd_per_month", 5.0)] and key["limits"][0]["size"] == 7

    wait_until(seen, 6, pause=0.1)
    assert member.get("/v1/key").json()["name"] == account["username"]


def test_tokens_end_everywhere(weir: Weir, admin: Administrator) -> None:
    """When the account is disabled, its password is changed, or it is signed out."""
    accounts = {how: new_account(admin) for how in ("disabled", "password", "sign-out")}
    members = {how: signed_in(weir, account) for how, account in accounts.items()}
    paths = {how: f"/admin/accounts/{account['id']}" for how, account in accounts.items()}

    def statuses(member: Administrator) -> set[int]:
        # Many at once, so that each worker takes some.
        with ThreadPoolExecutor(8) as pool:
            answers = pool.map(lambda _: member.get("/v1/key", address=address()), range(12))
            return {answer.status_code for answer in answers}

    for member in members.values():
        assert statuses(member) == {200}
    assert admin.patch(paths["disabled"], {"disabled": True}).json()["disabled"] is True
    new_password = {"password": "another password"}
    assert admin.post(f"{paths['password']}/password", new_password).status_code == 204
    assert admin.post(f"{paths['sign-out']}/sign-out").status_code == 204

    def ended() -> bool:
        once = [member.get("/v1/key", address=address()) for member in members.values()]
        if {answer.status_code for answer in once} != {401}:
            return False
        return all(statuses(member) == {401} for member in members.values())

    wait_until(ended, 5, "the end of the tokens", pause=0.1)
    for how, account in accounts.items():
        refused = members[how].get("/v1/key", address=address())
        assert refused.headers["WWW-Authenticate"].startswith("Bearer")
        body = {"username": account["username"], "password": account["password"]}
        status = weir.post("/token", json=body, headers={"X-Forwarded-For": address()}).status_code
        assert status == (200 if how == "sign-out" else 401)
    # A new token works at once, on workers that remember the old ones too.
    fresh = signed_in(weir, accounts["sign-out"])
    assert [fresh.get("/v1/key").status_code for _ in range(8)] == [200] * 8


def test_a_token_that_is_none_is_a_401(weir: Weir, admin: Administrator) -> None:
    header, claims, signature = admin.token.split(".")
    old = {"sub": "admin", "iat": 1, "exp": 2, "jti": "1-x", "tier": "free"}
    forged = jwt.encode(old | {"exp": int(time.time()) + 99}, "x" * 32, algorithm="HS256")
    none = jwt.encode(old | {"exp": int(time.time()) + 99}, None, algorithm="none")
    for token in (f"{header}.{claims}.{signature[:-2]}xx", forged, none, "a.b.c"):
        answer = weir.get(
            "/admin/accounts",
            headers={"Authorization": f"Bearer {token}", "X-Forwarded-For": address()},
        )
        assert answer.status_code == 401, token
        assert answer.json()["error"] == "NotAuthenticated"


def test_admin_is_for_administrators_tokens_only(weir: Weir, admin: Administrator) -> None:
    member = signed_in(weir, new_account(admin))
    assert admin.get("/admin/accounts").status_code == 200
    assert weir.get("/admin/accounts").status_code == 403
    assert weir.get("/admin/accounts", key="prod_key_456").status_code == 403
    assert member.get("/admin/accounts").json()["error"] == "NotAllowed"


def make_cheap(weir: Weir, accounts: list[dict[str, Any]]) -> None:
    """Each look at a password takes a tenth of a second: too long where there are many."""
    rows = [
        {
            "hash": generate_password_hash(account["password"], "pbkdf2:sha256:1"),
            "id": account["id"],
        }
        for account in accounts
    ]
    books = Books(weir)
    with books.engine.begin() as connection:
        connection.execute(text("UPDATE accounts SET password_hash = :hash WHERE id = :id"), rows)
    books.engine.dispose()


def test_attempts_to_log_in_are_limited_by_account_and_by_address(
    weir: Weir, admin: Administrator
) -> None:
    accounts = [new_account(admin) for _ in range(4)]
    names = [account["username"] for account in accounts]
    make_cheap(weir, accounts)

    def attempt(username: str, password: str, address: str) -> Any:
        body = {"username": username, "password": password}
        return weir.post("/token", json=body, headers={"X-Forwarded-For": address})

    one = address()
    statuses = [attempt(names[0], "x", one).status_code for _ in range(11)]
    assert statuses == [401] * 10 + [429]
    refused = attempt(names[0], accounts[0]["password"], one)
    assert refused.status_code == 429
    assert 0 < int(refused.headers["Retry-After"]) <= 60
    assert attempt(names[0], accounts[0]["password"], address()).status_code == 200
    one = address()
    nobodies = [f"nobody{n}{one}" for n in range(4)]
    tried = [*names[1:] * 9, *nobodies]
    statuses = [attempt(name, "x", one).status_code for name in tried]
    assert statuses == [401] * 30 + [429]
    assert attempt("\x00", "x", address()).status_code == 401
    unknown = attempt("nobody at all", "x", address()).json()
    wrong = attempt("admin", "x", address()).json()
    assert unknown["message"] == wrong["message"]


def test_the_last_administrator_stays(weir: Weir, admin: Administrator) -> None:
    [only] = [a for a in admin.get("/admin/accounts").json()["accounts"] if a["role"] == "admin"]
    for change in ({"disabled": True}, {"role": "member"}):
        refused = admin.patch(f"/admin/accounts/{only['id']}", change)
        assert (refused.status_code, refused.json()["error"]) == (409, "Conflict")
    assert admin.get("/admin/accounts").status_code == 200


def test_what_is_wrong_is_named(admin: Administrator) -> None:
    bad = {
        "password": {"username": "x", "password": "short"},
        "role": {"username": "x", "password": "a long password", "role": "king"},
        "tier": {"username": "x", "password": "a long password", "tier": "gold"},
        "username": {"username": "with space", "password": "a long password"},
        "nickname": {"username": "x", "password": "a long password", "nickname": "y"},
    }
    for field, body in bad.items():
        answer = admin.post("/admin/accounts", body)
        assert (answer.status_code, list(answer.json()["details"])) == (422, [field])
    taken = {"username": "ADMIN", "password": "a long password"}
    assert admin.post("/admin/accounts", taken).status_code == 409
    limits = {"limits": {"usd_per_day": "much", "models": [], "nothing": 1}}
    answer = admin.patch("/admin/accounts/1", limits)
    assert set(answer.json()["details"]["limits"]) == {"usd_per_day", "models", "nothing"}
    for number in (9999, 2**31, 2**70):
        assert admin.get(f"/admin/accounts/{number}").status_code == 404
    for path in ("audit?target=%00", "usage?model=%00", "ledger?key=9999999999", "ledger?before=x"):
        assert admin.get(f"/admin/{path}").status_code == 422, path


def test_every_change_is_audited_without_a_secret(weir: Weir, admin: Administrator) -> None:
    account = new_account(admin)
    path = f"/admin/accounts/{account['id']}"
    admin.patch(path, {"tier": "enterprise"})
    admin.post(f"{path}/password", {"password": "yet another password"})
    admin.post(f"{path}/sign-out")
    events = admin.get(f"/admin/audit?target=account-{account['id']}").json()["events"]
    assert [event["action"] for event in events] == [
        "account.sign_out", "account.password", "account.change", "account.create",
    ]  # fmt: skip
    assert {event["actor"] for event in events} == {"admin"}
    assert {event["address"] for event in events} == {"127.0.0.1"}
    change = events[2]
    assert (change["before"]["tier"], change["after"]["tier"]) == ("free", "enterprise")
    everything = str(Books(weir).rows("SELECT * FROM audit"))
    for secret in ('password"', "yet another password", "a long password", "scrypt"):
        assert secret not in everything
    older = admin.get(f"/admin/audit?before={events[-1]['id']}&limit=1").json()["events"]
    assert len(older) == 1
    assert older[0]["id"] < events[-1]["id"]
    assert admin.get("/admin/audit?limit=many").status_code == 422


def test_the_command_line_manages_accounts(weir: Weir) -> None:
    def flask(*args: str) -> str:
        done = weir.run_flask("accounts", *args, WEIR_PASSWORD="ada's long password")
        return done.stdout + done.stderr

    assert "ada" in flask("create", "ada", "--tier", "premium")
    assert "already" in flask("create", "Ada")
    assert "premium" in flask("list")
    assert signed_in(weir, ADA).get("/v1/key").json()["tier"] == "premium"
    assert "disabled" in flask("disable", "ada")
    assert "disabled:        true" in flask("show", "ada")
    assert "enabled" in flask("enable", "ada")
    assert "admin" in flask("set-role", "ada", "admin")
    assert "refused within" in flask("sign-out", "ada")
    assert "Account 'eve' not found" in flask("show", "eve")


def test_stats_may_be_kept_for_administrators(weir: Weir, admin: Administrator) -> None:
    assert weir.get("/stats").status_code == 403
    assert weir.get("/stats", key="prod_key_456").status_code == 403
    assert admin.get("/stats").json()["cost_usd"] == 0
