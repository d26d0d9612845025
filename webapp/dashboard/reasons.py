"""Why a request led to no provider call, in words."""

from __future__ import annotations

from typing import Any

from webapp.llm.messages import CacheState
from webapp.metering.request_log import REPLAYED

SHARED_CALL = "Shared the call of a concurrent identical request"
NO_LONGER_STORED = "Its provider calls are no longer stored."

OF_CACHE = {
    CacheState.HIT: "Answered from the cache.",
    CacheState.COALESCED: f"{SHARED_CALL}.",
    CacheState.STALE: "No provider answered, so an expired answer from the cache was served.",
    CacheState.MISS: NO_LONGER_STORED,
    CacheState.BYPASS: NO_LONGER_STORED,
    REPLAYED: "Replayed by its idempotency key: the answer of the first request with that key.",
}

OF_LIMIT = {
    "requests": "Refused by the request rate limit.",
    "requests_per_day": "Refused by requests per day.",
    "parallel_requests": "Refused by parallel requests.",
    "requests_per_session": "Refused by requests per session.",
    "tokens_per_minute": "Refused by tokens per minute.",
    "usd_per_day": "Refused by the daily budget.",
    "usd_per_month": "Refused by the monthly budget.",
    "usd_per_session": "Refused by the budget of its session.",
    "usd_reserved": "Refused because running requests had reserved the rest of the budget.",
}

OF_ERROR = {
    "WeirError": "Weir failed. Search the log for the request ID.",
    "InternalError": "Weir failed. Search the log for the request ID.",
    "MalformedRequest": "The request was malformed.",
    "UnsupportedParameter": "The provider of its model does not support it or a parameter.",
    "NotAuthenticated": "Its credential was rejected.",
    "NotAllowed": "Its credential was missing or rejected.",
    "ModelNotAllowed": "The model is not allowed for this key.",
    "AddressNotAllowed": "The client's IP address is not allowed for this key.",
    "ModelNotPriced": "The model has no price, and the key has a budget.",
    "NotFound": "What it asked for was not found.",
    "ModelNotFound": "The model was not found.",
    "MethodNotAllowed": "The endpoint does not support its method.",
    "BodyTooSlow": "The body did not arrive in time.",
    "Conflict": "It conflicted with the present state.",
    "IdempotencyInProgress": "The first request with its idempotency key was still running.",
    "IdempotencyMismatch": "Its idempotency key was already used with a different body.",
    "PayloadTooLarge": "The body was too large.",
    "StorageQuotaExceeded": "The storage quota of the key was exceeded.",
    "UnsupportedMediaType": "Its content type is not supported.",
    "ValidationError": "The request was not valid.",
    "RateLimitExceeded": "Refused by a rate limit.",
    "BudgetExceeded": "Refused by a budget.",
    "BudgetReserved": OF_LIMIT["usd_reserved"],
    "SessionLimitExceeded": "Refused by a limit of its session.",
    "ClientHungUp": "The client disconnected before a call was made.",
    "ProviderError": f"{SHARED_CALL}, which failed.",
    "ProviderFailed": f"{SHARED_CALL}, which failed.",
    "ProviderRefusedRequest": f"{SHARED_CALL}, which the provider rejected.",
    "ProviderRefusedWeir": f"{SHARED_CALL}, which failed for Weir's credentials or quota.",
    "ProviderBusy": "Every target was busy.",
    "ProviderTimedOut": f"{SHARED_CALL}, which timed out.",
    "ProvidersUnavailable": "No target was available: every circuit is open.",
    "StoreUnavailable": "The database was unavailable.",
    "Overloaded": "Weir was overloaded.",
    "ShuttingDown": "Weir was shutting down.",
}

# What needed no call, whatever provider is named.
FREE = {CacheState.HIT, CacheState.STALE, CacheState.COALESCED, REPLAYED}
# Endpoints that answer without a provider.
LOCAL_MODELS = ("/predict", "/batch-predict")
COUNTING = "/v1/messages/count_tokens"


def reason_of(row: Any, stored_since: float) -> str:
    """Why there is no provider call for a row of the request log; calls since a Unix time are
    stored."""
    if row.provider is not None and row.cache not in FREE and row.at < stored_since:
        return NO_LONGER_STORED
    if row.error is not None:
        by_limit = OF_LIMIT.get(row.refused_by or "")
        return by_limit or OF_ERROR.get(row.error, f"It ended with {row.error}.")
    if row.endpoint.removeprefix("/v1") in LOCAL_MODELS:
        return "Answered by a model that runs in Weir."
    if row.cache is not None:
        return OF_CACHE[row.cache]
    if row.endpoint == COUNTING:
        return "Token counts are free, and not in the ledger."
    if row.status == 202:
        return "Accepted to run later, as a job."
    return "This endpoint calls no provider."
