"""What of a request decides about its price: its input, and what it asks the provider to do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from webapp.errors import MalformedRequest
from webapp.llm.tokens import byte_length

# What prompt templates add by themselves: to a request, to each message, and for tools.
TOKENS_PER_REQUEST = 64
TOKENS_PER_MESSAGE = 16
TOKENS_OF_TOOLS = 1_000
TOKENS_PER_VALUE = 8  # a number, a truth value, null
# The most that any provider charges for an image of any size, and for one in low detail.
TOKENS_PER_IMAGE = 50_000
TOKENS_PER_LOW_DETAIL_IMAGE = 5_000

REFERENCE = re.compile(r"(?:https?|gs|s3|ftp|file)://\S*", re.IGNORECASE)
DATA_URL = re.compile(r"data:([\w.+-]+)/", re.IGNORECASE)

# Parameters that no model reads as text.
PARAMETERS = {
    "audio", "best_of", "dimensions", "encoding_format", "frequency_penalty", "include",
    "input_type", "logit_bias", "logprobs", "max_completion_tokens", "max_new_tokens",
    "max_output_tokens", "max_tokens", "max_tool_calls", "metadata", "modalities", "n",
    "n_predict", "num_predict", "parallel_tool_calls", "presence_penalty",
    "prompt_cache_retention", "reasoning_effort", "safety_identifier", "seed", "service_tier",
    "stop", "stop_sequences", "store", "stream_options", "temperature", "top_k", "top_logprobs",
    "top_p", "truncation", "user", "verbosity",
}  # fmt: skip
# Fields that refer to input on the provider's side, or that make any amount of it.
HIDDEN_FIELDS = {
    "cached_content", "chat_template", "conversation", "file_ids", "previous_response_id",
    "thread_id",
}  # fmt: skip
# Fields that let the provider do more than generate, or use another model than the one named.
SERVICES = {
    "container", "enable_search", "fallbacks", "mcp_servers", "models", "plugins",
    "search_parameters",
}  # fmt: skip
# Parameters with a price of their own, and the values that have none, or one of a service tier.
SURCHARGED = {"inference_geo": {None, "global", "us"}, "speed": {None, "standard"}}
# The beginnings of the types of tools that the client runs itself.
CLIENT_TOOLS = (
    "apply_patch", "bash", "browser_toolset", "computer", "custom", "function", "local_shell",
    "memory", "shell", "text_editor",
)  # fmt: skip
# The beginnings of the types of tools that the provider runs for no more than their tokens.
TOOLS_WITHOUT_FEE = ("tool_search", "web_fetch")
# The types of content that are text. All others are media.
TEXT_TYPES = re.compile(
    r"custom|function|json|message|reasoning[\w.]*|redacted_thinking|refusal|thinking|tool_reference"
    r"|(?:\w+_)?(?:call|call_output|citation|location|output|result|text|use)"
)
# Fields that hold media even where the content does not say its type.
MEDIA_FIELDS = {
    "audio", "audio_url", "file", "file_data", "fileData", "file_id", "file_url", "image",
    "image_url", "inline_data", "inlineData", "input_audio", "input_image", "input_video", "video",
    "video_url",
}  # fmt: skip
# Fields whose value may be an object where it should be its JSON text.
ARGUMENTS = {"arguments", "input"}
# Fields of JSON schemas, whose addresses nobody reads.
SCHEMAS = {"functions", "output_config", "output_format", "response_format", "text", "tools"}
# Fields of media: identifiers of what the provider has, data, and words about it.
IDENTIFIERS = {"asset_id", "file_id", "file_uri", "fileUri", "id"}
REFERRING = HIDDEN_FIELDS | IDENTIFIERS - {"id"}  # in fields that Weir does not know
DATA = {"b64_json", "base64", "bytes", "data"}
WORDS = {
    "context", "detail", "filename", "format", "media_type", "mime_type", "mimeType", "name",
    "text", "title", "ttl", "type",
}  # fmt: skip
# The fields of ordinary messages and their parts, among the tokens of their message.
ORDINARY_FIELDS = MEDIA_FIELDS | DATA | WORDS | {
    "annotations", "arguments", "cache_control", "call_id", "content", "custom", "function",
    "function_call", "id", "index", "input", "is_error", "output", "reasoning",
    "reasoning_content", "reasoning_details", "refusal", "role", "signature", "source", "status",
    "summary", "thinking", "tool_call_id", "tool_calls", "tool_use_id", "url",
}  # fmt: skip
NAME_OF_FIELD = "(name)"


@dataclass(slots=True)
class RequestInput:
    """The input of a request's body. The paths are None where there is no such field.

    `texts` are all its strings; `tokens` the most that everything else takes, except files and
    videos: their size (`file_size`) does not limit their tokens. `audio_tokens` and `image_tokens`
    are parts of `tokens`. `predicted_tokens` are charged as output where they do not match.
    """

    texts: list[str] = field(default_factory=list)
    tokens: int = 0
    audio_tokens: int = 0
    image_tokens: int = 0
    file_size: int = 0
    predicted_tokens: int = 0
    searches: int = 0
    """The most web searches that the provider makes for it."""
    hidden: str | None = None
    """The path of input that only the provider sees."""
    references: int = 0
    """How many parts of the input are such."""
    unpriced: str | None = None
    """The path of something whose price is not known."""
    runs_tools: bool = False
    """Whether the provider runs tools for it, whose results are input too."""
    cache_ttl: str | None = None
    """The longest time for which the provider is asked to cache the input: `5m` or `1h`."""

    @property
    def bound(self) -> int:
        """The most tokens of what Weir sees: no tokenizer makes more of a text than its bytes."""
        return self.tokens + self.file_size + sum(map(byte_length, self.texts))

    @property
    def is_bounded(self) -> bool:
        """Whether there is nothing but what Weir sees."""
        return self.hidden is None and not self.file_size


def read_input(body: Mapping[str, Any]) -> RequestInput:
    """The input of a body in any of OpenAI's formats, or Anthropic's. Raises MalformedRequest."""
    reading = _Reading(body)
    try:
        for name, value in body.items():
            # An empty object may switch something on.
            if value is not None and value is not False and name not in PARAMETERS:
                reading.read(name, value)
    except RecursionError:
        raise MalformedRequest("The body is nested too deeply.") from None
    return reading.input


def always_searches(model: str) -> bool:
    """Whether a model searches the web once for each answer, without being asked to."""
    return "-search-preview" in model or "-search-api" in model


def whole_number(value: Any) -> int | None:
    """A positive integer; None for anything else."""
    return value if type(value) is int and value > 0 else None


class _Reading:
    """Walks through a body. Every string counts that a provider may show to a model."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        self.input = RequestInput()
        self._max_tool_calls = whole_number(body.get("max_tool_calls"))
        if "input" not in body or "messages" in body:
            self.input.tokens += TOKENS_PER_REQUEST

    def read(self, name: str, value: Any) -> None:
        """A field of the body."""
        if name == "prompt" and isinstance(value, dict):
            self._hide(name)
        if name == "messages" and isinstance(value, list):
            for message in value:
                self._message(message)
        elif name == "input":
            self._embedded(value)
        elif name == "tools":
            self._tools(value)
        elif name == "web_search_options":
            # Models that know this option search once for each answer.
            self.input.searches += 1
            self._hide(name)
            self._other(name, value)
        elif name == "thread":
            if isinstance(value, dict) and value.get("type") != "create":
                self._hide(name)
        elif name in SURCHARGED:
            free = isinstance(value, str | None) and value in SURCHARGED[name]
            self._is_unpriced(None if free else name)
        elif name in SERVICES:
            self._is_unpriced(name if value else None)
        elif name in MEDIA_FIELDS:
            self._media(name, value)
        elif name == "cache_control":
            self._cache_control(value)
        elif name == "prompt_cache_key":
            # Of Responses, a Claude is asked to cache them.
            self._cache_control({} if value else None)
        else:
            if name in {"compaction", "context_management"}:
                self._compaction(name, value)
            self._other(name, value)

    def _hide(self, path: str) -> None:
        self.input.references += 1
        self.input.hidden = self.input.hidden or path

    def _is_unpriced(self, path: str | None) -> None:
        self.input.unpriced = self.input.unpriced or path

    def _embedded(self, inputs: Any) -> None:
        """A text, tokens, or a list of either; or the items of OpenAI's Responses."""
        if not isinstance(inputs, list):
            self._message(inputs)
        elif all(type(item) is int for item in inputs):
            self.input.tokens += len(inputs)
        else:
            if any(isinstance(item, dict) and refers_to_stored(item) for item in inputs):
                self._hide("input")
            for item in inputs:
                self._embedded(item)

    def _tools(self, tools: Any) -> None:
        self.input.tokens += TOKENS_OF_TOOLS
        self._other("tools", tools)
        self._find_hosted(tools, "tools")

    def _find_hosted(self, tools: Any, path: str) -> None:
        for position, tool in enumerate(tools if isinstance(tools, list) else [tools]):
            kind = tool.get("type") if isinstance(tool, dict) else None
            if isinstance(tool, dict) and kind == "namespace":
                self._find_hosted(tool.get("tools") or [], f"{path}.{position}.tools")
            elif isinstance(tool, dict) and _has_container(tool):
                self._hosted_tool(f"{path}.{position}", str(kind), tool)
            elif isinstance(kind, str) and kind.startswith(CLIENT_TOOLS):
                # Some of them come with instructions of the provider.
                self.input.tokens += 0 if kind == "function" else TOKENS_OF_TOOLS
            elif isinstance(tool, dict) and (kind or not {"name", "function"} & tool.keys()):
                self._hosted_tool(f"{path}.{position}", str(kind), tool)

    def _hosted_tool(self, path: str, kind: str, tool: Mapping[str, Any]) -> None:
        """A tool that the provider runs. Of these, only web searches have a price."""
        bounds = [whole_number(tool.get("max_uses")), self._max_tool_calls]
        known = [bound for bound in bounds if bound]
        self._hide(path)
        self.input.runs_tools = True
        if kind.startswith("web_search") and known:
            self.input.searches += min(known)
        elif not kind.startswith(TOOLS_WITHOUT_FEE):
            self._is_unpriced(path)

    def _message(self, message: Any) -> None:
        self.input.tokens += TOKENS_PER_MESSAGE
        role = message.get("role") if isinstance(message, dict) else None
        if isinstance(role, str) and byte_length(role) <= TOKENS_PER_MESSAGE:
            message = {name: item for name, item in message.items() if name != "role"}
        self._content(message)

    def _content(self, value: Any) -> None:
        """A message, or a part of it."""
        if isinstance(value, str):
            self.input.texts.append(value)
        elif isinstance(value, list):
            for item in value:
                self._content(item)
        elif not isinstance(value, dict):
            self.input.tokens += TOKENS_PER_VALUE
        elif isinstance(kind := value.get("type"), str) and not TEXT_TYPES.fullmatch(kind):
            self._media(kind, value)
        else:
            for name, item in value.items():
                if name not in ORDINARY_FIELDS:
                    self.input.texts.append(name)
                if name == "cache_control":
                    self._cache_control(item)
                elif name in ARGUMENTS and isinstance(item, dict | list):
                    self.input.texts.append(json.dumps(item, ensure_ascii=False))
                elif name in MEDIA_FIELDS and item:
                    self._media(name, item)
                else:
                    self._content(item)

    def _media(self, kind: str, value: Any) -> None:
        source = value.get("source") if isinstance(value, dict) else None
        if isinstance(source, dict) and source.get("type") in ("text", "content"):
            self._content(source)  # a document of Anthropic's that is text
            value = {name: item for name, item in value.items() if name != "source"}
        images, details = 0, set()
        for name, text in _strings(kind, value):
            if name == "detail":
                details.add(text)
            medium = _medium(kind, name, text)
            if medium == "image":
                images += 1
            elif medium == "hidden":
                self._hide(kind)
            elif medium == "file":
                self.input.file_size += byte_length(text)
            elif medium == "audio":
                self.input.tokens += byte_length(text)
                self.input.audio_tokens += byte_length(text)
            else:
                self.input.texts.append(text)
        images *= TOKENS_PER_LOW_DETAIL_IMAGE if details == {"low"} else TOKENS_PER_IMAGE
        self.input.tokens += images
        self.input.image_tokens += images
        self._find_cache_control(value)

    def _other(self, name: str, value: Any) -> None:
        """A field that Weir does not know, or a schema."""
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        self.input.texts.append(text)
        if name == "prediction":
            self.input.predicted_tokens = byte_length(text)
        if name not in SCHEMAS and _refers({name: value}):
            self._hide(name)
        self._find_cache_control(value)

    def _compaction(self, name: str, value: Any) -> None:
        """Having the context summarized is a call of its own, whose usage is told apart."""
        if name == "compaction" and value:
            self._is_unpriced(name)
        edits = value.get("edits") if isinstance(value, dict) else None
        for edit in edits if isinstance(edits, list) else []:
            kind = edit.get("type") if isinstance(edit, dict) else None
            if isinstance(kind, str) and kind.startswith("compact"):
                self._is_unpriced(name)

    def _find_cache_control(self, value: Any) -> None:
        if isinstance(value, list):
            for item in value:
                self._find_cache_control(item)
        elif isinstance(value, dict):
            self._cache_control(value.get("cache_control"))
            for item in value.values():
                self._find_cache_control(item)

    def _cache_control(self, value: Any) -> None:
        if isinstance(value, dict):
            long = value.get("ttl") == "1h" or self.input.cache_ttl == "1h"
            self.input.cache_ttl = "1h" if long else "5m"


def refers_to_stored(item: Mapping[str, Any]) -> bool:
    """Whether an item of Responses stands for one that the provider keeps: an `item_reference`,
    whose type may be left out, or one that says no more than its id."""
    kind = item.get("type")
    if kind is None:
        return "id" in item and "role" not in item
    if kind == "reasoning":
        return bool(item.get("id")) and not (item.get("encrypted_content") or item.get("content"))
    if kind == "image_generation_call":
        return not item.get("result")
    return bool(kind == "item_reference")


def _has_container(tool: Mapping[str, Any]) -> bool:
    """Whether a shell runs at the provider, and not at the client."""
    environment = tool.get("environment")
    kind = environment.get("type") if isinstance(environment, dict) else None
    return isinstance(kind, str) and kind.startswith("container")


def _refers(value: Any) -> bool:
    """Whether a value that Weir does not know refers to input on the provider's side."""
    if isinstance(value, dict):
        return any(
            (name in REFERRING and item is not None and item is not False) or _refers(item)
            for name, item in value.items()
        )
    if isinstance(value, list):
        return any(map(_refers, value))
    return isinstance(value, str) and bool(REFERENCE.fullmatch(value))


def _strings(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """All strings in a value, each with the name of its field, and names that are not ordinary."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, list):
        for item in value:
            yield from _strings(name, item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key not in ORDINARY_FIELDS:
                yield NAME_OF_FIELD, key
            yield from _strings(key, item)


def _medium(kind: str, name: str, text: str) -> str:
    """What a string of media is: `text`, `image`, `audio`, `file`, or `hidden` at the provider."""
    if name in WORDS or name == NAME_OF_FIELD:
        return "text"
    if REFERENCE.match(text) or name in IDENTIFIERS:
        return "hidden"
    named = next((medium for medium in ("image", "audio") if medium in kind + name), "file")
    if data := DATA_URL.match(text):
        medium = data[1].lower()
        return medium if medium in {"text", "image", "audio"} else "file"
    return "text" if named == "image" and name not in DATA else named
