"""Sends mutated requests to a real Weir for a while, and looks for what must not happen.

    python -m scripts.fuzz [--seconds 60] [--seed N] [--workers 1]

Twelve connections at once send bytes of every kind to every endpoint: odd bodies, headers, paths
and chunks, slow, cut, pipelined and unread. Meanwhile a bystander with its own key asks /liveness
and /chat. Each finding is printed once, with the bytes that reproduce it; the exit code is then 1:

- a status of 500 or more, or a traceback in the log: the stand-in provider fails nothing
- the bystander waits longer than a second, or is refused
- a worker has ended, or has kept more than 100 MiB since the warm-up
- the ledger does not agree with the provider's calls, or something stays reserved
- an answer that is no valid HTTP, has no X-Request-ID, or never comes

With two workers or more they share a Valkey. The same seed makes the same requests, in an order
that depends on time. Not part of the test suite: a finding gets a test of its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import re
import socket
import sys
import time
from collections import Counter, deque
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import requests

from tests.support.administrator import PASSWORD, Administrator
from tests.support.books import PRICES, Books
from tests.support.http_answers import Answer, InvalidAnswer, read_answer
from tests.support.mutated_requests import (
    Attempt,
    Endpoint,
    MutatedRequests,
    endpoints_of,
    forms_of,
)
from tests.support.servers import Provider, Valkey, Weir, wait_until
from tests.support.visitor import Visitor

CONNECTIONS = 12
ANSWER_TIMEOUT = 20.0  # seconds
STALL = 1.0  # seconds
KEPT_MEMORY = 100 * 1024  # KiB
SHOWN_BYTES = 1_200
KEYS = {tier: f"{tier}_key_0123456789" for tier in ("by", "enterprise", "paid", "low")}
# What Weir says 501 and 505 to, it does not know; no fault of its own.
EXPECTED = {501, 505}
MODEL_ENDPOINTS = {
    "/chat", "/generate", "/summarize", "/v1/chat/completions", "/v1/embeddings", "/v1/explain",
}  # fmt: skip
PAGES = ["", "keys", "keys/new", "accounts", "audit", "me", "providers", "requests", "playground"]


class Findings:
    """What has been found, each kind once with its first example."""

    def __init__(self) -> None:
        self._lock = Lock()
        self.count = Counter[str]()

    def add(self, what: str, example: bytes | str) -> None:
        with self._lock:
            self.count[what] += 1
            if self.count[what] > 1:
                return
        shown = example if isinstance(example, str) else shortened(example)
        print(f"\nFOUND {what}\n{shown}", flush=True)


def shortened(raw: bytes) -> str:
    """The bytes as a literal; what is long is cut in its middle, and repetitions are counted."""
    if len(raw) <= SHOWN_BYTES:
        return repr(raw)
    half = SHOWN_BYTES // 2
    return f"{raw[:half]!r}\n… {len(raw) - SHOWN_BYTES:,} more bytes …\n{raw[-half:]!r}"


class FuzzedBooks(Books):
    """Books of calls of all lengths, many of which are given up: no order pairs rows with calls."""

    def cost_of(self, row: dict[str, Any]) -> int | None:
        # A pattern of prices fits no name with dots that could lead elsewhere.
        return None if ".." in row["model"] else super().cost_of(row)

    def check(self, provider: Provider, timeout: float = 30.0) -> list[dict[str, Any]]:
        wait_until(lambda: all(c["lasted"] is not None for c in provider.calls()), timeout)
        calls = [call for call in provider.calls() if call["method"] == "POST"]
        rows = self.settled(0, timeout)
        self.check_sums(rows)
        # What could not be translated has a row, and no call.
        rows = [row for row in rows if row["error"] != "UnsupportedParameter"]
        called = Counter(call["body"]["model"] for call in calls)
        written = Counter(row["model"] for row in rows)
        assert called == written, f"calls without a row: {called - written}, {written - called}"
        # The stand-in does not note what is cached of Anthropic's input.
        calls = [call for call in calls if call["path"].startswith("/v1/")]
        rows = [row for row in rows if row["provider"] == "openai"]
        told = Counter((c["body"]["model"], *c["served"]) for c in calls if c["told"])
        booked = Counter(
            (row["model"], row["input_tokens"], row["output_tokens"])
            for row in rows
            if row["state"] == "settled" and not row["estimated"]
        )
        assert not booked - told, f"booked, and not used: {booked - told}"
        given_up = Counter(row["model"] for row in rows if row["estimated"])
        unbooked = Counter[str]()
        for (model, *_), count in (told - booked).items():
            unbooked[model] += count
        assert not unbooked - given_up, f"used, and not booked: {told - booked}"
        return rows


class Fuzzer:
    """Sends attempts and judges the answers, from several threads."""

    def __init__(self, weir: Weir, findings: Findings) -> None:
        self.weir = weir
        self.findings = findings
        self.statuses = Counter[str]()
        self.ids: dict[str, bytes] = {}
        self.recent: deque[tuple[float, Attempt]] = deque(maxlen=400)

    def run(self, make: MutatedRequests, until: float) -> None:
        while time.monotonic() < until:
            attempt = make.make()
            self.recent.append((time.time(), attempt))
            try:
                self._send(attempt)
            except ConnectionRefusedError:
                self.findings.add("a refused connection", attempt.raw)
                return

    def _send(self, attempt: Attempt) -> None:
        with socket.create_connection(("127.0.0.1", self.weir.port), ANSWER_TIMEOUT) as client:
            # What Weir refuses early it closes; its answer is there all the same.
            with suppress(BrokenPipeError, ConnectionResetError):
                for part in attempt.parts:
                    client.sendall(part)
                    time.sleep(attempt.pause)
            if attempt.ending == "cut":
                return
            if attempt.ending == "unread":
                time.sleep(0.3)
                return
            if attempt.ending == "half-close" or not attempt.intact:
                with suppress(OSError):
                    client.shutdown(socket.SHUT_WR)
            self._read(client, attempt)

    def _read(self, client: socket.socket, attempt: Attempt) -> None:
        stream = client.makefile("rb")
        # Where requests are broken, nobody knows which one an answer belongs to.
        methods = deque(attempt.methods if attempt.intact else attempt.methods[:1])
        try:
            while methods:
                answer = read_answer(stream, head_only=methods[0] == "HEAD")
                if answer is None:
                    if attempt.intact:
                        self.findings.add("an intact request without an answer", attempt.raw)
                    return
                self._judge(answer, attempt)
                if answer.closes:
                    return
                if answer.status >= 200:
                    methods.popleft()
        except InvalidAnswer as error:
            self.findings.add(f"no valid HTTP: {error}", attempt.raw)
        except TimeoutError:
            self.findings.add(f"no answer in {ANSWER_TIMEOUT:g} s ({attempt.label})", attempt.raw)
        except ConnectionResetError:
            self.statuses["reset"] += 1

    def _judge(self, answer: Answer, attempt: Attempt) -> None:
        self.statuses[str(answer.status)] += 1
        if answer.status < 200:
            return
        request_id = answer.headers.get("x-request-id")
        if not request_id:
            self.findings.add(f"no X-Request-ID (status {answer.status})", attempt.raw)
            return
        self.ids[request_id] = attempt.raw
        if answer.status >= 500 and answer.status not in EXPECTED:
            said = answer.body[:300].decode("utf-8", "replace")
            said = re.sub(r'"request_id":\s*"[^"]*"', "", said)
            name = re.search(r'"(?:error|code)":\s*"(\w+)"', said)
            where = attempt.raw.split(b"?")[0][:60].split(b" HTTP")[0]
            self.findings.add(
                f"{answer.status} {name[1] if name else said} at {where!r}", attempt.raw
            )

    def sent_before(self, moment: float) -> bytes:
        """What was sent in the second before a moment, the longest first."""
        sent = [
            attempt.raw for at, attempt in list(self.recent) if moment - 1.5 < at < moment + 0.1
        ]
        return b"\n---\n".join(sorted(sent, key=len, reverse=True)[:3])


def bystand(port: int, seconds: float, told: Any) -> None:
    """Ask /liveness and /chat, and tell what took too long or failed. Runs in its own process.

    Where this process itself did not get the processor, nothing is told.
    """
    url, until, number = f"http://127.0.0.1:{port}", time.monotonic() + seconds, 0
    with requests.Session() as session:
        session.trust_env = False
        session.headers["X-API-Key"] = KEYS["by"]
        while time.monotonic() < until:
            number += 1
            body = {"message": f"by {number}", "model": "by"}
            began, at, cpu = time.monotonic(), time.time(), processor_delay()
            try:
                if number % 4:
                    status = session.get(f"{url}/liveness", timeout=30).status_code
                else:
                    status = session.post(f"{url}/chat", json=body, timeout=30).status_code
            except requests.RequestException as error:
                told.put((at, f"the bystander got {type(error).__name__}"))
                time.sleep(0.5)
                continue
            took = time.monotonic() - began
            if status != 200:
                told.put(
                    (at, f"the bystander got {status} at {('/chat', '/liveness')[number % 4 > 0]}")
                )
            if took - (processor_delay() - cpu) > STALL:
                told.put((at + took, f"a stall of the bystander, {took:.0f} s"))
            time.sleep(0.02)


def processor_delay() -> float:
    """Seconds that this process has waited for a processor."""
    return int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9


def make_endpoints(weir: Weir) -> tuple[list[Endpoint], dict[str, list[str]], dict[str, list[str]]]:
    """The endpoints and forms, values of the parameters in paths, and credentials of each kind."""
    admin = Administrator(weir)
    made = admin.post("/admin/keys", {"name": "to be changed", "tier": "enterprise"}).json()
    member = {"username": "member", "password": PASSWORD, "tier": "enterprise", "role": "member"}
    account = admin.post("/admin/accounts", member).json()
    values = {
        "key_id": [str(made["id"])],
        "account_id": [str(account["id"])],
        "model_id": ["stand-in-1", "gpt-4o-mini", "a/b"],
        "request_id": ["same", "a"],
    }
    visitor = Visitor(weir)
    visitor.sign_in()
    pages = [*PAGES, f"keys/{made['id']}", f"keys/{made['id']}/edit", f"accounts/{account['id']}"]
    endpoints = endpoints_of(weir.get("/openapi.json").json())
    for path in (f"/dashboard/{page}" for page in pages):
        endpoints += [Endpoint("GET", path, queries=("range", "page", "model", "key", "state"))]
        endpoints += forms_of(path, visitor.get(path).text)
    token = re.search(r'csrf_token" value="([^"]+)"', visitor.get("/dashboard/me").text)
    playground = f"/dashboard/playground/{made['id']}"
    endpoints += [
        Endpoint("POST", playground, {"message": "x", "csrf_token": token[1] if token else ""}),
        Endpoint("GET", f"{playground}/bars"),
        Endpoint("GET", "/dashboard/requests/{request_id}"),
        Endpoint("POST", "/dashboard/sign-in", {"username": "x", "password": "y"}, form=True),
    ]
    # Those that call a model come more often than pages.
    endpoints += [e for e in endpoints if e.path in MODEL_ENDPOINTS] * 5
    # What would end the session of the fuzzer or the keys of the bystander.
    spared = re.compile(r"/sign-out$|/me/password$|/revoke$")
    other = re.compile(rf"/(?:keys|accounts)/(?!{made['id']}\b|{account['id']}\b)\d")
    endpoints = [e for e in endpoints if not spared.search(e.path) and not other.search(e.path)]
    cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in visitor.session.cookies)
    names = ["enterprise", "enterprise", "paid", "paid", "low"]
    keys = [KEYS[name] for name in names]
    credentials = {
        "key": [
            *(f"X-API-Key: {key}" for key in keys),
            f"Authorization: Bearer {keys[0]}",
            f"api-key: {keys[0]}",
        ],
        "admin": [f"Authorization: Bearer {admin.token}"],
        "dashboard": [f"Cookie: {cookies}"],
    }
    return endpoints, values, credentials


def resident(pid: int) -> int:
    """Resident memory of a process, in KiB; 0 where it has ended."""
    with suppress(OSError):
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
        return int(found[1]) if found else 0
    return 0


def run(weir: Weir, provider: Provider, seconds: float, seed: int) -> Findings:
    findings = Findings()
    fuzzer = Fuzzer(weir, findings)
    endpoints, values, credentials = make_endpoints(weir)
    pids = weir.pids()
    # LangChain is imported with its first call. What is cancelled meanwhile has a row and no call.
    for number in range(8):
        body = {"message": f"warm up {number}", "model": "anthropic/claude-haiku-4-5"}
        weir.post("/chat", key=KEYS["by"], json=body)
    began = time.monotonic()
    until = began + seconds
    context = multiprocessing.get_context("spawn")
    told = context.Queue()
    bystander = context.Process(target=bystand, args=(weir.port, seconds, told), daemon=True)
    bystander.start()
    generators = (random.Random(f"{seed}/{n}") for n in range(CONNECTIONS))  # noqa: S311 no secret
    threads = [
        Thread(
            target=fuzzer.run,
            args=(
                MutatedRequests(generator, endpoints, credentials, values),
                until,
            ),
        )
        for generator in generators
    ]
    for thread in threads:
        thread.start()
    warm: dict[int, int] = {}
    while any(thread.is_alive() for thread in threads):
        time.sleep(0.5)
        if not warm and time.monotonic() - began > min(30, seconds / 3):
            warm = {pid: resident(pid) for pid in pids}
        while not told.empty():
            at, what = told.get()
            findings.add(what, fuzzer.sent_before(at))
    bystander.join(40)
    if weir.pids() != pids:
        findings.add(
            f"workers have ended: {pids} became {weir.pids()}", fuzzer.sent_before(time.time())
        )
    for pid, before in warm.items():
        if resident(pid) - before > KEPT_MEMORY:
            findings.add("memory that stays", f"{before:,} became {resident(pid):,} KiB")
    grown = {
        pid: f"{before // 1024} to {resident(pid) // 1024} MiB" for pid, before in warm.items()
    }
    _look_at_the_log(weir, fuzzer)
    try:
        # Unread streams end by SEND_TIMEOUT.
        FuzzedBooks(weir).check(provider, timeout=90)
    except (AssertionError, TimeoutError, ValueError) as error:
        findings.add("a ledger that does not agree", f"{error}\n{_unlike(weir, provider, fuzzer)}")
    _look_at_the_log(weir, fuzzer)
    calls = len([call for call in provider.calls() if call["method"] == "POST"])
    print(f"\n{sum(fuzzer.statuses.values()):,} answers: {dict(sorted(fuzzer.statuses.items()))}")
    print(f"{calls:,} calls of the provider; memory since the warm-up: {grown}")
    return findings


def _unlike(weir: Weir, provider: Provider, fuzzer: Fuzzer) -> str:
    """The models with other numbers of rows than calls, their odd rows and what asked for these."""
    rows = Books(weir).rows()
    calls = Counter(call["body"]["model"] for call in provider.calls() if call["method"] == "POST")
    written = Counter(row["model"] for row in rows)
    lines = []
    for model in calls.keys() | written.keys():
        if calls[model] == written[model]:
            continue
        lines.append(f"{model[:200]}: {calls[model]} calls, {written[model]} rows")
        odd = [r for r in rows if r["model"] == model and r["state"] not in {"settled", "failed"}]
        lines += [f"{row}\n{shortened(fuzzer.ids.get(row['request_id'], b''))}" for row in odd[:5]]
    return "\n".join(lines)


def _look_at_the_log(weir: Weir, fuzzer: Fuzzer) -> None:
    for line in weir.raw_logs().splitlines():
        if "Traceback (most recent call last)" not in line:
            continue
        with suppress(ValueError):
            parsed = json.loads(line)
            last = (
                str(parsed.get("exception") or parsed.get("exc_info") or line)
                .strip()
                .splitlines()[-1]
            )
            sent = fuzzer.ids.get(str(parsed.get("request_id")), b"")
            fuzzer.findings.add(f"a traceback: {last[:150]}", f"{line[:3000]}\n{shortened(sent)}")
            continue
        fuzzer.findings.add("a traceback on stderr", line[:500])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    print(f"seed {options.seed}, {options.seconds:g} s, {options.workers} workers", flush=True)
    with ExitStack() as stack:
        provider = stack.enter_context(Provider())
        settings: dict[str, object] = {
            "ADMIN_PASSWORD": PASSWORD,
            "API_KEYS": ",".join(f"{tier}:{tier}:{key}" for tier, key in KEYS.items()),
            "TIERS": "by=99999/minute;enterprise=999999/minute;paid=999999/minute;low=60/minute",
            "TIER_PAID": "usd_per_day=1000,usd_per_month=1000",
            "TIER_LOW": "models=stand-in-*,parallel_requests=2",
            "OPENAI_BASE_URL": provider.base_url,
            "OPENAI_API_KEY": "sk-stand-in-0123456789",
            "ANTHROPIC_BASE_URL": provider.anthropic_url,
            "ANTHROPIC_API_KEY": "sk-stand-in-0123456789",
            "MODEL_PRICES": f"{PRICES}; {PRICES.replace('openai', 'anthropic')}",
            "TRUSTED_PROXIES": 1,
            "SEND_TIMEOUT": 10,
            "WEB_CONCURRENCY": options.workers,
        }
        if options.workers > 1:
            settings["REDIS_URL"] = stack.enter_context(Valkey()).url
        weir = stack.enter_context(Weir(settings))
        wait_until(lambda: len(weir.pids()) == options.workers)
        findings = run(weir, provider, options.seconds, options.seed)
    for what, count in findings.count.most_common():
        print(f"{count:6} × {what}")
    print("Nothing found." if not findings.count else f"{len(findings.count)} findings.")
    return bool(findings.count)


if __name__ == "__main__":
    sys.exit(main())
