"""Reads what providers answer in the format of OpenAI's Responses, whole and as events.

Answers and events are passed on to clients as they came.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from webapp import json_codec
from webapp.errors import ProviderFailed, WeirError
from webapp.llm.messages import Answer, Chunk, ModelRequest, Usage
from webapp.llm.stream_usage import StreamUsage
from webapp.providers.answers import CUT, malformed_as_provider_failed, reported_error
from webapp.providers.usage import generated_text, read_usage

# The last events of a response that is an answer.
ENDS = {"response.completed", "response.incomplete"}
# Items whose beginning says nothing yet.
OPENED_EMPTY = {"message", "reasoning"}
# What the codes of errors within an answer stand for, which itself has status 200.
STATUS_OF_CODE = {
    "rate_limit_exceeded": 429,
    "context_length_exceeded": 400,
    "invalid_prompt": 400,
    "previous_response_not_found": 400,
}
ID = re.compile(r"[!-~]{1,256}")


def read_response(text: str, request: ModelRequest, model: str, provider: str) -> Answer:
    """The whole answer. Raises the error that it holds, or ProviderFailed."""
    with malformed_as_provider_failed:
        body = json_codec.loads(text)
        if not isinstance(body, dict):
            raise ValueError("no object")
        if error := _error_in(body, request, model):
            raise error
        _check_whole(body)
        content = "".join(_texts(_items(body)))
        usage = _usage(body, request, model, _generated(body))
    answered = _name(body.get("model")) or model
    stored_id = _stored_id(body, request)
    return Answer(content, answered, provider, usage, body=text, stored_id=stored_id)


class ResponseReader:
    """Reads the events of one stream; `is_whole` says that the response has ended."""

    def __init__(
        self, request: ModelRequest, model: str, provider: str, stream_usage: StreamUsage
    ) -> None:
        self._request = request
        self._model = model
        self._provider = provider
        self._stream_usage = stream_usage
        self._texts: list[str] = []
        self._generated: list[str] = []
        self._answered: str | None = None
        self._usage: Usage | None = None
        self.is_whole = False

    def read(self, data: str) -> list[Chunk]:
        """The events for the client. Raises the error that one is, or ProviderFailed."""
        with malformed_as_provider_failed:
            event = json_codec.loads(data)
            if event is None:
                return []
            if not isinstance(event, dict):
                raise ValueError("no object")
            if error := _error_in(event, self._request, self._model):
                raise error
            if event.get("object") == "response":
                _check_whole(event)
                return [one for whole in events_of(json.loads(data)) for one in self.read(whole)]
            read = self._read(event, data)
            return [read] if read else []

    def end(self, *, said_done: bool) -> None:
        """Raise ProviderFailed if the stream ended early."""
        if not self.is_whole:
            raise ProviderFailed(CUT)

    def answer(self) -> Answer:
        answered = self._answered or self._model
        with malformed_as_provider_failed:
            usage = self._usage or _usage({}, self._request, self._model, self._said)
        return Answer("".join(self._texts), answered, self._provider, usage)

    @property
    def _said(self) -> str:
        return "".join(self._generated)

    def _read(self, event: dict[str, Any], data: str) -> Chunk | None:
        text = generated = ""
        stored_id = None
        kind = event.get("type")
        if not isinstance(kind, str):
            raise ValueError("no type")
        begins = False
        if kind == "response.created":
            stored_id = _stored_id(event["response"], self._request)
        elif kind == "response.output_item.added":
            item = event["item"]
            begins = item.get("type") not in OPENED_EMPTY
            generated = generated_text(item) if begins else ""
        elif kind.endswith(".delta"):
            delta = event.get("delta")
            generated = delta if isinstance(delta, str) else generated_text(delta)
            text = generated if kind == "response.output_text.delta" else ""
            begins = True
        elif kind in ENDS:
            self._end(event["response"])
            begins = True
        else:  # what repeats, such as `….done`, or what is new
            begins = kind.endswith(".done")
        if generated or kind in ENDS:
            # Not before: what it thinks without showing it takes time until then.
            self._stream_usage.count(generated)
        if generated:
            self._generated.append(generated)
        if text:
            self._texts.append(text)
        if self._request.native:
            return Chunk("", text) if text else None
        return Chunk(data, text, begins, stored_id)

    def _end(self, response: dict[str, Any]) -> None:
        self.is_whole = True
        self._answered = _name(response.get("model"))
        said = self._said or _generated(response)
        self._usage = _usage(response, self._request, self._model, said)
        if not self._texts:
            self._texts += _texts(_items(response))
        if response.get("usage"):
            self._stream_usage.usage = self._usage


def events_of(response: dict[str, Any]) -> list[str]:
    """The events of a whole response, as a stream of it would have them."""
    begun = {**response, "status": "in_progress", "output": [], "usage": None}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
    ]
    for index, item in enumerate(_items(response)):
        place = {"output_index": index}
        if item.get("type") != "message":
            opened = {**item, "status": "in_progress"} if "status" in item else item
            events.append({"type": "response.output_item.added", **place, "item": opened})
        else:
            opened = {**item, "status": "in_progress", "content": []}
            events.append({"type": "response.output_item.added", **place, "item": opened})
            events += _events_of_content(item, place)
        events.append({"type": "response.output_item.done", **place, "item": item})
    kind = "response.incomplete" if response.get("status") == "incomplete" else "response.completed"
    events.append({"type": kind, "response": response})
    return [
        json.dumps({"type": event.pop("type"), "sequence_number": number, **event})
        for number, event in enumerate(events)
    ]


def _events_of_content(item: dict[str, Any], place: dict[str, int]) -> Iterator[dict[str, Any]]:
    """The events of a message's parts."""
    content = item.get("content")
    for index, part in enumerate(content if isinstance(content, list) else []):
        where = {"item_id": item.get("id"), **place, "content_index": index}
        text = part.get("text") if part.get("type") == "output_text" else None
        empty: dict[str, Any] = {"text": "", "annotations": []}
        opened = part if text is None else {**part, **empty}
        yield {"type": "response.content_part.added", **where, "part": opened}
        if isinstance(text, str):
            logprobs = {"logprobs": part.get("logprobs") or []}
            yield {"type": "response.output_text.delta", **where, "delta": text, **logprobs}
            yield {"type": "response.output_text.done", **where, "text": text, **logprobs}
        yield {"type": "response.content_part.done", **where, "part": part}


def _error_in(body: dict[str, Any], request: ModelRequest, model: str) -> WeirError | None:
    """The error that an answer or an event is."""
    if body.get("type") == "error":
        return response_error(body)
    found = body.get("response") if body.get("type") == "response.failed" else body
    if not isinstance(found, dict):
        return response_error(body)
    error = found.get("error") or body.get("error")
    if not error and found.get("status") != "failed" and body is found:
        return None
    usage = _usage(found, request, model, "") if found.get("usage") else None
    return response_error({"error": error or "The response failed."}, usage)


def response_error(body: Any, usage: Usage | None = None) -> WeirError:
    """The error of an answer or an event: by the status that its code stands for, else a 502."""
    inner = body.get("error") if isinstance(body, dict) else None
    error = inner if isinstance(inner, dict) else body
    code = error.get("code") if isinstance(error, dict) else None
    if isinstance(code, str) and code in STATUS_OF_CODE:
        return reported_error({"error": {**error, "status": STATUS_OF_CODE[code]}}, usage)
    return reported_error(body, usage)


def _usage(body: dict[str, Any], request: ModelRequest, model: str, generated: str) -> Usage:
    usage = body.get("usage")
    if isinstance(usage, dict):
        usage = {**usage, "server_tool_use": {"web_search_requests": _searches(body)}}
    return read_usage(usage, request, model, generated, body.get("service_tier"))


def _searches(body: dict[str, Any]) -> int | None:
    """The web searches that were made, as the provider counts them, else as the items show."""
    tools = body.get("tool_usage")
    told = tools.get("web_search") if isinstance(tools, dict) else None
    if isinstance(told, dict) and isinstance(told.get("num_requests"), int):
        return int(told["num_requests"])
    return sum(map(_is_search, _items(body)))


def _is_search(item: dict[str, Any]) -> bool:
    action = item.get("action")
    kind = action.get("type") if isinstance(action, dict) else "search"
    return item.get("type") == "web_search_call" and kind == "search"


def _items(body: dict[str, Any]) -> list[dict[str, Any]]:
    output = body.get("output")
    return [item for item in output if isinstance(item, dict)] if isinstance(output, list) else []


def _check_whole(body: dict[str, Any]) -> None:
    if not isinstance(body.get("output"), list):
        raise TypeError("no list")


def _generated(body: dict[str, Any]) -> str:
    return " ".join(map(generated_text, _items(body)))


def _texts(items: list[dict[str, Any]]) -> Iterator[str]:
    """The texts and refusals of the messages."""
    for item in items:
        content = item.get("content") if item.get("type") == "message" else None
        for part in content if isinstance(content, list) else []:
            text = part.get("text") or part.get("refusal")
            if isinstance(text, str):
                yield text


def _stored_id(response: dict[str, Any], request: ModelRequest) -> str | None:
    """The id under which the provider keeps the response; None where it does not."""
    if response.get("store") is False or request.body.get("store") is False:
        return None
    found = _name(response.get("id"))
    return found if found and ID.fullmatch(found) else None


def _name(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
