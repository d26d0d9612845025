"""The tools of a request of Responses, as the functions that stand for them in a chat completion.

Servers of chat completions know functions alone. A custom tool becomes a function whose only
argument is the text of its input. The tools of a namespace become functions whose names begin with
its name. A search for tools that the client runs becomes a function, too, and what it finds is
among the tools from then on. All are told back as what they were.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from webapp.errors import UnsupportedParameter
from webapp.providers.translation.fields import (
    a_flag,
    a_list,
    a_text,
    an_object,
    given,
    only,
    wrong,
)

MAX_NAME_LENGTH = 64  # of OpenAI's
INPUT = "input"  # the argument of a function that stands for a custom tool
WITHOUT_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}
NEUTRAL: dict[str, Any] = {"allowed_callers": ["direct"], "async": False}
# What programs expect of a result, which no model sees; and that a tool must be searched for first.
IGNORED = {"output_schema", "defer_loading"}
CHOICES = ("auto", "none", "required")
SEARCH = "tool_search"
FOUND_IN = ("tool_search_output", "additional_tools")


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool of the client's, and the function that stands for it."""

    kind: Literal["function", "custom", "tool_search"]
    name: str
    namespace: str | None
    function: dict[str, Any]

    def matches(self, named: Mapping[str, Any]) -> bool:
        """Whether this tool is named by an entry of `tool_choice`."""
        kind, name, namespace = (named.get(key) for key in ("type", "name", "namespace"))
        return (kind, name) == (self.kind, self.name) and namespace in {None, self.namespace}


def tools_of(body: Mapping[str, Any]) -> dict[str, Tool]:
    """All tools of a request, by the names of their functions. Raises UnsupportedParameter, also
    for tools that run at OpenAI."""
    tools: dict[str, Tool] = {}
    for tool, path in _listed(body.get("tools"), "tools"):
        if tool.function["name"] in tools:
            raise wrong(path, "unlike the other tools by its name")
        tools[tool.function["name"]] = tool
    items = body.get("input")
    for position, item in enumerate(items if isinstance(items, list) else []):
        if isinstance(item, Mapping) and item.get("type") in FOUND_IN:
            found = _listed(item.get("tools"), f"input[{position}].tools")
            tools |= {tool.function["name"]: tool for tool, _ in found}
    return tools


def found_tools(item: Mapping[str, Any]) -> str:
    """What the model is told of the tools that a search has found."""
    tools = [tool.function for tool, _ in _listed(item.get("tools"), "tools")]
    told = [{key: tool[key] for key in ("name", "description") if key in tool} for tool in tools]
    return json.dumps({"tools": told}, ensure_ascii=False)


def read_choice(value: Any, tools: Mapping[str, Tool]) -> tuple[Any, dict[str, Tool]]:
    """The `tool_choice` of a chat completion, and the tools that may be called."""
    allowed = dict(tools)
    if value is None or isinstance(value, str):
        if value is not None and value not in CHOICES:
            raise wrong("tool_choice", "auto, none, required or an object")
        if value == "required" and not tools:
            raise UnsupportedParameter("tool_choice", "tool_choice requires a tool.")
        return (value if tools else None), allowed
    choice = an_object(value, "tool_choice")
    kind = choice.get("type")
    if kind == "allowed_tools":
        only(choice, {"type", "mode", "tools"}, "tool_choice")
        if choice.get("mode") not in ("auto", "required"):
            raise wrong("tool_choice.mode", "auto or required")
        named = a_list(choice.get("tools"), "tool_choice.tools", empty=False)
        names = {_named(one, f"tool_choice.tools[{i}]", tools) for i, one in enumerate(named)}
        return choice["mode"], {name: tool for name, tool in tools.items() if name in names}
    if kind not in ("function", "custom"):
        raise UnsupportedParameter("tool_choice.type")
    name = _named(choice, "tool_choice", tools)
    return {"type": "function", "function": {"name": name}}, allowed


def function_name(name: str, namespace: str | None) -> str:
    """The name of the function that stands for a tool."""
    if not namespace:
        return name
    joined = f"{namespace.rstrip('_')}__{name}"
    if len(joined) <= MAX_NAME_LENGTH:
        return joined
    digest = hashlib.sha256(joined.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{joined[: MAX_NAME_LENGTH - 9]}_{digest}"


def custom_arguments(text: str) -> str:
    """The arguments of a call of a custom tool."""
    return json.dumps({INPUT: text}, ensure_ascii=False)


def custom_input(arguments: str) -> str:
    """The input of a call of a custom tool. Models may also send it as it is, or under another
    name."""
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    if not isinstance(value, dict):
        return arguments
    texts = [text for text in value.values() if isinstance(text, str)]
    text = value.get(INPUT, texts[0] if len(texts) == len(value) == 1 else None)
    return text if isinstance(text, str) else arguments


def _listed(value: Any, path: str) -> Iterator[tuple[Tool, str]]:
    """The tools of a list, each with its path."""
    for position, entry in enumerate(a_list([] if value is None else value, path)):
        place = f"{path}[{position}]"
        for tool in _read(an_object(entry, place), place):
            yield tool, place


def _read(tool: Mapping[str, Any], path: str, namespace: str | None = None) -> Iterator[Tool]:
    kind = tool.get("type")
    if kind == "function":
        yield _function(tool, path, namespace)
    elif kind == "custom":
        yield _custom(tool, path, namespace)
    elif kind == "namespace" and namespace is None:
        only(tool, {"type", "name", "description", "tools"}, path)
        name = a_text(tool.get("name"), f"{path}.name", empty=False)
        for position, entry in enumerate(a_list(tool.get("tools"), f"{path}.tools")):
            place = f"{path}.tools[{position}]"
            yield from _read(an_object(entry, place), place, name)
    elif kind == SEARCH and tool.get("execution") == "client":
        yield _search(tool, path)
    else:
        raise UnsupportedParameter(
            f"{path}.type", f"The provider of this model has no tool {kind!r} ({path}.type)."
        )


def _function(tool: Mapping[str, Any], path: str, namespace: str | None) -> Tool:
    known = {"type", "name", "description", "parameters", "strict"} | IGNORED
    only(tool, known, path, NEUTRAL)
    name = a_text(tool.get("name"), f"{path}.name", empty=False)
    function: dict[str, Any] = {"name": function_name(name, namespace)}
    if given(tool, "description"):
        function["description"] = a_text(tool["description"], f"{path}.description")
    parameters = an_object(tool.get("parameters") or WITHOUT_PARAMETERS, f"{path}.parameters")
    function["parameters"] = {"type": "object", **parameters}
    if a_flag(tool.get("strict"), f"{path}.strict", False):
        function["strict"] = True
    return Tool("function", name, namespace, function)


def _custom(tool: Mapping[str, Any], path: str, namespace: str | None) -> Tool:
    only(tool, {"type", "name", "description", "format"} | IGNORED, path, NEUTRAL)
    name = a_text(tool.get("name"), f"{path}.name", empty=False)
    described = [
        a_text(tool.get("description") or "", f"{path}.description"),
        f"Pass the whole text of the input, unchanged, as the string {INPUT!r}.",
        _grammar(tool.get("format"), f"{path}.format"),
    ]
    parameters = {
        "type": "object",
        "properties": {INPUT: {"type": "string", "description": "The whole text of the input"}},
        "required": [INPUT],
        "additionalProperties": False,
    }
    function = {
        "name": function_name(name, namespace),
        "description": "\n\n".join(filter(None, described)),
        "parameters": parameters,
    }
    return Tool("custom", name, namespace, function)


def _search(tool: Mapping[str, Any], path: str) -> Tool:
    only(tool, {"type", "execution", "description", "parameters"}, path)
    function = {
        "name": SEARCH,
        "description": a_text(tool.get("description") or "Search for tools", f"{path}.description"),
        "parameters": an_object(tool.get("parameters") or WITHOUT_PARAMETERS, f"{path}.parameters"),
    }
    return Tool("tool_search", SEARCH, None, function)


def _grammar(value: Any, path: str) -> str:
    """What the model is told of the format of a custom tool: no server of functions enforces it."""
    if value is None or value == {"type": "text"}:
        return ""
    wanted = an_object(value, path)
    if wanted.get("type") != "grammar":
        raise UnsupportedParameter(f"{path}.type")
    only(wanted, {"type", "syntax", "definition"}, path)
    syntax = a_text(wanted.get("syntax"), f"{path}.syntax")
    definition = a_text(wanted.get("definition"), f"{path}.definition")
    return f"The input must match this grammar ({syntax}):\n{definition}"


def _named(value: Any, path: str, tools: Mapping[str, Tool]) -> str:
    """The name of the function for a tool that is named in `tool_choice`."""
    named = an_object(value, path)
    if named.get("type") not in ("function", "custom"):
        raise UnsupportedParameter(f"{path}.type")
    only(named, {"type", "name", "namespace"}, path)
    for name, tool in tools.items():
        if tool.matches(named):
            return name
    raise wrong(f"{path}.name", "the name of one of the tools")
