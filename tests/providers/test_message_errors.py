"""Anthropic's errors in Weir's words, by their status or as an event of a stream."""

from __future__ import annotations

import pytest

from webapp.errors import (
    ModelNotFound,
    ProviderBusy,
    ProviderFailed,
    ProviderRefusedRequest,
    ProviderRefusedWeir,
    WeirError,
)
from webapp.providers.message_answers import message_error


@pytest.mark.parametrize(
    ("status", "kind", "words", "expected"),
    [
        (400, "invalid_request_error", "temperature: too high", ProviderRefusedRequest),
        (400, "invalid_request_error", "Your credit balance is too low …", ProviderRefusedWeir),
        (404, "not_found_error", "model: claude-0", ModelNotFound),
        (404, "not_found_error", "Not found", ProviderRefusedRequest),
        (429, "rate_limit_error", "slow down", ProviderBusy),
        (529, "overloaded_error", "Overloaded", ProviderBusy),
        (200, "overloaded_error", "Overloaded", ProviderBusy),
        (200, "rate_limit_error", "slow down", ProviderBusy),
        (200, "authentication_error", "invalid x-api-key", ProviderRefusedWeir),
        (200, "something_new", "odd", ProviderFailed),
    ],
)
def test_an_error_is_told_in_weirs_words(
    status: int, kind: str, words: str, expected: type[WeirError]
) -> None:
    body = {"type": "error", "error": {"type": kind, "message": words}, "request_id": "req_1"}
    error = message_error(body, status, retry_after=3.0)
    assert type(error) is expected
    assert error.provider_message == words
    if expected is ProviderBusy:
        assert error.retry_after == 3.0
