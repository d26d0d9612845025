"""Parameters that Weir itself adds to a request, and what to do where a server refuses one.

A server that refuses one gets the request again, with the parameter's other name or without it,
and for an hour its further requests are made so from the start.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from webapp.llm.messages import ModelRequest
from webapp.providers.reported_errors import read_error

REMEMBERED_FOR = 3600.0  # seconds
MAX_REMEMBERED = 1_000
# A validation error (422) may also be about the value of a parameter that the server knows.
UNKNOWN = re.compile(
    r"extra|not permitted|forbidden|unexpected|unknown|unsupported|unrecogni[sz]ed|not supported",
    re.IGNORECASE,
)
TOO_MUCH = re.compile(r"too (large|long|many)|at most|maximum|exceed|less than", re.IGNORECASE)
MAX_CALLS = 4  # with other parameters, for one request
ADAPTED = (
    "stream_options|reasoning_effort|verbosity|temperature|max_completion_tokens|"
    "max_output_tokens|max_tokens"
)
OTHER_NAME = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}

Learned = dict[str, str | None]  # a parameter: its other name, or None to leave it out


@dataclass(frozen=True, slots=True)
class Added:
    """The parameters that Weir adds; those in `needed` are sent under some name in any case."""

    values: Mapping[str, Any]
    needed: frozenset[str] = frozenset()


def added_to(request: ModelRequest, limit_name: str, *, streamed: bool) -> Added:
    """What Weir adds to a request: the options of a stream, what native endpoints send under names
    of Weir's, what a translated request need not say, a limit on the output, named `limit_name`."""
    values: dict[str, Any] = {}
    limit, needed = request.output_cap, set()
    if request.native:
        limit = request.body.get("max_tokens", limit)
        if "temperature" in request.body:
            values["temperature"] = request.body["temperature"]
        needed = {"temperature"} - request.defaults
    else:
        values |= {name: request.body[name] for name in request.defaults & request.body.keys()}
    if request.operation == "responses" and not request.output_cap_needed:
        limit = None  # an answer says which limit it had
    if limit is not None:
        values[limit_name] = limit
    chosen = request.native and "max_tokens" in request.body.keys() - request.defaults
    if request.output_cap_needed or chosen:
        needed.add(limit_name)
    is_chat = request.operation == "chat/completions"
    if streamed and is_chat and request.body.get("stream_options") is None:
        values["stream_options"] = {"include_usage": True}
    return Added(values, frozenset(needed))


class Adaptations:
    """What the servers behind one provider refuse, by model."""

    def __init__(self) -> None:
        self._learned: dict[str, tuple[float, Learned]] = {}

    def apply(self, model: str, added: Added) -> dict[str, Any]:
        """The added parameters as this model takes them."""
        learned = self._of(model)
        applied = {}
        for name, value in added.values.items():
            sent = learned.get(name, name)
            if sent is None and name in added.needed:
                sent = name
            if sent is not None:
                applied[sent] = value
        return applied

    def learn(
        self, model: str, added: Added, sent: Mapping[str, Any], status: int, body: Any
    ) -> bool:
        """Whether the request is worth another call, as the server refused an added parameter.

        `sent` is what apply() returned for the refused call.
        """
        refused = _refused(status, body)
        learned = dict(self._of(model))
        for name in added.values:
            names = {name, OTHER_NAME.get(name, name)}
            if refused is None or refused.name not in names & sent.keys():
                continue
            if learned.get(name, name) != refused.name:
                return True  # another request has learnt it meanwhile
            other = OTHER_NAME.get(name)
            if other and refused.name == name and not refused.value_only:
                learned[name] = other
            elif name in added.needed:
                # Both names are refused, or the value: nothing is learnt of it.
                if learned.pop(name, None):
                    self._learned[model] = (time.monotonic(), learned)
                return False
            else:
                learned[name] = None
            if len(self._learned) >= MAX_REMEMBERED:
                self._learned.clear()
            self._learned[model] = (time.monotonic(), learned)
            return True
        return False

    def _of(self, model: str) -> Learned:
        at, learned = self._learned.get(model, (0.0, {}))
        return learned if time.monotonic() - at < REMEMBERED_FOR else {}


@dataclass(frozen=True, slots=True)
class _Refused:
    """A parameter that a server refuses. `value_only`: it knows the parameter."""

    name: str
    value_only: bool


def _refused(status: int, body: Any) -> _Refused | None:
    """The parameter that an error names, else the first one in its message, which may go on to
    recommend another one."""
    reported = read_error(body)
    if status != 400 and not (status == 422 and UNKNOWN.search(reported.message)):
        return None
    found = re.search(rf"\b({ADAPTED})\b", reported.param or "")
    found = found or re.search(rf"\b({ADAPTED})\b", reported.message)
    if not found:
        return None
    about_value = TOO_MUCH.search(reported.message) and not UNKNOWN.search(reported.message)
    return _Refused(found[1], bool(about_value))
