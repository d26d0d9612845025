"""The life of a key: made, limited, rotated, revoked, by /admin and by the command line."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeWeir
from tests.support.administrator import SETTINGS, Administrator
from tests.support.books import Books
from tests.support.servers import Valkey, Weir, wait_until

CHAT = {"message": "hello"}
numbers = count()


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
        API_KEYS="shop:free:shop_key_0123456789",
    )  # fmt: skip


@pytest.fixture(scope="module")
def admin(weir: Weir) -> Administrator:
    return Administrator(weir)


def new_key(admin: Administrator, **fields: Any) -> dict[str, Any]:
    answer = admin.post("/admin/keys", {"name": f"key {next(numbers)}", **fields})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def statuses(weir: Weir, key: str) -> set[int]:
    """The statuses of eight requests with a key, each from another address."""

    def ask(_: int) -> int:
        address = f"10.8.{next(numbers) % 250}.{next(numbers) % 250}"
        return weir.get("/v1/key", key=key, headers={"X-Forwarded-For": address}).status_code

    with ThreadPoolExecutor(4) as pool:
        return set(pool.map(ask, range(8)))


def test_a_key_is_shown_once_and_works_with_its_own_limits(
    weir: Weir, admin: Administrator
) -> None:
    limits = {
        "requests_per_minute": 3, "requests_per_session": 9, "usd_per_month": "12.50",
        "models": ["gpt-*"],
    }  # fmt: skip
    made = new_key(admin, tier="premium", limits=limits)
    assert re.fullmatch(r"weir_[A-Za-z0-9]{12}_[A-Za-z0-9_-]{43}", made["secret"])
    assert made["limits"] == limits | {"usd_per_month": 12.5}
    shown = admin.get(f"/admin/keys/{made['id']}").json()
    assert made["secret"] not in json.dumps(shown)
    assert shown["secrets"] == [
        {"key": made["key"], "created_at": shown["secrets"][0]["created_at"], "expires_at": None}
    ]
    told = weir.get("/v1/key", key=made["secret"]).json()
    assert (told["tier"], [one["size"] for one in told["limits"]]) == ("premium", [3, 9])
    assert told["budget"][0]["size"] == 12.5
    changes = {"tier": "enterprise", "limits": {"usd_per_month": None}, "name": "renamed"}
    changed = admin.patch(f"/admin/keys/{made['id']}", changes).json()
    assert (changed["name"], changed["limits"]) == (
        "renamed", {"requests_per_minute": 3, "requests_per_session": 9, "models": ["gpt-*"]},
    )  # fmt: skip
    path = "/v1/key"
    wait_until(lambda: weir.get(path, key=made["secret"]).json()["budget"] == [], 6, pause=0.1)


def test_secrets_end_everywhere_when_a_key_is_rotated_or_revoked(
    weir: Weir, admin: Administrator
) -> None:
    """Both secrets of a rotated key work during the grace period. A revoked key stays revoked."""
    made, at_once, revoked = (new_key(admin) for _ in range(3))
    path = f"/admin/keys/{made['id']}/rotate"
    second = admin.post(path, {"grace": 3600}).json()["secret"]
    for secret in (made["secret"], second, at_once["secret"], revoked["secret"]):
        assert statuses(weir, secret) == {200}
    third = admin.post(path, {"grace": 1}).json()["secret"]
    path = f"/admin/keys/{at_once['id']}/rotate"
    without_grace = admin.post(path, {"grace": 0}).json()["secret"]
    assert admin.post(f"/admin/keys/{revoked['id']}/revoke").json()["revoked_at"]

    def have_ended() -> bool:
        ended = (made["secret"], at_once["secret"], revoked["secret"])
        return all(statuses(weir, secret) == {401} for secret in ended)

    wait_until(have_ended, 5, "the end of the oldest, rotated and revoked secrets", pause=0.2)
    wait_until(lambda: statuses(weir, second) == {401}, 8, "the end of the grace period", pause=0.2)
    for secret in (third, without_grace):
        assert statuses(weir, secret) == {200}
    assert weir.get("/v1/key", key=third).json()["name"] == made["name"]
    for verb in ("revoke", "rotate"):
        assert admin.post(f"/admin/keys/{revoked['id']}/{verb}", {}).status_code == 409
    new_key(admin, name=revoked["name"])  # the name is free again


def test_a_key_ends_when_it_expires(weir: Weir, admin: Administrator) -> None:
    soon = (datetime.now(UTC) + timedelta(seconds=2)).isoformat()
    made = new_key(admin, expires_at=soon)
    assert statuses(weir, made["secret"]) == {200}
    # To the second, however lately the key was looked up.
    wait_until(lambda: statuses(weir, made["secret"]) == {401}, 4, "the expiry", pause=0.2)


def test_moments_are_those_of_their_zone(admin: Administrator) -> None:
    made = new_key(admin, expires_at="2090-01-31T00:00:00+05:00")
    shown = admin.get(f"/admin/keys/{made['id']}").json()["expires_at"]
    assert datetime.fromisoformat(shown) == datetime(2090, 1, 30, 19, tzinfo=UTC)


def test_a_budget_can_be_raised_for_a_while(weir: Weir, admin: Administrator) -> None:
    made = new_key(admin, limits={"usd_per_day": 1, "usd_per_month": 10})

    def sizes() -> list[float]:
        told = weir.get("/v1/key", key=made["secret"]).json()
        return [budget["size"] for budget in told["budget"]]

    assert sizes() == [1, 10]
    until = (datetime.now(UTC) + timedelta(seconds=8)).isoformat()
    path = f"/admin/keys/{made['id']}/budget-increase"
    raised = admin.post(path, {"usd": "2.5", "until": until}).json()
    assert raised["budget_increase"]["usd"] == 2.5
    wait_until(lambda: sizes() == [3.5, 12.5], 6)
    wait_until(lambda: sizes() == [1, 10], 14)
    assert admin.post(path, {"usd": "lots", "until": until}).status_code == 422
    assert list(admin.post(path, {"usd": 1}).json()["details"]) == ["until"]
    past = {"usd": 1, "until": "2020-01-01T00:00:00Z"}
    assert list(admin.post(path, past).json()["details"]) == ["until"]
    later = {"usd": 1, "until": "2099-01-01T00:00:00Z"}
    assert "budget_increase" in admin.post(path, later).json()
    assert "budget_increase" not in admin.post(path, {"usd": 0}).json()


def test_members_own_keys(admin: Administrator) -> None:
    admin.post("/admin/accounts", {"username": "owner", "password": "a long password"})
    made = new_key(admin, owner="Owner")
    assert made["owner"] == "owner"
    owned = admin.get("/admin/keys?owner=owner").json()["keys"]
    assert [key["id"] for key in owned] == [made["id"]]
    assert admin.get("/admin/keys?owner=nobody").status_code == 422
    assert admin.post("/admin/keys", {"name": "x", "owner": "nobody"}).status_code == 422


def test_keys_of_a_disabled_account_stop_on_every_worker_until_it_is_enabled(
    weir: Weir, admin: Administrator
) -> None:
    name = f"gone{next(numbers)}"
    body = {"username": name, "password": "a long password"}
    account = admin.post("/admin/accounts", body).json()
    owned, unowned = new_key(admin, owner=name), new_key(admin)
    key = f"/admin/keys/{owned['id']}"

    def set_disabled(disabled: bool) -> None:
        path = f"/admin/accounts/{account['id']}"
        assert admin.patch(path, {"disabled": disabled}).status_code == 200

    def in_state(state: str) -> list[int]:
        path = f"/admin/keys?owner={name}&state={state}"
        return [key["id"] for key in admin.get(path).json()["keys"]]

    assert statuses(weir, owned["secret"]) == {200}
    assert (in_state("works"), in_state("disabled")) == ([owned["id"]], [])
    set_disabled(True)
    wait_until(lambda: statuses(weir, owned["secret"]) == {401}, 5, "the end of the key")
    assert statuses(weir, unowned["secret"]) == {200}
    assert admin.get(key).json()["state"] == "disabled"
    assert admin.get(f"/admin/keys/{unowned['id']}").json()["state"] == "works"
    assert (in_state("works"), in_state("disabled")) == ([], [owned["id"]])
    listed = weir.run_flask("keys", "list", "--state", "disabled").stdout
    assert re.search(rf" disabled +{name} +{owned['name']}", listed), listed
    set_disabled(False)
    wait_until(lambda: statuses(weir, owned["secret"]) == {200}, 5, "the return of the key")
    assert admin.get(key).json()["state"] == "works"
    set_disabled(True)
    admin.post(f"{key}/revoke")
    assert admin.get(key).json()["state"] == "revoked"
    assert (in_state("disabled"), in_state("revoked")) == ([], [owned["id"]])


def test_keys_are_listed_page_by_page(admin: Administrator) -> None:
    for _ in range(3):
        new_key(admin)
    everything = [key["id"] for key in admin.get("/admin/keys").json()["keys"]]
    paged, after = [], 0
    while page := admin.get(f"/admin/keys?after={after}&limit=2").json()["keys"]:
        paged += [key["id"] for key in page]
        after = paged[-1]
    assert paged == everything
    assert admin.get("/admin/keys?limit=0").status_code == 422


def test_keys_are_found_by_owner_origin_and_state(admin: Administrator) -> None:
    name = f"finder{next(numbers)}"
    admin.post("/admin/accounts", {"username": name, "password": "a long password"})
    soon = (datetime.now(UTC) + timedelta(seconds=2)).isoformat()
    works, expired, revoked = (
        new_key(admin, owner=name, expires_at=end)["id"] for end in (None, soon, None)
    )
    admin.post(f"/admin/keys/{revoked}/revoke")

    def found(query: str) -> list[int]:
        return [key["id"] for key in admin.get(f"/admin/keys?owner={name}&{query}").json()["keys"]]

    wait_until(lambda: found("state=expired") == [expired], 5, "the expiry", pause=0.1)
    assert found("state=works") == found("state=works&origin=operator") == [works]
    assert found("state=revoked") == [revoked]
    assert found("origin=settings") == []
    settings = admin.get("/admin/keys?origin=settings").json()["keys"]
    assert [key["name"] for key in settings] == ["shop"]
    assert list(admin.get("/admin/keys?state=tired").json()["details"]) == ["state"]


def test_what_is_wrong_is_named(weir: Weir, admin: Administrator) -> None:
    bad = {
        "tier": {"name": "x", "tier": "gold"},
        "name": {"name": ""},
        "limits": {"name": "x", "limits": {"usd_per_day": -1}},
        "expires_at": {"name": "x", "expires_at": "soon"},
        "colour": {"name": "x", "colour": "red"},
    }
    hostile = [("owner", owner) for owner in ("nobody", "a\0b", "\ud800")]
    ends = ("2020-01-31T00:00:00Z", "0001-01-01T00:00:00+05:00", "9999-12-31T23:59:59-05:00")
    hostile += [("expires_at", end) for end in ends]
    hostile += [("name", "   ")]
    for field, body in [*bad.items(), *((field, {"name": "x", field: v}) for field, v in hostile)]:
        answer = admin.post("/admin/keys", body)
        assert (answer.status_code, list(answer.json()["details"])) == (422, [field])
    for number in (0, 99999, 2**31, 2**63):
        assert admin.get(f"/admin/keys/{number}").status_code == 404
        assert admin.post(f"/admin/keys/{number}/revoke").status_code == 404
    assert admin.get(f"/admin/keys?after={2**63}").status_code == 422
    [shop] = [key for key in admin.get("/admin/keys").json()["keys"] if key["name"] == "shop"]
    path = f"/admin/keys/{shop['id']}"
    refused = [admin.post(f"{path}/rotate", {})]
    refused += [admin.patch(path, change) for change in ({"name": "x"}, {"tier": "premium"})]
    for answer in refused:
        assert answer.status_code == 409
        assert "API_KEYS" in answer.json()["message"]
    assert admin.patch(path, {"limits": {"parallel_requests": 9}}).status_code == 200


def test_of_keys_with_one_name_that_are_made_at_once_one_is_made(
    weir: Weir, admin: Administrator
) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: admin.post("/admin/keys", {"name": "twin"}), range(8)))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 7


def test_every_change_is_audited_and_no_secret_is_kept(weir: Weir, admin: Administrator) -> None:
    made = new_key(admin)
    path = f"/admin/keys/{made['id']}"
    admin.patch(path, {"limits": {"tokens_per_minute": 5000}})
    rotated = admin.post(f"{path}/rotate", {}).json()["secret"]
    admin.post(f"{path}/revoke")
    events = admin.get(f"/admin/audit?target=key-{made['id']}").json()["events"]
    assert [event["action"] for event in events] == [
        "key.revoke", "key.rotate", "key.change", "key.create",
    ]  # fmt: skip
    assert events[2]["before"]["limits"] == {}
    assert events[2]["after"]["limits"] == {"tokens_per_minute": 5000}
    books = Books(weir)
    tables = ("audit", "api_keys", "key_secrets", "idempotency_keys")
    kept = str([books.rows(f"SELECT * FROM {table}") for table in tables]) + weir.raw_logs()
    audited = str(books.rows("SELECT * FROM audit"))
    for secret in (made["secret"], rotated):
        assert secret not in kept
        assert sha256(secret.encode()).hexdigest() not in audited


def test_what_api_keys_changes_is_audited(new_weir: MakeWeir, tmp_path: Path) -> None:
    last = None
    for api_keys in (
        "shop:free:shop-key-0000001,till:free:till-key-0000001",
        "shop:premium:shop-key-0000001,till:free:till-key-0000002",
        "",
        "shop:premium:shop-key-0000001,till:free:till-key-0000002",
    ):
        last = new_weir(data_dir=tmp_path, API_KEYS=api_keys).start()
        last.stop()
    assert last
    # In a development without API_KEYS there are the demo keys.
    books = Books(last)
    for target, change in (("key-1", "key.change"), ("key-2", "key.rotate")):
        events = books.rows(f"SELECT * FROM audit WHERE target = '{target}' ORDER BY id")
        assert {event["actor"] for event in events} == {"settings"}
        assert [event["action"] for event in events] == [
            "key.create", change, "key.revoke", "key.restore",
        ]  # fmt: skip
        assert "-key-000000" not in str(events)
    [change] = books.rows("SELECT * FROM audit WHERE action = 'key.change'")
    tiers = [json.loads(change[side])["tier"] for side in ("before", "after")]
    assert tiers == ["free", "premium"]


def test_the_command_line_does_it_all(weir: Weir, admin: Administrator, tmp_path: Path) -> None:
    def flask(*args: str) -> str:
        done = weir.run_flask("keys", *args)
        return done.stdout if done.returncode == 0 else done.stderr

    secret = flask(
        "create", "cli key", "--tier", "premium", "--expires", "30d", "--set", "usd_per_day=2",
        "--set", "models=a|b",
    ).strip()  # fmt: skip
    assert statuses(weir, secret) == {200}
    [key] = [key for key in json.loads(flask("list", "--json")) if key["name"] == "cli key"]
    assert key["limits"] == {"usd_per_day": 2.0, "models": ["a", "b"]}
    number = str(key["id"])
    assert "usd_per_day=2.0" in flask("list")
    assert "enterprise" in flask("set-tier", number, "enterprise")
    assert "not 'gold'" in flask("set-tier", number, "gold")
    assert "name: Must not be blank" in flask("create", "  ")
    assert '"usd_per_day": 7.5' in flask("set-budget", number, "--per-day", "7.5")
    assert "usd_per_day" not in flask("set-budget", number, "--per-day", "none")
    assert '"usd": 3.0' in flask("set-budget", number, "--increase", "3", "--until", "2d")
    assert "Set --per-day" in flask("set-budget", number)
    assert "budget_increase" not in flask("set-budget", number, "--increase", "0")
    assert '"max_text": 99' in flask("set-limits", number, "--set", "max_text=99")
    assert "must be one of" in flask("set-limits", number, "--set", "colour=red")
    assert flask("rotate", number, "--grace", "60").startswith("weir_")
    assert len(json.loads(flask("show", number, "--json"))["secrets"]) == 2
    assert "revoked" in flask("revoke", number)
    assert "cli key" in flask("list", "--state", "revoked")
    assert "cli key" not in flask("list", "--state", "works", "--origin", "operator")
    file = tmp_path / "keys.csv"
    file.write_text(
        "name,tier,limits,key,sha256\n"
        'moved,premium,"usd_per_month=20,models=a|b",sk-from-another-gateway-1,\n'
        f"digest,free,,,{sha256(b'sk-from-another-gateway-2').hexdigest()}\n"
        "fresh,free,,,\n",
        encoding="utf-8-sig",  # as spreadsheets write it
    )
    lines = flask("import", str(file)).strip().splitlines()
    masks = {name: shown for _, name, shown in (line.split("\t") for line in lines)}
    for secret in ("sk-from-another-gateway-1", "sk-from-another-gateway-2", masks["fresh"]):
        assert statuses(weir, secret) == {200}
    assert (masks["moved"], masks["digest"]) == ("sk-f***ay-1", "***")
    file.write_text("name,key\nx,sk-from-another-gateway-2\n")
    assert "Line 2: A key with this secret already exists" in flask("import", str(file))
