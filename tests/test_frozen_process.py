"""Where the process is frozen once an answer has ended (AWS Lambda), all is written before that."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from tests.conftest import MakeWeir
from tests.support.books import PRICES, Books
from tests.support.servers import Postgres, Provider, Weir, wait_until
from webapp.frozen_process import FinishBeforeTheEnd

KEY = "test_key_0123456789"


SETTINGS = {
    "AWS_LAMBDA_FUNCTION_NAME": "weir",
    "APP_ENV": "development",
    "API_KEYS": f"test:enterprise:{KEY}",
    "MODEL_PRICES": PRICES,
    "LLM_MAX_RETRIES": 0,
}


@pytest.fixture(scope="module")
def function(start_shared_weir: MakeWeir, provider: Provider) -> Weir:
    return start_shared_weir(**SETTINGS, OPENAI_BASE_URL=provider.base_url)


@pytest.fixture
def frozen_after_answers(function: Weir) -> Iterator[Weir]:
    yield function
    function.resume()


def answer_and_freeze(weir: Weir, model: str, *, stream: bool) -> None:
    """Read an answer to its last byte, and freeze the process at that moment."""
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "stream": stream}
    with requests.post(
        f"{weir.url}/v1/chat/completions",
        json=body,
        headers={"Authorization": f"Bearer {KEY}"},
        stream=True,
        timeout=30,
    ) as answer:
        assert answer.status_code == 200
        assert answer.raw.read()
        weir.pause()


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_a_call_is_settled_and_counted_before_the_last_byte(
    frozen_after_answers: Weir, stream: bool
) -> None:
    model = f"frozen-{stream}"
    answer_and_freeze(frozen_after_answers, model, stream=stream)

    books = Books(frozen_after_answers)
    [call] = books.rows(f"SELECT * FROM ledger WHERE model = '{model}'")
    assert call["state"] == "settled"
    [logged] = books.rows(f"SELECT * FROM requests WHERE asked_model = '{model}'")
    assert logged["status"] == 200
    [counted] = books.rows("SELECT sum(requests) AS requests FROM traffic")
    assert counted["requests"] == len(books.rows("SELECT * FROM requests"))
    assert not books.rows("SELECT * FROM workers"), "others would take it for dead"


def test_it_goes_on_where_it_stopped(frozen_after_answers: Weir) -> None:
    answer_and_freeze(frozen_after_answers, "first", stream=True)
    frozen_after_answers.resume()
    answer_and_freeze(frozen_after_answers, "second", stream=False)

    rows = Books(frozen_after_answers).rows(
        "SELECT * FROM ledger WHERE model IN ('first', 'second')"
    )
    assert [row["state"] for row in rows] == ["settled", "settled"]
    assert len({row["worker_id"] for row in rows}) == 2, "it left before it was frozen"


def test_a_stream_still_comes_piece_by_piece(function: Weir, provider: Provider) -> None:
    provider.fault(gap=0.3, pieces=3)
    body = {"message": "slowly", "stream": True}
    arrived = []
    with function.post("/chat", key=KEY, json=body, stream=True) as answer:
        for piece in answer.iter_content(None):
            arrived.append((time.monotonic(), piece))
    assert arrived[-1][1].endswith(b"data: [DONE]\n\n")
    assert arrived[-1][0] - arrived[0][0] > 0.5


def test_what_the_database_did_not_take_is_written_before_a_later_answer_ends(
    start_weir: MakeWeir, provider: Provider, postgres: Postgres, fresh_database: str
) -> None:
    weir = start_weir(**SETTINGS, OPENAI_BASE_URL=provider.base_url, DATABASE_URL=fresh_database)
    books = Books(weir)
    provider.fault(slow=1.0)
    with ThreadPoolExecutor() as pool:
        asking = pool.submit(weir.post, "/chat", key=KEY, json={"message": "first"})
        books.wait_for("SELECT 1 FROM ledger WHERE state = 'reserved'", 10, "the reservation")
        postgres.stop()
        answer = asking.result()
    assert answer.status_code == 200, "it has been paid for"
    provider.fault()
    postgres.start()
    wait_until(lambda: weir.get("/readiness").ok, 10, "the database again")

    answer_and_freeze(weir, "later", stream=False)
    weir.kill()
    assert [row["state"] for row in books.rows()] == ["settled", "settled"]
    [counted] = books.rows("SELECT sum(requests) AS requests FROM traffic")
    assert counted["requests"] == 2


def test_what_an_answer_has_left_is_written_however_it_ends() -> None:
    said: list[str] = []

    class Answer:
        def __iter__(self) -> Iterator[bytes]:
            raise RuntimeError
            yield b""

        def close(self) -> None:
            said.append("closed")

    def app(environ: dict[str, Any], start_response: Any) -> Answer:
        start_response("200 OK", environ["headers"])
        return Answer()

    middleware = FinishBeforeTheEnd(app, lambda: said.append("finished"))  # type: ignore[arg-type]
    with pytest.raises(RuntimeError):
        middleware({"headers": [("Content-Length", "1")]}, lambda *_: lambda _: None)
    assert said == ["closed", "finished"]
    never_begun: Any = middleware({"headers": []}, lambda *_: lambda _: None)
    never_begun.close()
    never_begun.close()
    assert said == ["closed", "finished"] * 2
