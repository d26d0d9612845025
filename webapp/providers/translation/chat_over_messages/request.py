"""Translates the request of a chat completion to one of Anthropic's Messages."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from typing import Any

from webapp.errors import UnsupportedParameter
from webapp.llm.cost_ceiling import DEFAULT_MAX_OUTPUT_TOKENS
from webapp.providers.chat_request import (
    NEUTRAL,
    read_call,
    read_image,
    read_stop,
    read_stream_options,
    read_tool,
    read_tool_choice,
)
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
from webapp.providers.translation.schemas import closed

SUPPORTED = {
    "cache_control", "max_completion_tokens", "max_tokens", "messages", "parallel_tool_calls",
    "reasoning_effort", "response_format", "safety_identifier", "service_tier", "stop",
    "stream_options", "temperature", "thinking", "tool_choice", "tools", "top_k", "top_p", "user",
}  # fmt: skip
# Without effect on the answer: Weir itself keeps the requests of a conversation together.
IGNORED = {"prompt_cache_key", "prompt_cache_retention"}
# Fields of earlier answers, which clients send back. Reasoning without a signature is no input.
ECHOED = {"reasoning_content"}
ECHOED_NEUTRAL: dict[str, Any] = {"annotations": []}

EFFORTS = {
    "minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh",
    "max": "max",
}  # fmt: skip
# Models before Opus 4.6 think as long as they are told to, in tokens.
BUDGETED_MODEL = re.compile(
    r"claude-(?:[123]\b|(?:opus|sonnet|haiku)-4(?:-[0-5])?(?![\w.]|-\d\b))", re.IGNORECASE
)
BUDGETS = {"low": 1_024, "medium": 4_096, "high": 8_192, "xhigh": 16_384, "max": 32_768}
TIERS = {"auto": "auto", "default": "standard_only", "standard_only": "standard_only"}
THINKING = {"thinking", "redacted_thinking"}
NOT_IN_IDS = re.compile(r"[^a-zA-Z0-9_-]")
DATA_URL = re.compile(r"data:([\w.+/-]+)((?:;[\w=.+-]+)*?)(;base64)?,", re.IGNORECASE)


def to_messages(body: Mapping[str, Any], model: str, output_cap: int | None) -> dict[str, Any]:
    """The body of a request of Messages, without `model` and `stream`.

    `output_cap` is the limit on the output where the body sets none: Messages need one. Raises
    UnsupportedParameter for what cannot be carried over or is malformed.
    """
    system, messages = _messages(body.get("messages"))
    only(body, SUPPORTED | IGNORED, "", NEUTRAL | {"modalities": ["text"]})
    read_stream_options(body.get("stream_options"))
    max_tokens = _max_tokens(body) or output_cap or DEFAULT_MAX_OUTPUT_TOKENS
    translated: dict[str, Any] = {
        "max_tokens": max_tokens,
        "messages": messages,
        "system": system,
        "temperature": _sampling(body, "temperature"),
        "top_p": _sampling(body, "top_p"),
        "top_k": an_integer(body.get("top_k"), "top_k"),
        "stop_sequences": read_stop(body.get("stop")),
        "metadata": _metadata(body),
        "service_tier": _service_tier(body.get("service_tier")),
        "cache_control": _cache_control(body, ""),
        **_tools(body),
        **_reasoning(body, model, max_tokens, messages),
    }
    if output_format := _format(body.get("response_format")):
        translated["output_config"] = {
            **(translated.get("output_config") or {}), "format": output_format
        }  # fmt: skip
    return {name: value for name, value in translated.items() if value is not None}


def _max_tokens(body: Mapping[str, Any]) -> int | None:
    name = "max_completion_tokens" if given(body, "max_completion_tokens") else "max_tokens"
    return an_integer(body.get(name), name)


def _sampling(body: Mapping[str, Any], name: str) -> float | None:
    """Newer models take neither of them; 1 is what they mean without any."""
    value = a_number(body.get(name), name)
    return None if value == 1 else value


def _metadata(body: Mapping[str, Any]) -> dict[str, str] | None:
    name = "safety_identifier" if given(body, "safety_identifier") else "user"
    return {"user_id": a_text(body[name], name)} if given(body, name) else None


def _service_tier(value: Any) -> str | None:
    if value is not None and value not in TIERS:
        raise UnsupportedParameter("service_tier")
    return None if value is None else TIERS[value]


def _reasoning(
    body: Mapping[str, Any], model: str, max_tokens: int, messages: list[dict[str, Any]]
) -> dict[str, Any]:
    """`thinking` in Anthropic's own words, or what `reasoning_effort` means to this model."""
    if given(body, "thinking"):
        if given(body, "reasoning_effort"):
            raise UnsupportedParameter(
                "reasoning_effort", "reasoning_effort and thinking exclude each other."
            )
        return {"thinking": an_object(body["thinking"], "thinking")}
    effort = body.get("reasoning_effort")
    if effort is None:
        return {}
    if effort == "none":
        return {"thinking": {"type": "disabled"}}
    if not isinstance(effort, str) or effort not in EFFORTS:
        raise wrong("reasoning_effort", f"none, {', '.join(EFFORTS)}")
    effort = EFFORTS[effort]
    if not BUDGETED_MODEL.search(model):
        return {"thinking": {"type": "adaptive"}, "output_config": {"effort": effort}}
    if _has_called_without_thinking(messages):
        return {}
    if max_tokens <= BUDGETS["low"]:
        raise UnsupportedParameter(
            "reasoning_effort",
            f"This model thinks in at least {BUDGETS['low']} tokens: max_tokens must be more.",
        )
    budget = min(BUDGETS[effort], max_tokens - 1)
    return {"thinking": {"type": "enabled", "budget_tokens": budget}}


def _has_called_without_thinking(messages: list[dict[str, Any]]) -> bool:
    """Whether tools that answer now were called without thinking, which many clients do not send
    back. Models that think within a budget refuse to begin to think then."""
    for message in reversed(messages):
        blocks = message["content"] if isinstance(message["content"], list) else []
        kinds = [block["type"] for block in blocks]
        if message["role"] == "assistant":
            return "tool_use" in kinds and kinds[0] not in THINKING
        if "tool_result" not in kinds:
            return False
    return False


def _format(value: Any) -> dict[str, Any] | None:
    """The schema of the answer. `name` and `strict` have no counterpart: it is always followed."""
    if value is None or value == {"type": "text"}:
        return None
    wanted = an_object(value, "response_format")
    if wanted.get("type") != "json_schema":
        raise UnsupportedParameter("response_format")
    only(wanted, {"type", "json_schema"}, "response_format")
    path = "response_format.json_schema"
    described = an_object(wanted.get("json_schema"), path)
    only(described, {"name", "description", "schema", "strict"}, path)
    schema = closed(an_object(described.get("schema"), f"{path}.schema"))
    if given(described, "description"):
        schema.setdefault("description", a_text(described["description"], f"{path}.description"))
    return {"type": "json_schema", "schema": schema}


def _tools(body: Mapping[str, Any]) -> dict[str, Any]:
    tools, translated = [], []
    for position, value in enumerate(a_list(body.get("tools") or [], "tools")):
        path = f"tools.{position}"
        tool = dict(an_object(value, path))
        cache_control = _cache_control(tool, path)
        tool.pop("cache_control", None)
        tools.append(read_tool(tool, path))
        function = tools[-1]["function"]
        strict = a_flag(tool["function"].get("strict"), f"{path}.function.strict", False)
        translated.append(
            {
                "name": function["name"],
                **({"description": function["description"]} if "description" in function else {}),
                "input_schema": function["parameters"],
                **({"strict": True} if strict else {}),
                **({"cache_control": cache_control} if cache_control else {}),
            }
        )
    choice = read_tool_choice(body.get("tool_choice"), tools)
    parallel = a_flag(body.get("parallel_tool_calls"), "parallel_tool_calls", True)
    if not translated:
        return {}
    return {"tools": translated, "tool_choice": _tool_choice(choice, parallel=parallel)}


def _tool_choice(choice: str | None, *, parallel: bool) -> dict[str, Any] | None:
    if choice == "none":
        return {"type": "none"}
    if choice is None and parallel:
        return None
    named = choice in {None, "auto", "any"}
    translated: dict[str, Any] = (
        {"type": choice or "auto"} if named else {"type": "tool", "name": choice}
    )
    return translated if parallel else translated | {"disable_parallel_tool_use": True}


# -- messages --


def _messages(value: Any) -> tuple[Any, list[dict[str, Any]]]:
    """The system prompt, and the others; neighbours of the same role become one message."""
    system: list[dict[str, Any]] = []
    messages: list[dict[str, Any]] = []
    called: dict[str, str] = {}  # the names of the functions, by the ids of their calls
    for position, entry in enumerate(a_list(value, "messages", empty=False)):
        path = f"messages.{position}"
        message = an_object(entry, path)
        role = message.get("role")
        if role in ("system", "developer"):
            only(message, {"role", "content", "cache_control"}, path)
            system += _marked(_texts(message.get("content"), path), message, path)
            continue
        if role == "user":
            only(message, {"role", "content", "cache_control"}, path)
            blocks = _marked(_blocks(message.get("content"), path), message, path)
        elif role == "assistant":
            blocks = _marked(_assistant(message, path), message, path)
            called |= {b["id"]: b["name"] for b in blocks if b["type"] == "tool_use"}
        elif role == "tool":
            blocks = [_tool_result(message, path, called)]
        else:
            raise wrong(f"{path}.role", "system, developer, user, assistant or tool")
        if not blocks:
            continue  # an assistant that said nothing: Anthropic refuses such a message
        role = "assistant" if role == "assistant" else "user"
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += blocks
        else:
            messages.append({"role": role, "content": blocks})
    for message in messages:
        message["content"] = _short(message["content"])
    return _system(system), messages


def _system(blocks: list[dict[str, Any]]) -> Any:
    """One text, or blocks where one of them is marked for the cache."""
    blocks = [block for block in blocks if block["text"].strip()]
    if any(block.keys() - {"type", "text"} for block in blocks):
        return blocks
    return "\n\n".join(block["text"] for block in blocks) or None


def _short(blocks: list[dict[str, Any]]) -> Any:
    """The text alone of a message that is nothing else."""
    [first, *others] = blocks or [{}]
    return first["text"] if not others and first.keys() == {"type", "text"} else blocks


def _assistant(message: Mapping[str, Any], path: str) -> list[dict[str, Any]]:
    known = {"role", "content", "cache_control", "refusal", "thinking_blocks", "tool_calls"}
    only(message, known | ECHOED, path, ECHOED_NEUTRAL)
    thoughts = a_list(message.get("thinking_blocks") or [], f"{path}.thinking_blocks")
    blocks = [_thought(one, f"{path}.thinking_blocks.{i}") for i, one in enumerate(thoughts)]
    calls = a_list(message.get("tool_calls") or [], f"{path}.tool_calls")
    content = message.get("content")
    if content is not None or not (calls or given(message, "refusal")):
        blocks += [block for block in _texts(content, path) if block["text"].strip()]
    if given(message, "refusal"):
        blocks.append(_text(a_text(message["refusal"], f"{path}.refusal")))
    for position, value in enumerate(calls):
        call = read_call(value, path, position)
        function = call["function"]
        given_input = json.loads(function["arguments"])
        blocks.append(
            {
                "type": "tool_use",
                "id": _tool_id(call["id"]),
                "name": function["name"],
                "input": given_input,
            }
        )
    return blocks


def _thought(value: Any, path: str) -> dict[str, Any]:
    """A block of thinking of an earlier answer, which must be sent back as it was."""
    block = an_object(value, path)
    # Streams number them.
    unnumbered = {name: item for name, item in block.items() if name != "index"}
    if block.get("type") == "redacted_thinking":
        only(unnumbered, {"type", "data"}, path)
        a_text(block.get("data"), f"{path}.data")
    elif block.get("type") == "thinking":
        only(unnumbered, {"type", "thinking", "signature"}, path)
        a_text(block.get("thinking"), f"{path}.thinking")
        # Not all servers sign what they think.
        unnumbered["signature"] = a_text(block.get("signature") or "", f"{path}.signature")
    else:
        raise wrong(f"{path}.type", "thinking or redacted_thinking")
    return unnumbered


def _tool_result(
    message: Mapping[str, Any], path: str, called: Mapping[str, str]
) -> dict[str, Any]:
    only(message, {"role", "name", "content", "tool_call_id", "cache_control"}, path)
    id_ = _tool_id(a_text(message.get("tool_call_id"), f"{path}.tool_call_id", empty=False))
    # Many clients repeat the function's name, which the call's id already tells.
    if given(message, "name") and message["name"] != called.get(id_):
        raise wrong(f"{path}.name", "the name of the function that the call with this id names")
    content = _short(_blocks(message.get("content"), path))
    result = {"type": "tool_result", "tool_use_id": id_, "content": content}
    cache_control = _cache_control(message, path)
    return result | ({"cache_control": cache_control} if cache_control else {})


def _tool_id(id_: str) -> str:
    """The id of a call as Anthropic takes it: other models also use other characters."""
    return NOT_IN_IDS.sub(lambda found: f"_{ord(found[0]):x}_", id_)


def _texts(content: Any, path: str) -> list[dict[str, Any]]:
    """The blocks of content that must be text."""
    blocks = _blocks(content, path)
    for position, block in enumerate(blocks):
        if block["type"] != "text":
            raise UnsupportedParameter(f"{path}.content.{position}.type")
    return blocks


def _blocks(content: Any, path: str) -> list[dict[str, Any]]:
    path = f"{path}.content"
    if isinstance(content, str):
        return [_text(content)]
    parts = a_list(content, path, empty=False)
    blocks = [_part(part, f"{path}.{position}") for position, part in enumerate(parts)]
    # Anthropic refuses blank texts, which other models make and clients send back.
    return [block for block in blocks if block.get("text", "-").strip()] or blocks[:1]


def _part(value: Any, path: str) -> dict[str, Any]:
    part = an_object(value, path)
    kind = part.get("type")
    if kind in ("text", "refusal"):
        only(part, {"type", kind, "cache_control"}, path)
        block = _text(a_text(part.get(kind), f"{path}.{kind}"))
    elif kind == "image_url":
        only(part, {"type", "image_url", "cache_control"}, path)
        block = _image(read_image(part.get("image_url"), path)["url"])
    elif kind == "file":
        only(part, {"type", "file", "cache_control"}, path)
        block = _document(part.get("file"), f"{path}.file")
    else:
        raise UnsupportedParameter(f"{path}.type")
    cache_control = _cache_control(part, path)
    return block | ({"cache_control": cache_control} if cache_control else {})


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _image(url: str) -> dict[str, Any]:
    """An image whose URL has been read: `https:`, or `data:` in base64."""
    if head := DATA_URL.match(url):
        source = {"type": "base64", "media_type": head[1].lower(), "data": url[head.end() :]}
        return {"type": "image", "source": source}
    return {"type": "image", "source": {"type": "url", "url": url}}


def _document(value: Any, path: str) -> dict[str, Any]:
    """A PDF or a plain text, in a data: URL."""
    file = an_object(value, path)
    only(file, {"file_data", "filename"}, path)
    data = a_text(file.get("file_data"), f"{path}.file_data")
    head = DATA_URL.match(data)
    kind = head[1].lower() if head and head[3] else None
    try:
        if kind == "application/pdf":
            encoded = data[head.end() :] if head else ""
            base64.b64decode(encoded, validate=True)
            source = {"type": "base64", "media_type": kind, "data": encoded}
        elif kind == "text/plain":
            text = base64.b64decode(data[head.end() :] if head else "", validate=True).decode()
            source = {"type": "text", "media_type": kind, "data": text}
        else:
            raise ValueError
    except ValueError:
        raise wrong(
            f"{path}.file_data", "a data: URL with a base64 application/pdf or text/plain"
        ) from None
    block: dict[str, Any] = {"type": "document", "source": source}
    if given(file, "filename"):
        block["title"] = a_text(file["filename"], f"{path}.filename")
    return block


def _marked(
    blocks: list[dict[str, Any]], message: Mapping[str, Any], path: str
) -> list[dict[str, Any]]:
    """The blocks, with the message's own mark for the cache on the last one."""
    cache_control = _cache_control(message, path)
    if cache_control and blocks:
        blocks[-1] = {**blocks[-1], "cache_control": cache_control}
    return blocks


def _cache_control(value: Mapping[str, Any], path: str) -> Mapping[str, Any] | None:
    if not given(value, "cache_control"):
        return None
    return an_object(value["cache_control"], f"{path}.cache_control".lstrip("."))
