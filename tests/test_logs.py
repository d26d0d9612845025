"""What is logged: JSON lines with the fields of the contract, and never a secret or a prompt."""

from __future__ import annotations

from datetime import datetime

from tests.conftest import MakeWeir
from tests.support.servers import Provider, Valkey, wait_until

KEY = "test_key_0123456789"
FIELDS = {
    "timestamp", "level", "request_id", "api_key", "tier", "endpoint", "method", "status_code",
    "response_time_ms", "cache_hit", "model", "provider", "tokens", "cost_usd", "error", "trace_id",
}  # fmt: skip


def test_every_line_is_json_and_no_secret_is_in_it(
    start_weir: MakeWeir, fresh_valkey: Valkey, fresh_database: str, provider: Provider
) -> None:
    database = fresh_database.replace("postgres@", "postgres:database-password@")
    weir = start_weir(
        API_KEYS=f"test:enterprise:{KEY}", REDIS_URL=fresh_valkey.url, DATABASE_URL=database,
        OPENAI_BASE_URL=provider.base_url, OPENAI_API_KEY="sk-provider-secret-1234",
        SECRET_KEY="session-secret-0123456789", GUNICORN_CMD_ARGS="--access-logfile -",
        WEB_CONCURRENCY=1,
    )  # fmt: skip
    created = weir.run_flask("keys", "create", "Made").stdout.strip()
    trace = {"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01", "X-Request-ID": "the-first"}
    body = {"message": "a secret-prompt"}
    assert weir.post("/chat", key=KEY, json=body, headers=trace).ok
    assert weir.post("/chat", key=KEY, json=body).ok
    assert weir.post("/chat", key=created, json=body).ok
    with weir.stream("/chat", body | {"stream": True, "max_tokens": 9}, KEY) as stream:
        list(stream)
    weir.post("/chat", key="wrong-key-0123456789", json=body)
    weir.post(f"/chat/{KEY}", key=KEY, json=body)
    weir.get(f"/nope?key={KEY}")
    weir.get(f"/nope/{created}", headers={"X-Request-ID": created})
    weir.post("/chat", key=KEY, json=body, headers={"X-Request-ID": KEY})
    weir.post(
        "/chat",
        json=body,
        headers={"api-key": "unknown-key-01234", "X-Request-ID": "unknown-key-01234"},
    )
    provider.fault(status=500)
    weir.post("/chat", key=KEY, json={"message": "secret-prompt, failing"})
    fresh_valkey.stop()
    weir.post("/chat", key=KEY, json=body)
    wait_until(lambda: "Redis is unavailable" in weir.raw_logs())
    assert weir.terminate() == 0

    # On stderr is the banner alone, for people.
    lines = (weir.folder / "stdout.log").read_text().splitlines()
    assert "Traceback" not in (weir.folder / "stderr.log").read_text()
    assert len(weir.logs()) == len(lines), "a line is not JSON"
    for line in weir.logs():
        assert datetime.fromisoformat(line["timestamp"]).utcoffset() is not None
        assert line["level"] in {"debug", "info", "warning", "error"}
    for secret in (
        KEY, created, "wrong-key", "unknown-key", "sk-provider", "session-secret",
        "database-password", "secret-prompt", "echo:",
    ):  # fmt: skip
        assert secret not in weir.raw_logs(), secret

    requests = [line for line in weir.logs() if "status_code" in line and line["api_key"]]
    assert all(set(line) - {"attempts"} == FIELDS for line in requests)
    first, second, third, streamed = requests[:4]
    assert (first["request_id"], first["trace_id"]) == ("the-first", "ab" * 16)
    assert (first["api_key"], first["tier"]) == ("test***6789", "enterprise")
    assert (first["cache_hit"], second["cache_hit"]) == (False, True)
    assert (first["model"], first["provider"]) == ("stand-in-1", "openai")
    assert third["api_key"] == f"weir***{created[-4:]}"
    assert streamed["tokens"] > 0
    failed = next(line for line in requests if line["error"] == "ProviderFailed")
    assert (failed["status_code"], failed["level"]) == (502, "error")


def test_a_stream_is_logged_once_with_its_whole_duration(
    start_weir: MakeWeir, provider: Provider
) -> None:
    weir = start_weir(API_KEYS=f"test:enterprise:{KEY}", OPENAI_BASE_URL=provider.base_url)
    # The first call of a worker takes long by itself: it imports what it needs.
    assert weir.post("/generate", key=KEY, json={"prompt": "x"}).ok
    provider.fault(gap=0.2, pieces=10)
    with weir.stream("/chat", {"message": "x", "stream": True}, KEY) as stream:
        list(stream)

    def logged() -> list[dict[str, object]]:
        return [line for line in weir.logs() if line.get("endpoint") == "/chat"]

    [line] = wait_until(logged)
    duration = line["response_time_ms"]
    assert isinstance(duration, float)
    assert duration > 1500
