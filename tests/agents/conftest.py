"""The Weir that each agent is run against, and the place where it works."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.agents.running import Workplace
from tests.conftest import MakeWeir
from tests.support.books import Books
from tests.support.servers import Provider, Weir

KEY, POOR = "agent_key_0123456789", "poor_key_0123456789"
USED_UP = "The budget of 0.000001 USD per month has 0.000001 USD left"
PRICE = "input=1, output=5, context=200000, max_output=64000"


@pytest.fixture(scope="module")
def weir(start_shared_weir: MakeWeir, provider: Provider) -> Weir:
    return start_shared_weir(
        API_KEYS=f"agent:enterprise:{KEY},poor:free:{POOR}",
        TIERS="enterprise=9999/minute;free=9999/minute",
        TIER_FREE="usd_per_month=0.000001",
        OPENAI_BASE_URL=provider.base_url,
        ANTHROPIC_API_KEY="sk-ant-0123456789",
        ANTHROPIC_BASE_URL=provider.anthropic_url,
        DEFAULT_MODEL="stand-in-1",
        MODEL_PRICES=f"anthropic/stand-in-claude: {PRICE}; openai/*: {PRICE}",
    )


@pytest.fixture
def books(weir: Weir) -> Books:
    """The ledger, empty."""
    books = Books(weir)
    books.forget()
    return books


@pytest.fixture
def workplace() -> Iterator[Workplace]:
    with Workplace() as workplace:
        yield workplace


def check_ledger(books: Books, calls: list[dict[str, Any]]) -> None:
    """That the agent asked twice, for the tool and for the answer, and that both calls are booked
    with the usage that the provider has told, for money."""
    assert len(calls) == 2
    rows = books.settled(2)
    assert [row["state"] for row in rows] == ["settled"] * 2
    assert all(row["input_tokens"] and row["output_tokens"] and row["cost_nano"] for row in rows)
    assert not any(row["estimated"] for row in rows)


def refused(weir: Weir, endpoint: str) -> int:
    """How many requests of an endpoint got a 429."""
    lines = [line for line in weir.logs() if line.get("endpoint") == endpoint]
    return sum(line["status_code"] == 429 for line in lines)
