"""`Prefer: respond-async`: native requests are answered later, as they would have been at once."""

from __future__ import annotations

from typing import Any

import pytest
import requests

from tests.conftest import MakeWeir
from tests.support.administrator import SETTINGS, Administrator
from tests.support.books import PRICES, Books
from tests.support.servers import Provider, Weir, wait_until

KEY, OTHER, FREE = "test_key_0123456789", "other_key_0123456789", "free_key_0123456789"
LATER = {"Prefer": "respond-async"}
BODIES: dict[str, dict[str, Any]] = {
    "/chat": {"message": "later", "max_tokens": 5},
    "/v1/chat": {"message": "later under v1", "max_tokens": 5},
    "/generate": {"prompt": "later"},
    "/summarize": {"text": "A text that is long enough to be summarized later. " * 10},
    "/predict": {"features": [112, 118, 132, 129]},
    "/batch-predict": {"requests": [{"features": [112, 118, 132, 129]}]},
}
# What differs between two answers to the same request.
OF_ITS_OWN = {"request_id", "latency_ms", "total_latency_ms", "cached", "cost_usd"}


def settings(provider: Provider) -> dict[str, Any]:
    return SETTINGS | {
        "API_KEYS": f"test:enterprise:{KEY},other:enterprise:{OTHER},free:free:{FREE}",
        "TIERS": "enterprise=99999/minute;free=99999/minute",
        "TIER_FREE": "models=stand-in-1",
        "MODEL_PRICES": PRICES,
        "OPENAI_BASE_URL": provider.base_url,
        "DEFAULT_MODEL": "stand-in-1",
        "LLM_MAX_RETRIES": 0,
        "BREAKER_FAILURES": 1_000_000,
    }


@pytest.fixture(scope="module")
def sqlite(start_shared_weir: MakeWeir, provider: Provider) -> Weir:
    return start_shared_weir(**settings(provider))


# Named so that the tests of both stay in one process, which starts each once.
@pytest.fixture(scope="module", params=["sqlite", "postgresql"], ids="on {}".format)
def weir(
    request: pytest.FixtureRequest,
    sqlite: Weir,
    start_shared_weir: MakeWeir,
    provider: Provider,
    fresh_shared_database: str,
) -> Weir:
    """For what the database has a part in; all else is tried on SQLite."""
    if request.param == "sqlite":
        return sqlite
    return start_shared_weir(**settings(provider), DATABASE_URL=fresh_shared_database)


def create(weir: Weir, path: str, body: Any, key: str = KEY, **headers: str) -> requests.Response:
    return weir.post(path, key=key, json=body, headers=LATER | headers)


def job_of(weir: Weir, created: requests.Response, key: str = KEY) -> dict[str, Any]:
    assert created.status_code == 202, created.text
    answer = weir.get(created.headers["Location"], key=key)
    assert answer.status_code == 200, answer.text
    job: dict[str, Any] = answer.json()
    return job


def ended(weir: Weir, created: requests.Response, key: str = KEY) -> dict[str, Any]:
    """The job, once it has ended."""

    def look() -> dict[str, Any] | None:
        job = job_of(weir, created, key)
        return None if job["status"] in {"queued", "running"} else job

    return wait_until(look, 15, "the end of a job", pause=0.1)


def without(answer: Any) -> Any:
    """An answer without what is of its own."""
    if isinstance(answer, list):
        return [without(item) for item in answer]
    if isinstance(answer, dict):
        return {name: without(one) for name, one in answer.items() if name not in OF_ITS_OWN}
    return answer


@pytest.mark.parametrize("path", BODIES)
def test_a_job_has_the_response_that_the_endpoint_would_have_sent(
    weir: Weir, provider: Provider, path: str
) -> None:
    created = create(weir, path, BODIES[path])
    assert created.headers["Location"] == f"/jobs/{created.json()['id']}"
    assert created.headers["Preference-Applied"] == "respond-async"
    assert created.json()["status"] == "queued"
    job = ended(weir, created)
    assert (job["status"], job["status_code"]) == ("completed", 200)
    now = weir.post(path, key=KEY, json=BODIES[path])
    assert without(job["response"]) == without(now.json())
    assert job["response"]["request_id"] == job["id"]


@pytest.mark.parametrize("prefer", ["Respond-Async", "wait=10, respond-async", "respond-async;a=1"])
def test_the_preference_is_read_as_the_standard_says(sqlite: Weir, prefer: str) -> None:
    created = create(sqlite, "/predict", BODIES["/predict"], Prefer=prefer)
    assert created.status_code == 202


@pytest.mark.parametrize("prefer", ["return=minimal", "x-respond-async", "respond", ""])
def test_other_preferences_are_ignored(sqlite: Weir, prefer: str) -> None:
    assert create(sqlite, "/predict", BODIES["/predict"], Prefer=prefer).status_code == 200


def test_openai_s_endpoints_ignore_the_preference(sqlite: Weir, provider: Provider) -> None:
    body = {"messages": [{"role": "user", "content": "now"}]}
    assert create(sqlite, "/v1/chat/completions", body).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "key"),
    [
        ("/chat", {"message": ""}, KEY),
        ("/chat", {"message": "hi", "unknown": 1}, KEY),
        ("/chat", {"message": "hi", "model": "other-model"}, FREE),
        ("/generate", [], KEY),
        ("/predict", {"features": ["x"]}, KEY),
        ("/summarize", {"text": "word " * 1_100}, FREE),
    ],
)
def test_what_is_refused_at_once_is_refused_before_a_job_is_made(
    sqlite: Weir, provider: Provider, path: str, body: Any, key: str
) -> None:
    later, now = create(sqlite, path, body, key), sqlite.post(path, key=key, json=body)
    assert now.status_code >= 400
    assert later.status_code == now.status_code
    assert later.json() | {"request_id": ""} == now.json() | {"request_id": ""}


def test_a_job_cannot_be_streamed(sqlite: Weir) -> None:
    answer = create(sqlite, "/chat", {"message": "hi", "stream": True})
    assert (answer.status_code, list(answer.json()["details"])) == (422, ["stream"])


def test_a_callback_needs_allowed_hosts(sqlite: Weir) -> None:
    url = "https://hooks.example.com/"
    answer = create(sqlite, "/predict", BODIES["/predict"], **{"X-Weir-Callback": url})
    assert (answer.status_code, list(answer.json()["details"])) == (422, ["X-Weir-Callback"])


def test_a_callback_without_a_job_is_refused(sqlite: Weir) -> None:
    headers = {"X-Weir-Callback": "https://hooks.example.com/"}
    answer = sqlite.post("/predict", key=KEY, json=BODIES["/predict"], headers=headers)
    reason = "Needs the header Prefer: respond-async."
    assert answer.status_code == 422, answer.text
    assert answer.json()["details"] == {"X-Weir-Callback": [reason]}


def test_a_creation_that_is_sent_again_is_the_same_job(weir: Weir) -> None:
    first, second = (
        create(weir, "/predict", BODIES["/predict"], **{"Idempotency-Key": "once"})
        for _ in range(2)
    )
    assert second.headers["Idempotency-Replayed"] == "true"
    assert second.status_code == first.status_code == 202
    assert second.json() == first.json()
    for name in ("Location", "Preference-Applied"):
        assert second.headers[name] == first.headers[name]


def test_a_job_belongs_to_its_key(sqlite: Weir) -> None:
    created = create(sqlite, "/predict", BODIES["/predict"])
    for method in ("GET", "DELETE"):
        answer = sqlite.request(method, created.headers["Location"], key=OTHER)
        assert (answer.status_code, answer.json()["error"]) == (404, "NotFound")
    assert sqlite.get("/jobs/job_unknown", key=KEY).status_code == 404
    assert sqlite.get(f"/v1{created.headers['Location']}", key=KEY).status_code == 200


def test_a_job_is_counted_once_and_billed_to_itself(weir: Weir, provider: Provider) -> None:
    def left(answer: requests.Response) -> int:
        return int(answer.headers["X-RateLimit-Remaining"])

    def requests_of_key() -> int:
        total: int = weir.get("/stats", key=OTHER).json()["requests_by_key"].get("othe***6789", 0)
        return total

    before = requests_of_key()
    created = create(weir, "/chat", {"message": "counted", "max_tokens": 5}, OTHER)
    job = ended(weir, created, OTHER)
    assert left(created) - left(weir.get(created.headers["Location"], key=OTHER)) == 0
    [row] = Books(weir).settled_of(job["id"])
    assert (row["batch_id"], row["batch_line"], row["endpoint"]) == (job["id"], 1, "/chat")
    assert row["cost_nano"] == round(job["response"]["cost_usd"] * 1e9)
    [line] = [one for one in weir.logs() if one.get("request_id") == job["id"]]
    assert (line["endpoint"], line["status_code"]) == ("/chat", 200)
    assert weir.log_of(created)["status_code"] == 202
    for request_id, status in ((job["id"], 200), (job["request_id"], 202)):
        query = f"SELECT 1 FROM requests WHERE request_id = '{request_id}' AND status = {status}"
        Books(weir).wait_for(query, 5, "the request in the log")
    wait_until(lambda: requests_of_key() == before + 1, 5, "the count of the job")
    create(weir, "/predict", BODIES["/predict"], OTHER)
    wait_until(lambda: requests_of_key() == before + 2, 5, "the count of another job")


def test_a_job_that_the_provider_refuses_has_failed(sqlite: Weir, provider: Provider) -> None:
    provider.fault(status=400)
    job = ended(sqlite, create(sqlite, "/chat", {"message": "refused", "max_tokens": 5}))
    assert (job["status"], job["status_code"]) == ("failed", 400)
    assert job["error"]["error"] == "ProviderRefusedRequest"
    assert (job["error"]["path"], job["error"]["request_id"]) == ("/chat", job["id"])


def test_a_job_uses_the_cache_as_its_request_says(sqlite: Weir, provider: Provider) -> None:
    body = {"message": "cached or not", "max_tokens": 5}
    for control, calls in (("max-age=60", 1), ("max-age=60", 1), ("no-cache", 2)):
        ended(sqlite, create(sqlite, "/chat", body, **{"Cache-Control": control}))
        assert len(provider.completions()) == calls, control


@pytest.mark.parametrize("status", [429, 500])
def test_a_job_waits_for_a_provider_that_is_away_for_a_moment(
    sqlite: Weir, provider: Provider, status: int
) -> None:
    provider.fault(status=status, times=1, retry_after="1")
    job = ended(sqlite, create(sqlite, "/chat", {"message": f"again {status}", "max_tokens": 5}))
    assert job["status"] == "completed"


def test_a_job_that_runs_can_be_cancelled(weir: Weir, provider: Provider) -> None:
    provider.fault(hang=True)
    created = create(weir, "/chat", {"message": "cancelled", "max_tokens": 5})
    wait_until(lambda: provider.completions(), 10, "the provider's call")
    assert job_of(weir, created)["status"] == "running"
    answer = weir.request("DELETE", created.headers["Location"], key=KEY)
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    [row] = Books(weir).settled_of(created.json()["id"])
    assert row["state"] == "cancelled"
    wait_until(lambda: job_of(weir, created)["ended_at"], 10, "the end of a job")
    job = job_of(weir, created)
    assert job["status"] == "cancelled"
    assert not {"response", "error"} & job.keys()
    assert weir.request("DELETE", created.headers["Location"], key=KEY).json() == job


def test_a_job_that_has_ended_cannot_be_cancelled(weir: Weir) -> None:
    created = create(weir, "/predict", BODIES["/predict"])
    ended(weir, created)
    answer = weir.request("DELETE", created.headers["Location"], key=KEY)
    assert (answer.status_code, answer.json()["error"]) == (409, "Conflict")


def test_a_revoked_key_cancels_its_jobs(weir: Weir, provider: Provider) -> None:
    administrator = Administrator(weir)
    made = administrator.post("/admin/keys", {"name": "revoked", "tier": "enterprise"}).json()
    provider.fault(hang=True)
    created = create(weir, "/chat", {"message": "revoked", "max_tokens": 5}, made["secret"])
    wait_until(lambda: provider.completions(), 10, "the provider's call")
    revoked = administrator.post(f"/admin/keys/{made['id']}/revoke")
    assert revoked.status_code == 200, revoked.text
    query = f"SELECT 1 FROM batches WHERE id = '{created.json()['id']}' AND state = 'cancelled'"
    Books(weir).wait_for(query, 30, "the end of a job")


def test_nothing_that_a_client_sends_lets_it_in_as_a_job(sqlite: Weir) -> None:
    headers = {"sqlite.deferred": "1", "Weir-Deferred": "1", "X-Request-ID": "job_1"}
    assert sqlite.post("/chat", json=BODIES["/chat"], headers=headers).status_code == 403


def test_a_job_survives_the_end_of_the_process_that_runs_it(
    new_weir: MakeWeir, provider: Provider
) -> None:
    weir = new_weir(
        API_KEYS=f"test:enterprise:{KEY}",
        TIER_ENTERPRISE="requests_per_day=9999",
        OPENAI_BASE_URL=provider.base_url,
        DEFAULT_MODEL="stand-in-1",
        FILES_QUOTA_BYTES=20_000,
        SHUTDOWN_GRACE=3,
    ).start()
    provider.fault(hang=True)
    created = create(weir, "/chat", {"message": "survives", "max_tokens": 5})
    large = create(weir, "/summarize", {"text": "word " * 3_000})
    assert large.status_code == 202
    refused = create(weir, "/summarize", {"text": "word " * 3_000})
    assert (refused.status_code, refused.json()["error"]) == (413, "StorageQuotaExceeded")
    wait_until(lambda: len(provider.completions()) == 2, 10, "the provider's calls")
    assert weir.terminate() == 0
    provider.fault()
    weir.start()
    for one in (created, large):
        job = ended(weir, one)
        assert (job["status"], job["status_code"]) == ("completed", 200)
    assert len(provider.completions()) == 4
