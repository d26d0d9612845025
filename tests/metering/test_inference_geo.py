"""What Anthropic charges for inference in the US alone: asked for, or a workspace's default."""

from __future__ import annotations

from typing import Any

import pytest

from webapp.base_url import BaseURL
from webapp.llm.accounting import AnsweredTiers
from webapp.llm.cost_ceiling import Demand, TargetCosts
from webapp.llm.messages import ModelRequest
from webapp.llm.routing import Target
from webapp.metering.prices import PriceTable
from webapp.providers.anthropic import AnthropicProvider
from webapp.providers.openai import OpenAIProvider
from webapp.providers.usage import read_usage
from webapp.setting_parsers import price_entry

ENTRY = price_entry({"input": "1", "output": "10", "context": "200000"})
PRICES = PriceTable({"claude/*": ENTRY, "gpt/*": ENTRY}, {})
CLAUDE = Target(AnthropicProvider("claude", api_key="k", address=BaseURL(), timeout=1), "c")
GPT = Target(OpenAIProvider("gpt", api_key="k", address=BaseURL(), timeout=1), "g")
USAGE = {"input_tokens": 1_000, "output_tokens": 100}
STANDARD, US = 2_000_000, 2_200_000  # nano-USD


def message(**fields: Any) -> ModelRequest:
    body = {"max_tokens": 100, "messages": [{"role": "user", "content": "Hello"}], **fields}
    return ModelRequest(body, operation="messages", native=False)


def costs(request: ModelRequest, target: Target = CLAUDE, *answered: str) -> TargetCosts:
    price = PRICES.of(target.provider.name, target.provider.kind, target.model)
    return TargetCosts(Demand(request), target, price, answered)


def booked(request: ModelRequest, **usage: Any) -> int | None:
    found = read_usage(USAGE | usage, request, "c", "", None)
    return costs(request).of_reported(found)


@pytest.mark.parametrize(
    ("usage", "nano"),
    [
        ({}, STANDARD),
        ({"inference_geo": None}, STANDARD),
        ({"inference_geo": "global", "service_tier": "standard"}, STANDARD),
        ({"inference_geo": "not_available"}, STANDARD),
        ({"inference_geo": "us", "service_tier": "standard"}, US),
        ({"inference_geo": "elsewhere"}, US),  # as the dearest
    ],
)
def test_it_is_booked_where_the_answer_says_so(usage: dict[str, Any], nano: int) -> None:
    assert booked(message(), **usage) == nano
    assert booked(message(service_tier="standard_only"), **usage) == nano


def test_it_is_reserved_where_it_is_asked_for() -> None:
    plain, in_us = costs(message()), costs(message(inference_geo="us"))
    assert plain.nano
    assert in_us.nano
    assert round(in_us.nano / plain.nano, 3) == 1.1
    assert costs(message(inference_geo="global")).nano == plain.nano
    named = message(inference_geo="us", service_tier="standard_only")
    assert costs(named).nano == in_us.nano


def test_it_has_no_price_elsewhere() -> None:
    assert costs(message(inference_geo="elsewhere")).unpriced
    assert "inference_geo" in (costs(message(inference_geo="us"), GPT).unpriced or "")


def test_a_workspace_s_default_is_reserved_from_the_first_such_answer_on() -> None:
    answered, price = AnsweredTiers(), PRICES.of("claude", "anthropic", "c")
    assert price
    told = read_usage(USAGE | {"inference_geo": "us"}, message(), "c", "", None)
    assert told.service_tier
    answered.add(CLAUDE, told.service_tier, price)
    learned, in_us = costs(message(), CLAUDE, *answered.of(CLAUDE)), message(inference_geo="us")
    assert learned.nano == costs(in_us).nano
