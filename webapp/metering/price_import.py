"""Reads LiteLLM's table of the makers' prices (MIT licensed), and says what an update changes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import date
from decimal import ROUND_CEILING, Decimal
from typing import Any, Literal, NamedTuple

from webapp import money
from webapp.metering.prices import VERSION, Edition, PriceTable, shipped
from webapp.setting_parsers import TOKEN_COUNTS, TOKEN_RATES, PriceEntry, price_entry

URL = "https://raw.githubusercontent.com/BerriAI/litellm/main/model_prices_and_context_window.json"
# Our section, LiteLLM's name of the maker, and the prefix of its models there.
SECTIONS = [
    ("openai", "openai", ""),
    ("azure", "azure", "azure/"),
    ("anthropic", "anthropic", ""),
    ("google_genai", "gemini", "gemini/"),
    ("mistral", "mistral", "mistral/"),
    ("groq", "groq", "groq/"),
    ("deepseek", "deepseek", "deepseek/"),
    ("xai", "xai", "xai/"),
]
MODES = frozenset({"chat", "responses", "embedding"})
LEFT_OUT = re.compile(
    r"^ft:|realtime|container|lyria|-exp-|experimental|beta|tts|model-router"
    r"|^(eu|us|us-gov|apac)/|^global"
)
# LiteLLM's names of our rates, and of our tiers.
RATES = {
    "input": "input_cost_per_token",
    "cached_input": "cache_read_input_token_cost",
    "cache_write_5m": "cache_creation_input_token_cost",
    "cache_write_1h": "cache_creation_input_token_cost_above_1hr",
    "output": "output_cost_per_token",
    "audio_input": "input_cost_per_audio_token",
    "audio_output": "output_cost_per_audio_token",
}
TIERS = {"flex": "flex", "priority": "priority", "batch": "batches", "ultrafast": "ultrafast"}
ABOVE = re.compile(r"input_cost_per_token_above_(\d+)k_tokens")
REGIONAL = re.compile(r"regional_processing_uplift_multiplier_\w+")
# The fields of a model of Weir, as text or numbers.
Fields = dict[str, Any]


def read(table: Any, source: str, dated: date) -> Edition:
    """Weir's prices of a table of LiteLLM. Raises ValueError if it is none."""
    if not isinstance(table, dict):
        raise ValueError("it is no JSON object of models")
    sections = {section: dict(_section(table, *names)) for section, *names in SECTIONS}
    if not all(sections.values()):
        missing = next(section for section, models in sections.items() if not models)
        raise ValueError(f"it has no prices of {missing}")
    sections = {section: _undated(models) for section, models in sections.items()}
    openai = sections["openai"]
    sections["azure"] = {
        name: fields
        for name, fields in sections["azure"].items()
        if _differs(fields, openai.get(name) or openai.get(VERSION.sub("", name), {}))
    }
    return Edition(source, dated, sections)


def _section(table: Mapping[str, Any], maker: str, prefix: str) -> Iterator[tuple[str, Fields]]:
    for full_name, entry in table.items():
        name = full_name.removeprefix(prefix)
        if (
            isinstance(entry, dict)
            and entry.get("litellm_provider") == maker
            and entry.get("mode") in MODES
            and not LEFT_OUT.search(name)
        ):
            try:
                fields = fields_of(entry)
            except ValueError as error:
                raise ValueError(f"{full_name}: {error}") from None
            if fields:
                yield name, fields


def fields_of(entry: Mapping[str, Any]) -> Fields | None:
    """The fields of a model; None if it has no price. Raises ValueError if they make no sense."""
    standard = _rates(entry)
    if not standard.get("input"):
        return None
    # A maker that charges nothing for writing charges what was written as input.
    for write in ("cache_write_5m", "cache_write_1h"):
        if standard.get(write, standard["input"]) < standard["input"]:
            del standard[write]
    bands = {
        int(found[1]) * 1000: _rates(entry, f"_above_{found[1]}k_tokens")
        for name in entry
        if (found := ABOVE.fullmatch(name))
    }
    fields: Fields = dict(standard)
    for above, rates in sorted(bands.items()):
        fields |= {f"above_{above}.{name}": rate for name, rate in rates.items()}
    for tier, suffix in TIERS.items():
        fields |= _tier(entry, tier, suffix, standard, bands)
    fields |= _fees(entry)
    uplifts = [_decimal(value) for name, value in entry.items() if REGIONAL.fullmatch(name)]
    if uplifts:
        fields["regional"] = max(uplifts)
    if entry["mode"] != "embedding":
        fields["max_output"] = _count(entry.get("max_output_tokens"))
        fields["context"] = _count(entry.get("max_input_tokens"))
        fields["reasoning"] = True if entry.get("supports_reasoning") else None
    fields = {name: value for name, value in fields.items() if value is not None}
    price_entry(fields)
    return fields


def _tier(
    entry: Mapping[str, Any],
    tier: str,
    suffix: str,
    standard: Mapping[str, Decimal],
    bands: Mapping[int, Mapping[str, Decimal]],
) -> Fields:
    """A tier's rates: a factor, and what differs from it.

    A rate that the table does not have for the tier is the standard one, if that is higher.
    """
    rates = _rates(entry, f"_{suffix}")
    if "input" not in rates:
        return {}
    factor = (rates["input"] / standard["input"]).quantize(Decimal("1e-9"), ROUND_CEILING)
    fields: Fields = {f"{tier}.factor": factor.normalize()}
    for above, base in ((0, standard), *sorted(bands.items())):
        given = _rates(entry, f"_above_{above // 1000}k_tokens_{suffix}") if above else rates
        prefix = f"{tier}.above_{above}." if above else f"{tier}."
        if "cache_write_5m" in given and "cache_write_1h" in base:
            given.setdefault("cache_write_1h", base["cache_write_1h"] * factor)
        for name, rate in {**base, **given}.items():
            actual = given.get(name, max(rate, rate * factor))
            named = f"{tier}.{name}" in fields  # then that one would stand for longer inputs, too
            if named or name not in base or actual != base[name] * factor:
                fields[prefix + name] = actual
    return fields


def _rates(entry: Mapping[str, Any], suffix: str = "") -> dict[str, Decimal]:
    """USD per million tokens."""
    names = {ours: theirs + suffix for ours, theirs in RATES.items()}
    return {
        ours: (_decimal(entry[theirs]) * 1_000_000).normalize()
        for ours, theirs in names.items()
        if entry.get(theirs) is not None
    }


def _fees(entry: Mapping[str, Any]) -> Fields:
    """USD for each image and each web search, the dearest kind of search."""
    fees: Fields = {}
    if image := entry.get("output_cost_per_image"):
        fees["image"] = _decimal(image)
    searches = entry.get("search_context_cost_per_query")
    if isinstance(searches, dict) and searches:
        fees["web_search"] = max(map(_decimal, searches.values()))
    return fees


def _count(value: Any) -> int | None:
    return int(value) if isinstance(value, int | float) and value >= 1 else None


def _decimal(value: Any) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise ValueError(f"{value!r} is no price")
    return Decimal(str(value))


def _differs(fields: Fields, others: Fields) -> bool:
    """Whether money depends on the difference; tiers that a model does not have cost nothing."""
    names = {name for name in fields | others if name in fields or "." not in name}
    names -= {"max_output", "context", "reasoning", "regional"}
    return any(fields.get(name) != others.get(name) for name in names)


def _undated(models: dict[str, Fields]) -> dict[str, Fields]:
    """Drop dated names with the price of the undated name, which Weir looks up as a fallback."""
    return {
        name: fields
        for name, fields in models.items()
        if models.get(undated := VERSION.sub("", name)) != fields or undated == name
    }


def field_order(name: str) -> tuple[int, str, int]:
    """Sorts the fields of a price: standard rates, longer inputs, tiers, fees, counts."""
    scope, _, field = name.rpartition(".")
    known = [*TOKEN_RATES, "image", "web_search", "regional", "max_output", "context", "reasoning"]
    rank = known.index(field) if field in known else -1
    if not scope:
        return (0 if rank < len(TOKEN_RATES) else 3, "", rank)
    return (1 if scope.startswith("above") else 2, scope, rank)


class Difference(NamedTuple):
    """What an update changes about a model (`provider/model`)."""

    model: str
    kind: Literal["added", "changed", "removed"]
    detail: str


def differences(table: PriceTable, new: Edition) -> Iterator[Difference]:
    """What changes where these prices replace those of the database."""
    old = {(found.section, found.model): found for found in table.listed()}
    for section, models in sorted(new.sections.items()):
        for model, fields in sorted(models.items()):
            found, now = old.get((section, model)), price_entry(fields)
            if found is None:
                yield Difference(f"{section}/{model}", "added", listed(now))
                continue
            before = price_entry(found.fields)
            if before != now:
                changes = _changes(as_text(before), as_text(now))
                yield Difference(f"{section}/{model}", "changed", changes)
    for section, model in sorted(old):
        if model not in new.sections.get(section, {}):
            built_in = shipped().sections.get(section, {}).get(model)
            stays = f"its price of {shipped().source} stays" if built_in else "has no price then"
            yield Difference(f"{section}/{model}", "removed", stays)


def _changes(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    names = sorted(before.keys() | now.keys(), key=field_order)
    return ", ".join(
        f"{name} {before.get(name, 'none')} → {now.get(name, 'none')}"
        for name in names
        if before.get(name) != now.get(name)
    )


def as_text(entry: PriceEntry) -> dict[str, str]:
    """The fields of a price as MODEL_PRICES has them."""
    texts = {}
    for name, value in entry.items():
        if name == "reasoning":
            texts[name] = str(bool(value)).lower()
        else:
            texts[name] = str(value) if name in TOKEN_COUNTS else money.text(value)
    return texts


def listed(entry: PriceEntry) -> str:
    """A price as MODEL_PRICES has it."""
    texts = as_text(entry)
    return ", ".join(f"{name}={texts[name]}" for name in sorted(texts, key=field_order))
