"""Translates a request of OpenAI's Responses to one of a chat completion."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
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
from webapp.providers.translation.responses_over_chat.reasoning import (
    UNSIGNED,
    extras_of,
    thinking_of,
)
from webapp.providers.translation.responses_over_chat.tools import (
    SEARCH,
    custom_arguments,
    found_tools,
    function_name,
    read_choice,
    tools_of,
)

CARRIED = {
    "include", "input", "instructions", "max_output_tokens", "parallel_tool_calls", "reasoning",
    "safety_identifier", "service_tier", "temperature", "text", "tool_choice", "tools",
    "top_logprobs", "top_p", "user",
}  # fmt: skip
# Without effect on the answer: what is for Weir (the caches of prompts, the form of the events),
# what the answer repeats, and limits of tools that run at OpenAI.
IGNORED = {
    "client_metadata", "max_tool_calls", "metadata", "prompt_cache_key", "prompt_cache_options",
    "prompt_cache_retention", "store", "stream_options",
}  # fmt: skip
NEUTRAL: dict[str, Any] = {
    "background": False,
    "context_management": [],
    "image": {"context_compression": "auto"},
    "stream": False,
    "truncation": "disabled",
}
INCLUDED_LOGPROBS = "message.output_text.logprobs"
# What belongs to tools that run at OpenAI, or is there in any case.
INCLUDED_ANYWAY = (
    "code_interpreter_call.outputs", "computer_call_output.output.image_url",
    "file_search_call.results", "message.input_image.image_url", "reasoning.encrypted_content",
    "web_search_call.action.sources", "web_search_call.results",
)  # fmt: skip
# Of the reasoning: how it is told, which is up to the server.
IGNORED_OF_REASONING = {"effort", "generate_summary", "summary"}
NEUTRAL_OF_REASONING: dict[str, Any] = {"context": "auto", "mode": "standard"}
# Of items: what only names or describes them.
LABELS = {"id", "phase", "status", "type"}
NEUTRAL_OF_CALLS: dict[str, Any] = {"async": False, "caller": {"type": "direct"}}
# Marks for the caches of OpenAI's.
IGNORED_OF_PARTS = {"prompt_cache_breakpoint"}
DETAILS = {"low": "low", "high": "high", "original": "high"}
SYSTEM = ("system", "developer")
TEXT_PARTS = {
    "input_text", "output_text", "reasoning_text", "refusal", "summary_text", "text",
}  # fmt: skip
INVALID_ARGUMENTS = "invalid_arguments"  # of a call whose arguments are no object
SEE_BELOW = "(in the next message)"
NO_CONTENT = "(no content)"


def to_chat(body: Mapping[str, Any], model: str, *, claude: bool = False) -> dict[str, Any]:
    """The body of a chat completion, without `model`, `stream` and a limit on the output.

    What another model than `model` sent with its calls does not go back.
    For a `claude`, thinking goes back with its signature, images are in the results of tools, and
    a request with a key for the cache is marked for it, as OpenAI caches unasked. Claude knows no
    detail of images. Raises UnsupportedParameter for what cannot be carried over or is malformed.
    """
    only(body, CARRIED | IGNORED, "", NEUTRAL)
    messages = _Messages(model, claude=claude)
    messages.read(body.get("instructions"), body.get("input"))
    translated: dict[str, Any] = {
        "messages": messages.all(),
        "temperature": a_number(body.get("temperature"), "temperature"),
        "top_p": a_number(body.get("top_p"), "top_p"),
        "user": _user(body),
        "service_tier": _service_tier(body.get("service_tier")),
        "reasoning_effort": _effort(body.get("reasoning")),
        **_text_options(body.get("text"), claude=claude),
        **_logprobs(body),
        **_tools(body),
    }
    if claude and body.get("prompt_cache_key"):
        translated["cache_control"] = {"type": "ephemeral"}
    return {name: value for name, value in translated.items() if value is not None}


def max_tokens_of(body: Mapping[str, Any]) -> int | None:
    """The limit on the output."""
    limit = an_integer(body.get("max_output_tokens"), "max_output_tokens")
    if limit is not None and limit < 1:
        raise wrong("max_output_tokens", "a whole number from 1 on")
    return limit


def _user(body: Mapping[str, Any]) -> str | None:
    name = "safety_identifier" if given(body, "safety_identifier") else "user"
    return a_text(body[name], name) if given(body, name) else None


def _service_tier(value: Any) -> str | None:
    tier = None if value is None else a_text(value, "service_tier", empty=False)
    return None if tier == "auto" else tier


def _effort(value: Any) -> str | None:
    reasoning = an_object({} if value is None else value, "reasoning")
    only(reasoning, IGNORED_OF_REASONING, "reasoning", NEUTRAL_OF_REASONING)
    effort = reasoning.get("effort")
    return None if effort is None else a_text(effort, "reasoning.effort", empty=False)


def _text_options(value: Any, *, claude: bool) -> dict[str, Any]:
    """`response_format` and `verbosity`, which is medium without any, and nothing at a Claude."""
    options = an_object({} if value is None else value, "text")
    only(options, {"format", "verbosity"}, "text")
    verbosity = options.get("verbosity")
    if verbosity not in (None, "low", "medium", "high"):
        raise wrong("text.verbosity", "low, medium or high")
    return {
        "response_format": _format(options.get("format")),
        "verbosity": None if claude or verbosity == "medium" else verbosity,
    }


def _format(value: Any) -> dict[str, Any] | None:
    if value is None or value == {"type": "text"}:
        return None
    path = "text.format"
    wanted = an_object(value, path)
    if wanted.get("type") == "json_object":
        only(wanted, {"type"}, path)
        return {"type": "json_object"}
    if wanted.get("type") != "json_schema":
        raise UnsupportedParameter(f"{path}.type")
    only(wanted, {"type", "name", "description", "schema", "strict"}, path)
    described: dict[str, Any] = {"name": a_text(wanted.get("name"), f"{path}.name", empty=False)}
    if given(wanted, "description"):
        described["description"] = a_text(wanted["description"], f"{path}.description")
    described["schema"] = an_object(wanted.get("schema"), f"{path}.schema")
    if given(wanted, "strict"):
        described["strict"] = a_flag(wanted["strict"], f"{path}.strict", False)
    return {"type": "json_schema", "json_schema": described}


def _logprobs(body: Mapping[str, Any]) -> dict[str, Any]:
    included = a_list([] if body.get("include") is None else body["include"], "include")
    for position, name in enumerate(included):
        if name != INCLUDED_LOGPROBS and name not in INCLUDED_ANYWAY:
            raise UnsupportedParameter(f"include[{position}]")
    top = an_integer(body.get("top_logprobs"), "top_logprobs")
    if not top and INCLUDED_LOGPROBS not in included:
        return {}
    return {"logprobs": True, "top_logprobs": top}


def _tools(body: Mapping[str, Any]) -> dict[str, Any]:
    tools = tools_of(body)
    choice, allowed = read_choice(body.get("tool_choice"), tools)
    parallel = a_flag(body.get("parallel_tool_calls"), "parallel_tool_calls", True)
    if not allowed:
        return {}
    return {
        "tools": [{"type": "function", "function": tool.function} for tool in allowed.values()],
        "tool_choice": choice,
        "parallel_tool_calls": None if parallel else False,
    }


# -- messages --


@dataclass(slots=True)
class _Turn:
    """What the model said and called, and the results of its calls."""

    texts: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    thoughts: list[dict[str, Any]] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)
    media: list[dict[str, Any]] = field(default_factory=list)

    def messages(self) -> list[dict[str, Any]]:
        """The results follow the calls, whatever came between: servers take no other order."""
        text = "\n\n".join(filter(None, self.texts))
        if not (text or self.calls):
            return []
        said: dict[str, Any] = {"role": "assistant", "content": text or None}
        if self.reasoning:
            said["reasoning_content"] = "\n\n".join(self.reasoning)
        if self.thoughts:
            said["thinking_blocks"] = self.thoughts
        if self.calls:
            said["tool_calls"] = self.calls
        media = [{"role": "user", "content": self.media}] if self.media else []
        return [said, *self.results, *media]


class _Messages:
    """The messages that the items of the input become.

    What the model said and called in a row is one message. All system messages are one, at the
    start: many models take no other.
    """

    def __init__(self, model: str, *, claude: bool) -> None:
        self._model = model
        self._claude = claude
        self._extras: dict[str, Any] = {}  # what the model sent with its calls, by their ids
        self._system: list[str] = []
        self._said: list[dict[str, Any] | _Turn] = []
        self._turn: _Turn | None = None  # the one that still grows
        self._callers: dict[str, _Turn] = {}  # by the ids of their calls

    def all(self) -> list[dict[str, Any]]:
        system = "\n\n".join(filter(str.strip, self._system))
        messages = [{"role": "system", "content": system}] if system else []
        for said in self._said:
            messages += said.messages() if isinstance(said, _Turn) else [said]
        return messages

    def read(self, instructions: Any, items: Any) -> None:
        if instructions is not None:
            self._system.append(a_text(instructions, "instructions"))
        if isinstance(items, str):
            self._said.append({"role": "user", "content": items})
            return
        for position, entry in enumerate(a_list(items, "input", empty=False)):
            self._item(an_object(entry, f"input[{position}]"), f"input[{position}]")

    def _item(self, item: Mapping[str, Any], path: str) -> None:
        kind = item.get("type")
        if kind == "message" or (kind is None and "role" in item):
            self._message(item, path)
        elif kind == "reasoning":
            self._reasoning(item, path)
        elif kind in ("function_call", "custom_tool_call"):
            self._call(item, path)
        elif kind in ("function_call_output", "custom_tool_call_output"):
            self._result(item, path)
        elif kind == "tool_search_call":
            self._search(item, path)
        elif kind == "tool_search_output":
            only(item, {"call_id", "execution", "tools"} | LABELS, path)
            self._add_result(item, path, [_text(found_tools(item))])
        elif kind == "additional_tools":
            only(item, {"role", "tools"} | LABELS, path)
        else:
            raise UnsupportedParameter(f"{path}.type")

    def _message(self, item: Mapping[str, Any], path: str) -> None:
        only(item, {"role", "content"} | LABELS, path)
        role, content = item.get("role"), item.get("content")
        if role == "user":
            self._turn = None
            parts = self._parts(content, f"{path}.content")
            self._said.append({"role": "user", "content": _short(parts)})
        elif role == "assistant":
            self._grown().texts.append("".join(_texts(content, f"{path}.content")))
        elif role in SYSTEM:
            self._system += _texts(content, f"{path}.content")
        else:
            raise wrong(f"{path}.role", "user, assistant, system or developer")

    def _reasoning(self, item: Mapping[str, Any], path: str) -> None:
        """Reasoning that is signed or encrypted is only for who made it; servers that do neither
        want it back with the results of tools."""
        only(item, {"summary", "content", "encrypted_content"} | LABELS, path)
        encrypted = item.get("encrypted_content")
        self._extras |= extras_of(encrypted, self._model)
        if block := thinking_of(encrypted) if self._claude else None:
            self._grown().thoughts.append(block)
        if encrypted in (None, "", UNSIGNED):
            told = [
                text
                for name in ("content", "summary")
                for text in _texts(item.get(name) or [], f"{path}.{name}")
            ]
            self._grown().reasoning += told

    def _call(self, item: Mapping[str, Any], path: str) -> None:
        custom = item["type"] == "custom_tool_call"
        given_as = "input" if custom else "arguments"
        known = {"call_id", "name", "namespace", given_as} | LABELS
        only(item, known, path, NEUTRAL_OF_CALLS)
        text = a_text(item.get(given_as), f"{path}.{given_as}")
        name = a_text(item.get("name"), f"{path}.name", empty=False)
        space = item.get("namespace")
        space = None if space is None else a_text(space, f"{path}.namespace")
        function = {
            "name": function_name(name, space),
            "arguments": custom_arguments(text) if custom else object_arguments(text),
        }
        self._add_call(item, path, function)

    def _search(self, item: Mapping[str, Any], path: str) -> None:
        only(item, {"call_id", "arguments"} | LABELS, path, {"execution": "client"})
        arguments = an_object(item.get("arguments"), f"{path}.arguments")
        text = json.dumps(arguments, ensure_ascii=False)
        self._add_call(item, path, {"name": SEARCH, "arguments": text})

    def _add_call(self, item: Mapping[str, Any], path: str, function: dict[str, Any]) -> None:
        id_ = a_text(item.get("call_id"), f"{path}.call_id", empty=False)
        turn = self._callers[id_] = self._grown()
        call = {"id": id_, "type": "function", "function": function}
        if id_ in self._extras:
            call["extra_content"] = self._extras[id_]
        turn.calls.append(call)

    def _result(self, item: Mapping[str, Any], path: str) -> None:
        known = {"call_id", "output", "name", "namespace"} | LABELS
        only(item, known, path, NEUTRAL_OF_CALLS)
        self._add_result(item, path, self._parts(item.get("output"), f"{path}.output"))

    def _add_result(self, item: Mapping[str, Any], path: str, parts: list[dict[str, Any]]) -> None:
        id_ = a_text(item.get("call_id"), f"{path}.call_id", empty=False)
        turn = self._callers.get(id_)
        if turn is None:
            raise wrong(f"{path}.call_id", "the call_id of a call before it")
        media = [part for part in parts if part["type"] != "text"]
        text = "\n\n".join(part["text"] for part in parts if part["type"] == "text")
        content: Any = text or (SEE_BELOW if media else NO_CONTENT)
        if media and self._claude:
            content = parts
        else:
            turn.media += media  # which messages of tools cannot hold
        turn.results.append({"role": "tool", "tool_call_id": id_, "content": content})

    def _grown(self) -> _Turn:
        """The turn of the model. What comes after the result of a call begins another."""
        if self._turn is None or self._turn.results:
            self._turn = _Turn()
            self._said.append(self._turn)
        return self._turn

    def _parts(self, content: Any, path: str) -> list[dict[str, Any]]:
        if isinstance(content, str):
            return [_text(content)]
        parts = a_list(content, path)
        return [
            self._part(an_object(part, f"{path}[{i}]"), f"{path}[{i}]")
            for i, part in enumerate(parts)
        ]

    def _part(self, part: Mapping[str, Any], path: str) -> dict[str, Any]:
        kind = part.get("type")
        if kind in ("input_text", "output_text", "text"):
            return _text(_text_of(part, path))
        if kind == "input_image":
            only(part, {"type", "image_url", "detail"} | IGNORED_OF_PARTS, path)
            image = {"url": a_text(part.get("image_url"), f"{path}.image_url", empty=False)}
            detail = part.get("detail")
            if detail not in (None, "auto", *DETAILS):
                raise wrong(f"{path}.detail", f"auto, {', '.join(DETAILS)}")
            if not self._claude and detail and detail != "auto":
                image["detail"] = DETAILS[detail]
            return {"type": "image_url", "image_url": image}
        if kind == "input_file":
            known = {"type", "file_data", "filename"} | IGNORED_OF_PARTS
            only(part, known, path, {"detail": "auto"})
            file = {"file_data": a_text(part.get("file_data"), f"{path}.file_data", empty=False)}
            if given(part, "filename"):
                file["filename"] = a_text(part["filename"], f"{path}.filename")
            return {"type": "file", "file": file}
        raise UnsupportedParameter(f"{path}.type")


def object_arguments(text: str) -> str:
    """The arguments of a call. Models may get them wrong: servers refuse what is no object."""
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict):
        return text or "{}"
    return json.dumps({INVALID_ARGUMENTS: text}, ensure_ascii=False)


def _texts(content: Any, path: str) -> list[str]:
    """The texts of content that must be text."""
    if isinstance(content, str):
        return [content]
    parts = enumerate(a_list(content, path))
    return [_text_of(an_object(part, f"{path}[{i}]"), f"{path}[{i}]") for i, part in parts]


def _text_of(part: Mapping[str, Any], path: str) -> str:
    kind = part.get("type")
    if not isinstance(kind, str) or kind not in TEXT_PARTS:
        raise UnsupportedParameter(f"{path}.type")
    name = "refusal" if kind == "refusal" else "text"
    only(part, {"type", name, "annotations", "logprobs"} | IGNORED_OF_PARTS, path)
    return a_text(part.get(name), f"{path}.{name}")


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _short(parts: list[dict[str, Any]]) -> Any:
    """The text alone of a message that is nothing else."""
    [first, *others] = parts or [_text("")]
    return first["text"] if not others and first["type"] == "text" else parts
