"""What proxies say of clients: addresses of every form, and a sub-path."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import quote, urljoin, urlsplit

import pytest
import requests

from tests.conftest import MakeWeir
from tests.support.administrator import PASSWORD, Administrator
from tests.support.servers import Weir
from tests.support.sub_path_proxy import SubPathProxy
from tests.support.visitor import Visitor, text_of, token_of
from webapp.forwarded import Forwarded, client_address, network_of

KEY = "test_key_0123456789"
SETTINGS = {
    "API_KEYS": f"test:enterprise:{KEY},inside:inside:inside_key_0123456789",
    "TIERS": "inside=99999/minute;enterprise=99999/minute",
    "TIER_INSIDE": "networks=192.0.2.0/24|2001:db8::/32|fe80::/10",
    "ADMIN_PASSWORD": PASSWORD,
}


@pytest.fixture(scope="module")
def weir(start_shared_weir: MakeWeir) -> Weir:
    return start_shared_weir(**SETTINGS, TRUSTED_PROXIES=1)


# -- addresses --

INSIDE = [
    "192.0.2.1",
    "192.0.2.1:1234",
    "::ffff:192.0.2.1",
    "[::ffff:192.0.2.1]:80",
    "2001:db8::1",
    "[2001:db8::1]",
    "[2001:db8::1]:443",
    "fe80::1%eth0",
    "[fe80::1%eth0]:443",
    "198.51.100.1, 192.0.2.1:99",
    "nonsense, 192.0.2.1",
]
NO_ADDRESS = ["unknown", "", "192.0.2", "[2001:db8::1", "192.0.2.1:x", "_hidden", "x" * 5000, "a,"]


def ask(weir: Weir, address: str, key: str = "inside_key_0123456789") -> int:
    headers = {"X-Forwarded-For": address}
    return weir.get("/v1/key", key=key, headers=headers).status_code


@pytest.mark.parametrize("address", INSIDE)
def test_a_network_allows_its_addresses_in_every_form(weir: Weir, address: str) -> None:
    assert ask(weir, address) == 200


@pytest.mark.parametrize(
    "address", ["198.51.100.1", "198.51.100.1:80", "192.0.2.1, 198.51.100.1", "[2001:db9::1]:1"]
)
def test_a_network_refuses_other_addresses(weir: Weir, address: str) -> None:
    assert ask(weir, address) == 403


@pytest.mark.parametrize("address", NO_ADDRESS)
def test_what_is_no_address_is_in_no_network_and_no_fault(weir: Weir, address: str) -> None:
    # An empty header says nothing: that is the proxy itself, which is in no network either.
    assert ask(weir, address) == 403
    assert ask(weir, address, KEY) == 200
    body = {"username": f"nobody {address[:9]}", "password": "wrong"}
    headers = {"X-Forwarded-For": address}
    assert weir.post("/token", json=body, headers=headers).status_code in {401, 429}
    demo = weir.post("/chat", key="dev_key_123", json={"message": "x"}, headers=headers)
    assert demo.status_code in {403, 429}


def test_wrong_credentials_count_for_an_address_whatever_its_port(weir: Weir) -> None:
    forms = ["203.0.113.7:{}", "203.0.113.7", "::ffff:203.0.113.7", "[::ffff:203.0.113.7]:{}"]
    for number in range(30):
        assert ask(weir, forms[number % 4].format(number + 1), "wrong") == 401
    assert ask(weir, "203.0.113.7:9", "wrong") == 429
    assert ask(weir, "::ffff:203.0.113.8", "wrong") == 401
    for number in range(30):
        assert ask(weir, f"fe80::{number + 1:x}%eth{number}", "wrong") == 401
    assert ask(weir, "[fe80::1%eth99]:1", "wrong") == 429


SCOPED = ["fe80::1%eth0", "[fe80::2%25eth0]:443", "fe80::3%", "[fe80::4%1]", "fe80::5%e%f", "%eth0"]


@pytest.mark.parametrize("address", SCOPED)
def test_an_address_with_a_scope_is_no_fault_anywhere(weir: Weir, address: str) -> None:
    headers = {"X-Forwarded-For": address}
    body = {"username": f"nobody at {address}", "password": "wrong"}
    assert weir.post("/token", json=body, headers=headers).status_code == 401
    visitor = Visitor(weir)
    visitor.session.headers.update(headers)
    assert visitor.sign_in("nobody", "wrong").status_code == 401
    for key, status in ((KEY, 200), ("inside_key_0123456789", 403 if address[0] == "%" else 200)):
        for path in ("/v1/key", "/v1/models", "/health/detailed", "/stats"):
            answer = weir.get(path, key=key, headers=headers)
            assert answer.status_code == status, (path, answer.text)
        answer = weir.post("/chat", key=key, json={"message": address}, headers=headers)
        assert answer.status_code == status, answer.text
    assert ask(weir, address, "wrong") in {401, 429}


def test_a_peer_s_scope_is_no_part_of_its_address() -> None:
    seen = []

    def app(environ: dict[str, object], start_response: object) -> list[bytes]:
        seen.append(environ.get("REMOTE_ADDR"))
        return []

    for hops in (0, 1):
        Forwarded(app, hops)({"REMOTE_ADDR": "fe80::1%eth0"}, print)  # type: ignore[arg-type]
    assert seen == ["fe80::1", "fe80::1"]
    assert network_of("fe80::1") == "fe80:0000:0000:0000"


def test_the_audit_log_holds_an_address_alone(weir: Weir) -> None:
    admin = Administrator(weir)
    written = {
        "192.0.2.9:4711": "192.0.2.9",
        "[2001:db8::9%eth0]:443": "2001:db8::9",
        "garbage" * 20: None,
    }
    for address, logged in written.items():
        made = weir.post(
            "/admin/keys", json={"name": f"from {address[:50]}", "tier": "enterprise"},
            headers=admin.headers | {"X-Forwarded-For": address},
        )  # fmt: skip
        assert made.status_code == 201, made.text
        answer = admin.get("/admin/audit")
        assert answer.status_code == 200, answer.text
        events = answer.json()["events"]
        assert events[0]["address"] == logged


@pytest.mark.parametrize(
    ("written", "address"),
    [("::1", "::1"), ("[::1]", "::1"), ("2001:DB8:0::1", "2001:db8::1"), ("1.2.3.4:5:6", None),
     ("[1.2.3.4]", "1.2.3.4"), ("[::1]x", None), ("[]", None), (":80", None)],
)  # fmt: skip
def test_an_address_has_one_form(written: str, address: str | None) -> None:
    assert client_address(written) == address


def test_two_proxies_of_which_one_says_the_scheme(start_weir: MakeWeir) -> None:
    weir = start_weir(**SETTINGS, TRUSTED_PROXIES=2)
    headers = {
        "X-Forwarded-For": "192.0.2.1, 198.51.100.1",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "weir.example.org",
        "Accept": "text/html",
    }
    assert weir.get("/v1/key", key="inside_key_0123456789", headers=headers).status_code == 200
    assert "https://weir.example.org/chat" in weir.get("/", headers=headers).text
    odd = {"X-Forwarded-Proto": "javascript", "X-Forwarded-Host": "a b<c>", "Accept": "text/html"}
    assert f"{weir.url}/chat" in weir.get("/", headers=odd).text


# -- a sub-path --


@pytest.fixture
def proxy(weir: Weir) -> Iterator[SubPathProxy]:
    with SubPathProxy(weir) as running:
        yield running


class Browser:
    """A browser behind the proxy: keeps cookies by their path, follows redirects."""

    def __init__(self, proxy: SubPathProxy) -> None:
        self.proxy = proxy
        self.session = requests.Session()
        self.session.headers["Accept"] = "text/html"

    def get(self, path: str, **kwargs: object) -> requests.Response:
        return self.session.get(self.proxy.url + path, timeout=30, **kwargs)  # type: ignore[arg-type]

    def post(self, path: str, on: str = "", **fields: str) -> requests.Response:
        token = token_of(self.get(on or path).text)
        data = {"csrf_token": token, **fields}
        return self.session.post(self.proxy.url + path, data=data, timeout=30)


def links_of(page: str) -> set[str]:
    return set(re.findall(r'(?:href|src|action|data-url|data-openapi-url)="([^"#][^"]*)"', page))


def test_every_page_works_below_a_sub_path(proxy: SubPathProxy) -> None:
    browser = Browser(proxy)
    sent_away = browser.get("/weir/dashboard/keys?state=active", allow_redirects=False)
    wanted = quote("/weir/dashboard/keys?state=active")
    assert sent_away.headers["Location"] == f"/weir/dashboard/sign-in?next={wanted}"
    form = browser.get("/weir/dashboard/keys?state=active")
    signed_in = browser.session.post(
        form.url, timeout=30,
        data={"csrf_token": token_of(form.text), "next": "/weir/dashboard/keys?state=active",
              "username": "admin", "password": PASSWORD},
    )  # fmt: skip
    assert signed_in.url == f"{proxy.url}/weir/dashboard/keys?state=active"
    assert "admin" in text_of(signed_in.text)
    assert {cookie.path for cookie in browser.session.cookies} == {"/weir/dashboard"}

    made = browser.post("/weir/dashboard/keys/new", name="by proxy", tier="enterprise")
    assert f"curl -s {proxy.url}/weir/chat" in made.text
    themed = browser.post(
        "/weir/dashboard/theme", on="/weir/dashboard/", theme="dark", next="/weir/dashboard/me"
    )
    assert themed.url == f"{proxy.url}/weir/dashboard/me"
    assert 'data-theme="dark"' in themed.text

    seen: set[str] = set()
    left = ["/weir/", "/weir/dashboard/"]
    while left:
        path = left.pop()
        if path in seen or path.endswith("/sign-out"):
            continue
        seen.add(path)
        answer = browser.get(path)
        assert answer.status_code in {200, 404, 405}, path  # some are the targets of forms
        if "text/html" not in answer.headers["Content-Type"]:
            continue
        for link in links_of(answer.text):
            target = urlsplit(urljoin(proxy.url + path, link.replace("&amp;", "&")))
            if target.netloc == urlsplit(proxy.url).netloc:
                assert target.path.startswith("/weir/"), (path, link)
                left.append(target.path)
    assert proxy.strays == []
    assert {"/weir/docs", "/weir/redoc", "/weir/openapi.json", "/weir/static/weir.css",
            "/weir/dashboard/audit", "/weir/dashboard/playground"} <= seen  # fmt: skip
    out = browser.post("/weir/dashboard/sign-out", on="/weir/dashboard/")
    assert out.url.startswith(f"{proxy.url}/weir/dashboard/sign-in")


def test_the_documents_name_the_sub_path(proxy: SubPathProxy) -> None:
    assert requests.get(f"{proxy.url}/weir/openapi.json").json()["servers"] == [{"url": "/weir"}]
    links = requests.get(f"{proxy.url}/weir/").json()["links"]
    assert all(path.startswith("/weir/") for path in links.values())
    landing = requests.get(f"{proxy.url}/weir/", headers={"Accept": "text/html"}).text
    assert f"{proxy.url}/weir/chat" in landing
    body = {"model": "offline", "messages": [{"role": "user", "content": "hello"}]}
    answer = requests.post(
        f"{proxy.url}/weir/v1/chat/completions", json=body, headers={"api-key": KEY}
    )
    assert answer.status_code == 200
    unknown = requests.get(f"{proxy.url}/weir/v1/nothing")
    assert unknown.json()["error"]["code"] == "not_found"


def test_next_leads_to_no_other_place(proxy: SubPathProxy) -> None:
    browser = Browser(proxy)
    browser.post("/weir/dashboard/sign-in", username="admin", password=PASSWORD)
    for wanted, location in {
        "/weir/dashboard/keys": "/weir/dashboard/keys",
        "//evil.example/": "/weir/dashboard/",
        "https://evil.example/weir/dashboard/": "/weir/dashboard/",
        "/dashboard/keys": "/weir/dashboard/",
        "/weir/other": "/weir/dashboard/",
        "/weirdashboard/keys": "/weir/dashboard/",
        "/weir/dashboard/../../other": "/weir/dashboard/",
        "/weir/dashboard/%2E%2e/other": "/weir/dashboard/",
        "/weir/dashboard\\..\\": "/weir/dashboard/",
        "": "/weir/dashboard/",
    }.items():
        answer = browser.get(f"/weir/dashboard/sign-in?next={quote(wanted)}", allow_redirects=False)
        assert (answer.status_code, answer.headers["Location"]) == (302, location)


@pytest.mark.parametrize(
    "prefix", ["//evil.example", "/a/../b", "/a b", "https://evil.example", "weir", '/"><script>']
)
def test_a_prefix_that_is_no_path_is_ignored(weir: Weir, prefix: str) -> None:
    answer = weir.get("/dashboard/", headers={"X-Forwarded-Prefix": prefix}, allow_redirects=False)
    assert answer.headers["Location"] == "/dashboard/sign-in?next=/dashboard/"


def test_without_a_trusted_proxy_nothing_of_it_counts(start_weir: MakeWeir) -> None:
    weir = start_weir(**SETTINGS, TRUSTED_PROXIES=0)
    said = {
        "X-Forwarded-Prefix": "/weir", "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.1", "Script-Name": "/weir",
    }  # fmt: skip
    answer = weir.get("/dashboard/", headers=said, allow_redirects=False)
    assert answer.headers["Location"] == "/dashboard/sign-in?next=/dashboard/"
    assert weir.get("/", headers=said).json()["links"]["docs"] == "/docs"
    assert "servers" not in weir.get("/openapi.json", headers=said).json()
    landing = weir.get("/", headers=said | {"Accept": "text/html"}).text
    assert f"{weir.url}/chat" in landing
    assert weir.get("/v1/key", key="inside_key_0123456789", headers=said).status_code == 403
