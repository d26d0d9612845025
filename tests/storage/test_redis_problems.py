"""A Redis that answers PING but refuses what Weir needs: said once, in words that help."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import gevent
import pytest

from tests.conftest import MakeWeir
from tests.support.servers import (
    REPOSITORY,
    ClusterNode,
    Provider,
    Valkey,
    Weir,
    free_port,
    wait_until,
)
from webapp.admission.limit_states import Limit, window_limits
from webapp.admission.rate_limits import RateLimits
from webapp.admission.token_limits import TokenRateLimits
from webapp.errors import RateLimitExceeded
from webapp.setting_parsers import tiers
from webapp.storage import redis_client
from webapp.storage.redis_client import RedisClient
from webapp.storage.redis_commands import RedisUnavailable

Command = tuple[str | int, ...]
USER = "redis://app:pw@127.0.0.1:{port}/0"
MAKE_USER: Command = ("ACL", "SETUSER", "app", "reset", "on", ">pw", "~*", "&*", "+@all")
KEYS = 10


@dataclass(frozen=True, slots=True)
class Fault:
    """What breaks a Redis, what mends it, what is said of it, and the URL that Weir has."""

    faulty: Command
    mended: Command
    said: tuple[str, ...]
    url: str = "redis://127.0.0.1:{port}/0"


FAULTS = {
    "no scripts": Fault(
        (*MAKE_USER, "-@scripting"), MAKE_USER, ("may not run 'eval'", "+@scripting"), USER
    ),
    "no writing": Fault(
        (*MAKE_USER, "-set"), MAKE_USER, ("may not run 'set'", "ACL SETUSER"), USER
    ),
    "other keys": Fault(
        ("ACL", "SETUSER", "app", "reset", "on", ">pw", "~other:*", "+@all"), MAKE_USER,
        ("may not run", "~weir:*"), USER,
    ),
    "wrong password": Fault(
        ("ACL", "SETUSER", "app", "reset", "on", ">other", "~*", "+@all"), MAKE_USER,
        ("user or the password", "REDIS_URL"), USER,
    ),
    "a password is needed": Fault(
        ("CONFIG", "SET", "requirepass", "pw"), ("CONFIG", "SET", "requirepass", ""),
        ("user or the password", "redis://:password@host"),
    ),
    "full": Fault(
        ("CONFIG", "SET", "maxmemory", 1), ("CONFIG", "SET", "maxmemory", 0),
        ("full", "volatile-lru"),
    ),
    "a replica": Fault(
        ("REPLICAOF", "127.0.0.1", free_port()), ("REPLICAOF", "NO", "ONE"),
        ("read-only replica", "redis+sentinel://"),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def own() -> Iterator[Valkey]:
    with Valkey() as server:
        yield server


@pytest.fixture
def tell(own: Valkey) -> Iterator[Callable[[Command], None]]:
    """Send a command to Redis; at the test's end it is as new."""
    # A connection that is signed in stays so when a password is set.
    with own.client() as client:
        client.flushall()

        def tell(command: Command) -> None:
            client.execute_command(*command)

        yield tell
        for fault in FAULTS.values():
            tell(fault.mended)


@pytest.fixture(scope="module")
def halves() -> Iterator[tuple[ClusterNode, ClusterNode]]:
    """A cluster of two nodes with half of the slots each."""
    with ClusterNode() as first, ClusterNode() as second:
        first.take_slots(0, 8191)
        second.take_slots(8192, 16383)
        first.meet(second)
        yield first, second


def warnings(log: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in log.records if record.levelno >= logging.WARNING]


def wait_for(redis: RedisClient) -> None:
    with gevent.Timeout(10):
        while redis.unavailable:
            gevent.sleep(0.05)


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_refused_is_named_and_it_is_found_again(
    own: Valkey, tell: Callable[[Command], None], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    fault = FAULTS[name]
    tell(fault.faulty)
    redis = RedisClient(fault.url.format(port=own.port))
    for _ in range(50):
        with pytest.raises(RedisUnavailable):
            redis.execute("GET", "weir:a")
    problem = redis.problem()
    assert problem
    for words in fault.said:
        assert words in f"{problem.found}. {problem.advice}"
    [line] = warnings(caplog)
    assert problem.found in line
    assert "pw" not in line.replace("password", "")
    tell(fault.mended)
    wait_for(redis)
    assert warnings(caplog)[1:] == ["Redis is available again"]
    assert redis.problem() is None
    assert redis.execute("SET", "weir:a", "1", "PX", 1000)


def test_what_begins_later_is_noticed_by_the_next_command(
    own: Valkey, tell: Callable[[Command], None], caplog: pytest.LogCaptureFixture
) -> None:
    tell(MAKE_USER)
    redis = RedisClient(USER.format(port=own.port))
    limits = RateLimits(redis, 1)
    [window] = window_limits(tiers("t=2/minute")["t"].windows)
    assert limits.acquire("of-this-test", [window]).allowed
    tell((*MAKE_USER, "-@scripting"))
    assert limits.acquire("of-this-test", [window]).allowed, "now this process counts by itself"
    assert not limits.acquire("of-this-test", [window]).allowed, "and goes on from what it knows"
    assert redis.unavailable
    assert len(warnings(caplog)) == 1
    tell(MAKE_USER)
    wait_for(redis)


def test_it_is_told_once_though_it_comes_and_goes(
    own: Valkey, tell: Callable[[Command], None], caplog: pytest.LogCaptureFixture
) -> None:
    """A full Redis takes a command now and then."""
    redis = RedisClient(own.url)
    for _ in range(2):
        tell(FAULTS["full"].faulty)
        with pytest.raises(RedisUnavailable):
            redis.execute("SET", "weir:a", "1")
        tell(FAULTS["full"].mended)
        wait_for(redis)
    full, again = warnings(caplog)
    assert "full" in full
    assert again == "Redis is available again"


def test_it_is_told_again_while_it_lasts(
    own: Valkey,
    tell: Callable[[Command], None],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(redis_client, "REMIND_INTERVAL", 0.5)
    monkeypatch.setattr(redis_client, "REFUSED_PROBE_INTERVAL", 0.05)
    tell(FAULTS["full"].faulty)
    redis = RedisClient(own.url)
    with pytest.raises(RedisUnavailable):
        redis.execute("GET", "weir:a")

    def reminders() -> list[logging.LogRecord]:
        # On a busy machine Redis may be unreachable for a moment, which is told, too.
        return [r for r in caplog.records if "still unavailable: Redis is full" in r.message]

    with gevent.Timeout(5):
        while not reminders():
            gevent.sleep(0.05)
    assert reminders()[0].created - caplog.records[0].created >= 0.5
    tell(FAULTS["full"].mended)
    wait_for(redis)


def test_while_redis_is_full_now_and_then_no_window_has_more_than_its_limit(
    own: Valkey, tell: Callable[[Command], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Its processes lose and find it at other times, and may have the count of either side."""
    [window] = window_limits(tiers("t=40/minute")["t"].windows)
    clients = [RedisClient(own.url) for _ in range(2)]
    processes = [RateLimits(client, 2) for client in clients]
    allowed = [0, 0]

    def ask(seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for number, limits in enumerate(processes):
                allowed[number] += limits.acquire("busy", [window]).allowed
                limits.tick()
            gevent.sleep(0.02)

    # One process has more than its share when the trouble begins.
    allowed[0] += sum(processes[0].acquire("busy", [window]).allowed for _ in range(25))
    allowed[1] += sum(processes[1].acquire("busy", [window]).allowed for _ in range(5))
    tell(FAULTS["full"].faulty)
    ask(0.2)
    assert all(client.unavailable for client in clients)
    tell(FAULTS["full"].mended)
    ask(2.3)
    assert not any(client.unavailable for client in clients)
    tell(FAULTS["full"].faulty)
    ask(0.2)
    assert 30 < sum(allowed) <= 40, allowed
    lines = [line for line in warnings(caplog) if "full" in line]
    assert len(lines) == 2, "once for each process"


@pytest.mark.parametrize("notation", ["10/minute", "10/hour"])
def test_what_a_process_has_allowed_alone_goes_on_counting_in_redis(
    own: Valkey, tell: Callable[[Command], None], notation: str
) -> None:
    limits = [*window_limits(tiers(f"t={notation}")["t"].windows), Limit("day", "day", 50, 86_400)]
    clients = [RedisClient(own.url) for _ in range(2)]
    first, second = (RateLimits(client, 2) for client in clients)
    assert all(first.acquire("alone", limits).allowed for _ in range(3))
    tell(FAULTS["full"].faulty)
    assert [first.acquire("alone", limits).allowed for _ in range(3)] == [True, True, False]
    tell(FAULTS["full"].mended)
    wait_for(clients[0])
    first.tick()
    assert [state.used for state in second.peek("alone", limits).states] == [5, 5]
    assert sum(second.acquire("alone", limits).allowed for _ in range(10)) == 5


def test_tokens_that_redis_has_counted_go_on_counting_while_it_is_full(
    own: Valkey, tell: Callable[[Command], None]
) -> None:
    limits = TokenRateLimits(RedisClient(own.url), 2)
    for _ in range(4):
        limits.reserve("tokens", 1000, 100, named=True)
    tell(FAULTS["full"].faulty)
    limits.reserve("tokens", 1000, 100, named=True)
    with pytest.raises(RateLimitExceeded):
        limits.reserve("tokens", 1000, 100, named=True)


def test_the_permissions_that_the_documentation_names_suffice(
    own: Valkey, tell: Callable[[Command], None], start_weir: MakeWeir, provider: Provider
) -> None:
    permissions = "~weir:* +@read +@write +@scripting +@connection +time"
    tell(("ACL", "SETUSER", "app", "reset", "on", ">pw", *permissions.split()))
    weir = start_weir(
        **settings(provider), REDIS_URL=USER.format(port=own.port), WEB_CONCURRENCY=2,
        TIER_ENTERPRISE="tokens_per_minute=1000000,parallel_requests=5,requests_per_day=100",
    )  # fmt: skip
    assert admitted(weir) == {10}
    assert weir.get("/health").json()["checks"]["cache"] == "healthy"
    assert weir.post("/chat", key="key-0", json={"message": "again"}).status_code == 429
    assert "Redis" not in weir.raw_logs()
    assert permissions in (REPOSITORY / "docs/operating.md").read_text()


def settings(provider: Provider) -> dict[str, object]:
    keys = ",".join(f"name {number}:enterprise:key-{number}" for number in range(KEYS))
    return {
        "API_KEYS": keys, "TIERS": "enterprise=10/minute", "OPENAI_BASE_URL": provider.base_url,
        "DEFAULT_MODEL": "stand-in-1",
    }  # fmt: skip


def admitted(weir: Weir) -> set[int]:
    """How many of 13 requests of each key are served."""

    def served(number: int) -> int:
        body = {"message": f"Hello {number}"}
        answers = [weir.post("/chat", key=f"key-{number}", json=body) for _ in range(13)]
        assert {answer.status_code for answer in answers} <= {200, 429}
        return sum(answer.status_code == 200 for answer in answers)

    with ThreadPoolExecutor(4) as pool:
        return set(pool.map(served, range(KEYS)))


@pytest.mark.parametrize("kind", ["cluster", "user"], ids=["c48, one node", "c48, no scripts"])
def test_health_and_doctor_name_it_and_the_log_says_it_once(
    own: Valkey,
    tell: Callable[[Command], None],
    halves: tuple[ClusterNode, ClusterNode],
    start_weir: MakeWeir,
    provider: Provider,
    kind: str,
) -> None:
    tell((*MAKE_USER, "-@scripting"))
    url = halves[0].url if kind == "cluster" else USER.format(port=own.port)
    words = "redis+cluster://" if kind == "cluster" else "+@scripting"
    weir = start_weir(**settings(provider), REDIS_URL=url, WEB_CONCURRENCY=2)
    # Each of the two workers allows its share.
    assert max(admitted(weir)) <= 10
    assert weir.get("/health").json()["checks"]["cache"] == "degraded"
    detailed = weir.get("/health/detailed", key="key-0").json()["checks"]["cache"]
    assert detailed["status"] == "degraded"
    assert words in detailed["error"]
    assert "127.0.0.1" not in detailed["error"]
    doctor = weir.run_flask_process("doctor")
    assert doctor.returncode == 1
    assert words in doctor.stdout
    said = [line for line in weir.logs() if "Redis" in str(line.get("message"))]
    assert len(said) <= 2, "once for each worker"
    assert all(words in line["message"] for line in said)
    if kind == "user":
        tell(MAKE_USER)
        wait_until(lambda: weir.get("/health").json()["checks"]["cache"] == "healthy")


def test_a_cluster_url_makes_limits_exact_on_both_nodes(
    halves: tuple[ClusterNode, ClusterNode], start_weir: MakeWeir, provider: Provider
) -> None:
    url = halves[0].url.replace("redis://", "redis+cluster://").removesuffix("/0")
    weir = start_weir(**settings(provider), REDIS_URL=url, WEB_CONCURRENCY=2)
    assert admitted(weir) == {10}
    assert weir.get("/health").json()["checks"]["cache"] == "healthy"
