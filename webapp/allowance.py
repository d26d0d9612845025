"""The limits of a tier or a key (rates, money, models, sizes, networks), and their notation.

A tier's allowance comes from TIERS and TIER_<NAME>; a key's overrides are a mapping with the same
names, in JSON or as text (`usd_per_month=20,models=a|b`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

from limits import RateLimitItem, RateLimitItemPerMinute

from webapp import model_names, money

MINUTE = 60
MAX_COUNT = 1_000_000_000_000

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Allowance:
    """All limits; None means no limit. Money is in nano-USD; days and months are UTC."""

    windows: tuple[RateLimitItem, ...] = ()
    """Limits of requests in sliding windows."""
    requests_per_day: int | None = None
    tokens_per_minute: int | None = None
    parallel_requests: int | None = None
    requests_per_session: int | None = None
    usd_per_day: int | None = None
    usd_per_month: int | None = None
    usd_per_session: int | None = None
    models: tuple[str, ...] | None = None
    """Names of models or routes; `*` matches any part of a name."""
    max_text: int | None = None
    """The maximum length of a text to summarize, in characters."""
    networks: tuple[Network, ...] | None = None
    own_cache: bool = False
    """Whether answers are cached for this key only."""

    def overridden(self, overrides: Mapping[str, Any]) -> Allowance:
        """This allowance with the overrides of parse_overrides() applied.

        Unknown names are ignored: after a roll-back, they may come from a later version.
        """
        changes = {
            name: value
            for name, value in overrides.items()
            if value is not None and name in OVERRIDES
        }
        per_minute = changes.pop("requests_per_minute", None)
        if per_minute is not None:
            others = (item for item in self.windows if item.get_expiry() != MINUTE)
            changes["windows"] = (RateLimitItemPerMinute(per_minute), *others)
        for name in ("models", "networks"):
            if name in changes:
                changes[name] = tuple(changes[name])
        if "networks" in changes:
            changes["networks"] = tuple(map(ip_network, changes["networks"]))
        return replace(self, **changes)

    def increased(self, nano: int) -> Allowance:
        """This allowance with each of its budgets increased."""
        day, month = (
            None if budget is None else budget + nano
            for budget in (self.usd_per_day, self.usd_per_month)
        )
        return replace(self, usd_per_day=day, usd_per_month=month)

    @property
    def has_budget(self) -> bool:
        return self.usd_per_day is not None or self.usd_per_month is not None

    def allows_model(self, *names: str) -> bool:
        """Whether a model is allowed, given all its names."""
        if self.models is None:
            return True
        return any(model_names.matches(name, model) for name in names for model in self.models)

    def allows_address(self, address: str | None) -> bool:
        """Whether requests from this address are allowed."""
        if self.networks is None:
            return True
        return address is not None and any(ip_address(address) in net for net in self.networks)


# Parsers of overrides: from text or JSON to a JSON-ready value. They raise ValueError.


def _count(value: Any) -> int:
    if isinstance(value, str) and re.fullmatch(r"\d{1,15}", value.strip()):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_COUNT:
        raise ValueError("must be a whole number of at least 1")
    return value


def _listed(value: Any) -> list[str]:
    entries = value.split("|") if isinstance(value, str) else value
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise ValueError("must be a list of names")
    names = [entry.strip() for entry in entries if entry.strip()]
    if not names or len(names) > 100:
        raise ValueError("must have 1 to 100 names")
    return names


def _models(value: Any) -> list[str]:
    listed = _listed(model_names.hide_quoted(value) if isinstance(value, str) else value)
    models = list(map(model_names.reveal, listed))
    if wrong := [model for model in models if not re.fullmatch(model_names.NAME, model)]:
        raise ValueError(f"must be model names ({wrong[0]!r} is not one)")
    return models


def _networks(value: Any) -> list[str]:
    try:
        return [str(ip_network(network)) for network in _listed(value)]
    except ValueError as error:
        raise ValueError(f"must be networks such as 10.0.0.0/8: {error}") from None


def _flag(value: Any) -> bool:
    flags = {True: True, False: False, "true": True, "false": False}
    if not isinstance(value, bool | str) or value not in flags:
        raise ValueError("must be true or false")
    return flags[value]


OVERRIDES: dict[str, Callable[[Any], Any]] = {
    "requests_per_minute": _count,
    "requests_per_day": _count,
    "tokens_per_minute": _count,
    "parallel_requests": _count,
    "requests_per_session": _count,
    "usd_per_day": money.to_nano,
    "usd_per_month": money.to_nano,
    "usd_per_session": money.to_nano,
    "models": _models,
    "max_text": _count,
    "networks": _networks,
    "own_cache": _flag,
}
MONEY = frozenset({"usd_per_day", "usd_per_month", "usd_per_session"})


def parse_overrides(values: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides in their stored form: JSON-ready, money in nano-USD; None removes an override.

    Raises ValueError, which names the field.
    """
    parsed = {}
    for name, value in values.items():
        if name not in OVERRIDES:
            raise ValueError(f"{name} must be one of {', '.join(OVERRIDES)}")
        try:
            parsed[name] = None if value is None else OVERRIDES[name](value)
        except ValueError as error:
            raise ValueError(f"{name} {error}") from None
    return parsed


def shown(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Stored overrides in their displayed form: money in USD."""
    return {
        name: money.to_usd(value) if name in MONEY else value
        for name, value in overrides.items()
        if value is not None
    }


def parse_text(text: str) -> dict[str, Any]:
    """The overrides of `tokens_per_minute=…,usd_per_month=…,models=a|b`. Raises ValueError."""
    values = {}
    parts = model_names.hide_quoted(text).split(",")
    for entry in filter(None, (part.strip() for part in parts)):
        name, separator, value = entry.partition("=")
        if not separator:
            raise ValueError(
                "must look like tokens_per_minute=1000,models=a|b "
                f"({model_names.reveal(entry)!r} does not)"
            )
        values[name.strip()] = value
    return parse_overrides(values)
