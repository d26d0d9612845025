"""Estimates of tokens: near for forecasts, above what tokenizers make of a text for bills."""

from __future__ import annotations

import base64
import random
import string

import pytest

from webapp.errors import MalformedRequest
from webapp.llm.request_input import read_input
from webapp.llm.tokens import byte_length, estimate_tokens, most_tokens

numbers = random.Random(1)
LOWER = "".join(numbers.choice(string.ascii_lowercase) for _ in range(2_000))
# Texts and the most tokens that tiktoken's cl100k_base, o200k_base and Claude 2's tokenizer make.
COUNTED = {
    "Das Wehr ist eine Stauanlage, die über die gesamte Flussbreite führt. ": 25,
    "Плотина — гидротехническое сооружение, перегораживающее водоток. ": 36,
    "堰是一种横跨河流的低坝，用于抬高上游水位或调节流量。": 34,
    "बांध एक अवरोध है जो पानी के प्रवाह को रोकता है। ": 50,
    "ฝายเป็นสิ่งก่อสร้างที่กั้นทางน้ำ ": 56,
    "😀🦊🏞️👩‍💻🇩🇪": 22,
    LOWER: 1_084,
    base64.b64encode(numbers.randbytes(1_500)).decode(): 1_423,
    numbers.randbytes(1_000).hex(): 1_163,
    "    def f(self) -> int:\n        return self._x[0]  # why\n": 21,
}  # fmt: skip


@pytest.mark.parametrize("text", COUNTED, ids=range(len(COUNTED)))
def test_what_is_billed_is_above_what_tokenizers_count(text: str) -> None:
    assert COUNTED[text] <= most_tokens(text) <= byte_length(text)


def test_a_forecast_is_near() -> None:
    assert estimate_tokens("one two three") == 4
    assert estimate_tokens("a b c d") == 4, "each word is at least a token"


@pytest.mark.parametrize(
    "said",
    ["", "hello there", "ünïcödé", "木漏れ日", "😀", "x" * 999, "1234567", "a\n\nb", "\ud800"],
)
def test_a_text_never_has_more_tokens_than_its_bound(said: str) -> None:
    length = len(said.encode("utf-8", "surrogatepass"))
    assert most_tokens(said) <= length
    assert read_input({"messages": [{"role": "user", "content": said}]}).bound >= length


@pytest.mark.parametrize(
    "body",
    [{"messages": 5}, {"messages": [None, [1], {"content": {"a": 1}}]}, {}, {"input": {}},
     {"input": None}, {"tools": 7}, {"tools": [None, {}]}, {"prediction": []},
     {"messages": [{"content": [{"type": 5}, {"type": "image_url", "image_url": None}]}]},
     {"messages": [{"content": [{"type": "document", "source": {"type": "text"}}]}]},
     {"messages": [{"content": [{"type": "document", "source": {"type": {}}}]}]}],
    ids=str,
)  # fmt: skip
def test_any_shape_of_a_body_is_read(body: dict[str, object]) -> None:
    assert read_input(body).bound >= 0


def test_a_body_of_any_depth_is_read_or_refused() -> None:
    deep: object = "x"
    for _ in range(5_000):
        deep = {"a": [deep]}
    for body in ({"messages": [deep]}, {"x_extra": deep}, {"audio_url": deep}):
        with pytest.raises(MalformedRequest):
            read_input(body)
