"""Native batches: submitted once, collected once, settled once, whatever happens meanwhile."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, update

from tests.batches.native_weir import CHAT, NativeWeir, settings_of
from tests.support.servers import REPOSITORY, Provider, wait_until
from webapp.batches.native.openai import OpenAIBatches
from webapp.batches.tables import BatchState, Mode
from webapp.llm.routing import Target
from webapp.metering.calls import ledger
from webapp.metering.ledger import _settle_at_ceilings

Lines = list[dict[str, Any]]
Start = Callable[[dict[str, str]], NativeWeir]


def chat(number: int, model: str = "stand-in-1", **fields: Any) -> dict[str, Any]:
    said = fields.pop("said", f"line {number}")
    return {"model": model, "messages": [{"role": "user", "content": said}], **fields}


def chats(count: int, **fields: Any) -> Lines:
    return [chat(number, **fields) for number in range(count)]


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        return str(request.getfixturevalue("fresh_database"))
    file = tmp_path / "weir.db"
    file.write_bytes(request.getfixturevalue("migrated_file").read_bytes())
    return ""


@pytest.fixture
def env(provider: Provider, tmp_path: Path, database_url: str) -> dict[str, str]:
    return settings_of(provider, tmp_path, database_url)


@pytest.fixture
def start(provider: Provider) -> Iterator[Callable[[dict[str, str]], NativeWeir]]:
    """Starts workers with these settings, until the test ends."""
    started: list[NativeWeir] = []

    def begin(env: dict[str, str]) -> NativeWeir:
        started.append(NativeWeir(env))
        return started[-1]

    yield begin
    for worker in started:
        worker.close()


@pytest.fixture
def weir(sqlite_env: dict[str, str], start: Start) -> NativeWeir:
    return start(sqlite_env)


@pytest.fixture
def each_weir(env: dict[str, str], start: Start) -> NativeWeir:
    """One of each database."""
    return start(env)


@pytest.fixture
def sqlite_env(provider: Provider, tmp_path: Path, migrated_file: Path) -> dict[str, str]:
    (tmp_path / "weir.db").write_bytes(migrated_file.read_bytes())
    return settings_of(provider, tmp_path, "")


def submitted(weir: NativeWeir, provider: Provider, lines: Lines, **how: Any) -> Any:
    """A batch that the provider has, and holds as it is."""
    provider.move_batches(held=True)
    batch = weir.batch(lines, **how)
    assert batch.mode is Mode.NATIVE, batch
    weir.step()
    return batch


def forget_others(weir: NativeWeir) -> None:
    """Take all other workers for gone, as the sweep does after some seconds."""
    own = weir.services.ledger.worker_id
    others = f"DELETE FROM workers WHERE id <> {own}"
    weir.database.write(lambda connection: connection.exec_driver_sql(others))


def posted(provider: Provider) -> list[dict[str, Any]]:
    """The batches that the provider was asked to make."""
    return [call for call in provider.calls("/v1/batches") if call["method"] == "POST"]


def test_a_native_batch_is_answered_at_the_batch_price(
    each_weir: NativeWeir, provider: Provider
) -> None:
    assert not each_weir.native.batches.any_open()
    batch = submitted(each_weir, provider, chats(7))
    assert each_weir.native.batches.any_open()
    assert each_weir.lines() == {"running": 7}
    assert each_weir.reserved() > 0
    each_weir.step()
    assert each_weir.lines() == {"running": 7}, "it has not ended"
    provider.move_batches(move="completed")
    assert each_weir.step() is None
    assert not each_weir.native.batches.any_open()
    assert each_weir.lines() == {"succeeded": 7}
    assert each_weir.check_money(provider) > 0
    batch, output, errors = each_weir.finish(batch)
    assert (batch.state, errors) == (BatchState.COMPLETED, [])
    assert [line["custom_id"] for line in output] == [f"c-{n}" for n in range(7)]
    for number, line in enumerate(output):
        assert line["response"]["status_code"] == 200
        [choice] = line["response"]["body"]["choices"]
        assert f"line {number}" in choice["message"]["content"]
        assert line["response"]["body"]["x_stand_in"]["large"] == 12345678901234567890
        assert line["weir"]["mode"] == "native"
        assert line["weir"]["cost_usd"] > 0
    rows = each_weir.rows("SELECT * FROM ledger")
    assert {(row["service_tier"], row["state"]) for row in rows} == {("batch", "settled")}
    assert provider.batches()[0]["ids"] == [
        f"{each_weir.parts()[0]['token']}-{number}" for number in range(1, 8)
    ]


def test_lines_that_fail_at_the_provider_cost_nothing(weir: NativeWeir, provider: Provider) -> None:
    batch = submitted(weir, provider, [*chats(3), chat(3, said="[[fault:status=500]]")])
    provider.move_batches(move="completed")
    weir.step()
    weir.check_money(provider)
    batch, output, [error] = weir.finish(batch)
    assert len(output) == 3
    assert (batch.state, batch.succeeded, batch.failed) == (BatchState.COMPLETED, 3, 1)
    assert (error["custom_id"], error["response"]["status_code"]) == ("c-3", 500)


def test_an_error_code_that_no_database_can_hold_is_cleaned(
    each_weir: NativeWeir, provider: Provider
) -> None:
    code = "bad\0code" + "x" * 100
    batch = submitted(
        each_weir, provider, [*chats(2), chat(2, said=f"[[fault:status=500,code={code}]]")]
    )
    provider.move_batches(move="completed")
    assert each_weir.step() is None
    each_weir.check_money(provider)
    batch, output, [error] = each_weir.finish(batch)
    assert len(output) == 2
    assert error["response"]["body"]["error"]["code"] == code
    assert batch.failures == {("badcode" + "x" * 100)[:63]: 1}


@pytest.mark.parametrize("outcome", ["expired", "cancelled"])
def test_what_was_run_of_a_batch_that_expired_is_charged(
    weir: NativeWeir, provider: Provider, outcome: str
) -> None:
    batch = submitted(weir, provider, chats(6))
    provider.move_batches(move=outcome, run=2)
    weir.step()
    assert weir.check_money(provider) > 0
    batch, output, errors = weir.finish(batch)
    assert (len(output), len(errors)) == (2, 4)
    assert {line["error"]["code"] for line in errors} == {f"batch_{outcome}"}


def test_a_batch_that_is_cancelled_is_cancelled_at_the_provider_and_collected(
    each_weir: NativeWeir, provider: Provider
) -> None:
    batch = submitted(each_weir, provider, chats(6))
    provider.move_batches(move="in_progress")
    each_weir.services.batches.cancel(batch)
    each_weir.step()
    assert provider.batches()[0]["status"] == "cancelling"
    each_weir.step()
    provider.move_batches(move="cancelled", run=2)
    assert each_weir.step() is None
    each_weir.check_money(provider)
    batch, output, errors = each_weir.finish(batch)
    assert (batch.state, len(output), len(errors)) == (BatchState.CANCELLED, 2, 4)


def test_a_batch_that_is_cancelled_before_it_was_submitted_costs_nothing(
    weir: NativeWeir, provider: Provider
) -> None:
    batch = weir.batch(chats(3))
    provider.fault(status=503, path="/v1/files")
    weir.step()
    assert weir.reserved() > 0
    weir.services.batches.cancel(batch)
    assert weir.step() is None
    assert weir.lines() == {"failed": 3}
    assert weir.check_money(provider) == 0
    batch, output, errors = weir.finish(batch)
    assert (batch.state, len(output), len(errors)) == (BatchState.CANCELLED, 0, 3)


@pytest.mark.parametrize("taken", [False, True], ids=["before", "after"])
def test_a_submission_that_was_cut_is_made_once(
    weir: NativeWeir, provider: Provider, taken: bool
) -> None:
    provider.move_batches(held=True)
    batch = weir.batch(chats(4))
    cut: dict[str, Any] = {"cut_after": True} if taken else {"cut_before": True}
    provider.fault(path="/v1/batches", times=1, **cut)
    weir.step()
    assert [part["state"] for part in weir.parts()] == ["submitting"]
    assert len(provider.batches()) == taken
    weir.step()
    assert [part["state"] for part in weir.parts()] == ["submitted"]
    [at_provider] = provider.batches()
    provider.move_batches(move="completed")
    weir.step()
    weir.check_money(provider)
    assert at_provider["metadata"] == {"weir_token": weir.parts()[0]["token"]}
    assert weir.finish(batch)[0].succeeded == 4


@pytest.mark.parametrize("taken", [False, True], ids=["before", "after"])
def test_a_worker_that_is_killed_while_it_submits_leaves_one_batch(
    env: dict[str, str], each_weir: NativeWeir, provider: Provider, taken: bool
) -> None:
    provider.move_batches(held=True)
    batch = each_weir.batch(chats(4))
    hang: dict[str, Any] = {"hang_after": True} if taken else {"hang": True}
    provider.fault(path="/v1/batches", times=1, **hang)
    command = [sys.executable, "-m", "tests.batches.native_weir", json.dumps(env)]
    with subprocess.Popen(command, cwd=REPOSITORY) as killed:
        wait_until(lambda: posted(provider), 20, "the submission")
        wait_until(lambda: len(provider.batches()) == taken, 5, "the batch")
        killed.send_signal(signal.SIGKILL)
    each_weir.step()
    assert [part["state"] for part in each_weir.parts()] == ["submitting"], (
        "it belongs to the killed one"
    )
    forget_others(each_weir)
    each_weir.services.batch_lines.free_lost()
    each_weir.services.ledger.tick()
    assert each_weir.lines() == {"running": 4}, "the provider may have them"
    states = {row["state"] for row in each_weir.rows("SELECT state FROM ledger")}
    assert states == {"reserved"}, "what it may have been paid stays reserved"
    each_weir.step()
    assert len(provider.batches()) == 1
    provider.move_batches(move="completed")
    each_weir.step()
    each_weir.check_money(provider)
    assert each_weir.finish(batch)[0].succeeded == 4


def test_two_workers_that_begin_a_batch_at_once_begin_one_part(
    env: dict[str, str], each_weir: NativeWeir, start: Start, provider: Provider
) -> None:
    other = start(env)
    provider.move_batches(held=True)
    batch = each_weir.batch(chats(600))
    first, second = each_weir.native.batches, other.native.batches
    # Both have looked before either has begun.
    for worker, [ready] in [(first, first._parts.ready()), (second, second._parts.ready())]:
        worker._begin(ready)
    assert len(each_weir.parts()) == 1
    each_weir.step()
    other.step()
    assert [one["lines"] for one in provider.batches()] == [600]
    provider.move_batches(move="completed")
    other.step()
    each_weir.check_money(provider)
    assert each_weir.finish(batch)[0].succeeded == 600


def test_a_worker_that_was_taken_for_gone_while_it_reserves_leaves_the_lines_to_the_next(
    env: dict[str, str], each_weir: NativeWeir, start: Start, provider: Provider
) -> None:
    """It goes on in the middle of its reservation, when another one has reserved them anew."""
    other = start(env)
    provider.move_batches(held=True)
    batch = each_weir.batch(chats(600))
    stalled = each_weir.native.batches._reservation
    reserve, calls = stalled._reserve_some, 0

    def reserve_and_stall(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        reserve(*arguments)
        if calls == 1:
            forget_others(other)
            other.step()

    stalled._reserve_some = reserve_and_stall  # type: ignore[method-assign]
    each_weir.step()
    assert [one["lines"] for one in provider.batches()] == [600]
    assert other.lines() == {"running": 600}
    provider.move_batches(move="completed")
    other.step()
    other.check_money(provider)
    assert other.finish(batch)[0].succeeded == 600


def test_what_is_given_back_is_only_what_its_own_part_has_reserved(
    each_weir: NativeWeir, provider: Provider
) -> None:
    batch = submitted(each_weir, provider, chats(3))
    worker = each_weir.native.batches
    each_weir.due()
    part = worker._parts.take_due(each_weir.services.ledger.worker_id)
    assert part
    worker._reservation._undo(replace(part, first_call=worker._ledger.call_ids(3)))
    assert each_weir.lines() == {"running": 3}
    provider.move_batches(move="completed")
    each_weir.step()
    each_weir.check_money(provider)
    assert each_weir.finish(batch)[0].succeeded == 3


def test_two_workers_that_collect_at_once_settle_once(
    env: dict[str, str], each_weir: NativeWeir, start: Start, provider: Provider
) -> None:
    other = start(env)
    batch = submitted(each_weir, provider, chats(250))
    provider.move_batches(move="completed")
    each_weir.due()
    part = each_weir.native.batches._parts.take_due(each_weir.services.ledger.worker_id)
    assert part
    assert other.native.batches.advance() is not None
    assert each_weir.lines() == {"running": 250}, "it belongs to the first one"
    # Even if both did it, as when the first one was taken for gone.
    with ThreadPoolExecutor() as pool:
        for one in (each_weir, other):
            pool.submit(one.native.batches._take_step, part)
    assert each_weir.lines() == {"succeeded": 250}
    each_weir.check_money(provider)
    assert each_weir.finish(batch)[0].succeeded == 250


def test_results_of_nobody_and_twice_change_nothing(weir: NativeWeir, provider: Provider) -> None:
    batch = submitted(weir, provider, chats(3))
    provider.move_batches(move="completed", unknown=2, twice=True)
    assert weir.step() is None
    weir.check_money(provider)
    assert weir.finish(batch)[0].succeeded == 3


def test_a_result_that_is_missing_is_looked_for_and_then_booked_at_its_ceiling(
    weir: NativeWeir, provider: Provider
) -> None:
    batch = submitted(weir, provider, chats(3))
    provider.move_batches(move="completed", drop=1)
    for _ in range(3):
        assert weir.step() is not None
        assert weir.lines() == {"succeeded": 2, "running": 1}
    assert weir.step() is None
    [row] = weir.rows("SELECT * FROM ledger WHERE state <> 'settled'")
    assert (row["state"], row["cost_nano"]) == ("cut", row["ceiling_nano"])
    assert weir.reserved() == 0
    _, _, [error] = weir.finish(batch)
    assert error["error"]["code"] == "result_missing"


@pytest.mark.parametrize("budget", [{}, {"TIER_ENTERPRISE": "usd_per_day=1"}])
def test_what_has_no_price_any_more_when_it_is_collected_is_booked_at_its_ceiling(
    sqlite_env: dict[str, str], start: Start, provider: Provider, budget: dict[str, str]
) -> None:
    env = sqlite_env | budget
    batch = submitted(start(env), provider, chats(3))
    provider.move_batches(move="completed")
    weir = start(env | {"MODEL_PRICES": "anthropic/*: input=1, output=2"})
    assert weir.step() is None
    rows = weir.rows("SELECT * FROM ledger")
    assert [row["cost_nano"] for row in rows] == [row["ceiling_nano"] for row in rows]
    assert all(row["input_tokens"] for row in rows), "the tokens are known"
    spent = {(b["spent_nano"], b["reserved_nano"]) for b in weir.rows("SELECT * FROM budgets")}
    assert spent == {(sum(row["ceiling_nano"] for row in rows), 0)}
    assert weir.finish(batch)[0].succeeded == 3


def test_a_route_that_is_renamed_while_its_batch_runs_changes_no_cost(
    sqlite_env: dict[str, str], start: Start, provider: Provider
) -> None:
    env = sqlite_env | {"MODEL_ROUTES": "fast=anthropic/stand-in-claude"}
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY"):
        del env[name]
    batch = submitted(start(env), provider, chats(3, model="fast", max_tokens=50))
    provider.move_batches(move="completed")
    weir = start(env | {"MODEL_ROUTES": "quick=anthropic/stand-in-claude"})
    assert weir.step() is None
    assert weir.check_money(provider) > 0
    assert weir.finish(batch)[0].succeeded == 3


def test_an_input_that_is_gone_when_it_is_collected_leaves_the_ceiling(
    weir: NativeWeir, provider: Provider
) -> None:
    batch = submitted(weir, provider, chats(3))
    provider.move_batches(move="completed")
    assert batch.input_file_id
    weir.blobs.delete(batch.input_file_id)
    assert weir.step() is None
    rows = weir.rows("SELECT * FROM ledger")
    assert [row["cost_nano"] for row in rows] == [row["ceiling_nano"] for row in rows]
    assert weir.reserved() == 0
    assert weir.finish(batch)[0].succeeded == 3


@pytest.mark.parametrize("collected", [True, False], ids=["collected", "given back"])
def test_what_an_older_version_took_for_lost_is_put_right(
    each_weir: NativeWeir, provider: Provider, collected: bool
) -> None:
    if not collected:
        provider.fault(status=503, path="/v1/files")
    provider.move_batches(held=True)
    batch = each_weir.batch(chats(3))
    each_weir.step()

    def sweep(connection: Connection) -> None:
        """As a version does that has neither this column nor calls without a worker."""
        connection.execute(update(ledger).values(batch_id=None))
        assert _settle_at_ceilings(connection, "WorkerLost", ledger.c.state == "reserved") == 3
        connection.execute(update(ledger).values(batch_id=batch.id))

    each_weir.database.write(sweep)
    if collected:
        provider.move_batches(move="completed")
    else:
        each_weir.services.batches.cancel(batch)
    assert each_weir.step() is None
    assert (each_weir.check_money(provider) > 0) is collected
    each_weir.finish(batch)


def test_a_download_that_is_cut_goes_on_later(weir: NativeWeir, provider: Provider) -> None:
    batch = submitted(weir, provider, chats(300))
    provider.move_batches(move="completed")
    provider.fault(cut=True)
    weir.step()
    assert weir.lines()["running"] > 0
    provider.fault()
    assert weir.step() is None
    weir.check_money(provider)
    assert weir.finish(batch)[0].succeeded == 300


def test_a_file_that_the_provider_refuses_fails_its_lines(
    weir: NativeWeir, provider: Provider
) -> None:
    batch = submitted(weir, provider, chats(2))
    provider.move_batches(move="failed", run=0)
    weir.step()
    assert weir.check_money(provider) == 0
    assert weir.finish(batch)[0].failed == 2


def test_the_ceiling_is_reserved_while_it_runs_and_others_see_it(
    env: dict[str, str], start: Start, provider: Provider
) -> None:
    weir = start(env | {"TIER_ENTERPRISE": "usd_per_day=0.01"})
    batch = submitted(weir, provider, chats(5, max_tokens=1000))
    assert weir.reserved() > 5 * 1000 * 1_000
    later = weir.batch(chats(5, max_tokens=1000))
    weir.step()
    assert len(provider.batches()) == 1, "what is reserved is not reserved twice"
    provider.move_batches(move="completed")
    weir.step()
    weir.step()
    assert len(provider.batches()) == 2
    provider.move_batches(move="completed")
    weir.step()
    weir.rows("SELECT 1")
    assert [weir.finish(one)[0].succeeded for one in (batch, later)] == [5, 5]
    assert {row["reserved_nano"] for row in weir.rows("SELECT * FROM budgets")} == {0}


def test_a_batch_that_costs_more_than_its_cap_ends(
    each_weir: NativeWeir, provider: Provider
) -> None:
    batch = each_weir.batch(chats(600), cap_nano=2_000_000)
    each_weir.step()
    assert provider.batches() == []
    assert each_weir.lines() == {"failed": 600}
    assert each_weir.check_money(provider) == 0
    batch, _, errors = each_weir.finish(batch)
    assert batch.state is BatchState.COMPLETED
    assert {line["error"]["code"] for line in errors} == {"cost_cap_reached"}


@pytest.mark.parametrize(
    ("lines", "how", "mode", "reason"),
    [
        (chats(3), {}, Mode.NATIVE, "50% lower"),
        (chats(3), {"cap_nano": 1_000}, Mode.DIRECT, "does not fit weir_cost_cap_usd"),
        (chats(3) + chats(1, model="stand-in-2"), {}, Mode.DIRECT, "has one model"),
        (chats(3), {"window": "7d"}, Mode.DIRECT, "completion window"),
    ],
)
def test_auto_chooses_by_price_and_budget_and_says_why(
    sqlite_env: dict[str, str],
    start: Start,
    provider: Provider,
    lines: Lines,
    how: Any,
    mode: Mode,
    reason: str,
) -> None:
    batch = start(sqlite_env).batch(lines, mode="auto", **how)
    assert batch.mode is mode
    assert reason in str(batch.mode_reason)


@pytest.mark.parametrize(
    ("settings", "fault", "reason"),
    [
        ({"MODEL_PRICES": "openai/*: input=1, output=2"}, {}, "no batch price"),
        ({"MODEL_PRICES": "openai/*: input=1, output=2, batch.factor=1"}, {}, "not lower"),
        ({}, {"status": 404}, "no batches of its own"),
        ({}, {"status": 503}, "did not say"),
    ],
)
def test_auto_goes_directly_where_native_is_no_use(
    sqlite_env: dict[str, str],
    start: Start,
    provider: Provider,
    settings: Any,
    fault: Any,
    reason: str,
) -> None:
    if fault:
        provider.fault(path="/v1/batches", **fault)
    batch = start(sqlite_env | settings).batch(chats(2), mode="auto")
    assert batch.mode is Mode.DIRECT
    assert reason in str(batch.mode_reason)


def test_a_native_batch_that_is_not_possible_fails_in_validating(
    sqlite_env: dict[str, str], start: Start, provider: Provider
) -> None:
    weir = start(sqlite_env | {"MODEL_PRICES": "openai/*: input=1, output=2"})
    batch = weir.batch(chats(2))
    assert batch.state is BatchState.FAILED
    assert batch.errors
    assert batch.errors[0]["code"] == "native_not_possible"


def test_embeddings_are_batched_too(
    sqlite_env: dict[str, str], start: Start, provider: Provider
) -> None:
    weir = start(sqlite_env)
    lines = [{"model": "stand-in-1", "input": f"text {number}"} for number in range(3)]
    batch = submitted(weir, provider, lines, endpoint="/v1/embeddings")
    provider.move_batches(move="completed")
    assert weir.step() is None
    weir.check_money(provider)
    _, output, _ = weir.finish(batch)
    assert [len(line["response"]["body"]["data"]) for line in output] == [1, 1, 1]


@pytest.mark.parametrize("version", ["", "2024-10-21"])
def test_azure_has_batches_too(
    sqlite_env: dict[str, str], start: Start, provider: Provider, version: str
) -> None:
    env = sqlite_env | {
        "AZURE_OPENAI_API_KEY": "key",
        "AZURE_OPENAI_ENDPOINT": provider.azure_url,
        "OPENAI_API_VERSION": version,
    }
    weir = start(env)
    batch = submitted(weir, provider, chats(3, model="azure/deployed"))
    provider.move_batches(move="completed")
    assert weir.step() is None
    weir.check_money(provider)
    assert weir.finish(batch)[0].succeeded == 3
    [call, *_] = [one for one in provider.calls() if one["path"].endswith("/files")]
    assert call["headers"]["api-key"] == "key"
    assert "authorization" not in call["headers"]
    assert call["query"] == (f"api-version={version}" if version else "")


def claude(count: int, **fields: Any) -> Lines:
    return chats(count, model="anthropic/stand-in-claude", max_tokens=50, **fields)


def test_anthropic_has_batches_of_chat_completions(weir: NativeWeir, provider: Provider) -> None:
    tool = {"name": "look", "parameters": {"type": "object", "properties": {}}}
    lines = claude(3) + claude(1, tools=[{"type": "function", "function": tool}], said="look")
    lines += claude(1, said="[[fault:status=529]]") + claude(1, logit_bias={"1": 2})
    batch = submitted(weir, provider, lines)
    assert weir.lines() == {"running": 5, "failed": 1}, "one cannot be asked of Claude"
    provider.move_batches(move="completed")
    assert weir.step() is None
    weir.check_money(provider)
    batch, output, errors = weir.finish(batch)
    assert [line["custom_id"] for line in output] == ["c-0", "c-1", "c-2", "c-3"]
    assert output[0]["response"]["body"]["object"] == "chat.completion"
    assert output[3]["response"]["body"]["choices"][0]["finish_reason"] == "tool_calls"
    statuses = {line["custom_id"]: line["response"]["status_code"] for line in errors}
    assert statuses == {"c-4": 529, "c-5": 400}
    assert provider.batches()[0]["deleted"]


def test_a_large_batch_for_anthropic_does_not_block_the_event_loop_at_once(
    weir: NativeWeir, provider: Provider
) -> None:
    """The event loop turns between lines, and while it waits for the provider."""
    worker = weir.native.batches
    api = worker._make(worker._providers["anthropic"])
    assert api
    blocks = [{"type": "text", "text": "x" * 100}]
    parameters = {
        "model": "stand-in-claude",
        "max_tokens": 10,
        "system": blocks,
        "messages": [{"role": role, "content": blocks} for role in ("user", "assistant", "user")],
    }
    read_at = 0.0

    def lines() -> Iterator[bytes]:
        nonlocal read_at
        for number in range(api.max_lines):
            line = {"custom_id": f"weir-{number}", "params": parameters, "headers": {}}
            yield json.dumps(line).encode()
        read_at = time.process_time()

    api.create("weir", CHAT, None, lines())
    assert time.process_time() - read_at < 0.3
    assert [one["lines"] for one in provider.batches()] == [api.max_lines]


@pytest.mark.parametrize("taken", [False, True], ids=["before", "after"])
def test_a_submission_to_anthropic_that_was_cut_is_made_once(
    sqlite_env: dict[str, str], start: Start, provider: Provider, taken: bool
) -> None:
    weir = start(sqlite_env)
    provider.move_batches(held=True)
    batch = weir.batch(claude(4))
    cut: dict[str, Any] = {"cut_after": True} if taken else {"cut_before": True}
    provider.fault(path="/anthropic/v1/messages/batches", times=1, **cut)
    weir.step()
    assert [part["state"] for part in weir.parts()] == ["submitting"]
    weir.step()
    # While it runs there, nothing says whose it is.
    assert [part["state"] for part in weir.parts()] == ["submitting" if taken else "submitted"]
    provider.move_batches(move="completed")
    weir.step()
    weir.step()
    assert len(provider.batches()) == 1
    weir.check_money(provider)
    assert weir.finish(batch)[0].succeeded == 4


@pytest.mark.parametrize("outcome", ["expired", "cancelled"])
def test_what_anthropic_has_run_of_a_batch_that_ended_early_is_charged(
    sqlite_env: dict[str, str], start: Start, provider: Provider, outcome: str
) -> None:
    weir = start(sqlite_env)
    batch = submitted(weir, provider, claude(6))
    if outcome == "cancelled":
        weir.services.batches.cancel(batch)
        weir.step()
        assert provider.batches()[0]["status"] == "cancelling"
    provider.move_batches(move=outcome, run=2)
    assert weir.step() is None
    weir.check_money(provider)
    _, output, errors = weir.finish(batch)
    assert (len(output), len(errors)) == (2, 4)
    assert {line["error"]["code"] for line in errors} == {f"batch_{outcome}"}


def test_a_worker_that_is_killed_while_it_reserves_leaves_nothing_reserved_twice(
    env: dict[str, str], each_weir: NativeWeir, start: Start, provider: Provider
) -> None:
    provider.move_batches(held=True)
    batch = each_weir.batch(chats(6))
    killed = start(env).native.batches
    [waiting] = killed._parts.ready()
    killed._begin(waiting)
    part = killed._parts.take_due(killed._ledger.worker_id)
    assert part
    of_part = killed._providers[part.provider]
    api, target = killed._make(of_part), Target(of_part, part.model)
    assert api
    calls, _, last_line = killed._reservation._measure(part, api, target)
    first_call = killed._ledger.call_ids(6)
    begun = {"first_call": first_call, "last_line": last_line}
    killed._parts.change(part, **begun)
    killed._reservation._reserve_some(replace(part, **begun), {n: calls[n] for n in (1, 2, 3)})
    assert each_weir.lines() == {"waiting": 3, "running": 3}
    half = each_weir.reserved()
    forget_others(each_weir)
    each_weir.step()
    assert each_weir.lines() == {"running": 6}
    assert each_weir.reserved() == 2 * half
    provider.move_batches(move="completed")
    each_weir.step()
    each_weir.check_money(provider)
    assert len(each_weir.rows("SELECT * FROM ledger")) == 6
    assert each_weir.finish(batch)[0].succeeded == 6


def test_a_batch_that_is_too_large_for_the_provider_goes_in_parts(
    weir: NativeWeir, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OpenAIBatches, "max_lines", 3)
    batch = submitted(weir, provider, chats(7))
    weir.step()
    weir.step()
    assert [one["lines"] for one in provider.batches()] == [3, 3, 1]
    for number in range(1, 4):
        provider.move_batches(move="completed", id=provider.batches()[number - 1]["id"])
        weir.step()
        assert weir.lines()["succeeded"] == min(3 * number, 7)
    weir.check_money(provider)
    _, output, _ = weir.finish(batch)
    assert [line["custom_id"] for line in output] == [f"c-{number}" for number in range(7)]


def test_lines_that_cannot_be_handed_over_are_not_kept_in_memory(
    weir: NativeWeir, provider: Provider
) -> None:
    weir.batch([chat(n, said="x" * 100_000, service_tier="priority") for n in range(40)])
    worker = weir.native.batches
    [ready] = worker._parts.ready()
    worker._begin(ready)
    part = worker._parts.take_due(weir.services.ledger.worker_id)
    assert part
    of_part = worker._providers[part.provider]
    api = worker._make(of_part)
    assert api
    tracemalloc.start()
    try:
        _, failed, _ = worker._reservation._measure(part, api, Target(of_part, part.model))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(failed) == 40
    assert kept < 1_000_000


def test_a_key_that_is_revoked_cancels_its_batch_and_pays_for_what_was_run(
    weir: NativeWeir, provider: Provider
) -> None:
    batch = submitted(weir, provider, chats(4))
    provider.move_batches(move="in_progress")
    revoked = "UPDATE api_keys SET revoked_at = CURRENT_TIMESTAMP"
    weir.database.write(lambda connection: connection.exec_driver_sql(revoked))
    assert weir.services.batches.cancel_revoked() == [batch.id]
    weir.step()
    provider.move_batches(move="cancelled", run=1)
    assert weir.step() is None
    weir.check_money(provider)
    batch, output, errors = weir.finish(batch)
    assert (batch.state, len(output), len(errors)) == (BatchState.CANCELLED, 1, 3)


@pytest.mark.parametrize("reserved", [False, True], ids=["before it reserved", "after"])
def test_a_key_that_is_revoked_before_its_batch_was_submitted_pays_nothing(
    sqlite_env: dict[str, str], start: Start, provider: Provider, reserved: bool
) -> None:
    env = sqlite_env | {"TIER_ENTERPRISE": "usd_per_day=1"}
    first = start(env)
    batch = first.batch(chats(4))
    if reserved:
        provider.fault(status=503, path="/v1/files")
        first.step()
        assert first.reserved() > 0
        provider.fault(path="/v1/files")
    revoked = "UPDATE api_keys SET revoked_at = CURRENT_TIMESTAMP"
    first.database.write(lambda connection: connection.exec_driver_sql(revoked))
    weir = start(env)  # which has not read the key before
    weir.step()
    weir.step()
    assert provider.batches() == []
    assert weir.lines() == {"failed": 4}
    assert weir.check_money(provider) == 0
    batch, _, errors = weir.finish(batch)
    assert batch.state is BatchState.CANCELLED
    assert {line["error"]["code"] for line in errors} == {"key_revoked"}


WITHOUT_OPENAI = {"OPENAI_API_KEY": "", "OPENAI_BASE_URL": ""}


def test_a_provider_that_is_removed_before_it_got_a_batch_costs_nothing(
    sqlite_env: dict[str, str], start: Start, provider: Provider
) -> None:
    first = start(sqlite_env)
    batch = first.batch(chats(3))
    provider.fault(status=503, path="/v1/files")
    first.step()
    assert first.reserved() > 0
    weir = start(sqlite_env | WITHOUT_OPENAI)
    assert weir.step() is None
    assert weir.check_money(provider) == 0
    assert weir.lines() == {"waiting": 3}
    assert weir.services.batches.find(batch.id).mode is Mode.DIRECT


@pytest.mark.parametrize("gone", ["removed", "refusing", "refusing when it is asked for a token"])
def test_a_provider_that_never_comes_back_does_not_hold_the_money_for_ever(
    sqlite_env: dict[str, str],
    start: Start,
    provider: Provider,
    monkeypatch: pytest.MonkeyPatch,
    gone: str,
) -> None:
    weir = start(sqlite_env)
    provider.move_batches(held=True)
    batch = weir.batch(chats(3))
    if gone.endswith("token"):
        provider.fault(path="/v1/batches", times=1, cut_after=True)
    weir.step()
    if gone == "removed":
        weir = start(sqlite_env | WITHOUT_OPENAI)
    else:
        provider.fault(status=401)
    monkeypatch.setattr("webapp.batches.native.native_batches.GIVE_UP_AFTER", 0.0)
    assert weir.step() is not None
    assert weir.lines() == {"running": 3}
    assert weir.reserved() > 0
    ended = "UPDATE batches SET expires_at = created_at"
    weir.database.write(lambda connection: connection.exec_driver_sql(ended))
    monkeypatch.setattr("webapp.batches.native.native_batches.GIVE_UP_AFTER", 60.0)
    assert weir.step() is not None, "it may come back"
    monkeypatch.setattr("webapp.batches.native.native_batches.GIVE_UP_AFTER", 0.0)
    assert weir.step() is None
    assert weir.lines() == {"failed": 3}
    rows = weir.rows("SELECT * FROM ledger")
    assert [row["cost_nano"] for row in rows] == [row["ceiling_nano"] for row in rows]
    assert weir.reserved() == 0
    _, _, errors = weir.finish(batch)
    assert {line["error"]["code"] for line in errors} == {"result_missing"}


def test_a_provider_that_takes_its_time_is_looked_at_until_it_has_ended(
    weir: NativeWeir, provider: Provider
) -> None:
    batch = weir.batch(chats(2))
    looks = 0
    while weir.step() is not None:
        looks += 1
        assert looks < 10
    weir.check_money(provider)
    assert weir.finish(batch)[0].succeeded == 2
