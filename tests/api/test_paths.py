"""Paths as clients write them: slashes doubled or trailing, /v1 twice (c41)."""

from __future__ import annotations

import pytest

from tests.conftest import MakeWeir
from tests.support.servers import Provider, Weir
from webapp.api.paths import canonical

KEY = "test_key_0123456789"
BY_HTTPS = {
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "weir.example.org",
    "X-Forwarded-For": "192.0.2.1",
}


@pytest.fixture(scope="module", params=["0", "1"], ids=["no proxy", "one proxy"])
def weir(request: pytest.FixtureRequest, start_shared_weir: MakeWeir, provider: Provider) -> Weir:
    return start_shared_weir(
        API_KEYS=f"test:enterprise:{KEY}",
        TIERS="enterprise=99999/minute",
        OPENAI_BASE_URL=provider.base_url,
        TRUSTED_PROXIES=request.param,
    )


@pytest.mark.parametrize("headers", [{}, BY_HTTPS], ids=["http", "https"])
def test_a_path_with_too_many_slashes_is_served(weir: Weir, headers: dict[str, str]) -> None:
    body = {"model": "stand-in-1", "messages": [{"role": "user", "content": "hello"}]}
    for path in (
        "/v1//chat/completions",
        "//v1/chat/completions",
        "/v1/chat/completions/",
        "//v1///chat//completions//",
        "/v1/v1/chat/completions",
        "/v1//v1/v1/chat/completions",
    ):
        answer = weir.post(path, key=KEY, json=body, headers=headers, allow_redirects=False)
        assert (path, answer.status_code) == (path, 200)
        assert answer.json()["choices"]
    for path in ("//chat/", "/v1/chat/", "/v1/v1/chat"):
        message = {"message": "hello"}
        answer = weir.post(path, key=KEY, json=message, headers=headers, allow_redirects=False)
        assert (path, answer.status_code) == (path, 200)
    for path in (
        "/v1/models/", "/v1/models//", "//v1//models", "/v1/v1/models", "/v1//models/stand-in-1",
        "/v1/models//stand-in-1", "/v1/models/stand-in-1/", "/v1/key/", "/health/", "//liveness",
        "//", "/v1/", "/docs/", "//openapi.json", "//static//weir.css",
    ):  # fmt: skip
        answer = weir.get(path, key=KEY, headers=headers, allow_redirects=False)
        assert (path, answer.status_code) == (path, 200)


def test_an_unknown_path_has_the_envelope_of_its_kind(weir: Weir) -> None:
    for path in ("/v1/nothing/", "//v1//nothing", "/v1/v1/nothing", "/v1/models/a//b/"):
        for method in ("GET", "POST"):
            answer = weir.request(method, path, key=KEY, json={}, allow_redirects=False)
            assert answer.status_code == (405 if "models" in path and method == "POST" else 404)
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    for path in ("/nothing/", "//nothing", "/v2/v1/chat"):
        answer = weir.post(path, key=KEY, json={}, allow_redirects=False)
        assert (answer.status_code, answer.json()["error"]) == (404, "NotFound")


def test_the_dashboard_leads_to_no_other_origin(weir: Weir) -> None:
    for path in (
        "/dashboard",
        "/dashboard/",
        "//dashboard",
        "/dashboard//keys",
        "/dashboard/keys/",
    ):
        answer = weir.get(path, headers=BY_HTTPS, allow_redirects=False)
        assert (path, answer.status_code) == (path, 302)
        assert answer.headers["Location"].startswith("/dashboard/sign-in?next=/dashboard/")


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("/", "/"),
        ("", "/"),
        ("///", "/"),
        ("/v1", "/v1"),
        ("/v1/v1", "/v1"),
        ("/v1/v1x", "/v1/v1x"),
        ("/x/v1/v1/y", "/x/v1/v1/y"),
        ("//v1//models//models/x.gguf", "/v1/models//models/x.gguf"),
        ("/v1/models/x/", "/v1/models/x/"),
        ("/v1/models///", "/v1/models"),
        ("/v1/v1/models/x", "/v1/models/x"),
    ],
)
def test_each_path_has_one_form(written: str, path: str) -> None:
    assert canonical(written) == path
