"""A stand-in LLM provider: a real HTTP server with OpenAI's protocol that fails on demand.

    python -m tests.support.provider --port 0

It prints its port and serves OpenAI's models, chat completions, responses and embeddings under
/v1, the same as Azure has them under /azure/openai, and Anthropic's messages and models under
/anthropic/v1. Its answers are deterministic. A call fails as its last user message says
(`[[fault:status=500,slow=1]]`), or else as `POST /control/fault` last set. `Fault` lists the
faults. `GET /control/calls` lists the calls, `POST /control/reset` forgets them.
Batches are those of `tests.support.provider_batches`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import resource
import socket
import struct
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from http.client import responses
from typing import Any

from tests.support import anthropic, completions, habits
from tests.support import responses as kept_responses
from tests.support.completions import Completion, last_user_message
from tests.support.faults import Fault
from tests.support.provider_batches import ProviderBatches

PIECES_BEFORE_A_CUT = 2
ANTHROPIC = "/anthropic/v1/"
# Azure's two kinds of paths: its v1 API, and one with a deployment in the path.
AZURE = re.compile(r"/azure/openai/(?:v1|deployments/[^/]+)?/?(.*)")
DIRECTIVE = re.compile(r"\s*\[\[fault:([^\]]*)\]\]")


# -- requests and calls --


@dataclass(slots=True)
class Request:
    """One HTTP request."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: Any  # the parsed JSON, or the text if it is not JSON
    keep_alive: bool
    content: bytes

    @property
    def endpoint(self) -> tuple[str, str]:
        """The method, and the path in OpenAI's form."""
        azure = AZURE.fullmatch(self.path)
        return self.method, f"/v1/{azure[1]}" if azure else self.path


@dataclass(slots=True)
class Call:
    """One call of an endpoint under /v1; `ended` or `hung_up` (by the client) says how it was left.

    `served` is (input, output) in the tokens that it would be charged for, as far as the answer
    came; `told` means that the client got the usage.
    """

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: Any
    began: float = field(default_factory=time.time)
    ended: bool = False
    hung_up: bool = False
    lasted: float | None = None
    served: tuple[int, int] = (0, 0)
    told: bool = False


# -- the server --


class StandIn:
    """The state that all connections share: the calls, and the current fault."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.fault = Fault()
        self.batches = ProviderBatches()
        self.responses = kept_responses.KeptResponses()

    def forget(self) -> None:
        self.calls = []
        self.fault = Fault()
        self.batches = ProviderBatches()
        self.responses = kept_responses.KeptResponses()

    def fault_for(self, request: Request) -> Fault:
        """The fault that the message requests, or else the current fault, which is counted down.

        Raises ValueError where the message asks for one that does not exist.
        """
        body = request.body if isinstance(request.body, dict) else {}
        messages = body.get("messages")
        if request.endpoint == ("POST", kept_responses.PATH):
            messages = kept_responses.messages_of(body)
        asking = isinstance(messages, list) and all(isinstance(one, dict) for one in messages)
        directive = DIRECTIVE.search(last_user_message(messages) if asking else "")
        fault = Fault.from_directive(directive[1]) if directive else self.fault
        if not fault.concerns(request.path, str(body.get("model", ""))):
            return Fault()
        if fault is self.fault and fault.times:
            self.fault = replace(fault, times=fault.times - 1) if fault.times > 1 else Fault()
        return fault


class Connection(asyncio.Protocol):
    """One client connection. Requests are answered in turn, each by a task that ends if it closes.

    A protocol and not a pair of streams: it learns of the hang-up while an answer waits.
    """

    def __init__(self, stand_in: StandIn) -> None:
        self._stand_in = stand_in
        self._received = bytearray()
        self._answering: asyncio.Task[None] | None = None
        self._keep_alive = True
        self._call: Call | None = None
        self._room = asyncio.Event()
        self._room.set()
        self._answered = 0  # requests on this connection
        self._head_written = False
        self._added_headers: dict[str, str] = {}

    # Called by asyncio.

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
            self._send(
                400, completions.error(400, "This is not HTTP that the stand-in understands.")
            )
            self._transport.close()
            return
        if request:
            self._keep_alive = request.keep_alive
            self._answering = asyncio.get_running_loop().create_task(self._answer(request))

    def _take_request(self) -> Request | None:
        """The next request, or None while it is incomplete."""
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
        path, _, query = target.partition("?")
        return Request(method, path, query, headers, _parse(content), keep_alive, content)

    # Answering.

    async def _answer(self, request: Request) -> None:
        self._head_written = False
        self._added_headers = {}
        try:
            if request.path.startswith("/control/"):
                self._control(request)
            else:
                await self._record(request)
        except asyncio.CancelledError:
            self._transport.abort()
            return
        except Exception:
            if self._head_written or not self._call:
                self._transport.abort()
                raise
            # A body that none of its tests has: providers refuse what they cannot read.
            self._call.served, self._call.told = (0, 0), False
            self._send(400, completions.error(400, "We could not understand the body."))
        self._answering = None
        if not self._keep_alive:
            self._transport.close()
        self._next_request()

    def _control(self, request: Request) -> None:
        endpoint = (request.method, request.path)
        if endpoint == ("GET", "/control/calls"):
            self._send(200, [asdict(call) for call in self._stand_in.calls])
        elif endpoint == ("POST", "/control/reset"):
            self._stand_in.forget()
            self._send(200, {})
        elif request.path == "/control/batches":
            self._send(*self._stand_in.batches.control(request.method, request.body))
        elif endpoint == ("POST", "/control/fault"):
            self._set_fault(request.body or {})
        else:
            self._send(404, completions.error(404, "There is no such control endpoint."))

    def _set_fault(self, settings: Any) -> None:
        try:
            self._stand_in.fault = Fault.parse(settings)
        except (ValueError, TypeError, AttributeError) as error:
            self._send(400, completions.error(400, str(error)))
        else:
            self._send(200, asdict(self._stand_in.fault))

    async def _record(self, request: Request) -> None:
        call = Call(request.method, request.path, request.query, request.headers, request.body)
        self._stand_in.calls.append(call)
        self._call = call
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
            self._send(400, completions.error(400, str(error)))
            return
        pairs = (line.partition(":") for line in fault.headers.splitlines())
        self._added_headers = {name: value.strip() for name, _, value in pairs}
        endpoint, body = request.endpoint, request.body
        streamed = isinstance(body, dict) and body.get("stream") is True
        self._answered += 1
        if self._answered > 1 and (fault.close_reused or fault.reset_reused):
            self._drop(reset=fault.reset_reused)
            return
        if refused := self._refused_parameter(fault, body):
            self._send(*refused)
            return
        if await self._fail_at_once(fault, streamed, request.path):
            return
        if endpoint == ("GET", "/v1/models"):
            models = completions.models()
            self._send(200, [*models["data"], "noise"] if fault.habit == "bare_list" else models)
        elif endpoint[1].startswith("/v1/models/"):
            self._send(*completions.model(endpoint[1].removeprefix("/v1/models/")))
        elif endpoint == ("POST", "/v1/embeddings"):
            status, answer = completions.embeddings(body)
            self._serve_usage(answer.get("usage"), told=True)
            self._send(status, answer)
        elif endpoint[1].startswith(("/v1/files", "/v1/batches")):
            await self._serve_batches(request, fault)
        elif request.path.startswith(ANTHROPIC):
            await self._serve_anthropic(request, fault, streamed)
        elif endpoint[1].startswith(kept_responses.PATH):
            await self._serve_responses(request, fault, streamed)
        elif endpoint != ("POST", "/v1/chat/completions"):
            message = f"Invalid URL ({request.method} {request.path})"
            self._send(404, completions.error(404, message))
        elif wrong := completions.what_is_wrong(body):
            self._send(400, completions.error(400, wrong))
        elif fault.habit:
            await self._follow_habit(Completion(body, fault), fault, streamed)
        elif streamed:
            await self._stream(Completion(body, fault), fault)
        else:
            completion = Completion(body, fault)
            self._serve_usage(completion.usage, told=not (fault.no_usage or fault.cut))
            await self._whole(completion.whole(), fault)

    async def _serve_batches(self, request: Request, fault: Fault) -> None:
        batches, (method, path) = self._stand_in.batches, request.endpoint
        if request.path.startswith(ANTHROPIC):
            path = request.path.removeprefix(ANTHROPIC)
            answer = batches.anthropic(method, path, request.query, request.body)
        else:
            answer = batches.openai(method, path, request.query, request.headers, request.content)
        if fault.hang_after:
            await asyncio.Event().wait()
        if fault.cut_after:
            self._transport.close()
        elif fault.cut and isinstance(answer[1], str):
            content = answer[1].encode()
            self._begin(False, len(content))
            self._transport.write(content[: len(content) // 2])
            self._transport.close()
        else:
            self._send(*answer)

    async def _follow_habit(self, completion: Completion, fault: Fault, streamed: bool) -> None:
        habit = habits.HABITS[fault.habit]
        self._serve_usage(completion.usage, told=True)
        if streamed and fault.habit not in habits.WHOLE:
            content = habit.stream(list(completion.chunks()))
            self._begin(True, headers=habit.headers)
            for start in range(0, len(content), fault.split or len(content)):
                self._write_chunk(content[start : start + (fault.split or len(content))])
                await self._flush()
            self._write_chunk(b"")
        else:
            content = habit.whole(completion.whole())
            self._begin(False, len(content), habit.headers)
            self._transport.write(content)
            await self._flush()

    def _refused_parameter(self, fault: Fault, body: Any) -> habits.Answer | None:
        """The refusal of a parameter that the body has."""
        for name in fault.refuses.split("+") if isinstance(body, dict) else ():
            if name in body:
                return habits.PARAMETER_REFUSALS[fault.refuses_like](name)
        return None

    def _drop(self, *, reset: bool) -> None:
        """Close the connection without a byte."""
        if reset:
            linger = struct.pack("ii", 1, 0)
            self._transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, linger
            )
            self._transport.abort()
        else:
            self._transport.close()

    async def _serve_anthropic(self, request: Request, fault: Fault, streamed: bool) -> None:
        endpoint = (request.method, request.path.removeprefix(ANTHROPIC))
        if wrong := anthropic.what_is_wrong(endpoint, request.headers, request.body):
            self._send(*wrong)
        elif endpoint[1].startswith("messages/batches"):
            await self._serve_batches(request, fault)
        elif endpoint[0] == "GET":
            self._send(200, anthropic.models())
        elif endpoint == anthropic.COUNT:
            self._send(200, anthropic.count(request.body))
        elif streamed:
            await self._stream_anthropic(anthropic.Reply(request.body, fault), fault)
        else:
            reply = anthropic.Reply(request.body, fault)
            self._serve_usage(reply.usage, told=not fault.cut)
            await self._whole(reply.whole(), fault)

    async def _serve_responses(self, request: Request, fault: Fault, streamed: bool) -> None:
        kept, (method, path) = self._stand_in.responses, request.endpoint
        if path != kept_responses.PATH:
            below = path.removeprefix(f"{kept_responses.PATH}/")
            self._send(*kept.answer(method, below, request.query))
        elif wrong := kept.what_is_wrong(request.body):
            self._send(*wrong)
        else:
            response = kept_responses.Response(request.body, fault)
            kept.keep(request.body, response.whole())
            if streamed:
                await self._stream_response(response, fault)
            elif fault.error_event:
                event = response.failed(0, fault.code or "server_error")
                await self._whole(event["response"], fault)
            else:
                self._serve_usage(response.served, told=not (fault.cut or fault.no_usage))
                await self._whole(response.whole(), fault)

    async def _stream_response(self, response: kept_responses.Response, fault: Fault) -> None:
        self._begin(True)
        sent = number = 0
        for event in response.events():
            number = event["sequence_number"]
            piece = event["type"].endswith(".delta")
            if piece and sent and fault.gap:
                await asyncio.sleep(fault.gap)
            if piece and sent == PIECES_BEFORE_A_CUT and (fault.cut or fault.error_event):
                break
            if event["type"].endswith(".in_progress") and fault.habit:
                break
            sent += piece
            ended = event["type"] in {"response.completed", "response.incomplete"}
            usage = response.served | ({} if ended else {"output_tokens": sent})
            self._serve_usage(usage, told=ended and not fault.no_usage)
            self._write_event(json.dumps(event), event["type"])
            await self._flush()
            if fault.role_then_cut:
                break
        if fault.cut or fault.role_then_cut:
            self._transport.close()
            return
        if fault.error_event or fault.habit:
            failed = response.failed(number + 1, fault.code or "server_error")
            if fault.habit == "error_object":
                failed = {"type": "error", "param": None, **failed["response"]["error"]}
            self._write_event(json.dumps(failed), failed["type"])
        self._write_chunk(b"")

    def _serve_usage(self, usage: Mapping[str, Any] | None, *, told: bool) -> None:
        assert self._call
        if usage:
            names = [("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens")]
            served = [usage.get(openai, usage.get(anthropic)) for openai, anthropic in names]
            self._call.served = (served[0], served[1] or 0)
            self._call.told = told

    async def _fail_at_once(self, fault: Fault, streamed: bool, path: str) -> bool:
        """Apply the fault before any content. Returns whether that was the whole response."""
        if fault.slow:
            await asyncio.sleep(fault.slow)
        if fault.hang:
            await asyncio.Event().wait()
        if fault.refusal:
            refusal = habits.REFUSALS[fault.refusal]
            self._send(refusal.status, refusal.body)
        elif fault.status:
            message = f"The stand-in was told to answer {fault.status}."
            headers = {"Retry-After": fault.retry_after} if fault.retry_after else {}
            says = anthropic.error if path.startswith(ANTHROPIC) else completions.error
            self._send(fault.status, says(fault.status, message, fault.code or None), headers)
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

    async def _whole(self, body: Any, fault: Fault) -> None:
        content = json.dumps(body).encode()
        self._begin(False, len(content))
        if fault.cut:
            self._transport.write(content[: len(content) // 2])
            self._transport.close()
            return
        self._transport.write(content)
        await self._flush()

    async def _stream(self, completion: Completion, fault: Fault) -> None:
        self._begin(True)
        words = 0
        last: dict[int, str] = {}  # the last character of each choice
        for number, chunk in enumerate(completion.chunks()):
            # The first chunk has only the role. It is sent together with the first piece.
            if number > 1 and fault.gap:
                await asyncio.sleep(fault.gap)
            if number > PIECES_BEFORE_A_CUT and (fault.cut or fault.error_event):
                break
            for choice in chunk["choices"]:
                piece = choice["delta"].get("content") or ""
                # What has been said is not counted again with each piece: it may be 10 MB.
                before = last.get(choice["index"], "")
                words += len((before + piece).split()) - len(before.split())
                last[choice["index"]] = (before + piece)[-1:]
            prompt = completion.usage["prompt_tokens"]
            usage = {"prompt_tokens": prompt, "completion_tokens": words}
            self._serve_usage(chunk.get("usage") or usage, told=bool(chunk.get("usage")))
            self._write_event(json.dumps(chunk))
            await self._flush()
            if fault.role_then_cut:
                break
        if fault.cut or fault.role_then_cut:
            self._transport.close()
            return
        if fault.error_event:
            self._write_event(
                json.dumps(completions.error(500, "The stand-in failed in its stream."))
            )
        elif not fault.no_finish:
            self._write_event("[DONE]")
        self._write_chunk(b"")

    async def _stream_anthropic(self, reply: anthropic.Reply, fault: Fault) -> None:
        self._begin(True)
        if fault.habit == "error_event":
            self._write_event(json.dumps(anthropic.error(529, "Overloaded")), "error")
            self._write_chunk(b"")
            return
        sent = 0
        for event in reply.events():
            piece = event["type"] == "content_block_delta"
            if piece and sent and fault.gap:
                await asyncio.sleep(fault.gap)
            if piece and sent == PIECES_BEFORE_A_CUT and (fault.cut or fault.error_event):
                break
            sent += piece
            usage = reply.usage | {"output_tokens": sent}
            ended = event["type"] == "message_delta"
            self._serve_usage(reply.usage if ended else usage, told=ended)
            self._write_event(json.dumps(event), event["type"])
            await self._flush()
            if fault.role_then_cut:
                break
        if fault.cut or fault.role_then_cut:
            self._transport.close()
            return
        if fault.error_event:
            failed = anthropic.error(529, "The stand-in failed in its stream.")
            self._write_event(json.dumps(failed), "error")
        self._write_chunk(b"")

    # Writing.

    def _send(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        content = (body if isinstance(body, str) else json.dumps(body)).encode()
        self._write_head(
            status,
            {"Content-Type": "application/json", "Content-Length": str(len(content))}
            | dict(headers or {}),
        )
        self._transport.write(content)

    def _begin(
        self, streamed: bool, length: int = 0, headers: Mapping[str, str] | None = None
    ) -> None:
        """The head of a successful response. `length` is the Content-Length of a plain one."""
        head = {"Content-Type": "application/json", "Content-Length": str(length)}
        if streamed:
            head = {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"}
        self._write_head(200, head | dict(headers or {}))

    def _write_head(self, status: int, headers: Mapping[str, str]) -> None:
        self._head_written = True
        headers = {**headers, **self._added_headers}
        if not self._keep_alive:
            headers = {**headers, "Connection": "close"}
        named = (f"{name}: {value}" for name, value in headers.items())
        lines = [f"HTTP/1.1 {status} {responses.get(status, 'Unknown')}", *named]
        self._transport.write("\r\n".join([*lines, "", ""]).encode())

    async def _flush(self) -> None:
        """Wait until the client has read enough, and let the loop notice a closed connection."""
        await self._room.wait()
        await asyncio.sleep(0)

    def _write_event(self, data: str, name: str = "") -> None:
        named = f"event: {name}\n" if name else ""
        self._write_chunk(f"{named}data: {data}\n\n".encode())

    def _write_chunk(self, content: bytes) -> None:
        """A chunk of a chunked body. An empty one ends it."""
        self._transport.write(b"%x\r\n%b\r\n" % (len(content), content))


def _parse(content: bytes) -> Any:
    try:
        return json.loads(content) if content else None
    except ValueError:
        return content.decode(errors="replace")


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
