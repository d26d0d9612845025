#!/usr/bin/env python3
"""Checks a running Weir from outside, as clients reach it: one line for each check.

    WEIR_API_KEY=weir_… python scripts/smoke.py https://weir.example.com --wait 300

The address may end in a sub-path. Without a key it checks what needs none, and says so. With one it
asks a model three times, in a few words: at the dearest that costs a cent. It needs Python 3.11 or
newer and nothing else, so this file can be copied to where it is needed. The exit code is 0 if no
check failed, 1 if one did, 2 if the command is wrong.

A certificate of your own authority: SSL_CERT_FILE=ca.pem. A proxy of your network: HTTPS_PROXY.
"""

from __future__ import annotations

import argparse
import http.client
import ipaddress
import json
import os
import re
import secrets
import socket
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from typing import Any

KEY_VARIABLE = "WEIR_API_KEY"
LOOK_INTERVAL = 1.0  # seconds between two looks at a deployment that is not ready
# Edges of a platform learn of a deployment one after another: one good answer says little.
LOOKS_IN_A_ROW = 3
PROGRESS_INTERVAL = 10.0  # seconds between two lines that say the same
NAME_TRIES = 3  # at a second's distance: resolvers of build machines fail now and then
LOOK_TIMEOUT = 10.0  # seconds; of requests that call no model
ANSWER_TIMEOUT = 130.0  # seconds; longer than LLM_DEADLINE
LONGEST_RETRY_AFTER = 60.0  # seconds that a refusal by the key's limit is waited for
STATS_TIMEOUT = 10.0  # seconds; figures are at most 2 s late
# Seconds that a stream must have taken at Weir, for its way to the client to be judged.
SHORTEST_STREAM = 0.2
# What a certificate that is renewed always has left: a tenth of its life, at most this.
RENEWED_BEFORE = 3 * 86_400.0  # seconds
DEMO_KEY = "prod_key_456"
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "",  # any value
    "Cross-Origin-Opener-Policy": "",
    "Permissions-Policy": "",
    "Content-Security-Policy": "frame-ancestors 'none'",
}
LIMIT_HEADERS = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")
OPENAI_LIMIT_HEADERS = tuple(
    f"x-ratelimit-{figure}-requests" for figure in ("limit", "remaining", "reset")
)


class Failed(Exception):
    """A check found what is wrong."""


class Skipped(Exception):
    """A check could not be made, or could not tell."""


@dataclass
class Answer:
    """An answer, read to its end."""

    status: int
    headers: Message
    body: bytes

    def json(self) -> dict[str, Any]:
        try:
            found = json.loads(self.body)
        except ValueError:
            found = None
        return found if isinstance(found, dict) else {}

    def told(self) -> str:
        """The status and what the answer says, for a line of output."""
        body = self.json()
        error = body.get("error")
        message = error.get("message") if isinstance(error, dict) else body.get("message")
        if not message:
            message = f"no answer of Weir's ({self.headers.get_content_type()})"
        request_id = self.headers.get("X-Request-ID")
        named = f" [request {request_id}]" if request_id else ""
        return f"{self.status}: {str(message)[:300]}{named}"


@dataclass
class Streamed:
    """A stream, with the seconds after its beginning at which each part of it came."""

    answer: Answer
    arrivals: list[float]

    def events(self) -> list[dict[str, Any]]:
        """The JSON of those that came whole."""
        whole, _, _ = self.answer.body.decode(errors="replace").rpartition("\n\n")
        lines = whole.splitlines()
        data = [line.removeprefix("data:").strip() for line in lines if line.startswith("data:")]
        return [json.loads(one) for one in data if one.startswith("{")]


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would become a GET, and a key would be sent to another address."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Weir:
    """The deployment at an address."""

    def __init__(self, url: str, key: str) -> None:
        self.parts = urllib.parse.urlsplit(url)
        self.url = url.rstrip("/").removesuffix("/v1")
        self.key = key
        self.host = self.parts.hostname or ""
        self.secure = self.parts.scheme == "https"
        self.context = ssl.create_default_context()
        handlers = [NoRedirect(), urllib.request.HTTPSHandler(context=self.context)]
        if self.is_local:
            handlers.append(urllib.request.ProxyHandler({}))
        self._opener = urllib.request.build_opener(*handlers)

    @property
    def is_local(self) -> bool:
        """Whether the address is this machine's own."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def get(self, path: str, **headers: str) -> Answer:
        return self._read(self._open("GET", path, None, headers, LOOK_TIMEOUT))

    def post(self, path: str, body: dict[str, Any], **headers: str) -> Answer:
        return self._read(self._open("POST", path, body, headers, ANSWER_TIMEOUT))

    def stream(self, path: str, body: dict[str, Any], **headers: str) -> Streamed:
        # Proxies that compress may hold events back, and most clients let them.
        headers["Accept-Encoding"] = "gzip"
        response = self._open("POST", path, body, headers, ANSWER_TIMEOUT)
        began = time.monotonic()
        parts, arrivals = [], []
        with response:
            while part := response.read1(65536):
                arrivals.append(time.monotonic() - began)
                parts.append(part)
        content = b"".join(parts)
        if response.headers.get("Content-Encoding") == "gzip":
            content = zlib.decompress(content, wbits=31)
        return Streamed(Answer(response.status, response.headers, content), arrivals)

    def _open(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None,
        headers: dict[str, str],
        timeout: float,
    ) -> Any:
        request = urllib.request.Request(  # noqa: S310 main() lets http and https through
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            # Some networks refuse the name that urllib gives itself.
            headers={"User-Agent": "weir-smoke/1", "Content-Type": "application/json"} | headers,
        )
        for tries_left in reversed(range(NAME_TRIES)):
            try:
                return self._opener.open(request, timeout=timeout)
            except urllib.error.HTTPError as answer:
                return answer
            except urllib.error.URLError as error:
                if not (tries_left and isinstance(error.reason, socket.gaierror)):
                    raise
                time.sleep(1)

    @staticmethod
    def _read(response: Any) -> Answer:
        with response:
            return Answer(response.status, response.headers, response.read())


def problem(error: Exception) -> str:
    """Why there was no answer, in a few words."""
    reason = getattr(error, "reason", error)
    if isinstance(error, ssl.SSLError):
        reason = error
    match reason:
        case socket.gaierror():
            return "its name is not found (DNS)"
        case ssl.SSLCertVerificationError():
            return f"the certificate is not valid: {reason.verify_message}"
        case ssl.SSLError():
            return f"no TLS connection: {reason.reason}"
        case ConnectionRefusedError():
            return "connection refused"
        case TimeoutError():
            return "no answer in time"
        case http.client.IncompleteRead():
            return "the answer was cut"
        case http.client.RemoteDisconnected() | ConnectionError():
            return "the connection was closed without an answer"
    return f"{type(reason).__name__}: {reason}"


class Smoke:
    """The checks, in the order in which they are made."""

    def __init__(self, weir: Weir, *, allow_http: bool, model: str | None) -> None:
        self._weir = weir
        self._allow_http = allow_http
        self._model = {"model": model} if model else {}
        self._failed = False
        # Nobody has asked this before, so that the first answer comes from the model.
        self._prompt = f"Answer with the one word ok. ({secrets.token_hex(8)})"
        self._answered: list[Answer] = []
        self._requests_before: int | None = None

    def run(self, wait: float) -> bool:
        """Make all checks. Returns whether none has failed."""
        if not self._check("readiness", lambda: self._ready(wait)):
            if self._reachable():
                self._check("health", self._health)
            self._say("", "", "Nothing else was checked.")
            return False
        for name, check in (
            ("liveness", self._liveness),
            ("health", self._health),
            ("docs", self._docs),
            ("TLS", self._tls),
            ("security headers", self._security_headers),
            ("without a key", self._refused),
            ("demo key", self._demo_key),
        ):
            self._check(name, check)
        self._with_key()
        return not self._failed

    def _with_key(self) -> None:
        weir = self._weir
        if not weir.key:
            self._say("skipped", "with a key", f"{KEY_VARIABLE} is not set: nothing was asked")
        elif not (weir.secure or weir.is_local or self._allow_http):
            self._say("skipped", "with a key", "no key is sent without TLS (--allow-http sends it)")
        elif self._check("key", self._key):
            for name, check in (
                ("chat", self._chat),
                ("cache", self._cache),
                ("OpenAI's endpoint", self._openai),
                ("stream", self._stream),
                ("limit headers", self._limit_headers),
                ("stats", self._stats),
            ):
                self._check(name, check)

    def _check(self, name: str, check: Callable[[], str]) -> bool:
        """Make a check and say how it ended. Returns whether it has not failed."""
        try:
            self._say("ok", name, check())
        except Skipped as skipped:
            self._say("skipped", name, str(skipped))
        except Failed as failed:
            self._failed = True
            self._say("FAILED", name, str(failed))
            return False
        except (OSError, http.client.HTTPException) as error:
            self._failed = True
            self._say("FAILED", name, problem(error))
            return False
        except (KeyError, TypeError, ValueError, zlib.error) as error:
            self._failed = True
            self._say("FAILED", name, f"not an answer of Weir's: {type(error).__name__}: {error}")
            return False
        return True

    def _say(self, verdict: str, name: str, text: str) -> None:
        line = f"{verdict:<8}{name:<18}{text}".rstrip()
        if self._weir.key:
            line = line.replace(self._weir.key, "***")
        print("".join(char if char.isprintable() else "?" for char in line), flush=True)

    # -- without a key --

    def _ready(self, wait: float) -> str:
        """Look until it is ready, and say meanwhile what is seen."""
        began = time.monotonic()
        said, said_at, good = "", 0.0, 0
        while good < LOOKS_IN_A_ROW:
            if said:
                time.sleep(LOOK_INTERVAL)
            seen, waited = self._not_ready(), time.monotonic() - began
            if not (seen or said):
                return "at once"
            good = 0 if seen else good + 1
            if seen and waited >= wait:
                raise Failed(f"{seen} (after {waited:.0f} s)")
            if seen and (seen != said or waited - said_at >= PROGRESS_INTERVAL):
                self._say("waiting", f"{waited:.0f} s", seen)
                said, said_at = seen, waited
        return f"after {waited:.0f} s, {LOOKS_IN_A_ROW} looks in a row"

    def _not_ready(self) -> str | None:
        """What is seen in place of a Weir that is ready."""
        try:
            answer = self._weir.get("/readiness")
        except (OSError, http.client.HTTPException) as error:
            return problem(error)
        if answer.status == 200 and answer.json().get("ready") is True:
            return None
        if 300 <= answer.status < 400:
            return f"{answer.status}: it redirects to {answer.headers.get('Location')}"
        if reason := answer.json().get("reason"):
            return f"not ready: {reason}"
        return answer.told()

    def _reachable(self) -> bool:
        try:
            return bool(self._weir.get("/health").json())
        except (OSError, http.client.HTTPException):
            return False

    def _liveness(self) -> str:
        answer = self._weir.get("/liveness", **{"X-Request-ID": "weir-smoke"})
        if (answer.status, answer.json()) != (200, {"alive": True}):
            raise Failed(answer.told())
        if answer.headers.get("X-Request-ID") != "weir-smoke":
            raise Failed("X-Request-ID does not come back: a proxy takes headers away")
        return ""

    def _health(self) -> str:
        answer = self._weir.get("/health")
        found = answer.json()
        status, checks = found.get("status"), found.get("checks", {})
        worse = [f"{name} is {state}" for name, state in checks.items() if state != "healthy"]
        told = ", ".join([f"version {found.get('version')}", str(status), *worse])
        if answer.status != 200 or status not in {"healthy", "degraded"}:
            raise Failed(told if status else answer.told())
        return told

    def _docs(self) -> str:
        """The page, its script and its document, by the addresses that the page names."""
        page = self._weir.get("/docs")
        html = page.body.decode(errors="replace")
        named = re.findall(r'data-openapi-url="([^"]+)"|<script src="([^"]+)"', html)
        if page.status != 200 or not named:
            raise Failed(f"/docs: {page.told()}")
        for address in (one or other for one, other in named):
            below = self._below(address)
            found = self._weir.get(below)
            if found.status != 200:
                raise Failed(f"{below}: {found.told()}")
            if below.endswith(".json") and "/chat" not in found.json().get("paths", {}):
                raise Failed(f"{below} is not Weir's OpenAPI document")
        return "/docs and its OpenAPI document"

    def _below(self, address: str) -> str:
        """The path of a link, below the address that was given."""
        path = urllib.parse.urlsplit(address).path
        prefix = urllib.parse.urlsplit(self._weir.url).path
        if not path.startswith(f"{prefix}/"):
            raise Failed(
                f"the page links to {path}, not below {prefix}: the proxy must send "
                "X-Forwarded-Prefix, and TRUSTED_PROXIES must count it"
            )
        return path.removeprefix(prefix)

    def _tls(self) -> str:
        weir = self._weir
        if not weir.secure:
            if weir.is_local:
                return "none: the address is this machine's own"
            if self._allow_http:
                return "none, as --allow-http allows"
            raise Failed("none: keys and prompts can be read on their way (--allow-http allows it)")
        if urllib.request.getproxies().get("https") and not urllib.request.proxy_bypass(weir.host):
            return "the certificate is valid; its end cannot be seen through HTTPS_PROXY"
        address = (weir.host, weir.parts.port or 443)
        with (
            socket.create_connection(address, LOOK_TIMEOUT) as connection,
            weir.context.wrap_socket(connection, server_hostname=weir.host) as secure,
        ):
            certificate, version = secure.getpeercert() or {}, secure.version()
        begins, ends = (
            ssl.cert_time_to_seconds(str(certificate[name])) for name in ("notBefore", "notAfter")
        )
        left = ends - time.time()
        told = f"{version}, the certificate is valid for {left / 86_400:.1f} more days"
        if left < min((ends - begins) / 10, RENEWED_BEFORE):
            raise Failed(f"{told}: it is not renewed")
        return told

    def _security_headers(self) -> str:
        headers = self._weir.get("/").headers
        missing = [
            name
            for name, value in SECURITY_HEADERS.items()
            if value not in (headers.get(name) or "\0")
        ]
        if missing:
            raise Failed(f"missing or changed: {', '.join(missing)}")
        if self._weir.secure and not headers.get("Strict-Transport-Security"):
            raise Failed(
                "no Strict-Transport-Security: Weir does not know that it is served by TLS, or "
                "APP_ENV is not production (TRUSTED_PROXIES counts the proxies in front)"
            )
        return f"{len(SECURITY_HEADERS) + self._weir.secure} as they should be"

    def _refused(self) -> str:
        native = self._weir.post("/chat", {"message": "x"})
        if (native.status, native.json().get("error")) != (403, "NotAllowed"):
            raise Failed(f"/chat does not answer 403 NotAllowed but {native.told()}")
        openai = self._weir.post("/v1/chat/completions", {"messages": []})
        error = openai.json().get("error")
        if openai.status != 401 or not isinstance(error, dict):
            raise Failed(f"/v1/chat/completions does not answer 401 but {openai.told()}")
        if error.keys() != {"message", "type", "param", "code"}:
            raise Failed("the 401 of /v1/chat/completions has not the shape of OpenAI's errors")
        if not openai.headers.get("WWW-Authenticate"):
            raise Failed("the 401 of /v1/chat/completions comes without WWW-Authenticate")
        return "403 from /chat, 401 from /v1/chat/completions"

    def _demo_key(self) -> str:
        if self._weir.is_local:
            raise Skipped("it may work on this machine")
        answer = self._weir.get("/v1/key", Authorization=f"Bearer {DEMO_KEY}")
        if answer.status == 200:
            raise Failed("it works for anyone who can reach this address: set APP_ENV=production")
        if answer.status != 401:
            raise Failed(f"not refused with 401 but {answer.told()}")
        return "refused"

    # -- with a key --

    def _native(self) -> dict[str, str]:
        return {"X-API-Key": self._weir.key}

    def _bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._weir.key}"}

    def _key(self) -> str:
        answer = self._weir.get("/v1/key", **self._bearer())
        if answer.status != 200:
            raise Failed(answer.told())
        self._requests_before = self._own_requests()
        return f"{answer.json().get('name')}, tier {answer.json().get('tier')}"

    def _retrying_once(self, ask: Callable[[], Answer]) -> Answer:
        """An answer of 200; one refusal by the key's limit is waited for."""
        answer = ask()
        retry_after = answer.headers.get("Retry-After") or ""
        limited = answer.status == 429 and answer.headers.get("x-should-retry") != "false"
        if limited and retry_after.isdecimal() and int(retry_after) <= LONGEST_RETRY_AFTER:
            self._say("waiting", f"{retry_after} s", "for the limit of the key")
            time.sleep(int(retry_after))
            answer = ask()
        if answer.status != 200:
            raise Failed(answer.told())
        self._answered.append(answer)
        return answer

    def _post(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> Answer:
        body = body | self._model
        return self._retrying_once(lambda: self._weir.post(path, body, **headers))

    def _ask(self) -> Answer:
        body = {"message": self._prompt, "max_tokens": 16}
        return self._post("/chat", body, self._native())

    def _chat(self) -> str:
        answer = self._ask()
        found = answer.json()
        if not isinstance(found.get("response"), str):
            raise Failed(f"the answer has no response: {answer.told()}")
        return _by(found)

    def _cache(self) -> str:
        cache = self._ask().headers.get("X-Cache")
        if cache == "BYPASS":
            raise Skipped("this key does without the cache")
        if cache != "HIT":
            raise Failed(
                f"the same request again is {cache or 'without X-Cache'} and not HIT: all replicas "
                "need the same REDIS_URL, and CACHE_TTL must not be 0"
            )
        return "the same request again is a HIT"

    def _openai(self) -> str:
        body = {"messages": [{"role": "user", "content": self._prompt}], "max_tokens": 16}
        try:
            answer = self._post("/v1/chat/completions", body, self._bearer())
        except Failed as refused:
            # Newer models of OpenAI know the limit by another name only.
            if "max_completion_tokens" not in str(refused):
                raise
            body["max_completion_tokens"] = body.pop("max_tokens")
            answer = self._post("/v1/chat/completions", body, self._bearer())
        if not answer.json().get("choices"):
            raise Failed("the answer has no choices")
        return f"model {answer.json().get('model')}"

    def _stream(self) -> str:
        """Compare how long the stream took at Weir with how long it took to arrive."""
        prompt = f"Count from one to sixty in words. {secrets.token_hex(8)}"
        body = {"prompt": prompt, "max_tokens": 100, "stream": True, **self._model}
        streams: list[Streamed] = []

        def ask() -> Answer:
            streams.append(self._weir.stream("/generate", body, **self._native()))
            return streams[-1].answer

        answer = self._retrying_once(ask)
        events = streams[-1].events()
        for event in events:
            if "error" in event:
                raise Failed(f"the stream ends with an error: {json.dumps(event['error'])[:300]}")
        if not (events and events[-1].get("done")) or b"data: [DONE]" not in answer.body:
            raise Failed("the stream was cut: its last events are missing")
        began = answer.headers.get("X-Process-Time")
        if began is None:
            raise Failed("X-Process-Time is missing: a proxy takes headers away")
        sent = events[-1]["latency_ms"] / 1000 - float(began)
        arrivals = streams[-1].arrivals
        came = arrivals[-1] - arrivals[0]
        told = f"sent over {sent:.2f} s, it came over {came:.2f} s in {len(arrivals)} parts"
        if sent < SHORTEST_STREAM:
            raise Skipped(f"whole, but whether it is buffered could not be told: {told}")
        if came < sent / 2:
            raise Failed(f"{told}: a proxy buffers it")
        return told

    def _limit_headers(self) -> str:
        if not self._answered:
            raise Skipped("there was no answer")
        for answer in self._answered:
            names = LIMIT_HEADERS
            if b'"choices"' in answer.body[:2000]:
                names += OPENAI_LIMIT_HEADERS
            if missing := [name for name in names if not answer.headers.get(name)]:
                raise Failed(f"missing: {', '.join(missing)}")
        limit, remaining, _ = (self._answered[-1].headers.get(name) for name in LIMIT_HEADERS)
        return f"{remaining} of {limit} requests are left"

    def _own_requests(self) -> int | None:
        """How many requests of this key Weir has counted; None where it does not say."""
        answer = self._weir.get("/stats", **self._native())
        if answer.status == 403:
            return None
        if answer.status != 200:
            raise Failed(answer.told())
        return int(answer.json()["you"]["requests"])

    def _stats(self) -> str:
        if self._requests_before is None:
            raise Skipped("STATS_ACCESS allows administrators only")
        made = len(self._answered)
        began = time.monotonic()
        while (counted := (self._own_requests() or 0) - self._requests_before) < made:
            if time.monotonic() - began > STATS_TIMEOUT:
                raise Failed(f"{counted} of {made} requests were counted")
            time.sleep(0.5)
        return f"all {made} requests were counted"


def _by(answer: dict[str, Any]) -> str:
    """Whose answer it is, and what it cost."""
    cost = answer.get("cost_usd")
    price = "no price" if cost is None else f"USD {cost:.6f}"
    offline = ": no provider is configured" if answer.get("provider") == "offline" else ""
    return f"model {answer.get('model')} of {answer.get('provider')}, {price}{offline}"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url", help="where Weir is, such as https://weir.example.com")
    parser.add_argument(
        "--wait", type=float, default=60, metavar="SECONDS",
        help="how long to wait until it is ready (60)",
    )  # fmt: skip
    parser.add_argument(
        "--allow-http", action="store_true", help="an address without TLS is no failure"
    )
    parser.add_argument("--model", help="the model to ask (the default one)")
    given = parser.parse_args()
    try:
        parts = urllib.parse.urlsplit(given.url)
        valid = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        parser.error("the address must begin with https:// (or http://) and a host")
    if parts.username or parts.query or parts.fragment:
        parser.error("the address must have no user, no ? and no #")
    given.key = os.environ.get(KEY_VARIABLE, "").strip()
    if not re.fullmatch(r"[!-~]*", given.key):
        parser.error(f"{KEY_VARIABLE} has characters that no key has")
    return given


def main() -> None:
    given = arguments()
    weir = Weir(given.url, given.key)
    passed = Smoke(weir, allow_http=given.allow_http, model=given.model).run(given.wait)
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
