"""The smoke test of a deployment: what it says of good ones and of faulty ones."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import smoke
from tests.conftest import MakeWeir
from tests.support.certificates import make_certificate
from tests.support.edge_proxy import EdgeProxy
from tests.support.servers import REPOSITORY, Provider, Weir, free_port
from webapp.api import hooks
from webapp.setting_parsers import DEMO_SECRETS

KEY = "weir_smoke_test_0123456789"
WITHOUT_A_KEY = [
    "readiness", "liveness", "health", "docs", "TLS", "security headers", "without a key",
    "demo key",
]  # fmt: skip
WITH_A_KEY = [
    "key", "chat", "cache", "OpenAI's endpoint", "stream", "limit headers", "stats",
]  # fmt: skip


class Run:
    """A run of the smoke test: its exit code, and what it said of each check."""

    def __init__(self, *arguments: str, key: str = KEY, **environment: object) -> None:
        done = subprocess.run(
            [sys.executable, str(REPOSITORY / "scripts" / "smoke.py"), *arguments],
            env={"PATH": os.environ["PATH"], smoke.KEY_VARIABLE: key}
            | {name: str(value) for name, value in environment.items()},
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.code = done.returncode
        self.output = done.stdout
        self.errors = done.stderr
        assert "Traceback" not in self.errors
        assert not key or key not in done.stdout + done.stderr
        lines = [
            re.match(r"(ok|FAILED|skipped|waiting) +(.{17}) (.*)", line.ljust(30))
            for line in self.output.splitlines()
        ]
        self.lines = [tuple(text.strip() for text in line.groups()) for line in lines if line]
        self.said = {name: f"{verdict} {text}".strip() for verdict, name, text in self.lines}

    def named(self, verdict: str) -> list[str]:
        return [name for found, name, _ in self.lines if found == verdict]


@pytest.fixture(scope="module")
def deployed(start_shared_weir: MakeWeir, provider: Provider) -> Weir:
    """As it is deployed: in production, behind one proxy."""
    return start_shared_weir(
        APP_ENV="production",
        HOST="127.0.0.1",
        SECRET_KEY="0123456789abcdef0123",
        ADMIN_PASSWORD="a-long-password",
        API_KEYS=f"smoke:enterprise:{KEY},slow:free:slow_{KEY}",
        TIERS="free=2/second;enterprise=1000/minute",
        OPENAI_BASE_URL=provider.base_url,
        DEFAULT_MODEL="stand-in-1",
        TRUSTED_PROXIES=1,
    )


@pytest.fixture(scope="module")
def offline(start_shared_weir: MakeWeir) -> Weir:
    """In development, without a provider."""
    return start_shared_weir()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("tls"), days=30)


def test_a_good_deployment_passes_every_check(
    deployed: Weir, provider: Provider, certificate: Path
) -> None:
    provider.fault(gap=0.05)
    with EdgeProxy(deployed, certificate=certificate) as proxy:
        run = Run(proxy.url, SSL_CERT_FILE=certificate)
    assert (run.code, run.errors) == (0, "")
    assert [name for _, name, _ in run.lines] == WITHOUT_A_KEY + WITH_A_KEY
    assert run.named("skipped") == ["demo key"], run.output
    assert re.search(r"valid for (29.9|30.0) more days", run.said["TLS"])
    assert run.said["security headers"] == "ok 7 as they should be"
    assert run.said["stats"] == "ok all 4 requests were counted"
    # A second answer of the cache, and tokens as few as a check needs.
    calls = provider.completions()
    assert len(calls) == 3
    assert all(call["body"]["max_tokens"] <= 100 for call in calls)


def test_without_a_provider_it_passes_and_says_what_it_could_not_tell(offline: Weir) -> None:
    run = Run(offline.url, key="prod_key_456")
    assert run.code == 0, run.output
    assert run.said["health"] == "ok version 0.1.0, degraded, llm is degraded"
    assert run.said["chat"].endswith("no provider is configured")
    assert "could not be told" in run.said["stream"]
    assert run.named("skipped") == ["demo key", "stream"]


def test_without_a_key_it_asks_nothing_that_needs_one_and_says_so(
    deployed: Weir, provider: Provider
) -> None:
    run = Run(deployed.url, key="")
    assert run.code == 0, run.output
    assert [name for _, name, _ in run.lines] == [*WITHOUT_A_KEY, "with a key"]
    assert run.said["with a key"].startswith("skipped WEIR_API_KEY is not set")
    assert provider.completions() == []


def test_it_is_one_file_that_any_python_runs_below_a_sub_path(
    deployed: Weir, tmp_path: Path
) -> None:
    shutil.copy(REPOSITORY / "scripts" / "smoke.py", tmp_path)
    with EdgeProxy(deployed, prefix="/tools/weir") as proxy:
        run = subprocess.run(
            [sys.executable, "-I", "-S", "smoke.py", f"{proxy.url}/"],
            cwd=tmp_path, env={smoke.KEY_VARIABLE: KEY}, capture_output=True, text=True,
        )  # fmt: skip
    assert (run.returncode, run.stderr) == (0, ""), run.stdout
    assert "FAILED" not in run.stdout


def test_a_sub_path_that_weir_does_not_believe_is_named(offline: Weir) -> None:
    with EdgeProxy(offline, prefix="/weir") as proxy:
        run = Run(proxy.url, key="")
    assert run.named("FAILED") == ["docs"], run.output
    assert "X-Forwarded-Prefix" in run.said["docs"]


def test_a_stream_that_a_proxy_holds_back_fails(deployed: Weir, provider: Provider) -> None:
    provider.fault(gap=0.05)
    with EdgeProxy(deployed, buffers=True) as proxy:
        run = Run(proxy.url)
    assert run.named("FAILED") == ["stream"], run.output
    assert "a proxy buffers it" in run.said["stream"]
    assert run.code == 1


def test_a_stream_that_is_cut_fails(deployed: Weir) -> None:
    with EdgeProxy(deployed, cuts_after=150) as proxy:
        run = Run(proxy.url)
    assert run.named("FAILED") == ["stream"], run.output
    assert "was cut" in run.said["stream"]


@pytest.mark.parametrize(
    ("header", "check"),
    [
        ("X-Request-ID", "liveness"),
        ("Content-Security-Policy", "security headers"),
        ("WWW-Authenticate", "without a key"),
        ("X-RateLimit-Reset", "limit headers"),
        ("X-Cache", "cache"),
        ("X-Process-Time", "stream"),
    ],
)
def test_a_header_that_a_proxy_takes_away_is_missed(
    deployed: Weir, header: str, check: str
) -> None:
    with EdgeProxy(deployed, takes={header}) as proxy:
        run = Run(proxy.url)
    assert run.named("FAILED") == [check], run.output
    assert header in run.said[check]


def test_every_security_header_of_weir_is_checked() -> None:
    sent = dict([*hooks.SECURITY_HEADERS, *hooks.API_POLICY])
    assert sent.keys() == smoke.SECURITY_HEADERS.keys()
    assert all(smoke.SECURITY_HEADERS[name] in value for name, value in sent.items())
    assert smoke.DEMO_KEY in DEMO_SECRETS


def test_every_check_is_in_the_docs() -> None:
    page = (REPOSITORY / "docs" / "operating.md").read_text()
    named = re.findall(r"`([^`]+)`", " ".join(re.findall(r"(?m)^\| (`[^|]+) \|", page)))
    assert {*WITHOUT_A_KEY, *WITH_A_KEY} <= set(named)


def test_a_deployment_that_comes_up_is_waited_for_and_says_what_is_seen(deployed: Weir) -> None:
    with EdgeProxy(deployed, refusals=1) as proxy:
        run = Run(proxy.url)
    assert run.code == 0, run.output
    assert run.lines[0] == ("waiting", "0 s", "502: no answer of Weir's (text/html)")
    assert run.said["readiness"] == "ok after 3 s, 3 looks in a row"


def test_what_never_comes_up_fails_and_nothing_else_is_checked() -> None:
    for url, seen in (
        (f"http://127.0.0.1:{free_port()}", "connection refused (after 0 s)"),
        ("https://weir.invalid", "its name is not found (DNS) (after 2 s)"),
    ):
        run = Run(url, "--wait", "0")
        assert run.said == {"readiness": f"FAILED {seen}"}, run.output
        assert "Nothing else was checked." in run.output
        assert run.code == 1


def test_a_weir_that_is_not_ready_says_why(new_weir: MakeWeir) -> None:
    nowhere = f"postgresql://weir@127.0.0.1:{free_port()}/weir"
    weir = new_weir(DATABASE_URL=nowhere, until="/liveness").start()
    run = Run(weir.url, "--wait", "0")
    assert run.named("FAILED") == ["readiness", "health"], run.output
    assert "not ready: the database schema is not migrated yet" in run.said["readiness"]
    assert "database is unhealthy" in run.said["health"]


def test_a_certificate_that_nobody_trusts_fails(deployed: Weir, certificate: Path) -> None:
    with EdgeProxy(deployed, certificate=certificate) as proxy:
        run = Run(proxy.url, "--wait", "0")
    assert "the certificate is not valid: self-signed certificate" in run.said["readiness"]
    assert run.code == 1


def test_a_certificate_that_is_not_renewed_fails(deployed: Weir, tmp_path: Path) -> None:
    last_day = make_certificate(tmp_path, days=30, days_ago=28)
    with EdgeProxy(deployed, certificate=last_day) as proxy:
        run = Run(proxy.url, key="", SSL_CERT_FILE=last_day)
    assert run.named("FAILED") == ["TLS"], run.output


def test_a_weir_that_does_not_know_of_its_tls_is_named(offline: Weir, certificate: Path) -> None:
    with EdgeProxy(offline, certificate=certificate) as proxy:
        run = Run(proxy.url, key="", SSL_CERT_FILE=certificate)
    assert run.named("FAILED") == ["security headers"], run.output
    assert "TRUSTED_PROXIES" in run.said["security headers"]


def test_without_tls_no_key_is_sent_unless_it_is_allowed(deployed: Weir) -> None:
    # A name for this machine that the smoke test takes for another one's.
    url = deployed.url.replace("127.0.0.1", "127.1")
    run = Run(url)
    assert run.named("FAILED") == ["TLS"], run.output
    assert run.said["with a key"].startswith("skipped no key is sent without TLS")
    assert run.said["demo key"] == "ok refused"
    allowed = Run(url, "--allow-http")
    assert (allowed.code, allowed.named("FAILED")) == (0, []), allowed.output
    assert "chat" in allowed.said


def test_a_demo_key_that_works_for_everybody_fails(offline: Weir) -> None:
    run = Run(offline.url.replace("127.0.0.1", "127.1"), "--allow-http", key="")
    assert run.named("FAILED") == ["demo key"], run.output


def test_a_key_that_is_refused_ends_it(deployed: Weir, provider: Provider) -> None:
    run = Run(deployed.url, key="another_key_0123456789")
    assert run.named("FAILED") == ["key"], run.output
    assert run.lines[-1][1] == "key"
    assert provider.completions() == []


def test_the_limit_of_a_key_is_waited_for(deployed: Weir) -> None:
    run = Run(deployed.url, key=f"slow_{KEY}")
    assert run.code == 0, run.output
    assert ("waiting", "1 s", "for the limit of the key") in run.lines


def test_a_provider_that_fails_is_named_with_the_request(
    deployed: Weir, provider: Provider
) -> None:
    provider.fault(status=401)
    run = Run(deployed.url)
    assert run.named("FAILED") == ["chat", "cache", "OpenAI's endpoint", "stream"], run.output
    assert re.search(r"502: .*\[request [0-9a-f-]{36}\]", run.said["chat"])


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ((), KEY),
        (("weir.example.com",), KEY),
        (("ftp://weir.example.com",), KEY),
        (("https://user:secret@weir.example.com",), KEY),
        (("https://weir.example.com", "--no-such-option"), KEY),
        (("https://weir.example.com",), "a key\nX-Header: more"),
    ],
)
def test_a_wrong_command_ends_with_two(arguments: tuple[str, ...], key: str) -> None:
    run = Run(*arguments, key=key)
    assert (run.code, run.output) == (2, "")
    assert "usage:" in run.errors
