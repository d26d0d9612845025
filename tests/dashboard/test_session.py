"""Signing in and out: who gets in, how long, and what a stranger's form cannot do."""

from __future__ import annotations

import re
import time

import pytest
from flask import Flask
from sqlalchemy import text

from tests.conftest import MakeWeir
from tests.support.administrator import PASSWORD, SETTINGS, Administrator
from tests.support.books import Books
from tests.support.servers import Postgres, Weir, wait_until
from tests.support.visitor import Visitor, text_of, token_of
from webapp.dashboard.session import DashboardSessions, secret_of

SECRET_KEY = "signs the sessions of these tests"
PAGES = [
    "/dashboard/", "/dashboard/keys", "/dashboard/keys/new", "/dashboard/keys/1",
    "/dashboard/keys/1/edit", "/dashboard/keys/1/revoke", "/dashboard/requests",
    "/dashboard/requests/x", "/dashboard/providers", "/dashboard/playground", "/dashboard/audit",
    "/dashboard/accounts", "/dashboard/accounts/1", "/dashboard/me", "/dashboard/playground/1/bars",
]  # fmt: skip


@pytest.fixture(scope="module")
def weir(start_shared_weir: MakeWeir) -> Weir:
    return start_shared_weir(**SETTINGS, SECRET_KEY=SECRET_KEY)


@pytest.fixture(scope="module")
def admin(weir: Weir) -> Visitor:
    return signed_in(weir)


@pytest.fixture(scope="module")
def busy_weir(start_shared_weir: MakeWeir) -> Weir:
    """For the tests that sign in often: thirty times a minute are allowed from an address, and ten
    times with a username."""
    return start_shared_weir(**SETTINGS)


@pytest.fixture(scope="module")
def busy_admin(busy_weir: Weir) -> Visitor:
    return signed_in(busy_weir)


def signed_in(weir: Weir) -> Visitor:
    visitor = Visitor(weir)
    visitor.sign_in()
    return visitor


def create(admin: Visitor, username: str, role: str) -> tuple[str, str]:
    """The username and the password of a new account."""
    account = {"username": username, "password": f"{username}'s password"}
    admin.post("/dashboard/accounts", role=role, tier="free", **account)
    return account["username"], account["password"]


@pytest.fixture
def visitor(weir: Weir) -> Visitor:
    return Visitor(weir)


@pytest.mark.parametrize("path", PAGES)
def test_who_is_signed_out_is_led_to_the_form_and_back(visitor: Visitor, path: str) -> None:
    answer = visitor.get(path, allow_redirects=False)
    assert answer.status_code == 302
    assert answer.headers["Location"] == f"/dashboard/sign-in?next={path}"


def test_signing_in_leads_on_to_the_page_that_was_asked_for(visitor: Visitor) -> None:
    form = visitor.get("/dashboard/requests?status=404")
    assert form.url.endswith("/sign-in?next=/dashboard/requests%3Fstatus%3D404")
    data = {"csrf_token": token_of(form.text), "username": "ADMIN", "password": PASSWORD}
    page = visitor.session.post(form.url, data=data)
    assert page.url.endswith("/dashboard/requests?status=404")
    assert "Sign out" in page.text


def test_a_page_that_does_not_exist_has_the_menu_of_who_is_signed_in(visitor: Visitor) -> None:
    page = visitor.get("/dashboard/nothing")
    assert page.status_code == 404
    assert "This page does not exist" in page.text
    assert "Sign out" not in page.text
    visitor.sign_in()
    page = visitor.get("/dashboard/nothing")
    assert page.status_code == 404
    assert "Sign out" in page.text


ELSEWHERE = [
    "//[", "//\u2100",
    "https://evil.example/", "//evil.example/", "/\\evil.example", "javascript:alert(1)",
    "/docs", "/dashboard/../docs\n", "/dashboard/sign-in", "/dashboard\\@evil.example/",
]  # fmt: skip


def test_signing_in_leads_to_no_other_place(busy_weir: Weir, busy_admin: Visitor) -> None:
    username, password = create(busy_admin, "ada", "member")
    for target in ELSEWHERE:
        visitor = Visitor(busy_weir)
        form = visitor.get("/dashboard/sign-in")
        data = {"csrf_token": token_of(form.text), "username": username, "password": password}
        data["next"] = target
        answer = visitor.session.post(form.url, data=data, allow_redirects=False)
        assert answer.headers["Location"] == "/dashboard/", target


def test_a_session_s_cookie_is_the_dashboard_s_alone(visitor: Visitor) -> None:
    form = visitor.get("/dashboard/sign-in")
    cookie = form.headers["Set-Cookie"]
    assert cookie.startswith("weir_session=")
    assert {"HttpOnly", "Path=/dashboard", "SameSite=Lax"} <= set(cookie.split("; "))
    assert "Set-Cookie" not in visitor.get("/health").headers


def test_wrong_passwords_are_refused_and_then_locked_out(
    busy_weir: Weir, busy_admin: Visitor
) -> None:
    username, password = create(busy_admin, "bea", "admin")
    visitor = Visitor(busy_weir)
    for _ in range(10):
        page = visitor.sign_in(username, "wrong password")
        assert page.status_code == 401
        assert "Wrong username or password." in page.text
    locked = visitor.sign_in(username, password)
    assert locked.status_code == 429
    assert "Too many sign-in attempts. Try again in" in locked.text
    assert visitor.get("/dashboard/").url.endswith("/sign-in?next=/dashboard/")


def test_forms_without_the_session_s_token_are_refused(weir: Weir) -> None:
    visitor, stranger = Visitor(weir), Visitor(weir)
    visitor.sign_in()
    theirs = token_of(stranger.get("/dashboard/sign-in").text)
    for data in ({}, {"csrf_token": "x"}, {"csrf_token": theirs}):
        fields = data | {"name": "forged", "tier": "free"}
        answer = visitor.session.post(f"{weir.url}/dashboard/keys/new", data=fields)
        assert answer.status_code == 403
        assert "This form has expired" in answer.text
        answer = visitor.session.post(f"{weir.url}/dashboard/playground/1", json={"message": "x"})
        assert answer.status_code == 403
    assert "forged" not in visitor.get("/dashboard/keys").text


def test_a_session_from_before_signing_in_is_worth_nothing_after_it(weir: Weir) -> None:
    visitor = Visitor(weir)
    visitor.get("/dashboard/sign-in")
    before = visitor.session.cookies["weir_session"]
    visitor.sign_in()
    assert visitor.session.cookies["weir_session"] != before
    thief = Visitor(weir)
    thief.session.cookies.set("weir_session", before, path="/dashboard")
    assert "/sign-in" in thief.get("/dashboard/").url


def test_sessions_are_signed_with_a_key_of_their_own(weir: Weir) -> None:
    token = Administrator(weir).token
    thief = Visitor(weir)
    thief.session.cookies.set("weir_session", token, path="/dashboard")
    assert "/sign-in" in thief.get("/dashboard/").url
    visitor = Visitor(weir)
    visitor.sign_in()
    stolen = visitor.session.cookies["weir_session"]
    bearer = {"Authorization": f"Bearer {stolen}"}
    assert weir.get("/admin/keys", headers=bearer).status_code == 401


def test_signing_out_everywhere_ends_every_session_and_token(weir: Weir, admin: Visitor) -> None:
    account = create(admin, "cay", "admin")
    here, there = Visitor(weir), Visitor(weir)
    here.sign_in(*account)
    there.sign_in(*account)
    token = Administrator(weir, *account)
    here.post("/dashboard/sign-out", on="/dashboard/me")
    assert "/sign-in" in here.get("/dashboard/").url
    assert there.get("/dashboard/").status_code == 200
    here.sign_in(*account)
    here.post("/dashboard/sign-out", on="/dashboard/me", everywhere="1")
    assert "/sign-in" in there.get("/dashboard/").url
    assert admin.get("/dashboard/").url.endswith("/dashboard/"), "another account stays"
    answers = {token.get("/admin/keys").status_code}
    assert answers <= {200, 401}  # within the four seconds for which an identity is remembered


def copy_of(visitor: Visitor) -> Visitor:
    """A thief with a copy of the visitor's cookies."""
    thief = Visitor(visitor.weir)
    thief.session.cookies.update(visitor.session.cookies)
    return thief


def is_signed_in(visitor: Visitor) -> bool:
    return "/sign-in" not in visitor.get("/dashboard/me").url


def test_signing_out_ends_every_copy_of_this_session_and_no_other(
    weir: Weir, admin: Visitor
) -> None:
    account = create(admin, "eli", "member")
    here, there = Visitor(weir), Visitor(weir)
    here.sign_in(*account)
    there.sign_in(*account)
    thief = copy_of(here)
    assert all(map(is_signed_in, (here, there, thief)))
    here.post("/dashboard/sign-out", on="/dashboard/me")
    assert [is_signed_in(one) for one in (here, thief, there)] == [False, False, True]
    thief.get("/dashboard/sign-in")  # renews what is left of its cookie
    assert not is_signed_in(thief)
    here.sign_in(*account)
    assert is_signed_in(here)


def test_a_session_ends_however_often_its_cookie_is_renewed(weir: Weir, admin: Visitor) -> None:
    app = Flask(__name__)
    app.secret_key = secret_of(SECRET_KEY)
    signer = DashboardSessions().get_signing_serializer(app)
    assert signer
    kept = signer.loads(admin.session.cookies["weir_session"])
    for seconds, signed_in in ((60, True), (-1, False)):
        cookie = signer.dumps(kept | {"ends_at": int(time.time()) + seconds})
        renewed = Visitor(weir)
        renewed.session.cookies.set("weir_session", cookie, path="/dashboard")
        assert is_signed_in(renewed) is signed_in


def test_another_password_ends_all_other_sessions(weir: Weir, admin: Visitor) -> None:
    username, password = create(admin, "dee", "admin")
    here, there = Visitor(weir), Visitor(weir)
    here.sign_in(username, password)
    there.sign_in(username, password)
    change, page = "/dashboard/me/password", "/dashboard/me"
    new = {"new": "another password", "again": "another password"}
    wrong = here.post(change, on=page, current="not it at all", **new)
    assert (wrong.status_code, "current password is wrong" in wrong.text) == (403, True)
    differ = here.post(change, on=page, current=password, new="another one", again="another two")
    assert (differ.status_code, "do not match" in differ.text) == (422, True)
    short = here.post(change, on=page, current=password, new="short", again="short")
    assert (short.status_code, "Must have 8 to 256" in short.text) == (422, True)
    changed = here.post(change, on=page, current=password, **new)
    assert "Password changed" in changed.text
    assert "/sign-in" in there.get("/dashboard/").url
    assert Visitor(weir).sign_in(username, "another password").status_code == 200


def test_a_disabled_account_is_out_at_once(busy_weir: Weir, busy_admin: Visitor) -> None:
    admin, member = busy_admin, Visitor(busy_weir)
    account = create(admin, "mia", "member")
    assert member.sign_in(*account).status_code == 200
    accounts = admin.get("/dashboard/accounts").text
    links = dict(re.findall(r'href="(/dashboard/accounts/\d+)">(\w+)<', accounts))
    [link] = [link for link, username in links.items() if username == "mia"]
    admin.post(link, role="member", tier="free", disabled="on")
    assert "/sign-in" in member.get("/dashboard/").url
    assert member.sign_in(*account).status_code == 401
    # Those of other tests are no administrators any more.
    for link, username in links.items():
        if username not in {"admin", "mia"}:
            admin.post(link, role="member", tier="free")
    last = admin.post("/dashboard/accounts/1", role="member", tier="enterprise")
    assert (last.status_code, "last administrator" in text_of(last.text)) == (409, True)


def test_pages_have_a_strict_policy_and_are_not_kept(admin: Visitor) -> None:
    for path in ("/dashboard/", "/dashboard/keys", "/dashboard/nothing/here"):
        headers = admin.get(path).headers
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert headers["Cache-Control"] == "no-store"


def test_forms_are_small(weir: Weir) -> None:
    for path in ("/dashboard/sign-in", "/dashboard/sign-out", "/dashboard/theme"):
        answer = Visitor(weir).session.post(weir.url + path, files={"f": b"x" * 2_000_000})
        assert answer.status_code == 413, path


def test_a_page_that_was_asked_for_before_brings_no_session_back(weir: Weir) -> None:
    visitor = Visitor(weir)
    visitor.sign_in()
    assert "Set-Cookie" not in visitor.get("/dashboard/").headers


def test_signing_out_needs_no_database(
    start_weir: MakeWeir, fresh_database: str, postgres: Postgres
) -> None:
    weir = start_weir(**SETTINGS, DATABASE_URL=fresh_database)
    visitor = Visitor(weir)
    token = token_of(visitor.sign_in().text)
    thief = copy_of(visitor)
    postgres.stop()
    form = {"csrf_token": token}
    visitor.session.post(f"{weir.url}/dashboard/sign-out", data=form, allow_redirects=False)
    postgres.start()
    assert not is_signed_in(visitor)
    wait_until(lambda: not is_signed_in(thief), 5, "the end of the copied session")


def test_colours_are_chosen_without_javascript(weir: Weir) -> None:
    visitor = Visitor(weir)
    assert 'data-theme="system"' in visitor.get("/dashboard/sign-in").text
    for theme in ("light", "dark", "system"):
        page = visitor.post("/dashboard/theme", on="/dashboard/sign-in", theme=theme)
        assert page.url.endswith("/sign-in?next=/dashboard/")
        assert f'data-theme="{theme}"' in page.text
    page = visitor.post("/dashboard/theme", on="/dashboard/sign-in", theme='x"><script>')
    assert 'data-theme="system"' in page.text


@pytest.mark.parametrize(
    ("form", "leads_to"),
    [
        ("accounts", "accounts"),
        ("accounts/1/password", "accounts/1"),
        ("me/password", "me"),
        ("batches/x/cancel", "batches/x/cancel"),
        ("theme", ""),
    ],
)
def test_the_theme_can_be_chosen_on_the_answer_to_a_form_too(
    admin: Visitor, form: str, leads_to: str
) -> None:
    refused = admin.post(f"/dashboard/{form}", on="/dashboard/me", csrf_token="")
    assert refused.status_code == 403
    fields = re.findall(r'name="(csrf_token|next)" value="([^"]+)"', refused.text)[:2]
    sent = {**dict(fields), "theme": "light"}
    themed = admin.session.post(f"{admin.weir.url}/dashboard/theme", data=sent, timeout=30)
    assert themed.url == f"{admin.weir.url}/dashboard/{leads_to}"
    assert 'data-theme="light"' in themed.text


def test_the_theme_of_the_sign_in_page_keeps_where_it_leads(weir: Weir) -> None:
    visitor = Visitor(weir)
    wrong = visitor.post(
        "/dashboard/sign-in", next="/dashboard/keys", username="nobody", password="wrong"
    )
    assert wrong.status_code == 401
    here = re.search(r'id="theme">.*?name="next" value="([^"]+)"', wrong.text, re.DOTALL)
    assert here
    themed = visitor.post("/dashboard/theme", on="/dashboard/sign-in", next=here[1], theme="dark")
    assert 'data-theme="dark"' in themed.text
    assert 'name="next" value="/dashboard/keys"' in themed.text


def test_local_time_is_chosen_like_the_theme(admin: Visitor) -> None:
    page = admin.post("/dashboard/time", on="/dashboard/me", time="local", next="/dashboard/me")
    assert page.url.endswith("/dashboard/me")
    assert 'data-time="local"' in page.text
    # Only a script can know the browser's time zone.
    assert "Times in UTC (local time needs JavaScript) Show UTC" in text_of(page.text)
    page = admin.post("/dashboard/time", on="/dashboard/me", time="utc", next="/dashboard/me")
    assert 'data-time="utc"' in page.text
    assert "Times in UTC Show local time" in text_of(page.text)


def test_the_last_sign_in_is_stored_once_a_minute_and_delays_none(
    busy_weir: Weir, busy_admin: Visitor
) -> None:
    name, password = create(busy_admin, "pia", "member")
    books = Books(busy_weir)

    def last() -> str | None:
        query = text("SELECT last_sign_in_at FROM accounts WHERE username = 'pia'")
        with books.engine.connect() as connection:
            return connection.execute(query).scalar()

    with books.engine.begin() as connection:
        connection.execute(text("UPDATE accounts SET role = role"))  # locks all writers out
        begun = time.monotonic()
        assert Visitor(busy_weir).sign_in(name, password).url.endswith("/dashboard/")
        assert time.monotonic() - begun < 2
        assert last() is None
    wait_until(lambda: last() is not None)
    first = last()
    answer = busy_weir.post("/token", json={"username": name, "password": password})
    assert answer.status_code == 200
    busy_admin.get("/dashboard/me")
    assert last() == first
    books.write("UPDATE accounts SET last_sign_in_at = '2020-01-01' WHERE username = 'pia'")
    busy_weir.post("/token", json={"username": name, "password": password})
    wait_until(lambda: str(last()) > str(first))
    books.engine.dispose()
