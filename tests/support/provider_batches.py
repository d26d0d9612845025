"""The stand-in's batches: OpenAI's files and batches, and Anthropic's Message Batches.

A batch goes one state further with each look at it. `POST /control/batches` with `{"held": true}`
lets them stay as they are, until one is moved: `{"move": "completed"}` moves the newest one, or
that of `id`. With `run` only so many of its lines are run, `drop` leaves results out, `unknown`
adds results of lines that nobody sent, `twice` repeats the first one. `GET /control/batches` lists
the batches, with the tokens that each would be charged for.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from urllib.parse import parse_qs

from tests.support import anthropic, completions
from tests.support.completions import Completion, last_user_message
from tests.support.faults import Fault

DIRECTIVE = re.compile(r"\s*\[\[fault:([^\]]*)\]\]")
ENDPOINTS = {"/chat/completions", "/embeddings"}
RUNNING = ("validating", "in_progress", "finalizing", "completed")
MAX_LINES = 50_000
ANTHROPIC_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")

Answer = tuple[int, Any]


@dataclass
class File:
    id: str
    name: str
    purpose: str
    content: bytes
    created_at: int = field(default_factory=lambda: int(time.time()))

    def shown(self) -> dict[str, Any]:
        return {
            "id": self.id, "object": "file", "bytes": len(self.content), "filename": self.name,
            "created_at": self.created_at, "purpose": self.purpose, "status": "processed",
        }  # fmt: skip


@dataclass
class Batch:
    """One batch of either provider. `lines` are (custom_id, body)."""

    id: str
    lines: list[tuple[str, Any]]
    endpoint: str = ""
    file_id: str = ""
    metadata: dict[str, str] | None = None
    status: str = "validating"
    wrong: list[dict[str, Any]] = field(default_factory=list)
    output: str | None = None
    errors: str | None = None
    results: list[dict[str, Any]] = field(default_factory=list)
    served: list[int] = field(default_factory=lambda: [0, 0])
    run: int = 0
    deleted: bool = False
    created_at: float = field(default_factory=time.time)

    @property
    def ended(self) -> bool:
        return self.status in {"completed", "failed", "expired", "cancelled"}


class ProviderBatches:
    """All files and batches that the stand-in knows."""

    def __init__(self) -> None:
        self.files: dict[str, File] = {}
        self.batches: dict[str, Batch] = {}
        self.held = False
        self._numbers = count(1)

    # What tests say and ask.

    def control(self, method: str, body: Any) -> Answer:
        if method == "GET":
            return 200, [
                {"id": b.id, "status": b.status, "served": b.served, "lines": len(b.lines),
                 "run": b.run, "deleted": b.deleted,
                 "metadata": b.metadata, "ids": [name for name, _ in b.lines]}
                for b in self.batches.values()
            ]  # fmt: skip
        self.held = body.get("held", self.held)
        if status := body.get("move"):
            batch = self.batches[body.get("id") or [*self.batches][-1]]
            self._move(batch, status, body)
        return 200, {}

    # OpenAI's.

    def openai(self, method: str, path: str, query: str, headers: Any, content: bytes) -> Answer:
        parts = path.strip("/").split("/")  # v1, files or batches, id, …
        match (method, parts[1], len(parts)):
            case ("POST", "files", 2):
                return self._upload(headers, content)
            case ("GET", "files", 2):
                return 200, _listed([one.shown() for one in self.files.values()], query)
            case (_, "files", _) if parts[2] not in self.files:
                return 404, completions.error(404, f"No such File object: {parts[2]}")
            case ("GET", "files", 3):
                return 200, self.files[parts[2]].shown()
            case ("GET", "files", 4):
                return 200, self.files[parts[2]].content.decode()
            case ("DELETE", "files", 3):
                del self.files[parts[2]]
                return 200, {"id": parts[2], "object": "file", "deleted": True}
            case ("POST", "batches", 2):
                return self._create(json.loads(content))
            case ("GET", "batches", 2):
                shown = [_shown(one) for one in reversed(self.batches.values())]
                return 200, _listed(shown, query)
            case (_, "batches", _) if parts[2] not in self.batches:
                return 404, completions.error(404, f"No batch found with id '{parts[2]}'.")
            case ("GET", "batches", 3):
                return 200, _shown(self._looked_at(self.batches[parts[2]]))
            case ("POST", "batches", 4):
                return self._cancel(self.batches[parts[2]])
        return 404, completions.error(404, f"Invalid URL ({method} {path})")

    def _upload(self, headers: Any, content: bytes) -> Answer:
        found = re.search(r"boundary=([^;]+)", headers.get("content-type", ""))
        if not found:
            return 400, completions.error(400, "The upload is no multipart/form-data.")
        fields: dict[str, tuple[str, bytes]] = {}
        for part in content.split(b"--" + found[1].strip('"').encode())[1:-1]:
            head, _, body = part.partition(b"\r\n\r\n")
            name = re.search(rb'name="([^"]*)"', head)
            file_name = re.search(rb'filename="([^"]*)"', head)
            if name:
                value = (file_name[1].decode() if file_name else "", body.removesuffix(b"\r\n"))
                fields[name[1].decode()] = value
        if "file" not in fields or "purpose" not in fields:
            return 400, completions.error(400, "file and purpose are required.")
        if "expires_after[seconds]" in fields and "expires_after[anchor]" not in fields:
            return 400, completions.error(400, "Missing required parameter: expires_after.anchor")
        name, text = fields["file"]
        file = File(f"file-{next(self._numbers)}", name, fields["purpose"][1].decode(), text)
        self.files[file.id] = file
        return 200, file.shown()

    def _create(self, body: Any) -> Answer:
        file = self.files.get(body.get("input_file_id", ""))
        endpoint = str(body.get("endpoint")).removeprefix("/v1")
        if file is None or file.purpose != "batch":
            wrong = completions.error(400, "Cannot find the input file.")
            wrong["error"]["param"] = "input_file_id"
            return 400, wrong
        if endpoint not in ENDPOINTS or body.get("completion_window") != "24h":
            return 400, completions.error(400, "Invalid endpoint or completion_window.")
        metadata = body.get("metadata") or {}
        if any(len(name) > 64 or len(value) > 512 for name, value in metadata.items()):
            return 400, completions.error(400, "metadata is too long.")
        lines, wrong = _read(file.content, endpoint)
        number = next(self._numbers)
        batch = Batch(f"batch_{number}", lines, endpoint, file.id, metadata, wrong=wrong)
        self.batches[batch.id] = batch
        return 200, _shown(batch)

    def _cancel(self, batch: Batch) -> Answer:
        if batch.ended:
            return 409, completions.error(409, f"Cannot cancel a batch that is {batch.status}.")
        batch.status = "cancelling"
        return 200, _shown(batch)

    def _looked_at(self, batch: Batch) -> Batch:
        if self.held or batch.ended:
            return batch
        if batch.wrong:
            self._move(batch, "failed", {})
        elif batch.status == "cancelling":
            self._move(batch, "cancelled", {"run": len(batch.lines) // 2})
        else:
            self._move(batch, RUNNING[RUNNING.index(batch.status) + 1], {})
        return batch

    def _move(self, batch: Batch, status: str, how: dict[str, Any]) -> None:
        if batch.wrong and status == "completed":
            status = "failed"
        batch.status = status
        if not batch.ended or status == "failed":
            return
        some = how.get("run", len(batch.lines))
        good, bad = self._run(batch, some, status)
        kept = good[: len(good) - how.get("drop", 0)]
        for number in range(how.get("unknown", 0)):
            kept.append({**good[0], "custom_id": f"nobody-{number}"})
        if how.get("twice"):
            kept.append(good[0])
        batch.results = [*reversed(kept), *bad]  # in no order
        if batch.endpoint:
            batch.output = self._written(reversed(kept)) if kept else None
            batch.errors = self._written(bad) if bad else None

    def _written(self, lines: Any) -> str:
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        content = text.encode("utf-8", "surrogatepass")
        file = File(f"file-{next(self._numbers)}", "output.jsonl", "batch_output", content)
        self.files[file.id] = file
        return file.id

    def _run(self, batch: Batch, some: int, status: str) -> tuple[list[Any], list[Any]]:
        good, bad = [], []
        run = _run_openai if batch.endpoint else _run_anthropic
        for place, (custom_id, body) in enumerate(batch.lines):
            line = run(custom_id, body, batch.endpoint, status if place >= some else "")
            served = line.pop("served", None)
            if served is None:
                bad.append(line)
                continue
            batch.run += 1
            batch.served = [sum(pair) for pair in zip(batch.served, served, strict=True)]
            good.append(line)
        return good, bad

    # Anthropic's.

    def anthropic(self, method: str, path: str, query: str, body: Any) -> Answer:
        parts = path.split("/")  # messages, batches, id, …
        match (method, len(parts)):
            case ("POST", 2):
                return self._create_anthropic(body)
            case ("GET", 2):
                shown = [_shown_anthropic(one) for one in reversed(self.batches.values())]
                return 200, _listed(shown, query)
            case _ if parts[2] not in self.batches or self.batches[parts[2]].deleted:
                return 404, anthropic.error(404, "No such batch")
        batch = self.batches[parts[2]]
        match (method, len(parts), parts[-1]):
            case ("GET", 3, _):
                if not self.held and not batch.ended:
                    cancelled = batch.status == "cancelling"
                    run = {"run": len(batch.lines) // 2} if cancelled else {}
                    self._move(batch, "cancelled" if cancelled else "completed", run)
                return 200, _shown_anthropic(batch)
            case ("GET", 4, "results"):
                if not batch.ended:
                    return 404, anthropic.error(404, "The results are not available yet")
                return 200, "".join(json.dumps(line) + "\n" for line in batch.results)
            case ("POST", 4, "cancel"):
                if not batch.ended:
                    batch.status = "cancelling"
                return 200, _shown_anthropic(batch)
            case ("DELETE", 3, _):
                batch.deleted = True
                return 200, {"id": batch.id, "type": "message_batch_deleted"}
        return 404, anthropic.error(404, "Not found")

    def _create_anthropic(self, body: Any) -> Answer:
        requests = body.get("requests") if isinstance(body, dict) else None
        if not requests or len(requests) > 100_000:
            return 400, anthropic.error(400, "requests: 1 to 100000 are required")
        lines = [(one["custom_id"], one["params"]) for one in requests]
        if any(not ANTHROPIC_ID.fullmatch(custom_id) for custom_id, _ in lines):
            return 400, anthropic.error(400, "requests: custom_id is not valid")
        if len({custom_id for custom_id, _ in lines}) < len(lines):
            return 400, anthropic.error(400, "requests: custom_id is not unique")
        batch = Batch(f"msgbatch_{next(self._numbers)}", lines, status="in_progress")
        self.batches[batch.id] = batch
        return 200, _shown_anthropic(batch)


def _read(content: bytes, endpoint: str) -> tuple[list[tuple[str, Any]], list[dict[str, Any]]]:
    """The lines of an input file, and what is wrong with them."""
    lines: list[tuple[str, Any]] = []
    wrong: list[dict[str, Any]] = []
    models = set()
    for number, text in enumerate(content.splitlines(), 1):
        try:
            line = json.loads(text)
            custom_id, body = line["custom_id"], line["body"]
        except (ValueError, LookupError):
            wrong.append(_wrong(number, "invalid_json_line", "This line is not parseable."))
            continue
        if custom_id in {known for known, _ in lines}:
            wrong.append(_wrong(number, "duplicate_custom_id", "custom_id is not unique."))
        if line.get("method") != "POST" or line.get("url", "").removeprefix("/v1") != endpoint:
            wrong.append(_wrong(number, "mismatched_endpoint", "url does not match."))
        models.add(body.get("model"))
        lines.append((custom_id, body))
    if len(models) > 1:
        wrong.append(_wrong(None, "mismatched_model", "All lines must have one model."))
    if not lines or len(lines) > MAX_LINES:
        wrong.append(_wrong(None, "invalid_input", "1 to 50000 lines are required."))
    return lines, wrong


def _wrong(number: int | None, code: str, message: str) -> dict[str, Any]:
    return {"code": code, "message": message, "param": None, "line": number}


def _run_openai(custom_id: str, body: Any, endpoint: str, stopped: str) -> dict[str, Any]:
    line = {"id": f"batch_req_{custom_id}", "custom_id": custom_id, "response": None, "error": None}
    if stopped:
        message = f"This request could not be executed: the batch was {stopped}."
        return line | {"error": {"code": f"batch_{stopped}", "message": message}}
    status, answer = 200, {}
    fault = _fault(body)
    if fault.status:
        status, answer = (
            fault.status,
            completions.error(fault.status, "Told to fail.", fault.code or None),
        )
    elif endpoint == "/embeddings":
        status, answer = completions.embeddings(body)
    elif wrong := completions.what_is_wrong(body):
        status, answer = 400, completions.error(400, wrong)
    else:
        answer = Completion(body, fault).whole()
    response = {"status_code": status, "request_id": f"req_{custom_id}", "body": answer}
    usage = answer.get("usage") or {}
    served = [usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)]
    return line | {"response": response} | ({"served": served} if status == 200 else {})


def _run_anthropic(custom_id: str, body: Any, _: str, stopped: str) -> dict[str, Any]:
    kinds = {"expired": "expired", "cancelled": "canceled"}
    if stopped:
        return {"custom_id": custom_id, "result": {"type": kinds[stopped]}}
    headers = {"x-api-key": "any", "anthropic-version": "any"}
    wrong = anthropic.what_is_wrong(("POST", "messages"), headers, body)
    fault = _fault(body)
    if fault.status:
        wrong = fault.status, anthropic.error(fault.status, "Told to fail.")
    if wrong:
        return {"custom_id": custom_id, "result": {"type": "errored", "error": wrong[1]}}
    reply = anthropic.Reply(body, fault)
    message = reply.whole()
    message["usage"] = message["usage"] | {"service_tier": "batch"}
    served = [reply.usage["input_tokens"] + 2, reply.usage["output_tokens"]]
    result = {"type": "succeeded", "message": message}
    return {"custom_id": custom_id, "result": result, "served": served}


def _fault(body: Any) -> Fault:
    messages = body.get("messages")
    found = DIRECTIVE.search(last_user_message(messages)) if messages else None
    return Fault.from_directive(found[1]) if found else Fault()


def _shown(batch: Batch) -> dict[str, Any]:
    failed = len(batch.lines) - batch.run if batch.ended else 0
    return {
        "id": batch.id, "object": "batch", "endpoint": f"/v1{batch.endpoint}",
        "errors": {"object": "list", "data": batch.wrong} if batch.status == "failed" else None,
        "input_file_id": batch.file_id, "completion_window": "24h", "status": batch.status,
        "output_file_id": batch.output, "error_file_id": batch.errors,
        "created_at": int(batch.created_at), "metadata": batch.metadata,
        "request_counts": {"total": len(batch.lines), "completed": batch.run, "failed": failed},
    }  # fmt: skip


def _shown_anthropic(batch: Batch) -> dict[str, Any]:
    status = "canceling" if batch.status == "cancelling" else "in_progress"
    counts = dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0)
    if batch.ended:
        status = "ended"
        for line in batch.results:
            counts[line["result"]["type"]] += 1
    else:
        counts["processing"] = len(batch.lines)
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(batch.created_at))
    return {
        "id": batch.id, "type": "message_batch", "processing_status": status,
        "request_counts": counts, "created_at": created, "expires_at": created,
        "ended_at": created if batch.ended else None, "cancel_initiated_at": None,
        "archived_at": None,
        "results_url": f"/v1/messages/batches/{batch.id}/results" if batch.ended else None,
    }  # fmt: skip


def _listed(data: list[dict[str, Any]], query: str) -> dict[str, Any]:
    asked = parse_qs(query)
    limit = int(asked.get("limit", ["20"])[0])
    after = asked.get("after", asked.get("after_id", [None]))[0]
    if after:
        data = data[[one["id"] for one in data].index(after) + 1 :]
    page = data[:limit]
    ids = [one["id"] for one in page] or [None]
    more = len(data) > limit
    return {
        "object": "list",
        "data": page,
        "has_more": more,
        "first_id": ids[0],
        "last_id": ids[-1],
    }
