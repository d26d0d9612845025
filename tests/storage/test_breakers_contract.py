"""One suite for the circuit breakers: counted in Redis, and by a process for itself."""

from __future__ import annotations

import gevent
import pytest

from tests.support.servers import Valkey, free_port, wait_until
from webapp.storage.breakers import EVERYBODY, REFRESH_INTERVAL, WINDOW, CircuitBreakers
from webapp.storage.redis_client import RedisClient

THRESHOLD = 3
PAUSE = 0.4  # seconds
TARGET = "openai/gpt"
KEY, OTHER = "key-1", "key-2"


@pytest.fixture(params=["redis", "process", "redis away"])
def breakers(request: pytest.FixtureRequest) -> CircuitBreakers:
    redis = None
    if request.param == "redis":
        redis = RedisClient(request.getfixturevalue("fresh_valkey").url)
    elif request.param == "redis away":
        redis = RedisClient(f"redis://127.0.0.1:{free_port()}/0")
    return CircuitBreakers(redis, THRESHOLD, PAUSE)


def fail(
    breakers: CircuitBreakers, times: int = THRESHOLD, retry_after: float | None = None
) -> None:
    """Let the requests of two keys fail in turn, so that the breaker opens for everybody."""
    for number in range(times):
        breakers.failed(TARGET, (KEY, OTHER)[number % 2], retry_after)


def wait_for_the_probe(breakers: CircuitBreakers) -> None:
    wait_until(lambda: breakers.allows(TARGET, KEY), 3, "the probe")


def test_a_target_that_nobody_called_is_allowed(breakers: CircuitBreakers) -> None:
    assert breakers.allows(TARGET, KEY)
    assert breakers.opens_in(TARGET, KEY) == 0
    assert breakers.states() == {TARGET: {"state": "closed"}}


def test_so_many_failures_open_the_breaker_of_their_target_alone(
    breakers: CircuitBreakers,
) -> None:
    fail(breakers, THRESHOLD - 1)
    assert breakers.allows(TARGET, KEY)
    fail(breakers, 1)
    assert not breakers.allows(TARGET, KEY)
    assert breakers.allows("openai/another", KEY)
    assert 0 < breakers.opens_in(TARGET, KEY) <= PAUSE
    state = breakers.states()[TARGET]
    assert state["state"] == "open"
    assert 0 <= state["probe_in_s"] <= PAUSE


def test_it_says_who_is_kept_away_and_for_how_long(breakers: CircuitBreakers) -> None:
    assert breakers.open_circuits([TARGET]) == []
    for _ in range(THRESHOLD):
        breakers.failed(TARGET, KEY)
    [alone] = breakers.open_circuits([])
    assert (alone.circuit, alone.who) == (TARGET, KEY)
    assert 0 < alone.probe_in <= PAUSE
    breakers.failed(TARGET, OTHER)
    [everybody] = breakers.open_circuits([])
    assert everybody.who == EVERYBODY
    wait_until(lambda: breakers.open_circuits([])[0].probe_in == 0, 3, "the probe")
    breakers.succeeded(TARGET, OTHER)
    assert EVERYBODY not in [one.who for one in breakers.open_circuits([])]


def test_a_success_in_between_begins_the_count_anew(breakers: CircuitBreakers) -> None:
    for _ in range(2):
        fail(breakers, THRESHOLD - 1)
        breakers.succeeded(TARGET, KEY)
    assert breakers.allows(TARGET, KEY)


def test_after_the_pause_one_probe_is_let_through(breakers: CircuitBreakers) -> None:
    fail(breakers)
    wait_for_the_probe(breakers)
    assert not breakers.allows(TARGET, KEY)
    assert breakers.states()[TARGET]["state"] == "half-open"


def test_a_probe_that_succeeds_closes_it(breakers: CircuitBreakers) -> None:
    fail(breakers)
    wait_for_the_probe(breakers)
    breakers.succeeded(TARGET, KEY)
    assert [breakers.allows(TARGET, KEY) for _ in range(3)] == [True] * 3
    assert breakers.states() == {TARGET: {"state": "closed"}}
    fail(breakers, THRESHOLD - 1)
    assert breakers.allows(TARGET, KEY)


def test_a_probe_that_fails_opens_it_again_at_once(breakers: CircuitBreakers) -> None:
    fail(breakers)
    wait_for_the_probe(breakers)
    fail(breakers, 1)
    assert not breakers.allows(TARGET, KEY)
    assert 0 < breakers.opens_in(TARGET, KEY) <= PAUSE
    wait_for_the_probe(breakers)


def test_a_probe_that_tells_nothing_leaves_its_place_to_the_next(
    breakers: CircuitBreakers,
) -> None:
    fail(breakers)
    wait_for_the_probe(breakers)
    assert not breakers.allows(TARGET, KEY)
    breakers.abandoned(TARGET, KEY)
    wait_for_the_probe(breakers)
    assert not breakers.allows(TARGET, KEY)


def test_a_provider_that_says_when_to_come_back_is_left_alone_until_then(
    breakers: CircuitBreakers,
) -> None:
    fail(breakers, retry_after=30.0)
    assert 29 < breakers.opens_in(TARGET, KEY) <= 30
    fail(breakers, 1, retry_after=86_400)
    assert breakers.opens_in(TARGET, KEY) <= WINDOW


def test_what_fails_for_one_key_alone_keeps_that_key_alone_away(
    breakers: CircuitBreakers,
) -> None:
    for _ in range(THRESHOLD):
        breakers.failed(TARGET, KEY)
    assert not breakers.allows(TARGET, KEY)
    assert 0 < breakers.opens_in(TARGET, KEY) <= PAUSE
    assert breakers.opens_in(TARGET, OTHER) == 0
    assert [breakers.allows(TARGET, OTHER) for _ in range(3)] == [True] * 3
    assert breakers.states() == {TARGET: {"state": "closed", "paused_keys": 1}}
    wait_for_the_probe(breakers)
    assert not breakers.allows(TARGET, KEY)
    breakers.failed(TARGET, KEY)
    assert not breakers.allows(TARGET, KEY)
    wait_for_the_probe(breakers)
    breakers.succeeded(TARGET, KEY)
    assert [breakers.allows(TARGET, KEY) for _ in range(3)] == [True] * 3
    assert breakers.states() == {TARGET: {"state": "closed"}}


def test_another_key_that_fails_too_opens_it_for_everybody(breakers: CircuitBreakers) -> None:
    for _ in range(THRESHOLD):
        breakers.failed(TARGET, KEY)
    assert breakers.allows(TARGET, "key-3")
    breakers.failed(TARGET, OTHER)
    assert not breakers.allows(TARGET, "key-3")


def test_a_target_that_was_not_reached_is_left_alone_by_everybody(
    breakers: CircuitBreakers,
) -> None:
    for _ in range(THRESHOLD):
        breakers.failed(TARGET, KEY, unreachable=True)
    assert not breakers.allows(TARGET, OTHER)


def test_an_answer_that_begins_ends_a_pause_but_not_a_row_of_failures(
    breakers: CircuitBreakers,
) -> None:
    for _ in range(THRESHOLD):
        assert breakers.allows(TARGET, KEY)
        breakers.answered(TARGET, KEY)
        breakers.failed(TARGET, KEY)
    assert not breakers.allows(TARGET, KEY)
    wait_for_the_probe(breakers)
    breakers.answered(TARGET, KEY)
    assert [breakers.allows(TARGET, KEY) for _ in range(3)] == [True] * 3


# What takes two processes.


@pytest.fixture
def two_processes(fresh_valkey: Valkey) -> tuple[CircuitBreakers, CircuitBreakers]:
    first, second = (
        CircuitBreakers(RedisClient(fresh_valkey.url), THRESHOLD, PAUSE) for _ in range(2)
    )
    return first, second


def test_processes_count_together_and_learn_of_each_other(
    two_processes: tuple[CircuitBreakers, CircuitBreakers],
) -> None:
    first, second = two_processes
    assert second.allows(TARGET, KEY)
    fail(first, THRESHOLD - 1, retry_after=5)
    fail(second, 1, retry_after=5)
    assert not second.allows(TARGET, KEY)
    wait_until(lambda: not first.allows(TARGET, KEY), 2, "the news")
    assert first.states()[TARGET]["state"] == "open"


def test_none_of_many_requests_at_once_has_missed_the_news(
    two_processes: tuple[CircuitBreakers, CircuitBreakers],
) -> None:
    first, second = two_processes
    assert second.allows(TARGET, KEY)
    fail(first, retry_after=5)
    gevent.sleep(REFRESH_INTERVAL)  # so old may be what a process knows
    requests = [gevent.spawn(second.allows, TARGET, KEY) for _ in range(5)]
    gevent.joinall(requests)
    assert [request.value for request in requests] == [False] * 5


def test_processes_know_who_is_kept_away_by_others(
    two_processes: tuple[CircuitBreakers, CircuitBreakers],
) -> None:
    first, second = two_processes
    for _ in range(THRESHOLD):
        first.failed(TARGET, KEY)
    assert second.open_circuits([]) == [], "it has not used that circuit"
    assert [one.who for one in second.open_circuits([TARGET])] == [KEY]
    fail(first, retry_after=5)
    wait_until(lambda: [one.who for one in second.open_circuits([])] == [EVERYBODY], 2, "the news")


def test_of_all_processes_one_makes_the_probe_and_all_learn_how_it_went(
    two_processes: tuple[CircuitBreakers, CircuitBreakers],
) -> None:
    first, second = two_processes
    fail(first)
    wait_for_the_probe(first)
    assert second.states()[TARGET]["state"] == "half-open"
    assert not second.allows(TARGET, KEY)
    first.succeeded(TARGET, KEY)
    wait_for_the_probe(second)
    wait_until(lambda: second.states() == {TARGET: {"state": "closed"}}, 2, "the news")
    assert [second.allows(TARGET, KEY) for _ in range(3)] == [True] * 3


def test_a_success_here_ends_the_count_of_all(
    two_processes: tuple[CircuitBreakers, CircuitBreakers],
) -> None:
    first, second = two_processes
    fail(first, THRESHOLD - 1)
    assert second.allows(TARGET, KEY)
    second.succeeded(TARGET, KEY)
    fail(first, THRESHOLD - 1)
    assert first.allows(TARGET, KEY)
