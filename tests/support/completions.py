"""The stand-in's answers in OpenAI's protocol: chat completions, embeddings, models, errors.

A request with `tools` is answered with calls of the tools that the user's last message names, or
of all, in order; or with the call that it spells out (`[[call:read,path=notes.txt]]`). Every
answer, chunk and choice has fields that no SDK knows (`UNKNOWN`).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import struct
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from tests.support.faults import Fault

MODELS = ("stand-in-1", "stand-in-2")
# The same time in all answers, so that equal requests get equal bytes.
CREATED = 1_700_000_000
ECHOED = 200
BIG_PIECE = 4096
FILLER = "x" * 99 + " "
DIRECTIVE = re.compile(r"\s*\[\[fault:([^\]]*)\]\]")
CALL = re.compile(r"\[\[call:([\w-]+)((?:,[^\],]+)*)\]\]")
ARGUMENTS_PIECE = 5
DIMENSIONS = 16
UNKNOWN = {
    "x_stand_in": {
        "unknown": [1, 2.5, None, "ü", "😀\u2028"],
        "large": 12345678901234567890,
        "floats": [1.0, 1e-07, -0.5],
        "empty": {},
    }
}

Answer = tuple[int, Any]


class Completion:
    """The answer to one chat request, whole or in chunks."""

    def __init__(self, body: dict[str, Any], fault: Fault) -> None:
        self._fault = fault
        self._model = body["model"]
        self._choices = body.get("n") or 1
        self._logprobs_wanted = bool(body.get("logprobs"))
        self._usage_wanted = bool((body.get("stream_options") or {}).get("include_usage"))
        self._content = content_of(body, fault)
        # The answer is the same with and without usage.
        asked = {name: value for name, value in body.items() if name != "stream_options"}
        canonical = json.dumps(asked, sort_keys=True).encode()
        self._id = "chatcmpl-" + hashlib.sha256(canonical).hexdigest()[:29]
        self._calls = _tool_calls(body, self._id)
        words = sum(len(text_of(message).split()) for message in body["messages"])
        self.usage = _usage(words, len(self._content.split()) * self._choices)

    def whole(self) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": self._content, "refusal": None}
        if self._calls:
            message |= {"content": None, "tool_calls": self._calls}
        choices = [
            self._choice(index, "message", message, self._finish_reason, self._pieces())
            for index in range(self._choices)
        ]
        body = self._object("chat.completion", choices)
        return body if self._fault.no_usage else body | {"usage": self.usage}

    def chunks(self) -> Iterator[dict[str, Any]]:
        """All chunks in order: role, content, finish reason and usage."""
        for index in range(self._choices):
            opening = {"role": "assistant", "content": None if self._calls else "", "refusal": None}
            yield self._chunk(index, opening)
        for delta in self._deltas():
            for index in range(self._choices):
                yield self._chunk(index, delta)
        fault = self._fault
        if fault.no_finish or fault.cut or fault.error_event:
            return
        for index in range(self._choices):
            usage = self.usage if fault.usage_on_choice else None
            yield self._chunk(index, {}, self._finish_reason, usage)
        if self._usage_wanted and not (fault.usage_on_choice or fault.no_usage):
            yield self._object("chat.completion.chunk", []) | {"usage": self.usage}

    @property
    def _finish_reason(self) -> str | None:
        if self._fault.no_finish:
            return None
        return "tool_calls" if self._calls else "stop"

    def _deltas(self) -> Iterator[dict[str, Any]]:
        if not self._calls:
            yield from ({"content": piece} for piece in self._pieces())
            return
        for index, call in enumerate(self._calls):
            function = {"name": call["function"]["name"], "arguments": ""}
            yield {"tool_calls": [call | {"index": index, "function": function}]}
            arguments = call["function"]["arguments"]
            for start in range(0, len(arguments), ARGUMENTS_PIECE):
                fragment = {"arguments": arguments[start : start + ARGUMENTS_PIECE]}
                yield {"tool_calls": [{"index": index, "function": fragment}]}

    def _pieces(self) -> list[str]:
        return pieces_of(self._content, self._fault)

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        finish_reason: str | None = None,
        usage: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        said = [delta["content"]] if delta.get("content") else []
        choice = self._choice(index, "delta", delta, finish_reason, said)
        chunk = self._object("chat.completion.chunk", [choice])
        # With include_usage every chunk has the field, and only the last one has a value.
        return chunk | {"usage": usage} if usage or self._usage_wanted else chunk

    def _choice(
        self,
        index: int,
        name: str,
        value: dict[str, Any],
        finish_reason: str | None,
        said: list[str],
    ) -> dict[str, Any]:
        tokens = [
            {
                "token": piece,
                "logprob": -0.25,
                "bytes": list(piece.encode("utf-8", "surrogatepass")),
                "top_logprobs": [],
            }
            for piece in said
        ]
        wanted = self._logprobs_wanted and tokens and not self._calls
        return {
            "index": index,
            name: value,
            "logprobs": {"content": tokens, "refusal": None} if wanted else None,
            "finish_reason": finish_reason,
            **UNKNOWN,
        }

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": CREATED,
            "model": self._model,
            "service_tier": "default",
            "system_fingerprint": "fp_stand_in",
            "choices": choices,
            **UNKNOWN,
        }


def content_of(body: dict[str, Any], fault: Fault) -> str:
    """The text of the answer: an echo of the last message, or JSON for its response format."""
    if fault.empty:
        return ""
    if fault.big:
        return _repeated(FILLER, fault.big)
    wanted = body.get("response_format") or {}
    if wanted.get("type") == "json_schema":
        return json.dumps(fitting(wanted["json_schema"]["schema"]))
    last = body["messages"][-1]
    if last.get("role") == "tool":
        content = f"The tool says: {text_of(last)[:ECHOED]}"
    else:
        # Without the directive, as an answer that is sent back must not cause the fault again.
        said = DIRECTIVE.sub("", last_user_message(body["messages"]))
        content = f"echo: {said[:ECHOED]}"
    if wanted.get("type") == "json_object":
        return json.dumps({"echo": content})
    return content if fault.pieces <= len(content) else _repeated(content + " ", fault.pieces)


def pieces_of(content: str, fault: Fault) -> list[str]:
    """The content as it is streamed: word by word, or in as many pieces as the fault says."""
    wanted = fault.pieces
    if not wanted and fault.big:
        wanted = -(-len(content) // BIG_PIECE)
    if not wanted:
        return re.findall(r"\s*\S+\s*", content)
    edges = [len(content) * number // wanted for number in range(wanted + 1)]
    return [content[start:end] for start, end in pairwise(edges)]


def named_tools(names: list[str], said: str) -> list[str]:
    """The tools to call: those that the message names, or all."""
    words = set(re.findall(r"[\w-]+", said))
    return [name for name in names if name in words] or names


def spelled_out(said: str) -> tuple[str, dict[str, str]] | None:
    """The tool and the arguments of the call that a message spells out."""
    if not (call := CALL.search(said)):
        return None
    pairs = (part.partition("=") for part in call[2].split(",")[1:])
    return call[1], {name: value for name, _, value in pairs}


def calls_of(schemas: dict[str, dict[str, Any]], said: str) -> list[tuple[str, Any]]:
    """The calls that a message is answered with: each tool, by name, and its arguments."""
    if call := spelled_out(said):
        return [call]
    return [(name, fitting(schemas[name])) for name in named_tools(list(schemas), said)]


def fitting(schema: dict[str, Any], known: dict[str, Any] | None = None) -> Any:
    """A value that is valid for a JSON schema."""
    known = known or schema.get("$defs", {})
    if "$ref" in schema:
        return fitting(known[schema["$ref"].rsplit("/", 1)[-1]], known)
    if "enum" in schema:
        return schema["enum"][0]
    if "anyOf" in schema:
        return fitting(schema["anyOf"][0], known)
    if schema.get("type") == "array":
        return [fitting(schema.get("items", {"type": "string"}), known)]
    if schema.get("type") == "object" or "properties" in schema:
        return {name: fitting(one, known) for name, one in schema.get("properties", {}).items()}
    plain = {"string": "text", "integer": 3, "number": 1.5, "boolean": True}
    return plain.get(str(schema.get("type")))


def last_user_message(messages: list[dict[str, Any]]) -> str:
    """The text of the user's last message, or an empty string."""
    return next((text_of(one) for one in reversed(messages) if one.get("role") == "user"), "")


def text_of(message: dict[str, Any]) -> str:
    """The text of a message. Images are replaced by their number."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    texts = [str(part["text"]) for part in content if "text" in part]
    images = sum(part.get("type") in {"image_url", "image"} for part in content)
    return " ".join([*texts, *([f"[{images} image{'s'[: images > 1]}]"] if images else [])])


def embeddings(body: Any) -> Answer:
    """Numbers that depend on each text, as floats or in base64."""
    given = body.get("input") if isinstance(body, dict) else None
    if not given or not isinstance(body.get("model"), str):
        return 400, error(400, "'input' and 'model' are required.")
    if not isinstance(given, str | list):
        return 400, error(400, "'input' must be a string or a list.")
    one = isinstance(given, str) or isinstance(given[0], int)
    texts = [given] if one else given
    data = []
    for index, text in enumerate(texts):
        vector = _vector(json.dumps(text), body.get("dimensions") or DIMENSIONS)
        packed = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
        embedding = packed if body.get("encoding_format") == "base64" else vector
        data.append({"object": "embedding", "index": index, "embedding": embedding})
    tokens = sum(len(str(text).split()) for text in texts)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return 200, {"object": "list", "data": data, "model": body["model"], "usage": usage, **UNKNOWN}


def models() -> dict[str, Any]:
    return {"object": "list", "data": [_model(name) for name in MODELS]}


def model(name: str) -> Answer:
    if name in MODELS:
        return 200, _model(name)
    return 404, error(404, f"The model '{name}' does not exist", "model_not_found")


def what_is_wrong(body: Any) -> str | None:
    if not isinstance(body, dict):
        return "We could not parse the JSON body of your request."
    if not isinstance(body.get("model"), str):
        return "you must provide a model parameter"
    messages = body.get("messages")
    if not isinstance(messages, list) or not all(isinstance(one, dict) for one in messages):
        return "Missing required parameter: 'messages'."
    return None


def error(status: int, message: str, code: str | None = None) -> dict[str, Any]:
    """OpenAI's envelope."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    if status == 429:
        code = code or "rate_limit_exceeded"
        kind = "insufficient_quota" if code == "insufficient_quota" else "requests"
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "stand-in"}


def _tool_calls(body: dict[str, Any], seed: str) -> list[dict[str, Any]]:
    functions = [tool["function"] for tool in body.get("tools") or []]
    schemas = {one["name"]: one.get("parameters", {"type": "object"}) for one in functions}
    asked = body["messages"][-1].get("role") != "tool" and body.get("tool_choice") != "none"
    if not schemas or not asked:
        return []
    calls = calls_of(schemas, last_user_message(body["messages"]))
    return [
        {
            "id": f"call_{index}_{seed[-8:]}",
            "type": "function",
            "function": {"name": name, "arguments": json.dumps(arguments)},
        }
        for index, (name, arguments) in enumerate(calls)
    ]


def _vector(text: str, dimensions: int) -> list[float]:
    noise = hashlib.shake_256(text.encode()).digest(dimensions)
    # Multiples of 1/256 are exact in float32.
    return [byte / 256 - 0.5 for byte in noise]


def _repeated(text: str, length: int) -> str:
    return (text * (length // len(text) + 1))[:length]


def _usage(prompt: int, completion: int) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
