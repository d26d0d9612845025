"""Translates chat completions to Responses, whole and as events.

A whole answer is read as a stream of one chunk, so that both are told alike.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from webapp import json_codec
from webapp.llm.messages import Answer, ModelRequest, Usage
from webapp.providers.translation.responses_over_chat.reasoning import (
    UNSIGNED,
    kept_extras,
    kept_thinking,
)
from webapp.providers.translation.responses_over_chat.request import object_arguments
from webapp.providers.translation.responses_over_chat.tools import Tool, custom_input, tools_of
from webapp.providers.translation.usage import to_response_usage

INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
# What a response says of its request, and what it says where the request is silent.
ECHOED: dict[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "prompt_cache_key": None,
    "safety_identifier": None,
    "temperature": None,
    "tool_choice": "auto",
    "top_logprobs": 0,
    "top_p": None,
    "user": None,
}


def to_response(answer: Answer, request: ModelRequest, model: str) -> str:
    """The JSON of a response. Of a chat.completion, only its first choice counts."""
    body = json.loads(answer.body)
    choice = body["choices"][0]
    delta = dict(choice.get("message") or {})
    calls = [call for call in delta.get("tool_calls") or [] if isinstance(call, dict)]
    delta["tool_calls"] = [{**call, "index": place} for place, call in enumerate(calls)]
    writer = ResponseWriter(request, model)
    writer.read({**body, "choices": [{**choice, "index": 0, "delta": delta}]})
    return json.dumps(writer.finish(answer.usage))


@dataclass(slots=True)
class _Item:
    """An item of the output that has begun.

    `pieces` are the texts of its latest part, or of its arguments.
    """

    place: int
    item: dict[str, Any]
    pieces: list[str] = field(default_factory=list)
    tool: Tool | None = None

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def has_whole_arguments(self) -> bool:
        try:
            return isinstance(json.loads(self.text), dict)
        except (ValueError, RecursionError):
            return False


class ResponseWriter:
    """Writes the chunks of one stream as events of Responses.

    The items of the output follow each other, each begun and ended. Only calls whose fragments come
    in turns are open at the same time.
    """

    def __init__(self, request: ModelRequest, model: str) -> None:
        self._model = model
        self._tools = tools_of(request.body)
        self._response = _head(request.body, model)
        self._events: list[dict[str, Any]] = []  # those that are not told yet
        self._number = 0  # of the next event
        self._output: dict[int, dict[str, Any]] = {}  # the items that have ended, by their places
        self._items = 0
        self._open: _Item | None = None  # a message or reasoning
        self._calls: dict[Any, _Item] = {}  # the open ones, by the numbers of their fragments
        self._known: dict[Any, str] = {}  # the ids of all calls, by their numbers
        self._again: dict[Any, Any] = {}  # other numbers of calls that a server numbers the same
        self._latest: Any = None
        self._reason: Any = None
        self._usage: Any = None

    def take(self, data: str) -> list[str]:
        """The events that a chunk becomes."""
        self.read(json_codec.loads(data))
        return self._told()

    def end(self, usage: Usage) -> list[str]:
        """The events after the last chunk."""
        self.finish(usage)
        return self._told()

    def read(self, chunk: Mapping[str, Any]) -> None:
        response = self._response
        response["model"] = chunk.get("model") or response["model"]
        response["service_tier"] = chunk.get("service_tier") or response["service_tier"]
        self._usage = chunk.get("usage") or self._usage
        self._begin()
        for choice in chunk.get("choices") or []:
            if isinstance(choice, dict) and (choice.get("index") or 0) == 0:
                self._delta(choice.get("delta") or {}, choice.get("logprobs"))
                self._reason = choice.get("finish_reason") or self._reason

    def finish(self, usage: Usage) -> dict[str, Any]:
        """The whole response."""
        reason = INCOMPLETE.get(self._reason) if isinstance(self._reason, str) else None
        status = "incomplete" if reason else "completed"
        self._begin()
        if not (self._items or reason):
            self._in_part("output_text")  # an answer without a word
        self._end_open(status)
        for call in self._calls.values():
            self._end_call(call, status)
        response = self._response
        response["status"] = status
        response["output"] = [item for _, item in sorted(self._output.items())]
        response["usage"] = to_response_usage(self._usage, usage)
        if reason:
            response["incomplete_details"] = {"reason": reason}
        else:
            response["completed_at"] = int(time.time())
        self._event(f"response.{status}", response=response)
        return response

    def _begin(self) -> None:
        if not self._number:
            self._event("response.created", response=dict(self._response))
            self._event("response.in_progress", response=dict(self._response))

    def _delta(self, delta: Mapping[str, Any], logprobs: Any) -> None:
        blocks = _signed(delta)
        if not blocks and (reasoning := _reasoning(delta)):
            self._reasoned(reasoning)
        for block in blocks:  # their texts came before, without the signatures
            self._signature(block)
        if content := _content(delta.get("content")):
            self._said(content, _told_logprobs(logprobs))
        for annotation in delta.get("annotations") or []:
            self._annotated(annotation)
        refusal = delta.get("refusal")
        if isinstance(refusal, str) and refusal:
            begun = self._in_part("refusal")
            begun.pieces.append(refusal)
            self._part_event("refusal.delta", begun, delta=refusal)
        for call in delta.get("tool_calls") or []:
            self._call(call)

    # -- reasoning --

    def _in_reasoning(self) -> _Item:
        if self._open and self._open.item["type"] == "reasoning":
            return self._open
        begun = self._begin_item({"id": _id("rs"), "type": "reasoning", "summary": []})
        self._open = begun
        return begun

    def _reasoned(self, text: str) -> None:
        begun = self._in_reasoning()
        if not begun.pieces:
            part = {"type": "summary_text", "text": ""}
            self._summary_event("part.added", begun, part=part)
        begun.pieces.append(text)
        self._summary_event("text.delta", begun, delta=text)

    def _signature(self, block: Mapping[str, Any]) -> None:
        """A block of thinking that is over: each is an item of its own."""
        redacted = block.get("type") == "redacted_thinking"
        if redacted:
            self._end_open()
        begun, text = self._in_reasoning(), block.get("thinking")
        if isinstance(text, str) and text and not begun.pieces:
            self._reasoned(text)
        kept = dict(block) if redacted else {**block, "thinking": text or begun.text}
        begun.item["encrypted_content"] = kept_thinking(kept)
        self._end_open()

    # -- messages --

    def _in_part(self, kind: str) -> _Item:
        """The message that is open, with a part of this kind as its last."""
        begun = self._open
        if begun is None or begun.item["type"] != "message":
            head = {"id": _id("msg"), "type": "message", "status": "in_progress"}
            begun = self._begin_item({**head, "role": "assistant", "content": []})
            self._open = begun
        parts = begun.item["content"]
        if not parts or parts[-1]["type"] != kind:
            self._end_part(begun)
            parts.append(_empty_part(kind))
            self._part_event("content_part.added", begun, part=_empty_part(kind))
        return begun

    def _said(self, text: str, logprobs: list[dict[str, Any]]) -> None:
        begun = self._in_part("output_text")
        begun.pieces.append(text)
        begun.item["content"][-1]["logprobs"] += logprobs
        self._part_event("output_text.delta", begun, delta=text, logprobs=logprobs)

    def _annotated(self, annotation: Any) -> None:
        """A citation of the web, as models that search by themselves give them."""
        cited = annotation.get("url_citation") if isinstance(annotation, dict) else None
        if not isinstance(cited, dict):
            return
        begun = self._in_part("output_text")
        annotations = begun.item["content"][-1]["annotations"]
        annotations.append({"type": "url_citation", **cited})
        told = {"annotation": annotations[-1], "annotation_index": len(annotations) - 1}
        self._part_event("output_text.annotation.added", begun, **told)

    def _end_part(self, begun: _Item) -> None:
        parts = begun.item["content"]
        if not parts:
            return
        part, text = parts[-1], begun.text
        begun.pieces = []
        if part["type"] == "refusal":
            part["refusal"] = text
            self._part_event("refusal.done", begun, refusal=text)
        else:
            part["text"] = text
            logprobs = part["logprobs"]
            self._part_event("output_text.done", begun, text=text, logprobs=logprobs)
        self._part_event("content_part.done", begun, part=part)

    # -- calls --

    def _call(self, call: Mapping[str, Any]) -> None:
        """A fragment of a call. Its first names the tool; servers may leave out the index, or count
        several calls as the same."""
        function = call.get("function") or {}
        name, arguments = function.get("name"), function.get("arguments") or ""
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        id_, number = call.get("id"), call.get("index")
        if number is None:
            number = -1 - len(self._known) if name else self._latest
        elif name and id_ and self._known.get(number, id_) != id_:
            number = self._again[number] = (number, id_)
        else:
            number = self._again.get(number, number)
        self._latest = number
        if name and number not in self._known:
            self._known[number] = id_ = id_ or _id("call")
            if extra := call.get("extra_content"):
                self._came_with_call(id_, extra)
            self._calls[number] = self._begin_item(self._call_item(id_, name))
        begun = self._calls.get(number)
        if begun is None and arguments.strip():
            raise ValueError("a fragment of a call that is over, or never began")
        if begun is None or not arguments:
            return
        begun.pieces.append(arguments)
        if begun.item["type"] == "function_call":  # others are told once they are whole
            self._item_event("function_call_arguments.delta", begun, delta=arguments)

    def _came_with_call(self, call_id: str, extra: Any) -> None:
        """What Gemini wants back with the call: an item before it, as the call has no room."""
        self._end_open()
        kept = kept_extras(self._model, {call_id: extra})
        self._in_reasoning().item["encrypted_content"] = kept
        self._end_open()

    def _call_item(self, call_id: str, name: str) -> dict[str, Any]:
        tool = self._tools.get(name)
        item: dict[str, Any] = {"call_id": call_id, "status": "in_progress"}
        if tool and tool.kind == "tool_search":
            kind = {"id": _id("tsc"), "type": "tool_search_call", "execution": "client"}
            return {**kind, **item, "arguments": {}}
        item["name"] = tool.name if tool else name
        if tool and tool.namespace:
            item["namespace"] = tool.namespace
        if tool and tool.kind == "custom":
            return {"id": _id("ctc"), "type": "custom_tool_call", **item, "input": ""}
        return {"id": _id("fc"), "type": "function_call", **item, "arguments": ""}

    def _end_call(self, begun: _Item, status: str = "completed") -> None:
        item, text = begun.item, begun.text
        if item["type"] == "function_call":
            if not text and status == "completed":
                text = "{}"  # an empty text would be no JSON
                self._item_event("function_call_arguments.delta", begun, delta=text)
            item["arguments"] = text
            done = {"arguments": text, "name": item["name"]}
            self._item_event("function_call_arguments.done", begun, **done)
        elif item["type"] == "custom_tool_call":
            item["input"] = custom_input(text)
            if item["input"]:
                self._item_event("custom_tool_call_input.delta", begun, delta=item["input"])
            self._item_event("custom_tool_call_input.done", begun, input=item["input"])
        else:
            item["arguments"] = json.loads(object_arguments(text))
        self._end_item(begun, status)

    # -- items and events --

    def _begin_item(self, item: dict[str, Any]) -> _Item:
        """Begin an item, once those before it have ended, except calls that are not whole."""
        self._end_open()
        for number in [key for key, call in self._calls.items() if call.has_whole_arguments]:
            self._end_call(self._calls.pop(number))
        begun = _Item(self._items, item)
        self._items += 1
        added = {**item, "content": []} if "content" in item else dict(item)
        self._event("response.output_item.added", output_index=begun.place, item=added)
        return begun

    def _end_open(self, status: str = "completed") -> None:
        begun, self._open = self._open, None
        if begun is None:
            return
        if begun.item["type"] == "message":
            self._end_part(begun)
            self._end_item(begun, status)
            return
        begun.item.setdefault("encrypted_content", UNSIGNED)
        if text := begun.text:
            begun.item["summary"] = [{"type": "summary_text", "text": text}]
            self._summary_event("text.done", begun, text=text)
            self._summary_event("part.done", begun, part=begun.item["summary"][0])
        self._end_item(begun)

    def _end_item(self, begun: _Item, status: str | None = None) -> None:
        if status:
            begun.item["status"] = status
        self._output[begun.place] = begun.item
        self._event("response.output_item.done", output_index=begun.place, item=begun.item)

    def _summary_event(self, kind: str, begun: _Item, **fields: Any) -> None:
        self._item_event(f"reasoning_summary_{kind}", begun, summary_index=0, **fields)

    def _part_event(self, kind: str, begun: _Item, **fields: Any) -> None:
        place = len(begun.item["content"]) - 1
        self._item_event(kind, begun, content_index=place, **fields)

    def _item_event(self, kind: str, begun: _Item, **fields: Any) -> None:
        place = {"item_id": begun.item["id"], "output_index": begun.place}
        self._event(f"response.{kind}", **place, **fields)

    def _event(self, kind: str, **fields: Any) -> None:
        self._events.append({"type": kind, "sequence_number": self._number, **fields})
        self._number += 1

    def _told(self) -> list[str]:
        events, self._events = self._events, []
        return [json.dumps(event) for event in events]


def _empty_part(kind: str) -> dict[str, Any]:
    if kind == "refusal":
        return {"type": kind, "refusal": ""}
    return {"type": kind, "annotations": [], "logprobs": [], "text": ""}


def _head(body: Mapping[str, Any], model: str) -> dict[str, Any]:
    """A response that has just begun."""
    echoed = {
        name: other if body.get(name) is None else body[name] for name, other in ECHOED.items()
    }
    reasoning, text = body.get("reasoning") or {}, body.get("text") or {}
    nothing = dict.fromkeys(
        ["completed_at", "conversation", "error", "incomplete_details", "previous_response_id",
         "service_tier", "usage"]
    )  # fmt: skip
    return {
        "id": _id("resp"),
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "background": False,
        "model": model,
        "output": [],
        **nothing,
        **echoed,
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
        "store": False,
        "text": {
            "format": text.get("format") or {"type": "text"},
            "verbosity": text.get("verbosity") or "medium",
        },
        "tools": [_told_tool(tool) for tool in body.get("tools") or []],
        "truncation": "disabled",
    }


def _told_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    defaults = {"parameters": None, "strict": False} if tool.get("type") == "function" else {}
    return {**defaults, **tool}


def _id(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex}"


def _content(content: Any) -> str:
    """The text of a message or delta, whose content may be a list of parts."""
    if isinstance(content, list):
        parts = (part.get("text") if isinstance(part, dict) else part for part in content)
        content = "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def _signed(delta: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Thinking that is over, as it comes of Anthropic's: signed or redacted."""
    blocks = delta.get("thinking_blocks")
    return [
        {name: value for name, value in block.items() if name != "index"}
        for block in (blocks if isinstance(blocks, list) else [])
        if isinstance(block, dict) and (block.get("signature") or block.get("data"))
    ]


def _reasoning(delta: Mapping[str, Any]) -> str:
    texts = (delta.get(name) for name in ("reasoning_content", "reasoning"))
    return next((text for text in texts if isinstance(text, str) and text), "")


def _told_logprobs(logprobs: Any) -> list[dict[str, Any]]:
    tokens = logprobs.get("content") if isinstance(logprobs, dict) else None
    return [
        _told_token(token)
        | {"top_logprobs": list(map(_told_token, token.get("top_logprobs") or []))}
        for token in tokens or []
    ]


def _told_token(token: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "token": token["token"],
        "bytes": token.get("bytes") or [],
        "logprob": token["logprob"],
    }
