"""Bad input: each gets its status and an error that names the field; none is a 500."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from tests.conftest import MakeWeir
from tests.support.administrator import PASSWORD, Administrator
from tests.support.servers import Weir

KEY = "test_key_0123456789"
ENVELOPE = {"error", "message", "details", "path", "request_id"}


@pytest.fixture(scope="module")
def weir(start_shared_weir: MakeWeir) -> Weir:
    return start_shared_weir(
        API_KEYS=f"test:enterprise:{KEY}", TIERS="enterprise=99999/minute", ADMIN_PASSWORD=PASSWORD
    )


def send(weir: Weir, path: str, body: bytes, content_type: str | None = "application/json") -> Any:
    headers = {"Content-Type": content_type} if content_type else {}
    response = weir.post(path, key=KEY, data=body, headers=headers)
    assert set(response.json()) == ENVELOPE, response.text
    return response


FIELDS = [
    ("/chat", {"message": 5}, "message"),
    ("/chat", {"message": None}, "message"),
    ("/chat", {"message": ""}, "message"),
    ("/chat", {"message": "x" * 10_001}, "message"),
    ("/chat", {"message": ["x"]}, "message"),
    ("/chat", {"message": "\ud800"}, "message"),
    ("/chat", {}, "message"),
    ("/chat", {"message": "x", "temprature": 1}, "temprature"),
    ("/chat", {"message": "x", "temperature": "1"}, "temperature"),
    ("/chat", {"message": "x", "temperature": True}, "temperature"),
    ("/chat", {"message": "x", "temperature": 2.1}, "temperature"),
    ("/chat", {"message": "x", "temperature": -1}, "temperature"),
    ("/chat", {"message": "x", "max_tokens": 0}, "max_tokens"),
    ("/chat", {"message": "x", "max_tokens": 1.5}, "max_tokens"),
    ("/chat", {"message": "x", "max_tokens": "5"}, "max_tokens"),
    ("/chat", {"message": "x", "max_tokens": True}, "max_tokens"),
    ("/chat", {"message": "x", "max_tokens": 10**400}, "max_tokens"),
    ("/chat", {"message": "x", "stream": "true"}, "stream"),
    ("/chat", {"message": "x", "stream": 1}, "stream"),
    ("/chat", {"message": "x", "model": "a b"}, "model"),
    ("/chat", {"message": "x", "model": "a\n"}, "model"),
    ("/chat", {"message": "x", "model": ""}, "model"),
    ("/chat", {"message": "x", "system": 1}, "system"),
    ("/chat", {"message": "x", "history": {}}, "history"),
    ("/chat", {"message": "x", "history": [{"role": "king", "content": "x"}]}, "history"),
    ("/chat", {"message": "x", "history": [{"role": "user"}]}, "history"),
    ("/chat", {"message": "<ScRiPt>alert(1)"}, "message"),
    ("/chat", {"message": "go to JavaScript:alert(1)"}, "message"),
    ("/chat", {"message": "data:text/html;base64,xxx"}, "message"),
    ("/summarize", {"text": "too short"}, "text"),
    ("/summarize", {"text": "x" * 500_001}, "text"),
    ("/summarize", {"text": "long enough", "length": "huge"}, "length"),
    ("/summarize", {"text": "long enough", "length": 5}, "length"),
    ("/generate", {"prompt": ""}, "prompt"),
    ("/generate", {"prompt": "x", "max_tokens": 4001}, "max_tokens"),
    ("/generate", {"message": "x"}, "message"),
]


@pytest.mark.parametrize(("path", "body", "field"), FIELDS, ids=lambda value: str(value)[:40])
def test_a_bad_field_is_named(weir: Weir, path: str, body: dict[str, Any], field: str) -> None:
    response = send(weir, path, json.dumps(body).encode())
    assert response.status_code == 422, response.text
    assert response.json()["error"] == "ValidationError"
    assert field in response.json()["details"]


@pytest.mark.parametrize("path", ["/chat", "/summarize", "/generate"])
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b'{"message": }', 400),
        (b"{'message': 'x'}", 400),
        (b'{"message": "\xff"}', 400),
        (b"\xef\xbb\xbf{}", 400),
        (b"[" * 100_000, 400),
        (b'{"a":' * 100_000, 400),
        (b'{"max_tokens": ' + b"9" * 5000 + b"}", 400),
        (b"null", 422),
        (b"[]", 422),
        (b'"text"', 422),
        (b"1e400", 422),
        (b"NaN", 400),
        (b'{"temperature": Infinity}', 400),
        (b'{"\\ud800": 1}', 422),
        ('{"😀": 1}'.encode(), 422),
    ],
    ids=lambda value: str(value)[:24],
)
def test_what_is_no_json_object_is_refused(weir: Weir, path: str, body: bytes, status: int) -> None:
    assert send(weir, path, body).status_code == status


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "json"])
def test_another_content_type_is_refused(weir: Weir, kind: str | None) -> None:
    assert send(weir, "/chat", b'{"message": "x"}', kind).status_code == 415


def test_what_json_allows_is_taken(weir: Weir) -> None:
    for text in ("\u0000", "😀", "\u2028", "a\tb"):
        assert weir.post("/chat", key=KEY, json={"message": text}).status_code == 200
    twice = b'{"message": "first", "message": "last"}'
    headers = {"Content-Type": "application/json; charset=utf-8"}
    assert weir.post("/chat", key=KEY, data=twice, headers=headers).status_code == 200


def test_bodies_are_as_large_as_their_door_allows(weir: Weir) -> None:
    large = b'{"text": "' + b"x" * 1_100_000 + b'"}'
    assert send(weir, "/chat", large).status_code == 413
    assert send(weir, "/summarize", large).status_code == 422
    assert send(weir, "/summarize", b" " * (8 * 1024 * 1024 + 1)).status_code == 413
    chunks = (b"x" * 65536 for _ in range(20))
    chunked = weir.post("/chat", key=KEY, data=chunks, headers={"Content-Type": "application/json"})
    assert chunked.status_code == 413


def test_the_denylist_can_be_turned_off(start_weir: MakeWeir) -> None:
    weir = start_weir(PROMPT_DENYLIST="")
    assert weir.post("/chat", key="prod_key_456", json={"message": "<script>"}).status_code == 200


def test_unknown_paths_and_methods_are_told(weir: Weir) -> None:
    missing = weir.get("/nope")
    assert (missing.status_code, missing.json()["error"]) == (404, "NotFound")
    wrong = weir.get("/chat")
    assert (wrong.status_code, wrong.json()["error"]) == (405, "MethodNotAllowed")
    assert "POST" in wrong.headers["Allow"]


@pytest.mark.parametrize(
    ("sent", "kept"),
    [("my-id_1.2", True), ("a" * 128, True), ("a" * 129, False), ("a b", False), ("é", False)],
)
def test_a_well_formed_request_id_is_kept(weir: Weir, sent: str, kept: bool) -> None:
    response = weir.get("/liveness", headers={"X-Request-ID": sent.encode()})
    assert (response.headers["X-Request-ID"] == sent) == kept
    assert len(response.headers["X-Request-ID"]) >= 9


@pytest.mark.parametrize(
    ("raw", "statuses"),
    [
        (b"GET /liveness HTTP/1.1\r\nHost: x\r\nX-Request-ID: a\r\nX-Evil: b\r\n\r\n", {200}),
        (b"GET /liveness HTTP/1.1\r\nHost: x\r\nX-Request-ID: a\x00b\r\n\r\n", {400}),
        (b"GET /liveness HTTP/1.1\r\nHost: x\r\nX-Request-ID: a\rb\r\n\r\n", {400}),
        (b"nonsense\r\n\r\n", {400}),
        (b"POST /chat HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", {400}),
        (
            b"POST /chat HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            {400},
        ),
        (b"POST /chat HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: magic\r\n\r\n", {400, 501}),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", {414}),
        (b"GET /liveness HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 9000 + b"\r\n\r\n", {431}),
        (b"GET /%00%ff HTTP/1.1\r\nHost: x\r\n\r\n", {404}),
    ],
    ids=lambda value: str(value)[:30],
)
def test_raw_bytes_get_an_answer_in_the_envelope(
    weir: Weir, raw: bytes, statuses: set[int]
) -> None:
    with socket.create_connection(("127.0.0.1", weir.port), timeout=5) as client:
        client.sendall(raw)
        answer = client.recv(65536)
        while b"\r\n\r\n" not in answer or answer.endswith(b"\r\n\r\n"):
            answer += client.recv(65536)
    head, _, body = answer.partition(b"\r\n\r\n")
    status = int(head.split()[1])
    assert status in statuses
    if status != 200:
        assert set(json.loads(body)) == ENVELOPE


KEY_LINE = b"X-API-Key: " + KEY.encode()
# Where a proxy in front and Weir could see different requests.
AMBIGUOUS = {
    "a bare LF between headers": b"GET /v1/key HTTP/1.1\r\nHost: x\r\nX-A: b\n" + KEY_LINE,
    "a bare LF after the request line": b"GET /v1/key HTTP/1.1\nHost: x\r\n" + KEY_LINE,
    "a bare LF at the end": b"GET /v1/key HTTP/1.1\r\nHost: x\r\n" + KEY_LINE + b"\r\n\n",
    "bare LFs only": b"GET /v1/key HTTP/1.1\nHost: x\n" + KEY_LINE + b"\n\n",
    "a bare CR between headers": b"GET /v1/key HTTP/1.1\r\nHost: x\r\nX-A: b\r" + KEY_LINE,
    "a CR before a line's end": b"GET /v1/key HTTP/1.1\r\nHost: x\r\nX-A: b\r\r\n" + KEY_LINE,
    "a NUL in a value": b"GET /v1/key HTTP/1.1\r\nHost: x\r\nX-A: b\0\r\n" + KEY_LINE,
    "a NUL in a name": b"GET /v1/key HTTP/1.1\r\nHost: x\r\nX-\0A: b\r\n" + KEY_LINE,
    "a NUL in the path": b"GET /v1/k\0ey HTTP/1.1\r\nHost: x\r\n" + KEY_LINE,
    "a folded header": b"GET /v1/key HTTP/1.1\r\nHost: x\r\nX-A: b\r\n " + KEY_LINE,
    "a header folded by a tab": b"GET /v1/key HTTP/1.1\r\nHost: x\r\nX-A: b\r\n\t" + KEY_LINE,
    "a fold after the request line": b"GET /v1/key HTTP/1.1\r\n " + KEY_LINE + b"\r\nHost: x",
    "a space before a colon": b"GET /v1/key HTTP/1.1\r\nHost: x\r\nX-API-Key : " + KEY.encode(),
    "a length and chunks": (
        b"POST /chat HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked"
    ),
    "chunks and a length": (
        b"POST /chat HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5"
    ),
    "an encoding that is not chunked": (
        b"POST /chat HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: identity\r\nContent-Length: 5"
    ),
    "one length twice": (
        b"POST /chat HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 5"
    ),
    "a length with a sign": b"POST /chat HTTP/1.1\r\nHost: x\r\nContent-Length: +5",
    "chunks in HTTP/1.0": b"POST /chat HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked",
    "two hosts": b"GET /v1/key HTTP/1.1\r\nHost: x\r\nHost: y\r\n" + KEY_LINE,
}


@pytest.mark.parametrize("head", AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_a_request_that_can_be_read_in_two_ways_is_refused(weir: Weir, head: bytes) -> None:
    """One answer, and the connection closes: what follows may be part of either reading."""
    raw = head + b"\r\n\r\n0\r\n\r\nGET /liveness HTTP/1.1\r\nHost: x\r\n\r\n"
    with socket.create_connection(("127.0.0.1", weir.port), timeout=5) as client:
        client.sendall(raw)
        answer = client.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 400 "), answer
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"X-Request-ID: " in answer


@pytest.mark.parametrize(
    "raw",
    [
        b"\r\nGET /v1/key HTTP/1.1\r\nHost: x\r\n" + KEY_LINE + b"\r\n\r\n",
        b"GET /v1/key HTTP/1.1\r\nHost: x\r\nX-A:\tb \xe9\t\r\n" + KEY_LINE + b"\r\n\r\n",
        b"POST /chat HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + KEY_LINE
        + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b'd;a=b\r\n{"message":"a\r\n6\r\n\\n\\n"}\r\n0\r\nX-A: b\r\n\r\n',
        b"POST /chat HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + KEY_LINE
        + b'\r\nContent-Length: 16\r\n\r\n{"message":\n"a"}',
    ],
    ids=["an empty line before it", "tabs and obs-text", "chunks", "LFs in a body"],
)  # fmt: skip
def test_what_has_one_reading_is_served(weir: Weir, raw: bytes) -> None:
    with socket.create_connection(("127.0.0.1", weir.port), timeout=5) as client:
        client.sendall(raw)
        assert client.recv(65536).startswith(b"HTTP/1.1 200 ")


@pytest.fixture(scope="module")
def admin(weir: Weir) -> Administrator:
    return Administrator(weir)


@pytest.mark.parametrize(
    "chunks",
    [b"zz\r\n{}\r\n", b"5\r\nabcdefgh\r\n", b"5\nabcde\n", b"5\r\nabc", b"0\r\nnonsense\r\n\r\n"],
    ids=["no size", "too long", "bare LFs", "cut", "no trailer"],
)
@pytest.mark.parametrize(
    "path",
    ["/chat", "/v1/chat/completions", "/v1/explain", "/token", "/admin/keys", "/dashboard/theme"],
)
def test_a_broken_chunked_body_is_refused(
    weir: Weir, admin: Administrator, path: str, chunks: bytes
) -> None:
    kind = "application/x-www-form-urlencoded" if "dash" in path else "application/json"
    credential = f"Bearer {admin.token if 'admin' in path else KEY}"
    with socket.create_connection(("127.0.0.1", weir.port), timeout=5) as client:
        client.sendall(
            f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {credential}\r\n"
            f"Content-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
            + chunks
        )
        client.shutdown(socket.SHUT_WR)
        assert client.makefile("rb").readline().split()[1] == b"400"


@pytest.mark.parametrize("path", ["/admin/keys", "/token"])
def test_a_chunked_body_has_a_limit_everywhere(weir: Weir, admin: Administrator, path: str) -> None:
    chunks = (b"x" * 65536 for _ in range(3))
    headers = admin.headers | {"Content-Type": "application/json"}
    assert weir.post(path, data=chunks, headers=headers).status_code == 413


def test_days_at_the_end_of_time_are_no_fault(weir: Weir, admin: Administrator) -> None:
    for day in ("0001-01-01", "9999-12-31"):
        for query in (f"until={day}", f"since={day}", f"since={day}&until={day}"):
            answer = admin.get(f"/admin/usage?{query}")
            assert answer.status_code in {200, 422}, answer.text
    for moment in ("9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00"):
        key = {"name": f"until {moment}", "tier": "enterprise", "expires_at": moment}
        assert admin.post("/admin/keys", key).status_code == 422


def test_a_body_that_is_shorter_than_its_length_is_not_answered(weir: Weir) -> None:
    body = b'{"message": "complete JSON, but more was promised"}'
    head = (
        f"POST /chat HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nContent-Type: application/json"
        f"\r\nContent-Length: {len(body) + 10}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", weir.port), timeout=5) as client:
        client.sendall(head.encode() + body)
        client.shutdown(socket.SHUT_WR)
        answer = client.recv(65536)
    assert not answer.startswith(b"HTTP/1.1 200")


def test_the_server_lives_on_and_never_failed(weir: Weir) -> None:
    assert weir.get("/readiness").status_code == 200
    requests = [line for line in weir.logs() if "status_code" in line]
    assert not [line for line in requests if line["status_code"] == 500]
