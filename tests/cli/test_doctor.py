"""`flask doctor` finds what is wrong, says what to do, and tells no secret."""

from __future__ import annotations

import json
import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from tests.conftest import MakeWeir
from tests.support import commands
from tests.support.administrator import SETTINGS
from tests.support.books import PRICES, Books
from tests.support.gevent_process import PlainProcess
from tests.support.servers import Postgres, Provider, Valkey, Weir, free_port
from webapp.diagnosis.prices import price_age
from webapp.metering.prices import Edition

SECRETS = {"SECRET_KEY": "a-secret-of-the-doctor-tests", "OPENAI_API_KEY": "sk-a-provider-s-key-1"}


@pytest.fixture(scope="module")
def process() -> Iterator[PlainProcess]:
    """Not the tests' own: the doctor's connections last as long as its process."""
    with PlainProcess() as running:
        yield running


def examine(
    weir: Weir, process: PlainProcess, *args: str, alone: bool = False
) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    """The exit code, and the findings by their checks; if `alone`, as an operator runs it."""
    doctor = ("doctor", "--json", *args)
    if alone:
        done = weir.run_flask_process(*doctor)
    else:
        done = process.run(commands.run_flask, weir.env, *doctor)
    plain = process.run(commands.run_flask, weir.env, "doctor", *args)
    assert done.stdout.startswith("["), done.stdout + done.stderr
    said = done.stdout + done.stderr + plain.stdout
    for secret in (*SECRETS.values(), SETTINGS["ADMIN_PASSWORD"]):
        assert secret not in said
    findings: dict[str, list[dict[str, Any]]] = {}
    for finding in json.loads(done.stdout):
        findings.setdefault(finding["check"], []).append(finding)
        assert finding["advice"] or finding["status"] == "ok"
    return done.returncode, findings


def statuses(findings: list[dict[str, Any]]) -> set[str]:
    return {finding["status"] for finding in findings}


def test_where_all_is_well_it_says_so(
    start_weir: MakeWeir,
    provider: Provider,
    fresh_valkey: Valkey,
    fresh_database: str,
    process: PlainProcess,
) -> None:
    weir = start_weir(
        **SETTINGS, **SECRETS, OPENAI_BASE_URL=provider.base_url, DATABASE_URL=fresh_database,
        REDIS_URL=fresh_valkey.url, DEFAULT_MODEL="stand-in-1", MODEL_PRICES=PRICES,
    )  # fmt: skip
    code, findings = examine(weir, process, "--url", weir.url, alone=True)
    assert code == 0, findings
    assert set(findings) == {
        "settings", "database", "ledger", "redis", "clock", "providers", "prices", "workers", "url",
        "streaming", "broker", "batches", "files",
    }  # fmt: skip
    for check, found in findings.items():
        assert statuses(found) == {"ok"}, (check, found)
    assert provider.completions() == [], "it spends no money"
    assert findings["broker"][0]["found"].startswith("redis answers in")
    assert findings["files"][0]["found"].startswith("database: written, read and deleted in")
    assert Books(weir).rows("SELECT * FROM file_chunks") == []


def test_what_is_away_is_named(
    new_weir: MakeWeir,
    fresh_database: str,
    postgres: Postgres,
    provider: Provider,
    process: PlainProcess,
) -> None:
    settings = SECRETS | {
        "DATABASE_URL": fresh_database,
        "REDIS_URL": f"redis://127.0.0.1:{free_port()}/0",
        "OPENAI_BASE_URL": f"http://127.0.0.1:{free_port()}/v1",
    }
    postgres.stop()
    address = f"http://127.0.0.1:{free_port()}"
    code, findings = examine(new_weir(**settings), process, "--url", address)
    assert code == 1
    for check in ("database", "redis", "providers", "url"):
        assert "problem" in statuses(findings[check]), findings[check]
    assert "DATABASE_URL" in findings["database"][0]["advice"]


def test_what_may_go_wrong_is_warned_of(
    new_weir: MakeWeir,
    provider: Provider,
    fresh_valkey: Valkey,
    tmp_path: Path,
    process: PlainProcess,
) -> None:
    with fresh_valkey.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("maxmemory", 100_000_000)
    try:
        weir = new_weir(
            OPENAI_BASE_URL=provider.base_url, REDIS_URL=fresh_valkey.url, CACHE_TLL="5",
            PROVIDER_GROQ_APIKEY="x", data_dir=tmp_path,
            MODEL_ROUTES="fast=openai/stand-in-1;slow=openai/no-such-model",
        )  # fmt: skip
        code, findings = examine(weir, process)
    finally:
        with fresh_valkey.client() as client:
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("maxmemory", 0)
    assert code == 0, findings
    warned = json.dumps([f for fs in findings.values() for f in fs if f["status"] == "warning"])
    for said in (
        "CACHE_TLL is unknown", "Did you mean CACHE_TTL?", "PROVIDER_GROQ_APIKEY is unknown",
        "allkeys-lru may evict rate limits",
        "openai/no-such-model is not in the provider's model list",
        "openai/stand-in-1 has no price", "schema is missing",
    ):  # fmt: skip
        assert said in warned, said


def test_it_says_whose_prices_hold_where_no_maker_is_called(
    new_weir: MakeWeir, provider: Provider, process: PlainProcess
) -> None:
    url = provider.base_url
    weir = new_weir(
        OPENAI_BASE_URL=url, PROVIDER_PROXY_BASE_URL=url, PROVIDER_PROXY_PRICES="maker",
        PROVIDER_LOCAL_BASE_URL=url, MODEL_PRICES="local/*: input=0",
        MODEL_ROUTES="a=openai/gpt-4o-mini;b=proxy/gpt-4o-mini;c=local/gpt-4o-mini",
    )  # fmt: skip
    code, findings = examine(weir, process)
    assert code == 0, findings
    said = {finding["found"]: finding for finding in findings["prices"]}
    assert said["openai: 127.0.0.1 is not the maker's own host: no prices hold"]["advice"] == (
        "Set MODEL_PRICES, or OPENAI_PRICES=maker if it leads to the maker."
    )
    assert (
        "proxy: 127.0.0.1 leads to the maker (PROVIDER_PROXY_PRICES=maker): "
        "the prices of openai hold" in said
    )
    assert "local: 127.0.0.1 is not the maker's own host: only those of MODEL_PRICES hold" in said
    unpriced = [found for found in said if "has no price" in found]
    assert len(unpriced) == 1
    assert unpriced[0].startswith("openai/gpt-4o-mini")


def test_what_batches_lack_is_named(
    new_weir: MakeWeir, process: PlainProcess, tmp_path: Path
) -> None:
    """A broker that does not answer, no worker, and files in a place that is none."""
    (tmp_path / "a-file").write_text("no folder")
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        weir = new_weir(
            BROKER_URL=f"redis://:a-broker-s-password@127.0.0.1:{silent.getsockname()[1]}/0",
            FILES_URL=f"file://{tmp_path}/a-file",
        )  # fmt: skip
        code, findings = examine(weir, process)
    assert code == 1
    [broker], [batches], [files] = (findings[check] for check in ("broker", "batches", "files"))
    assert (broker["status"], broker["found"]) == (
        "problem", "redis: cannot be reached (no answer in time)"
    )  # fmt: skip
    assert "BROKER_URL" in broker["advice"]
    assert batches["status"] == "warning"
    assert "flask worker" in batches["advice"]
    assert files["status"] == "problem"
    assert "FILES_URL" in files["advice"]
    assert "a-broker-s-password" not in json.dumps(findings)


def test_workers_and_full_files_are_counted(new_weir: MakeWeir, process: PlainProcess) -> None:
    weir = new_weir(FILES_QUOTA_BYTES=1_000_000)
    engine = Books(weir).engine
    with engine.begin() as connection:
        now = "(julianday('now') - 2440587.5) * 86400.0"
        connection.execute(
            text(f"INSERT INTO workers (beat, batch_worker_seen_at) VALUES (0, {now}), (0, {now})")
        )
        connection.execute(
            text(
                "INSERT INTO files (id, key_id, purpose, filename, bytes, state, created_at, "
                "expires_at) VALUES ('a', 1, 'batch', 'a', 500000, 'ready', 0, 0), "
                "('b', 1, 'batch', 'b', 450000, 'ready', 0, 0), "
                "('c', 2, 'batch', 'c', 900000, 'deleted', 0, 0)"
            )
        )
    engine.dispose()
    code, findings = examine(weir, process)
    assert code == 0, findings
    assert findings["batches"][0]["found"] == "2 processes of flask worker; 0 lines wait"
    assert findings["files"][1]["status"] == "warning"
    assert "95% of its quota" in findings["files"][1]["found"]
    assert list((Path(weir.data_dir) / "files").iterdir()) == []


def test_old_prices_are_warned_of() -> None:
    edition = Edition("LiteLLM 1 (2026-10-21)", date(2026, 10, 21), {})
    assert price_age(edition, date(2026, 12, 20)).status == "ok"
    old = price_age(edition, date(2026, 12, 21))
    assert (old.status, old.advice) == ("warning", "Run flask prices update.")
    assert old.found == "LiteLLM 1 (2026-10-21) is 61 days old"


def test_a_provider_that_refuses_its_key_and_workers_without_redis_are_named(
    new_weir: MakeWeir, provider: Provider, process: PlainProcess
) -> None:
    provider.fault(status=401, path="/v1/models")
    weir = new_weir(OPENAI_BASE_URL=provider.base_url, WEB_CONCURRENCY=3)
    code, findings = examine(weir, process)
    assert code == 1
    assert "Check its API key" in findings["providers"][0]["advice"]
    assert findings["workers"][0]["found"] == "1 of 3 started"


def test_bad_settings_are_said_in_plain_words(new_weir: MakeWeir) -> None:
    done = new_weir(LLM_TIMEOUT="soon").run_flask_process("doctor")
    assert done.returncode == 1
    assert "LLM_TIMEOUT must be" in done.stderr
    assert "Traceback" not in done.stderr


@contextmanager
def buffering_proxy(target: str, *, date: str = "") -> Iterator[str]:
    """A proxy that holds every answer back until it is complete, with another clock."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {n: v for n, v in self.headers.items() if n.lower() != "host"}
            request = urllib.request.Request(
                target + self.path, body or None, headers, method=self.command
            )
            with urllib.request.urlopen(request) as response:
                content = response.read()
            self.send_response_only(200)
            self.send_header("Date", date or self.date_time_string())
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = answer

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def weir(start_shared_weir: MakeWeir) -> Weir:
    return start_shared_weir(**SETTINGS)


@pytest.mark.parametrize("date", ["", "Sat, 01 Jan 2000 00:00:00 GMT"])
def test_a_proxy_that_buffers_and_a_clock_that_is_wrong_are_found(
    weir: Weir, process: PlainProcess, date: str
) -> None:
    with buffering_proxy(weir.url, date=date) as url:
        code, findings = examine(weir, process, "--url", url)
    assert code == 1
    assert statuses(findings["streaming"]) == {"problem"}
    assert "X-Request-ID" in findings["url"][1]["found"]
    assert statuses(findings["clock"]) == ({"problem"} if date else {"ok"})
