"""How servers that call themselves OpenAI-compatible depart from OpenAI's protocol, by name.

The stand-in provider follows a habit that a message names (`[[fault:habit=no_content]]`), and
answers with a refusal that one names (`[[fault:refusal=fastapi]]`).
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import brotli

Json = dict[str, Any]
Answer = tuple[int, Any]


def _same(value: Any) -> Any:
    return value


def _events(chunks: list[Any]) -> bytes:
    """Chunks as OpenAI sends them. A text is sent as it is."""
    texts = (chunk if isinstance(chunk, str) else json.dumps(chunk) for chunk in chunks)
    return b"".join(f"data: {text}\n\n".encode() for text in texts)


@dataclass(frozen=True)
class Habit:
    """What becomes of a good answer: its JSON, its chunks, the bytes of a body or of all events."""

    body: Callable[[Json], Any] = _same
    chunks: Callable[[list[Any]], list[Any]] = _same
    events: Callable[[list[Any]], bytes] = _events
    content: Callable[[bytes], bytes] = _same
    headers: Mapping[str, str] = field(default_factory=dict)

    def whole(self, body: Json) -> bytes:
        return self.content(json.dumps(self.body(body)).encode())

    def stream(self, chunks: list[Json]) -> bytes:
        """The bytes of a stream with these chunks and [DONE]."""
        return self.content(self.events(self.chunks([*chunks, "[DONE]"])))


def _each_choice(change: Callable[[Json], Json]) -> Habit:
    """A habit that concerns each choice, whole or in chunks."""

    def changed(body: Any) -> Any:
        if not isinstance(body, dict) or not body.get("choices"):
            return body
        return body | {"choices": [change(dict(choice)) for choice in body["choices"]]}

    return Habit(changed, lambda chunks: list(map(changed, chunks)))


def _without(*names: str) -> Habit:
    """A habit of leaving fields of messages and deltas out."""

    def change(choice: Json) -> Json:
        name = "message" if "message" in choice else "delta"
        kept = {key: value for key, value in choice[name].items() if key not in names}
        return choice | {name: kept}

    return _each_choice(change)


def _content_as_parts(choice: Json) -> Json:
    name = "message" if "message" in choice else "delta"
    content = choice[name].get("content")
    if not isinstance(content, str):
        return choice
    return choice | {name: choice[name] | {"content": [{"type": "text", "text": content}]}}


def _with_error(choice: Json) -> Json:
    if not choice.get("finish_reason"):
        return choice
    error = {"code": 502, "message": "Provider disconnected"}
    return choice | {"finish_reason": "error", "error": error}


def _usage_chunk(change: Callable[[Json], Json]) -> Habit:
    """A habit of the chunk that has the usage."""
    return Habit(
        chunks=lambda chunks: [
            change(dict(chunk)) if isinstance(chunk, dict) and chunk.get("usage") else chunk
            for chunk in chunks
        ]
    )


def _lines(chunks: list[Any], end: str, prefix: str = "data: ") -> bytes:
    texts = (chunk if isinstance(chunk, str) else json.dumps(chunk) for chunk in chunks)
    return "".join(f"{prefix}{text}{end}{end}" for text in texts).encode()


def _several_lines(chunks: list[Any]) -> bytes:
    texts = (chunk if isinstance(chunk, str) else json.dumps(chunk, indent=1) for chunk in chunks)
    return "".join(
        "".join(f"data: {line}\n" for line in text.split("\n")) + "\n" for text in texts
    ).encode()


def _azure_filters(chunks: list[Any]) -> list[Any]:
    """The chunks that Azure's content filter adds (learn.microsoft.com, content streaming)."""
    safe = {"hate": {"filtered": False, "severity": "safe"}}
    head = {"id": "", "object": "", "created": 0, "model": ""}
    before = head | {
        "choices": [],
        "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": safe}],
    }
    offsets = {"check_offset": 44, "start_offset": 44, "end_offset": 46}
    late = head | {
        "choices": [
            {
                "index": 0,
                "finish_reason": None,
                "content_filter_results": safe,
                "content_filter_offsets": offsets,
            }
        ]
    }
    return [before, *chunks[:2], late, *chunks[2:]]


def _error_event(chunks: list[Any]) -> bytes:
    failed = json.dumps({"message": "The engine fell over", "code": 500})
    return _events(chunks[:1]) + f"event: error\ndata: {failed}\n\n".encode()


def _first_choice_unfinished(chunks: list[Any]) -> list[Any]:
    """Without the finish reason of choice 0, without usage, without [DONE]."""
    return [
        chunk
        for chunk in chunks
        if isinstance(chunk, dict)
        and chunk["choices"]
        and not (chunk["choices"][0]["finish_reason"] and chunk["choices"][0]["index"] == 0)
    ]


def _raw_deflate(content: bytes) -> bytes:
    compressing = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressing.compress(content) + compressing.flush()


def _encoded(name: str, encode: Callable[[bytes], bytes]) -> Habit:
    return Habit(content=encode, headers={"Content-Encoding": name})


def _error_instead(error: Any) -> Habit:
    return Habit(body=lambda _: error, chunks=lambda _: [error])


SECRETS = "No entry for SK-provider-secret-1234 at 127.0.0.1, try later"
# What can be understood: the answer is whole.
TOLERATED: dict[str, Habit] = {
    "no_content": _without("content"),
    "no_role": _without("role"),
    "content_as_parts": _each_choice(_content_as_parts),
    "bare_choices": Habit(
        lambda body: {"choices": body["choices"]},
        lambda chunks: [
            {"choices": chunk["choices"]} if isinstance(chunk, dict) else chunk for chunk in chunks
        ],
    ),
    "null_usage": Habit(lambda body: body | {"usage": None}),
    "chunk_without_choices": Habit(
        chunks=lambda chunks: [
            {"id": "c1", "object": "chat.completion.chunk", "x_queue": {"position": 2}},
            *chunks,
        ]
    ),
    "usage_without_choices": _usage_chunk(
        lambda chunk: {name: value for name, value in chunk.items() if name != "choices"}
    ),
    "usage_with_null_choices": _usage_chunk(lambda chunk: chunk | {"choices": None}),
    "usage_in_the_choice": Habit(
        chunks=lambda chunks: [
            chunk | {"choices": [chunk["choices"][0] | {"usage": chunks[-2]["usage"]}]}
            if isinstance(chunk, dict) and chunk["choices"] and chunk["choices"][0]["finish_reason"]
            else chunk
            for chunk in chunks
            if not (isinstance(chunk, dict) and not chunk["choices"])
        ]
    ),
    "null_chunks": Habit(chunks=lambda chunks: ["null", *chunks[:2], "null", *chunks[2:]]),
    "byte_order_mark": Habit(content=lambda content: b"\xef\xbb\xbf" + content),
    "carriage_returns": Habit(events=lambda chunks: _lines(chunks, "\r")),
    "both_line_ends": Habit(events=lambda chunks: _lines(chunks, "\r\n")),
    "no_space": Habit(events=lambda chunks: _lines(chunks, "\n", "data:")),
    "comments": Habit(events=lambda chunks: _lines(chunks, "\n", ": WORKING\n\nid: 7\ndata: ")),
    "several_lines": Habit(events=_several_lines),
    "no_last_line_end": Habit(events=lambda chunks: _events(chunks).rstrip()),
    "no_done": Habit(chunks=lambda chunks: chunks[:-1]),
    "azure_filters": Habit(chunks=_azure_filters),
    "labelled_as_whole": Habit(
        chunks=lambda chunks: [
            chunk | {"object": "chat.completion"} if isinstance(chunk, dict) else chunk
            for chunk in chunks
        ]
    ),
    "message_beside_delta": Habit(
        chunks=lambda chunks: [
            chunk | {"choices": [c | {"message": {"content": "so far"}} for c in chunk["choices"]]}
            if isinstance(chunk, dict)
            else chunk
            for chunk in chunks
        ]
    ),
    "labelled_as_json": Habit(headers={"Content-Type": "application/json"}),
    "gzip": _encoded("gzip", gzip.compress),
    "deflate": _encoded("deflate", zlib.compress),
    "raw_deflate": _encoded("deflate", _raw_deflate),
    "brotli": _encoded("br", brotli.compress),
    "extra_error_field": Habit(
        lambda body: body | {"error": None},
        lambda chunks: [
            chunk | {"error": None} if isinstance(chunk, dict) else chunk for chunk in chunks
        ],
    ),
}
# What is an error, though its status is 200: (habit, the status for the client).
ERRORS: dict[str, tuple[Habit, int]] = {
    "error_object": (_error_instead({"error": {"message": "No capacity", "code": None}}), 502),
    "error_text": (_error_instead({"error": "No capacity"}), 502),
    "error_of_vllm": (
        _error_instead({"object": "error", "message": "No capacity", "code": 503}),
        502,
    ),
    "error_429": (_error_instead({"error": {"message": "No capacity", "code": 429}}), 503),
    "error_400": (_error_instead({"error": {"message": "No capacity", "code": "400"}}), 400),
    "no_choices": (_error_instead({"id": "c1", "object": "chat.completion", "choices": []}), 502),
    "null_answer": (_error_instead(None), 502),
    "a_list": (_error_instead([1, 2]), 502),
    "choices_of_another_shape": (_error_instead({"choices": {"0": "hello"}}), 502),
}
# What ends in the middle or with an error: the text so far, then an error.
BROKEN: dict[str, Habit] = {
    "finish_reason_error": _each_choice(_with_error),
    "error_event": Habit(events=_error_event),
    "first_choice_unfinished": Habit(chunks=_first_choice_unfinished),
}
WHOLE: dict[str, Habit] = {
    "whole_answer": Habit(),
    "whole_answer_without_object": Habit(lambda body: {"choices": body["choices"]}),
    "whole_answer_in_lines": Habit(
        content=lambda content: json.dumps(json.loads(content), indent=2).encode()
    ),
}
HABITS: dict[str, Habit] = {
    **WHOLE,
    "error_with_secrets": _error_instead({"error": SECRETS}),
    **TOLERATED,
    **{name: habit for name, (habit, _) in ERRORS.items()},
    **BROKEN,
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error status with a body; `words` must reach the client."""

    status: int
    body: Any
    words: str


_MISSING = "The model `gone` does not exist."
REFUSALS: dict[str, Refusal] = {
    "fastapi": Refusal(
        422,
        {
            "detail": [
                {
                    "type": "less_than_equal",
                    "loc": ["body", "temperature"],
                    "msg": "Input should be less than or equal to 2",
                }
            ]
        },
        "less than or equal to 2",
    ),
    "detail": Refusal(400, {"detail": "top_k is too large for this model"}, "top_k is too large"),
    "vllm": Refusal(
        400,
        {
            "object": "error",
            "message": "The context window is 4096 tokens.",
            "type": "BadRequestError",
            "param": None,
            "code": 400,
        },
        "4096 tokens",
    ),
    "google": Refusal(
        400,
        [
            {
                "error": {
                    "code": 400,
                    "message": "The schema of a tool is not valid",
                    "status": "INVALID_ARGUMENT",
                }
            }
        ],
        "schema of a tool",
    ),
    "mistral": Refusal(
        422,
        {
            "object": "error",
            "message": {
                "detail": [
                    {
                        "type": "extra_forbidden",
                        "loc": ["body", "seed"],
                        "msg": "Extra inputs are not permitted",
                        "input": 7,
                    }
                ]
            },
            "type": "invalid_request_error",
            "param": None,
            "code": None,
        },
        "not permitted",
    ),
    "text_in_error": Refusal(
        400, {"error": "unsupported image format"}, "unsupported image format"
    ),
    "numeric_code": Refusal(
        400,
        {
            "error": {
                "message": "Bad stop sequence",
                "type": "BadRequestError",
                "param": "stop",
                "code": 400,
            }
        },
        "Bad stop sequence",
    ),
    "errors": Refusal(400, {"errors": [{"message": "Unknown voice"}]}, "Unknown voice"),
    "plain_text": Refusal(400, "this is not for me", "this is not for me"),
    "html": Refusal(413, "<html><body><h1>413 Request Entity Too Large</h1></body></html>", "413"),
    "no_model_ollama": Refusal(
        404,
        {
            "error": {
                "message": 'model "gone" not found, try pulling it first',
                "type": "api_error",
                "param": None,
                "code": None,
            }
        },
        "not found",
    ),
    "no_model_vllm": Refusal(
        404,
        {"error": {"message": _MISSING, "type": "NotFoundError", "param": "model", "code": 404}},
        _MISSING,
    ),
    "no_model_old_vllm": Refusal(
        404,
        {
            "object": "error",
            "message": _MISSING,
            "type": "NotFoundError",
            "param": None,
            "code": 404,
        },
        _MISSING,
    ),
    "no_model_azure": Refusal(
        404,
        {
            "error": {
                "code": "DeploymentNotFound",
                "message": "The API deployment for this resource does not exist.",
            }
        },
        "does not exist",
    ),
    "no_model_mistral": Refusal(
        400,
        {
            "object": "error",
            "message": "Invalid model: gone",
            "type": "invalid_model",
            "param": None,
            "code": "1500",
        },
        "Invalid model",
    ),
    "no_model_llama_cpp": Refusal(
        404,
        {"error": {"code": 404, "message": "model not found", "type": "not_found_error"}},
        "not found",
    ),
    "no_path": Refusal(404, "404 page not found", "404 page not found"),
    "moderation": Refusal(
        403,
        {
            "error": {
                "code": 403,
                "message": "Your input was flagged",
                "metadata": {"reasons": ["violence"], "flagged_input": "…"},
            }
        },
        "moderation",
    ),
    "no_images": Refusal(
        500,
        {"error": {"code": 500, "message": "image input is not supported", "type": "server_error"}},
        "image input is not supported",
    ),
    "not_implemented": Refusal(
        501, {"error": {"message": "This server does no embeddings"}}, "does no embeddings"
    ),
    "filtered": Refusal(
        400,
        {
            "error": {
                "message": "The response was filtered",
                "type": None,
                "param": "prompt",
                "code": "content_filter",
                "status": 400,
                "innererror": {"code": "ResponsibleAIPolicyViolation"},
            }
        },
        "filtered",
    ),
    "limit_too_large": Refusal(
        400,
        {
            "error": {
                "message": "max_tokens is too large: 4000. This model supports at most 2048.",
                "param": "max_tokens",
            }
        },
        "too large",
    ),
    "tells_secrets": Refusal(500, {"error": SECRETS}, "No entry"),
    "gateway_timeout": Refusal(504, {"message": "the upstream was too slow"}, "too slow"),
}
# What refuses a parameter: the body for its name.
PARAMETER_REFUSALS: dict[str, Callable[[str], Answer]] = {
    "openai": lambda name: (
        400,
        {
            "error": {
                "message": f"Unrecognized request argument supplied: {name}",
                "type": "invalid_request_error",
                "param": None,
                "code": None,
            }
        },
    ),
    "o1": lambda name: (
        400,
        {
            "error": {
                "message": f"Unsupported parameter: '{name}' is not supported with this model. "
                "Use 'max_completion_tokens' instead.",
                "type": "invalid_request_error",
                "param": name,
                "code": "unsupported_parameter",
            }
        },
    ),
    "mistral": lambda name: (
        422,
        {
            "object": "error",
            "message": {
                "detail": [
                    {
                        "type": "extra_forbidden",
                        "loc": ["body", name, "include_usage"],
                        "msg": "Extra inputs are not permitted",
                        "input": True,
                    }
                ]
            },
            "type": "invalid_request_error",
            "param": None,
            "code": None,
        },
    ),
}
