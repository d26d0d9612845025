"""Chunks of a provider's stream, as clients that did not ask for usage get them."""

from __future__ import annotations

import json

import pytest

from webapp.llm.messages import ModelRequest
from webapp.llm.stream_usage import StreamUsage
from webapp.providers.answers import StreamReader

REQUEST = ModelRequest({"messages": []}, native=False, stream=True)
CHOICE = '"choices":[{"index":0,"delta":{"content":"%s"}}]'
PLAIN = CHOICE % "one"


@pytest.mark.parametrize(
    "chunk",
    [
        f'{{"id":"1",{PLAIN},"usage":null}}',
        f'{{"id":"1",{PLAIN},"usage":null,"obfuscation":"x"}}',
        f'{{"id": "1", "usage" : null, {PLAIN}}}',
        f'{{"usage":null,{PLAIN}}}',
        f'{{{PLAIN},"us\\u0061ge":null}}',
        f'{{{PLAIN},"inner":{{"a":1,"usage":null}},"us\\u0061ge":null}}',
        f'{{{PLAIN},"inner":{{"a":1,"usage":null}},"usage":null}}',
        f'{{{CHOICE % "of"},"said":[",usage",",","usage",null],"usage":null}}',
        f'{{"a":1,"usage":null,{CHOICE % "twice"},"usage":null}}',
        f'{{{CHOICE % "said, @usage@:null,"},"usage":null}}'.replace("@", chr(92) + '"'),
    ],
)
def test_usage_that_was_not_asked_for_is_the_only_field_that_is_left_out(chunk: str) -> None:
    (sent,) = StreamReader(REQUEST, "m1", "p1", StreamUsage(lambda: None)).read(chunk)
    expected = json.loads(chunk)
    del expected["usage"]
    assert json.loads(sent.data) == expected
