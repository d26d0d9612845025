"""A stand-in LLM provider: a real HTTP server of OpenAI's protocol that fails on demand.

    python -m tests.support.provider --port 0

It prints its port and serves `GET /v1/models` and `POST /v1/chat/completions`. Its answers are
deterministic. A call fails as its last user message says (`[[fault:status=500,slow=1]]`), or else
as `POST /control/fault` last said; `Fault` lists what can go wrong. `GET /control/calls` tells
what was asked, `POST /control/reset` forgets it.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import re
import resource
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from http.client import responses
from itertools import pairwise
from typing import Any

MODELS = ("stand-in-1", "stand-in-2")
# One moment for all answers, so that equal questions get equal bytes.
CREATED = 1_700_000_000
ECHOED = 200
BIG_PIECE = 4096
FILLER = "x" * 99 + " "
PIECES_BEFORE_A_CUT = 2
DIRECTIVE = re.compile(r"\s*\[\[fault:([^\]]*)\]\]")


# -- what can go wrong --


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a call, several at once where they combine. Times are in seconds."""

    status: int = 0  # an error of this status, in OpenAI's envelope ...
    code: str = ""  # ... with this code
    retry_after: str = ""  # ... and this Retry-After
    slow: float = 0.0  # waits before the first byte
    hang: bool = False  # never answers
    garbage: bool = False  # 200 with what is not JSON
    wrong_json: bool = False  # 200 with JSON of another shape
    cut_before: bool = False  # closes after the headers
    cut: bool = False  # closes after two pieces (plain: within the body)
    no_finish: bool = False  # ends with neither finish_reason nor [DONE]
    error_event: bool = False  # a stream reports an error after two pieces
    empty: bool = False  # the content is empty
    big: int = 0  # the content has this many bytes
    usage_on_choice: bool = False  # a stream's usage stands on its last choice, asked for or not
    gap: float = 0.0  # a pause between the pieces of a stream
    pieces: int = 0  # how many pieces a stream has; the content grows if it is too short

    # Whom it concerns; empty means everybody.
    path: str = ""
    model: str = ""
    times: int = 0

    @classmethod
    def parse(cls, settings: Mapping[str, Any]) -> Fault:
        """Raises ValueError for a name that does not exist, so that no typo tests nothing."""
        defaults = {one.name: one.default for one in fields(cls)}
        unknown = settings.keys() - defaults.keys()
        if unknown:
            raise ValueError(f"unknown fault: {', '.join(sorted(unknown))}")
        return cls(**{name: _like(defaults[name], settings[name]) for name in settings})

    @classmethod
    def from_directive(cls, directive: str) -> Fault:
        """From `status=429,retry_after=2,slow=1`; a name alone switches it on."""
        parts = (part.strip().partition("=") for part in directive.split(",") if part.strip())
        return cls.parse({name: value if equals else True for name, equals, value in parts})

    def concerns(self, path: str, model: str) -> bool:
        return self.path in {"", path} and self.model in {"", model}


def _like(default: Any, value: Any) -> Any:
    """The value as the type of the default; a switch is on, or off by false."""
    if isinstance(default, bool):
        return str(value).lower() == "true"
    if isinstance(value, bool):
        raise ValueError("this fault needs a value: how much of it?")
    return type(default)(value)


# -- what is asked and answered --


@dataclass(slots=True)
class Request:
    """One HTTP request."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any  # the JSON, or the text where it is none
    keep_alive: bool


@dataclass(slots=True)
class Call:
    """One call of a door under /v1; `ended` or `hung_up` (by the client) says how it was left."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any
    began: float = field(default_factory=time.time)
    ended: bool = False
    hung_up: bool = False
    lasted: float | None = None


class Completion:
    """The answer to one chat request, whole or in chunks."""

    def __init__(self, body: dict[str, Any], fault: Fault) -> None:
        self._fault = fault
        self._model = body["model"]
        self._usage_wanted = bool((body.get("stream_options") or {}).get("include_usage"))
        self._content = _content(body, fault)
        words = sum(len(_text(message).split()) for message in body["messages"])
        self._usage = _usage(words, len(self._content.split()))
        canonical = json.dumps(body, sort_keys=True).encode()
        self._id = "chatcmpl-" + hashlib.sha256(canonical).hexdigest()[:29]

    def whole(self) -> dict[str, Any]:
        message = {"role": "assistant", "content": self._content, "refusal": None}
        finish_reason = None if self._fault.no_finish else "stop"
        choice = self._choice("message", message, finish_reason)
        return self._object("chat.completion", [choice]) | {"usage": self._usage}

    def chunks(self) -> Iterator[dict[str, Any]]:
        """All chunks in order: the role, the pieces, and where it finishes, how and the usage."""
        yield self._chunk({"role": "assistant", "content": "", "refusal": None})
        for piece in self._pieces():
            yield self._chunk({"content": piece})
        fault = self._fault
        if fault.no_finish or fault.cut or fault.error_event:
            return
        yield self._chunk({}, "stop", self._usage if fault.usage_on_choice else None)
        if self._usage_wanted and not fault.usage_on_choice:
            yield self._object("chat.completion.chunk", []) | {"usage": self._usage}

    def _pieces(self) -> list[str]:
        content, wanted = self._content, self._fault.pieces
        if not wanted and self._fault.big:
            wanted = -(-len(content) // BIG_PIECE)
        if not wanted:
            return re.findall(r"\s*\S+\s*", content)
        edges = [len(content) * number // wanted for number in range(wanted + 1)]
        return [content[start:end] for start, end in pairwise(edges)]

    def _chunk(
        self,
        delta: dict[str, Any],
        finish_reason: str | None = None,
        usage: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        choice = self._choice("delta", delta, finish_reason)
        chunk = self._object("chat.completion.chunk", [choice])
        # With include_usage every chunk has the field, and only the last a value.
        return chunk | {"usage": usage} if usage or self._usage_wanted else chunk

    def _choice(
        self, name: str, value: dict[str, Any], finish_reason: str | None
    ) -> dict[str, Any]:
        return {"index": 0, name: value, "logprobs": None, "finish_reason": finish_reason}

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": CREATED,
            "model": self._model,
            "service_tier": "default",
            "system_fingerprint": "fp_stand_in",
            "choices": choices,
        }


def _content(body: dict[str, Any], fault: Fault) -> str:
    if fault.empty:
        return ""
    if fault.big:
        return _repeated(FILLER, fault.big)
    # Without the directive: an answer that is asked about again must not fail because of it.
    said = DIRECTIVE.sub("", last_user_message(body["messages"]))
    content = f"echo: {said[:ECHOED]}"
    return content if fault.pieces <= len(content) else _repeated(content + " ", fault.pieces)


def _repeated(text: str, length: int) -> str:
    return (text * (length // len(text) + 1))[:length]


def last_user_message(messages: list[dict[str, Any]]) -> str:
    """The text of the last message of the user, empty where there is none."""
    return next((_text(one) for one in reversed(messages) if one.get("role") == "user"), "")


def _text(message: dict[str, Any]) -> str:
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return " ".join(str(part["text"]) for part in content if "text" in part)


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


def _what_is_wrong(body: Any) -> str | None:
    if not isinstance(body, dict):
        return "We could not parse the JSON body of your request."
    if not isinstance(body.get("model"), str):
        return "you must provide a model parameter"
    messages = body.get("messages")
    if not isinstance(messages, list) or not all(isinstance(one, dict) for one in messages):
        return "Missing required parameter: 'messages'."
    return None


def _error(status: int, message: str, code: str | None = None) -> dict[str, Any]:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    if status == 429:
        code = code or "rate_limit_exceeded"
        kind = "insufficient_quota" if code == "insufficient_quota" else "requests"
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


# -- the server --


class StandIn:
    """What all connections share: the calls seen, and the fault of the day."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.fault = Fault()

    def forget(self) -> None:
        self.calls = []
        self.fault = Fault()

    def fault_for(self, request: Request) -> Fault:
        """The fault that the message asks for, else the fault of the day; one less of it is left.

        Raises ValueError where the message asks for one that does not exist.
        """
        asking = _what_is_wrong(request.body) is None
        said = last_user_message(request.body["messages"]) if asking else ""
        directive = DIRECTIVE.search(said)
        fault = Fault.from_directive(directive[1]) if directive else self.fault
        if not fault.concerns(request.path, request.body["model"] if asking else ""):
            return Fault()
        if fault is self.fault and fault.times:
            self.fault = replace(fault, times=fault.times - 1) if fault.times > 1 else Fault()
        return fault


class Connection(asyncio.Protocol):
    """One client: its requests are answered in turn, each by a task that ends when it hangs up.

    A protocol and not a pair of streams: it learns of the hang-up while an answer waits.
    """

    def __init__(self, stand_in: StandIn) -> None:
        self._stand_in = stand_in
        self._received = bytearray()
        self._answering: asyncio.Task[None] | None = None
        self._keep_alive = True
        self._room = asyncio.Event()
        self._room.set()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._next_request()

    def eof_received(self) -> bool:
        self._hang_up()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._hang_up()

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    # Reading.

    def _hang_up(self) -> None:
        if self._answering:
            self._answering.cancel()

    def _next_request(self) -> None:
        if self._answering or self._transport.is_closing():
            return
        try:
            request = self._take_request()
        except ValueError:
            self._keep_alive = False
            self._send(400, _error(400, "This is not HTTP that the stand-in understands."))
            self._transport.close()
            return
        if request:
            self._keep_alive = request.keep_alive
            self._answering = asyncio.get_running_loop().create_task(self._answer(request))

    def _take_request(self) -> Request | None:
        """The next request, or None while it is still on its way."""
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return None
        start, *lines = self._received[:end].decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        if "transfer-encoding" in headers:
            raise ValueError("only bodies of a known length are read")
        after = end + 4 + int(headers.get("content-length", 0))
        if len(self._received) < after:
            return None
        content = bytes(self._received[end + 4 : after])
        del self._received[:after]
        method, target, version = start.split(" ")
        keep_alive = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
        return Request(method, target.partition("?")[0], headers, _parse(content), keep_alive)

    # Answering.

    async def _answer(self, request: Request) -> None:
        try:
            if request.path.startswith("/control/"):
                self._control(request)
            else:
                await self._record(request)
        except asyncio.CancelledError:
            self._transport.abort()
            return
        except Exception:
            self._transport.abort()
            raise
        self._answering = None
        if not self._keep_alive:
            self._transport.close()
        self._next_request()

    def _control(self, request: Request) -> None:
        door = (request.method, request.path)
        if door == ("GET", "/control/calls"):
            self._send(200, [asdict(call) for call in self._stand_in.calls])
        elif door == ("POST", "/control/reset"):
            self._stand_in.forget()
            self._send(200, {})
        elif door == ("POST", "/control/fault"):
            self._set_fault(request.body or {})
        else:
            self._send(404, _error(404, "There is no such control door."))

    def _set_fault(self, settings: Any) -> None:
        try:
            self._stand_in.fault = Fault.parse(settings)
        except (ValueError, TypeError, AttributeError) as error:
            self._send(400, _error(400, str(error)))
        else:
            self._send(200, asdict(self._stand_in.fault))

    async def _record(self, request: Request) -> None:
        call = Call(request.method, request.path, request.headers, request.body)
        self._stand_in.calls.append(call)
        began = time.monotonic()
        try:
            await self._serve(request)
            call.ended = True
        except asyncio.CancelledError:
            call.hung_up = True
            raise
        finally:
            call.lasted = round(time.monotonic() - began, 3)

    async def _serve(self, request: Request) -> None:
        try:
            fault = self._stand_in.fault_for(request)
        except ValueError as error:
            self._send(400, _error(400, str(error)))
            return
        door = (request.method, request.path)
        body = request.body
        streamed = isinstance(body, dict) and body.get("stream") is True
        if await self._fail_at_once(fault, streamed):
            return
        if door == ("GET", "/v1/models"):
            self._send(200, _models())
        elif door != ("POST", "/v1/chat/completions"):
            message = f"Invalid URL ({request.method} {request.path})"
            self._send(404, _error(404, message))
        elif wrong := _what_is_wrong(body):
            self._send(400, _error(400, wrong))
        elif streamed:
            await self._stream(Completion(body, fault), fault)
        else:
            await self._whole(Completion(body, fault), fault)

    async def _fail_at_once(self, fault: Fault, streamed: bool) -> bool:
        """Do what the fault says before any content; whether that was the whole answer."""
        if fault.slow:
            await asyncio.sleep(fault.slow)
        if fault.hang:
            await asyncio.Event().wait()
        if fault.status:
            message = f"The stand-in was told to answer {fault.status}."
            headers = {"Retry-After": fault.retry_after} if fault.retry_after else {}
            self._send(fault.status, _error(fault.status, message, fault.code or None), headers)
        elif fault.cut_before:
            self._begin(streamed, length=1000)
            self._transport.close()
        elif fault.garbage or fault.wrong_json:
            self._talk_nonsense(streamed, "<html>fine" if fault.garbage else '{"weather": "fine"}')
        else:
            return False
        return True

    def _talk_nonsense(self, streamed: bool, text: str) -> None:
        content = f"data: {text}\n\n".encode() if streamed else text.encode()
        self._begin(streamed, len(content))
        if streamed:
            self._write_chunk(content)
            self._write_chunk(b"")
        else:
            self._transport.write(content)

    async def _whole(self, completion: Completion, fault: Fault) -> None:
        content = json.dumps(completion.whole()).encode()
        self._begin(False, len(content))
        if fault.cut:
            self._transport.write(content[: len(content) // 2])
            self._transport.close()
            return
        self._transport.write(content)
        await self._flush()

    async def _stream(self, completion: Completion, fault: Fault) -> None:
        self._begin(True)
        for number, chunk in enumerate(completion.chunks()):
            # The first chunk holds only the role: it and the first piece go out together.
            if number > 1 and fault.gap:
                await asyncio.sleep(fault.gap)
            if number > PIECES_BEFORE_A_CUT and (fault.cut or fault.error_event):
                break
            self._write_event(json.dumps(chunk))
            await self._flush()
        if fault.cut:
            self._transport.close()
            return
        if fault.error_event:
            self._write_event(json.dumps(_error(500, "The stand-in failed in its stream.")))
        elif not fault.no_finish:
            self._write_event("[DONE]")
        self._write_chunk(b"")

    # Writing.

    def _send(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        content = json.dumps(body).encode()
        self._write_head(
            status,
            {"Content-Type": "application/json", "Content-Length": str(len(content))}
            | dict(headers or {}),
        )
        self._transport.write(content)

    def _begin(self, streamed: bool, length: int = 0) -> None:
        """The head of a good answer; `length` in bytes is what a plain one promises."""
        headers = {"Content-Type": "application/json", "Content-Length": str(length)}
        if streamed:
            headers = {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"}
        self._write_head(200, headers)

    def _write_head(self, status: int, headers: Mapping[str, str]) -> None:
        if not self._keep_alive:
            headers = {**headers, "Connection": "close"}
        named = (f"{name}: {value}" for name, value in headers.items())
        lines = [f"HTTP/1.1 {status} {responses.get(status, 'Unknown')}", *named]
        self._transport.write("\r\n".join([*lines, "", ""]).encode())

    async def _flush(self) -> None:
        """Wait until the client keeps up, and let the loop see whether it is still there."""
        await self._room.wait()
        await asyncio.sleep(0)

    def _write_event(self, data: str) -> None:
        self._write_chunk(f"data: {data}\n\n".encode())

    def _write_chunk(self, content: bytes) -> None:
        """A chunk of a chunked body; the empty one ends it."""
        self._transport.write(b"%x\r\n%b\r\n" % (len(content), content))


def _parse(content: bytes) -> Any:
    try:
        return json.loads(content) if content else None
    except ValueError:
        return content.decode(errors="replace")


def _models() -> dict[str, Any]:
    listed = [
        {"id": name, "object": "model", "created": CREATED, "owned_by": "stand-in"}
        for name in MODELS
    ]
    return {"object": "list", "data": listed}


async def serve(port: int) -> None:
    stand_in = StandIn()
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(stand_in), "127.0.0.1", port, backlog=4096
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 means any free one")
    # Room for thousands of open streams.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(serve(parser.parse_args().port))


if __name__ == "__main__":
    main()
