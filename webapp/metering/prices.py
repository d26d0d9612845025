"""Prices of models: the table in prices.toml, and the overrides of MODEL_PRICES."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from webapp.llm.messages import Usage
from webapp.money import to_nano
from webapp.setting_parsers import ConfiguredPrice

FILE = Path(__file__).with_name("prices.toml")
MILLION = 1_000_000
# A version suffix of a model's name, which the table leaves out.
VERSION = re.compile(r"(-\d{4}-\d{2}-\d{2}|[-@]20\d{6}|-\d{4}|-latest)$")


@dataclass(frozen=True, slots=True)
class Rates:
    """Nano-USD per million tokens."""

    input: int
    cached_input: int
    output: int


@dataclass(frozen=True, slots=True)
class Price:
    """The price of a model. Calls with more than `above` input tokens cost `rates_above`."""

    rates: Rates
    max_output: int | None = None
    context: int | None = None
    reasoning: bool = False
    above: int | None = None
    rates_above: Rates | None = None
    others: Mapping[str, int] = field(default_factory=dict)

    @property
    def tiers(self) -> frozenset[str]:
        return frozenset(name.partition(".")[0] for name in self.others if "." in name)

    def cost(self, usage: Usage) -> int | None:
        """Nano-USD, rounded up."""
        tier = usage.service_tier or "standard"
        if tier in {"standard", *self.tiers}:
            return self._cost_at(tier, usage)
        if tier in {"flex", "batch"}:
            return self._cost_at("standard", usage)
        return None if tier == "priority" else self.dearest(usage, None)

    def dearest(self, usage: Usage, tiers: Collection[str] | None) -> int | None:
        """The highest cost at any of these tiers; None means all."""
        names = self.tiers | {"standard"} if tiers is None else tiers
        costs = [self.cost(replace(usage, service_tier=tier)) for tier in names]
        known = [cost for cost in costs if cost is not None]
        return max(known) if known and len(known) == len(costs) else None

    def _cost_at(self, tier: str, usage: Usage) -> int | None:
        prefix = "" if tier == "standard" else f"{tier}."
        rates = {
            "input": self.rates.input,
            "cached_input": self.rates.cached_input,
            "output": self.rates.output,
            **self.others,
        }
        rates.setdefault("cache_write_5m", rates["input"])
        rates.setdefault("cache_write_1h", rates["cache_write_5m"])
        if self.above is not None and self.rates_above and usage.input_tokens > self.above:
            rates |= {name: getattr(self.rates_above, name) for name in Rates.__slots__}
        parts = {
            "input": usage.input_tokens - usage.cached_input_tokens - usage.cache_write_tokens
            - usage.audio_input_tokens,
            "cached_input": usage.cached_input_tokens,
            "cache_write_5m": usage.cache_write_5m_tokens,
            "cache_write_1h": usage.cache_write_1h_tokens,
            "audio_input": usage.audio_input_tokens,
            "output": usage.output_tokens - usage.audio_output_tokens,
            "audio_output": usage.audio_output_tokens,
            "image": usage.images * MILLION,
            "web_search": usage.web_searches * MILLION,
        }  # fmt: skip
        total = 0
        for name, amount in parts.items():
            rate = rates.get(prefix + name, rates.get(name))
            if amount and rate is None:
                return None
            total += max(0, amount) * (rate or 0)
        return -(-total // MILLION)


FREE = Price(Rates(0, 0, 0))


class PriceTable:
    """Finds the price of a model. `overrides` (`provider/model`, with wildcards) come first."""

    def __init__(self, overrides: Mapping[str, ConfiguredPrice]) -> None:
        # Exact names first, then patterns, the longest first.
        names = sorted(overrides, key=lambda name: ("*" in name, -len(name)))
        self._overrides = {name: _of_setting(overrides[name]) for name in names}
        self.of = lru_cache(10_000)(self._find)

    def names(self, provider: str, kind: str) -> set[str]:
        """The models of a provider that have a price under their exact name."""
        priced = (name.partition("/") for name in self._overrides if "*" not in name)
        models = {model for owner, _, model in priced if owner == provider}
        return models.union(*(_table().get(section, {}) for section in _sections(provider, kind)))

    def _find(self, provider: str, kind: str, model: str) -> Price | None:
        """The price of a model. `provider` is the configured name, `kind` the type of provider."""
        if provider == "offline":
            return FREE
        name = f"{provider}/{model}"
        for pattern, price in self._overrides.items():
            if fnmatchcase(name, pattern):
                return price
        for section in _sections(provider, kind):
            models = _table().get(section, {})
            if found := models.get(model) or models.get(VERSION.sub("", model)):
                return found
        return None


def _sections(provider: str, kind: str) -> list[str]:
    """The sections of the table that may have the price, the likeliest first.

    Another server with OpenAI's protocol has its own prices, so OpenAI's are not used for it.
    """
    section = kind.removeprefix("langchain:")
    if kind == "openai":
        return [provider]
    return [provider, section, "openai"] if kind == "azure" else [provider, section]


@cache
def _table() -> dict[str, dict[str, Price]]:
    sections = tomllib.loads(FILE.read_text())
    return {
        section: {name: _of_table(entry) for name, entry in models.items()}
        for section, models in sections.items()
    }


def _of_table(entry: Mapping[str, Any]) -> Price:
    above = entry.get("above")
    return Price(
        _rates(entry),
        entry.get("max_output"),
        entry.get("context"),
        entry.get("reasoning", False),
        above,
        _rates({name: entry.get(f"{name}_above", entry.get(name)) for name in Rates.__slots__})
        if above
        else None,
    )


def _rates(entry: Mapping[str, Any]) -> Rates:
    """Without a price of its own, cached input costs as other input. Embeddings have no output."""
    full = to_nano(entry["input"])
    cached, output = entry.get("cached_input"), entry.get("output")
    return Rates(
        full, full if cached is None else to_nano(cached), to_nano(output) if output else 0
    )


def _of_setting(configured: ConfiguredPrice) -> Price:
    rates = Rates(configured.input, configured.cached_input, configured.output)
    return Price(rates, configured.max_output, configured.context, others=dict(configured.others))
