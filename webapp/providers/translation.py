"""A chat completion told in LangChain's terms, and LangChain's answer told in OpenAI's."""

from __future__ import annotations

import base64
import json
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from webapp.errors import ProviderFailed, UnsupportedParameter
from webapp.providers.base import CUT

if TYPE_CHECKING:
    from langchain_core.messages import AIMessage

# What says no more than leaving the parameter out does.
MEANS_NOTHING: dict[str, Any] = {
    "n": 1,
    "logprobs": False,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "response_format": {"type": "text"},
    "store": False,
    "logit_bias": {},
    "service_tier": "auto",
}
UNDERSTOOD = {
    "messages",
    "temperature",
    "top_p",
    "max_tokens",
    "max_completion_tokens",
    "stop",
    "user",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "stream_options",
}
# What clients send back of an answer, as they got it.
ECHOED_MEANS_NOTHING: dict[str, Any] = {"annotations": []}
ECHOED = {"reasoning_content"}

DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,", re.IGNORECASE)
CHOICES = {"auto": "auto", "none": "none", "required": "any"}
WITHOUT_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}

FINISH_REASONS = {
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "tool_calls": "tool_calls",
    "tool_call": "tool_calls",
    "function_call": "tool_calls",
    "refusal": "content_filter",
    "content_filter": "content_filter",
    "content_filtered": "content_filter",
    "guardrail_intervened": "content_filter",
    "safety": "content_filter",
    "prohibited_content": "content_filter",
    "blocklist": "content_filter",
    "spii": "content_filter",
}
REASON_KEYS = ("stop_reason", "finish_reason", "done_reason", "stopReason")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request in terms that every LangChain model shares; nothing in it is unchecked.

    `messages` and `tools` are of OpenAI's shape, which LangChain's converters take. `tool_choice`
    is "auto", "any", "none", or a tool's name.
    """

    messages: list[dict[str, Any]]
    temperature: float | None
    top_p: float | None
    max_tokens: int | None
    stop: list[str] | None
    user: str | None
    tools: list[dict[str, Any]]
    tool_choice: str | None
    parallel_tool_calls: bool


def read_request(body: Mapping[str, Any]) -> Asked:
    """Raises UnsupportedParameter for what cannot be carried over, or is not well formed."""
    _only(body, UNDERSTOOD, "", MEANS_NOTHING)
    _stream_options(body.get("stream_options"))
    tools = _tools(body.get("tools"))
    longest = "max_completion_tokens" if _given(body, "max_completion_tokens") else "max_tokens"
    return Asked(
        messages=_messages(body.get("messages")),
        temperature=_number(body.get("temperature"), "temperature"),
        top_p=_number(body.get("top_p"), "top_p"),
        max_tokens=_integer(body.get(longest), longest),
        stop=_stop(body.get("stop")),
        user=_text(body["user"], "user") if _given(body, "user") else None,
        tools=tools,
        tool_choice=_tool_choice(body.get("tool_choice"), tools),
        parallel_tool_calls=_flag(body.get("parallel_tool_calls"), "parallel_tool_calls", True),
    )


def _messages(value: Any) -> list[dict[str, Any]]:
    """The messages, with all that the system says in one at their head."""
    system, others = [], []
    for position, entry in enumerate(_list(value, "messages", empty=False)):
        path = f"messages.{position}"
        message = _object(entry, path)
        role = message.get("role")
        if role in ("system", "developer"):
            _only(message, {"role", "content"}, path)
            system.append(_plain_text(message.get("content"), f"{path}.content"))
        elif role == "user":
            others.append(_user(message, path))
        elif role == "assistant":
            others.append(_assistant(message, path))
        elif role == "tool":
            others.append(_tool_result(message, path))
        else:
            raise _wrong(f"{path}.role", "system, developer, user, assistant or tool")
    head = [{"role": "system", "content": "\n\n".join(system)}] if any(system) else []
    return head + others


def _user(message: Mapping[str, Any], path: str) -> dict[str, Any]:
    _only(message, {"role", "content"}, path)
    content = message.get("content")
    if not isinstance(content, str):
        parts = _list(content, f"{path}.content", empty=False)
        content = [_part(part, f"{path}.content.{i}") for i, part in enumerate(parts)]
    return {"role": "user", "content": content}


def _assistant(message: Mapping[str, Any], path: str) -> dict[str, Any]:
    known = {"role", "content", "tool_calls"} | ECHOED
    _only(message, known, path, ECHOED_MEANS_NOTHING)
    calls = _list(message.get("tool_calls") or [], f"{path}.tool_calls")
    content = message.get("content")
    if content is not None or not calls:
        content = _plain_text(content, f"{path}.content")
    read: dict[str, Any] = {"role": "assistant", "content": content}
    if calls:
        read["tool_calls"] = [_call(call, f"{path}.tool_calls.{i}") for i, call in enumerate(calls)]
    return read


def _tool_result(message: Mapping[str, Any], path: str) -> dict[str, Any]:
    _only(message, {"role", "content", "tool_call_id"}, path)
    return {
        "role": "tool",
        "content": _plain_text(message.get("content"), f"{path}.content"),
        "tool_call_id": _text(message.get("tool_call_id"), f"{path}.tool_call_id", empty=False),
    }


def _call(value: Any, path: str) -> dict[str, Any]:
    call = _object(value, path)
    _only(call, {"id", "type", "function"}, path)
    _is_function(call, path)
    function = _object(call.get("function"), f"{path}.function")
    _only(function, {"name", "arguments"}, f"{path}.function")
    arguments = _text(function.get("arguments"), f"{path}.function.arguments") or "{}"
    try:
        is_object = isinstance(json.loads(arguments), dict)
    except (ValueError, RecursionError):
        is_object = False
    if not is_object:
        raise _wrong(f"{path}.function.arguments", "the JSON text of an object")
    name = _text(function.get("name"), f"{path}.function.name", empty=False)
    return {
        "id": _text(call.get("id"), f"{path}.id", empty=False),
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _plain_text(content: Any, path: str) -> str:
    """A string, or the texts of its parts: where no other kind of part may stand."""
    if isinstance(content, str):
        return content
    texts = []
    for position, value in enumerate(_list(content, path, empty=False)):
        part = _part(value, f"{path}.{position}")
        if part["type"] != "text":
            raise UnsupportedParameter(f"{path}.{position}.type")
        texts.append(part["text"])
    return "\n\n".join(texts)


def _part(value: Any, path: str) -> dict[str, Any]:
    part = _object(value, path)
    if part.get("type") == "text":
        _only(part, {"type", "text"}, path)
        return {"type": "text", "text": _text(part.get("text"), f"{path}.text")}
    if part.get("type") == "image_url":
        _only(part, {"type", "image_url"}, path)
        return {"type": "image_url", "image_url": _image(part.get("image_url"), path)}
    raise UnsupportedParameter(f"{path}.type")


def _image(value: Any, path: str) -> dict[str, str]:
    path = f"{path}.image_url"
    image = _object(value, path)
    _only(image, {"url"}, path, {"detail": "auto"})
    url = _text(image.get("url"), f"{path}.url")
    if not (url.startswith("https://") or _is_data_url(url)):
        raise _wrong(f"{path}.url", "an https: URL, or a data: URL of an image in base64")
    return {"url": url}


def _is_data_url(url: str) -> bool:
    head = DATA_URL.match(url)
    if not head:
        return False
    try:
        return bool(base64.b64decode(url[head.end() :], validate=True))
    except ValueError:
        return False


def _tools(value: Any) -> list[dict[str, Any]]:
    tools = _list(value or [], "tools")
    return [_tool(tool, f"tools.{position}") for position, tool in enumerate(tools)]


def _tool(value: Any, path: str) -> dict[str, Any]:
    tool = _object(value, path)
    _is_function(tool, path)
    _only(tool, {"type", "function"}, path)
    path = f"{path}.function"
    function = _object(tool.get("function"), path)
    _only(function, {"name", "description", "parameters", "strict"}, path)
    read: dict[str, Any] = {"name": _text(function.get("name"), f"{path}.name", empty=False)}
    if _given(function, "description"):
        read["description"] = _text(function["description"], f"{path}.description")
    parameters = _object(function.get("parameters") or WITHOUT_PARAMETERS, f"{path}.parameters")
    read["parameters"] = dict(parameters)
    return {"type": "function", "function": read}


def _is_function(value: Mapping[str, Any], path: str) -> None:
    if value.get("type") != "function":
        raise UnsupportedParameter(f"{path}.type", f"{path}.type must be 'function'.")


def _tool_choice(value: Any, tools: list[dict[str, Any]]) -> str | None:
    if value is None:
        return None
    if isinstance(value, str):
        choice = CHOICES.get(value)
        if choice is None:
            raise _wrong("tool_choice", "auto, none, required or a function")
    else:
        named = _object(value, "tool_choice")
        _is_function(named, "tool_choice")
        function = _object(named.get("function"), "tool_choice.function")
        choice = _text(function.get("name"), "tool_choice.function.name", empty=False)
    if not tools and choice not in ("auto", "none"):
        raise UnsupportedParameter("tool_choice", "tool_choice asks for a tool, but none is given.")
    return choice


def _stream_options(value: Any) -> None:
    options = _object({} if value is None else value, "stream_options")
    _only(options, {"include_usage"}, "stream_options", {"include_obfuscation": False})
    _flag(options.get("include_usage"), "stream_options.include_usage", False)


def _stop(value: Any) -> list[str] | None:
    if value is None or isinstance(value, str):
        return [value] if value else None
    sequences = _list(value, "stop")
    return [_text(entry, f"stop.{i}", empty=False) for i, entry in enumerate(sequences)] or None


def _only(
    value: Mapping[str, Any], known: set[str], path: str, neutral: Mapping[str, Any] | None = None
) -> None:
    for key, entry in value.items():
        says_nothing = entry is None or (key in (neutral or {}) and (neutral or {})[key] == entry)
        if key not in known and not says_nothing:
            raise UnsupportedParameter(f"{path}.{key}" if path else str(key))


def _given(value: Mapping[str, Any], key: str) -> bool:
    return value.get(key) is not None


def _object(value: Any, path: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _wrong(path, "an object")
    return value


def _list(value: Any, path: str, *, empty: bool = True) -> list[Any]:
    if not isinstance(value, list) or not (value or empty):
        raise _wrong(path, "a list" if empty else "a list that is not empty")
    return value


def _text(value: Any, path: str, *, empty: bool = True) -> str:
    if not isinstance(value, str) or not (value or empty):
        raise _wrong(path, "a string" if empty else "a string that is not empty")
    return value


def _number(value: Any, path: str) -> float | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise _wrong(path, "a number")
    return value


def _integer(value: Any, path: str) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise _wrong(path, "a whole number")
    return value


def _flag(value: Any, path: str, default: bool) -> bool:
    if value is not None and not isinstance(value, bool):
        raise _wrong(path, "true or false")
    return default if value is None else value


def _wrong(path: str, expected: str) -> UnsupportedParameter:
    error = UnsupportedParameter(path, f"{path} must be {expected}.")
    error.details = {path: [f"Must be {expected}."]}
    return error


def write_answer(message: AIMessage, model: str) -> str:
    """The JSON of a chat.completion."""
    from openai.types.chat import ChatCompletion

    calls = _calls(message)
    text = str(message.text)
    spoken: dict[str, Any] = {
        "role": "assistant",
        "content": text or (None if calls else ""),
        "refusal": None,
    }
    if reasoning := _reasoning(message):
        spoken["reasoning_content"] = reasoning
    if calls:
        spoken["tool_calls"] = calls
    reason = _finish_reason(_reason(message), bool(calls))
    choice = {"index": 0, "message": spoken, "logprobs": None, "finish_reason": reason}
    body = _head("chat.completion", _model_name(message) or model) | {"choices": [choice]}
    if usage := _usage(message.usage_metadata):
        body["usage"] = usage
    return ChatCompletion.model_validate(body).model_dump_json(exclude_unset=True)


def write_chunks(
    messages: Iterable[AIMessage], model: str, estimate: Callable[[], int]
) -> Iterator[str]:
    """The JSON of each chat.completion.chunk.

    `estimate` gives the tokens of the prompt where the provider counts only those of its answer.
    Raises ProviderFailed where the messages end without a reason why.
    """
    writing = _StreamWriting(model, estimate)
    for message in messages:
        yield from writing.take(message)
    yield from writing.end()


class _StreamWriting:
    """What the parts of a streamed answer have said so far."""

    def __init__(self, model: str, estimate: Callable[[], int]) -> None:
        from openai.types.chat import ChatCompletionChunk

        self._type = ChatCompletionChunk
        self._head = _head("chat.completion.chunk", model)
        self._calls = _StreamedCalls()
        self._began = False
        self._reason: str | None = None
        self._usage: Any = None
        self._estimate = estimate

    def take(self, message: AIMessage) -> Iterator[str]:
        from langchain_core.messages.ai import add_usage

        self._head["model"] = _model_name(message) or self._head["model"]
        self._reason = _reason(message) or self._reason
        if message.usage_metadata:
            self._usage = add_usage(self._usage, message.usage_metadata)
        if not self._began:
            self._began = True
            yield self._chunk({"role": "assistant", "content": "", "refusal": None})
        if reasoning := _reasoning(message):
            yield self._chunk({"reasoning_content": reasoning})
        if text := str(message.text):
            yield self._chunk({"content": text})
        for call in self._calls.take(message):
            yield self._chunk({"tool_calls": [call]})

    def end(self) -> Iterator[str]:
        if self._reason is None:
            raise ProviderFailed(CUT)
        for call in self._calls.end():
            yield self._chunk({"tool_calls": [call]})
        yield self._chunk({}, _finish_reason(self._reason, self._calls.any))
        if self._usage and not self._usage["input_tokens"]:
            self._usage["input_tokens"] = self._estimate()
        if usage := _usage(self._usage):
            yield self._text([], {"usage": usage})

    def _chunk(self, delta: dict[str, Any], reason: str | None = None) -> str:
        return self._text(
            [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}], {}
        )

    def _text(self, choices: list[dict[str, Any]], more: dict[str, Any]) -> str:
        body = self._head | {"choices": choices} | more
        return self._type.model_validate(body).model_dump_json(exclude_unset=True)


class _StreamedCalls:
    """Counts the tool calls of a stream as OpenAI does: from 0, whatever else stands between."""

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._places: dict[Any, int] = {}
        self._without_arguments: set[int] = set()

    @property
    def any(self) -> bool:
        return bool(self._ids)

    def take(self, message: AIMessage) -> Iterator[dict[str, Any]]:
        for fragment in _fragments(message):
            place = self._place(fragment)
            if place is None:
                place = self._begin(fragment)
                yield _call_delta(place, fragment["name"] or "", self._ids[place])
            if arguments := fragment["args"]:
                self._without_arguments.discard(place)
                yield {"index": place, "function": {"arguments": arguments}}

    def end(self) -> Iterator[dict[str, Any]]:
        """A call without arguments is streamed as nothing, which is no JSON."""
        for place in sorted(self._without_arguments):
            yield {"index": place, "function": {"arguments": "{}"}}

    def _place(self, fragment: Mapping[str, Any]) -> int | None:
        """Where its call stands; None where a new one begins."""
        place = self._places.get(_key(fragment))
        if fragment["name"]:
            same = place is not None and fragment["id"] in (None, "", self._ids[place])
            return place if same else None
        return len(self._ids) - 1 if place is None and self._ids else place

    def _begin(self, fragment: Mapping[str, Any]) -> int:
        id_ = fragment["id"] or _call_id()
        place = len(self._ids)
        self._ids.append(id_)
        self._places[_key(fragment)] = place
        self._without_arguments.add(place)
        return place


def _key(fragment: Mapping[str, Any]) -> Any:
    return fragment["id"] if fragment["index"] is None else fragment["index"]


def _fragments(message: AIMessage) -> list[dict[str, Any]]:
    """The pieces of tool calls in a part of a stream; whole calls where the model cannot stream."""
    pieces = getattr(message, "tool_call_chunks", None)
    if pieces is not None:
        return list(pieces)
    return [
        {
            "index": position,
            "id": call["id"],
            "name": call["function"]["name"],
            "args": call["function"]["arguments"],
        }
        for position, call in enumerate(_calls(message))
    ]


def _call_delta(place: int, name: str, id_: str) -> dict[str, Any]:
    function = {"name": name, "arguments": ""}
    return {"index": place, "id": id_, "type": "function", "function": function}


def _calls(message: AIMessage) -> list[dict[str, Any]]:
    calls = [
        (call["id"], call["name"], json.dumps(call["args"], ensure_ascii=False))
        for call in message.tool_calls
    ]
    calls += [
        (call["id"], call["name"] or "", call["args"] or "") for call in message.invalid_tool_calls
    ]
    return [
        {
            "id": id_ or _call_id(),
            "type": "function",
            "function": {"name": name, "arguments": arguments},
        }
        for id_, name, arguments in calls
    ]


def _call_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"


def _reasoning(message: AIMessage) -> str:
    said = message.additional_kwargs.get("reasoning_content")
    texts = [said] if isinstance(said, str) else []
    for block in message.content if isinstance(message.content, list) else []:
        if isinstance(block, dict) and block.get("type") in ("thinking", "reasoning"):
            text = block.get(block["type"])
            texts += [text] if isinstance(text, str) else []
    return "".join(texts)


def _reason(message: AIMessage) -> str | None:
    said = (message.response_metadata.get(key) for key in REASON_KEYS)
    return next((reason for reason in said if isinstance(reason, str) and reason), None)


def _finish_reason(reason: str | None, calls: bool) -> str:
    known = FINISH_REASONS.get((reason or "").lower(), "stop")
    return "tool_calls" if calls and known == "stop" else known


def _model_name(message: AIMessage) -> str | None:
    name = message.response_metadata.get("model_name") or message.response_metadata.get("model")
    return name if isinstance(name, str) else None


def _usage(usage: Any) -> dict[str, Any] | None:
    if not usage:
        return None
    written = {
        "prompt_tokens": usage["input_tokens"],
        "completion_tokens": usage["output_tokens"],
        "total_tokens": usage["input_tokens"] + usage["output_tokens"],
    }
    cached = usage.get("input_token_details", {}).get("cache_read")
    if cached is not None:
        written["prompt_tokens_details"] = {"cached_tokens": cached}
    reasoning = usage.get("output_token_details", {}).get("reasoning")
    if reasoning is not None:
        written["completion_tokens_details"] = {"reasoning_tokens": reasoning}
    return written


def _head(kind: str, model: str) -> dict[str, Any]:
    id_ = f"chatcmpl-{uuid.uuid4().hex}"
    return {"id": id_, "object": kind, "created": int(time.time()), "model": model}
