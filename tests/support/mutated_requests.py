"""Requests as no client sends them, as bytes: valid ones of every endpoint, mutated at random."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import unescape
from random import Random
from typing import Any
from urllib.parse import quote, urlencode

JSON = "application/json"
TEXTS: list[Any] = [
    "",
    " ",
    "x",
    "\0",
    "\ud800",
    "\udfff\ud800",
    "😀" * 50,
    "\u202egnp.",
    "\u2028",
    "é" * 300,
    "x" * 70_000,
    "%00",
    "../../etc",
    "NaN",
    "1e999",
    "'; --",
    "{{7*7}}",
    "a\r\nX-A: b",
    "\ufeff",
    "ﷺ" * 2_000,
    "٣",
    "²",
    "2026-02-30",
    "9999-12-31T23:59:59Z",
    "9999-12-31T23:59:59-14:00",
    "0001-01-01T00:00:00+14:00",
    "0001-01-01",
    "true",
    "null",
]
VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**53 + 1,
    2**63,
    -(2**64),
    10**400,
    0.1,
    -0.0,
    1e308,
    1e-320,
    [],
    {},
    [[]],
    [None],
    [{}],
    {"": ""},
    {"type": "text"},
    {"a": {"b": {"c": []}}},
    ["x"] * 2_000,
    *TEXTS,
]
# What JSON text may hold and a parser must refuse or survive.
RAW_VALUES = [
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"-",
    b"01",
    b"'x'",
    b'"\\ud800"',
    b'"\\u0000"',
    b'"\xff"',
    b'"\xed\xa0\x80"',
    b"9" * 5_000,
    b"1." + b"0" * 3_000,
    b"[" * 20_000,
    b'{"a":' * 20_000,
    b"tru",
    b'"\\x"',
    b"/**/1",
    b'"' + b"\\u0041" * 5_000 + b'"',
    b"[" + b"{}," * 30_000 + b"{}]",
]
FIELDS = [
    "model",
    "messages",
    "input",
    "stream",
    "stream_options",
    "n",
    "max_tokens",
    "temperature",
    "stop",
    "max_completion_tokens",
    "tools",
    "tool_choice",
    "response_format",
    "user",
    "metadata",
    "logprobs",
    "message",
    "history",
    "system",
    "text",
    "prompt",
    "length",
    "features",
    "requests",
    "limits",
    "tier",
    "name",
    "role",
    "content",
    "username",
    "password",
    "expires_at",
    "until",
    "usd",
    "grace",
    "",
    "__proto__",
    "constructor",
    "\ud800",
    "x" * 5_000,
]
CONTENT_TYPES = [
    "",
    "text/plain",
    "application/json; charset=utf-16",
    "application/json;",
    "application/JSON",
    "application/x-www-form-urlencoded",
    "multipart/form-data",
    "multipart/form-data; boundary=",
    "multipart/form-data; boundary=x",
    "application/vnd.x+json",
    "a" * 3_000,
    "application/json, text/x",
    'application/json; charset="',
    "application/json;charset=nope",
    "\xe9/\xe9",
]
HEADER_VALUES: dict[str, list[str]] = {
    "Content-Length": [
        "-1",
        "+5",
        "0",
        "5, 5",
        "99999999999999999999",
        "0x10",
        "",
        "1e3",
        "٣",
        "1_0",
    ],
    "Transfer-Encoding": [
        "chunked",
        "chunked, chunked",
        "identity",
        "gzip, chunked",
        "x",
        "Chunked ",
        "",
    ],
    "Content-Encoding": ["gzip", "br", "deflate", "identity", "x"],
    "Expect": ["100-continue", "100-Continue", "x", ""],
    "Range": [
        "bytes=0-10",
        "bytes=-5",
        "bytes=5-1",
        "bytes=0-0,2-3",
        "x=1",
        "bytes=" + "0-1," * 900,
    ],
    "Idempotency-Key": ["a", "a b", "", "é", "x" * 255, "x" * 256, "same", "same", "\t"],
    "traceparent": [
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-" + "0" * 32 + "-x-01",
        "ff-",
        "",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        "é",
    ],
    "tracestate": ["a=b", "=" * 500, ","],
    "X-Request-ID": ["a", "", "x" * 129, "a b", "é", "<script>", "'"],
    "X-Forwarded-For": [
        "",
        ",",
        "unknown",
        "fe80::1%eth0",
        "[::1]:x",
        "1.2.3.4:99999",
        "1.1.1.1, " * 500,
        "::ffff:1.2.3.4",
        "é",
        "999.1.1.1",
        "[",
        "2001:db8::1%25e",
    ],
    "X-Forwarded-Proto": ["https", "javascript", "", "https,http", "é"],
    "X-Forwarded-Host": ["x.example", "a b", "[::1", "x:99999", "", "é", "a" * 2_000],
    "X-Forwarded-Prefix": ["/a", "/../a", "//a", "/a?b", "é", "/" + "a/" * 500],
    "X-Forwarded-Port": ["x", "-1"],
    "Host": ["", "x", "[::1", "x:y", "a b", "é", "x, y", "a" * 3_000, "127.0.0.1:99999"],
    "Accept": [
        "text/html",
        "*/*;q=x",
        "text/html;q=0",
        "," * 500,
        "application/openmetrics-text",
        "é",
    ],
    "Accept-Encoding": ["gzip", "*;q=0", "br;q=x"],
    "Accept-Language": ["de-DE", "x" * 2_000, "é"],
    "Authorization": [
        "",
        "Bearer",
        "Bearer ",
        "Basic x",
        "Bearer " + "a." * 900,
        "bearer é",
        "Bearer a.b.c",
    ],
    "X-API-Key": ["", "x", "é", "x" * 7_000, "weir_", "weir_" + "a" * 12 + "_" + "b" * 43],
    "Cookie": [
        "session=x",
        "session=" + "e30." * 500,
        "=;;=",
        "é",
        "session=;session=",
        "a" * 4_000,
    ],
    "Origin": ["null", "http://x", "é", "http://[", ""],
    "Access-Control-Request-Method": ["POST", "", "é"],
    "Access-Control-Request-Headers": ["x-a, " * 500, "é"],
    "If-None-Match": ["*", "W/", '"x"', "é"],
    "If-Modified-Since": ["x", "Mon, 99 Feb 2026 00:00:00 GMT", "Mon, 01 Jan 0000 00:00:00 GMT"],
    "Cache-Control": [
        "no-cache",
        "max-age=x",
        "max-age=99999999999999999999",
        "only-if-cached",
        "=,=",
    ],
    "Connection": ["close", "keep-alive", "upgrade", "close, keep-alive", "x" * 500],
    "Upgrade": ["websocket", "h2c"],
    "Prefer": ["respond-async", "wait=x"],
    "Content-Type": CONTENT_TYPES,
    "OpenAI-Organization": ["x", "é"],
}
# After the head has gone wrong this way, nobody has to answer each request.
BROKEN_LINES = [
    b"X-A: b\nX-B: c",
    b"X-A: b\rX-B: c",
    b"X-A: \0",
    b"X-A",
    b": x",
    b" X-A: b",
    b"X A: b",
    b"X-A : b",
    b"X-A: b\r\n\tc",
    b"X-\xe9: b",
    b"X_API_KEY: x",
    b"X-A: " + b"a" * 9_000,
    b"A: b\r\n" * 150 + b"A: b",
    b"X-A: \x7f",
    b"\0",
]
PATHS = [
    "*",
    "/%",
    "/%zz",
    "/%00",
    "/%2e%2e/etc/passwd",
    "/static/../wsgi.py",
    "/static/%2e%2e/wsgi.py",
    "//",
    "/static/..%2f..%2fwsgi.py",
    "/static/",
    "/static/nope.css",
    "/v1",
    "/v1/",
    "/v1/v1/chat",
    "/nope",
    "/dashboard/requests/%00",
    "/dashboard/keys/99999999999999999999999",
    "/dashboard/keys/-1",
    "///v1//chat",
    "/v1/models/%ff%fe",
    "/v1/models/" + "x" * 3_000,
    "/v1/models/..%2f..",
    "/" + "a/" * 1_000,
    "/é",
    "/\x80",
    "http://x/liveness",
    "http://[/liveness",
    "/liveness?" + "a&" * 2_000,
    "/liveness#x",
    "/;x",
    "/docs/../chat",
    "/dashboard/../chat",
    "/favicon.ico",
    "/robots.txt",
    "/docs",
    "/redoc",
    "/openapi.json",
    "/?" + "%" * 99,
]
METHODS = [
    "GET",
    "POST",
    "PUT",
    "DELETE",
    "PATCH",
    "HEAD",
    "OPTIONS",
    "TRACE",
    "CONNECT",
    "PROPFIND",
    "get",
]
QUERIES = [
    "after",
    "before",
    "limit",
    "page",
    "since",
    "until",
    "by",
    "key",
    "model",
    "provider",
    "endpoint",
    "status",
    "format",
    "range",
    "state",
    "owner",
    "origin",
    "target",
    "request_id",
    "q",
    "days",
    "next",
]


@dataclass(frozen=True)
class Attempt:
    """Bytes for one connection, and how they are sent.

    `methods` are those of its requests. All of an intact one must be answered, in order.
    """

    label: str
    parts: list[bytes]
    methods: list[str]
    intact: bool = True
    pause: float = 0.0  # seconds between parts
    ending: str = "read"  # or cut, half-close, unread

    @property
    def raw(self) -> bytes:
        return b"".join(self.parts)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A method and a path with the body of a valid request: JSON, or fields of a form."""

    method: str
    path: str
    body: Any = None
    form: bool = False
    queries: tuple[str, ...] = ()


@dataclass
class MutatedRequests:
    """Makes attempts. The credentials are header lines; `values` stand for parameters of paths."""

    random: Random
    endpoints: Sequence[Endpoint]
    credentials: dict[str, list[str]]
    values: dict[str, list[str]] = field(default_factory=dict)

    def make(self) -> Attempt:
        chance = self.random
        many = 1 if chance.random() < 0.85 else chance.randint(2, 5)
        made = [self._request() for _ in range(many)]
        raw = b"".join(request for request, _, _ in made)
        methods = [method for _, method, _ in made]
        broken = next((broken for _, _, broken in made if broken), "")
        parts, pause, ending = [raw], 0.0, "read"
        kind = chance.random()
        if kind < 0.06:
            cut = chance.randint(1, len(raw))
            parts, ending = [raw[:cut]], chance.choice(["cut", "half-close"])
            broken = "cut"
        elif kind < 0.12:
            size = max(1, len(raw) // chance.randint(2, 12))
            parts = [raw[at : at + size] for at in range(0, len(raw), size)]
            pause = chance.choice([0.0, 0.02, 0.2])
        elif kind < 0.14:
            parts, pause = [bytes([byte]) for byte in raw[:400]] + [raw[400:]], 0.0
        elif kind < 0.18:
            ending, broken = "unread", "unread"
        return Attempt(broken or "intact", parts, methods, not broken, pause, ending)

    def _request(self) -> tuple[bytes, str, str]:
        """The bytes of a request, its method, and how it is broken, if it is."""
        chance = self.random
        endpoint = chance.choice(self.endpoints)
        method = endpoint.method if chance.random() < 0.93 else chance.choice(METHODS)
        target = self._target(endpoint)
        kind, body = self._body(endpoint)
        broken = ""
        headers = [("Host", "127.0.0.1"), *self._credential(endpoint)]
        if kind and chance.random() < 0.95:
            headers.append(("Content-Type", kind))
        framing, sent, broken = self._framed(body)
        headers += framing
        if chance.random() < 0.35:
            for _ in range(chance.randint(1, 4)):
                name = chance.choice(list(HEADER_VALUES))
                value = chance.choice([*HEADER_VALUES[name], *HEADER_VALUES[name], *TEXTS[:8]])
                if name in {
                    "Content-Length",
                    "Transfer-Encoding",
                    "Expect",
                    "Connection",
                    "Upgrade",
                }:
                    broken = broken or name
                headers.append((name, value))
        chance.shuffle(headers)
        lines = [f"{name}: {value}".encode("latin-1", "ignore") for name, value in headers]
        if chance.random() < 0.04:
            lines.insert(chance.randint(0, len(lines)), chance.choice(BROKEN_LINES))
            broken = broken or "header"
        version = b"HTTP/1.1"
        if chance.random() < 0.03:
            version = chance.choice(
                [b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.2", b"HTTP/9", b"http/1.1", b""]
            )
            broken = broken or "version"
        # A value that Gunicorn must refuse ends the connection: what was pipelined goes unanswered.
        if any((byte < 32 and byte != 9) or byte == 127 for line in lines for byte in line):
            broken = broken or "header"
        end = b"\r\n"
        if chance.random() < 0.02:
            end, broken = chance.choice([b"\n", b"\r", b"\r\r\n", b" \r\n"]), broken or "line end"
        first = method.encode() + b" " + target.encode("utf-8", "surrogatepass") + b" " + version
        head = end.join([first, *lines, b"", b""])
        return head + sent, method, broken

    def _credential(self, endpoint: Endpoint) -> list[tuple[str, str]]:
        chance = self.random
        kind = next((p for p in ("admin", "dashboard") if endpoint.path.startswith(f"/{p}")), "key")
        if chance.random() < 0.08:
            kind = chance.choice([*self.credentials, "none"])
        if kind == "none":
            return []
        name, _, value = chance.choice(self.credentials[kind]).partition(": ")
        address = f"10.{chance.randint(0, 255)}.{chance.randint(0, 255)}.{chance.randint(1, 254)}"
        return [(name, value), ("X-Forwarded-For", address)]

    # -- paths --

    def _target(self, endpoint: Endpoint) -> str:
        chance = self.random
        if chance.random() < 0.04:
            return chance.choice(PATHS)
        path = re.sub(r"{(\w+)}", lambda found: self._parameter(found[1]), endpoint.path)
        if chance.random() < 0.08:
            at = chance.randint(0, len(path))
            odd = [
                "/..",
                "//",
                "%2f",
                "%00",
                "/",
                "%",
                "%2e%2e/",
                "é",
                "\\",
                ";",
                "/v1",
                "%f0%9f",
                "?",
                "#",
            ]
            path = path[:at] + chance.choice(odd) + path[at:]
        if chance.random() < (0.4 if endpoint.queries else 0.08):
            names = [*endpoint.queries, *endpoint.queries, chance.choice(QUERIES)]
            pairs = [
                (chance.choice(names), self._query_value()) for _ in range(chance.randint(1, 4))
            ]
            path += "?" + urlencode(pairs, errors="surrogatepass")
            if chance.random() < 0.1:
                path += chance.choice(
                    ["&&&", "&=", "&%", "&a=%zz", "&a=%ff", "&a[]=1", ";b=1", "&limit"]
                )
        return re.sub(r"[\s\x00-\x1f]", "", path)[:7_000]

    def _parameter(self, name: str) -> str:
        chance = self.random
        if chance.random() < 0.7 and self.values.get(name):
            return chance.choice(self.values[name])
        return quote(
            chance.choice(["999999", "-1", "0", "x", "9" * 30, "1.5", "%00", "é", "٣", ".."]),
            safe="%",
        )

    def _query_value(self) -> str:
        chance = self.random
        good = [
            "1",
            "0",
            "-1",
            "2026-01-01",
            "day",
            "model",
            "key,model",
            "csv",
            "json",
            "active",
            "24h",
            "500",
        ]
        return str(chance.choice([*good, *good, *TEXTS, 10**30, 2**63, 2**31]))[:2_000]

    # -- bodies --

    def _body(self, endpoint: Endpoint) -> tuple[str, bytes]:
        """The content type and the bytes; both empty where there is no body."""
        chance = self.random
        if endpoint.form:
            return self._form(endpoint)
        if endpoint.body is None:
            return (JSON, b"{}") if chance.random() < 0.1 else ("", b"")
        kind = JSON if chance.random() < 0.95 else chance.choice(CONTENT_TYPES)
        value = json.loads(json.dumps(endpoint.body))
        self._vary(value)
        if chance.random() < 0.6:
            for _ in range(chance.randint(1, 3)):
                value = self._mutated(value)
        body = self._encoded(value)
        if chance.random() < 0.15:
            body = chance.choice(self._spoilers())(body)
        return kind, body

    def _vary(self, body: dict[str, Any]) -> None:
        """Let a valid body ask something new, often of a slow or long-winded model, or streamed."""
        chance = self.random
        text = f"{chance.random()} of a text that is long enough to be summarized. "
        if chance.random() < 0.3:
            text += chance.choice(
                ["[[fault:slow=0.3]]", "[[fault:gap=0.05]]", "[[fault:big=300000]]"]
            )
        if chance.random() < 0.2:
            text = "The same text, which is asked for again and again."
        for name in ("message", "prompt", "text", "input"):
            if name in body:
                body[name] = text
        if "messages" in body:
            body["messages"] = [{"role": "user", "content": text}]
        if {"messages", "message", "prompt", "text"} & body.keys():
            body["stream"] = chance.random() < 0.4
            if chance.random() < 0.7:
                body["model"] = chance.choice(["stand-in-1", "anthropic/claude-haiku-4-5"])

    def _form(self, endpoint: Endpoint) -> tuple[str, bytes]:
        chance = self.random
        fields = dict(endpoint.body or {})
        for _ in range(chance.randint(0, 3)):
            name = chance.choice([*fields, *fields, *FIELDS, *QUERIES])
            if name != "csrf_token" or chance.random() < 0.1:
                fields[name] = str(chance.choice(VALUES))[:5_000]
        if chance.random() < 0.15:
            lines = [
                f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
                for name, value in fields.items()
            ]
            body = "".join([*lines, "--x--\r\n"]).encode("utf-8", "surrogatepass")
            return "multipart/form-data; boundary=x", body[
                : chance.choice([len(body), len(body) // 2])
            ]
        body = urlencode(fields, errors="surrogatepass").encode()
        if chance.random() < 0.1:
            body += chance.choice([b"&" * 3_000, b"&a=%ff", b"&\xff=\xfe", b"&a=1" * 2_000, b"&%"])
        return "application/x-www-form-urlencoded", body

    def _mutated(self, value: Any) -> Any:
        """The value with one of its parts replaced, removed, repeated, wrapped or added to."""
        chance = self.random
        if chance.random() < 0.05 or not isinstance(value, dict | list) or not value:
            return chance.choice(VALUES) if chance.random() < 0.8 else [value]
        deeper = chance.random() < 0.5
        if isinstance(value, list):
            at = chance.randrange(len(value))
            if deeper:
                return [*value[:at], self._mutated(value[at]), *value[at + 1 :]]
            return chance.choice(
                [value * 2, value[:at], [*value, chance.choice(VALUES)], value * 150]
            )
        name = chance.choice(list(value))
        if deeper and isinstance(value[name], dict | list):
            return value | {name: self._mutated(value[name])}
        how = chance.random()
        if how < 0.6:
            return value | {name: chance.choice(VALUES)}
        if how < 0.75:
            return {other: kept for other, kept in value.items() if other != name}
        return value | {chance.choice(FIELDS): chance.choice(VALUES)}

    def _encoded(self, value: Any) -> bytes:
        chance = self.random
        text = json.dumps(value, ensure_ascii=chance.random() < 0.5)
        body = text.encode("utf-8", "surrogatepass")
        if chance.random() < 0.08:
            # One of its values becomes what no serializer writes.
            found = list(re.finditer(rb":\s*([^\s,:{}\[\]]+)(?=[,}])", body))
            if found:
                place = chance.choice(found)
                body = body[: place.start(1)] + chance.choice(RAW_VALUES) + body[place.end(1) :]
        return body

    def _spoilers(self) -> list[Callable[[bytes], bytes]]:
        chance = self.random
        return [
            lambda body: body[: chance.randint(0, len(body))],
            lambda body: body + chance.choice([b"x", b"{}", b"\0", b" " * 20_000, b"\x1a"]),
            lambda body: b"\xef\xbb\xbf" + body,
            lambda body: body.decode("utf-8", "replace").encode("utf-16", "replace"),
            lambda body: gzip.compress(body),
            lambda body: zlib.compress(body),
            lambda body: body.replace(b"{", b'{"model":1,"model":"stand-in-1",', 1),
            lambda body: b"[" * 50_000 + body,
            lambda _: b'{"messages":[' + b"{}," * 200_000 + b"{}]}",
            lambda _: b'{"message":"' + b"x" * 2_000_000 + b'"}',
            lambda body: bytes(byte ^ (chance.random() < 0.02) for byte in body[:5_000]),
            lambda _: chance.choice(RAW_VALUES),
        ]

    # -- framing --

    def _framed(self, body: bytes) -> tuple[list[tuple[str, str]], bytes, str]:
        """Headers, the bytes that follow, and how they are broken."""
        chance = self.random
        how = chance.random()
        if not body and how < 0.9:
            return [], b"", ""
        if how < 0.8:
            return [("Content-Length", str(len(body)))], body, ""
        if how < 0.84:
            odd = chance.choice([len(body) + 5, max(0, len(body) - 3), 0, 10**12])
            return [("Content-Length", str(odd))], body, "length"
        chunks, broken = self._chunks(body)
        return [("Transfer-Encoding", "chunked")], chunks, broken

    def _chunks(self, body: bytes) -> tuple[bytes, str]:
        chance = self.random
        size = max(1, len(body) // chance.randint(1, 40))
        if len(body) < 500 and chance.random() < 0.3:
            size = 1
        extension = chance.choice([b""] * 6 + [b";a", b';a="b"', b" ;a=b", b";" + b"x" * 500])
        parts = [
            b"%x%s\r\n%s\r\n" % (len(part), extension, part)
            for part in (body[at : at + size] for at in range(0, len(body), size))
        ]
        trailer = chance.choice([b""] * 5 + [b"X-A: b\r\n", b"X-API-Key: x\r\n", b"A: b\r\n" * 20])
        broken = "extension" if extension.startswith((b" ", b";x")) else ""
        end = b"0\r\n" + trailer + b"\r\n"
        if chance.random() < 0.2:
            broken = "chunks"
            parts.insert(
                chance.randint(0, len(parts)),
                chance.choice(
                    [
                        b"zz\r\n",
                        b"-1\r\n",
                        b"0x5\r\nabcde\r\n",
                        b"5\nabcde\n",
                        b"5\r\nabcdefgh\r\n",
                        b"\r\n",
                        b"ffffffffffffffff\r\n",
                        b"+5\r\nabcde\r\n",
                        b"5;\nx\r\nabcde\r\n",
                        b"1" * 9_000,
                        b"5 \r\nabcde\r\n",
                    ]
                ),
            )
            end = chance.choice(
                [end, b"", b"0\r\n", b"0\r\nnonsense\r\n\r\n", b"0\r\nContent-Length: 5\r\n\r\n"]
            )
        return b"".join(parts) + end, broken


def endpoints_of(openapi: dict[str, Any]) -> list[Endpoint]:
    """Every endpoint of an OpenAPI document, with its first example."""
    found = []
    for path, operations in openapi["paths"].items():
        for method, operation in operations.items():
            if method == "parameters":
                continue
            content = operation.get("requestBody", {}).get("content", {})
            names = [p["name"] for p in operation.get("parameters", []) if p.get("in") == "query"]
            body = content.get(JSON, {}).get("example", {} if content else None)
            found.append(Endpoint(method.upper(), path, body, queries=tuple(names)))
            if "application/x-www-form-urlencoded" in content:
                found.append(Endpoint(method.upper(), path, body, form=True))
    return found


def forms_of(path: str, page: str) -> list[Endpoint]:
    """The forms of a page that is at `path`."""
    found = []
    for attributes, content in re.findall(r"<form([^>]*)>(.*?)</form>", page, re.S):
        given = dict(re.findall(r'(\w+)="([^"]*)"', attributes))
        action = unescape(given.get("action") or path)
        fields = {}
        for tag in re.findall(r"<(?:input|select|textarea|button)[^>]*>", content):
            names = dict(re.findall(r'(\w+)="([^"]*)"', tag))
            if "name" in names:
                fields[unescape(names["name"])] = unescape(names.get("value", ""))
        method = given.get("method", "get").upper()
        found.append(
            Endpoint("POST", action, fields, form=True)
            if method == "POST"
            else Endpoint("GET", action.partition("?")[0], queries=tuple(fields))
        )
    return found
