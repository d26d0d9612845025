"""Reads the errors that providers report, in all their envelopes, and translates them.

The envelopes are those of OpenAI, Azure, Anthropic, FastAPI, Google, Mistral, Ollama, vLLM and
llama.cpp.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from webapp.errors import (
    ModelNotFound,
    ProviderBusy,
    ProviderError,
    ProviderFailed,
    ProviderRefusedRequest,
    ProviderRefusedWeir,
    ProviderTimedOut,
    WeirError,
)

MAX_READ_LENGTH = 4_000  # characters; what is told is cut later, after it was masked
# These end a request: the next provider would refuse it too.
REFUSALS = {400, 404, 413, 414, 415, 422, 431}
OVERLOADED = 529  # of Anthropic's
BUSY = "The provider is busy just now"
# A model that is missing is reported with one of these.
STATUSES_OF_MISSING_MODELS = {400, 404, 422}
CODES_OF_MISSING_MODELS = {"model_not_found", "deploymentnotfound", "invalid_model"}
# "The model `x` does not exist", "model 'x' not found", "Model Not Exist", "Invalid model: x".
MISSING_MODEL = re.compile(
    r"(?<!of the )(?<!by the )\bmodel\b:?\s+(?:(?:with|named?|id)\s+){0,2}(?:\S{1,260}\s+)?"
    r"(?:(?:was|is|could)\s+)?(?:not\s+(?:be\s+)?found|does(?:n't| not) exist|not exist)"
    r"|\bis not a valid model\b|\bapi deployment for this resource does not exist"
    r"|\b(?:unknown|invalid|no such|nonexistent) model\b\s*(?:[:.,'\"`(]|$)",
    re.IGNORECASE,
)
USED_UP_CODES = {"insufficient_quota", "billing_hard_limit_reached", "insufficient_credits"}
USED_UP = re.compile(r"exceeded your current quota|credit balance is too low", re.IGNORECASE)
# Another target may have encrypted the reasoning that the request brings.
OTHERS_REASONING_CODES = {"invalid_encrypted_content"}
CREDENTIAL_CODES = {"authentication_error", "invalid_api_key", "invalid_authentication"}
MODERATION_CODES = {"moderation", "content_filter", "content_policy_violation"}
MODERATION = re.compile(r"\bmoderation\b|\bflagged\b|\bcontent polic", re.IGNORECASE)
CREDENTIAL = re.compile(r"\b(sk-|Bearer +|Basic +|eyJ)[\w.*/+=-]{6,}")
HTML = re.compile(r"^\s*<(!doctype|html|head|body)\b", re.IGNORECASE)
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


@dataclass(frozen=True, slots=True)
class ReportedError:
    """What a provider says of an error. `status` is the HTTP status within its body."""

    message: str = ""
    code: str | None = None
    kind: str | None = None
    param: str | None = None
    status: int | None = None

    @property
    def codes(self) -> set[str]:
        return {name.lower() for name in (self.code, self.kind) if name}


def read_error(body: Any) -> ReportedError:
    """The error in a body of any shape, without control characters and what looks like a key."""
    try:
        found = _read(body)
    except RecursionError:
        return ReportedError()
    message = CREDENTIAL.sub(r"\1***", CONTROL.sub(" ", found.message)).strip()
    return replace(found, message=message[:MAX_READ_LENGTH])


def translate_status(status: int, body: Any, retry_after: float | None = None) -> WeirError:
    """The WeirError for a provider's error status and body."""
    reported = read_error(body)
    error = _translate(status, reported, retry_after)
    error.provider_status, error.provider_message = status, reported.message or None
    return error


def translate_reported(body: Any, retry_after: float | None = None) -> WeirError:
    """The WeirError for an error that came with status 200: by the status within, else a 502."""
    reported = read_error(body)
    error: WeirError = ProviderFailed(
        _with_words("The provider reported an error", reported.message)
    ).uncharged()
    status = reported.status or _status_of_codes(reported)
    if status:
        error = _translate(status, reported, retry_after)
    error.provider_status = reported.status or 200
    error.provider_message = reported.message or None
    if type(error) is ProviderFailed:
        _show_provider(error, reported.status or 200, reported.message)
    return error


def _translate(status: int, reported: ReportedError, retry_after: float | None) -> WeirError:
    words = reported.message
    if _is_missing_model(status, reported):
        return ModelNotFound(words or None)
    if status in REFUSALS:
        details = {"param": reported.param, "code": reported.code}
        refused = ProviderRefusedRequest(
            f"The provider rejected the request: {words or f'status {status}'}",
            details={name: value for name, value in details.items() if value} or None,
        )
        refused.try_next = bool(reported.codes & OTHERS_REASONING_CODES)
        return refused
    used_up = reported.codes & USED_UP_CODES or USED_UP.search(words)
    if status in {401, 402} or (status == 429 and used_up):
        return ProviderRefusedWeir().not_counted(status != 429)
    if status == 403:
        return _forbidden(reported)
    if status == 429:
        return ProviderBusy(_with_words(BUSY, words), retry_after=retry_after)
    if status == OVERLOADED:
        busy = ProviderBusy(_with_words(BUSY, words), retry_after=retry_after)
        return _show_provider(busy, status, words)
    if status in {408, 504}:
        timed_out = ProviderTimedOut(_with_words("The provider timed out", words)).uncharged()
        return _show_provider(timed_out, status, words)
    failed = ProviderFailed(
        _with_words(f"The provider failed (status {status})", words), retry_after=retry_after
    ).uncharged()
    if status == 501:
        failed.not_counted().try_again = False
    return _show_provider(failed, status, words)


def _forbidden(reported: ReportedError) -> ProviderError:
    """Of a 403: moderation of this request, or what Weir's account may not do."""
    if reported.codes & MODERATION_CODES or MODERATION.search(reported.message):
        error = ProviderRefusedRequest("The provider's moderation refused the request.")
        error.try_next = True
        return error
    return ProviderRefusedWeir("The provider does not allow this call.").not_counted()


def _is_missing_model(status: int, reported: ReportedError) -> bool:
    if reported.codes & CODES_OF_MISSING_MODELS:
        return 400 <= status < 500  # OpenAI has it with 403 too
    if status == 404 and reported.message.startswith("model:"):
        return True  # Anthropic's words: `model: claude-0`
    return status in STATUSES_OF_MISSING_MODELS and bool(MISSING_MODEL.search(reported.message))


def _status_of_codes(reported: ReportedError) -> int | None:
    """The status of errors whose words are for the operator alone."""
    if reported.codes & USED_UP_CODES or USED_UP.search(reported.message):
        return 429
    return 401 if reported.codes & CREDENTIAL_CODES else None


def _with_words(sentence: str, words: str) -> str:
    return f"{sentence}: {words}" if words else f"{sentence}."


def _show_provider(error: ProviderError, status: int, message: str) -> ProviderError:
    """Tell the client what the provider said."""
    error.details = {"provider": {"status": status, "message": message or None}}
    return error


def _read(body: Any) -> ReportedError:
    if isinstance(body, list):
        return _read(next((item for item in body if isinstance(item, Mapping)), ""))
    if isinstance(body, str):
        return ReportedError("" if HTML.match(body) else body)
    if not isinstance(body, Mapping):
        return ReportedError()
    inner = body.get("error")
    details = {**body, **inner} if isinstance(inner, Mapping) else body
    errors = body.get("errors")
    candidates = (
        details.get("message"),
        inner,
        body.get("message"),
        body.get("detail"),
        errors[0] if isinstance(errors, list) and errors else errors,
    )
    texts = (_text(candidate) for candidate in candidates)
    message, place = next((found for found in texts if found[0]), ("", None))
    statuses = (_status(details.get(name)) for name in ("code", "status", "status_code"))
    return ReportedError(
        message=message,
        code=_code(details.get("code")),
        kind=_code(details.get("type")),
        param=_code(details.get("param")) or place,
        status=next(filter(None, statuses), None),
    )


def _text(value: Any) -> tuple[str, str | None]:
    """The text of a message of any shape, and the field of the request that it names."""
    if isinstance(value, str):
        return value, None
    if isinstance(value, Mapping):
        if isinstance(value.get("msg"), str):
            place = _place(value.get("loc"))
            return (f"{place}: {value['msg']}" if place else value["msg"]), place
        found = _read(value)
        return found.message, found.param
    if isinstance(value, list):
        found_texts = [found for found in map(_text, value[:10]) if found[0]]
        places = [place for _, place in found_texts if place]
        return "; ".join(text for text, _ in found_texts), places[0] if places else None
    return "", None


def _place(location: Any) -> str | None:
    """The field that FastAPI's `loc` names, without the part of the request that it is in."""
    if not isinstance(location, list):
        return None
    return ".".join(str(part) for part in location if part != "body")[:200] or None


def _code(value: Any) -> str | None:
    """A code that is a text. Numbers are left out: they repeat the status."""
    value = CONTROL.sub(" ", value) if isinstance(value, str) else None
    return value[:200] if value and not value.isdecimal() else None


def _status(value: Any) -> int | None:
    if isinstance(value, str) and value.isdecimal():
        value = int(value[:9])
    known = isinstance(value, int) and not isinstance(value, bool) and 400 <= value <= 599
    return value if known else None
