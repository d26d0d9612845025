"""A Weir whose secrets are kept elsewhere: rotated, wrong, away, while it runs.

All tests share one Weir, which reads its secrets again three times a second.
"""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import psycopg
import pytest

from tests.conftest import MakeWeir
from tests.support.administrator import PASSWORD
from tests.support.clouds import Clouds
from tests.support.moto import Moto
from tests.support.scrape import scrape
from tests.support.servers import DidNotStart, Postgres, Provider, Valkey, Weir, wait_until
from tests.support.visitor import Visitor, text_of
from webapp.observability.masking import mask

KEY = "a-key-of-the-rotation-test"
MODELS = {"openai": "stand-in-1", "azure": "azure/stand-in-1", "anthropic": "anthropic/stand-in-1"}


@dataclass
class Rotation:
    """The Weir, what it asks, where its secrets are, and every value that they ever had."""

    weir: Weir
    provider: Provider
    keep: dict[str, Callable[[str], object]]
    clouds: Clouds
    good: dict[str, str]
    values: list[str]

    def rotate(self, variable: str, value: str, *, good: bool = True) -> None:
        self.values.append(value)
        if good:
            self.good[variable] = value
        self.keep[variable](value)

    def chat(self, provider: str = "openai", message: str = "hello") -> int:
        body = {"message": message, "model": MODELS[provider]}
        no_cache = {"Cache-Control": "no-store"}
        return self.weir.post("/chat", key=KEY, json=body, headers=no_cache).status_code

    def key_in_use(self, provider: str) -> str:
        """The key that the provider sees with the next call."""
        assert self.chat(provider) == 200
        headers = [call for call in self.provider.calls() if call["method"] == "POST"][-1][
            "headers"
        ]
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        return headers.get("api-key") or headers.get("x-api-key") or bearer

    def secrets(self) -> dict[str, str]:
        """The check of /health/detailed."""
        return self.weir.get("/health/detailed").json()["checks"]["secrets"]

    def said(self, pattern: str) -> list[str]:
        messages = [str(line.get("message", "")) for line in self.weir.logs()]
        return [message for message in messages if re.search(pattern, message)]


@dataclass(frozen=True)
class Role:
    """A role that needs its password, where all others are trusted."""

    postgres: Postgres
    name: str

    def url(self, database: str, application: str, password: str = "not-this-pw-9") -> str:
        address = f"127.0.0.1:{self.postgres.port}/{database}"
        return f"postgresql://{self.name}:{password}@{address}?application_name={application}"

    def create(self, password: str) -> None:
        hosts = self.postgres._cluster / "pg_hba.conf"
        rule = f"host all {self.name} 127.0.0.1/32 scram-sha-256\n"
        hosts.write_text(rule + hosts.read_text().replace(rule, ""))
        with self.postgres._connect() as connection:
            connection.execute(f"DROP ROLE IF EXISTS {self.name}")
            connection.execute(f"CREATE ROLE {self.name} SUPERUSER LOGIN PASSWORD '{password}'")
            connection.execute("SELECT pg_reload_conf()")
        wait_until(self._refuses_others)

    def set_password(self, password: str) -> None:
        with self.postgres._connect() as connection:
            connection.execute(f"ALTER ROLE {self.name} PASSWORD '{password}'")

    def _refuses_others(self) -> bool:
        try:
            psycopg.connect(self.url("postgres", "x"), connect_timeout=2).close()
        except psycopg.OperationalError:
            return True
        return False


def redis_user(valkey: Valkey, password: str) -> str:
    """Give the user another password, and return its URL."""
    with valkey.client() as client:
        rights = ("reset", "on", f">{password}", "~*", "&*", "+@all")
        client.execute_command("ACL", "SETUSER", "rotating", *rights)
    return f"redis://rotating:{password}@127.0.0.1:{valkey.port}/0"


@pytest.fixture(scope="module")
def rotation(
    start_shared_weir: MakeWeir,
    aws: Moto,
    clouds: Clouds,
    provider: Provider,
    postgres: Postgres,
    valkey: Valkey,
    fresh_shared_database: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Rotation]:
    folder = tmp_path_factory.mktemp("secrets")
    clouds.kept.status = 0
    role = Role(postgres, "rotating")
    role.create("database-password-0")
    with postgres._connect() as connection:
        connection.execute("DROP ROLE IF EXISTS weak")
        connection.execute("CREATE ROLE weak LOGIN")
    database = fresh_shared_database.rpartition("/")[2]

    def file(name: str) -> Callable[[str], object]:
        return lambda value: (folder / name).write_text(value + "\n")

    keep: dict[str, Callable[[str], object]] = {
        "OPENAI_API_KEY": lambda value: aws.keep("weir/rotated", f'{{"key": "{value}"}}'),
        "ANTHROPIC_API_KEY": lambda value: clouds.keep_google("project", "rotated", value),
        "AZURE_OPENAI_API_KEY": lambda value: clouds.keep_azure(
            "weir.vault.azure.net", "rotated", value
        ),
        "DATABASE_URL": file("database_url"),
        "REDIS_URL": file("redis_url"),
        "DATABASE_PASSWORD": file("database_password"),
        "SECRET_KEY": file("secret_key"),
    }
    first = {
        "OPENAI_API_KEY": "openai-key-0",
        "ANTHROPIC_API_KEY": "anthropic-key-0",
        "AZURE_OPENAI_API_KEY": "azure-key-0",
        "DATABASE_URL": role.url(database, "weir-0"),
        "DATABASE_PASSWORD": "database-password-0",
        "REDIS_URL": redis_user(valkey, "redis-password-0"),
        "SECRET_KEY": "secret-key-0-0123456789",
    }
    for variable, value in first.items():
        keep[variable](value)
    weir = start_shared_weir(
        **aws.start().environment, **clouds.environment,
        OPENAI_API_KEY="aws-sm://weir/rotated#key", OPENAI_BASE_URL=provider.base_url,
        ANTHROPIC_API_KEY="gcp-sm://project/rotated", ANTHROPIC_BASE_URL=provider.anthropic_url,
        AZURE_OPENAI_API_KEY="azure-kv://weir/rotated", AZURE_OPENAI_ENDPOINT=provider.azure_url,
        DATABASE_URL=f"file://{folder}/database_url", REDIS_URL=f"file://{folder}/redis_url",
        DATABASE_PASSWORD=f"file://{folder}/database_password",
        SECRET_KEY=f"file://{folder}/secret_key", SECRETS_REFRESH=0.3, WEB_CONCURRENCY=1,
        API_KEYS=f"test:enterprise:{KEY}", LLM_MAX_RETRIES=0, LOG_LEVEL="debug",
        ADMIN_PASSWORD=PASSWORD,
    )  # fmt: skip
    yield Rotation(weir, provider, keep, clouds, first, [*first.values()])
    clouds.kept.status = 0


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("openai", "OPENAI_API_KEY"),
        ("azure", "AZURE_OPENAI_API_KEY"),
        ("anthropic", "ANTHROPIC_API_KEY"),
    ],
)
def test_a_rotated_key_of_a_provider_is_sent_with_the_next_call(
    rotation: Rotation, provider: Provider, name: str, variable: str
) -> None:
    assert rotation.key_in_use(name) == f"{name}-key-0"
    rotation.rotate(variable, f"{name}-key-1")
    wait_until(lambda: rotation.key_in_use(name) == f"{name}-key-1")
    assert rotation.said(f"^{variable} has changed: it is in use")
    # A client cannot have it logged.
    rotation.weir.get("/liveness", headers={"X-Request-ID": f"{name}-key-1"})
    masked = mask(f"{name}-key-1")
    wait_until(lambda: any(line.get("request_id") == masked for line in rotation.weir.logs()))
    assert rotation.weir.get("/health").json()["checks"]["secrets"] == "healthy"


def test_a_running_stream_goes_on_with_the_key_that_it_began_with(
    rotation: Rotation, provider: Provider
) -> None:
    body = {"message": "[[fault:gap=0.3,pieces=8]] tell me", "stream": True}
    with rotation.weir.stream("/chat", body, KEY) as events:
        first = next(events)
        rotation.rotate("OPENAI_API_KEY", "openai-key-2")
        wait_until(lambda: rotation.key_in_use("openai") == "openai-key-2")
        rest = list(events)
    assert first
    assert rest[-1] == "[DONE]"


def test_a_rotated_password_of_the_database_loses_no_request(
    rotation: Rotation, postgres: Postgres, fresh_shared_database: str
) -> None:
    database = fresh_shared_database.rpartition("/")[2]
    ended = Event()

    def connections(name: str) -> int:
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
        with postgres._connect() as connection:
            return connection.execute(query, (name,)).fetchone()[0]

    def go_on() -> set[int]:
        statuses = set()
        while not ended.is_set():
            statuses.add(rotation.chat())
        return statuses

    assert connections("weir-0")
    with ThreadPoolExecutor(4) as pool:
        going = [pool.submit(go_on) for _ in range(4)]
        try:
            role = Role(postgres, "rotating")
            role.set_password("database-password-1")
            rotation.rotate("DATABASE_URL", role.url(database, "weir-1"))
            rotation.rotate("DATABASE_PASSWORD", "database-password-1")
            wait_until(lambda: connections("weir-1") and not connections("weir-0"), 20)
        finally:
            ended.set()
        assert set().union(*(one.result() for one in going)) == {200}
    assert rotation.weir.get("/health").json()["checks"]["database"] == "healthy"


def test_a_rotated_password_of_redis_is_taken_up(rotation: Rotation, valkey: Valkey) -> None:
    rotation.rotate("REDIS_URL", redis_user(valkey, "redis-password-1"))
    wait_until(lambda: rotation.said("^REDIS_URL has changed: it is in use"))
    with valkey.client() as client:
        client.execute_command("CLIENT", "KILL", "USER", "rotating")
    assert rotation.chat() == 200
    wait_until(lambda: rotation.weir.get("/health").json()["checks"]["cache"] == "healthy")
    with valkey.client() as client:
        names = [one["user"] for one in client.client_list()]
    assert names.count("rotating") == 1


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("OPENAI_API_KEY", "", "is empty"),
        ("DATABASE_URL", "mysql://weir:database-password-9@host/weir", "must start with"),
        ("DATABASE_PASSWORD", "wrong-pw-9", "refuses"),
        (
            "DATABASE_URL",
            "postgresql://postgres@127.0.0.1:{port}/postgres",
            "without this version's tables",
        ),
        (
            "DATABASE_URL",
            "postgresql://postgres@127.0.0.1:{port}/{database}"
            "?options=-c%20default_transaction_read_only%3Don",
            "may not write",
        ),
        ("DATABASE_URL", "sqlite:////tmp/weir.db", "needs a DATABASE_URL of PostgreSQL"),
        ("DATABASE_URL", "postgresql://weak@127.0.0.1:{port}/{database}", "refuses"),
        ("REDIS_URL", "redis://127.0.0.1:1/0", "cannot be reached"),
        ("AZURE_OPENAI_API_KEY", "two\nlines-of-a-key", "must be one line"),
    ],
    ids=[
        "empty",
        "malformed",
        "wrong password",
        "another database",
        "read-only",
        "SQLite",
        "no rights",
        "no Redis",
        "a line break",
    ],
)
def test_a_new_value_that_cannot_be_used_leaves_the_last_one_in_use(
    rotation: Rotation,
    postgres: Postgres,
    fresh_shared_database: str,
    variable: str,
    value: str,
    said: str,
) -> None:
    database = fresh_shared_database.rpartition("/")[2]
    before = len(rotation.said(f"^{variable} .* since"))
    rotation.rotate(variable, value.format(port=postgres.port, database=database), good=False)
    try:
        # What is wrong with it in detail is for the log alone. On a busy machine a connection may
        # time out first, which is told, too.
        line = wait_until(
            lambda: next(
                (one for one in rotation.said(f"^{variable} .* since")[before:] if said in one), ""
            )
        )
        assert rotation.good[variable] not in line
        found = rotation.secrets()["error"]
        assert rotation.secrets()["status"] == "degraded"
        assert found.startswith(f"{variable} ")
        assert re.search(r"the last value is in use since \d{4}-\d\d-\d\dT[\d:]+\+00:00$", found)
        assert "127.0.0.1" not in found
        assert rotation.chat() == rotation.chat("azure") == 200
        assert rotation.weir.get("/health").status_code == 200
    finally:
        # Else the next cases fail with it.
        rotation.keep[variable](rotation.good[variable])
    wait_until(lambda: rotation.secrets()["status"] == "healthy")
    assert rotation.said(f"^{variable} can be read and used again")


def test_a_manager_that_is_away_leaves_the_last_values_in_use_and_it_is_said_once(
    rotation: Rotation, new_weir: MakeWeir
) -> None:
    rotation.clouds.kept.status = 503

    def both_said() -> str | None:
        """It may go away while the secrets are read: the first to be away is said alone."""
        said = rotation.secrets().get("error", "")
        named = ("ANTHROPIC_API_KEY", "AZURE_OPENAI_API_KEY")
        return said if all(name in said for name in named) else None

    found = wait_until(both_said)
    assert "OPENAI_API_KEY cannot" not in found.replace("AZURE_OPENAI_API_KEY", "")
    asked = len(rotation.clouds.kept.asked)
    wait_until(lambda: len(rotation.clouds.kept.asked) > asked + 6)
    assert rotation.chat("anthropic") == rotation.chat("azure") == 200
    health = rotation.weir.get("/health").json()
    assert (health["checks"]["secrets"], health["score"]) == ("degraded", 95)
    assert scrape(rotation.weir).value("weir_secrets_stale") == 1
    doctor = new_weir().run_flask_process("doctor", "--json", "--url", rotation.weir.url)
    [stale] = [one for one in json.loads(doctor.stdout) if one["check"] == "secrets"]
    assert stale["status"] == "warning"
    assert "ANTHROPIC_API_KEY" in stale["found"]
    [line] = rotation.said(r"^ANTHROPIC_API_KEY \(gcp-sm://project/rotated\) cannot be reached")
    assert "the last value is in use since" in line
    visitor = Visitor(rotation.weir)
    assert visitor.sign_in().ok
    assert "degraded Secrets: ANTHROPIC_API_KEY" in text_of(visitor.get("/dashboard/").text)
    rotation.clouds.kept.status = 0
    wait_until(lambda: rotation.secrets()["status"] == "healthy")
    assert rotation.weir.get("/health").json()["score"] == 100
    assert scrape(rotation.weir).value("weir_secrets_stale") == 0


def test_a_worker_that_starts_while_a_manager_is_away_has_the_last_values(
    rotation: Rotation,
) -> None:
    rotation.clouds.kept.status = 503
    [before] = rotation.weir.pids()
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: rotation.weir.pids() not in ([], [before]))
    wait_until(lambda: rotation.weir._is_ready(), 20)
    # Those of the master's start; AWS answers, so its key is the present one.
    assert rotation.key_in_use("azure") == "azure-key-0"
    present = rotation.good
    wait_until(lambda: rotation.key_in_use("openai") == present["OPENAI_API_KEY"])
    rotation.clouds.kept.status = 0
    wait_until(lambda: rotation.key_in_use("azure") == present["AZURE_OPENAI_API_KEY"])


def test_what_takes_a_start_is_told_once(rotation: Rotation) -> None:
    rotation.rotate("SECRET_KEY", "secret-key-1-0123456789")
    wait_until(lambda: rotation.said("^SECRET_KEY has changed: it is taken up at the next start"))
    asked = len(rotation.clouds.kept.asked)
    wait_until(lambda: len(rotation.clouds.kept.asked) > asked + 6)
    assert len(rotation.said("^SECRET_KEY has changed")) == 1
    assert rotation.secrets()["status"] == "healthy"


def test_a_reload_with_secrets_that_cannot_be_used_goes_on_with_the_last_ones(
    rotation: Rotation,
) -> None:
    rotation.keep["SECRET_KEY"]("")
    assert rotation.weir.process
    [before] = rotation.weir.pids()
    rotation.weir.process.send_signal(signal.SIGHUP)
    wait_until(lambda: rotation.said("^The last secrets stay in use: SECRET_KEY: file://"), 20)
    wait_until(lambda: before not in rotation.weir.pids(), 20)
    wait_until(lambda: rotation.weir._is_ready(), 20)
    wait_until(lambda: rotation.key_in_use("openai") == rotation.good["OPENAI_API_KEY"])
    rotation.keep["SECRET_KEY"](rotation.good["SECRET_KEY"])


def test_no_value_was_ever_logged(rotation: Rotation) -> None:
    """The last one: of all that the others did."""
    logged = rotation.weir.raw_logs()
    assert "has changed" in logged
    for value in rotation.values:
        assert not value or value not in logged
    assert not re.search(
        r"(database-password|redis-password|not-this-pw|wrong-pw|lines-of-a-key)", logged
    )
    assert "Traceback" not in logged


def test_a_refusal_of_the_provider_has_the_key_read_again_at_once(
    start_weir: MakeWeir, provider: Provider, tmp_path: Path
) -> None:
    """And another file of SQLite takes a start."""
    (tmp_path / "key").write_text("the-old-key")
    (tmp_path / "url").write_text(f"sqlite:///{tmp_path}/one.db")
    weir = start_weir(
        OPENAI_API_KEY=f"file://{tmp_path}/key", OPENAI_BASE_URL=provider.base_url,
        DATABASE_URL=f"file://{tmp_path}/url",
        API_KEYS=f"test:enterprise:{KEY}", CACHE_TTL=0,
    )  # fmt: skip
    chat: dict[str, Any] = {"key": KEY, "json": {"message": "hello"}}
    assert weir.post("/chat", **chat).status_code == 200
    (tmp_path / "key").write_text("the-new-key")
    (tmp_path / "url").write_text(f"sqlite:///{tmp_path}/two.db")
    provider.fault(status=401)
    assert weir.post("/chat", **chat).status_code == 502
    provider.fault()
    said = {
        "OPENAI_API_KEY has changed: it is in use",
        "DATABASE_URL has changed: it is taken up at the next start",
    }
    wait_until(lambda: said <= {line.get("message") for line in weir.logs()})
    assert weir.post("/chat", **chat).status_code == 200
    assert provider.completions()[-1]["headers"]["authorization"] == "Bearer the-new-key"


def test_a_refusal_of_the_database_has_its_password_read_again_at_once(
    start_weir: MakeWeir, postgres: Postgres, fresh_database: str, tmp_path: Path
) -> None:
    role = Role(postgres, "refused")
    role.create("the-old-password")
    name = fresh_database.rpartition("/")[2]
    (tmp_path / "password").write_text("the-old-password")
    weir = start_weir(
        DATABASE_URL=role.url(name, "weir"),
        DATABASE_PASSWORD=f"file://{tmp_path}/password",
        API_KEYS=f"test:enterprise:{KEY}",
    )
    role.set_password("the-new-password")
    (tmp_path / "password").write_text("the-new-password")
    with postgres._connect() as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'refused'"
        )
    wait_until(lambda: weir.get("/health").status_code == 503)
    wait_until(lambda: weir.post("/chat", key=KEY, json={"message": "hello"}).ok)
    assert weir.get("/health/detailed").json()["checks"]["database"]["status"] == "healthy"


def test_a_secret_that_may_not_be_read_stops_the_start_with_one_message(
    new_weir: MakeWeir, clouds: Clouds
) -> None:
    clouds.keep_google("project", "denied", "the-value-that-is-denied")
    clouds.kept.status = 403
    clouds.kept.asked.clear()
    weir = new_weir(
        **clouds.environment,
        OPENAI_API_KEY="gcp-sm://project/denied",
        ANTHROPIC_API_KEY="file:///nowhere/at/all",
    )
    with pytest.raises(DidNotStart) as refused:
        weir.start()
    clouds.kept.status = 0
    output = refused.value.output
    assert output.count("Weir does not start") == 1
    asked = [place for place in clouds.kept.asked if "denied" in place]
    assert len(asked) == 1, "what is denied is not asked for again"
    assert "- OPENAI_API_KEY: gcp-sm://project/denied may not be read: grant" in output
    assert "- ANTHROPIC_API_KEY: file:///nowhere/at/all cannot be read: No such file" in output
    assert "Traceback" not in output
    assert "the-value-that-is-denied" not in output
