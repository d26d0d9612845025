"""The servers of the tests: one of each for a session, and as many Weirs as tests start."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.support.servers import REPOSITORY, Postgres, Provider, Valkey, Weir
from webapp.accounts.accounts import AccountStore
from webapp.settings import load
from webapp.storage import migrations
from webapp.storage.database import Database

# Takes settings by name, and `data_dir`, `until`, `root` and `app` of Weir.
MakeWeir = Callable[..., Weir]
# The name of the migrated template database.
MIGRATED = "weir_migrated"

pytest_plugins = ["tests.support.parallel", "tests.support.checkers"]

SHARED_SERVERS = ("valkey", "postgres", "provider")
database_numbers = count(1)


@pytest.fixture(scope="session")
def valkey() -> Iterator[Valkey]:
    with Valkey() as server:
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


@pytest.fixture(scope="session")
def provider() -> Iterator[Provider]:
    """The stand-in provider. Each test gets it without a fault and without earlier calls."""
    with Provider() as server:
        yield server


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite database to copy: migration takes a quarter of a Weir's start."""
    file = tmp_path_factory.mktemp("migrated") / "weir.db"
    _migrate(f"sqlite:///{file}")
    return file


@pytest.fixture(scope="session")
def started_file(migrated_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As a first start leaves it, which has made the administrator: that hash takes as long again.

    For where no test asks for the password.
    """
    file = shutil.copy(migrated_file, tmp_path_factory.mktemp("started"))
    database = Database(f"sqlite:///{file}")
    tiers = load({"DATA_DIR": str(tmp_path_factory.mktemp("settings"))}).tiers
    assert AccountStore(database, tiers).ensure_admin("admin", secrets.token_urlsafe())
    database.engine.dispose()
    return Path(file)


@pytest.fixture(scope="session")
def migrated_template(postgres: Postgres) -> str:
    """The name of a migrated PostgreSQL database, to be used as a template."""
    url = postgres.start().create_database(MIGRATED)
    _migrate(url.replace("postgresql://", "postgresql+psycopg://"))
    return MIGRATED


def _migrate(url: str) -> None:
    database = Database(url)
    migrations.upgrade(database)
    database.engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(
    request: pytest.FixtureRequest, tmp_path: Path, migrated_file: Path
) -> Iterator[Database]:
    """A migrated database without rows, of each kind in turn."""
    if request.param == "sqlite":
        url = f"sqlite:///{shutil.copy(migrated_file, tmp_path)}"
    else:
        url = request.getfixturevalue("fresh_database").replace("://", "+psycopg://")
    made = Database(url)
    yield made
    made.engine.dispose()


@pytest.fixture(autouse=True)
def shared_servers_as_new(request: pytest.FixtureRequest) -> Iterator[None]:
    """Restart the servers that an earlier test stopped or paused, and reset the stand-in.

    A fault also ends with its test: fixtures of the next module begin before its first test.
    """
    used = [
        request.getfixturevalue(name) for name in set(SHARED_SERVERS) & set(request.fixturenames)
    ]
    for server in used:
        server.start()
        if isinstance(server, Provider):
            server.reset()
    yield
    for server in used:
        if isinstance(server, Provider) and server.has_fault:
            server.start().reset()


@pytest.fixture
def fresh_valkey(valkey: Valkey) -> Valkey:
    """Valkey, empty."""
    valkey.start().flush()
    return valkey


@pytest.fixture(scope="module")
def fresh_shared_valkey(valkey: Valkey) -> Valkey:
    """Valkey, empty at the start of the module, for start_shared_weir."""
    valkey.start().flush()
    return valkey


@pytest.fixture
def empty_database(postgres: Postgres) -> str:
    """The URL of a PostgreSQL database without tables, for tests of the migrations."""
    return postgres.start().create_database(f"weir_{next(database_numbers)}")


@pytest.fixture
def fresh_database(postgres: Postgres, migrated_template: str) -> str:
    """The URL of a migrated, empty PostgreSQL database."""
    return postgres.start().create_database(f"weir_{next(database_numbers)}", migrated_template)


@pytest.fixture(scope="module")
def empty_shared_database(postgres: Postgres) -> str:
    """Like empty_database, for the tests of a module."""
    return postgres.start().create_database(f"weir_{next(database_numbers)}")


@pytest.fixture(scope="module")
def fresh_shared_database(postgres: Postgres, migrated_template: str) -> str:
    """Like fresh_database, for start_shared_weir."""
    return postgres.start().create_database(f"weir_{next(database_numbers)}", migrated_template)


@pytest.fixture
def new_weir(migrated_file: Path) -> Iterator[MakeWeir]:
    """`new_weir(NAME=value, …)` makes a Weir with these settings that is not started yet.

    Its SQLite database is migrated, unless it is given a `data_dir`.
    """
    with _weirs(migrated_file) as make:
        yield make


@pytest.fixture
def start_weir(new_weir: MakeWeir, started_file: Path) -> MakeWeir:
    """`start_weir(NAME=value, …)` starts a Weir with these settings, until the test ends."""
    return _starting(new_weir, started_file)


@pytest.fixture(scope="module")
def start_shared_weir(migrated_file: Path, started_file: Path) -> Iterator[MakeWeir]:
    """Like start_weir, until the module ends, for module-scoped fixtures."""
    with _weirs(migrated_file) as make:
        yield _starting(make, started_file)


@contextmanager
def _weirs(migrated_file: Path) -> Iterator[MakeWeir]:
    with ExitStack() as made:

        def make(
            *,
            data_dir: Path | None = None,
            until: str = "/readiness",
            root: Path = REPOSITORY,
            app: str = "wsgi:app",
            database_file: Path = migrated_file,
            **env: object,
        ) -> Weir:
            weir = Weir(env, data_dir=data_dir, until=until, root=root, app=app)
            made.callback(_close, weir)
            if data_dir is None:
                weir.data_dir.mkdir()
                shutil.copy(database_file, weir.data_dir)
            return weir

        yield make


def _starting(make: MakeWeir, started_file: Path) -> MakeWeir:
    def start(**settings: Any) -> Weir:
        if "ADMIN_PASSWORD" not in settings:
            settings = {"database_file": started_file} | settings
        return make(**settings).start()

    return start


def _close(weir: Weir) -> None:
    weir.stop()
    # Pytest shows this if the test failed.
    print(weir.raw_logs())
    weir.close()
