"""Which session a request belongs to: its header, what agents send, else its key."""

from __future__ import annotations

import json
from typing import Any

import pytest

from webapp.errors import MalformedRequest
from webapp.llm.sessions import Session, session_of

UUID = "0199a1b2-6c1d-7d0e-9a55-1c2d3e4f5a6b"
OF_USER = {
    # Claude Code's, today's and the one before.
    json.dumps({"device_id": "ab" * 32, "account_uuid": "", "session_id": UUID}): UUID,
    f"user_{'ab' * 32}_account__session_{UUID}": UUID,
    # Anybody else's.
    "user-17": "user-17",
    "user_session_": "user_session_",
    '{"device_id": 1}': '{"device_id": 1}',
    '{"session_id": 7}': '{"session_id": 7}',
    "{not json": "{not json",
}


@pytest.mark.parametrize(("user", "session"), OF_USER.items())
def test_a_session_is_found_in_the_user_of_anthropic_s_metadata(user: str, session: str) -> None:
    assert session_of({}, {"metadata": {"user_id": user}}) == Session(session)


def test_of_several_names_the_first_in_the_contract_s_order_counts() -> None:
    body: dict[str, Any] = {
        "prompt_cache_key": "a key",
        "session_id": "a session",
        "metadata": {"user_id": "a user"},
    }
    headers = {
        "X-Weir-Session": "ours",
        "X-Claude-Code-Session-Id": "claude",
        "Session-Id": "codex",
        "X-Session-Id": "opencode",
    }
    found = []
    for name in ("X-Weir-Session", "prompt_cache_key", "session_id", *list(headers)[1:]):
        found.append(session_of(headers, body).name)
        headers.pop(name, None)
        body.pop(name, None)
    assert found == ["ours", "a key", "a session", "claude", "codex", "opencode"]
    assert session_of(headers, body).name == "a user"
    assert session_of({}, {}) == Session(None)


@pytest.mark.parametrize("wrong", [7, None, "", [], {}])
def test_what_is_no_name_is_passed_over(wrong: Any) -> None:
    for body in (
        {"prompt_cache_key": wrong},
        {"metadata": wrong},
        {"metadata": {"user_id": wrong}},
    ):
        assert session_of({}, body) == Session()


@pytest.mark.parametrize("name", ["", "two words", "x" * 257, "Grüße", "a\tb"])
def test_the_header_of_a_session_must_be_visible_ascii(name: str) -> None:
    with pytest.raises(MalformedRequest, match="X-Weir-Session must be 1 to 256 visible ASCII"):
        session_of({"X-Weir-Session": name}, {"prompt_cache_key": "good"})
    assert session_of({"X-Weir-Session": "x" * 256}, {}).name == "x" * 256


def test_a_name_is_told_shortened_and_stored_as_a_digest() -> None:
    names = [None, "short", UUID, f"user {'ü' * 900}", "\0\ud800"]
    sessions = [Session(name) for name in names]
    labels = ["of this key", "short", "0199a1b2…5a6b", "user????…????", "??"]
    assert [session.label for session in sessions] == labels
    assert len({session.id for session in sessions}) == len(names)
    assert {len(session.id) for session in sessions} == {40}
