"""Prices: the table is sane, models are found in it, and costs are exact."""

from __future__ import annotations

import tomllib
from decimal import ROUND_CEILING, Decimal

import pytest

from webapp.llm.messages import Usage
from webapp.metering.prices import FILE, PriceTable
from webapp.settings import SettingsError, load

OVERRIDES = (
    "openai/mine: input=0.1, cached_input=0.01, output=0.7, max_output=99; "
    "openai/gpt-*: input=1; openai/gpt-4o*: input=2; ollama/*: input=0, output=0"
)


@pytest.fixture(scope="module")
def table() -> PriceTable:
    return PriceTable({})


@pytest.fixture(scope="module")
def overridden(tmp_path_factory: pytest.TempPathFactory) -> PriceTable:
    data_dir = str(tmp_path_factory.mktemp("prices"))
    return PriceTable(load({"DATA_DIR": data_dir, "MODEL_PRICES": OVERRIDES}).model_prices)


def test_every_price_is_sane() -> None:
    text = FILE.read_text()
    assert text.startswith("#")
    assert "Source: LiteLLM" in text
    sections = tomllib.loads(text)
    assert {"openai", "azure", "anthropic", "google_genai", "mistral", "groq"} <= set(sections)
    for section, models in sections.items():
        assert models, section
        for name, entry in models.items():
            assert entry["input"] > 0, name
            assert entry.get("cached_input", 0) <= entry["input"], name
            if "embed" not in name:
                assert entry.get("output", 0) >= 0, name
            if "above" in entry:
                assert entry["input_above"] > entry["input"], name


def test_costs_are_exact_and_rounded_up(table: PriceTable) -> None:
    price = table.of("openai", "openai", "gpt-4o-mini")
    assert price
    assert (price.max_output, price.context) == (16_384, 128_000)
    for usage in (Usage(0, 0), Usage(1, 0), Usage(1, 1, 1), Usage(123_457, 7_891, 120_001)):
        fresh = usage.input_tokens - usage.cached_input_tokens
        usd = (
            fresh * Decimal("0.15") + usage.cached_input_tokens * Decimal("0.075")
            + usage.output_tokens * Decimal("0.6")
        ) / 1_000_000  # fmt: skip
        assert price.cost(usage) == int((usd * 10**9).to_integral_value(ROUND_CEILING))


def test_a_long_input_is_charged_as_such(table: PriceTable) -> None:
    price = table.of("langchain", "langchain:google_genai", "gemini-2.5-pro")
    assert price
    assert price.above == 200_000
    assert price.cost(Usage(200_000, 0)) == 200_000 * 1_250
    assert price.cost(Usage(200_001, 1)) == 200_001 * 2_500 + 15_000


@pytest.mark.parametrize(
    ("name", "kind", "model", "known"),
    [
        ("openai", "openai", "gpt-4o-mini", True),
        ("openai", "openai", "gpt-4o-mini-2024-07-18", True),
        ("openai", "openai", "gpt-4o-2024-05-13", True),
        ("openai", "openai", "my-own-model", False),
        ("azure", "azure", "gpt-4o-mini", True),
        ("east", "azure", "gpt-4o-mini", True),
        ("anthropic", "anthropic", "claude-haiku-4-5", True),
        ("anthropic", "anthropic", "claude-haiku-4-5-20251001", True),
        ("claude", "anthropic", "claude-haiku-4-5", True),
        ("groq", "openai", "openai/gpt-oss-20b", True),
        # Another server of OpenAI's protocol has prices of its own.
        ("ollama", "openai", "gpt-4o-mini", False),
        ("offline", "offline", "anything", True),
    ],
)
def test_a_model_is_found_by_its_provider(
    table: PriceTable, name: str, kind: str, model: str, known: bool
) -> None:
    assert (table.of(name, kind, model) is not None) == known


def test_settings_override_the_table(overridden: PriceTable) -> None:
    def cost(model: str, usage: Usage, provider: str = "openai") -> int | None:
        price = overridden.of(provider, "openai", model)
        return price and price.cost(usage)

    assert cost("mine", Usage(10, 10, 10)) == 10 * 10 + 10 * 700
    assert overridden.of("openai", "openai", "mine").max_output == 99  # type: ignore[union-attr]
    assert cost("gpt-9", Usage(1, 5)) == 1_000
    assert cost("gpt-4o-mini", Usage(1, 0)) == 2_000, "the longer wildcard"
    assert cost("llama", Usage(5, 5), "ollama") == 0


@pytest.mark.parametrize(
    "prices",
    ["gpt: input=1", "openai/x", "openai/x: output=1", "openai/x: input=a", "openai/x: input=1,y=2",
     "openai/x: input=1, max_output=0", "openai/x: input=-1"],
)  # fmt: skip
def test_a_bad_price_stops_the_start(tmp_path: object, prices: str) -> None:
    with pytest.raises(SettingsError, match="MODEL_PRICES"):
        load({"DATA_DIR": str(tmp_path), "MODEL_PRICES": prices})
