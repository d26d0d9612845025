"""Each way in which a request leads to no provider call has its words."""

from __future__ import annotations

from types import SimpleNamespace

from webapp.dashboard import reasons
from webapp.errors import all_errors
from webapp.llm.messages import CacheState
from webapp.metering.request_log import REPLAYED
from webapp.observability.refusals import COUNTER_OF_LIMIT


def reason(**facts: object) -> str:
    row = {"error": None, "refused_by": None, "cache": None, "endpoint": "/chat", "status": 200}
    other = {"provider": None, "at": 100.0}
    return reasons.reason_of(SimpleNamespace(**row | other | facts), stored_since=50.0)


def test_every_error_every_limit_and_every_state_of_the_cache_has_words() -> None:
    assert reasons.OF_ERROR.keys() == {error.__name__ for error in all_errors()}
    assert reasons.OF_LIMIT.keys() == COUNTER_OF_LIMIT.keys()
    assert reasons.OF_CACHE.keys() == {*CacheState, REPLAYED}


def test_the_reason_is_the_most_telling_one() -> None:
    refused = reason(error="RateLimitExceeded", refused_by="tokens_per_minute", status=429)
    assert refused == "Refused by tokens per minute."
    assert reason(error="FromAnOlderVersion", status=500) == "It ended with FromAnOlderVersion."
    assert reason(cache="COALESCED") == "Shared the call of a concurrent identical request."
    assert reason(endpoint="/v1/predict", cache="MISS") == "Answered by a model that runs in Weir."
    assert reason(endpoint="/v1/files") == "This endpoint calls no provider."
    counted = reason(endpoint="/v1/messages/count_tokens", provider="anthropic")
    assert counted == "Token counts are free, and not in the ledger."
    assert reason(status=202) == "Accepted to run later, as a job."
    old = {"provider": "openai", "at": 10.0}
    assert reason(**old, cache="MISS") == "Its provider calls are no longer stored."
    assert reason(**old, error="ProviderFailed", status=502) == reasons.NO_LONGER_STORED
    assert reason(**old, cache="HIT") == "Answered from the cache."
