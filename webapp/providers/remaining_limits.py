"""What providers say is left of their rate limits, in the headers of their answers.

OpenAI, Azure, Groq and others: `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`; Mistral:
`…-req-minute` and `…-tokens-minute` without a reset; Anthropic:
`anthropic-ratelimit-{requests,…}-{limit,remaining,reset}`.
"""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime

OPENAI = "x-ratelimit-{figure}-{what}"
ANTHROPIC = "anthropic-ratelimit-{what}-{figure}"
REQUESTS = ((OPENAI, "requests"), (OPENAI, "req-minute"), (ANTHROPIC, "requests"))
TOKENS = (
    (OPENAI, "tokens"),
    (OPENAI, "tokens-minute"),
    (ANTHROPIC, "tokens"),
    (ANTHROPIC, "input-tokens"),
    (ANTHROPIC, "output-tokens"),
)
MARK = "ratelimit-"
MAX_MODELS = 1_000  # clients may name any model
DEFAULT_RESET = 60.0  # seconds; limits without a reset are those of a minute
MAX_RESET = 86_400.0  # seconds
FIRST_UNIX_TIME = 1e9  # a larger number is no number of seconds from now
# Go's durations: `6m0s`, `1h2m3.5s`, `120ms`.
DURATION = re.compile(
    r"(?:(\d{1,6})d)?(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,9}(?:\.\d*)?)s)?(?:(\d{1,9}(?:\.\d*)?)ms)?",
    re.ASCII,
)
SECONDS_OF_UNITS = (86_400, 3_600, 60, 1, 0.001)
WHOLE_NUMBER = re.compile(r"\d{1,15}", re.ASCII)


@dataclass(frozen=True, slots=True)
class RemainingLimit:
    """One limit. `resets_at` is monotonic."""

    limit: int
    remaining: int
    resets_at: float


@dataclass(frozen=True, slots=True)
class RemainingLimits:
    """What an answer said. `asked_at` is when its call began, `said_at` when its headers came
    (monotonic)."""

    asked_at: float
    said_at: float
    requests: Mapping[str, RemainingLimit]
    tokens: Mapping[str, RemainingLimit]


class LimitReadings:
    """The latest headers of each model of a provider, read only when somebody asks.

    So an answer costs a look at the names of its headers.
    """

    def __init__(self) -> None:
        self._said: dict[str, tuple[float, float, Mapping[str, object]]] = {}
        self._read: dict[str, RemainingLimits] = {}

    def note(self, model: str, asked_at: float, headers: Mapping[str, object]) -> None:
        """Keep an answer's headers if they name limits. Those of an older call are out of date."""
        for name in headers:
            if MARK in name:
                break
        else:
            return
        known = self._said.get(model)
        if known is not None and asked_at < known[0]:
            return
        if known is None and len(self._said) >= MAX_MODELS:
            oldest = next(iter(self._said))
            del self._said[oldest]
            self._read.pop(oldest, None)
        self._said[model] = (asked_at, time.monotonic(), headers)

    def of(self, model: str) -> RemainingLimits | None:
        said = self._said.get(model)
        if said is None:
            return None
        read = self._read.get(model)
        if read is None or (read.asked_at, read.said_at) != said[:2]:
            read = self._read[model] = _read(*said, read)
        return read


def _read(
    asked_at: float,
    said_at: float,
    headers: Mapping[str, object],
    earlier: RemainingLimits | None,
) -> RemainingLimits:
    def limits(
        names: Iterable[tuple[str, str]], known: Mapping[str, RemainingLimit]
    ) -> dict[str, RemainingLimit]:
        found = {}
        for pattern, what in names:
            limit, remaining, reset = (
                headers.get(pattern.format(figure=figure, what=what))
                for figure in ("limit", "remaining", "reset")
            )
            left, most = _figure(remaining), _figure(limit)
            if left is None or (limit is not None and not most):
                # Azure says -1 where it has no limit.
                continue
            # Azure may leave the limit out: then it is the most that was ever left.
            least = max(left, known[what].limit if what in known else 0)
            seconds = _seconds(reset, headers.get("date"))
            resets_at = said_at + (DEFAULT_RESET if seconds is None else seconds)
            found[what] = RemainingLimit(most or least, left, resets_at)
        return found

    return RemainingLimits(
        asked_at,
        said_at,
        limits(REQUESTS, earlier.requests if earlier else {}),
        limits(TOKENS, earlier.tokens if earlier else {}),
    )


def _figure(text: object) -> int | None:
    if isinstance(text, str) and WHOLE_NUMBER.fullmatch(text.strip()):
        return int(text)
    return None


def _seconds(text: object, date: object) -> float | None:
    """The seconds until a reset: a duration, seconds, or a time (RFC 3339, or Unix)."""
    if not isinstance(text, str) or not text.strip():
        return None
    text = text.strip()
    with contextlib.suppress(ValueError):
        number = float(text)
        if math.isfinite(number) and number >= FIRST_UNIX_TIME:
            # Some servers name a Unix time, in seconds or milliseconds.
            unix = number / 1000 if number >= FIRST_UNIX_TIME * 1000 else number
            return _bounded(unix - _now(date))
        return _bounded(number)
    if parts := DURATION.fullmatch(text):
        units = zip(parts.groups(), SECONDS_OF_UNITS, strict=True)
        return _bounded(sum(float(number or 0) * unit for number, unit in units))
    with contextlib.suppress(ValueError, OverflowError):
        at = datetime.fromisoformat(text)
        if at.tzinfo is not None:
            return _bounded(at.timestamp() - _now(date))
    return None


def _now(date: object) -> float:
    """By the clock of the server where it says what it is."""
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return parsedate_to_datetime(str(date)).timestamp()
    return time.time()


def _bounded(seconds: float) -> float | None:
    return min(max(0.0, seconds), MAX_RESET) if math.isfinite(seconds) else None
