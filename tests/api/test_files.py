"""/v1/files: uploads, lists, downloads and deletions, by the openai SDK and by hand."""

from __future__ import annotations

import json
import socket
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
import requests

from tests.conftest import MakeWeir
from tests.support.batches import BatchClient
from tests.support.servers import Weir, wait_until

KEY, ANOTHER, QUOTA_KEY = "files_key_0123456789", "another_key_0123456789", "quota_key_0123456789"
MEBIBYTE = 1024 * 1024
MAX_BYTES = 3 * MEBIBYTE
SETTINGS = {
    "API_KEYS": f"a:enterprise:{KEY},b:enterprise:{ANOTHER},c:enterprise:{QUOTA_KEY}",
    "TIERS": "enterprise=99999/minute",
    "WEB_CONCURRENCY": 1,
    "FILES_MAX_BYTES": MAX_BYTES,
    "FILES_QUOTA_BYTES": 4 * MEBIBYTE,
    "MAX_BODY_BYTES": MEBIBYTE,
    "BODY_TIMEOUT": 2,
}
LINES = b'{"custom_id": "1"}\n' * 1000


@pytest.fixture(scope="module")
def weir(start_shared_weir: MakeWeir) -> Weir:
    """With SQLite: the files are in a folder."""
    return start_shared_weir(**SETTINGS)


@pytest.fixture(scope="module")
def postgresql_weir(start_shared_weir: MakeWeir, fresh_shared_database: str) -> Weir:
    """With PostgreSQL: the files are in a table."""
    return start_shared_weir(**SETTINGS, DATABASE_URL=fresh_shared_database)


def upload(weir: Weir, content: bytes = LINES, key: str = KEY, **more: Any) -> requests.Response:
    given = {"data": {"purpose": "batch"}, "files": {"file": ("in.jsonl", content)}} | more
    return weir.post("/v1/files", key=key, **given)


def error(answer: requests.Response) -> tuple[int, str | None, str]:
    """Status, field and code."""
    body = answer.json()["error"]
    assert set(body) == {"message", "type", "param", "code"}
    return answer.status_code, body["param"], body["code"]


@pytest.mark.parametrize("kind", ["weir", "postgresql_weir"])
def test_the_openai_sdk_uploads_lists_downloads_and_deletes(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    weir: Weir = request.getfixturevalue(kind)
    client = BatchClient(weir, ANOTHER).sdk
    path = tmp_path / "bätch 1.jsonl"
    path.write_bytes(LINES)
    began = int(time.time())
    with path.open("rb") as opened:
        file = client.files.create(file=opened, purpose="batch")
    assert (file.object, file.filename, file.bytes) == ("file", "bätch 1.jsonl", len(LINES))
    assert (file.purpose, file.status) == ("batch", "processed")
    assert began <= file.created_at <= time.time()
    assert file.expires_at is not None
    assert file.expires_at - file.created_at in {7 * 86_400, 7 * 86_400 + 1}
    short = client.files.create(
        file=("in.jsonl", b"x"),
        purpose="batch",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    assert short.expires_at is not None
    assert short.expires_at - short.created_at in {3600, 3601}

    assert client.files.retrieve(file.id) == file
    assert [one.id for one in client.files.list()] == [short.id, file.id]
    assert [one.id for one in client.files.list(order="asc", limit=1)] == [file.id, short.id]
    assert [one.id for one in client.files.list(purpose="batch_output")] == []
    assert client.files.content(file.id).read() == LINES

    assert client.files.delete(file.id).to_dict() == {
        "id": file.id, "object": "file", "deleted": True,
    }  # fmt: skip
    with pytest.raises(openai.NotFoundError, match=f"No such File object: {file.id}"):
        client.files.retrieve(file.id)
    with pytest.raises(openai.NotFoundError):
        client.files.content(file.id)
    with pytest.raises(openai.NotFoundError):
        client.files.delete(file.id)
    client.files.delete(short.id)


def test_another_key_s_file_is_not_there(weir: Weir) -> None:
    file_id = upload(weir).json()["id"]
    path = f"/v1/files/{file_id}"
    for method, of_it in [("GET", path), ("GET", f"{path}/content"), ("DELETE", path)]:
        answer = weir.request(method, of_it, headers={"X-API-Key": ANOTHER})
        assert error(answer) == (404, None, "not_found")
    assert weir.get(path, key=KEY).status_code == 200
    assert weir.request("DELETE", path, headers={"X-API-Key": KEY}).status_code == 200


def test_only_uploads_count_as_requests(weir: Weir) -> None:
    def left(answer: requests.Response) -> int:
        return int(answer.headers["X-RateLimit-Remaining"])

    first = upload(weir)
    path = f"/v1/files/{first.json()['id']}"
    for _ in range(2):
        assert left(weir.get(path, key=KEY)) == left(first)
        assert left(weir.get(f"{path}/content", key=KEY)) == left(first)
        assert left(weir.get("/v1/files", key=KEY)) == left(first)
    deleted = weir.request("DELETE", path, headers={"X-API-Key": KEY})
    assert left(deleted) == left(first)
    assert left(upload(weir, b"")) == left(first) - 1


def test_a_download_is_named_safely(weir: Weir) -> None:
    names = {
        '../../etc/pass"wd': 'attachment; filename="pass_wd"',
        "ü 1.jsonl": "attachment; filename=\"u 1.jsonl\"; filename*=UTF-8''%C3%BC%201.jsonl",
        "日": "attachment; filename=\"file\"; filename*=UTF-8''%E6%97%A5",
    }
    for name, disposition in names.items():
        file_id = upload(weir, b"x", files={"file": (name, b"x")}).json()["id"]
        answer = weir.get(f"/v1/files/{file_id}/content", key=KEY)
        assert answer.headers["Content-Disposition"] == disposition
        assert answer.headers["Content-Type"] == "application/octet-stream"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.content == b"x"
        weir.request("DELETE", f"/v1/files/{file_id}", headers={"X-API-Key": KEY})


def form(*parts: str, end: str = "--b--\r\n") -> bytes:
    """A multipart body with the boundary `b`; each part is its headers and its content."""
    return ("".join(f"--b\r\n{part}\r\n" for part in parts) + end).encode()


def part(name: str, content: str = "x", filename: str | None = None) -> str:
    of_file = "" if filename is None else f'; filename="{filename}"'
    return f'Content-Disposition: form-data; name="{name}"{of_file}\r\n\r\n{content}'


FILE, PURPOSE = part("file", filename="in.jsonl"), part("purpose", "batch")
SECONDS = "expires_after[seconds]"
BAD_FORMS: dict[str, tuple[bytes, str | None]] = {
    "no file": (form(PURPOSE), "file"),
    "a file that is none": (form(part("file"), PURPOSE), "file"),
    "an empty file": (form(part("file", "", filename="in.jsonl"), PURPOSE), "file"),
    "a second file": (form(PURPOSE, FILE, FILE), "file"),
    "another file": (form(PURPOSE, part("other", filename="x")), "other"),
    "no purpose": (form(FILE), "purpose"),
    "another purpose": (form(part("purpose", "assistants"), FILE), "purpose"),
    "another purpose behind it": (form(FILE, part("purpose", "assistants")), "purpose"),
    "two purposes": (form(PURPOSE, PURPOSE, FILE), "purpose"),
    "a long field": (form(part("purpose", "x" * 2000), FILE), "purpose"),
    "too short": (form(PURPOSE, FILE, part(SECONDS, "3599")), SECONDS),
    "too long": (form(PURPOSE, part(SECONDS, "2592001"), FILE), SECONDS),
    "no number": (form(PURPOSE, part(SECONDS, "-3600"), FILE), SECONDS),
    "no anchor": (form(PURPOSE, part("expires_after[anchor]", "now"), FILE),
                  "expires_after[anchor]"),
    "flat": (form(PURPOSE, part("expires_after", "3600"), FILE), "expires_after"),
    "cut": (form(PURPOSE, FILE, end=""), None),
    "empty": (b"", None),
    "no form": (b"x" * 1000, None),
    "without a name": (form("Content-Disposition: form-data; filename=x\r\n\r\nx"),
                       "(without a name)"),
    "without a disposition": (form("Content-Type: x\r\n\r\nx"), None),
    "long headers": (form("X: " + "x" * 400_000 + "\r\n\r\nx", FILE), None),
    "many parts": (form(*[part(f"f{n}") for n in range(99)], PURPOSE, FILE), None),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_FORMS)
def test_a_bad_form_is_refused_by_the_name_of_its_field(weir: Weir, kind: str) -> None:
    body, param = BAD_FORMS[kind]
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = weir.post("/v1/files", key=KEY, data=body, headers=headers)
    expected = "validation_error" if param else "malformed_request"
    assert error(answer) == (400, param, expected), answer.text
    assert nothing_is_left(weir)


def test_fields_may_follow_the_file(weir: Weir) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    body = form(FILE, part(SECONDS, "7200"), PURPOSE, part("more", "x" * 600_000))
    answer = weir.post("/v1/files", key=KEY, data=body, headers=headers).json()
    assert answer["expires_at"] - answer["created_at"] in {7200, 7201}
    delete(weir, answer["id"])


def delete(weir: Weir, file_id: str, key: str = KEY) -> None:
    answer = weir.request("DELETE", f"/v1/files/{file_id}", headers={"X-API-Key": key})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("content_type", "status"),
    [("multipart/form-data", 400), ("multipart/form-data; boundary=" + "b" * 201, 400),
     ("application/json", 415), ("application/x-www-form-urlencoded", 415)],
)  # fmt: skip
def test_only_a_form_with_a_boundary_is_read(weir: Weir, content_type: str, status: int) -> None:
    headers = {"Content-Type": content_type}
    answer = weir.post("/v1/files", key=KEY, data=form(PURPOSE, FILE), headers=headers)
    assert error(answer)[0] == status


@pytest.mark.parametrize("chunked", [False, True])
def test_files_max_bytes_alone_bounds_a_file(weir: Weir, chunked: bool) -> None:
    """MAX_BODY_BYTES is smaller here."""

    def sent(size: int) -> requests.Response:
        body = form(PURPOSE, part("file", "x" * size, filename="in.jsonl"))
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        data: Any = iter([body[:70_000], body[70_000:]]) if chunked else body
        return weir.post("/v1/files", key=KEY, data=data, headers=headers)

    answer = sent(MAX_BYTES)
    assert answer.json()["bytes"] == MAX_BYTES
    delete(weir, answer.json()["id"])
    wait_until(lambda: nothing_is_left(weir))
    for size in (MAX_BYTES + 1, MAX_BYTES + MEBIBYTE):
        answer = sent(size)
        assert error(answer) == (413, None, "payload_too_large")
        assert "3,145,728 bytes" in answer.text
    assert nothing_is_left(weir)


def test_two_uploads_that_race_for_the_last_bytes_of_the_quota(weir: Weir) -> None:
    """One gets them, and what the key has can be uploaded once more is deleted."""
    first = upload(weir, bytes(2 * MEBIBYTE), QUOTA_KEY)
    assert first.status_code == 200
    with ThreadPoolExecutor(2) as pool:
        raced = list(pool.map(lambda _: upload(weir, bytes(MAX_BYTES // 2), QUOTA_KEY), range(2)))
    by_status = {answer.status_code: answer for answer in raced}
    assert set(by_status) == {200, 413}
    refused = by_status[413]
    assert error(refused) == (413, None, "storage_quota_exceeded")
    assert "4,194,304 bytes in all" in refused.json()["error"]["message"]
    for answer in (first, by_status[200]):
        delete(weir, answer.json()["id"], QUOTA_KEY)
    again = upload(weir, bytes(MAX_BYTES), QUOTA_KEY)
    assert again.status_code == 200
    delete(weir, again.json()["id"], QUOTA_KEY)
    wait_until(lambda: nothing_is_left(weir))


def test_a_client_that_hangs_up_in_the_middle_leaves_nothing(weir: Weir) -> None:
    with BegunUpload(weir, 2 * MEBIBYTE):
        wait_until(lambda: stored_bytes(weir) > MEBIBYTE)
    wait_until(lambda: nothing_is_left(weir))


def test_a_body_that_stops_is_told_and_leaves_nothing(weir: Weir) -> None:
    with BegunUpload(weir, 10_000) as connection:
        connection.settimeout(10)
        assert b" 408 " in connection.recv(100)
    wait_until(lambda: nothing_is_left(weir))


class BegunUpload:
    """An upload of which so many bytes have been sent, and no more are."""

    def __init__(self, weir: Weir, size: int) -> None:
        self._connection = socket.create_connection(("127.0.0.1", weir.port))
        body = form(PURPOSE, part("file", "x" * size, filename="in.jsonl"), end="")
        head = (
            f"POST /v1/files HTTP/1.1\r\nHost: weir\r\nX-API-Key: {KEY}\r\n"
            "Content-Type: multipart/form-data; boundary=b\r\n"
            f"Content-Length: {len(body) + 100_000}\r\n\r\n"
        )
        self._connection.sendall(head.encode() + body)

    def __enter__(self) -> socket.socket:
        return self._connection

    def __exit__(self, *_: object) -> None:
        self._connection.close()


def stored_bytes(weir: Weir) -> int:
    return sum(file.stat().st_size for file in (weir.data_dir / "files").glob("*"))


def nothing_is_left(weir: Weir) -> bool:
    """Neither rows of KEY's and QUOTA_KEY's files, nor bytes."""
    with sqlite3.connect(weir.data_dir / "weir.db") as database:
        rows = database.execute("SELECT count(*) FROM files").fetchone()[0]
    return not rows and not stored_bytes(weir)


def test_a_folder_that_cannot_be_written_is_told(weir: Weir) -> None:
    folder = weir.data_dir / "files"
    upload(weir, b"x").raise_for_status()
    delete(weir, weir.get("/v1/files", key=KEY).json()["data"][0]["id"])
    wait_until(lambda: nothing_is_left(weir))
    folder.rename(folder.with_name("away"))
    folder.write_text("in its place")
    try:
        answer = upload(weir)
        assert error(answer) == (503, None, "store_unavailable")
        assert "The storage of files is unavailable" in answer.text
        assert "Retry-After" in answer.headers
    finally:
        folder.unlink()
        folder.with_name("away").rename(folder)
    assert upload(weir).status_code == 200
    assert len(weir.get("/v1/files", key=KEY).json()["data"]) == 1


def test_a_file_whose_bytes_are_gone_is_told_and_a_cut_one_is_seen(weir: Weir) -> None:
    file = upload(weir, bytes(MEBIBYTE)).json()
    stored = weir.data_dir / "files" / file["id"]
    with stored.open("r+b") as opened:
        opened.truncate(300_000)
    began = time.monotonic()
    with pytest.raises(requests.exceptions.ChunkedEncodingError, match="IncompleteRead"):
        requests.get(
            f"{weir.url}/v1/files/{file['id']}/content",
            headers={"X-API-Key": KEY, "Connection": "keep-alive"},
            timeout=10,
        )
    assert time.monotonic() - began < 1  # an idle connection would be closed later
    stored.unlink()
    answer = weir.get(f"/v1/files/{file['id']}/content", key=KEY)
    assert error(answer) == (404, None, "not_found")
    assert "not stored any more" in answer.text
    delete(weir, file["id"])


@pytest.mark.parametrize(
    ("query", "param"),
    [("limit=0", "limit"), ("limit=10001", "limit"), ("order=up", "order"),
     ("purpose=assistants", "purpose")],
)  # fmt: skip
def test_a_bad_query_is_refused(weir: Weir, query: str, param: str) -> None:
    assert error(weir.get(f"/v1/files?{query}", key=KEY)) == (400, param, "validation_error")


@pytest.mark.parametrize("name", ["weir", "postgresql_weir"])
@pytest.mark.parametrize("file_id", ["file-unknown", "%00", "%FF", "x" * 1000, "..%2f..", "ü"])
def test_an_id_that_is_none_is_not_found(
    name: str, file_id: str, request: pytest.FixtureRequest
) -> None:
    weir: Weir = request.getfixturevalue(name)
    for path in (f"/v1/files/{file_id}", f"/v1/files?after={file_id}"):
        assert error(weir.get(path, key=KEY)) == (404, None, "not_found")


def test_files_are_under_v1_only(weir: Weir) -> None:
    assert weir.get("/files", key=KEY).status_code == 404
    assert json.loads(weir.get("/files", key=KEY).text)["error"] == "NotFound"


@pytest.fixture(autouse=True)
def nothing_before(request: pytest.FixtureRequest) -> None:
    """Remove what an earlier test has left on purpose."""
    if "weir" in request.fixturenames:
        weir: Weir = request.getfixturevalue("weir")
        for file in weir.get("/v1/files", key=KEY).json()["data"]:
            delete(weir, file["id"])
        wait_until(lambda: nothing_is_left(weir))
