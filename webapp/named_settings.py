"""What settings say of providers (the built-in ones, PROVIDER_<NAME>_…) and tiers (TIER_<NAME>)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from webapp import allowance, base_url
from webapp import setting_parsers as parse
from webapp.allowance import Allowance
from webapp.base_url import BaseURL
from webapp.setting_parsers import ConfiguredProvider

NAMED_PROVIDERS = frozenset({"openai", "azure", "anthropic", "offline"})
PROVIDER_VARIABLE = re.compile(r"PROVIDER_([A-Z][A-Z0-9_]{0,31})_(TYPE|BASE_URL|API_KEY|PRICES)")
TIER_VARIABLE = re.compile(r"TIER_([A-Z][A-Z0-9_]{0,31})")
PROVIDER_TYPE = re.compile(r"openai|azure|anthropic|langchain:[a-z0-9_]+")


def built_in_providers(values: Mapping[str, Any]) -> Iterator[ConfiguredProvider]:
    """The providers with settings of their own, in order of precedence."""
    if values["openai_api_key"] or values["openai_base_url"].url:
        openai = (values["openai_base_url"], values["openai_api_key"], values["openai_prices"])
        yield ConfiguredProvider("openai", "openai", *openai)
    if values["azure_openai_endpoint"].url:
        endpoint, key = values["azure_openai_endpoint"], values["azure_openai_api_key"]
        prices = values["azure_openai_prices"]
        yield ConfiguredProvider("azure", "azure", endpoint, key, prices)
    if values["anthropic_api_key"]:
        url, key = values["anthropic_base_url"], values["anthropic_api_key"]
        prices = values["anthropic_prices"]
        yield ConfiguredProvider("anthropic", "anthropic", url, key, prices)


def further_providers(
    environment: Mapping[str, str],
) -> tuple[list[ConfiguredProvider], list[str]]:
    """The providers of PROVIDER_<NAME>_…, sorted by name, and the problems found."""
    found: dict[str, dict[str, str]] = {}
    problems: list[str] = []
    for variable, value in sorted(environment.items()):
        named = PROVIDER_VARIABLE.fullmatch(variable)
        if named and value.strip():
            found.setdefault(named[1].lower(), {})[named[2].lower()] = value.strip()
    providers = []
    for name, values in found.items():
        prefix = f"PROVIDER_{name.upper()}"
        provider_type = values.get("type", "openai")
        address = BaseURL()
        try:
            address = base_url.parse(values.get("base_url", ""), provider_type)
        except ValueError as error:
            problems.append(f"{prefix}_BASE_URL {error}")
        key = ""
        try:
            key = parse.api_key(values.get("api_key", ""))
        except ValueError as error:
            problems.append(f"{prefix}_API_KEY {error}")
        provider = ConfiguredProvider(name, provider_type, address, key, values.get("prices", ""))
        providers.append(provider)
        if name in NAMED_PROVIDERS:
            problems.append(f"{prefix}_…: {name} is a built-in name; choose another name")
        if not PROVIDER_TYPE.fullmatch(provider.type):
            problems.append(
                f"{prefix}_TYPE must be openai, azure, anthropic or langchain:<provider>"
            )
        elif provider.type in {"openai", "azure"} and "base_url" not in values:
            problems.append(f"{prefix}_BASE_URL must be set for type {provider.type}")
        if provider.prices not in {"", "maker"}:
            problems.append(f"{prefix}_PRICES must be maker")
    return providers, problems


def tier_overrides(
    environment: Mapping[str, str], tiers: Mapping[str, Allowance]
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The limits of TIER_<NAME> for each tier, and the problems found."""
    overrides: dict[str, dict[str, Any]] = {}
    problems: list[str] = []
    names = {re.sub(r"\W", "_", name).upper(): name for name in tiers}
    for variable, text in sorted(environment.items()):
        named = TIER_VARIABLE.fullmatch(variable)
        if not named or not text.strip():
            continue
        if named[1] not in names:
            problems.append(f"{variable} names no tier (TIERS has {', '.join(tiers)})")
            continue
        try:
            overrides[names[named[1]]] = allowance.parse_text(text)
        except ValueError as error:
            problems.append(f"{variable}: {error}")
    return overrides, problems
