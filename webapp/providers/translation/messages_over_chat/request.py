"""Translates a request of Anthropic's Messages to one of a chat completion."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
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
from webapp.providers.translation.schemas import is_strict

SUPPORTED = {
    "max_tokens", "messages", "metadata", "output_config", "output_format", "service_tier",
    "stop_sequences", "system", "temperature", "thinking", "tool_choice", "tools", "top_p",
}  # fmt: skip
# Without effect on the words of an answer: marks for the cache, and what an answer tells of it.
IGNORED = {"cache_control", "diagnostics"}
NEUTRAL: dict[str, Any] = {
    "container": None,
    "inference_geo": "global",
    "mcp_servers": [],
    "speed": "standard",
    "stream": False,
}
NEUTRAL_OF_TOOLS: dict[str, Any] = {"allowed_callers": ["direct"], "defer_loading": False}
# How a tool is streamed, and marks for the cache.
IGNORED_OF_TOOLS = {"cache_control", "eager_input_streaming"}
CHOICES = {"auto": "auto", "any": "required", "none": "none"}
EFFORTS = {"low", "medium", "high", "xhigh", "max"}
# The efforts for a budget of thinking: (tokens from which on, effort).
BUDGETS = ((8_192, "high"), (2_048, "medium"), (0, "low"))
TIERS = {"auto": None, "standard_only": "default"}
MAX_USER_LENGTH = 64  # of OpenAI's
MAX_NAME_LENGTH = 64  # of OpenAI's tools; Anthropic's have up to 128 characters
NO_CONTENT = "(no content)"
# How Claude Code begins, with a digest that differs each time. Anthropic leaves it out, too: no
# prompt cache would know the rest.
ATTRIBUTION = "x-anthropic-billing-header:"
FAILED = "Error: "
SEE_BELOW = "(in the next message)"


def to_chat(body: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a chat completion, without `model`, `stream` and a limit on the output.

    Raises UnsupportedParameter for what cannot be carried over or is malformed.
    """
    messages = [*_system(body.get("system")), *_messages(body.get("messages"))]
    _context_management(body.get("context_management"))
    known = SUPPORTED | IGNORED | {"context_management"}
    only(body, known, "", NEUTRAL)
    translated: dict[str, Any] = {
        "messages": messages,
        "temperature": _temperature(body.get("temperature")),
        "top_p": a_number(body.get("top_p"), "top_p"),
        "stop": _stop(body.get("stop_sequences")),
        "user": _user_id(body.get("metadata")),
        "service_tier": _service_tier(body.get("service_tier")),
        "reasoning_effort": _effort(body),
        "response_format": _format(body),
        **_tools(body),
    }
    return {name: value for name, value in translated.items() if value is not None}


def max_tokens_of(body: Mapping[str, Any]) -> int:
    """The limit on the output, which Messages always have."""
    limit = an_integer(body.get("max_tokens"), "max_tokens")
    if limit is None or limit < 1:
        raise wrong("max_tokens", "a whole number from 1 on")
    return limit


def full_names(body: Mapping[str, Any]) -> dict[str, str]:
    """The names of those tools that have another one in the chat completion, by that one."""
    tools = body.get("tools")
    named = [one.get("name") for one in tools or [] if isinstance(one, Mapping)]
    return {_short_name(name): name for name in named if name and len(name) > MAX_NAME_LENGTH}


def _short_name(name: str) -> str:
    """The name of a tool as OpenAI takes it: agents put the names of their servers before it."""
    if len(name) <= MAX_NAME_LENGTH:
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{name[: MAX_NAME_LENGTH - 9]}_{digest}"


def _temperature(value: Any) -> float | None:
    """1 is what it is without any, and models that reason take no other."""
    number = a_number(value, "temperature")
    return None if number == 1 else number


def _stop(value: Any) -> list[str] | None:
    sequences = a_list([] if value is None else value, "stop_sequences")
    return [a_text(one, f"stop_sequences.{i}") for i, one in enumerate(sequences)] or None


def _user_id(value: Any) -> str | None:
    """The user, as a digest if the name is longer than OpenAI takes: agents send long ones."""
    metadata = an_object({} if value is None else value, "metadata")
    only(metadata, {"user_id"}, "metadata")
    if not given(metadata, "user_id"):
        return None
    user_id = a_text(metadata["user_id"], "metadata.user_id")
    if len(user_id) <= MAX_USER_LENGTH:
        return user_id
    return hashlib.sha256(user_id.encode("utf-8", "surrogatepass")).hexdigest()


def _service_tier(value: Any) -> str | None:
    if value is not None and (not isinstance(value, str) or value not in TIERS):
        raise UnsupportedParameter("service_tier")
    return None if value is None else TIERS[value]


def _effort(body: Mapping[str, Any]) -> str | None:
    """How much to reason: the effort that is named, else by the budget for thinking."""
    config = an_object(body.get("output_config") or {}, "output_config")
    only(config, {"effort", "format"}, "output_config")
    effort = config.get("effort")
    if effort is not None and (not isinstance(effort, str) or effort not in EFFORTS):
        raise wrong("output_config.effort", ", ".join(sorted(EFFORTS)))
    thinking = an_object(body.get("thinking") or {}, "thinking")
    budget = an_integer(thinking.get("budget_tokens"), "thinking.budget_tokens")
    if thinking.get("type") == "disabled":
        return None
    if effort is None and budget is not None:
        return next(effort for least, effort in BUDGETS if budget >= least or not least)
    return effort


def _format(body: Mapping[str, Any]) -> dict[str, Any] | None:
    config = body.get("output_config") or {}
    name = "output_config.format" if given(config, "format") else "output_format"
    value = config.get("format") or body.get("output_format")
    if value is None:
        return None
    wanted = an_object(value, name)
    if wanted.get("type") != "json_schema":
        raise UnsupportedParameter(f"{name}.type")
    schema = an_object(wanted.get("schema"), f"{name}.schema")
    described: dict[str, Any] = {"name": "answer", "schema": schema}
    if is_strict(schema):
        described["strict"] = True
    return {"type": "json_schema", "json_schema": described}


def _context_management(value: Any) -> None:
    """Clearing old thinking changes nothing here: no thinking is carried over."""
    edits = an_object({} if value is None else value, "context_management").get("edits")
    for position, edit in enumerate(a_list(edits or [], "context_management.edits")):
        kind = an_object(edit, f"context_management.edits.{position}").get("type")
        if not (isinstance(kind, str) and kind.startswith("clear_thinking")):
            raise UnsupportedParameter(f"context_management.edits.{position}.type")


def _tools(body: Mapping[str, Any]) -> dict[str, Any]:
    tools = [
        _tool(an_object(tool, f"tools.{position}"), f"tools.{position}")
        for position, tool in enumerate(a_list(body.get("tools") or [], "tools"))
    ]
    choice = an_object(body.get("tool_choice") or {}, "tool_choice")
    only(choice, {"type", "name", "disable_parallel_tool_use"}, "tool_choice")
    path = "tool_choice.disable_parallel_tool_use"
    alone = a_flag(choice.get("disable_parallel_tool_use"), path, False)
    if not tools:
        return {}
    translated: dict[str, Any] = {"tools": tools}
    if alone:
        translated["parallel_tool_calls"] = False
    kind = choice.get("type")
    if kind == "tool":
        name = _short_name(a_text(choice.get("name"), "tool_choice.name", empty=False))
        translated["tool_choice"] = {"type": "function", "function": {"name": name}}
    elif kind is not None:
        if not isinstance(kind, str) or kind not in CHOICES:
            raise wrong("tool_choice.type", "auto, any, none or tool")
        translated["tool_choice"] = CHOICES[kind]
    return translated


def _tool(tool: Mapping[str, Any], path: str) -> dict[str, Any]:
    """A tool of the client's. Those of Anthropic's, by their types, are nobody else's."""
    if tool.get("type") not in {None, "custom"}:
        raise UnsupportedParameter(f"{path}.type")
    known = {"type", "name", "description", "input_schema", "strict"} | IGNORED_OF_TOOLS
    only(tool, known, path, NEUTRAL_OF_TOOLS)
    name = a_text(tool.get("name"), f"{path}.name", empty=False)
    function: dict[str, Any] = {"name": _short_name(name)}
    if given(tool, "description"):
        function["description"] = a_text(tool["description"], f"{path}.description")
    function["parameters"] = an_object(tool.get("input_schema"), f"{path}.input_schema")
    if a_flag(tool.get("strict"), f"{path}.strict", False):
        function["strict"] = True
    return {"type": "function", "function": function}


# -- messages --


def _system(value: Any) -> list[dict[str, Any]]:
    text = value if isinstance(value, str) else _joined(value or [], "system", ATTRIBUTION)
    return [{"role": "system", "content": text}] if text.strip() else []


def _messages(value: Any) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    for position, entry in enumerate(a_list(value, "messages", empty=False)):
        path = f"messages.{position}"
        message = an_object(entry, path)
        only(message, {"role", "content"}, path)
        role, content = message.get("role"), message.get("content")
        if role == "user":
            messages += _user(content, f"{path}.content")
        elif role == "assistant":
            messages.append(_assistant(content, f"{path}.content"))
        elif role == "system":
            text = content if isinstance(content, str) else _joined(content, f"{path}.content")
            messages.append({"role": "system", "content": text})
        else:
            raise wrong(f"{path}.role", "user, assistant or system")
    if messages[-1]["role"] == "assistant":
        raise UnsupportedParameter(
            f"{path}.role", "This model does not continue a message: the last must be the user's."
        )
    return messages


def _user(content: Any, path: str) -> list[dict[str, Any]]:
    """The results of tools as messages of their own, then all else that the user says."""
    if isinstance(content, str):
        return [{"role": "user", "content": content}]
    results, parts = [], []
    for position, value in enumerate(a_list(content, path, empty=False)):
        block, place = an_object(value, f"{path}.{position}"), f"{path}.{position}"
        if block.get("type") == "tool_result":
            text, media = _result(block, place)
            id_ = a_text(block.get("tool_use_id"), f"{place}.tool_use_id", empty=False)
            results.append({"role": "tool", "tool_call_id": id_, "content": text})
            parts += media
        else:
            parts += _parts(block, place)
    if not parts:
        return results
    return [*results, {"role": "user", "content": _short(parts)}]


def _result(block: Mapping[str, Any], path: str) -> tuple[str, list[dict[str, Any]]]:
    """The text of a tool's result, and its images and files, which tool messages cannot hold."""
    only(block, {"type", "tool_use_id", "content", "is_error", "cache_control"}, path)
    content = block.get("content")
    texts, media = [], []
    if isinstance(content, str):
        texts.append(content)
    else:
        for position, value in enumerate(a_list(content or [], f"{path}.content")):
            for part in _parts(an_object(value, place := f"{path}.content.{position}"), place):
                if part["type"] == "text":
                    texts.append(part["text"])
                else:
                    media.append(part)
    text = "\n\n".join(filter(None, texts)) or (SEE_BELOW if media else NO_CONTENT)
    failed = a_flag(block.get("is_error"), f"{path}.is_error", False)
    return f"{FAILED}{text}" if failed else text, media


def _assistant(content: Any, path: str) -> dict[str, Any]:
    """What the model said. Signed thinking is only for the model that signed it; servers that do
    not sign it want it back with the results of tools."""
    if isinstance(content, str):
        return {"role": "assistant", "content": content}
    texts, calls, thoughts = [], [], []
    for position, value in enumerate(a_list(content, path)):
        place = f"{path}.{position}"
        block = an_object(value, place)
        kind = block.get("type")
        if kind == "text":
            texts.append(a_text(block.get("text"), f"{place}.text"))
        elif kind == "tool_use":
            calls.append(_call(block, place))
        elif kind == "thinking":
            thinking = a_text(block.get("thinking"), f"{place}.thinking")
            thoughts.append("" if block.get("signature") else thinking)
        elif kind != "redacted_thinking":
            raise UnsupportedParameter(f"{place}.type")
    said: dict[str, Any] = {"role": "assistant", "content": "".join(texts) or None}
    if reasoning := "".join(thoughts):
        said["reasoning_content"] = reasoning
    if calls:
        return said | {"tool_calls": calls}
    return said | {"content": said["content"] or ""}


def _call(block: Mapping[str, Any], path: str) -> dict[str, Any]:
    only(
        block, {"type", "id", "name", "input", "cache_control"}, path,
        {"caller": {"type": "direct"}},
    )  # fmt: skip
    arguments = json.dumps(an_object(block.get("input"), f"{path}.input"), ensure_ascii=False)
    name = _short_name(a_text(block.get("name"), f"{path}.name", empty=False))
    return {
        "id": a_text(block.get("id"), f"{path}.id", empty=False),
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _parts(block: Mapping[str, Any], path: str) -> list[dict[str, Any]]:
    """The parts of a message of the user's that a block becomes."""
    kind = block.get("type")
    if kind == "text":
        only(block, {"type", "text", "cache_control"}, path, {"citations": []})
        return [_text(a_text(block.get("text"), f"{path}.text"))]
    if kind == "image":
        only(block, {"type", "source", "cache_control"}, path, {"transformations": {}})
        source = an_object(block.get("source"), f"{path}.source")
        return [{"type": "image_url", "image_url": {"url": _url(source, f"{path}.source")}}]
    if kind == "document":
        return _document(block, path)
    raise UnsupportedParameter(f"{path}.type")


def _document(block: Mapping[str, Any], path: str) -> list[dict[str, Any]]:
    known = {"type", "source", "title", "context", "cache_control"}
    only(block, known, path, {"citations": {"enabled": False}})
    title = a_text(block["title"], f"{path}.title") if given(block, "title") else None
    context = a_text(block["context"], f"{path}.context") if given(block, "context") else None
    words = [_text(context)] if context else []
    source = an_object(block.get("source"), f"{path}.source")
    kind, path = source.get("type"), f"{path}.source"
    if kind == "base64":
        file = {"filename": title or "document.pdf", "file_data": _url(source, path)}
        return [*words, {"type": "file", "file": file}]
    if kind == "text":
        text = a_text(source.get("data"), f"{path}.data")
    elif kind == "content" and isinstance(source.get("content"), str):
        text = source["content"]
    elif kind == "content":
        blocks = a_list(source.get("content"), f"{path}.content")
        parts = [
            part
            for i, one in enumerate(blocks)
            for part in _parts(an_object(one, f"{path}.content.{i}"), f"{path}.content.{i}")
        ]
        return [*words, *([_text(title)] if title else []), *parts]
    else:
        raise UnsupportedParameter(f"{path}.type")
    return [*words, _text(f"{title}\n\n{text}" if title else text)]


def _url(source: Mapping[str, Any], path: str) -> str:
    """The address of an image or a file: of its own, or with its data."""
    if source.get("type") == "url":
        return a_text(source.get("url"), f"{path}.url", empty=False)
    if source.get("type") != "base64":
        raise UnsupportedParameter(f"{path}.type")
    media_type = a_text(source.get("media_type"), f"{path}.media_type", empty=False)
    data = a_text(source.get("data"), f"{path}.data", empty=False)
    try:
        base64.b64decode(data, validate=True)
    except ValueError:
        raise wrong(f"{path}.data", "base64") from None
    return f"data:{media_type};base64,{data}"


def _joined(content: Any, path: str, left_out: str | None = None) -> str:
    """The joined texts of blocks that must all be texts, without those that begin so."""
    texts = []
    for position, value in enumerate(a_list(content, path)):
        block, place = an_object(value, f"{path}.{position}"), f"{path}.{position}"
        if block.get("type") != "text":
            raise UnsupportedParameter(f"{place}.type")
        text = a_text(block.get("text"), f"{place}.text")
        if left_out is None or not text.startswith(left_out):
            texts.append(text)
    return "\n\n".join(filter(None, texts))


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _short(parts: list[dict[str, Any]]) -> Any:
    """The text alone of a message that is nothing else."""
    [first, *others] = parts
    return first["text"] if not others and first["type"] == "text" else parts
