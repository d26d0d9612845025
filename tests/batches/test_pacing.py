"""How many lines of batches may run at a target at once, and who comes first."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import text

from tests.support.gevent_process import GeventProcess
from tests.support.servers import Provider, Valkey, free_port, wait_until
from webapp.application import create_app
from webapp.batches.pacing import CHECK_AFTER, INITIAL_WIDTH, Pacing
from webapp.errors import (
    BudgetReserved,
    ProviderBusy,
    ProviderFailed,
    ProviderRefusedRequest,
    ProviderTimedOut,
    WeirError,
)
from webapp.llm.calls import BilledLine, BillingContext, CallOptions
from webapp.llm.messages import ModelRequest
from webapp.providers.remaining_limits import LimitReadings, RemainingLimits
from webapp.services import Services
from webapp.settings import load
from webapp.storage.breakers import CircuitBreakers
from webapp.storage.busy_targets import BusyTargets
from webapp.storage.redis_client import RedisClient

MODEL = "gpt"
TARGET = f"openai/{MODEL}"
OTHER = "openai/another"
KEY = "key-1"
MOST = 8
BREAKER_PAUSE = 0.3  # seconds


@dataclass
class Place:
    """A pacing with real parts, in a process without Redis."""

    breakers: CircuitBreakers = field(default_factory=lambda: CircuitBreakers(None, 1, 0.3))
    busy: BusyTargets = field(default_factory=lambda: BusyTargets(None))
    readings: LimitReadings = field(default_factory=LimitReadings)
    pacing: Pacing = field(init=False)

    def __post_init__(self) -> None:
        self.pacing = Pacing(MOST, self._remaining, self.busy, self.breakers)

    def _remaining(self, target: str) -> RemainingLimits | None:
        return self.readings.of(MODEL) if target == TARGET else None

    def start(self, lines: int) -> None:
        for _ in range(lines):
            self.pacing.started(TARGET)

    def end(self, lines: int, error: WeirError | None = None) -> None:
        for _ in range(lines):
            self.pacing.ended(TARGET, error)

    def rounds(self, count: int, error: WeirError | None = None) -> None:
        """Start all that may start, and end it, so often."""
        for _ in range(count):
            free = self.pacing.free(TARGET)
            self.start(free)
            self.end(free, error)

    def said(self, *, asked_ago: float = 0.0, **headers: str) -> None:
        """The target has answered with these headers."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.readings.note(MODEL, time.monotonic() - asked_ago, named)


@pytest.fixture
def place() -> Place:
    return Place()


def requests_left(remaining: int, reset: str = "1m0s", limit: int = 100) -> dict[str, str]:
    return {
        "x_ratelimit_limit_requests": str(limit),
        "x_ratelimit_remaining_requests": str(remaining),
        "x_ratelimit_reset_requests": reset,
    }


# The width.


def test_a_few_lines_may_start_at_first_and_no_more_while_they_run(place: Place) -> None:
    assert place.pacing.free(TARGET) == INITIAL_WIDTH
    place.start(INITIAL_WIDTH)
    assert place.pacing.free(TARGET) == 0
    assert place.pacing.free(OTHER) == INITIAL_WIDTH
    place.end(1)
    assert place.pacing.free(TARGET) == 1


def test_a_round_of_successes_allows_one_more_up_to_the_most(place: Place) -> None:
    place.rounds(1)
    assert place.pacing.free(TARGET) == INITIAL_WIDTH + 1
    place.rounds(1)
    assert place.pacing.free(TARGET) == INITIAL_WIDTH + 2
    place.rounds(20)
    assert place.pacing.free(TARGET) == MOST


def test_a_width_that_nobody_used_does_not_grow(place: Place) -> None:
    for _ in range(50):
        place.start(1)
        place.end(1)
    assert place.pacing.free(TARGET) == INITIAL_WIDTH


@pytest.mark.parametrize(
    "error", [ProviderTimedOut(), ProviderFailed(), ProviderRefusedRequest(), BudgetReserved()]
)
def test_other_errors_than_429_neither_grow_nor_halve_it(place: Place, error: WeirError) -> None:
    place.rounds(10, error)
    assert place.pacing.free(TARGET) == INITIAL_WIDTH


def test_a_429_halves_it_at_once_and_pauses_as_long_as_the_provider_says(place: Place) -> None:
    place.rounds(20)
    place.start(MOST)
    began = time.monotonic()
    place.end(1, ProviderBusy(retry_after=0.3))
    place.end(MOST - 1)
    assert place.pacing.free(TARGET) == 0
    assert wait_until(lambda: place.pacing.free(TARGET), 3, "the end of the pause") == MOST // 2
    assert time.monotonic() - began >= 0.3


def test_a_burst_of_429s_halves_it_once(place: Place) -> None:
    place.rounds(20)
    place.start(MOST)
    place.end(MOST, ProviderBusy(retry_after=0))
    assert place.pacing.free(TARGET) == MOST // 2
    place.start(MOST // 2)
    place.end(MOST // 2, ProviderBusy(retry_after=0))
    assert place.pacing.free(TARGET) == MOST // 4
    for _ in range(5):
        place.start(1)
        place.end(1, ProviderBusy(retry_after=0))
    assert place.pacing.free(TARGET) == 1


def test_successes_of_calls_from_before_the_halving_do_not_grow_it(place: Place) -> None:
    place.rounds(20)
    place.start(MOST)
    place.end(1, ProviderBusy(retry_after=0))
    place.end(MOST - 1)
    assert place.pacing.free(TARGET) == MOST // 2


def test_a_429_that_another_target_made_up_for_counts_too(place: Place) -> None:
    place.start(INITIAL_WIDTH)
    place.pacing.refused(TARGET, 0)
    place.end(INITIAL_WIDTH)
    assert place.pacing.free(TARGET) == INITIAL_WIDTH // 2


def test_pauses_grow_while_the_provider_names_none(place: Place) -> None:
    place.start(1)
    place.end(1, ProviderBusy())
    assert place.pacing.free(TARGET) == 0


# What the provider says is left.


def test_a_quarter_of_the_requests_is_left_to_others(place: Place) -> None:
    place.said(**requests_left(30))
    assert place.pacing.free(TARGET) == INITIAL_WIDTH
    place.said(**requests_left(26))
    assert place.pacing.free(TARGET) == 2
    place.said(**requests_left(24))
    assert place.pacing.free(TARGET) == 0
    assert place.pacing.free(OTHER) == INITIAL_WIDTH


def test_lines_that_the_figures_do_not_count_yet_are_counted(place: Place) -> None:
    place.said(**requests_left(27))
    place.start(2)
    assert place.pacing.free(TARGET) == 1
    place.said(**requests_left(25))
    assert place.pacing.free(TARGET) == 1


def test_lines_start_again_after_the_reset(place: Place) -> None:
    place.said(**requests_left(0, reset="250ms"))
    assert place.pacing.free(TARGET) == 0
    assert wait_until(lambda: place.pacing.free(TARGET), 3, "the reset") == INITIAL_WIDTH


def test_a_limit_of_one_starves_nobody(place: Place) -> None:
    place.said(**requests_left(1, limit=1))
    assert place.pacing.free(TARGET) == 1


def test_a_quarter_of_the_tokens_is_left_to_others(place: Place) -> None:
    tokens = {"x_ratelimit_limit_tokens": "40000", "x_ratelimit_reset_tokens": "6m0s"}
    place.said(x_ratelimit_remaining_tokens="10000", **tokens)
    assert place.pacing.free(TARGET) == INITIAL_WIDTH
    place.said(x_ratelimit_remaining_tokens="9999", **tokens)
    assert place.pacing.free(TARGET) == 0


def test_an_answer_that_was_asked_for_earlier_does_not_count(place: Place) -> None:
    place.said(**requests_left(0))
    place.said(asked_ago=5, **requests_left(100))
    assert place.pacing.free(TARGET) == 0


def test_one_line_looks_again_where_a_reset_is_far_away(place: Place) -> None:
    place.said(**requests_left(0, reset="20h"))
    assert place.pacing.free(TARGET) == 0
    said = place.readings._said[MODEL]
    place.readings._said[MODEL] = (said[0], said[1] - CHECK_AFTER - 1, said[2])
    assert place.pacing.free(TARGET) == 1
    place.start(1)
    assert place.pacing.free(TARGET) == 0


# Circuits.


def test_no_line_starts_at_an_open_circuit_and_one_is_the_probe(place: Place) -> None:
    place.breakers.failed(TARGET, KEY, unreachable=True)
    assert place.pacing.free(TARGET) == 0
    assert place.pacing.free(TARGET, "embeddings") == INITIAL_WIDTH
    assert wait_until(lambda: place.pacing.free(TARGET), 3, "the probe") == 1
    assert place.breakers.allows(TARGET, KEY)
    place.start(1)
    assert place.pacing.free(TARGET) == 0
    place.breakers.succeeded(TARGET, KEY)
    assert place.pacing.free(TARGET) == INITIAL_WIDTH - 1


def test_the_circuit_of_one_key_stops_its_lines_alone(place: Place) -> None:
    place.breakers.failed(TARGET, KEY)
    assert place.pacing.free(TARGET, who=KEY) == 0
    assert place.pacing.free(TARGET, who="key-2") == INITIAL_WIDTH


def test_a_circuit_that_another_process_opened_is_known(fresh_valkey: Valkey) -> None:
    elsewhere, here = (CircuitBreakers(RedisClient(fresh_valkey.url), 1, 30) for _ in range(2))
    place = Place(breakers=here)
    assert place.pacing.free(TARGET) == INITIAL_WIDTH
    elsewhere.failed(TARGET, KEY, unreachable=True)
    wait_until(lambda: place.pacing.free(TARGET) == 0, 3, "the news")


# Where interactive requests are refused.


def test_batches_pause_where_an_interactive_request_got_a_429(place: Place) -> None:
    place.busy.report(TARGET, 0.3)
    assert place.pacing.free(TARGET) == 0
    assert place.pacing.free(OTHER) == INITIAL_WIDTH
    wait_until(lambda: place.pacing.free(TARGET), 3, "the end of the pause")


def test_the_pause_of_a_target_ends_within_a_minute_without_further_refusals(
    place: Place,
) -> None:
    place.busy.report(TARGET, 86_400)
    assert 0 < place.busy.busy_for(TARGET) <= 60
    place.busy.report(OTHER, None)
    assert 0 < place.busy.busy_for(OTHER) <= 5


def test_another_process_learns_of_it(fresh_valkey: Valkey) -> None:
    elsewhere, here = (BusyTargets(RedisClient(fresh_valkey.url)) for _ in range(2))
    place = Place(busy=here)
    assert place.pacing.free(TARGET) == INITIAL_WIDTH
    elsewhere.report(TARGET, 1.5)
    wait_until(lambda: place.pacing.free(TARGET) == 0, 3, "the news")
    wait_until(lambda: place.pacing.free(TARGET), 5, "the end of the pause")


def test_a_shorter_pause_does_not_replace_a_longer_one(fresh_valkey: Valkey) -> None:
    first, second, here = (BusyTargets(RedisClient(fresh_valkey.url)) for _ in range(3))
    first.report(TARGET, 50)
    wait_until(lambda: second.busy_for(TARGET) > 40, 3, "the first report")
    BusyTargets(RedisClient(fresh_valkey.url)).report(TARGET, 2)
    wait_until(lambda: here.busy_for(TARGET) > 40, 3, "the longer pause")


def test_redis_is_asked_at_most_twice_a_second(fresh_valkey: Valkey) -> None:
    busy = BusyTargets(RedisClient(fresh_valkey.url))
    busy.busy_for(TARGET)
    with fresh_valkey.client() as client:
        before = client.info("commandstats")
        for _ in range(1_000):
            busy.busy_for(TARGET)
        after = client.info("commandstats")
    calls = [stats["cmdstat_pttl"]["calls"] for stats in (before, after)]
    assert calls[1] - calls[0] <= 1


def test_without_redis_a_process_knows_what_it_saw_itself() -> None:
    busy = BusyTargets(RedisClient(f"redis://127.0.0.1:{free_port()}/0"))
    place = Place(busy=busy)
    assert place.pacing.free(TARGET) == INITIAL_WIDTH
    busy.report(TARGET, 0.3)
    assert place.pacing.free(TARGET) == 0
    wait_until(lambda: place.pacing.free(TARGET), 3, "the end of the pause")


def told_of_a_429(
    environment: dict[str, str], batch: BilledLine | None, *, streamed: bool
) -> tuple[str, bool]:
    """The error of a call through the gateway, and whether batches pause. In a GeventProcess."""
    application = create_app(load(environment))
    services: Services = application.extensions["weir"]
    services.lifecycle.start()

    class Client:
        def check(self) -> None: ...

    a_key = text("SELECT min(id) FROM api_keys")
    key_id = services.database.read(lambda connection: connection.execute(a_key).scalar_one())
    billing = BillingContext(key_id, "request-1", "chat", batch=batch)
    body = {"messages": [{"role": "user", "content": f"hello {batch} {streamed}"}]}
    request = ModelRequest(body, model=MODEL, stream=streamed)
    options = CallOptions(Client(), billing, time.monotonic() + 20)
    try:
        services.gateway.answer(request, options)
    except WeirError as error:
        return error.name, services.busy_targets.busy_for(TARGET) > 0
    finally:
        services.lifecycle.stop()
    return "", services.busy_targets.busy_for(TARGET) > 0


@pytest.mark.parametrize("streamed", [False, True], ids=["answer", "stream"])
def test_a_429_of_a_client_who_waits_pauses_batches_and_that_of_a_batch_does_not(
    provider: Provider,
    fresh_valkey: Valkey,
    migrated_file: Path,
    tmp_path: Path,
    streamed: bool,
) -> None:
    shutil.copy(migrated_file, tmp_path)
    environment = {
        "DATA_DIR": str(tmp_path),
        "REDIS_URL": fresh_valkey.url,
        "OPENAI_API_KEY": "sk-key",
        "OPENAI_BASE_URL": provider.base_url,
        "LLM_MAX_RETRIES": "0",
        "API_KEYS": "a:enterprise:a_secret_of_a_key",
    }
    here = BusyTargets(RedisClient(fresh_valkey.url))
    provider.fault(status=429, retry_after="30")
    with GeventProcess() as elsewhere:
        line = BilledLine("batch_1", 1)
        told = elsewhere.run(told_of_a_429, environment, line, streamed=streamed)
        assert told == ("ProviderBusy", False)
        assert not here.busy_for(TARGET)
        told = elsewhere.run(told_of_a_429, environment, None, streamed=streamed)
        assert told == ("ProviderBusy", True)
    assert wait_until(lambda: here.busy_for(TARGET), 3, "the news") > 20


def test_flooding_with_names_keeps_memory_bounded(place: Place) -> None:
    place.start(1)
    for number in range(3_000):
        place.busy.report(f"openai/{number}", 1)
        place.pacing.started(f"openai/{number}")
        place.pacing.ended(f"openai/{number}", None)
        place.readings.note(f"{number}", 0.0, {"x-ratelimit-remaining-requests": "1"})
    assert len(place.pacing._paces) <= 1_000
    assert len(place.busy._until) <= 1_000
    assert len(place.readings._said) <= 1_000
    assert place.pacing.free(TARGET) == INITIAL_WIDTH - 1


def test_a_line_goes_to_the_next_target_where_the_circuit_of_the_first_is_open() -> None:
    place = Place()
    targets = (TARGET, "other/model")
    assert place.pacing.choose(targets, "chat/completions", KEY) == TARGET
    place.breakers.failed(TARGET, KEY, None, unreachable=True)
    assert place.pacing.choose(targets, "chat/completions", KEY) == "other/model"
    assert place.pacing.choose((TARGET,), "chat/completions", KEY) is None


def test_a_line_waits_for_a_busy_target_though_there_is_another() -> None:
    place = Place()
    place.pacing.started(TARGET)
    place.pacing.ended(TARGET, ProviderBusy(retry_after=30))
    assert place.pacing.choose((TARGET, "other/model"), "chat/completions", KEY) is None
