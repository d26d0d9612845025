"""Converts a chat completion request for LangChain."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from webapp.errors import UnsupportedParameter

# Values that mean the same as leaving the parameter out.
NEUTRAL: dict[str, Any] = {
    "n": 1,
    "logprobs": False,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "response_format": {"type": "text"},
    "store": False,
    "logit_bias": {},
    "service_tier": "auto",
}
SUPPORTED = {
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
# Fields of earlier answers, which clients send back unchanged.
ECHOED_NEUTRAL: dict[str, Any] = {"annotations": []}
ECHOED = {"reasoning_content"}

DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,", re.IGNORECASE)
CHOICES = {"auto": "auto", "none": "none", "required": "any"}
WITHOUT_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}


@dataclass(frozen=True, slots=True)
class ParsedChatRequest:
    """A validated request, in parameters that all LangChain models share.

    `messages` and `tools` are in OpenAI's format, which LangChain's converters accept.
    `tool_choice` is "auto", "any", "none", or a tool's name.
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


def read_request(body: Mapping[str, Any]) -> ParsedChatRequest:
    """Raises UnsupportedParameter for what cannot be converted or is malformed."""
    # Messages first: so they come in a body, and the error names the first field.
    messages = _messages(body.get("messages"))
    _only(body, SUPPORTED, "", NEUTRAL)
    _stream_options(body.get("stream_options"))
    tools = _tools(body.get("tools"))
    limit = "max_completion_tokens" if _given(body, "max_completion_tokens") else "max_tokens"
    return ParsedChatRequest(
        messages=messages,
        temperature=_number(body.get("temperature"), "temperature"),
        top_p=_number(body.get("top_p"), "top_p"),
        max_tokens=_integer(body.get(limit), limit),
        stop=_stop(body.get("stop")),
        user=_text(body["user"], "user") if _given(body, "user") else None,
        tools=tools,
        tool_choice=_tool_choice(body.get("tool_choice"), tools),
        parallel_tool_calls=_flag(body.get("parallel_tool_calls"), "parallel_tool_calls", True),
    )


def _messages(value: Any) -> list[dict[str, Any]]:
    """The messages; all system messages are merged into one at the start."""
    system, others = [], []
    called: dict[str, str] = {}  # the names of the functions, by the ids of their calls
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
            calls = others[-1].get("tool_calls", [])
            called |= {call["id"]: call["function"]["name"] for call in calls}
        elif role == "tool":
            others.append(_tool_result(message, path, called))
        else:
            raise _wrong(f"{path}.role", "system, developer, user, assistant or tool")
    head = (
        [{"role": "system", "content": "\n\n".join(system)}] if any(map(str.strip, system)) else []
    )
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
    _only(message, known, path, ECHOED_NEUTRAL)
    calls = _list(message.get("tool_calls") or [], f"{path}.tool_calls")
    content = message.get("content")
    if content is not None or not calls:
        content = _plain_text(content, f"{path}.content")
    read: dict[str, Any] = {"role": "assistant", "content": content}
    if calls:
        read["tool_calls"] = [_call(call, path, i) for i, call in enumerate(calls)]
    return read


def _tool_result(
    message: Mapping[str, Any], path: str, called: Mapping[str, str]
) -> dict[str, Any]:
    _only(message, {"role", "name", "content", "tool_call_id"}, path)
    id_ = _text(message.get("tool_call_id"), f"{path}.tool_call_id", empty=False)
    # Many clients repeat the function's name, which the call's id already tells.
    if _given(message, "name") and message["name"] != called.get(id_):
        raise _wrong(f"{path}.name", "the name of the function that the call with this id names")
    content = _plain_text(message.get("content"), f"{path}.content")
    return {"role": "tool", "content": content, "tool_call_id": id_}


def _call(value: Any, path: str, position: int) -> dict[str, Any]:
    path = f"{path}.tool_calls.{position}"
    call = _object(value, path)
    # Clients that join the chunks of a stream send their index back.
    _only(call, {"id", "type", "function"}, path, {"index": position})
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
    """A string, or the joined texts of its parts, which must all be texts."""
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
        raise _wrong(f"{path}.url", "an https: URL, or a data: URL with a base64 image")
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
    read["parameters"] = {"type": "object", **parameters}
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
        raise UnsupportedParameter(
            "tool_choice", "tool_choice requires a tool, but tools is empty."
        )
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
        is_neutral = entry is None or (key in (neutral or {}) and (neutral or {})[key] == entry)
        if key not in known and not is_neutral:
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
