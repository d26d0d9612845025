"""Prices: the table is sane, models are found in it, and costs are exact."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from datetime import timedelta
from decimal import ROUND_CEILING, Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.support import price_lists
from webapp.base_url import parse
from webapp.llm.messages import Usage
from webapp.metering import price_import
from webapp.metering.makers import Maker, maker_of
from webapp.metering.price import Price, make_price
from webapp.metering.prices import PriceTable, shipped, store
from webapp.setting_parsers import ConfiguredProvider, price_entry
from webapp.settings import SettingsError, load
from webapp.storage.database import Database

OVERRIDES = (
    "openai/mine: input=0.1, cached_input=0.01, output=0.7, max_output=99; "
    "openai/gpt-*: input=1; openai/gpt-4o*: input=2; ollama/*: input=0, output=0; "
    "openai/all: input=1, cached_input=0.1, cache_write_5m=1.3, cache_write_1h=2.1, output=4, "
    "audio_input=10, audio_output=20, image=0.04, web_search=0.01, context=9000, max_output=50, "
    "reasoning=true, above_200000.input=2, priority.input=3, priority.output=9, flex.factor=0.5; "
    "anthropic/*: input=1, output=5"
)
MAKERS = {
    section: Maker((section,))
    for section in ("openai", "anthropic", "google_genai", "mistral", "groq", "deepseek", "xai")
}


@pytest.fixture(scope="module")
def table() -> PriceTable:
    return PriceTable({}, MAKERS | {"azure": Maker(("azure", "openai"))})


@pytest.fixture(scope="module")
def overridden(tmp_path_factory: pytest.TempPathFactory) -> PriceTable:
    data_dir = str(tmp_path_factory.mktemp("prices"))
    return PriceTable(load({"DATA_DIR": data_dir, "MODEL_PRICES": OVERRIDES}).model_prices, MAKERS)


def price_of(table: PriceTable, section: str, model: str) -> Price:
    price = table.of(section, "anthropic" if section == "anthropic" else "openai", model)
    assert price, model
    return price


def test_the_local_model_costs_nothing_unless_it_is_given_a_price() -> None:
    asked = ("local", "local", "smollm2-135m-instruct")
    free = PriceTable({}, {}).of(*asked)
    assert free
    assert free.is_free
    priced = PriceTable({"local/*": {"input": Decimal(1), "output": Decimal(2)}}, {}).of(*asked)
    assert priced
    assert (priced.source, priced.is_free) == ("MODEL_PRICES", False)


def test_every_price_is_sane() -> None:
    edition = shipped()
    assert edition.source.startswith("LiteLLM ")
    assert {"openai", "azure", "anthropic", "google_genai", "mistral"} <= set(edition.sections)
    for section, models in edition.sections.items():
        assert models, section
        for name, fields in models.items():
            entry = price_entry(fields)
            assert entry["input"] > 0, name
            assert entry.get("cached_input", 0) <= entry["input"], name
            for write in ("cache_write_5m", "cache_write_1h"):
                assert entry.get(write, entry["input"]) >= entry["input"], name
            for field, value in entry.items():
                if field.startswith("above") and field.endswith(".input"):
                    assert value > entry["input"], name
                if field.startswith("priority"):
                    assert not field.endswith("factor") or value > 10**9, name


@pytest.mark.parametrize(
    ("section", "model", "usage", "usd"),
    [
        ("openai", "gpt-4o-mini", Usage(0, 0), "0"),
        ("openai", "gpt-4o-mini", Usage(1, 1, 1), "0.675"),
        ("openai", "gpt-4o-mini", Usage(123_457, 7_891, 120_001), "14253.075"),
        # Tiers, cached input and a tier's price that is no round multiple among them.
        ("openai", "gpt-4o-mini", Usage(9, 7, 2, service_tier="priority"), "9"),
        ("openai", "gpt-4.1", Usage(1_000, 100, 400, service_tier="priority"), "3850"),
        ("openai", "gpt-5", Usage(1_000, 100, 400, service_tier="flex"), "900"),
        ("openai", "gpt-5", Usage(1_000, 100, 400, service_tier="batch"), "900"),
        ("openai", "gpt-5", Usage(1_000, 100, 400, service_tier="default"), "1800"),
        # A tier that nobody knows: the dearest, priority.
        ("openai", "gpt-5", Usage(1_000, 100, 400, service_tier="turbo"), "3600"),
        ("openai", "gpt-6-astra", Usage(10, 10, service_tier="ultrafast"), "3600"),
        # Beyond the length, and in the tier beyond it.
        ("openai", "gpt-5.4", Usage(272_000, 1), "680015"),
        ("openai", "gpt-5.4", Usage(272_001, 1), "1360027.5"),
        ("openai", "gpt-5.4", Usage(272_001, 1, service_tier="priority"), "2720055"),
        # Writes to the cache.
        ("anthropic", "claude-haiku-4-5",
         Usage(1_000, 10, 100, cache_write_5m_tokens=200, cache_write_1h_tokens=300), "1310"),
        ("anthropic", "claude-haiku-5-5", Usage(100_001, 1, cache_write_1h_tokens=1), "50003.5"),
        ("openai", "gpt-6-astra", Usage(100, 0, cache_write_5m_tokens=40), "1100"),
        # A maker that does not charge for writing charges them as input.
        ("openai", "gpt-4.1", Usage(100, 0, cache_write_5m_tokens=40), "200"),
        # Audio.
        ("openai", "gpt-audio",
         Usage(100, 50, audio_input_tokens=60, audio_output_tokens=40), "4680"),
        ("google_genai", "gemini-2.5-flash", Usage(100, 10, audio_input_tokens=60), "97"),
        # All audio was cached: as audio, never less.
        ("google_genai", "gemini-2.5-flash", Usage(100, 0, 100, audio_input_tokens=100), "100"),
        # Fees.
        ("openai", "gpt-4.1", Usage(1, 0, web_searches=2), "50002"),
        ("azure", "text-embedding-3-small", Usage(1_000, 0), "22"),
        ("azure", "gpt-5.4-mini", Usage(1_000, 0), "750"),
        ("xai", "grok-4.3", Usage(200_001, 0), "500002.5"),
    ],
)  # fmt: skip
def test_costs_are_exact(
    table: PriceTable, section: str, model: str, usage: Usage, usd: str
) -> None:
    """`usd`: the makers' list prices of 2026-10-21, in millionths."""
    nano = int((Decimal(usd) * 1000).to_integral_value(ROUND_CEILING))
    assert price_of(table, section, model).cost(usage) == nano


def test_costs_are_rounded_up(table: PriceTable) -> None:
    assert price_of(table, "openai", "gpt-5-nano").cost(Usage(1, 0, 1)) == 5
    assert price_of(table, "openai", "gpt-5-nano").cost(Usage(1, 0, 1, service_tier="flex")) == 3


def test_what_has_no_price_is_not_free(table: PriceTable) -> None:
    price = price_of(table, "openai", "gpt-4o-mini")
    for part in ({"audio_input_tokens": 1}, {"audio_output_tokens": 1}, {"images": 1}):
        assert price.cost(Usage(10, 10, **part)) is None
        assert price.dearest(Usage(10, 10, **part), None) is None
    # A dearer tier without rates; a cheaper one costs at most as much as the standard one.
    assert price.cost(Usage(10, 10, service_tier="ultrafast")) is None
    assert price.dearest(Usage(10, 10), {"ultrafast"}) is None
    assert not price.has_rates({"standard", "ultrafast"})
    assert price.has_rates({"standard", "flex", "a-new-one"})
    assert price.cost(Usage(10, 10, service_tier="flex")) == price.cost(Usage(10, 10))


def test_a_region_costs_more(table: PriceTable) -> None:
    regional = PriceTable({}, {"openai": Maker(("openai",), regional=True)})
    usage = Usage(1_000, 10, web_searches=1)
    assert price_of(table, "openai", "gpt-5.5").cost(usage) == 5_300_000 + 10_000_000
    assert price_of(regional, "openai", "gpt-5.5").cost(usage) == 5_830_000 + 10_000_000
    assert price_of(regional, "openai", "gpt-4.1").cost(Usage(1_000, 0)) == 2_000_000


def random_usage(dice: random.Random) -> Usage:
    parts = [dice.choice([0, 0, 1, dice.randrange(400_000)]) for _ in range(5)]
    if dice.random() < 0.7:  # few models have a price of audio, images and searches
        parts[3] = parts[4] = 0
    # Providers are not always consistent: a part may be more than the whole.
    whole = sum(parts[:4]) if dice.random() < 0.8 else dice.randrange(400_000)
    return Usage(
        whole + dice.randrange(300_000), parts[4] + dice.randrange(9_000), parts[0],
        cache_write_5m_tokens=parts[1], cache_write_1h_tokens=parts[2],
        audio_input_tokens=parts[3], audio_output_tokens=parts[4],
        images=dice.choice([0, 0, 0, 2]), web_searches=dice.choice([0, 0, 3]),
    )  # fmt: skip


def smaller(usage: Usage, dice: random.Random) -> Usage:
    """One whose every kind of tokens is at most that of the usage."""
    kinds = {
        name: dice.randint(0, getattr(usage, name))
        for name in ("cached_input_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens",
                     "audio_input_tokens", "audio_output_tokens", "images", "web_searches")
    }  # fmt: skip
    inner = usage.cached_input_tokens + usage.cache_write_tokens + usage.audio_input_tokens
    plain = dice.randint(0, max(0, usage.input_tokens - inner))
    text = dice.randint(0, max(0, usage.output_tokens - usage.audio_output_tokens))
    new = replace(usage, **kinds)
    whole = new.cached_input_tokens + new.cache_write_tokens + new.audio_input_tokens + plain
    return replace(new, input_tokens=whole, output_tokens=new.audio_output_tokens + text)


def test_only_what_costs_nothing_at_any_tier_is_free() -> None:
    free = {"input": 0, "output": 0}
    assert make_price(free, "test").is_free
    assert not make_price(free | {"output": 1}, "test").is_free
    assert not make_price(free | {"priority.output": 1}, "test").is_free


def test_no_usage_costs_more_than_the_dearest(table: PriceTable, overridden: PriceTable) -> None:
    dice = random.Random(15)
    prices = [
        price_of(table, section, model)
        for section in ("openai", "azure", "anthropic", "google_genai", "xai")
        for model in shipped().sections[section]
    ]
    prices.append(price_of(overridden, "openai", "all"))
    names = ["standard", "default", "flex", "priority", "batch", "ultrafast", "a-new-one"]
    checked = 0
    for _ in range(20_000):
        price, usage = dice.choice(prices), random_usage(dice)
        tiers = dice.choice([None, dice.sample(names, 2)])
        most = price.dearest(usage, tiers)
        if most is None:
            continue
        inner = usage.cached_input_tokens + usage.cache_write_tokens + usage.audio_input_tokens
        consistent = inner <= usage.input_tokens
        for tier in tiers or [*price.tiers, "standard", "a-new-one"]:
            served = replace(usage, service_tier=tier)
            cost = price.cost(served)
            assert cost is not None
            assert cost <= most, (price, served)
            if consistent:
                less = price.cost(smaller(served, dice))
                assert less is not None
                assert less <= most, (price, served)
            checked += 1
    assert checked > 9_000


def test_a_cache_that_is_written_unasked_is_reserved_for(table: PriceTable) -> None:
    price = price_of(table, "openai", "gpt-6-astra")
    most = price.dearest(Usage(1_000, 10), ["default"])
    assert most == price.cost(Usage(1_000, 10, cache_write_5m_tokens=1_000))
    # Claude's is written where the request asks for it, which the ceiling says.
    price = price_of(table, "anthropic", "claude-haiku-4-5")
    assert price.dearest(Usage(1_000, 10), ["default"]) == price.cost(Usage(1_000, 10))


@pytest.mark.parametrize(
    ("name", "kind", "model", "known"),
    [
        ("openai", "openai", "gpt-4o-mini", True),
        ("openai", "openai", "gpt-4o-mini-2024-07-18", True),
        ("openai", "openai", "gpt-4o-2024-05-13", True),
        ("openai", "openai", "gpt-5-pro", True),
        ("openai", "openai", "my-own-model", False),
        ("azure", "azure", "gpt-4o-mini", True),
        ("azure", "azure", "gpt-4-0613", True),
        ("azure", "azure", "gpt-35-turbo", True),
        ("anthropic", "anthropic", "claude-haiku-4-5", True),
        ("anthropic", "anthropic", "claude-haiku-4-5-20251001", True),
        ("groq", "openai", "openai/gpt-oss-20b", True),
        ("ollama", "openai", "gpt-4o-mini", False),
        ("offline", "offline", "anything", True),
    ],
)
def test_a_model_is_found_by_its_provider(
    table: PriceTable, name: str, kind: str, model: str, known: bool
) -> None:
    assert (table.of(name, kind, model) is not None) == known


@pytest.mark.parametrize(
    ("name", "kind", "url", "prices", "sections"),
    [
        ("openai", "openai", "", "", ("openai",)),
        ("openai", "openai", "https://api.openai.com/v1", "", ("openai",)),
        ("openai", "openai", "https://EU.api.openai.com:443/v1/", "", ("openai",)),
        ("openai", "openai", "https://u:p@api.openai.com/v1", "", ("openai",)),
        # Another server sells its own models, whatever its name.
        ("openai", "openai", "http://localhost:11434/v1", "", ()),
        ("openai", "openai", "https://api.openai.com.example.org/v1", "", ()),
        ("openai", "openai", "https://notapi.openai.com/v1", "", ()),
        ("openai", "openai", "https://proxy.example.org/api.openai.com", "", ()),
        ("openai", "openai", "https://proxy.example.org/v1", "maker", ("openai",)),
        ("proxy", "openai", "https://proxy.example.org/v1", "maker", ("openai",)),
        ("groq", "openai", "https://proxy.example.org/v1", "maker", ("groq",)),
        ("groq", "openai", "https://proxy.example.org/v1", "", ()),
        ("fast", "openai", "https://api.groq.com/openai/v1", "", ("groq",)),
        ("east", "openai", "https://east.openai.azure.com/openai/v1", "", ("azure", "openai")),
        ("azure", "azure", "https://east.openai.azure.com", "", ("azure", "openai")),
        ("azure", "azure", "https://x.cognitiveservices.azure.com/", "", ("azure", "openai")),
        ("azure", "azure", "https://x.services.ai.azure.com", "", ("azure", "openai")),
        ("azure", "azure", "https://apim.example.org", "", ()),
        ("azure", "azure", "https://apim.example.org", "maker", ("azure", "openai")),
        ("anthropic", "anthropic", "", "", ("anthropic",)),
        ("anthropic", "anthropic", "https://api.anthropic.com", "", ("anthropic",)),
        ("anthropic", "anthropic", "http://localhost:9", "", ()),
        ("claude", "anthropic", "http://localhost:9", "maker", ("anthropic",)),
        ("gemini", "langchain:google_genai", "", "", ("google_genai",)),
        ("mistral", "langchain:mistralai", "", "", ("mistral",)),
        ("mine", "langchain:groq", "http://localhost:9", "", ()),
    ],
)  # fmt: skip
def test_the_prices_are_those_of_the_maker_that_is_called(
    name: str, kind: str, url: str, prices: str, sections: tuple[str, ...]
) -> None:
    maker = maker_of(ConfiguredProvider(name, kind, parse(url, kind), prices=prices))
    assert (maker.sections if maker else ()) == sections


def test_settings_override_the_table(overridden: PriceTable) -> None:
    def cost(model: str, usage: Usage, provider: str = "openai") -> int | None:
        price = overridden.of(provider, "openai", model)
        return price and price.cost(usage)

    assert cost("mine", Usage(10, 10, 10)) == 10 * 10 + 10 * 700
    assert price_of(overridden, "openai", "mine").max_output == 99
    assert price_of(overridden, "openai", "mine").source == "MODEL_PRICES"
    assert price_of(overridden, "openai", "o3").source == shipped().source
    assert cost("gpt-9", Usage(1, 5)) == 1_000
    assert cost("gpt-4o-mini", Usage(1, 0)) == 2_000, "the longer wildcard"
    assert cost("llama", Usage(5, 5), "ollama") == 0


def test_settings_know_every_field_of_a_price(overridden: PriceTable) -> None:
    price = price_of(overridden, "openai", "all")
    assert (price.context, price.max_output, price.reasoning) == (9_000, 50, True)
    assert price.tiers == {"priority", "flex"}
    usage = Usage(
        100, 30, 20, cache_write_5m_tokens=10, cache_write_1h_tokens=5, audio_input_tokens=15,
        audio_output_tokens=10, images=2, web_searches=3,
    )  # fmt: skip
    tokens = 50_000 + 2_000 + 13_000 + 10_500 + 150_000 + 80_000 + 200_000
    fees = 80_000_000 + 30_000_000
    assert price.cost(usage) == tokens + fees
    assert price.cost(replace(usage, service_tier="flex")) == tokens // 2 + fees
    # What a tier does not name rises as its input does.
    dear = 3 * (50_000 + 2_000 + 13_000 + 10_500 + 150_000 + 200_000) + 20 * 9_000
    assert price.cost(replace(usage, service_tier="priority")) == dear + fees
    assert price.cost(Usage(200_001, 1)) == 200_001 * 2_000 + 8_000
    assert price.cost(Usage(200_001, 1, service_tier="priority")) == 200_001 * 6_000 + 18_000
    # Anthropic charges for writing, whether or not the setting says so.
    claude = price_of(overridden, "anthropic", "claude-x")
    assert claude.cost(Usage(2, 0, cache_write_5m_tokens=1, cache_write_1h_tokens=1)) == 3_250


@pytest.mark.parametrize(
    ("prices", "named"),
    [("gpt: input=1", "gpt"), ("openai/x", "openai/x"), ("openai/x: output=1", "input"),
     ("openai/x: input=a", "input"), ("openai/x: input=1,y=2", "y"),
     ("openai/x: input=1, max_output=0", "max_output"), ("openai/x: input=-1", "input"),
     ("openai/x: input=1, priority.max_output=3", "priority.max_output"),
     ("openai/x: input=1, priority.output=-3", "priority.output"),
     ("openai/x: input=1, standard.output=3", "standard.output"),
     ("openai/x: input=1, above_0.output=3", "above_0.output"),
     ("openai/x: input=1, web_search", "web_search")],
)  # fmt: skip
def test_a_bad_price_stops_the_start(tmp_path: object, prices: str, named: str) -> None:
    with pytest.raises(SettingsError, match="MODEL_PRICES") as refused:
        load({"DATA_DIR": str(tmp_path), "MODEL_PRICES": f"openai/y: input=1; {prices}"})
    assert prices in str(refused.value)
    assert named in str(refused.value)


def test_only_the_maker_can_be_named(tmp_path: object) -> None:
    settings = {"DATA_DIR": str(tmp_path), "PROVIDER_X_BASE_URL": "http://x"}
    for variable in ("OPENAI_PRICES", "PROVIDER_X_PRICES"):
        with pytest.raises(SettingsError, match=f"{variable} must be"):
            load(settings | {variable: "cheap"})


def imported(**fields: Any) -> Price:
    """The price that LiteLLM's entry of gpt-4o-mini gives with these fields."""
    edition = price_import.read(
        price_lists.table(**{"gpt-4o-mini": fields}), "a test", shipped().date
    )
    return make_price(price_entry(edition.sections["openai"]["gpt-4o-mini"]), "a test")


def test_an_import_reads_what_litellm_says() -> None:
    # A tier's rate that is not given is the standard one, if that is higher.
    price = imported(
        cache_read_input_token_cost=5e-7, input_cost_per_token_flex=5e-7,
        input_cost_per_token_priority=2e-6, input_cost_per_token_batches=5e-7,
        output_cost_per_token_batches=1e-6, cache_read_input_token_cost_batches=2.5e-7,
    )  # fmt: skip
    for tier, nano in (("flex", 500 + 500 + 2_000), ("priority", 2_000 + 1_000 + 4_000),
                       ("batch", 500 + 250 + 1_000)):  # fmt: skip
        assert price.cost(Usage(2, 1, 1, service_tier=tier)) == nano, tier
    # Several lengths of the input.
    price = imported(
        input_cost_per_token_above_128k_tokens=2e-6, input_cost_per_token_above_200k_tokens=3e-6,
        output_cost_per_token_above_200k_tokens=4e-6, input_cost_per_token_priority=2e-6,
        input_cost_per_token_above_200k_tokens_priority=7e-6,
    )  # fmt: skip
    assert price.cost(Usage(128_000, 1)) == 128_000_000 + 2_000
    assert price.cost(Usage(128_001, 1)) == 256_002_000 + 4_000
    assert price.cost(Usage(200_001, 1)) == 600_003_000 + 4_000
    assert price.cost(Usage(200_001, 1, service_tier="priority")) == 1_400_007_000 + 8_000
    # Writing that costs nothing by itself is still input.
    price = imported(cache_creation_input_token_cost=0.0)
    assert price.cost(Usage(5, 0, cache_write_5m_tokens=5)) == 5_000
    price = imported(
        input_cost_per_audio_token=4e-5, output_cost_per_audio_token=8e-5,
        output_cost_per_image=0.04, search_context_cost_per_query={"low": 0.01, "high": 0.03},
        regional_processing_uplift_multiplier_eu=1.1, max_output_tokens="as many as you like",
    )  # fmt: skip
    usage = Usage(2, 2, audio_input_tokens=1, audio_output_tokens=1, images=1, web_searches=1)
    assert price.cost(usage) == 1_000 + 40_000 + 2_000 + 80_000 + 70_000_000
    assert price.max_output is None


@pytest.mark.parametrize(("days", "nano"), [(0, 1_000), (1, 1_000), (-1, 150)])
def test_the_newer_of_two_tables_comes_first(
    migrated_file: Path, tmp_path: Path, days: int, nano: int
) -> None:
    """The database's, unless the shipped one is newer; what only one of them has is found."""
    database = Database(f"sqlite:///{shutil.copy(migrated_file, tmp_path)}")
    dated = shipped().date + timedelta(days=days)
    models = price_lists.table(**{"gpt-new": price_lists.table()["gpt-4o-mini"]})
    database.write(lambda c: store(c, price_import.read(models, "an update", dated)))
    prices = PriceTable({}, MAKERS, database)
    prices.refresh()
    assert price_of(prices, "openai", "gpt-4o-mini").cost(Usage(1, 0)) == nano
    assert price_of(prices, "openai", "gpt-new").source == "an update"
    assert price_of(prices, "openai", "gpt-4.1").source == shipped().source
    listed = {(found.section, found.model): found.source for found in prices.listed()}
    assert listed["openai", "gpt-4o-mini"] == ("an update" if days >= 0 else shipped().source)
    assert price_of(prices, "openai", "gpt-4o-mini-2024-07-18").cost(Usage(1, 0)) == nano
    database.engine.dispose()
