"""The provider calls of a request, as a timeline from its beginning to its end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from webapp.llm.calls import CallState

# Clocks of the request and of its calls are the same; this allows for rounding.
TOLERANCE = 0.5  # seconds


@dataclass(frozen=True, slots=True)
class Attempt:
    """A call (as metering.calls gives it) in its request. Times are in ms; `started` is since the
    request began, `took` until now while it runs. `tokens_per_second` is of the output, where it
    was not estimated."""

    call: dict[str, Any]
    started: float
    took: float
    tokens_per_second: float | None


@dataclass(frozen=True, slots=True)
class Timeline:
    """A request of the log, None while it is not there, with its attempts, oldest first. `length`
    is in ms."""

    row: Any | None
    length: float
    attempts: list[Attempt]


def timelines(rows: Sequence[Any], calls: Sequence[dict[str, Any]]) -> list[Timeline]:
    """A timeline for each row, newest first, as a client may use an id twice; and one more for
    calls of a request that is not in the log (any more, or yet)."""
    left = sorted(calls, key=lambda call: call["reserved_at"])
    found = []
    for row in rows:
        ended = row.at + TOLERANCE
        began = row.at - row.milliseconds / 1000 - TOLERANCE
        own = [call for call in left if began <= _unix(call["reserved_at"]) <= ended]
        left = [call for call in left if call not in own]
        found.append(_timeline(row, row.at - row.milliseconds / 1000, row.milliseconds, own))
    if left:
        began = _unix(left[0]["reserved_at"])
        ended = max(_ended(call) for call in left)
        found.insert(0, _timeline(None, began, (ended - began) * 1000, left))
    return found


def _timeline(row: Any, began: float, length: float, calls: list[dict[str, Any]]) -> Timeline:
    attempts = []
    for call in calls:
        reserved = _unix(call["reserved_at"])
        took = (_ended(call) - reserved) * 1000
        speed = None
        is_counted = call["settled_at"] is not None and not call["estimated"]
        if is_counted and call["output_tokens"]:
            speed = _per_second(call["output_tokens"], _answering(row, call, calls, took))
        attempts.append(Attempt(call, max(0.0, (reserved - began) * 1000), took, speed))
    last = max((attempt.started + attempt.took for attempt in attempts), default=0.0)
    return Timeline(row, max(length, last), attempts)


def _answering(row: Any, call: dict[str, Any], calls: list[dict[str, Any]], took: float) -> float:
    """The ms in which a call gave its tokens: of a stream, those after the first one."""
    streamed = row is not None and row.first_token_milliseconds is not None
    if streamed and call is calls[-1] and call["state"] == CallState.SETTLED:
        return float(row.milliseconds - row.first_token_milliseconds)
    return took


def _per_second(tokens: int, milliseconds: float) -> float | None:
    return tokens / milliseconds * 1000 if milliseconds >= 1 else None


def _ended(call: dict[str, Any]) -> float:
    return time.time() if call["settled_at"] is None else _unix(call["settled_at"])


def _unix(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()
