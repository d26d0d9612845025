"""Reads a chat completion request: its parts, and the whole of it for LangChain."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from webapp.errors import UnsupportedParameter
from webapp.providers.translation.fields import (
    a_flag,
    a_list,
    a_number,
    a_text,
    an_integer,
    an_object,
    given,
    only,
    wrong,
)

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
    only(body, SUPPORTED, "", NEUTRAL)
    read_stream_options(body.get("stream_options"))
    tools = _tools(body.get("tools"))
    limit = "max_completion_tokens" if given(body, "max_completion_tokens") else "max_tokens"
    return ParsedChatRequest(
        messages=messages,
        temperature=a_number(body.get("temperature"), "temperature"),
        top_p=a_number(body.get("top_p"), "top_p"),
        max_tokens=an_integer(body.get(limit), limit),
        stop=read_stop(body.get("stop")),
        user=a_text(body["user"], "user") if given(body, "user") else None,
        tools=tools,
        tool_choice=read_tool_choice(body.get("tool_choice"), tools),
        parallel_tool_calls=a_flag(body.get("parallel_tool_calls"), "parallel_tool_calls", True),
    )


def _messages(value: Any) -> list[dict[str, Any]]:
    """The messages; all system messages are merged into one at the start."""
    system, others = [], []
    called: dict[str, str] = {}  # the names of the functions, by the ids of their calls
    for position, entry in enumerate(a_list(value, "messages", empty=False)):
        path = f"messages.{position}"
        message = an_object(entry, path)
        role = message.get("role")
        if role in ("system", "developer"):
            only(message, {"role", "content"}, path)
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
            raise wrong(f"{path}.role", "system, developer, user, assistant or tool")
    head = (
        [{"role": "system", "content": "\n\n".join(system)}] if any(map(str.strip, system)) else []
    )
    return head + others


def _user(message: Mapping[str, Any], path: str) -> dict[str, Any]:
    only(message, {"role", "content"}, path)
    content = message.get("content")
    if not isinstance(content, str):
        parts = a_list(content, f"{path}.content", empty=False)
        content = [_part(part, f"{path}.content.{i}") for i, part in enumerate(parts)]
    return {"role": "user", "content": content}


def _assistant(message: Mapping[str, Any], path: str) -> dict[str, Any]:
    known = {"role", "content", "tool_calls"} | ECHOED
    only(message, known, path, ECHOED_NEUTRAL)
    calls = a_list(message.get("tool_calls") or [], f"{path}.tool_calls")
    content = message.get("content")
    if content is not None or not calls:
        content = _plain_text(content, f"{path}.content")
    read: dict[str, Any] = {"role": "assistant", "content": content}
    if calls:
        read["tool_calls"] = [read_call(call, path, i) for i, call in enumerate(calls)]
    return read


def _tool_result(
    message: Mapping[str, Any], path: str, called: Mapping[str, str]
) -> dict[str, Any]:
    only(message, {"role", "name", "content", "tool_call_id"}, path)
    id_ = a_text(message.get("tool_call_id"), f"{path}.tool_call_id", empty=False)
    # Many clients repeat the function's name, which the call's id already tells.
    if given(message, "name") and message["name"] != called.get(id_):
        raise wrong(f"{path}.name", "the name of the function that the call with this id names")
    content = _plain_text(message.get("content"), f"{path}.content")
    return {"role": "tool", "content": content, "tool_call_id": id_}


def read_call(value: Any, path: str, position: int) -> dict[str, Any]:
    """A tool call of the message at `path`, in OpenAI's format."""
    path = f"{path}.tool_calls.{position}"
    call = an_object(value, path)
    # Clients that join the chunks of a stream send their index back.
    only(call, {"id", "type", "function"}, path, {"index": position})
    _is_function(call, path)
    function = an_object(call.get("function"), f"{path}.function")
    only(function, {"name", "arguments"}, f"{path}.function")
    arguments = a_text(function.get("arguments"), f"{path}.function.arguments") or "{}"
    try:
        is_object = isinstance(json.loads(arguments), dict)
    except (ValueError, RecursionError):
        is_object = False
    if not is_object:
        raise wrong(f"{path}.function.arguments", "the JSON text of an object")
    name = a_text(function.get("name"), f"{path}.function.name", empty=False)
    return {
        "id": a_text(call.get("id"), f"{path}.id", empty=False),
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _plain_text(content: Any, path: str) -> str:
    """A string, or the joined texts of its parts, which must all be texts."""
    if isinstance(content, str):
        return content
    texts = []
    for position, value in enumerate(a_list(content, path, empty=False)):
        part = _part(value, f"{path}.{position}")
        if part["type"] != "text":
            raise UnsupportedParameter(f"{path}.{position}.type")
        texts.append(part["text"])
    return "\n\n".join(texts)


def _part(value: Any, path: str) -> dict[str, Any]:
    part = an_object(value, path)
    if part.get("type") == "text":
        only(part, {"type", "text"}, path)
        return {"type": "text", "text": a_text(part.get("text"), f"{path}.text")}
    if part.get("type") == "image_url":
        only(part, {"type", "image_url"}, path)
        return {"type": "image_url", "image_url": read_image(part.get("image_url"), path)}
    raise UnsupportedParameter(f"{path}.type")


def read_image(value: Any, path: str) -> dict[str, str]:
    """The image_url of the part at `path`."""
    path = f"{path}.image_url"
    image = an_object(value, path)
    only(image, {"url"}, path, {"detail": "auto"})
    url = a_text(image.get("url"), f"{path}.url")
    if not (url.startswith("https://") or _is_data_url(url)):
        raise wrong(f"{path}.url", "an https: URL, or a data: URL with a base64 image")
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
    tools = a_list(value or [], "tools")
    return [read_tool(tool, f"tools.{position}") for position, tool in enumerate(tools)]


def read_tool(value: Any, path: str) -> dict[str, Any]:
    """A function, in OpenAI's format."""
    tool = an_object(value, path)
    _is_function(tool, path)
    only(tool, {"type", "function"}, path)
    path = f"{path}.function"
    function = an_object(tool.get("function"), path)
    only(function, {"name", "description", "parameters", "strict"}, path)
    read: dict[str, Any] = {"name": a_text(function.get("name"), f"{path}.name", empty=False)}
    if given(function, "description"):
        read["description"] = a_text(function["description"], f"{path}.description")
    parameters = an_object(function.get("parameters") or WITHOUT_PARAMETERS, f"{path}.parameters")
    read["parameters"] = {"type": "object", **parameters}
    return {"type": "function", "function": read}


def _is_function(value: Mapping[str, Any], path: str) -> None:
    if value.get("type") != "function":
        raise UnsupportedParameter(f"{path}.type", f"{path}.type must be 'function'.")


def read_tool_choice(value: Any, tools: list[dict[str, Any]]) -> str | None:
    """`auto`, `any`, `none`, or the name of a tool."""
    if value is None:
        return None
    if isinstance(value, str):
        choice = CHOICES.get(value)
        if choice is None:
            raise wrong("tool_choice", "auto, none, required or a function")
    else:
        named = an_object(value, "tool_choice")
        _is_function(named, "tool_choice")
        function = an_object(named.get("function"), "tool_choice.function")
        choice = a_text(function.get("name"), "tool_choice.function.name", empty=False)
    if not tools and choice not in ("auto", "none"):
        raise UnsupportedParameter(
            "tool_choice", "tool_choice requires a tool, but tools is empty."
        )
    return choice


def read_stream_options(value: Any) -> None:
    options = an_object({} if value is None else value, "stream_options")
    only(options, {"include_usage"}, "stream_options", {"include_obfuscation": False})
    a_flag(options.get("include_usage"), "stream_options.include_usage", False)


def read_stop(value: Any) -> list[str] | None:
    if value is None or isinstance(value, str):
        return [value] if value else None
    sequences = a_list(value, "stop")
    return [a_text(entry, f"stop.{i}", empty=False) for i, entry in enumerate(sequences)] or None
