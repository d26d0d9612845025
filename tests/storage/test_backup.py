"""Backup and restore, as docs/backup.md has them, on both databases: a copy while calls run, in an
empty Weir."""

from __future__ import annotations

import re
import shutil
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeWeir, database_numbers
from tests.support.administrator import PASSWORD, Administrator
from tests.support.batches import BatchClient, line
from tests.support.books import PRICES, Books
from tests.support.servers import Postgres, Provider, Weir
from webapp.storage import backup

OPENAI = "/v1/chat/completions"
SETTINGS = {
    "SECRET_KEY": "the same secret key of both",
    "ADMIN_PASSWORD": PASSWORD,
    "TIERS": "free=5/minute;premium=20/minute;enterprise=99999/minute",
    "MODEL_PRICES": PRICES,
    "LLM_MAX_RETRIES": 0,
}
CALLERS = 4
IN_FLIGHT = "SELECT count(*) FROM ledger WHERE state = 'reserved' HAVING count(*) >= 5"


@dataclass
class Restored:
    """A Weir that was begun with a backup, and what the other one had at the time and later."""

    weir: Weir
    key: str
    revoked: str
    token: str
    batch: str
    reserved: set[int]
    later: dict[int, dict[str, Any]]


class Traffic:
    """Callers that ask one after another, until they are told to end."""

    def __init__(self, weir: Weir, key: str) -> None:
        self._weir, self._key = weir, key
        self._ended = threading.Event()
        self._pool = ThreadPoolExecutor(CALLERS)
        self._running = [self._pool.submit(self._ask, number) for number in range(CALLERS)]

    def _ask(self, caller: int) -> None:
        for number in range(10_000):
            if self._ended.is_set():
                return
            text = f"call {caller} {number} [[fault:slow=0.4]]"
            body = {"messages": [{"role": "user", "content": text}], "max_tokens": 50}
            assert self._weir.post(OPENAI, key=self._key, json=body).status_code == 200

    def end(self) -> None:
        self._ended.set()
        for running in self._running:
            running.result()
        self._pool.shutdown()


@pytest.fixture(scope="module")
def both(
    start_shared_weir: MakeWeir,
    provider: Provider,
    postgres: Postgres,
    fresh_shared_database: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Restored]:
    """One on each database, at the same time: until calls count as lost, ten seconds pass."""
    settings = SETTINGS | {"OPENAI_BASE_URL": provider.start().base_url}
    folder = tmp_path_factory.mktemp("restored")

    def copy_file(weir: Weir) -> dict[str, Any]:
        done = weir.run_flask("db", "backup", str(folder / "weir.db"))
        assert done.returncode == 0, done.stderr
        # After the database: a file that it does not know is no harm, one that is missing is.
        shutil.copytree(weir.data_dir / "files", folder / "files")
        return {"data_dir": folder}

    def dump(weir: Weir) -> dict[str, Any]:
        dumped = postgres.run("pg_dump", "--format=custom", weir.env["DATABASE_URL"])
        url = postgres.create_database(f"weir_{next(database_numbers)}")
        restore = ["--no-owner", "--exit-on-error", f"--dbname={url}"]
        postgres.run("pg_restore", *restore, stdin=dumped)
        return {"DATABASE_URL": url}

    url = {"DATABASE_URL": fresh_shared_database}
    weirs = [start_shared_weir(**settings), start_shared_weir(**settings, **url)]
    before = [prepared(weir) for weir in weirs]
    places = [copy_file(weirs[0]), dump(weirs[1])]
    made = {}
    for name, weir, known, place in zip(
        ("sqlite", "postgresql"), weirs, before, places, strict=True
    ):
        known["traffic"].end()
        later = {row["id"]: row for row in Books(weir).settled(1)}
        weir.stop()
        anew = start_shared_weir(**settings | place)
        running = Books(anew).rows("SELECT id FROM ledger WHERE state <> 'settled'")
        reserved = {row["id"] for row in running}
        del known["traffic"]
        made[name] = Restored(weir=anew, reserved=reserved, later=later, **known)
    return made


def prepared(weir: Weir) -> dict[str, Any]:
    """Keys, a token, a batch and calls, some of them running."""
    create = ("--tier", "enterprise", "--set", "usd_per_day=100")
    shop, gone = (weir.run_flask("keys", "create", name, *create) for name in ("shop", "gone"))
    [number] = re.findall(r"Created key (\d+)", gone.stderr)
    assert weir.run_flask("keys", "revoke", number).returncode == 0
    key, books = shop.stdout.strip(), Books(weir)
    traffic = Traffic(weir, key)
    books.wait_for("SELECT 1 FROM ledger WHERE state = 'settled'", 20, "a settled call")
    lines = [line(f"line-{number}", f"{number} [[fault:slow=3]]") for number in range(3)]
    batch = BatchClient(weir, key).begin(lines)
    books.wait_for(IN_FLIGHT, 20, "calls and lines in flight")
    token = Administrator(weir).token
    revoked = gone.stdout.strip()
    return {"key": key, "revoked": revoked, "token": token, "batch": batch, "traffic": traffic}


# Named so that no process distributes them by database: each part would make `both` again.
@pytest.fixture(params=["sqlite", "postgresql"], ids="of {}".format)
def restored(request: pytest.FixtureRequest, both: dict[str, Restored]) -> Restored:
    return both[request.param]


def test_keys_accounts_and_sessions_work_and_what_was_revoked_does_not(restored: Restored) -> None:
    weir = restored.weir

    assert weir.get("/v1/key", key=restored.key).json()["name"] == "shop"
    assert weir.get("/v1/key", key=restored.revoked).status_code == 401
    assert Administrator(weir).get("/admin/keys").status_code == 200
    signed_in = weir.get("/admin/keys", headers={"Authorization": f"Bearer {restored.token}"})
    assert signed_in.status_code == 200, "the same SECRET_KEY"


def test_calls_of_the_time_of_the_backup_are_booked_at_their_ceilings(restored: Restored) -> None:
    books = Books(restored.weir)
    assert restored.reserved, "calls were running"
    rows = {row["id"]: row for row in books.settled(len(restored.reserved), timeout=40)}

    for number in restored.reserved:
        assert rows[number]["state"] == "lost"
        assert rows[number]["cost_nano"] == rows[number]["ceiling_nano"]
        assert rows[number]["cost_nano"] >= restored.later[number]["cost_nano"], "never too low"
    settled = [
        row for row in rows.values() if row["id"] in restored.later and row["state"] == "settled"
    ]
    assert settled
    assert all(row["cost_nano"] == restored.later[row["id"]]["cost_nano"] for row in settled)


def test_a_running_batch_is_completed_with_each_line_once(restored: Restored) -> None:
    client = BatchClient(restored.weir, restored.key)

    batch = client.ended(restored.batch)
    assert batch.status == "completed"
    written = [one["custom_id"] for one in client.output(batch)]
    assert sorted(written) == ["line-0", "line-1", "line-2"]


def test_the_ledger_and_the_budgets_agree_to_the_nano_usd(restored: Restored) -> None:
    weir, books = restored.weir, Books(restored.weir)

    rows = books.settled(1)
    books.check_sums(rows)
    detailed = weir.get("/health/detailed", key=restored.key).json()
    assert detailed["weir_ledger_drift"] == 0
    spent = sum(row["cost_nano"] for row in rows)
    told = weir.get("/v1/key", key=restored.key).json()["spend_usd"]["month"]
    assert round(told * 1e9) == spent


def test_another_secret_key_ends_sessions_and_leaves_the_keys(both: dict[str, Restored]) -> None:
    restored = both["sqlite"]
    weir = restored.weir
    weir.stop()
    weir.env["SECRET_KEY"] = "another secret key than before"
    weir.start()

    told = weir.get("/admin/keys", headers={"Authorization": f"Bearer {restored.token}"})
    assert told.status_code == 401
    assert weir.get("/v1/key", key=restored.key).status_code == 200
    assert Administrator(weir).get("/admin/keys").status_code == 200


def test_a_backup_is_private_replaces_nothing_and_names_what_is_wrong(
    new_weir: MakeWeir, tmp_path: Path
) -> None:
    weir, file = new_weir(), tmp_path / "copy.db"

    assert weir.run_flask("db", "backup", str(file)).returncode == 0
    assert file.stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(file)) as copy:
        assert copy.execute("SELECT count(*) FROM alembic_version").fetchone() == (1,)
    again = weir.run_flask("db", "backup", str(file))
    assert (again.returncode, "File exists" in again.stderr) == (1, True)
    nowhere = weir.run_flask("db", "backup", str(tmp_path / "none" / "copy.db"))
    assert (nowhere.returncode, "No such file" in nowhere.stderr) == (1, True)
    other = weir.run_flask("db", "backup", "copy.db", DATABASE_URL="postgresql://db/weir")
    assert (other.returncode, "pg_dump" in other.stderr) == (1, True)


def test_a_damaged_database_makes_no_backup(new_weir: MakeWeir, tmp_path: Path) -> None:
    weir, file = new_weir(data_dir=tmp_path), tmp_path / "copy.db"
    (tmp_path / "weir.db").write_bytes(b"not a database at all " * 1000)

    done = weir.run_flask("db", "backup", str(file))
    assert done.returncode == 1
    assert not list(tmp_path.glob("copy*"))


def test_what_a_killed_backup_leaves_is_no_backup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, file = tmp_path / "weir.db", tmp_path / "copy.db"
    with closing(sqlite3.connect(source)) as database:
        database.execute("CREATE TABLE kept (number INTEGER)")
    seen: list[bool] = []

    def ended(_: Path) -> None:
        seen.append(file.exists())
        raise KeyboardInterrupt

    monkeypatch.setattr(backup, "_check", ended)
    with pytest.raises(KeyboardInterrupt):
        backup.copy_sqlite(source, file)
    assert (seen, list(tmp_path.glob("copy*"))) == ([False], [])
