"""Batches from upload to results, by the openai SDK: what succeeds, what is refused, what stops."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

import openai
import pytest

from tests.conftest import MakeWeir
from tests.support.batches import CHAT, BatchClient, jsonl, line
from tests.support.books import PRICES, Books
from tests.support.servers import Provider, Valkey, Weir, wait_until

KEY, OTHER_KEY = "test_key_0123456789", "other_key_0123456789"
POOR_KEY, REVOKED_KEY = "poor_key_0123456789", "gone_key_0123456789"
SETTINGS = {
    "API_KEYS": f"test:enterprise:{KEY},other:slow:{OTHER_KEY},poor:poor:{POOR_KEY},"
    f"gone:enterprise:{REVOKED_KEY}",
    "TIERS": "enterprise=99999/minute;slow=3/minute;poor=9999/minute",
    "TIER_ENTERPRISE": "models=gpt-4o-mini|text-embedding-3-small",
    "TIER_POOR": "usd_per_day=0.0001",
    "MODEL_PRICES": PRICES,
    "CACHE_TTL": 0,
    "LLM_MAX_RETRIES": 0,
    "BREAKER_FAILURES": 1_000_000,
}


@pytest.fixture(scope="module", params=["sqlite", "postgres_and_valkey"])
def weir(request: pytest.FixtureRequest, start_shared_weir: MakeWeir, provider: Provider) -> Weir:
    stores = {}
    if request.param != "sqlite":
        valkey: Valkey = request.getfixturevalue("fresh_shared_valkey")
        database = request.getfixturevalue("fresh_shared_database")
        stores = {"REDIS_URL": valkey.url, "DATABASE_URL": database}
    return start_shared_weir(
        **SETTINGS, **stores, OPENAI_API_KEY="sk-up", OPENAI_BASE_URL=provider.base_url
    )


@pytest.fixture(scope="module")
def books(weir: Weir) -> Books:
    return Books(weir)


@pytest.fixture
def client(weir: Weir) -> BatchClient:
    return BatchClient(weir, KEY)


def test_every_line_is_answered_once_and_billed_once(
    client: BatchClient, provider: Provider, books: Books
) -> None:
    books.forget()
    batch = client.run([line(f"c{number}", f"hello {number}") for number in range(40)])
    assert (batch.status, batch.error_file_id) == ("completed", None)
    assert batch.request_counts.to_dict() == {"total": 40, "completed": 40, "failed": 0}
    output = {one["custom_id"]: one["response"] for one in client.output(batch)}
    assert output.keys() == {f"c{number}" for number in range(40)}
    for number in range(40):
        answer = output[f"c{number}"]
        assert answer["status_code"] == 200
        assert answer["body"]["choices"][0]["message"]["content"] == f"echo: hello {number}"
    rows = books.check(provider)
    assert sorted(row["batch_line"] for row in rows) == list(range(1, 41))
    [of_batch] = books.rows(f"SELECT * FROM budgets WHERE period = '{batch.id}'")
    assert of_batch["spent_nano"] == sum(row["cost_nano"] for row in rows)
    assert of_batch["reserved_nano"] == 0


def test_the_answer_of_a_line_is_that_of_the_endpoint(client: BatchClient) -> None:
    body = line("x", "the same", tools=[{"type": "function", "function": {"name": "f"}}])["body"]
    direct = client.sdk.chat.completions.with_raw_response.create(**body).http_response.json()
    batch = client.run([line("x", "the same", tools=body["tools"])])
    [answer] = client.output(batch)
    assert answer["response"]["body"] == direct


def test_embeddings_are_answered_too(client: BatchClient) -> None:
    request = {"custom_id": "e", "method": "POST", "url": "/v1/embeddings"}
    body = {"model": "text-embedding-3-small", "input": ["one", "two"]}
    batch = client.run([request | {"body": body}], "/v1/embeddings")
    [answer] = client.output(batch)
    assert len(answer["response"]["body"]["data"]) == 2


def test_responses_are_answered_too(client: BatchClient) -> None:
    url = "/v1/responses"
    body = {"model": "gpt-4o-mini", "input": "in a batch", "instructions": "Be brief."}
    lines = [
        {"custom_id": name, "method": "POST", "url": url, "body": body | fields}
        for name, fields in (("kept", {}), ("lost", {"previous_response_id": "resp_nothing"}))
    ]
    batch = client.run(lines, url)
    [answer] = client.output(batch)
    response = answer["response"]["body"]
    assert client.sdk.responses.retrieve(response["id"]).output_text.endswith("in a batch")
    [error] = client.errors(batch)
    assert error["custom_id"] == "lost"
    assert error["response"]["status_code"] == 404
    assert error["response"]["body"]["error"]["code"] == "previous_response_not_found"


def test_batches_are_listed_newest_first_and_belong_to_their_key(
    client: BatchClient, weir: Weir
) -> None:
    first, second = (client.begin([line("c")]) for _ in range(2))
    listed = [batch.id for batch in client.sdk.batches.list(limit=1)]
    assert listed.index(second) < listed.index(first)
    page = client.sdk.batches.list(limit=1)
    assert (page.data[0].id, page.has_more) == (second, True)
    assert client.sdk.batches.list(limit=1, after=second).data[0].id == first
    other = BatchClient(weir, OTHER_KEY)
    with pytest.raises(openai.NotFoundError):
        other.get(first)
    with pytest.raises(openai.NotFoundError):
        other.sdk.batches.cancel(first)
    client.ended(second)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"input_file_id": "file-unknown"}, "input_file_id"),
        ({"endpoint": "/v1/images"}, "endpoint"),
        ({"completion_window": "1 day"}, "completion_window"),
        ({"metadata": {"weir_cost_cap_usd": "-1"}}, "metadata.weir_cost_cap_usd"),
        ({"metadata": {"weir_mode": "fast"}}, "metadata.weir_mode"),
        ({"metadata": {"weir_on_lost": "never"}}, "metadata.weir_on_lost"),
        ({"metadata": {"weir_cost_cap": "5"}}, "metadata.weir_cost_cap"),
        ({"metadata": {"a": "\ud800"}}, "metadata"),
        ({"metadata": {"\ud800": "a"}}, "metadata"),
        ({"metadata": {"a": "\0"}}, "metadata"),
        ({"completion_window": "2٤h"}, "completion_window"),
        ({"metadata": {"n": 1}}, "metadata"),
        ({"metadata": {str(n): "x" for n in range(17)}}, "metadata"),
        ({"output_expires_after": {"anchor": "now", "seconds": 3600}}, "output_expires_after"),
        ({"other": 1}, "other"),
    ],
)
def test_what_is_wrong_with_a_creation_is_named(
    weir: Weir, client: BatchClient, change: dict[str, Any], named: str
) -> None:
    body = {"endpoint": CHAT, "completion_window": "24h", "input_file_id": client.upload(b"{}")}
    response = weir.post("/v1/batches", key=KEY, json=body | change)
    assert (response.status_code, response.json()["error"]["param"]) == (400, named)


def test_what_is_wrong_is_said_in_the_message(weir: Weir, client: BatchClient) -> None:
    body = {"endpoint": CHAT, "completion_window": "24h", "input_file_id": client.upload(b"{}")}
    for change, words in (
        (
            {"metadata": {str(n): "x" for n in range(17)}},
            "metadata: Longer than maximum length 16.",
        ),
        ({"metadata": {"n": "x" * 513}}, "metadata.n.value: Length must be between 0 and 512."),
        ({"other": 1}, "other: Unknown field."),
    ):
        response = weir.post("/v1/batches", key=KEY, json=body | change)
        assert response.json()["error"]["message"] == f"The request is not valid: {words}"
    bad = weir.post("/v1/chat/completions", key=KEY, json={"messages": []}).json()["error"]
    assert bad["message"] == "The request is not valid: messages: Shorter than minimum length 1."


def test_the_openapi_document_names_every_field_of_a_batch(weir: Weir, client: BatchClient) -> None:
    schemas = weir.get("/openapi.json").json()["components"]["schemas"]
    client.run(b"no JSON")
    stopped = client.run(GOOD, weir_cost_cap_usd="0")
    assert stopped.request_counts.failed == 1
    page = weir.get("/v1/batches", key=KEY).json()
    assert page.keys() == schemas["BatchList"]["properties"].keys()
    for batch in page["data"]:
        assert batch.keys() == schemas["BatchObject"]["properties"].keys()
        assert batch["weir"].keys() == schemas["OwnFields"]["properties"].keys()
    last, invalid = page["data"][:2]
    assert last["weir"]["stopped_by"].keys() == schemas["StoppedBy"]["properties"].keys()
    [error] = invalid["errors"]["data"]
    assert error.keys() == schemas["LineError"]["properties"].keys()


def test_no_odd_id_is_found(weir: Weir) -> None:
    for path in ("/v1/batches/a%00b", "/v1/batches?after=a%00b", "/jobs/a%00b", "/v1/batches/%F0"):
        assert weir.get(path, key=KEY).status_code == 404, path


GOOD = jsonl([line("good")])
BAD_LINES = {
    "not JSON": (b"{nonsense}\n", "invalid_json_line"),
    "not an object": (b"[1]\n", "invalid_json_line"),
    "NaN": (b'{"custom_id": NaN}\n', "invalid_json_line"),
    "not UTF-8": (b'{"custom_id": "\xff"}\n', "invalid_json_line"),
    "too deep": (b"[" * 100_000 + b"\n", "invalid_json_line"),
    "no custom_id": (jsonl([line("x") | {"custom_id": None}]), "missing_required_parameter"),
    "custom_id is a number": (jsonl([line("x") | {"custom_id": 7}]), "missing_required_parameter"),
    "custom_id is empty": (jsonl([line("")]), "missing_required_parameter"),
    "custom_id is too long": (jsonl([line("x" * 513)]), "invalid_custom_id"),
    "custom_id is half a pair": (jsonl([line("\ud800")]), "invalid_custom_id"),
    "custom_id has a zero": (jsonl([line("\0")]), "invalid_custom_id"),
    "doubled custom_id": (GOOD, "duplicate_custom_id"),
    "another method": (jsonl([line("x") | {"method": "GET"}]), "invalid_method"),
    "another endpoint": (jsonl([line("x") | {"url": "/v1/embeddings"}]), "mismatched_endpoint"),
    "no body": (jsonl([line("x") | {"body": None}]), "missing_required_parameter"),
    "a bad body": (jsonl([line("x", messages=[])]), "invalid_request"),
    "streamed": (jsonl([line("x", stream=True)]), "invalid_request"),
    "a model that is not allowed": (jsonl([line("x", model="gpt-5")]), "model_not_allowed"),
}


@pytest.mark.parametrize("bad", BAD_LINES)
def test_a_bad_line_fails_the_batch_and_is_named(client: BatchClient, bad: str) -> None:
    content, code = BAD_LINES[bad]
    batch = client.run(GOOD + content)
    assert (batch.status, batch.request_counts.total) == ("failed", 0)
    [error] = batch.errors.data
    assert (error.line, error.code) == (2, code)
    [written] = client.errors(batch)
    assert (written["error"]["line"], written["error"]["code"]) == (2, code)


def test_all_bad_lines_are_named_up_to_a_thousand(client: BatchClient) -> None:
    batch = client.run(b"x\n" * 1_100)
    assert [error.line for error in batch.errors.data] == list(range(1, 101))
    assert len(client.errors(batch)) == 1_000


@pytest.mark.parametrize("content", [b"", b"\n \r\n\n"], ids=["empty", "blank"])
def test_a_file_without_lines_fails_the_batch(
    client: BatchClient, weir: Weir, content: bytes
) -> None:
    if not content:
        with pytest.raises(openai.BadRequestError):
            client.upload(content)
        return
    batch = client.run(content)
    assert [error.code for error in batch.errors.data] == ["empty_file"]


def test_line_ends_of_windows_and_a_byte_order_mark_are_no_fault(client: BatchClient) -> None:
    content = b"\xef\xbb\xbf" + jsonl([line("a"), line("b")]).replace(b"\n", b"\r\n")
    batch = client.run(content.rstrip())
    assert sorted(one["custom_id"] for one in client.output(batch)) == ["a", "b"]


def test_lines_that_the_provider_refuses_end_in_the_error_file(client: BatchClient) -> None:
    lines = [line("good"), line("bad", "hi [[fault:status=400,code=invalid]]")]
    batch = client.run(lines)
    assert batch.request_counts.to_dict() == {"total": 2, "completed": 1, "failed": 1}
    [error] = client.errors(batch)
    assert (error["custom_id"], error["response"]["status_code"]) == ("bad", 400)
    assert error["response"]["body"]["error"]["type"] == "invalid_request_error"


def test_a_line_that_fails_is_tried_three_times(client: BatchClient, provider: Provider) -> None:
    batch = client.ended(client.begin([line("x", "no [[fault:status=500]]")]))
    [error] = client.errors(batch)
    assert error["response"]["status_code"] == 502
    assert len(provider.completions()) == 3


def test_lines_wait_while_the_provider_is_busy(client: BatchClient, provider: Provider) -> None:
    provider.fault(status=429, retry_after="1")
    batch_id = client.begin([line(f"c{number}") for number in range(12)])
    wait_until(lambda: len(provider.completions()) >= 2, 20)
    provider.reset()
    batch = client.ended(batch_id)
    assert batch.request_counts.to_dict() == {"total": 12, "completed": 12, "failed": 0}


def test_lines_count_against_no_limit_of_requests(weir: Weir) -> None:
    client = BatchClient(weir, OTHER_KEY)
    limited = weir.get("/v1/key", key=OTHER_KEY).json()
    batch_id = client.begin([line(f"c{number}") for number in range(10)])
    key = weir.get("/v1/key", key=OTHER_KEY).json()
    used = [limit["used"] for limit in key["limits"]]
    assert used == [limit["used"] + 2 for limit in limited["limits"]]
    assert client.ended(batch_id).request_counts.completed == 10


def test_the_cost_cap_stops_a_batch_and_is_never_exceeded(
    client: BatchClient, books: Books
) -> None:
    lines = [line(f"c{number}", f"cap {number}", max_tokens=1_000) for number in range(30)]
    batch = client.run(lines, weir_cost_cap_usd="0.0021")
    assert batch.status == "completed"
    counts = batch.request_counts
    assert counts.completed + counts.failed == 30
    assert counts.completed
    errors = client.errors(batch)
    assert {error["error"]["code"] for error in errors} == {"cost_cap_reached"}
    custom_ids = [one["custom_id"] for one in (*client.output(batch), *errors)]
    assert sorted(custom_ids) == sorted(one["custom_id"] for one in lines)
    [spent] = books.rows(f"SELECT spent_nano FROM budgets WHERE period = '{batch.id}'")
    assert spent["spent_nano"] <= 2_100_000


def test_a_used_up_budget_stops_a_batch(weir: Weir) -> None:
    client = BatchClient(weir, POOR_KEY)
    lines = [line(f"c{number}", f"poor {number}", max_tokens=30) for number in range(30)]
    batch = client.run(lines)
    assert batch.status == "completed"
    assert {error["error"]["code"] for error in client.errors(batch)} == {"budget_exceeded"}
    assert batch.request_counts.completed + batch.request_counts.failed == 30


def test_a_cancelled_batch_has_a_line_for_each_custom_id(
    client: BatchClient, provider: Provider
) -> None:
    provider.fault(slow=0.5)
    batch_id = client.begin([line(f"c{number}", f"slow {number}") for number in range(60)])
    wait_until(provider.completions, 20)
    assert client.sdk.batches.cancel(batch_id).status in {"cancelling", "cancelled"}
    batch = client.ended(batch_id)
    assert batch.status == "cancelled"
    ended = [*client.output(batch), *client.errors(batch)]
    assert sorted(one["custom_id"] for one in ended) == sorted(f"c{n}" for n in range(60))
    assert len(provider.completions()) < 60
    with pytest.raises(openai.ConflictError):
        client.sdk.batches.cancel(client.run([line("x")]).id)


def test_an_expired_batch_keeps_what_it_has(
    client: BatchClient, provider: Provider, books: Books
) -> None:
    provider.fault(slow=0.5)
    batch_id = client.begin([line(f"c{number}", f"late {number}") for number in range(60)])
    client.progressed(batch_id, 1)
    books.write(f"UPDATE batches SET expires_at = {time.time() - 1} WHERE id = '{batch_id}'")
    batch = client.ended(batch_id)
    assert batch.status == "expired"
    codes = {one["error"]["code"] for one in client.errors(batch)}
    assert codes == {"batch_expired"}
    assert batch.request_counts.completed + batch.request_counts.failed == 60


def test_a_revoked_key_cancels_its_batches(weir: Weir, provider: Provider, books: Books) -> None:
    client = BatchClient(weir, REVOKED_KEY)
    provider.fault(slow=1)
    batch_id = client.begin([line(f"c{number}", f"revoked {number}") for number in range(90)])
    client.progressed(batch_id, 1)
    now = datetime.now(UTC).isoformat(sep=" ")
    books.write(f"UPDATE api_keys SET revoked_at = '{now}' WHERE name = 'gone'")
    found = f"SELECT 1 FROM batches WHERE id = '{batch_id}' AND state = 'cancelled'"
    books.wait_for(found, 30, "the end of the batch")
    [batch] = books.rows(f"SELECT * FROM batches WHERE id = '{batch_id}'")
    assert json.loads(batch["stopped_by"])["code"] == "key_revoked"
    assert batch["succeeded"] + batch["failed"] == 90
    assert len(provider.completions()) < 90


def test_a_creation_can_be_repeated_safely(weir: Weir, client: BatchClient) -> None:
    file = client.upload(GOOD)
    body = {"input_file_id": file, "endpoint": CHAT, "completion_window": "24h"}
    headers = {"Idempotency-Key": f"once-{file}"}
    first, second = (
        weir.post("/v1/batches", key=KEY, json=body, headers=headers) for _ in range(2)
    )
    assert first.json() == second.json()
    assert second.headers["Idempotency-Replayed"] == "true"


def test_the_input_may_be_deleted_while_its_batch_runs(
    client: BatchClient, provider: Provider
) -> None:
    provider.fault(slow=0.3)
    batch_id = client.begin([line(f"c{number}", f"gone {number}") for number in range(20)])
    client.sdk.files.delete(client.get(batch_id).input_file_id)
    assert client.ended(batch_id).request_counts.completed == 20


def test_exact_numbers_reach_the_provider(client: BatchClient, provider: Provider) -> None:
    content = jsonl([line("x")]).replace(b'"model"', b'"seed": 12345678901234567890123, "model"')
    client.run(content)
    [call] = provider.completions()
    assert json.dumps(call["body"]["seed"]) == "12345678901234567890123"


def test_a_busy_model_holds_up_its_own_lines_only(client: BatchClient, provider: Provider) -> None:
    provider.fault(status=429, retry_after="4", model="gpt-4o-mini")
    waits = client.begin([line(f"c{number}", f"busy {number}") for number in range(100)])
    wait_until(provider.completions, 20)
    request = {"method": "POST", "url": "/v1/embeddings"}
    body = {"model": "text-embedding-3-small", "input": "one"}
    others = [request | {"custom_id": f"e{number}", "body": body} for number in range(20)]
    assert client.run(others, "/v1/embeddings").request_counts.completed == 20
    assert client.get(waits).request_counts.completed == 0
    client.sdk.batches.cancel(waits)
    client.ended(waits)


def test_a_line_with_half_a_pair_is_a_line_like_others(client: BatchClient) -> None:
    batch = client.run([line("a", "half \ud83d"), line("b", "whole"), line("c", "other")])
    assert batch.request_counts.total == 3
    assert len([*client.output(batch), *client.errors(batch)]) == 3


def test_a_code_of_the_provider_that_is_too_long_is_cut(client: BatchClient) -> None:
    code = "x" * 100
    batch = client.run([line("a", f"no [[fault:status=400,code={code}]]"), line("b", "yes")])
    assert batch.request_counts.to_dict() == {"total": 2, "completed": 1, "failed": 1}
    [error] = client.errors(batch)
    assert error["response"]["body"]["error"]["code"] == code


def test_lines_that_a_worker_lost_track_of_are_run_again(
    client: BatchClient, provider: Provider, books: Books
) -> None:
    """The answer to a claim was lost: the lines are this worker's, and it does not know."""
    provider.fault(slow=0.3)
    batch_id = client.begin([line(f"c{number}", f"lost {number}") for number in range(60)])
    client.progressed(batch_id, 1)
    books.write(
        "UPDATE batch_lines SET state = 'running', worker_id = (SELECT max(id) FROM workers) "
        f"WHERE batch_id = '{batch_id}' AND number > 55 AND state = 'waiting'"
    )
    assert client.ended(batch_id).request_counts.completed == 60


def test_no_batch_is_created_while_the_key_has_no_bytes_left(
    weir: Weir, client: BatchClient, books: Books
) -> None:
    """Results may exceed the quota, so without this nothing would bound them."""
    file = client.upload(GOOD)
    books.write(f"UPDATE files SET bytes = {2**30} WHERE id = '{file}'")
    body = {"input_file_id": file, "endpoint": CHAT, "completion_window": "24h"}
    refused = weir.post("/v1/batches", key=KEY, json=body)
    assert refused.status_code == 413, refused.text
    assert refused.json()["error"]["code"] == "storage_quota_exceeded"
    assert "1,073,741,824 bytes in all" in refused.text
    client.sdk.files.delete(file)
    client.run(GOOD)
