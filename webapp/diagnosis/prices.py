"""The check of prices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, date, datetime

from sqlalchemy.exc import SQLAlchemyError

from webapp.diagnosis.finding import Finding
from webapp.diagnosis.providers import targets_of
from webapp.errors import StoreUnavailable
from webapp.metering.makers import host_of, maker_of
from webapp.metering.prices import Edition
from webapp.services import Services
from webapp.setting_parsers import ConfiguredProvider

PRICE_AGE_WARNING = 60  # days
MAKER_VARIABLES = {
    "openai": "OPENAI_PRICES",
    "azure": "AZURE_OPENAI_PRICES",
    "anthropic": "ANTHROPIC_PRICES",
}


def check_prices(services: Services) -> Iterator[Finding]:
    targets = targets_of(services)
    prices = services.prices
    # Without the database, which has its own check, the built-in prices are checked.
    with suppress(StoreUnavailable, SQLAlchemyError):
        prices.refresh()
    for provider in services.settings.providers:
        yield from _check_maker(services, provider)
    for target in targets:
        if prices.of(target.provider.name, target.provider.kind, target.model) is None:
            yield Finding(
                "prices", "warning", f"{target.name} has no price: its calls are unpriced, and "
                "refused for keys with a budget", "Set MODEL_PRICES, or UNPRICED_MODELS=allow.",
            )  # fmt: skip
    if targets:
        yield Finding("prices", "ok", f"{len(targets)} models checked")
    if any(maker_of(provider) for provider in services.settings.providers):
        yield price_age(prices.editions[0], datetime.now(UTC).date())


def _check_maker(services: Services, provider: ConfiguredProvider) -> Iterator[Finding]:
    """Whose prices hold for a provider whose host is not the maker's own."""
    maker, host = maker_of(provider), host_of(provider)
    variable = MAKER_VARIABLES.get(provider.name, f"PROVIDER_{provider.name.upper()}_PRICES")
    if maker and maker.by_setting:
        found = f"{provider.name}: {host} leads to the maker ({variable}=maker)"
        yield Finding("prices", "ok", f"{found}: the prices of {maker.sections[0]} hold")
    elif not maker:
        found = f"{provider.name}: {host} is not the maker's own host"
        owners = {name.partition("/")[0] for name in services.prices.overrides}
        if provider.name in owners:
            yield Finding("prices", "ok", f"{found}: only those of MODEL_PRICES hold")
        else:
            advice = f"Set MODEL_PRICES, or {variable}=maker if it leads to the maker."
            yield Finding("prices", "warning", f"{found}: no prices hold", advice)


def price_age(edition: Edition, today: date) -> Finding:
    """Whether the prices in use are recent."""
    days = (today - edition.date).days
    if days <= PRICE_AGE_WARNING:
        return Finding("prices", "ok", f"{edition.source}, {days} days old")
    found = f"{edition.source} is {days} days old"
    return Finding("prices", "warning", found, "Run flask prices update.")
