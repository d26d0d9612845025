"""Identical requests at the same time make one provider call, in one process and across several."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
import requests

from tests.conftest import MakeWeir
from tests.support.servers import Provider, Valkey, Weir, wait_until

KEY = "test_key_0123456789"
OTHER_KEY = "other_key_0123456789"
SETTINGS = {
    "API_KEYS": f"test:enterprise:{KEY},other:enterprise:{OTHER_KEY}",
    "TIERS": "enterprise=99999/minute",
    "DEFAULT_MODEL": "stand-in-1",
    "CACHE_STALE_IF_ERROR": 0,
    "LLM_MAX_RETRIES": 0,
    "BREAKER_FAILURES": 1_000_000,
}
OPENAI = "/v1/chat/completions"
AGAIN = "Redis is available again"


def native(text: str, **fields: Any) -> dict[str, Any]:
    return {"message": text, **fields}


def openai(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": "stand-in-1", "messages": [{"role": "user", "content": text}], **fields}


BODIES = {"/chat": native, OPENAI: openai}


@pytest.fixture(scope="module", params=["one process", "two workers and a replica"])
def weirs(
    request: pytest.FixtureRequest,
    start_shared_weir: MakeWeir,
    provider: Provider,
    fresh_shared_valkey: Valkey,
    fresh_shared_database: str,
) -> list[Weir]:
    """One Weir without Redis, or two that share Redis and a database, the first with 2 workers."""
    settings = SETTINGS | {"OPENAI_BASE_URL": provider.base_url}
    if request.param == "one process":
        return [start_shared_weir(**settings)]
    settings |= {"REDIS_URL": fresh_shared_valkey.url, "DATABASE_URL": fresh_shared_database}
    first = start_shared_weir(**settings, WEB_CONCURRENCY=2)
    return [first, start_shared_weir(**settings, WEB_CONCURRENCY=1)]


def at_once(
    weirs: list[Weir], path: str, bodies: list[dict[str, Any]], **kwargs: Any
) -> list[requests.Response]:
    """The answers to these bodies, sent at the same time to the Weirs in turn."""
    with ThreadPoolExecutor(len(bodies)) as pool:
        asked = [
            pool.submit(weirs[number % len(weirs)].post, path, key=KEY, json=body, **kwargs)
            for number, body in enumerate(bodies)
        ]
        return [one.result() for one in asked]


def states(answers: list[requests.Response]) -> list[str]:
    return sorted(answer.headers["X-Cache"] for answer in answers)


def pieces(response: requests.Response) -> list[Any]:
    return [
        json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")
    ]


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
def test_identical_requests_make_one_call(
    weirs: list[Weir], provider: Provider, path: str, streamed: bool
) -> None:
    body = BODIES[path](f"one call {path} {streamed} {len(weirs)}", stream=streamed)
    # Long enough for all to arrive on a busy machine, before there is an answer in the cache.
    provider.fault(slow=3.0)
    answers = at_once(weirs, path, [body] * 24)
    assert {answer.status_code for answer in answers} == {200}
    assert len(provider.completions()) == 1
    assert states(answers) == ["COALESCED"] * 23 + ["MISS"]
    assert {answer.headers["X-Weir-Provider"] for answer in answers} == {"openai"}
    contents = {
        json.dumps([piece.get("choices", piece.get("content")) for piece in pieces(answer)])
        if streamed
        else json.dumps([answer.json().get("choices", answer.json().get("response"))])
        for answer in answers
    }
    assert len(contents) == 1 or (path == "/chat" and streamed), contents


def test_streamed_and_plain_requests_of_a_native_door_share_a_call(
    weirs: list[Weir], provider: Provider
) -> None:
    provider.fault(slow=0.8, gap=0.02, pieces=10)
    bodies = [native(f"mixed {len(weirs)}", stream=bool(n % 3)) for n in range(12)]
    answers = at_once(weirs, "/chat", bodies)
    assert len(provider.completions()) == 1
    texts = {
        pieces(answer)[-1]["response"] if body["stream"] else answer.json()["response"]
        for body, answer in zip(bodies, answers, strict=True)
    }
    assert len(texts) == 1
    for body, answer in zip(bodies, answers, strict=True):
        if body["stream"]:
            said = "".join(piece.get("content", "") for piece in pieces(answer))
            assert said in texts


def test_followers_see_the_pieces_as_they_come(weirs: list[Weir], provider: Provider) -> None:
    provider.fault(gap=0.3, pieces=12)
    body = openai(f"as they come {len(weirs)}", stream=True)
    with weirs[0].stream(OPENAI, body, KEY) as leader:
        next(leader)
        with weirs[-1].stream(OPENAI, body, KEY) as follower:
            assert follower.headers["X-Cache"] == "COALESCED"
            first = json.loads(next(follower))
            assert first["choices"][0]["delta"]["role"] == "assistant"
            for _ in range(3):
                next(follower)
            assert not provider.completions()[0]["ended"]
            rest = list(follower)
        assert rest[-1] == "[DONE]"
    assert len(provider.completions()) == 1


def test_a_leader_that_reads_nothing_holds_up_no_follower(
    weirs: list[Weir], provider: Provider
) -> None:
    body = native(f"unread {len(weirs)} [[fault:big=2000000,slow=1]]", stream=True)
    with socket.create_connection(("127.0.0.1", weirs[0].port)) as leader:
        leader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sent = json.dumps(body).encode()
        head = f"POST /chat HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nX-Request-ID: unread\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(sent)}\r\n\r\n"
        leader.sendall(head.encode() + sent)
        wait_until(provider.completions)
        follower = weirs[-1].post("/chat", key=KEY, json=body, timeout=30)
        # The leader has not been given up by then: it would be in the log.
        assert "unread" not in {line.get("request_id") for line in weirs[0].logs()}
    assert follower.headers["X-Cache"] == "COALESCED"
    assert pieces(follower)[-1]["done"]
    assert len(provider.completions()) == 1


def test_the_call_lives_as_long_as_somebody_listens(weirs: list[Weir], provider: Provider) -> None:
    provider.fault(gap=0.2, pieces=15)
    body = openai(f"somebody listens {len(weirs)}", stream=True)
    leader = weirs[0].stream(OPENAI, body, KEY)
    next(leader)
    with weirs[-1].stream(OPENAI, body, KEY) as follower:
        next(follower)
        leader.close()
        *_, end = follower
        assert end == "[DONE]"
    wait_until(lambda: provider.completions()[0]["lasted"] is not None, 8, "the call's end")
    [call] = provider.completions()
    assert (call["ended"], call["hung_up"]) == (True, False)


def test_the_call_ends_when_the_last_listener_has_left(
    weirs: list[Weir], provider: Provider, fresh_shared_valkey: Valkey
) -> None:
    provider.fault(gap=0.2, pieces=500)
    body = openai(f"nobody listens {len(weirs)}", stream=True)
    leader = weirs[0].stream(OPENAI, body, KEY)
    next(leader)
    follower = weirs[-1].stream(OPENAI, body, KEY)
    next(follower)
    leader.close()
    follower.close()
    wait_until(lambda: provider.completions()[0]["hung_up"], 8, "the end of the provider's call")
    with redis.Redis.from_url(fresh_shared_valkey.url) as client:

        def longest() -> int:
            found = (client.pttl(name) for name in client.scan_iter("weir:flight-2:*"))
            return max(found, default=0)

        # Redis may have been too busy to hear of an end: then it is gone after half a minute.
        wait_until(lambda: longest() <= 10_000, 30, "the end of what nobody reads any more")


def test_a_provider_s_verdict_is_shared(weirs: list[Weir], provider: Provider) -> None:
    provider.fault(slow=0.8, status=400)
    answers = at_once(weirs, OPENAI, [openai(f"refused {len(weirs)}")] * 12)
    assert {answer.status_code for answer in answers} == {400}
    assert len(provider.completions()) == 1
    # At Anthropic's endpoint it is told in the provider's own words, to all of them.
    message = openai(f"refused again {len(weirs)}", max_tokens=9)
    answers = at_once(weirs, "/v1/messages", [message] * 12)
    assert len(provider.completions()) == 2
    [words] = {answer.json()["error"]["message"] for answer in answers}
    assert words == "The stand-in was told to answer 400."


@pytest.mark.parametrize("control", ["no-cache", "no-store"])
def test_who_wants_no_cache_neither_leads_nor_joins(
    weirs: list[Weir], provider: Provider, control: str
) -> None:
    provider.fault(slow=0.5)
    body = native(f"alone {control} {len(weirs)}")
    answers = at_once(weirs, "/chat", [body] * 4, headers={"Cache-Control": control})
    assert states(answers) == ["BYPASS"] * 4
    assert len(provider.completions()) == 4


def test_only_the_leader_pays_and_nobody_else_is_cached(
    weirs: list[Weir], provider: Provider
) -> None:
    provider.fault(slow=0.5)
    answers = at_once(weirs, "/chat", [native(f"who pays {len(weirs)}")] * 6)
    for answer in answers:
        assert answer.json()["cached"] is False
        coalesced = answer.headers["X-Cache"] == "COALESCED"
        assert (answer.json()["cost_usd"] == 0) == coalesced


def test_two_hundred_identical_requests_make_one_call(
    weirs: list[Weir], provider: Provider
) -> None:
    provider.fault(slow=2.0)
    answers = at_once(weirs, OPENAI, [openai(f"two hundred {len(weirs)}")] * 200)
    assert {answer.status_code for answer in answers} == {200}
    assert len(provider.completions()) == 1


def test_a_request_can_be_repeated_whatever_became_of_the_first(
    weirs: list[Weir], provider: Provider
) -> None:
    for number in range(6):
        provider.fault(status=500 if number < 5 else 0)
        began = time.monotonic()
        body = native(f"repeated {len(weirs)}", temperature=0.5)
        weirs[number % len(weirs)].post("/chat", key=KEY, json=body, timeout=10)
        assert time.monotonic() - began < 5


# -- leaders that die --


@pytest.fixture(scope="module")
def pair(
    start_shared_weir: MakeWeir,
    provider: Provider,
    fresh_shared_valkey: Valkey,
    fresh_shared_database: str,
) -> list[Weir]:
    """Two Weirs of one worker each that share Redis and a database."""
    settings = SETTINGS | {
        "OPENAI_BASE_URL": provider.base_url,
        "REDIS_URL": fresh_shared_valkey.url,
        "DATABASE_URL": fresh_shared_database,
        "WEB_CONCURRENCY": 1,
    }
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda _: start_shared_weir(**settings), range(2)))


@pytest.fixture
def two(pair: list[Weir]) -> Iterator[tuple[Weir, Weir]]:
    """The pair. Whom an earlier test has killed is started again."""
    first, second = (weir.start() for weir in pair)
    yield first, second
    for weir in pair:
        if not weir.pids():
            weir.kill()


def kill_workers(weir: Weir) -> None:
    assert weir.process is not None
    os.kill(weir.process.pid, signal.SIGSTOP)  # or it would start another one
    for pid in weir.pids():
        os.kill(pid, signal.SIGKILL)


def test_a_follower_that_has_sent_nothing_takes_over(
    two: tuple[Weir, Weir], provider: Provider
) -> None:
    first, second = two
    provider.fault(hang=True, times=1)
    body = openai("take over")
    with ThreadPoolExecutor(2) as pool:
        leading = pool.submit(first.post, OPENAI, key=KEY, json=body)
        wait_until(provider.completions)
        following = pool.submit(second.post, OPENAI, key=KEY, json=body)
        explained = second.post("/v1/explain", key=KEY, json=body).json()
        assert explained["would_coalesce"] is True
        kill_workers(first)
        killed_at = time.monotonic()
        answer = following.result()
        assert time.monotonic() - killed_at < 5
        assert (answer.status_code, answer.headers["X-Cache"]) == (200, "MISS")
        assert len(provider.completions()) == 2
        with pytest.raises(requests.RequestException):
            leading.result()


def test_a_follower_that_has_sent_something_says_that_it_broke_off(
    two: tuple[Weir, Weir], provider: Provider
) -> None:
    first, second = two
    provider.fault(gap=0.3, pieces=100)
    body = openai("broke off", stream=True)
    with first.stream(OPENAI, body, KEY) as leader:
        next(leader)
        with second.stream(OPENAI, body, KEY) as follower:
            next(follower)
            kill_workers(first)
            *_, error, end = follower
    assert end == "[DONE]"
    assert json.loads(error)["error"]["code"] == "provider_failed"


def test_followers_take_over_when_the_leader_shuts_down(
    two: tuple[Weir, Weir], provider: Provider
) -> None:
    first, second = two
    provider.fault(hang=True, times=1)
    body = openai("shut down")
    with ThreadPoolExecutor(2) as pool:
        pool.submit(first.post, OPENAI, key=KEY, json=body)
        wait_until(provider.completions)
        following = pool.submit(second.post, OPENAI, key=KEY, json=body)
        wait_until(lambda: second.post("/v1/explain", key=KEY, json=body).json()["would_coalesce"])
        first.kill()
        assert following.result().status_code == 200


def test_a_flight_is_kept_as_long_as_it_runs(
    two: tuple[Weir, Weir], provider: Provider, valkey: Valkey
) -> None:
    provider.fault(gap=0.2, pieces=500)
    with (
        two[0].stream(OPENAI, openai("it runs on", stream=True), KEY) as leader,
        valkey.client() as client,
    ):
        next(leader)
        key = max(client.scan_iter("weir:flight-2:*"), key=client.pttl)
        client.pexpire(key, 15_000)
        wait_until(lambda: client.pttl(key) > 15_000, 14, "its renewal")


def test_without_redis_for_a_while_each_process_is_alone(
    two: tuple[Weir, Weir], provider: Provider, valkey: Valkey
) -> None:
    valkey.stop()
    provider.fault(slow=0.5)
    answers = at_once(list(two), OPENAI, [openai("no redis")] * 8)
    assert {answer.status_code for answer in answers} == {200}
    assert len(provider.completions()) == 2
    valkey.start()
    for weir in two:
        wait_until(lambda weir=weir: AGAIN in weir.raw_logs())


@pytest.mark.parametrize("asked", [0, 1], ids=["the same process", "another one"])
def test_a_flight_whose_end_redis_missed_does_not_hold_up_the_next(
    two: tuple[Weir, Weir], provider: Provider, valkey: Valkey, asked: int
) -> None:
    provider.fault(slow=1.0)
    body = openai(f"an end that was missed {asked}")
    told = two[0].raw_logs().count(AGAIN)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(two[0].post, OPENAI, key=KEY, json=body)
        wait_until(provider.completions)
        valkey.pause()
        assert first.result().status_code == 200
    valkey.resume()
    wait_until(lambda: two[0].raw_logs().count(AGAIN) > told)
    provider.fault()
    began = time.monotonic()
    assert two[asked].post(OPENAI, key=KEY, json=body, timeout=20).status_code == 200
    assert time.monotonic() - began < 4
