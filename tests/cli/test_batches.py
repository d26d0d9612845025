"""`flask batches`: batches are listed, shown, cancelled and retried without a running server."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeWeir
from tests.support.books import Books
from tests.support.servers import Weir
from tests.support.stored_batches import StoredBatches

# Of 1,000 lines every fifth has failed, and those from 801 on.
LINES = [b'{"custom_id": "line-%d", "text": "%s"}' % (n, b"x" * (n % 700)) for n in range(1, 1001)]
FAILED = [number for number in range(1, 1001) if number % 5 == 0 or number > 800]
SETTINGS = {"API_KEYS": "test:enterprise:a-test-key-of-16-chars"}


@pytest.fixture(params=["sqlite", "postgresql"])
def weir(
    request: pytest.FixtureRequest, new_weir: MakeWeir, migrated_file: Path, tmp_path: Path
) -> Weir:
    """It is never started."""
    url = f"sqlite:///{shutil.copy(migrated_file, tmp_path)}"
    if request.param == "postgresql":
        url = request.getfixturevalue("fresh_database")
    return new_weir(**SETTINGS, DATABASE_URL=url)


@pytest.fixture
def key_id(weir: Weir) -> int:
    weir.run_flask("keys", "create", "nightly")
    [key] = json.loads(weir.run_flask("keys", "list", "--origin", "operator", "--json").stdout)
    return int(key["id"])


@pytest.fixture
def stored(weir: Weir) -> Iterator[StoredBatches]:
    stored = StoredBatches(weir)
    yield stored
    stored.close()


def shown(weir: Weir, batch_id: str) -> dict[str, Any]:
    done = weir.run_flask("batches", "show", batch_id, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_batches_and_jobs_are_listed_and_shown(
    weir: Weir, key_id: int, stored: StoredBatches
) -> None:
    old = stored.batch(key_id, total=5, succeeded=5, ago=90, spent_nano=1_500_000_000)
    failed = {1: ("timeout", 0, 1), 2: ("timeout", 0, 1)}
    new = stored.batch(key_id, "in_progress", total=9, succeeded=3, failed=2, failed_lines=failed)
    job = stored.batch(key_id + 1, "completed", kind="job", total=1, succeeded=1)
    failed_job = stored.batch(key_id, kind="job", total=1, failed=1, ago=9)
    jobs = weir.run_flask("batches", "list", "--jobs").stdout.splitlines()
    assert [line.split()[:2] for line in jobs[1:]] == [[failed_job, "failed"], [job, "completed"]]
    assert shown(weir, failed_job)["state"] == "failed"
    unknown = weir.run_flask("batches", "list", "--state", "queued")
    assert (unknown.returncode, "Batches have no state 'queued'" in unknown.stderr) == (2, True)
    table = weir.run_flask("batches", "list").stdout
    assert [line.split()[0] for line in table.splitlines()] == ["id", new, old]
    assert f"{key_id}            5/9       2       $0.00" in table
    assert "$1.50" in table
    for options, ids in {
        (): [new, old],
        ("--state", "completed"): [old],
        ("--key", str(key_id + 1)): [],
        ("--jobs",): [failed_job, job],
        ("--jobs", "--state", "completed"): [job],
        ("--jobs", "--state", "failed"): [failed_job],
        ("--limit", "1"): [new],
    }.items():
        listed = json.loads(weir.run_flask("batches", "list", "--json", *options).stdout)
        assert [batch["id"] for batch in listed] == ids, options
    assert "There are more" in weir.run_flask("batches", "list", "--limit", "1").stderr
    assert shown(weir, new)["failures"] == {"timeout": 2}
    assert shown(weir, old)["cost_usd"] == 1.5
    assert "state:           completed" in weir.run_flask("batches", "show", job).stdout


def test_a_batch_is_cancelled_once_it_is_there_and_has_not_ended(
    weir: Weir, key_id: int, stored: StoredBatches
) -> None:
    running, ended = stored.batch(key_id, "in_progress", total=9), stored.batch(key_id)
    done = weir.run_flask("batches", "cancel", running)
    assert (done.returncode, done.stdout) == (0, f"Batch {running} is cancelling.\n")
    assert shown(weir, running)["stopped_by"]["code"] == "batch_cancelled"
    [event] = Books(weir).rows("SELECT actor, target FROM audit WHERE action = 'batch.cancel'")
    assert event == {"actor": "cli", "target": running}
    for batch_id, words in {ended: "is completed and cannot be cancelled", "x": "No batch"}.items():
        refused = weir.run_flask("batches", "cancel", batch_id)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert words in refused.stderr


def test_failed_lines_are_retried_in_a_new_batch(
    weir: Weir, key_id: int, stored: StoredBatches
) -> None:
    content = b"\r\n".join(LINES)
    places = {}
    for number in FAILED:
        position = sum(len(line) + 2 for line in LINES[: number - 1])
        places[number] = ("timeout", position, len(LINES[number - 1]))
    batch = stored.batch(
        key_id, total=1000, succeeded=1000 - len(FAILED), failed=len(FAILED), failed_lines=places,
        input_file_id=stored.file(key_id, content), endpoint="/v1/embeddings", on_lost="fail",
        metadata={"team": "search", "weir_mode": "auto"}, mode="native", cap_nano=5 * 10**9,
    )  # fmt: skip
    done = weir.run_flask("batches", "retry", batch)
    assert done.returncode == 0, done.stderr
    again = shown(weir, done.stdout.strip())
    same = ("key_id", "endpoint", "metadata", "on_lost", "cost_cap_usd")
    before = shown(weir, batch)
    assert {name: again[name] for name in same} == {name: before[name] for name in same}
    assert (again["state"], again["mode"], again["total"]) == ("validating", "auto", 0)
    file = stored.files.find(key_id, again["input_file_id"])
    written = b"".join(stored.files.read(file))
    assert written == b"".join(LINES[number - 1] + b"\n" for number in FAILED)
    assert Books(weir).rows("SELECT * FROM workers") == [], "the command is no worker any more"
    [event] = Books(weir).rows("SELECT actor, target FROM audit WHERE action = 'batch.start'")
    assert event == {"actor": "cli", "target": again["id"]}


def test_what_cannot_be_retried_says_why_and_starts_nothing(
    weir: Weir, key_id: int, stored: StoredBatches
) -> None:
    line = {1: ("timeout", 0, 10)}
    file = stored.file(key_id, b"x" * 100)
    fields: dict[str, Any] = {"total": 1, "failed": 1, "failed_lines": line}
    refused = {
        stored.batch(key_id, **fields, input_file_id="file-gone"): "is not stored any more",
        stored.batch(key_id, total=1, succeeded=1, input_file_id=file): "has no failed lines",
        stored.batch(key_id, "in_progress", **fields, input_file_id=file): "is in_progress",
        stored.batch(key_id, kind="job", total=1, failed=1): "A job cannot be retried",
        stored.batch(99, **fields, input_file_id=file): "Key 99, which the batch is for",
        "batch_unknown": "No batch found",
    }
    for batch_id, words in refused.items():
        done = weir.run_flask("batches", "retry", batch_id)
        assert (done.returncode, done.stdout) == (1, ""), words
        assert words in done.stderr
    full = stored.batch(key_id, **fields, input_file_id=file)
    done = weir.run_flask("batches", "retry", full)
    assert done.returncode == 0, done.stderr
    assert len(Books(weir).rows("SELECT * FROM batches WHERE state = 'validating'")) == 1
