"""LOG_SAMPLE and LOG_REDACT: which lines are written, and what no line and no record may hold."""

from __future__ import annotations

import json
import re
import time
import zlib
from typing import Any

import pytest

from tests.conftest import MakeWeir
from tests.support.books import Books
from tests.support.servers import DidNotStart, Provider, Weir, wait_until
from tests.support.visitor import Visitor
from tests.test_logs import FIELDS, KEY
from webapp.observability.redaction import redact, redact_json, redact_stored

KEYS = {"API_KEYS": f"test:enterprise:{KEY}"}
BODY = {"message": "hello"}
IDS = [f"request-{number}" for number in range(40)]


def requests_of(weir: Weir) -> list[dict[str, Any]]:
    return [line for line in weir.logs() if "status_code" in line]


def asked(weir: Weir, request_ids: list[str]) -> list[str]:
    """Ask once for each id; the ids that have a line, in order."""
    for request_id in request_ids:
        assert weir.post("/chat", key=KEY, json=BODY, headers={"X-Request-ID": request_id}).ok
    # All that fails has a line, and lines come in order.
    last = f"the-last-of-{len(requests_of(weir))}"
    weir.get("/nowhere", headers={"X-Request-ID": last})
    wait_until(lambda: any(line["request_id"] == last for line in requests_of(weir)))
    return [line["request_id"] for line in requests_of(weir) if line["endpoint"] == "/chat"]


def test_of_what_went_well_no_line_is_written_and_of_what_failed_every_one(
    start_weir: MakeWeir, provider: Provider
) -> None:
    weir = start_weir(**KEYS, OPENAI_BASE_URL=provider.base_url, LOG_SAMPLE=0, LLM_MAX_RETRIES=0)
    assert asked(weir, IDS[:5]) == []
    weir.post("/chat", key="wrong-key-0123456789", json=BODY)
    weir.post("/chat", key=KEY, json={"message": 1})
    Visitor(weir).sign_in(password="the wrong one")
    provider.fault(status=500)
    weir.post("/chat", key=KEY, json={"message": "it fails"})
    provider.fault(error_event=True)
    with weir.stream("/chat", {"message": "cut off", "stream": True}, KEY) as stream:
        list(stream)
    lines = wait_until(lambda: len(requests_of(weir)) >= 6 and requests_of(weir))
    told = [(line["status_code"], line["error"]) for line in lines]
    assert told == [
        (404, "NotFound"),
        (403, "NotAllowed"),
        (422, "ValidationError"),
        (401, None),
        (502, "ProviderFailed"),
        (200, "ProviderFailed"),
    ]
    # A line that is always written has no rate; one of failed calls tells each of them.
    assert all(set(line) - {"attempts"} == FIELDS for line in lines)
    assert [("attempts" in line) for line in lines] == [False] * 4 + [True] * 2


def test_a_request_is_in_the_sample_or_not_wherever_it_is_asked(
    start_weir: MakeWeir, provider: Provider
) -> None:
    settings = KEYS | {"OPENAI_BASE_URL": provider.base_url, "LOG_SAMPLE": 0.5}
    chosen = [name for name in IDS if zlib.crc32(name.encode()) / 2**32 < 0.5]
    assert 10 < len(chosen) < 30
    again = [name for name in IDS[:15] if name in chosen]
    assert 4 < len(again) < 11
    weir, other = start_weir(**settings), start_weir(**settings)
    assert asked(weir, IDS) == chosen
    assert asked(weir, IDS[:15]) == chosen + again
    assert asked(other, IDS[:15]) == again
    for line in requests_of(weir):
        sampled = line["endpoint"] != "(unknown)"
        assert set(line) == FIELDS | {"sample_rate"} if sampled else FIELDS
        assert line.get("sample_rate") == (0.5 if sampled else None)


def test_what_is_to_be_redacted_is_kept_nowhere(start_weir: MakeWeir, provider: Provider) -> None:
    weir = start_weir(
        **KEYS, OPENAI_BASE_URL=provider.base_url, LOG_PROMPTS=True,
        LOG_REDACT='card \\d+\n\\bsecret\\w*\n"quoted"\n4111\\d+',
    )  # fmt: skip
    # Escaped as JSON, the line break would hide where the word begins, and the quotes themselves.
    prompt = 'Pay with Card 4711\nsecretive, "quoted" — and all the rest'
    assert weir.post("/chat", key=KEY, json={"message": prompt}).ok
    body = {"model": "m", "messages": [{"role": "user", "content": prompt}], "seed": 411122}
    assert weir.post("/v1/chat/completions", key=KEY, json=body).ok
    with weir.stream("/chat", {"message": prompt, "stream": True}, KEY) as stream:
        assert "Card 4711" in "".join(stream)

    def kept() -> list[dict[str, Any]]:
        rows = Books(weir).rows("SELECT prompt, answer FROM requests ORDER BY id")
        return rows if len(rows) == 3 else []

    rows = wait_until(kept)
    lines = wait_until(lambda: [line for line in requests_of(weir) if "prompt" in line][2:])
    clean = r"Pay with [redacted]\n[redacted], [redacted] — and all the rest"
    assert clean in lines[0]["prompt"]
    for row in rows:
        assert clean in row["prompt"]
        assert clean.replace(r"\n", "\n") in row["answer"]
    assert '"seed": [redacted]' in rows[1]["prompt"]
    for one in (*map(str, rows), weir.raw_logs()):
        for gone in ("4711", "secretive", "quoted", "411122"):
            assert gone not in one, gone
    # On stderr is the banner, for people.
    lines = (weir.folder / "stdout.log").read_text().splitlines()
    assert len(weir.logs()) == len(lines), "a line is not JSON"


def test_an_answer_without_a_text_is_redacted_within_its_json() -> None:
    patterns = (re.compile(r"^call \w+$", re.IGNORECASE),)
    body = '{"choices": [{"arguments": "Call \\u0065lsewhere", "n": 1, "other": null}]}'
    assert redact_json(body, patterns) == (
        '{"choices": [{"arguments": "[redacted]", "n": 1, "other": null}]}'
    )
    assert redact_json(body, ()) == body
    assert redact_json("", patterns) == ""
    for unreadable in ("no JSON", "[" * 100_000):
        assert redact_json(unreadable, patterns) == "[redacted]"


def test_of_a_long_text_no_more_is_searched_than_is_kept() -> None:
    patterns = (re.compile(r"[\w.]+@\w+"),)
    # All of it would take minutes, as the pattern tries at each character to read to the end.
    began = time.process_time()
    kept = redact_json(json.dumps(["a" * 5_000_000, "b" * 5_000_000]), patterns)
    assert time.process_time() - began < 10
    assert kept.startswith('["aaa')
    # The end of what is searched may be within a match: neither half of it is kept.
    straddling = "x " * 10_300 + "b" * 500 + "@example"
    for told in (redact_stored(straddling, patterns), redact_json(f'["{straddling}"]', patterns)):
        assert "x x" in told
        assert "b" not in told


def test_a_pattern_that_matches_nothing_takes_nothing_out() -> None:
    assert redact("abc", (re.compile("x*"), re.compile("b"))) == "a[redacted]c"


def test_a_start_with_bad_settings_is_refused_by_their_names(new_weir: MakeWeir) -> None:
    weir = new_weir(LOG_SAMPLE="1.5", LOG_REDACT="fine\n(")
    with pytest.raises(DidNotStart) as refused:
        weir.start()
    assert "- LOG_SAMPLE must be a number from 0 to 1" in refused.value.output
    assert "- LOG_REDACT must be regular expressions" in refused.value.output
