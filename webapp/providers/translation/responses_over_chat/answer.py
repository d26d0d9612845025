"""Translates chat completions to Responses, whole and as events.

A whole answer is told as a stream of one chunk, whose last event holds it: so both are the same.
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
from webapp.providers.translation.responses_over_chat.reasoning import encrypted_content
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
    writer.events_of({**body, "choices": [{**choice, "index": 0, "delta": delta}]})
    *_, last = writer.last_events(answer.usage)
    return json.dumps(last["response"])


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
        self._tools = tools_of(request.body)
        self._response = _head(request.body, model)
        self._begun = False
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
        return [json.dumps(event) for event in self.events_of(json_codec.loads(data))]

    def end(self, usage: Usage) -> list[str]:
        """The events after the last chunk."""
        return [json.dumps(event) for event in self.last_events(usage)]

    def events_of(self, chunk: Mapping[str, Any]) -> list[dict[str, Any]]:
        self._usage = chunk.get("usage") or self._usage
        self._response["model"] = chunk.get("model") or self._response["model"]
        self._response["service_tier"] = chunk.get("service_tier") or self._response["service_tier"]
        events = self._begin()
        for choice in chunk.get("choices") or []:
            if isinstance(choice, dict) and (choice.get("index") or 0) == 0:
                events += self._delta(choice.get("delta") or {}, choice.get("logprobs"))
                self._reason = choice.get("finish_reason") or self._reason
        return events

    def last_events(self, usage: Usage) -> list[dict[str, Any]]:
        reason = INCOMPLETE.get(self._reason) if isinstance(self._reason, str) else None
        status = "incomplete" if reason else "completed"
        events = self._begin()
        if not self._items and not reason:
            events += self._in_part("output_text")  # an answer without a word
        events += self._end_open(status)
        for call in self._calls.values():
            events += self._end_call(call, status)
        self._response |= {
            "status": status,
            "output": [item for _, item in sorted(self._output.items())],
            "usage": to_response_usage(self._usage, usage),
        }
        if reason:
            self._response["incomplete_details"] = {"reason": reason}
        else:
            self._response["completed_at"] = int(time.time())
        return [*events, self._event(f"response.{status}", response=self._response)]

    def _begin(self) -> list[dict[str, Any]]:
        if self._begun:
            return []
        self._begun = True
        response = dict(self._response)
        return [
            self._event("response.created", response=response),
            self._event("response.in_progress", response=response),
        ]

    def _delta(self, delta: Mapping[str, Any], logprobs: Any) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []
        blocks = _signed(delta)
        if not blocks and (reasoning := _reasoning(delta)):
            events += self._in_reasoning()
            events += self._reasoned(reasoning)
        for block in blocks:  # their texts came before, without the signatures
            events += self._signature(block)
        content, refusal = _content(delta.get("content")), delta.get("refusal")
        if content:
            events += self._in_part("output_text") + self._said(content, logprobs)
        for annotation in delta.get("annotations") or []:
            events += self._in_part("output_text") + self._annotated(annotation)
        if isinstance(refusal, str) and refusal:
            events += self._in_part("refusal") + self._refused(refusal)
        for call in delta.get("tool_calls") or []:
            events += self._call(call)
        return events

    # -- reasoning --

    def _in_reasoning(self) -> list[dict[str, Any]]:
        if self._open and self._open.item["type"] == "reasoning":
            return []
        return self._open_item({"id": _id("rs"), "type": "reasoning", "summary": []})

    def _reasoned(self, text: str) -> list[dict[str, Any]]:
        begun = self._open
        assert begun
        events = []
        if not begun.pieces:
            part = {"type": "summary_text", "text": ""}
            events.append(self._summary_event("part.added", begun, part=part))
        begun.pieces.append(text)
        return [*events, self._summary_event("text.delta", begun, delta=text)]

    def _signature(self, block: Mapping[str, Any]) -> list[dict[str, Any]]:
        """A block of thinking that is over: each is an item of its own."""
        redacted = block.get("type") == "redacted_thinking"
        events = self._end_open() if redacted else []
        events += self._in_reasoning()
        begun = self._open
        assert begun
        text = block.get("thinking")
        if isinstance(text, str) and text and not begun.pieces:
            events += self._reasoned(text)
        kept = dict(block) if redacted else {**block, "thinking": text or begun.text}
        begun.item["encrypted_content"] = encrypted_content(kept)
        return events + self._end_open()

    # -- messages --

    def _in_part(self, kind: str) -> list[dict[str, Any]]:
        """Begin a part of a message, unless the latest part is of this kind."""
        events: list[dict[str, Any]] = []
        if not self._open or self._open.item["type"] != "message":
            item = {
                "id": _id("msg"),
                "type": "message",
                "status": "in_progress",
                "content": [],
                "role": "assistant",
            }
            events += self._open_item(item)
        begun = self._open
        assert begun
        parts = begun.item["content"]
        if parts and parts[-1]["type"] == kind:
            return events
        events += self._end_part(begun)
        part: dict[str, Any] = {"type": kind, "refusal": ""}
        if kind == "output_text":
            part = {"type": kind, "annotations": [], "logprobs": [], "text": ""}
        parts.append(part)
        return [*events, self._part_event("content_part.added", begun, part=dict(part))]

    def _said(self, text: str, logprobs: Any) -> list[dict[str, Any]]:
        begun = self._open
        assert begun
        told = _told_logprobs(logprobs)
        begun.pieces.append(text)
        begun.item["content"][-1]["logprobs"] += told
        return [self._part_event("output_text.delta", begun, delta=text, logprobs=told)]

    def _refused(self, text: str) -> list[dict[str, Any]]:
        begun = self._open
        assert begun
        begun.pieces.append(text)
        return [self._part_event("refusal.delta", begun, delta=text)]

    def _annotated(self, annotation: Any) -> list[dict[str, Any]]:
        """Citations of the web, as models that search by themselves give them."""
        begun = self._open
        cited = annotation.get("url_citation") if isinstance(annotation, dict) else None
        if begun is None or not isinstance(cited, dict):
            return []
        told = {"type": "url_citation", **cited}
        annotations = begun.item["content"][-1]["annotations"]
        annotations.append(told)
        place = len(annotations) - 1
        kind = "output_text.annotation.added"
        return [self._part_event(kind, begun, annotation=told, annotation_index=place)]

    def _end_part(self, begun: _Item) -> list[dict[str, Any]]:
        parts = begun.item["content"]
        if not parts:
            return []
        part, text = parts[-1], begun.text
        begun.pieces = []
        if part["type"] == "refusal":
            part["refusal"] = text
            done = self._part_event("refusal.done", begun, refusal=text)
        else:
            part["text"] = text
            logprobs = part["logprobs"]
            done = self._part_event("output_text.done", begun, text=text, logprobs=logprobs)
        return [done, self._part_event("content_part.done", begun, part=part)]

    # -- calls --

    def _call(self, call: Mapping[str, Any]) -> list[dict[str, Any]]:
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
        events: list[dict[str, Any]] = []
        if name and number not in self._known:
            self._known[number] = id_ = id_ or _id("call")
            events = self._begin_call(number, id_, name)
        if not arguments:
            return events
        begun = self._calls.get(number)
        if begun is None:
            raise ValueError("a fragment of a call that is over, or never began")
        begun.pieces.append(arguments)
        if begun.item["type"] != "function_call":
            return events  # its input is told once it is whole
        kind = "response.function_call_arguments.delta"
        return [*events, self._item_event(kind, begun, delta=arguments)]

    def _begin_call(self, number: Any, call_id: str, name: str) -> list[dict[str, Any]]:
        tool = self._tools.get(name)
        kind = tool.kind if tool else "function"
        item: dict[str, Any] = {"id": _id("fc"), "type": "function_call", "call_id": call_id}
        if kind == "tool_search":
            item |= {"id": _id("tsc"), "type": "tool_search_call", "execution": "client"}
            item["arguments"] = {}
        elif kind == "custom":
            item |= {"id": _id("ctc"), "type": "custom_tool_call", "input": ""}
        else:
            item["arguments"] = ""
        if kind != "tool_search":
            item["name"] = tool.name if tool else name
            if tool and tool.namespace:
                item["namespace"] = tool.namespace
        item["status"] = "in_progress"
        events = self._open_item(item)
        begun, self._open = self._open, None
        assert begun
        self._calls[number] = begun
        return events

    def _end_call(self, begun: _Item, status: str = "completed") -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []
        kind, item, text = begun.item["type"], begun.item, begun.text
        if kind == "function_call":
            prefix = "response.function_call_arguments"
            if not text and status == "completed":
                text = "{}"  # an empty text would be no JSON
                events.append(self._item_event(f"{prefix}.delta", begun, delta=text))
            item["arguments"] = text
            done = {"arguments": text, "name": item["name"]}
            events.append(self._item_event(f"{prefix}.done", begun, **done))
        elif kind == "custom_tool_call":
            prefix = "response.custom_tool_call_input"
            item["input"] = custom_input(text)
            if item["input"]:
                events.append(self._item_event(f"{prefix}.delta", begun, delta=item["input"]))
            events.append(self._item_event(f"{prefix}.done", begun, input=item["input"]))
        else:
            item["arguments"] = json.loads(object_arguments(text))
        return events + self._end_item(begun, status)

    # -- items and events --

    def _open_item(self, item: dict[str, Any]) -> list[dict[str, Any]]:
        events = self._end_open()
        for number in [key for key, call in self._calls.items() if call.has_whole_arguments]:
            events += self._end_call(self._calls.pop(number))
        self._open = _Item(self._items, item)
        self._items += 1
        copied = {**item, "content": []} if "content" in item else dict(item)
        added = self._event(
            "response.output_item.added", output_index=self._open.place, item=copied
        )
        return [*events, added]

    def _end_open(self, status: str = "completed") -> list[dict[str, Any]]:
        begun, self._open = self._open, None
        if begun is None:
            return []
        events: list[dict[str, Any]] = []
        if begun.item["type"] == "message":
            return self._end_part(begun) + self._end_item(begun, status)
        if text := begun.text:
            part = {"type": "summary_text", "text": text}
            begun.item["summary"] = [part]
            events.append(self._summary_event("text.done", begun, text=text))
            events.append(self._summary_event("part.done", begun, part=part))
        return events + self._end_item(begun, None)

    def _end_item(self, begun: _Item, status: str | None) -> list[dict[str, Any]]:
        if status:
            begun.item["status"] = status
        self._output[begun.place] = begun.item
        kind = "response.output_item.done"
        return [self._event(kind, output_index=begun.place, item=begun.item)]

    def _summary_event(self, kind: str, begun: _Item, **fields: Any) -> dict[str, Any]:
        kind = f"response.reasoning_summary_{kind}"
        return self._item_event(kind, begun, summary_index=0, **fields)

    def _part_event(self, kind: str, begun: _Item, **fields: Any) -> dict[str, Any]:
        place = len(begun.item["content"]) - 1
        return self._item_event(f"response.{kind}", begun, content_index=place, **fields)

    def _item_event(self, kind: str, begun: _Item, **fields: Any) -> dict[str, Any]:
        place = {"item_id": begun.item["id"], "output_index": begun.place}
        return self._event(kind, **place, **fields)

    def _event(self, kind: str, **fields: Any) -> dict[str, Any]:
        number, self._number = self._number, self._number + 1
        return {"type": kind, "sequence_number": number, **fields}


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
