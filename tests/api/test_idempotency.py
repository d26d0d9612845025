"""Idempotency-Key: a request that is sent again gets the first one's answer, and costs nothing."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.conftest import MakeWeir
from tests.support.servers import REPOSITORY, Postgres, Provider, Weir, wait_until

KEY = "test_key_0123456789"
OTHER_KEY = "other_key_0123456789"
OPENAI = "/v1/chat/completions"
SETTINGS = {
    "API_KEYS": f"test:enterprise:{KEY},other:enterprise:{OTHER_KEY}",
    "TIERS": "enterprise=99999/minute",
    "DEFAULT_MODEL": "stand-in-1",
    "CACHE_TTL": 0,
    "LLM_MAX_RETRIES": 0,
    "BREAKER_FAILURES": 1_000_000,
}
JUMPING_CLOCK = REPOSITORY / "tests" / "support" / "jumping_clock"
BODIES: dict[str, dict[str, Any]] = {
    "/chat": {"message": "once"},
    "/generate": {"prompt": "once"},
    "/summarize": {"text": "A text that is long enough to be summarized once."},
    OPENAI: {"messages": [{"role": "user", "content": "once"}]},
}


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def weir(
    request: pytest.FixtureRequest,
    start_shared_weir: MakeWeir,
    provider: Provider,
    fresh_shared_database: str,
) -> Weir:
    settings = SETTINGS | {"OPENAI_BASE_URL": provider.base_url}
    if request.param == "postgres":
        settings["DATABASE_URL"] = fresh_shared_database
    return start_shared_weir(**settings)


def send(
    weir: Weir, path: str, body: dict[str, Any], idempotency_key: str, key: str = KEY
) -> requests.Response:
    return weir.post(path, key=key, json=body, headers={"Idempotency-Key": idempotency_key})


def replayed(answer: requests.Response) -> bool:
    return answer.headers.get("Idempotency-Replayed") == "true"


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("path", BODIES)
def test_a_repeated_request_gets_the_first_answer(
    weir: Weir, provider: Provider, path: str, streamed: bool
) -> None:
    body = BODIES[path] | {"stream": streamed}
    first = send(weir, path, body, f"again {streamed}".replace(" ", "-"))
    # The order of its fields does not make a body another one.
    second = send(weir, path, dict(reversed(body.items())), f"again-{streamed}")
    assert (first.status_code, second.status_code) == (200, 200)
    assert (replayed(first), replayed(second)) == (False, True)
    assert second.content == first.content
    for name in ("Content-Type", "X-Cache", "X-Weir-Provider"):
        assert second.headers[name] == first.headers[name]
    assert second.headers["X-Request-ID"] != first.headers["X-Request-ID"]
    assert len(provider.completions()) == 1


def test_a_replay_counts_as_a_request(start_weir: MakeWeir, provider: Provider) -> None:
    weir = start_weir(OPENAI_BASE_URL=provider.base_url, API_KEYS=f"test:free:{KEY}")
    answers = [send(weir, "/chat", BODIES["/chat"], "counted") for _ in range(6)]
    assert [answer.status_code for answer in answers] == [200] * 5 + [429]
    assert len(provider.completions()) == 1


def test_another_body_is_refused(weir: Weir) -> None:
    send(weir, "/chat", {"message": "first"}, "two-bodies")
    native = send(weir, "/chat", {"message": "second"}, "two-bodies")
    assert (native.status_code, native.json()["error"]) == (422, "IdempotencyMismatch")
    send(weir, OPENAI, BODIES[OPENAI], "two-bodies")
    openai = send(weir, OPENAI, BODIES[OPENAI] | {"n": 1}, "two-bodies")
    assert (openai.status_code, openai.json()["error"]["code"]) == (422, "idempotency_mismatch")


def test_keys_paths_and_principals_have_their_own(weir: Weir, provider: Provider) -> None:
    body = {"message": "own"}
    answers = [
        send(weir, "/chat", body, "own"),
        send(weir, "/chat", body, "own-2"),
        send(weir, "/v1/chat", body, "own"),
        send(weir, "/chat", body, "own", OTHER_KEY),
    ]
    assert [replayed(answer) for answer in answers] == [False] * 4
    assert len(provider.completions()) == 4


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
def test_while_the_first_one_runs_others_wait(
    weir: Weir, provider: Provider, streamed: bool
) -> None:
    provider.fault(slow=1.0)
    body = {"message": "running", "stream": streamed}
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(send, weir, "/chat", body, f"running-{streamed}")
        wait_until(provider.completions)
        waiting = send(weir, "/chat", body, f"running-{streamed}")
        assert (waiting.status_code, waiting.json()["error"]) == (409, "IdempotencyInProgress")
        assert waiting.headers["Retry-After"] == "1"
        assert first.result().status_code == 200
    assert replayed(send(weir, "/chat", body, f"running-{streamed}"))


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("fault", [{"status": 500}, {"status": 400}, {"cut": True}], ids=str)
def test_a_failure_frees_the_key(
    weir: Weir, provider: Provider, fault: dict[str, Any], streamed: bool
) -> None:
    provider.fault(**fault, pieces=5)
    body = {"message": f"failing {fault} {streamed}", "stream": streamed}
    name = f"failing-{fault}-{streamed}".replace(" ", "")
    first = send(weir, "/chat", body, name)
    assert first.status_code >= 400 or "ProviderFailed" in first.text
    provider.fault()
    second = send(weir, "/chat", body, name)
    assert (second.status_code, replayed(second)) == (200, False)
    assert "ProviderFailed" not in second.text
    assert replayed(send(weir, "/chat", body, name))


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize(("size", "kept"), [(3_000_000, True), (4_400_000, False)])
def test_an_answer_above_4_mib_is_not_kept_and_frees_the_key(
    weir: Weir, provider: Provider, size: int, kept: bool, streamed: bool
) -> None:
    provider.fault(big=size)
    body, name = BODIES[OPENAI] | {"stream": streamed}, f"large-{size}-{streamed}"
    first = send(weir, OPENAI, body, name)
    assert (first.status_code, len(first.content) > 4 * 1024 * 1024) == (200, not kept)
    # A stream's key is free when Weir has noticed its end.
    wait_until(lambda: send(weir, OPENAI, body, name).status_code == 200)
    assert replayed(send(weir, OPENAI, body, name)) is kept


def test_a_client_that_leaves_frees_the_key(weir: Weir, provider: Provider) -> None:
    provider.fault(gap=0.2, pieces=100)
    body = {"message": "leaving", "stream": True}
    headers = {"Idempotency-Key": "leaving"}
    with weir.stream("/chat", body, KEY, headers=headers) as stream:
        next(stream)
    provider.fault()
    answer = wait_until(
        lambda: [a for a in [send(weir, "/chat", body, "leaving")] if a.status_code == 200], 8
    )[0]
    assert not replayed(answer)


@pytest.mark.parametrize("name", ["", "a" * 256, "with space", "ümlaut"], ids=str)
def test_a_malformed_key_is_refused(weir: Weir, name: str) -> None:
    answer = weir.post(
        "/chat", key=KEY, json={"message": "x"}, headers={"Idempotency-Key": name.encode()}
    )
    assert (answer.status_code, answer.json()["error"]) == (400, "MalformedRequest")
    assert "Idempotency-Key" in answer.json()["message"]


def test_a_bad_body_is_told_as_ever(weir: Weir) -> None:
    assert send(weir, "/chat", {"message": 5}, "bad").status_code == 422
    assert send(weir, "/chat", {"message": "good"}, "bad").status_code == 200
    headers = {"Idempotency-Key": "bad-2", "Content-Type": "application/json"}
    assert weir.post("/chat", key=KEY, data="{", headers=headers).status_code == 400


def test_of_many_at_once_one_is_answered_and_the_others_wait_or_are_replayed(
    weir: Weir, provider: Provider
) -> None:
    provider.fault(slow=0.3)
    with ThreadPoolExecutor(16) as pool:
        answers = list(
            pool.map(lambda _: send(weir, "/chat", {"message": "race"}, "race"), range(16))
        )
    statuses = [answer.status_code for answer in answers if not replayed(answer)]
    assert statuses.count(200) == 1
    assert set(statuses) <= {200, 409}
    assert len(provider.completions()) == 1


def test_a_killed_worker_loses_its_keys_when_their_lease_ends_by_the_clock_of_the_database(
    start_weir: MakeWeir, provider: Provider, fresh_database: str, tmp_path: Path
) -> None:
    settings = SETTINGS | {"OPENAI_BASE_URL": provider.base_url, "DATABASE_URL": fresh_database}
    offset = tmp_path / "offset"
    offset.write_text("15")  # seconds: the second replica is ahead by more than a lease
    ahead = {"PYTHONPATH": JUMPING_CLOCK, "CLOCK_OFFSET_FILE": offset}
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda clock: start_weir(**settings, **clock), [{}, ahead])
    provider.fault(hang=True, times=1)
    with ThreadPoolExecutor(1) as pool:
        lost = pool.submit(send, first, "/chat", {"message": "lost"}, "lost")
        wait_until(provider.completions)
        assert send(second, "/chat", {"message": "lost"}, "lost").status_code == 409
        first.kill()
        with pytest.raises(requests.RequestException):
            lost.result()

    def is_free() -> bool:
        return send(second, "/chat", {"message": "lost"}, "lost").status_code == 200

    wait_until(is_free, 15, pause=0.2)  # a lease lasts for 10 s


def test_without_the_database_a_key_cannot_be_promised(
    start_weir: MakeWeir, provider: Provider, postgres: Postgres, fresh_database: str
) -> None:
    settings = SETTINGS | {"OPENAI_BASE_URL": provider.base_url, "DATABASE_URL": fresh_database}
    weir = start_weir(**settings)
    assert send(weir, "/chat", {"message": "before"}, "before").status_code == 200
    postgres.stop()
    answer = send(weir, "/chat", {"message": "after"}, "after")
    assert (answer.status_code, answer.json()["error"]) == (503, "StoreUnavailable")
    postgres.start()


def test_a_stream_that_was_replayed_can_be_read_as_a_stream(weir: Weir) -> None:
    body = {"message": "as a stream", "stream": True}
    headers = {"Idempotency-Key": "as-a-stream"}
    for _ in range(2):
        with weir.stream("/chat", body, KEY, headers=headers) as stream:
            *_, done, end = stream
        assert end == "[DONE]"
        assert json.loads(done)["done"] is True
