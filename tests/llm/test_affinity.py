"""Requests of one conversation go to one target, and all conversations spread by the weights."""

from __future__ import annotations

from collections import Counter
from typing import Any, cast

import pytest

from webapp.llm.affinity import conversation_of
from webapp.llm.messages import ModelRequest, Operation
from webapp.llm.ports import Provider
from webapp.llm.routing import Route, Target
from webapp.llm.sessions import Session

KEY = 1
MARK = {"cache_control": {"type": "ephemeral"}}


class Named:
    """As much of a provider as a route needs."""

    identity = kind = "test"

    def __init__(self, name: str) -> None:
        self.name = name


def route(**weights: int) -> Route:
    targets = [Target(cast(Provider, Named(name)), "m", weight) for name, weight in weights.items()]
    return Route("spread", tuple(targets), named=True)


def seeds(count: int) -> list[bytes]:
    request = ModelRequest({})
    found = [conversation_of(request, KEY, Session(f"session {number}")) for number in range(count)]
    return [seed for seed in found if seed]


def order(route: Route, seed: bytes | None) -> list[str]:
    return [target.provider.name for target in route.in_order(seed).targets]


def test_many_sessions_are_spread_as_the_weights_say() -> None:
    first = Counter(order(route(one=3, two=1, three=4), seed)[0] for seed in seeds(4000))
    # Five standard deviations, each of at most 32.
    assert all(abs(first[name] - share) < 160 for name, share in _shares(one=3, two=1, three=4))
    second = Counter(order(route(one=3, two=1, three=4), seed)[1] for seed in seeds(4000))
    assert set(second) == {"one", "two", "three"}


def _shares(**weights: int) -> list[tuple[str, float]]:
    return [(name, 4000 * weight / sum(weights.values())) for name, weight in weights.items()]


def test_without_a_conversation_requests_are_spread_as_the_weights_say() -> None:
    first = Counter(order(route(one=3, two=1), None)[0] for _ in range(4000))
    assert abs(first["one"] - 3000) < 140


def test_a_target_that_is_gone_moves_its_own_sessions_and_no_other() -> None:
    all_of_them, two_of_them = route(one=3, two=1, three=4), route(one=3, two=1)
    for seed in seeds(500):
        with_it = order(all_of_them, seed)
        assert order(two_of_them, seed) == [name for name in with_it if name != "three"]


def test_a_target_whose_weight_rises_takes_sessions_and_gives_none() -> None:
    for seed in seeds(500):
        before, after = order(route(a=1, b=1, c=1), seed)[0], order(route(a=5, b=1, c=1), seed)[0]
        assert after in {before, "a"}


def test_targets_without_a_weight_come_last_as_they_are_configured() -> None:
    mixed = route(z=0, one=1, a=0, two=1)
    assert {tuple(order(mixed, seed)[2:]) for seed in seeds(50)} == {("z", "a")}
    assert order(route(b=0, a=0), seeds(1)[0]) == ["b", "a"]


def turn(content: Any, role: str = "user") -> dict[str, Any]:
    return {"role": role, "content": content}


def block(text: str, **fields: Any) -> dict[str, Any]:
    return {"type": "text", "text": text, **fields}


TOOLS = [{"name": "read", "input_schema": {"type": "object"}}]
# The first request of a conversation, and a later one.
CONVERSATIONS: dict[str, tuple[Operation, dict[str, Any], dict[str, Any]]] = {
    "chat": (
        "chat/completions",
        {"messages": [turn("be short", "system"), turn("hi")], "tools": TOOLS},
        {
            "messages": [turn("be short", "system"), turn("hi"), turn("x", "assistant"), turn("y")],
            "tools": TOOLS,
            "max_tokens": 9,
        },
    ),
    "messages": (
        "messages",
        {
            "system": [block("be short", **MARK)],
            "tools": [{**TOOLS[0], **MARK}],
            "messages": [turn([block("hi", **MARK)])],
        },
        {
            "system": "be short",
            "tools": TOOLS,
            "messages": [turn("hi"), turn("x", "assistant"), turn([block("y", **MARK)])],
        },
    ),
    "responses": (
        "responses",
        {"instructions": "be short", "input": [turn("hi")]},
        {"instructions": "be short", "input": [turn("hi"), {"type": "reasoning"}, turn("y")]},
    ),
}


@pytest.mark.parametrize(
    ("operation", "first", "later"), CONVERSATIONS.values(), ids=CONVERSATIONS.keys()
)
def test_a_conversation_is_known_by_its_beginning(
    operation: Operation, first: dict[str, Any], later: dict[str, Any]
) -> None:
    def found(body: dict[str, Any], key_id: int = KEY, model: str = "spread") -> bytes | None:
        request = ModelRequest(body, model, operation)
        return conversation_of(request, key_id, Session())

    assert found(first) == found(later) is not None
    messages = "input" if operation == "responses" else "messages"
    others = [
        found({**first, messages: [turn("other")]}),
        found({**first, "tools": []}),
        found(first, key_id=2),
        found(first, model="another"),
    ]
    assert len({found(first), *others}) == 5


def test_a_session_that_is_named_counts_before_what_it_says() -> None:
    def found(name: str | None, said: str, key_id: int = KEY) -> bytes | None:
        return conversation_of(ModelRequest({"messages": [turn(said)]}), key_id, Session(name))

    assert found("a", "x") == found("a", "y") != found("b", "x")
    assert found("a", "x") != found("a", "x", key_id=2)
    assert found(None, "x") != found(None, "y")


@pytest.mark.parametrize("messages", [None, "text", [], [7, "x"], [{"role": "user"}], {"a": 1}])
def test_odd_messages_are_a_conversation_too(messages: Any) -> None:
    odd = ModelRequest({"messages": messages, "tools": 7, "system": {"a": 1 << 80}})
    assert conversation_of(odd, KEY, Session())


def test_embeddings_are_no_conversation_unless_their_session_is_named() -> None:
    request = ModelRequest({"input": "x"}, operation="embeddings")
    assert conversation_of(request, KEY, Session()) is None
    assert conversation_of(request, KEY, Session("a"))
