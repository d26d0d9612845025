"""What providers say is left of their limits, in each form that is known."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from tests.support import asking
from tests.support.gevent_process import GeventProcess
from tests.support.servers import Provider
from webapp.llm.messages import ModelRequest
from webapp.providers.remaining_limits import LimitReadings, RemainingLimit, RemainingLimits

MODEL = "stand-in-1"
ASKING = ModelRequest({"messages": [{"role": "user", "content": "hello"}]})


def read(headers: dict[str, str]) -> RemainingLimits | None:
    readings = LimitReadings()
    readings.note(MODEL, time.monotonic(), headers)
    return readings.of(MODEL)


def in_seconds(said: RemainingLimits, limit: RemainingLimit) -> float:
    return round(limit.resets_at - said.said_at, 3)


@pytest.mark.parametrize(
    ("reset", "seconds"),
    [
        ("6m0s", 360), ("120ms", 0.12), ("1s", 1), ("2m59.56s", 179.56), ("1h2m3s", 3723),
        ("7.66s", 7.66), ("55", 55), ("0", 0), ("0.5", 0.5), (" 12s ", 12),
        # What is malformed, endless or absent is a minute; nothing lasts longer than a day.
        ("", 60), ("soon", 60), ("nan", 60), ("inf", 60), ("-5", 0), ("6m0s1", 60),
        ("9" * 99, 86_400), ("1e300", 86_400), ("999999h", 86_400),
    ],
)  # fmt: skip
def test_a_reset_is_a_duration_or_seconds(reset: str, seconds: float) -> None:
    said = read(
        {
            "x-ratelimit-limit-requests": "500",
            "x-ratelimit-remaining-requests": "499",
            "x-ratelimit-reset-requests": reset,
        }
    )
    assert said
    assert (said.requests["requests"].limit, said.requests["requests"].remaining) == (500, 499)
    assert in_seconds(said, said.requests["requests"]) == seconds


def test_anthropic_says_when_by_its_own_clock() -> None:
    clock = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)
    at = (clock + timedelta(seconds=42)).isoformat().replace("+00:00", "Z")
    headers = {"date": format_datetime(clock, usegmt=True)}
    for what in ("requests", "tokens", "input-tokens", "output-tokens"):
        headers |= {
            f"anthropic-ratelimit-{what}-limit": "1000",
            f"anthropic-ratelimit-{what}-remaining": "900",
            f"anthropic-ratelimit-{what}-reset": at,
        }
    said = read(headers)
    assert said
    assert set(said.requests) == {"requests"}
    assert set(said.tokens) == {"tokens", "input-tokens", "output-tokens"}
    assert in_seconds(said, said.tokens["input-tokens"]) == 42


@pytest.mark.parametrize("unit", [1, 1000])
def test_a_unix_time_is_no_number_of_seconds(unit: int) -> None:
    clock = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)
    for ahead, seconds in ((42, 42), (-42, 0)):
        said = read(
            {
                "date": format_datetime(clock, usegmt=True),
                "x-ratelimit-remaining-requests": "5",
                "x-ratelimit-reset-requests": str(int(clock.timestamp() + ahead) * unit),
            }
        )
        assert said
        assert in_seconds(said, said.requests["requests"]) == seconds


def test_mistral_names_its_limits_by_the_minute_and_no_reset() -> None:
    said = read(
        {
            "x-ratelimit-limit-tokens-minute": "5000000",
            "x-ratelimit-remaining-tokens-minute": "4999911",
            "x-ratelimit-limit-req-minute": "720",
            "x-ratelimit-remaining-req-minute": "717",
        }
    )
    assert said
    assert said.requests["req-minute"].remaining == 717
    assert said.tokens["tokens-minute"].limit == 5_000_000
    assert in_seconds(said, said.requests["req-minute"]) == 60


def test_where_azure_names_no_limit_it_is_the_most_that_was_left() -> None:
    readings = LimitReadings()
    for number, left in enumerate(("80", "79", "12")):
        readings.note(MODEL, float(number), {"x-ratelimit-remaining-requests": left})
        said = readings.of(MODEL)
    assert said
    assert (said.requests["requests"].limit, said.requests["requests"].remaining) == (80, 12)


@pytest.mark.parametrize(
    ("limit", "remaining"),
    [("-1", "-1"), ("0", "0"), ("100", ""), ("100", "many"), ("100", "1e3"), ("x", "5"),
     ("100", "9" * 400), ("100", "٣")],
)  # fmt: skip
def test_what_is_no_limit_or_malformed_is_ignored(limit: str, remaining: str) -> None:
    said = read({"x-ratelimit-limit-tokens": limit, "x-ratelimit-remaining-tokens": remaining})
    assert said
    assert not said.tokens


def test_an_answer_without_limits_takes_nothing_back() -> None:
    readings = LimitReadings()
    readings.note(MODEL, 1.0, {"x-ratelimit-remaining-requests": "7"})
    readings.note(MODEL, 2.0, {"content-type": "application/json"})
    said = readings.of(MODEL)
    assert said
    assert said.requests["requests"].remaining == 7
    assert readings.of("another") is None


# Through the stand-in.


def limits_of(environment: dict[str, str], model: str) -> RemainingLimits | None:
    provider = asking.provider_of(environment)
    return provider.limits.of(model)  # type: ignore[attr-defined,no-any-return]


@pytest.fixture(scope="module")
def process() -> object:
    with GeventProcess() as running:
        yield running


@pytest.mark.parametrize("kind", ["openai", "azure", "anthropic"])
@pytest.mark.parametrize("streamed", [False, True], ids=["answer", "stream"])
def test_headers_of_answers_and_of_refusals_are_kept_for_each_model(
    process: GeventProcess, provider: Provider, kind: str, streamed: bool
) -> None:
    environment = {
        "openai": {"OPENAI_API_KEY": "sk-key", "OPENAI_BASE_URL": provider.base_url},
        "azure": {
            "AZURE_OPENAI_API_KEY": "key", "AZURE_OPENAI_ENDPOINT": provider.azure_url,
            "DEFAULT_MODEL": f"azure/{MODEL}",
        },
        "anthropic": {"ANTHROPIC_API_KEY": "sk", "ANTHROPIC_BASE_URL": provider.anthropic_url},
    }[kind] | {"LLM_TIMEOUT": "20"}  # fmt: skip
    name = "anthropic-ratelimit-requests-{}" if kind == "anthropic" else "X-RateLimit-{}-Requests"
    ask = asking.read if streamed else asking.timed_answer

    def figure(left: int) -> str:
        figures = {"limit": 100, "remaining": left}
        return "\n".join(f"{name.format(figure)}: {said}" for figure, said in figures.items())

    provider.fault(headers=figure(64))
    process.run(ask, environment, ASKING, MODEL)
    said = process.run(limits_of, environment, MODEL)
    assert said
    assert said.requests["requests"].remaining == 64
    provider.fault(headers=figure(0), status=429)
    process.run(ask, environment, ASKING, MODEL)
    said = process.run(limits_of, environment, MODEL)
    assert said
    assert said.requests["requests"].remaining == 0
    assert process.run(limits_of, environment, "another") is None
