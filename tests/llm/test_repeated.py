"""Calls that cost nothing are tried again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from webapp.errors import ProviderBusy, ProviderError, ProviderFailed, ProviderRefusedRequest
from webapp.llm.attempts import Attempts

NOBODY: Any = None


def tried(*outcomes: Any, retries: int = 2, seconds: float = 60.0) -> tuple[Any, int]:
    """What became of a call with these outcomes in turn, and how often it was made."""
    calls = 0
    coming: Iterator[Any] = iter(outcomes)

    def call() -> Any:
        nonlocal calls
        calls += 1
        outcome = next(coming)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    attempts = Attempts(NOBODY, NOBODY, retries)
    try:
        return attempts.repeated(call, time.monotonic() + seconds), calls
    except ProviderError as error:
        return error, calls


def failed() -> ProviderFailed:
    return ProviderFailed("It broke.", retry_after=0.01)


def test_a_call_that_fails_is_made_again() -> None:
    assert tried("good") == ("good", 1)
    assert tried(failed(), failed(), "good") == ("good", 3)
    last = failed()
    assert tried(failed(), failed(), last) == (last, 3)
    assert tried(last, retries=0) == (last, 1)


@pytest.mark.parametrize(
    "error", [ProviderRefusedRequest("No."), ProviderBusy("Later.", retry_after=600)]
)
def test_an_error_that_lasts_ends_it(error: ProviderError) -> None:
    assert tried(error) == (error, 1)


def test_no_call_is_made_after_the_deadline() -> None:
    error = failed()
    assert tried(error, seconds=0.001) == (error, 1)
