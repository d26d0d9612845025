"""Provider calls at their place in the time of their request."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from webapp.metering.timeline import timelines

START = 1_795_900_000.0


def call(after: float, took: float | None, **facts: Any) -> dict[str, Any]:
    """A call that began so many seconds after START."""
    times = {"reserved_at": iso(after), "settled_at": None if took is None else iso(after + took)}
    return {**times, "state": "settled", "output_tokens": 0, "estimated": False, **facts}


def iso(after: float) -> str:
    return datetime.fromtimestamp(START + after, UTC).isoformat()


def row(began: float, took: float, first_token: float | None = None) -> Any:
    return SimpleNamespace(
        at=START + began + took,
        milliseconds=took * 1000,
        first_token_milliseconds=first_token and first_token * 1000,
    )


def test_attempts_are_placed_with_the_gaps_between_them() -> None:
    failed, good = call(0.25, 0.5, state="failed"), call(1.75, 0.25, output_tokens=10)
    [timeline] = timelines([row(0, 2)], [good, failed])
    assert timeline.length == 2000
    assert [attempt.call for attempt in timeline.attempts] == [failed, good]
    assert [(a.started, a.took) for a in timeline.attempts] == [(250, 500), (1750, 250)]
    assert [a.tokens_per_second for a in timeline.attempts] == [None, 40]


def test_the_tokens_of_a_stream_are_timed_from_the_first_one() -> None:
    failed = call(0, 0.5, state="failed", output_tokens=5)
    [timeline] = timelines([row(0, 3, first_token=1)], [failed, call(0.5, 2.5, output_tokens=100)])
    assert [attempt.tokens_per_second for attempt in timeline.attempts] == [10, 50]


def test_estimated_tokens_have_no_speed() -> None:
    cut = call(0, 0.5, state="cut", output_tokens=16_384, estimated=True)
    [timeline] = timelines([row(0, 1)], [cut])
    assert timeline.attempts[0].tokens_per_second is None


def test_calls_of_an_id_that_was_used_twice_go_to_their_own_request() -> None:
    first, second, running = call(0, 1), call(100, 1), call(200, None)
    latest, newer, older = timelines([row(100, 2), row(0, 2)], [running, second, first])
    assert [attempt.call for attempt in older.attempts] == [first]
    assert [attempt.call for attempt in newer.attempts] == [second]
    assert (latest.row, [attempt.call for attempt in latest.attempts]) == (None, [running])
