"""DATABASE_URL as it is found in the wild: translated, or refused in words without its secrets."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

import psycopg
import pytest
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url

from tests.conftest import MakeWeir
from tests.support.servers import DidNotStart
from webapp.database_url import LIBPQ, parse
from webapp.settings import SettingsError, load

PREFIX = "postgresql+psycopg://"
HOST = "u:p@db.example:5432/weir"
SECRET = "hunter2hunter2"

SAME = {
    "postgres://u:p@db.example:5432/weir": "",
    "postgresql+asyncpg://u:p@db.example:5432/weir?ssl=true": "sslmode=require",
    "postgresql+psycopg2://u:p@db.example:5432/weir?ssl=require": "sslmode=require",
    "postgresql://u:p@db.example:5432/weir?ssl=false": "sslmode=disable",
    "postgresql://u:p@db.example:5432/weir?sslmode=no-verify": "sslmode=require",
    "postgresql://u:p@db.example:5432/weir?sslmode=verify-full&sslrootcert=%2Fca.pem":
        "sslmode=verify-full&sslrootcert=%2Fca.pem",
    "postgresql://u:p@db.example:5432/weir?sslaccept=strict":
        "sslmode=verify-full&sslrootcert=system",
    "postgresql://u:p@db.example:5432/weir?sslaccept=accept_invalid_certs": "",
    "postgres://u:p@db.example:5432/weir?pgbouncer=true&connection_limit=1&pool_timeout=20": "",
    "postgres://u:p@db.example:5432/weir?sslmode=require&supa=base-pooler.x": "sslmode=require",
    "postgres://u:p@db.example:5432/weir?sslmode=require&channel_binding=require":
        "sslmode=require&channel_binding=require",
    "postgres://u:p@db.example:5432/weir?options=endpoint%3Dep-x": "options=endpoint%3Dep-x",
    "postgres://u:p@db.example:5432/weir?options=-c%20search_path%3Dx%20-c%20geqo%3Doff":
        "schema=x&options=-c+geqo%3Doff",
    "postgres://u:p@db.example:5432/weir?schema=x": "schema=x",
    "postgresql://db.example:5432/weir?user=u&password=p&currentSchema=x": "schema=x",
    "postgresql://u:p@/weir?host=db.example&port=5432": "",
    "  postgresql://u:p@db.example:5432/weir\n": "",
}  # fmt: skip


@pytest.mark.parametrize("url", SAME)
def test_what_others_write_is_translated(url: str) -> None:
    query = SAME[url]
    assert parse(url) == PREFIX + HOST + (f"?{query}" if query else "")


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("postgres://u:p@a:1,b:2/weir?target_session_attrs=read-write", ("a:1", "b:2")),
        ("postgres://u:p@/weir?host=a,b&port=5432", ("a:5432", "b:5432")),
        ("postgres://u:p@%2Fvar%2Frun/weir", "/var/run"),
        ("postgres://u:p@/weir?host=/cloudsql/x:y", "/cloudsql/x:y"),
    ],
)
def test_several_hosts_and_sockets_are_hosts_of_the_query(
    url: str, hosts: str | tuple[str, ...]
) -> None:
    made = make_url(parse(url))
    assert (made.host, made.username, made.password) == (None, "u", "p")
    assert made.query["host"] == hosts
    arguments = create_engine(made).dialect.create_connect_args(made)[1]
    expected = [hosts] if isinstance(hosts, str) else [host.partition(":")[0] for host in hosts]
    assert arguments["host"] == ",".join(expected)


@pytest.mark.parametrize("password", ["a/b", "a#b", "a:b", "100%", "ü", "a%40b%3A%2F%3F%23"])
def test_passwords_that_are_clear_are_taken(password: str) -> None:
    assert make_url(parse(f"postgres://u:{password}@h/d")).password == unquote(password)


@pytest.mark.parametrize(
    "url",
    [
        f"postgres://u:{SECRET}@h@db/weir",
        f"postgres://u:{SECRET}@h:port/weir",
        f"postgres://u:{SECRET}@h:99999/weir",
        f"postgres://u:12?{SECRET}@h/weir",
        f"postgres://u:{SECRET}?x@h/weir",
        f"postgres://u:12?{SECRET}=x@h/weir",
        f"postgres://u:{SECRET}@[::1/weir",
        f"postgres://u:x@{SECRET}%40h/weir",
        f"postgres://u:{SECRET}@h/weir?sslmode=maybe",
        f"postgres://u:{SECRET}@h/weir?schema=x%27;",
        f"postgres://u:{SECRET}@h/weir?plugin=x",
        f"mysql://u:{SECRET}@h/weir",
        f"prisma+postgres://h/?api_key={SECRET}",
        f'"postgres://u:{SECRET}@h/weir"',
        f"u:{SECRET}@h/weir",
        "sqlite://weir.db",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///weir.db?vfs=x",
    ],
)
def test_what_cannot_be_understood_is_one_message_without_its_value(url: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load({"DATABASE_URL": url, "APP_ENV": "production"})
    [line] = [line for line in str(refused.value).splitlines() if "DATABASE_URL" in line]
    assert SECRET not in str(refused.value)
    assert "DATABASE_URL must" in line or "DATABASE_URL has" in line


def test_every_parameter_that_is_passed_on_is_known_to_libpq() -> None:
    known = {option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults()}
    assert known >= LIBPQ


def test_the_password_is_masked_as_it_is_and_as_it_is_written() -> None:
    settings = load({"DATABASE_URL": "postgres://u:p%40ss-word@h/d", "SECRET_KEY": "x" * 16})
    assert {"p%40ss-word", "p@ss-word"} <= set(settings.secrets)


@pytest.mark.parametrize("name", ["password", "sslpassword"])
@pytest.mark.parametrize(
    ("variable", "url"),
    [("DATABASE_URL", "postgres://u@h/d?sslmode=require&"), ("REDIS_URL", "redis://h/0?")],
)
def test_a_password_in_a_query_is_masked_too(variable: str, url: str, name: str) -> None:
    settings = load({variable: f"{url}{name}=p%40ss-word", "SECRET_KEY": "x" * 16})
    assert {"p%40ss-word", "p@ss-word"} <= set(settings.secrets)


def test_weir_starts_with_the_parameters_of_others(
    start_weir: MakeWeir, fresh_database: str
) -> None:
    url = f"{fresh_database}?pgbouncer=true&connection_limit=1&sslmode=prefer&schema=public"
    weir = start_weir(DATABASE_URL=url)
    assert weir.get("/health").json()["checks"]["database"] == "healthy"


@pytest.mark.parametrize("setting", ["DATABASE_URL", "DATA_DIR"])
def test_a_file_that_cannot_be_written_is_one_message(
    new_weir: MakeWeir, setting: str, tmp_path: Path
) -> None:
    # Even root cannot create files there.
    place = "/proc/weir" if setting == "DATA_DIR" else "sqlite:////proc/weir/weir.db"
    weir = new_weir(data_dir=tmp_path, SECRET_KEY="x" * 16)
    weir.env[setting] = place
    with pytest.raises(DidNotStart) as failed:
        weir.start()
    assert "Traceback" not in failed.value.output
    assert failed.value.output.count(setting) == 1
    assert f"{setting} must" in failed.value.output
