"""One suite for the coordinators of flights: of a process alone, and of those that share Redis."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.servers import Valkey, free_port
from webapp.llm.calls import FlightProgress
from webapp.llm.ports import FlightCoordinator
from webapp.storage.flight_coordinator import (
    ALIVE,
    MAX_ENTRIES_LENGTH,
    LocalCoordinator,
    RedisCoordinator,
)
from webapp.storage.redis_client import RedisClient

ENTRIES: list[Any] = [["begin", "openai", 1], ["chunk", "ü\u2028", None, 1.5, {"a": []}]]


@pytest.fixture(params=["redis", "process", "redis away"])
def coordinator(request: pytest.FixtureRequest) -> FlightCoordinator:
    if request.param == "process":
        return LocalCoordinator()
    if request.param == "redis away":
        return RedisCoordinator(RedisClient(f"redis://127.0.0.1:{free_port()}/0"))
    return RedisCoordinator(RedisClient(request.getfixturevalue("fresh_valkey").url))


def nobody_asks() -> list[Any]:
    raise AssertionError("nobody follows, so nobody needs the end")


def test_who_comes_first_leads_and_leads_alone(coordinator: FlightCoordinator) -> None:
    coordinator.heartbeat()
    assert not coordinator.is_led("key")
    assert coordinator.claim("key", "1") is None
    assert coordinator.claim("other", "2") is None
    assert coordinator.heartbeat() == set()


def test_an_end_that_nobody_follows_is_not_written_and_the_next_one_may_lead(
    coordinator: FlightCoordinator,
) -> None:
    for flight in ("1", "2"):
        assert coordinator.claim("key", flight) is None
        coordinator.publish("key", flight, ENTRIES)
        coordinator.finish("key", flight, nobody_asks)
        assert not coordinator.is_led("key")


def test_what_was_relinquished_may_be_led_again(coordinator: FlightCoordinator) -> None:
    assert coordinator.claim("key", "1") is None
    coordinator.relinquish("key")
    assert not coordinator.is_led("key")
    assert coordinator.claim("key", "2") is None


def test_of_a_flight_that_nobody_leads_nothing_comes(coordinator: FlightCoordinator) -> None:
    assert coordinator.poll("key", "elsewhere.1", 0) == FlightProgress([], led=False)
    coordinator.finish("key", "never claimed", nobody_asks)
    coordinator.renew([("key", "never claimed")])
    coordinator.relinquish("never claimed")
    coordinator.close()
    assert coordinator.claim("key", "1") is None


# What takes two processes.


@pytest.fixture
def leader(fresh_valkey: Valkey) -> RedisCoordinator:
    """It leads the flight "1" under "key"."""
    one = RedisCoordinator(RedisClient(fresh_valkey.url))
    one.heartbeat()
    assert one.claim("key", "1") is None
    return one


@pytest.fixture
def follower(fresh_valkey: Valkey, leader: RedisCoordinator) -> RedisCoordinator:
    other = RedisCoordinator(RedisClient(fresh_valkey.url))
    other.heartbeat()
    return other


def led_by(follower: RedisCoordinator) -> str:
    flight = follower.claim("key", "2")
    assert flight
    return flight


def test_who_comes_second_learns_who_leads(
    leader: RedisCoordinator, follower: RedisCoordinator
) -> None:
    assert follower.is_led("key")
    flight = led_by(follower)
    assert flight.endswith(".1")
    assert follower.poll("key", flight, 0) == FlightProgress([], led=True)
    assert follower.claim("another key", "3") is None


def test_a_leader_learns_of_its_followers_with_each_heartbeat(
    leader: RedisCoordinator, follower: RedisCoordinator
) -> None:
    flight = led_by(follower)
    assert leader.heartbeat() == set()
    for _ in range(2):
        follower.poll("key", flight, 0)
        assert leader.heartbeat() == {"key"}
    assert leader.heartbeat() == set()
    assert follower.heartbeat() == set()


def test_a_follower_reads_on_from_where_it_is_until_the_end(
    leader: RedisCoordinator, follower: RedisCoordinator
) -> None:
    flight = led_by(follower)
    leader.publish("key", "1", ENTRIES)
    assert follower.poll("key", flight, 0) == FlightProgress(ENTRIES, led=True)
    assert follower.poll("key", flight, 2) == FlightProgress([], led=True)
    leader.publish("key", "1", [["chunk", "third"]])
    assert follower.poll("key", flight, 2) == FlightProgress([["chunk", "third"]], led=True)
    leader.finish("key", "1", lambda: [["end"]])
    assert follower.poll("key", flight, 1) == FlightProgress(
        [ENTRIES[1], ["chunk", "third"], ["end"]], False
    )
    # It is over, so the next one leads; what is left is not taken for its own.
    assert follower.claim("key", "2") is None
    assert leader.poll("key", led_by(leader), 0) == FlightProgress([], led=True)


@pytest.mark.parametrize(
    "rest", [[], [["end", "x" * MAX_ENTRIES_LENGTH]]], ids=["no end", "an end that is too long"]
)
def test_a_flight_without_an_end_that_can_be_told_leaves_its_followers_to_lead(
    leader: RedisCoordinator, follower: RedisCoordinator, rest: list[Any]
) -> None:
    flight = led_by(follower)
    leader.finish("key", "1", lambda: rest)
    assert follower.poll("key", flight, 0) == FlightProgress([], led=False)
    assert follower.claim("key", "2") is None


def test_a_leader_that_shuts_down_or_is_killed_is_followed_by_the_next(
    leader: RedisCoordinator, follower: RedisCoordinator, fresh_valkey: Valkey
) -> None:
    flight = led_by(follower)
    leader.close()
    assert follower.poll("key", flight, 0) == FlightProgress([], led=False)
    assert follower.claim("key", "2") is None
    following = leader.claim("key", "3")
    assert following
    with fresh_valkey.client() as client:
        alive = ALIVE % following.partition(".")[0]
        assert 0 < client.pttl(alive) <= 2_000, "a killed process is forgotten so soon"
        client.delete(alive)
    assert leader.poll("key", following, 0) == FlightProgress([], led=False)
    assert leader.claim("key", "4") is None


def test_what_a_leader_says_nothing_of_is_gone_after_half_a_minute(
    leader: RedisCoordinator, follower: RedisCoordinator, fresh_valkey: Valkey
) -> None:
    """A leader that was killed, or whose word of the end was lost."""
    led_by(follower)
    leader.publish("key", "1", ENTRIES)
    with fresh_valkey.client() as client:

        def left() -> list[int]:
            return [client.pttl(name) for name in client.scan_iter("weir:flight-2:*")]

        assert len(left()) == 2
        assert all(0 < ttl <= 30_000 for ttl in left())
        for name in client.scan_iter("weir:flight-2:*"):
            client.pexpire(name, 5_000)
        follower.renew([("key", "2"), ("gone", "3")])
        leader.renew([("key", "1")])
        assert len(left()) == 2
        assert all(25_000 < ttl <= 30_000 for ttl in left())


def test_nobody_gives_up_or_ends_the_flight_of_another(
    leader: RedisCoordinator, follower: RedisCoordinator
) -> None:
    follower.relinquish("key")
    follower.finish("key", "1", nobody_asks)
    assert leader.is_led("key")
    assert led_by(follower).endswith(".1")
    leader.relinquish("key")
    assert not leader.is_led("key")


def test_redis_away_in_the_middle_leaves_everybody_alone(
    leader: RedisCoordinator, follower: RedisCoordinator, fresh_valkey: Valkey
) -> None:
    flight = led_by(follower)
    fresh_valkey.stop()
    leader.publish("key", "1", ENTRIES)
    leader.finish("key", "1", nobody_asks)
    assert follower.poll("key", flight, 0) == FlightProgress([], led=False)
    assert follower.claim("key", "2") is None
    assert leader.heartbeat() == set()
    leader.close()
