"""How a server starts, refuses to start, migrates, and ends."""

from __future__ import annotations

import os
import signal
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Barrier

import pytest
import requests
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

import webapp.accounts.keys
import webapp.application
import webapp.storage.blobs.table  # noqa: F401 a table that is loaded when it is used
from tests.conftest import MakeWeir
from tests.support.servers import DidNotStart, Postgres, Valkey, Weir, wait_until
from webapp.settings import SettingsError, load
from webapp.storage import migrations
from webapp.storage.database import Database, metadata

PRODUCTION = {
    "APP_ENV": "production",
    "SECRET_KEY": "0123456789abcdef0123",
    "ADMIN_PASSWORD": "a-long-password",
}


def refusal(environment: dict[str, str], tmp_path: Path) -> str:
    with pytest.raises(SettingsError) as refused:
        load({"DATA_DIR": str(tmp_path), **environment})
    return str(refused.value)


def test_one_message_names_every_bad_setting_and_no_traceback(new_weir: MakeWeir) -> None:
    weir = new_weir(LLM_TIMEOUT="soon", TIERS="free=lots", CACHE_SCOPE="all", PROMPT_DENYLIST="(")
    with pytest.raises(DidNotStart) as refused:
        weir.start()
    assert refused.value.exit_code not in {0, None}
    for name in ("LLM_TIMEOUT", "TIERS", "CACHE_SCOPE", "PROMPT_DENYLIST"):
        assert f"- {name} must" in refused.value.output
    assert "Traceback" not in refused.value.output
    command = weir.run_flask_process("keys", "list")
    assert command.returncode != 0
    assert "LLM_TIMEOUT must" in command.stderr
    assert "Traceback" not in command.stderr


def test_production_names_everything_that_is_weak(tmp_path: Path) -> None:
    message = refusal(
        {
            "DYNO": "web.1",
            "DEBUG": "1",
            "API_KEYS": "demo:free:dev_key_123,short:free:abc,odd:free:0123456789abcdef!",
        },
        tmp_path,
    )
    names = (
        "SECRET_KEY",
        "ADMIN_PASSWORD",
        "DEBUG",
        "entry 1 is a demo key",
        "the key of entry 2",
        "the key of entry 3",
    )
    for part in (*names, "DATABASE_URL"):
        assert part in message


@pytest.mark.parametrize("secret", ["", "changeme", "secret", "short"])
def test_production_refuses_a_weak_secret(tmp_path: Path, secret: str) -> None:
    environment = {"APP_ENV": "production", "SECRET_KEY": secret}
    assert "SECRET_KEY" in refusal(environment, tmp_path)


@pytest.mark.parametrize(
    ("platform", "proxies"),
    [
        ("DYNO", 1),
        ("RENDER", 1),
        ("RAILWAY_ENVIRONMENT", 1),
        ("ECS_CONTAINER_METADATA_URI_V4", 0),
        ("K_SERVICE", 1),
        ("CLOUD_RUN_JOB", 1),
        ("CLOUD_RUN_WORKER_POOL", 1),
        ("CONTAINER_APP_NAME", 1),
        ("CONTAINER_APP_JOB_NAME", 1),
        ("AWS_LAMBDA_FUNCTION_NAME", 1),
    ],
)
def test_a_platform_means_production_and_wants_a_database(
    tmp_path: Path, platform: str, proxies: int
) -> None:
    environment = {"DATA_DIR": str(tmp_path), platform: "x", **PRODUCTION}
    del environment["APP_ENV"]
    assert "DATABASE_URL" in refusal(environment, tmp_path)
    settings = load({**environment, "ALLOW_EPHEMERAL_SQLITE": "true"})
    assert settings.production
    assert (settings.host, settings.trusted_proxies) == ("0.0.0.0", proxies)
    assert settings.api_keys == ()
    assert settings.plain_deadline == (25 if platform == "DYNO" else 120)


@pytest.mark.parametrize("knative", [{}, {"K_SERVICE": "weir"}], ids=["plain", "Knative"])
def test_kubernetes_means_production_and_may_have_a_volume(
    tmp_path: Path, knative: dict[str, str]
) -> None:
    environment = {"DATA_DIR": str(tmp_path), "KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    settings = load({**PRODUCTION, **environment, **knative, "APP_ENV": ""})
    assert settings.production
    assert (settings.platform, settings.trusted_proxies) == (None, 0)


def test_on_lambda_the_data_is_where_it_may_write() -> None:
    environment = {**PRODUCTION, "AWS_LAMBDA_FUNCTION_NAME": "weir"}
    url = "postgresql://weir@host/weir"
    assert load({**environment, "DATABASE_URL": url}).data_dir == Path("/tmp/weir")
    settings = load({**environment, "DATABASE_URL": url, "DATA_DIR": "/mnt/efs"})
    assert settings.data_dir == Path("/mnt/efs")


def test_development_is_for_this_machine(tmp_path: Path) -> None:
    settings = load({"DATA_DIR": str(tmp_path)})
    assert (settings.app_env, settings.host, settings.port) == ("development", "127.0.0.1", 8000)
    assert settings.allowed_origins == ("*",)
    assert load({"DATA_DIR": str(tmp_path)}).secret_key == settings.secret_key
    assert (tmp_path / "secret_key").stat().st_mode & 0o777 == 0o600


def test_demo_keys_are_refused_in_production(start_weir: MakeWeir) -> None:
    weir = start_weir(**PRODUCTION)
    assert weir.post("/chat", key="prod_key_456", json={"message": "x"}).status_code == 403
    assert (
        "Access-Control-Allow-Origin" not in weir.get("/", headers={"Origin": "https://a"}).headers
    )
    # The banner is for development.
    assert (weir.folder / "stderr.log").read_text() == ""


def test_one_worker_without_redis_and_the_log_says_why(start_weir: MakeWeir) -> None:
    weir = start_weir(WEB_CONCURRENCY=4)
    assert len(weir.pids()) == 1
    assert any("needs REDIS_URL" in line.get("message", "") for line in weir.logs())


@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
def test_replicas_may_start_at_once_on_an_empty_database_and_its_files_are_private(
    new_weir: MakeWeir, fresh_valkey: Valkey, empty_database: str, tmp_path: Path, store: str
) -> None:
    settings: dict[str, object] = {"REDIS_URL": fresh_valkey.url, "WEB_CONCURRENCY": 2}
    if store == "postgresql":
        settings["DATABASE_URL"] = empty_database.replace("postgresql://", "postgres://")
    else:
        settings["data_dir"] = tmp_path / "data"
    weirs = [new_weir(**settings) for _ in range(3)]
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda weir: weir.start(), weirs))
    for weir in weirs:
        assert weir.post("/chat", key="prod_key_456", json={"message": "hello"}).status_code == 200
        assert "Traceback" not in weir.raw_logs()
        assert "unreachable" not in weir.raw_logs()
    assert weirs[0].run_flask("db", "upgrade").stdout == f"Already at {migrations.head()}.\n"
    if store == "sqlite":
        folder = weirs[0].data_dir
        modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
        assert {"weir.db", "weir.db-wal", "weir.db-shm", "secret_key"} <= set(modes)
        assert set(modes.values()) == {0o600}, modes
        assert folder.stat().st_mode & 0o777 == 0o700


def test_many_may_be_the_first_to_open_a_file(tmp_path: Path) -> None:
    """Of two that turn an empty SQLite file to WAL together, SQLite refuses one at once."""
    everyone = Barrier(4)

    def upgrade(url: str) -> bool:
        database = Database(url)
        everyone.wait()
        return migrations.upgrade(database)

    with ThreadPoolExecutor(4) as pool:
        for number in range(10):
            urls = [f"sqlite:///{tmp_path}/{number}.db"] * 4
            assert sum(pool.map(upgrade, urls)) == 1


def test_the_migrations_make_the_tables_that_the_code_has(
    empty_database: str, tmp_path: Path
) -> None:
    assert ScriptDirectory(str(migrations.FOLDER)).get_current_head() == migrations.head()
    urls = (
        empty_database.replace("postgresql://", "postgresql+psycopg://"),
        f"sqlite:///{tmp_path}/w.db",
    )
    for url in urls:
        database = Database(url)
        assert migrations.upgrade(database)
        assert not migrations.upgrade(database)
        with database.engine.connect() as connection:
            context = MigrationContext.configure(connection)
            differences = [
                found
                for found in compare_metadata(context, metadata)
                # Others concern what SQLite does not know (lengths), or a name (an index).
                if isinstance(found, tuple)
                and found[0] in {"add_table", "remove_table", "add_column", "remove_column"}
                and getattr(found[1], "name", "") != "alembic_version"
            ]
        database.engine.dispose()
        assert differences == []


def test_a_database_that_comes_late_is_awaited(
    new_weir: MakeWeir, postgres: Postgres, empty_database: str
) -> None:
    postgres.stop()
    weir = new_weir(DATABASE_URL=empty_database, until="/liveness").start()
    readiness = weir.get("/readiness")
    assert readiness.status_code == 503
    assert readiness.json()["reason"] == "the database schema is not migrated yet"
    assert weir.post("/chat", key="prod_key_456", json={"message": "x"}).status_code == 503
    postgres.start()
    wait_until(lambda: weir.get("/readiness").status_code == 200, 15, "readiness")
    assert weir.post("/chat", key="prod_key_456", json={"message": "x"}).status_code == 200


def test_a_killed_worker_is_replaced(start_weir: MakeWeir) -> None:
    weir = start_weir()
    [killed] = weir.pids()
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: weir.pids() and weir.pids() != [killed], 10, "another worker")

    def answers() -> bool:
        # What the killed worker had accepted is lost, and nothing else.
        with suppress(requests.ConnectionError):
            return bool(weir.post("/chat", key="prod_key_456", json={"message": "x"}).ok)
        return False

    wait_until(answers, 10)


def metrics_folder(weir: Weir) -> Path:
    """Where its workers count: its master has the lock of that folder open."""
    assert weir.process
    files = [os.readlink(file) for file in Path(f"/proc/{weir.process.pid}/fd").iterdir()]
    [lock] = [file for file in files if file.endswith("/master.lock")]
    return Path(lock).parent


def test_the_metrics_of_a_killed_master_are_removed_by_the_next_one_and_nobody_else_s(
    start_weir: MakeWeir,
) -> None:
    with ThreadPoolExecutor() as pool:
        killed, other = pool.map(lambda _: start_weir(), range(2))
    abandoned, used = metrics_folder(killed), metrics_folder(other)
    assert killed.process
    # Its workers notice it by themselves. (From then on, any Weir that starts removes the folder.)
    workers = [Path(f"/proc/{pid}") for pid in killed.pids()]
    killed.process.kill()
    killed.process.wait()
    wait_until(lambda: not any(worker.exists() for worker in workers), 10, "the workers' end")
    killed.process = None
    killed.start()
    assert not abandoned.exists()
    assert metrics_folder(killed).exists()
    assert used.exists()
    # A reload reads the configuration again.
    killed.process.send_signal(signal.SIGHUP)
    wait_until(lambda: killed.raw_logs().count("Booting worker") == 2, 10, "another worker")
    assert start_weir().get("/metrics").status_code == 200
    assert metrics_folder(killed).exists()


def test_sigterm_ends_with_zero_and_sqlite_stays_whole(start_weir: MakeWeir) -> None:
    weir = start_weir()
    assert weir.post("/chat", key="prod_key_456", json={"message": "x"}).ok
    assert weir.terminate() == 0
    with sqlite3.connect(weir.data_dir / "weir.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert database.execute("SELECT sum(requests) FROM traffic").fetchone() == (1,)
    database.close()
