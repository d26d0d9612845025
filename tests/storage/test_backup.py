"""Backup and restore, as docs/backup.md has them, on both databases: a copy while calls run, in an
empty Weir."""

from __future__ import annotations

import json
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
from tests.support.servers import Postgres, Provider, Weir, wait_until

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


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def restored(
    request: pytest.FixtureRequest,
    start_shared_weir: MakeWeir,
    provider: Provider,
    tmp_path_factory: pytest.TempPathFactory,
) -> Restored:
    settings = SETTINGS | {"OPENAI_BASE_URL": provider.start().base_url}
    postgres: Postgres | None = None
    if request.param == "postgresql":
        postgres = request.getfixturevalue("postgres")
        settings |= {"DATABASE_URL": request.getfixturevalue("fresh_shared_database")}
    weir = start_shared_weir(**settings)
    made = [
        weir.run_flask("keys", "create", name, "--tier", "enterprise", "--set", "usd_per_day=100")
        for name in ("shop", "gone")
    ]
    key, revoked = (one.stdout.strip() for one in made)
    assert weir.run_flask("keys", "revoke", "2").returncode == 0
    token = Administrator(weir).token
    traffic, books = Traffic(weir, key), Books(weir)
    books.wait_for("SELECT 1 FROM ledger WHERE state = 'settled'", 20, "a settled call")
    lines = [line(f"line-{number}", f"{number} [[fault:slow=1]]") for number in range(3)]
    batch = BatchClient(weir, key).begin(lines)
    books.wait_for(IN_FLIGHT, 20, "calls and lines in flight")
    folder = tmp_path_factory.mktemp("restored")
    if postgres:
        dump = postgres.run("pg_dump", "--format=custom", weir.env["DATABASE_URL"])
        url = postgres.create_database(f"weir_{next(database_numbers)}")
        postgres.run("pg_restore", "--no-owner", "--exit-on-error", f"--dbname={url}", stdin=dump)
        settings |= {"DATABASE_URL": url}
    else:
        done = weir.run_flask("db", "backup", str(folder / "weir.db"))
        assert done.returncode == 0, done.stderr
        # After the database: a file that it does not know is no harm, one that is missing is.
        shutil.copytree(weir.data_dir / "files", folder / "files")
    traffic.end()
    later = {row["id"]: row for row in books.settled(1)}
    assert weir.terminate() == 0
    # Nothing asks the restored one but the tests.
    made_anew = start_shared_weir(data_dir=folder, **settings)
    reserved = {
        row["id"] for row in Books(made_anew).rows("SELECT id FROM ledger WHERE state <> 'settled'")
    }
    return Restored(made_anew, key, revoked, token, batch, reserved, later)


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

    def ended() -> Any:
        batch = client.sdk.batches.retrieve(restored.batch)
        return batch if batch.status == "completed" else None

    batch = wait_until(ended, 60, "the end of the batch")
    written = client.sdk.files.content(batch.output_file_id).text.splitlines()
    assert sorted(json.loads(one)["custom_id"] for one in written) == ["line-0", "line-1", "line-2"]


def test_the_ledger_and_the_budgets_agree_to_the_nano_usd(restored: Restored) -> None:
    weir, books = restored.weir, Books(restored.weir)

    rows = books.settled(1)
    books.check_sums(rows)
    doctor = weir.run_flask("doctor")
    assert "drift" not in doctor.stdout + doctor.stderr or "0" in doctor.stdout
    spent = sum(row["cost_nano"] for row in rows)
    told = weir.get("/v1/key", key=restored.key).json()["spend_usd"]["month"]
    assert round(told * 1e9) == spent


def test_another_secret_key_ends_sessions_and_leaves_the_keys(restored: Restored) -> None:
    weir = restored.weir
    assert weir.terminate() == 0
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
    assert not file.exists()
