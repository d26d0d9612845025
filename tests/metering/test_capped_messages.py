"""The limit on the output of Messages, where their target generates less at most."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from webapp.base_url import BaseURL
from webapp.llm.accounting import AnsweredTiers, CostTracker
from webapp.llm.calls import BillingContext
from webapp.llm.messages import ModelRequest
from webapp.llm.routing import Route, Target
from webapp.metering.prices import PriceTable
from webapp.providers.openai import OpenAIProvider
from webapp.providers.translation import TRANSLATIONS
from webapp.setting_parsers import price_entry

PRICES = PriceTable(
    {"openai/gpt-4o": price_entry({"input": "1", "output": "2", "max_output": "16384"})}, {}
)
PROVIDER = OpenAIProvider("openai", api_key="k", address=BaseURL(), timeout=1)


@pytest.mark.parametrize("budget", [None, 10**12], ids=["no budget", "a budget"])
@pytest.mark.parametrize(
    ("model", "named", "sent"),
    [("gpt-4o", 32_000, 16_384), ("gpt-4o", 9, 9), ("x", 32_000, 32_000)],
)
def test_a_limit_for_a_claude_is_lowered_to_what_another_model_generates(
    model: str, named: int, sent: int, budget: int | None
) -> None:
    hello = {"role": "user", "content": "Hello"}
    body = {"max_tokens": named, "messages": [hello]}
    request = ModelRequest(body, operation="messages", native=False)
    target = Target(PROVIDER, model)
    tracker = CostTracker(
        cast(Any, None),
        PRICES,
        cast(Any, SimpleNamespace(redact=str)),
        BillingContext(1, "r", "/v1/messages", usd_per_day=budget),
        request,
        Route("r", (target,)),
        AnsweredTiers(),
    )
    capped = tracker.capped(target)
    assert capped.body == body  # which a Claude gets as it is
    told = TRANSLATIONS[("messages", "chat/completions")].request(capped, model)
    assert told.output_cap == sent
    assert told.output_cap_needed
