"""Strategies of Hypothesis: valid answers of providers, mutated as values and as bytes."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hypothesis import strategies as st

from tests.support.raw_provider import Reply

Draw = Callable[[st.SearchStrategy[Any]], Any]
Path = tuple[str | int, ...]

NESTED: Any = 0
for _ in range(40):
    NESTED = [NESTED]
# What stands in place of a value. Numbers beyond 64 bits, lone surrogates, control characters.
PART = {"type": "text", "text": "part"}
VALUES = [
    None, True, False, 0, 1, -1, 7, 2**31, 2**63, 10**30, 1.5, -0.0, 1e308, [], {}, [None], [[]],
    [{}], ["x"], {"": None}, PART, [PART], {"error": "x"}, {"message": "odd"}, NESTED,
    "", "x", "1", "null", "a\0b", "\ud800", "\ufeff", "é漢字🙂", "[DONE]", "data: x\n\n", "stop",
    "error", "length", "content_filter", "long " * 4_000,
]  # fmt: skip
# Fields that other servers add, or that mean something to somebody.
FIELDS = [
    "error", "message", "detail", "content", "text", "type", "usage", "choices", "index", "delta",
    "finish_reason", "tool_calls", "refusal", "reasoning_content", "service_tier", "model", "data",
    "prompt_tokens", "completion_tokens", "total_tokens", "", "é",
]  # fmt: skip
STATUSES = [201, 204, 400, 401, 403, 404, 408, 413, 418, 422, 429, 500, 501, 503, 529]
LINE_ENDS = [b"\n", b"\r\n", b"\r"]
# What a reader of events ignores.
IGNORED = [b"", b"", b": ping\n\n", b":\n", b"\n\n", b"id: 1\nretry: 5\n", b"odd\n", b"data\n\n"]
INSERTED = [
    b"\xef\xbb\xbf", b"\xff\xfe", b"\0", b"\n\n", b"\r", b": ping\n\n", b":\n", b"<html>",
    b"x" * 70_000, b"event: x\n", b"id: 1\nretry: 5\n", b"data\n\n", b"data:\n\n", b"data: {\n\n",
    b"data: null\n\n", b"data: []\n\n", b"data: {}\n\n", b'data: "x"\n\n', b"data: 1\n\n",
    b"data: [DONE]\n\n",
    b'data: {"error": "odd"}\n\n', b'event: error\ndata: {"error": {"message": "odd"}}\n\n',
    b'{"error": "no event at all"}\n', b"data: " + b"[" * 3_000 + b"\n\n",
]  # fmt: skip


@st.composite
def values(draw: Draw, base: Any, most: int = 3) -> Any:
    """The base with up to so many changes: fields without, with another or with a further value."""
    value = copy.deepcopy(base)
    for _ in range(draw(st.integers(0, most))):
        value = _changed(draw, value)
    return value


@st.composite
def answers(draw: Draw, base: Any) -> Reply:
    """A whole answer, mutated; now and then with another status, cut, or with bytes between."""
    body = draw(values(base))
    text = _dumped(body)
    if draw(st.integers(0, 9)) == 0:
        # A key that comes twice.
        text = b'{"choices": null, "usage": 1,' + text[1:] if text.startswith(b"{") else text
    return _reply(draw, text, "application/json")


@st.composite
def streams(draw: Draw, base: Sequence[Any]) -> Reply:
    """A stream, mutated: its events, their order, and how they are written."""
    events = list(base)
    for _ in range(draw(st.integers(0, 3))):
        if not events:
            break
        place = draw(st.integers(0, len(events) - 1))
        match draw(st.sampled_from(["change", "change", "change", "drop", "double", "end"])):
            case "change":
                events[place] = draw(values(events[place], 2))
            case "drop":
                del events[place]
            case "double":
                events.insert(draw(st.integers(0, len(events))), events[place])
            case "end":
                del events[place:]
    end = draw(st.sampled_from(LINE_ENDS))
    space = draw(st.sampled_from([b" ", b""]))
    text = b"".join(_event(event, end, space) for event in events)
    return _reply(draw, text, "text/event-stream")


@st.composite
def spellings(draw: Draw, events: Sequence[Any]) -> Reply:
    """A valid stream as the standard allows to write it, split anywhere."""
    text = draw(st.sampled_from([b"", b"\xef\xbb\xbf"]))
    for event in events:
        end = draw(st.sampled_from(LINE_ENDS))
        text += draw(st.sampled_from(IGNORED)).replace(b"\n", end)
        text += _event(event, end, draw(st.sampled_from([b" ", b""])), draw(st.booleans()))
    return Reply(_split(draw, text), content_type="text/event-stream")


def _reply(draw: Draw, text: bytes, content_type: str) -> Reply:
    """The text as it is, with changed bytes, or with another status."""
    status, cut = 200, False
    match draw(st.sampled_from(["as it is", "as it is", "as it is", "bytes", "bytes", "status"])):
        case "bytes":
            for _ in range(draw(st.integers(0, 2))):
                place = draw(st.integers(0, len(text)))
                text = text[:place] + draw(st.sampled_from(INSERTED)) + text[place:]
            if draw(st.booleans()):
                text = text[: draw(st.integers(0, len(text)))]
            cut = draw(st.integers(0, 3)) == 0
        case "status":
            status = draw(st.sampled_from(STATUSES))
    return Reply(_split(draw, text), status, content_type, cut=cut)


def _split(draw: Draw, text: bytes) -> list[bytes]:
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=4)))
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


def _event(event: Any, end: bytes, space: bytes, lines: bool = False) -> bytes:
    """An event; if `lines`, with a field of JSON on each line of its own."""
    if event == "[DONE]":
        return b"data:" + space + b"[DONE]" + end + end
    kind = event.get("type") if isinstance(event, dict) else None
    named = isinstance(kind, str) and re.fullmatch(r"[a-z_]+", kind)
    name = b"event:" + space + kind.encode() + end if named else b""
    texts = json.dumps(event, indent=0).encode().split(b"\n") if lines else [_dumped(event)]
    return name + b"".join(b"data:" + space + text + end for text in texts) + end


def _dumped(value: Any) -> bytes:
    # As escapes, so that lone surrogates can be written too.
    return json.dumps(value).encode()


def _changed(draw: Draw, value: Any) -> Any:
    path = draw(st.sampled_from(list(_paths(value))))
    replaced = copy.deepcopy(draw(st.sampled_from(VALUES)))
    if not path:
        return replaced if draw(st.integers(0, 3)) == 0 else value
    *above, last = path
    holder = value
    for step in above:
        holder = holder[step]
    match draw(st.sampled_from(["drop", "replace", "replace", "wrap", "add", "double"])):
        case "drop":
            del holder[last]
        case "replace":
            holder[last] = replaced
        case "wrap":
            holder[last] = [holder[last]] if draw(st.booleans()) else {"value": holder[last]}
        case "add" if isinstance(holder, dict):
            holder[draw(st.sampled_from(FIELDS))] = replaced
        case _ if isinstance(holder, list):
            holder.append(copy.deepcopy(holder[last]))
        case _:
            holder[f"{last}_again"] = copy.deepcopy(holder[last])
    return value


def _paths(value: Any) -> Iterator[Path]:
    """The paths of a value and of all in it."""
    yield ()
    inner: Any = ()
    if isinstance(value, dict):
        inner = value.items()
    elif isinstance(value, list):
        inner = enumerate(value)
    for key, item in inner:
        for path in _paths(item):
            yield (key, *path)
