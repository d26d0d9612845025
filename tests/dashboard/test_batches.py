"""The pages of batches and jobs: what they show, whom, and what can be done there."""

from __future__ import annotations

import html
import json
import re
import time
from collections.abc import Iterator

import pytest
import requests

from tests.conftest import MakeWeir
from tests.support.administrator import SETTINGS
from tests.support.books import PRICES, Books
from tests.support.servers import Provider, Weir, wait_until
from tests.support.stored_batches import StoredBatches
from tests.support.visitor import Visitor, text_of, token_of

CHAT = "/v1/chat/completions"
MIA = {"username": "mia", "password": "mia's password"}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def weir(
    request: pytest.FixtureRequest,
    start_shared_weir: MakeWeir,
    fresh_shared_database: str,
    provider: Provider,
) -> Weir:
    more = {"DATABASE_URL": fresh_shared_database} if request.param == "postgresql" else {}
    more["OPENAI_BASE_URL"] = provider.base_url
    return start_shared_weir(**SETTINGS, MODEL_PRICES=PRICES, FILES_MAX_BYTES=1_000_000, **more)


@pytest.fixture(scope="module")
def admin(weir: Weir) -> Visitor:
    visitor = Visitor(weir)
    visitor.sign_in()
    return visitor


@pytest.fixture(scope="module")
def member(weir: Weir, admin: Visitor) -> Visitor:
    admin.post("/dashboard/accounts", role="member", tier="free", **MIA)
    visitor = Visitor(weir)
    visitor.sign_in(**MIA)
    return visitor


@pytest.fixture(scope="module")
def stored(weir: Weir) -> Iterator[StoredBatches]:
    stored = StoredBatches(weir)
    yield stored
    stored.close()


def key_of(admin: Visitor, name: str, **fields: str) -> int:
    admin.create_key(name, **fields)
    return max(admin.ids_of_keys())


def listed(visitor: Visitor, query: str = "") -> list[str]:
    page = visitor.get(f"/dashboard/batches{query}")
    assert page.status_code == 200
    return re.findall(r'href="/dashboard/batches/((?:batch|job)_\w+)"', page.text)


def test_without_a_batch_the_list_says_how_to_start_one(weir: Weir, admin: Visitor) -> None:
    page = admin.get("/dashboard/batches").text
    assert "No batches yet" in page
    assert "API reference</a>" in page
    assert "No jobs yet" in admin.get("/dashboard/batches?kind=job").text


def test_batches_are_listed_newest_first_and_found_by_state_and_key(
    admin: Visitor, stored: StoredBatches
) -> None:
    first, second = key_of(admin, "first"), key_of(admin, "second")
    old = stored.batch(first, "completed", ago=500, total=1, succeeded=1)
    new = stored.batch(second, "in_progress", ago=400, total=10, succeeded=4, failed=1)
    job = stored.batch(first, "completed", kind="job", ago=300, total=1, succeeded=1)
    mine = {old, new, job}

    def found(query: str = "") -> list[str]:
        return [batch_id for batch_id in listed(admin, query) if batch_id in mine]

    assert found() == [new, old]
    assert found("?state=completed") == [old]
    assert found(f"?key={second}") == [new]
    assert found(f"?key={first}&state=in_progress") == []
    assert found("?kind=job") == [job]
    assert found("?kind=job&state=failed") == []
    assert "No matching jobs" in admin.get("/dashboard/batches?kind=job&state=failed").text
    for odd in ("state=%00", "state=x&key=x&after=%00", "kind=x", "key=" + "9" * 2000):
        assert admin.get(f"/dashboard/batches?{odd}").status_code == 200, odd
    missing = "batch_" + "x" * 24
    for path in (f"?after={missing}", f"/{missing}", "/%00", "/x", f"/{old}/files/x"):
        assert admin.get(f"/dashboard/batches{path}").status_code == 404, path


def test_jobs_have_the_statuses_that_their_clients_see(
    admin: Visitor, stored: StoredBatches
) -> None:
    key = key_of(admin, "statuses")
    expired = {"code": "batch_expired", "message": "…"}
    ids = {
        "running": stored.batch(key, "in_progress", kind="job", total=1),
        "completed": stored.batch(key, kind="job", total=1, succeeded=1),
        "failed": stored.batch(key, kind="job", total=1, failed=1),
        "expired": stored.batch(key, "expired", kind="job", failed=1, stopped_by=expired),
        "cancelled": stored.batch(
            key, "cancelled", kind="job", failed=1, cancelling_at=time.time()
        ),
    }
    for status, job in ids.items():
        assert listed(admin, f"?kind=job&key={key}&state={status}") == [job], status
        text = text_of(admin.get(f"/dashboard/batches/{job}").text)
        assert f"Job {status.capitalize()}" in text
        if status != "running":
            assert re.search(rf"Created [-:0-9 ]+ {status.capitalize()} [-0-9]+", text), text
    assert listed(admin, f"?kind=job&key={key}&state=queued") == []
    assert "validating" not in admin.get(f"/dashboard/batches?kind=job&key={key}").text


def test_pages_of_batches_follow_each_other(admin: Visitor, stored: StoredBatches) -> None:
    key = key_of(admin, "paged")
    ids = [stored.batch(key, ago=1000 - number) for number in range(60)]
    page = admin.get(f"/dashboard/batches?key={key}").text
    [older] = map(html.unescape, re.findall(r'href="(\?[^"]*after=[^"]+)"', page))
    assert listed(admin, f"?key={key}") + listed(admin, older) == ids[::-1]


def test_a_batch_in_progress_shows_its_progress_its_cost_and_its_failures(
    admin: Visitor, stored: StoredBatches
) -> None:
    key = key_of(admin, "runs")
    codes = ["timeout", "rate_limit_exceeded", "timeout"]
    batch = stored.batch(
        key, "in_progress", ago=600, total=1_000, succeeded=247, failed=3, spent_nano=410_000_000,
        cap_nano=2_000_000_000, metadata={"team": "<b>search</b>"}, mode_reason="as asked for",
        failed_lines={number: (code, 0, 1) for number, code in enumerate(codes, 1)},
    )  # fmt: skip
    page = admin.get(f"/dashboard/batches/{batch}").text
    text = text_of(page)
    # 250 lines took the 300 seconds since its start.
    assert "250 of 1,000 3 failed About 15 min left" in text
    assert "Cost so far $0.41 of $2.00" in text
    assert "timeout 2 rate_limit_exceeded 1" in text
    assert "&lt;b&gt;search&lt;/b&gt;" in page
    assert "Direct as asked for" in text
    assert f'href="/dashboard/keys/{key}"' in page
    found = admin.get(f"/dashboard/batches?key={key}").text
    assert 'title="as asked for"' in found, "it may be long: the page of the batch shows it"
    row = text_of(found)
    assert "as asked for" not in row
    assert "In progress runs" in row
    assert "250 of 1,000 3 failed About 15 min left $0.41 cap $2.00 Direct" in row


def test_a_batch_whose_file_is_not_valid_shows_the_errors(
    admin: Visitor, stored: StoredBatches
) -> None:
    errors = [
        {"code": "invalid_json_line", "message": f"not JSON {line}", "param": None, "line": line}
        for line in range(1, 151)
    ]
    batch = stored.batch(key_of(admin, "invalid"), "failed", errors=errors)
    text = text_of(admin.get(f"/dashboard/batches/{batch}").text)
    assert "The input file is not valid" in text
    assert "100 invalid_json_line not JSON 100" in text
    assert "not JSON 101" not in text
    assert "50 more errors are in the error file" in text


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("cost_cap_reached", "The cost cap was reached."),
        ("budget_exceeded", "The key's budget was used up."),
        ("key_revoked", "The API key was revoked."),
        ("batch_expired", "The completion window ended."),
        ("another_code", "What the error says."),
    ],
)
def test_what_ended_a_batch_early_is_said_in_words(
    admin: Visitor, stored: StoredBatches, code: str, words: str
) -> None:
    stopped_by = {"code": code, "message": "What the error says."}
    batch = stored.batch(
        1, total=5, succeeded=1, failed=4, failures={code: 4}, stopped_by=stopped_by
    )
    text = text_of(admin.get(f"/dashboard/batches/{batch}").text)
    assert words in text
    assert f"{code} 4" in text


def test_a_batch_with_failed_lines_does_not_look_like_a_success(
    admin: Visitor, stored: StoredBatches
) -> None:
    for failed, tag in ((0, "good"), (1, "poor")):
        batch = stored.batch(1, total=5, succeeded=5 - failed, failed=failed)
        page = admin.get(f"/dashboard/batches/{batch}").text
        assert f'<span class="tag {tag}">Completed</span>' in page


def test_files_are_downloaded_while_they_are_stored(admin: Visitor, stored: StoredBatches) -> None:
    key = key_of(admin, "files")
    content = b'{"custom_id": "a"}\n' * 200_000
    files = {"input": stored.file(key, content), "output": stored.file(key, b"out", "batch_output")}
    batch = stored.batch(
        key, input_file_id=files["input"], output_file_id=files["output"], error_file_id="file-gone"
    )
    page = f"/dashboard/batches/{batch}"
    text = text_of(admin.get(page).text)
    assert "3.8 MB in 6 days" in text
    assert "file-gone – No longer stored" in text
    answer = admin.get(f"{page}/files/input")
    assert answer.content == content
    assert answer.headers["Content-Length"] == str(len(content))
    assert answer.headers["Content-Disposition"] == 'attachment; filename="lines.jsonl"'
    assert admin.get(f"{page}/files/output").content == b"out"
    assert admin.get(f"{page}/files/error").status_code == 404


@pytest.mark.parametrize("kind", ["batch", "job"])
def test_a_batch_is_cancelled_after_a_question_and_the_audit_log_says_by_whom(
    weir: Weir, admin: Visitor, stored: StoredBatches, kind: str
) -> None:
    batch = stored.batch(key_of(admin, f"cancels a {kind}"), "in_progress", kind=kind, total=9)
    path = f"/dashboard/batches/{batch}"
    question = admin.get(f"{path}/cancel").text
    assert "This cannot be undone" in question
    says = {"batch": "lines that run end first", "job": "its call of the provider is cancelled"}
    assert says[kind] in question
    page = admin.post(f"{path}/cancel")
    assert page.url.endswith(path)
    assert {"batch": "Cancelling", "job": "Job Cancelled"}[kind] in text_of(page.text)
    assert f'href="{path}/cancel"' not in page.text
    audit = text_of(admin.get(f"/dashboard/audit?target={batch}").text)
    assert f"admin 127.0.0.1 {kind}.cancel {batch} 1 field state in_progress → cancelling" in audit
    ended = stored.batch(1, "completed", kind=kind, succeeded=1)
    answer = admin.post(f"/dashboard/batches/{ended}/cancel", on=f"{path}/cancel")
    assert (answer.status_code, "cannot be cancelled" in answer.text) == (409, True)
    events = Books(weir).rows(f"SELECT * FROM audit WHERE target = '{ended}'")
    assert events == [], "nothing was done"


def upload(visitor: Visitor, content: bytes, **fields: object) -> requests.Response:
    """Send the form that starts a batch."""
    page = "/dashboard/batches/new"
    data = {"csrf_token": token_of(visitor.get(page).text), "endpoint": CHAT, **fields}
    files = {"file": ("/home/me/questions.jsonl", content)}
    return visitor.session.post(visitor.weir.url + page, data=data, files=files, timeout=30)


def lines(count: int) -> bytes:
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "x"}]}
    line = {"method": "POST", "url": CHAT, "body": body}
    return b"".join(
        json.dumps({"custom_id": f"line-{n}", **line}).encode() + b"\n" for n in range(count)
    )


def test_a_batch_is_started_by_hand_and_runs(
    weir: Weir, admin: Visitor, stored: StoredBatches
) -> None:
    key = key_of(admin, "by hand")
    started = upload(admin, lines(20), key=key, cap="1.50", on_lost="fail")
    assert started.status_code == 200, text_of(started.text)
    batch = started.url.rpartition("/")[2]

    def completed() -> bool:
        return "Batch Completed" in text_of(admin.get(f"/dashboard/batches/{batch}").text)

    wait_until(completed, 20, "the end of the batch")
    page = text_of(admin.get(f"/dashboard/batches/{batch}").text)
    assert "20 of 20 Succeeded 20 Failed 0" in page
    assert "of $1.50" in page
    assert "If a worker is lost Fail the line" in page
    output = admin.get(f"/dashboard/batches/{batch}/files/output").text.splitlines()
    ids = [json.loads(line)["custom_id"] for line in output]
    assert sorted(ids) == sorted(f"line-{n}" for n in range(20))
    found = stored.batches.find(batch)
    assert found.metadata == {
        "weir_mode": "direct",
        "weir_on_lost": "fail",
        "weir_cost_cap_usd": "1.50",
    }
    assert found.key_id == key
    file = stored.files.find(key, found.input_file_id or "")
    assert (file.filename, file.bytes) == ("questions.jsonl", len(lines(20)))
    audit = text_of(admin.get(f"/dashboard/audit?target={batch}").text)
    assert f"admin 127.0.0.1 batch.start {batch}" in audit
    assert f"endpoint {CHAT}" in audit
    assert "by hand /dashboard/batches/new" in text_of(admin.get("/dashboard/requests").text)


def test_a_mistake_in_the_form_is_named_and_stores_nothing(
    weir: Weir, admin: Visitor, member: Visitor, stored: StoredBatches
) -> None:
    key = key_of(admin, "mistakes")
    for fields, status, words in (
        ({"key": key, "cap": "much"}, 422, "blank = no cap Must be an amount in USD."),
        ({"key": key, "cap": "-1"}, 422, "Must be an amount in USD from 0"),
        ({"key": key, "endpoint": "/chat"}, 422, "/v1/responses Must be one of"),
        ({"key": key, "mode": "fast"}, 422, "Must be one of direct, native, auto."),
        ({"key": key, "on_lost": "hope"}, 422, "Must be one of retry, fail."),
        ({"key": 99_999}, 422, "Choose a key of yours"),
        ({}, 422, "Choose a key of yours"),
        ({"key": key, "csrf_token": "forged"}, 403, "This form has expired"),
    ):
        answer = upload(admin, lines(1), **fields)
        assert (answer.status_code, words in text_of(answer.text)) == (status, True), fields
    page = upload(admin, lines(1), key=key, cap="-1").text
    assert 'value="-1"' in page
    assert 'id="field-cap" name="cap" aria-invalid="true" aria-describedby="error-cap" auto' in page
    empty = upload(admin, b"", key=key)
    assert (empty.status_code, text_of(empty.text).count("The file is empty")) == (422, 1)
    too_large = upload(admin, bytes(1_100_000), key=key)
    assert (too_large.status_code, "Start batch" in too_large.text) == (413, True)
    assert "The file is larger than 1,000,000 bytes" in text_of(too_large.text)
    assert upload(member, lines(1), key=key).status_code == 422, "it is not mia's"
    path = "/dashboard/batches/new"
    assert admin.post(path, key=str(key)).status_code == 415
    assert stored.files.page(key, purpose=None, after=None, limit=9, ascending=True) == ([], False)
    assert stored.batches.page(key_id=key) == ([], False)
    own = key_of(admin, "mia's own", owner="mia")
    started = upload(member, b"no JSON", key=own)
    assert (started.status_code, "/batches/batch_" in started.url) == (200, True)
    choices = text_of(member.get(path).text)
    assert "account mia mia's own" in choices
    assert "mistakes" not in choices


def test_the_calls_of_a_batch_are_shown_with_their_lines(
    weir: Weir, admin: Visitor, stored: StoredBatches
) -> None:
    secret = admin.create_key("calls")
    batch = stored.batch(max(admin.ids_of_keys()), total=9)
    answer = weir.post("/chat", key=secret, json={"message": "hello"})
    books, request_id = Books(weir), answer.headers["X-Request-ID"]
    books.settled_of(request_id)
    page = f"/dashboard/batches/{batch}"
    assert request_id not in admin.get(page).text
    change = f"batch_id = '{batch}', batch_line = 7 WHERE request_id = '{request_id}'"
    books.write(f"UPDATE ledger SET {change}")
    shown = admin.get(page).text
    assert f'href="/dashboard/requests/{request_id}"' in shown
    assert re.search(r"\d\d:\d\d:\d\d 7 openai", text_of(shown))


def test_a_member_sees_only_batches_of_own_keys(
    admin: Visitor, member: Visitor, stored: StoredBatches
) -> None:
    own, other = key_of(admin, "mia's batches", owner="mia"), key_of(admin, "not mia's")
    mine = stored.batch(own, "in_progress", total=9)
    theirs = stored.batch(other, "in_progress", total=9, input_file_id=stored.file(other, b"x"))
    job = stored.batch(other, "completed", kind="job")
    assert mine in listed(member)
    assert theirs not in listed(member)
    assert listed(member, "?kind=job") == []
    for query in (f"?key={other}", f"?key={other}&state=in_progress"):
        assert listed(member, query) == []
    paths = (theirs, f"{theirs}/cancel", f"{theirs}/files/input", job, f"?after={theirs}")
    for path in paths:
        separator = "" if path.startswith("?") else "/"
        answer = member.get(f"/dashboard/batches{separator}{path}")
        assert answer.status_code == 404, path
        assert "not mia's" not in answer.text
    refused = member.post(f"/dashboard/batches/{theirs}/cancel", on="/dashboard/me")
    assert refused.status_code == 404
    assert "Cancelling" in text_of(member.post(f"/dashboard/batches/{mine}/cancel").text)
    assert "In progress" in text_of(admin.get(f"/dashboard/batches/{theirs}").text)


def test_a_thousand_batches_make_no_page_slow_or_large(
    admin: Visitor, stored: StoredBatches
) -> None:
    keys = [key_of(admin, f"busy {number}") for number in range(2)]
    for number in range(1_000):
        stored.batch(keys[number % 2], ago=5_000 + number, total=9, succeeded=9)
    for query in ("", "?state=completed", f"?key={keys[0]}"):
        took = []
        for _ in range(5):
            began = time.perf_counter()
            page = admin.get(f"/dashboard/batches{query}")
            took.append(time.perf_counter() - began)
        assert min(took) < 0.1, query
        assert len(page.content) < 100_000, query
