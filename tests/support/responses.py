"""The stand-in's answers in OpenAI's Responses, whole and as events, and the ones that it keeps.

Fields and the order of events follow the types of the openai SDK. Tools are called as described in
`tests.support.completions`. With `reasoning`, an answer begins with an item of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs

from tests.support.completions import (
    ARGUMENTS_PIECE,
    CREATED,
    DIRECTIVE,
    UNKNOWN,
    Answer,
    calls_of,
    content_of,
    error,
    last_user_message,
    pieces_of,
    text_of,
)
from tests.support.faults import Fault

PATH = "/v1/responses"
FIELDS = {
    "background", "client_metadata", "conversation", "include", "input", "instructions",
    "max_output_tokens", "max_tool_calls", "metadata", "model", "parallel_tool_calls",
    "previous_response_id", "prompt", "prompt_cache_key", "reasoning", "safety_identifier",
    "service_tier", "store", "stream", "stream_options", "temperature", "text", "tool_choice",
    "tools", "top_logprobs", "top_p", "truncation", "user",
}  # fmt: skip
# What of a request is in its response, and what that has where the request does not say.
ECHOED = {
    "background": False,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}


class KeptResponses:
    """The responses that a provider keeps: each with its input."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {}

    def keep(self, body: dict[str, Any], response: dict[str, Any]) -> None:
        if response["store"]:
            self._kept[response["id"]] = response, messages_of(body)

    def what_is_wrong(self, body: Any) -> Answer | None:
        """The error response for an invalid request, None for a valid one."""
        if not isinstance(body, dict):
            return 400, error(400, "We could not parse the JSON body of your request.")
        if unknown := body.keys() - FIELDS:
            name = min(unknown)
            refused = error(400, f"Unknown parameter: '{name}'.", "unknown_parameter")
            refused["error"]["param"] = name
            return 400, refused
        if not isinstance(body.get("model"), str):
            return 400, error(400, "Missing required parameter: 'model'.")
        options = body.get("stream_options") or {}
        if options.keys() - {"include_obfuscation"}:
            return 400, error(400, "Unknown parameter: 'stream_options.include_usage'.")
        previous = body.get("previous_response_id")
        if previous and previous not in self._kept:
            words = f"Previous response with id '{previous}' not found."
            return 400, error(400, words, "previous_response_not_found")
        return None

    def answer(self, method: str, path: str, query: str) -> Answer:
        """The answer to a request below PATH."""
        id_, _, rest = path.partition("/")
        if id_ not in self._kept:
            return 404, error(404, f"Response with id '{id_}' not found.")
        response, given = self._kept[id_]
        match method, rest:
            case "GET", "":
                return 200, response
            case "DELETE", "":
                del self._kept[id_]
                return 200, {"id": id_, "object": "response.deleted", "deleted": True}
            case "POST", "cancel":
                return 400, error(400, "Only background responses can be cancelled.")
            case "GET", "input_items":
                return 200, _page(given, parse_qs(query))
        return 404, error(404, f"Invalid URL ({method} {PATH}/{path})")


def _page(given: list[dict[str, Any]], query: dict[str, list[str]]) -> dict[str, Any]:
    data = [
        {
            "id": f"msg_{number}",
            "type": "message",
            "role": message["role"],
            "status": "completed",
            "content": [{"type": "input_text", "text": text_of(message)}],
        }
        for number, message in enumerate(given)
    ]
    if query.get("order") != ["asc"]:
        data.reverse()
    ids = [item["id"] for item in data]
    begin = ids.index(query["after"][0]) + 1 if "after" in query else 0
    shown = data[begin : begin + int(query.get("limit", ["20"])[0])]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": begin + len(shown) < len(data),
    }


def messages_of(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The input as messages of a chat. Results of tools are messages of a tool."""
    given = body.get("input") or []
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    found = []
    for item in given:
        if str(item.get("type")).endswith("_output"):
            found.append({"role": "tool", "content": item["output"]})
        elif "role" in item:
            found.append({"role": item["role"], "content": item.get("content") or ""})
    return found


class Response:
    """The answer to one request, whole or in events."""

    def __init__(self, body: dict[str, Any], fault: Fault) -> None:
        self._fault = fault
        self._body = body
        asked = {name: value for name, value in body.items() if name != "stream"}
        canonical = json.dumps(asked, sort_keys=True).encode()
        self._seed = hashlib.sha256(canonical).hexdigest()[:40]
        messages = messages_of(body)
        self._text = self._words(messages)
        self._items = list(self._made(messages))
        read = sum(len(text_of(message).split()) for message in messages)
        said = len(self._text.split()) or 1
        thought = 3 * any(item["type"] == "reasoning" for item in self._items)
        self.usage: dict[str, Any] = {
            "input_tokens": read,
            "input_tokens_details": {"cached_tokens": min(2, read), "cache_write_tokens": 0},
            "output_tokens": said + thought,
            "output_tokens_details": {"reasoning_tokens": thought},
            "total_tokens": read + said + thought,
        }
        self.served = {"input_tokens": read, "output_tokens": said + thought}

    def whole(self) -> dict[str, Any]:
        if self._is_cut:
            return self._response("incomplete", self._items)
        return self._response("completed", self._items)

    def events(self) -> Iterator[dict[str, Any]]:
        for number, (kind, fields) in enumerate(self._events()):
            yield {"type": kind, "sequence_number": number, **fields}

    def failed(self, number: int, code: str) -> dict[str, Any]:
        """The event of a stream that breaks."""
        said = {"code": code, "message": "The stand-in failed in its stream."}
        response = self._response("failed", []) | {"error": said}
        return {"type": "response.failed", "sequence_number": number, "response": response}

    @property
    def _is_cut(self) -> bool:
        most = self._body.get("max_output_tokens")
        return most is not None and len(self._full_text.split()) > most

    def _words(self, messages: list[dict[str, Any]]) -> str:
        wanted = (self._body.get("text") or {}).get("format") or {}
        chat: dict[str, Any] = {"messages": messages or [{"role": "user", "content": ""}]}
        if wanted.get("type") == "json_schema":
            chat["response_format"] = {
                "type": "json_schema",
                "json_schema": {"schema": wanted["schema"]},
            }
        said = content_of(chat, self._fault)
        if instructions := self._body.get("instructions"):
            said = f"system: {instructions} {said}" if not wanted.get("schema") else said
        self._full_text = said
        return " ".join(said.split()[: self._body["max_output_tokens"]]) if self._is_cut else said

    def _made(self, messages: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        if self._body.get("reasoning"):
            summary = [{"type": "summary_text", "text": "Let me think."}]
            item = {"id": f"rs_{self._seed}", "type": "reasoning", "summary": summary}
            wanted = "reasoning.encrypted_content" in (self._body.get("include") or [])
            yield item | ({"encrypted_content": "ZW5jcnlwdGVk"} if wanted else {})
        calls = list(self._calls(messages))
        yield from calls
        if not calls:
            part = {"type": "output_text", "annotations": [], "logprobs": [], "text": self._text}
            yield {
                "id": f"msg_{self._seed}",
                "type": "message",
                "status": "incomplete" if self._is_cut else "completed",
                "role": "assistant",
                "content": [part | UNKNOWN],
            }

    def _calls(self, messages: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        tools = self._body.get("tools") or []
        schemas = {tool["name"]: tool["parameters"] for tool in tools if "parameters" in tool}
        last = messages[-1] if messages else {"role": "user"}
        if not schemas or last["role"] == "tool" or self._body.get("tool_choice") == "none":
            return
        said = DIRECTIVE.sub("", last_user_message(messages))
        for place, (name, arguments) in enumerate(calls_of(schemas, said)):
            yield {
                "id": f"fc_{place}_{self._seed}",
                "type": "function_call",
                "status": "completed",
                "arguments": json.dumps(arguments),
                "call_id": f"call_{place}_{self._seed[:24]}",
                "name": name,
            }

    def _events(self) -> Iterator[tuple[str, dict[str, Any]]]:
        begun = self._response("in_progress", [])
        yield "response.created", {"response": begun}
        yield "response.in_progress", {"response": begun}
        for index, item in enumerate(self._items):
            place = {"output_index": index}
            of_item = {"item_id": item["id"], **place}
            empty: dict[str, Any] = {
                "message": {"status": "in_progress", "content": []},
                "reasoning": {"summary": []},
                "function_call": {"status": "in_progress", "arguments": ""},
            }[item["type"]]
            yield "response.output_item.added", {**place, "item": item | empty}
            if item["type"] == "function_call":
                arguments = item["arguments"]
                for start in range(0, len(arguments), ARGUMENTS_PIECE):
                    delta = arguments[start : start + ARGUMENTS_PIECE]
                    yield "response.function_call_arguments.delta", {**of_item, "delta": delta}
                done = {"arguments": arguments, "name": item["name"]}
                yield "response.function_call_arguments.done", {**of_item, **done}
            elif item["type"] == "reasoning":
                yield from self._thinking(item, of_item)
            else:
                yield from self._saying(item, of_item)
            yield "response.output_item.done", {**place, "item": item}
        if not self._fault.no_finish:
            kind = "response.incomplete" if self._is_cut else "response.completed"
            yield kind, {"response": self.whole()}

    def _thinking(
        self, item: dict[str, Any], of_item: dict[str, Any]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        [part] = item["summary"]
        place = {**of_item, "summary_index": 0}
        added = {**place, "part": part | {"text": ""}}
        yield "response.reasoning_summary_part.added", added
        for piece in part["text"].split():
            yield "response.reasoning_summary_text.delta", {**place, "delta": f"{piece} "}
        yield "response.reasoning_summary_text.done", {**place, "text": part["text"]}
        yield "response.reasoning_summary_part.done", {**place, "part": part}

    def _saying(
        self, item: dict[str, Any], of_item: dict[str, Any]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        [part] = item["content"]
        place = {**of_item, "content_index": 0}
        yield "response.content_part.added", {**place, "part": part | {"text": ""}}
        for piece in pieces_of(self._text, self._fault):
            said = {**place, "delta": piece, "logprobs": [], "obfuscation": "x"}
            yield "response.output_text.delta", said
        yield "response.output_text.done", {**place, "logprobs": [], "text": part["text"]}
        yield "response.content_part.done", {**place, "part": part}

    def _response(self, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
        body = self._body
        echoed = {
            name: default if body.get(name) is None else body[name]
            for name, default in ECHOED.items()
        }
        ended = status in {"completed", "incomplete"}
        cut = {"reason": "max_output_tokens"} if status == "incomplete" else None
        return {
            "id": f"resp_{self._seed}",
            "object": "response",
            "created_at": CREATED,
            "status": status,
            "completed_at": CREATED if status == "completed" else None,
            "error": None,
            "incomplete_details": cut,
            "model": body["model"],
            "output": output,
            "service_tier": "default" if ended else body.get("service_tier") or "auto",
            "usage": self.usage if ended and not self._fault.no_usage else None,
            **echoed,
            **UNKNOWN,
        }
