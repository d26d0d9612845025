"""The values of settings, and their parsers from the text of environment variables.

A parser returns the value, or raises a ValueError that describes a valid value.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from limits import RateLimitItem, parse_many

from webapp import money
from webapp.allowance import Allowance

DEFAULT_TIERS = "free=5/minute;premium=20/minute;enterprise=1000/minute"
# The name of a model, alone and in a route: provider/model, with or without *weight.
MODEL = r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,199}"
ROUTED_MODEL = rf"([a-z][a-z0-9_-]{{0,31}})/({MODEL})(?:\*(\d{{1,6}}))?"
PRICED_MODEL = r"[a-z][a-z0-9_-]{0,31}/[A-Za-z0-9*][A-Za-z0-9._:/@+*-]{0,199}"


@dataclass(frozen=True, slots=True)
class ConfiguredKey:
    """One entry of API_KEYS."""

    name: str
    tier: str
    secret: str


@dataclass(frozen=True, slots=True)
class ConfiguredProvider:
    """A provider by its name: `openai`, `azure`, `anthropic`, or `langchain:<provider>`."""

    name: str
    type: str
    base_url: str = ""
    api_key: str = field(default="", repr=False)


class ConfiguredPrice(NamedTuple):
    """A price of MODEL_PRICES, in nano-USD per million tokens; `max_output` is in tokens."""

    input: int
    cached_input: int
    output: int
    max_output: int | None


class RoutedModel(NamedTuple):
    """A model of a provider in a route; `weight` is its share of the first attempts."""

    provider: str
    model: str
    weight: int


def flag(text: str) -> bool:
    lowered = text.strip().lower()
    if lowered in {"1", "true", "yes", "on"}:
        return True
    if lowered in {"", "0", "false", "no", "off"}:
        return False
    raise ValueError("must be true or false")


def number(least: float, most: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not least <= value <= most:
            raise ValueError(f"must be a number from {least:g} to {most:g}")
        return value

    return parse


def integer(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"\d{1,18}", text.strip()) or not least <= int(text) <= most:
            raise ValueError(f"must be a whole number from {least} to {most}")
        return int(text)

    return parse


def one_of(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return text.lower()

    return parse


def existing_path(text: str) -> Path | None:
    path = Path(text)
    if text and not path.exists():
        raise ValueError("must be a file or a folder that exists")
    return path if text else None


def url(*schemes: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text and not text.startswith(tuple(f"{scheme}://" for scheme in schemes)):
            raise ValueError(f"must start with one of {', '.join(s + '://' for s in schemes)}")
        return text.strip()

    return parse


def patterns(text: str) -> tuple[re.Pattern[str], ...]:
    try:
        return tuple(re.compile(line, re.IGNORECASE) for line in text.splitlines() if line.strip())
    except re.error as error:
        raise ValueError(f"must be regular expressions, one a line: {error}") from None


def tiers(text: str) -> dict[str, Allowance]:
    tiers: dict[str, Allowance] = {}
    for entry in filter(None, (part.strip() for part in text.split(";"))):
        name, separator, notation = entry.partition("=")
        items: tuple[RateLimitItem, ...]
        try:
            items = tuple(sorted(set(parse_many(notation))))
        except ValueError:
            items = ()
        if not re.fullmatch(r"[a-z][a-z0-9_-]{0,31}", name) or not separator or not items:
            raise ValueError(f"must look like {DEFAULT_TIERS!r} ({entry!r} does not)")
        if any(item.amount < 1 for item in items):
            raise ValueError(f"must allow at least 1 request ({entry!r} does not)")
        if len({item.get_expiry() for item in items}) < len(items):
            raise ValueError(f"must not limit one period twice ({entry!r} does)")
        tiers[name] = Allowance(windows=items)
    if not tiers:
        raise ValueError("must name at least one tier")
    return tiers


def api_keys(text: str) -> tuple[ConfiguredKey, ...]:
    keys: list[ConfiguredKey] = []
    for number, entry in enumerate(filter(None, (part.strip() for part in text.split(","))), 1):
        parts = entry.split(":")
        # The entry itself is not quoted: it may hold a secret.
        if len(parts) != 3 or not all(parts):
            raise ValueError(f"must be name:tier:key, comma-separated (entry {number} is not)")
        if not re.fullmatch(r"[\x21-\x7e]{1,256}", parts[2]):
            raise ValueError(f"keys must be visible ASCII without spaces (entry {number} is not)")
        keys.append(ConfiguredKey(*parts))
    for what, values in (("name", [k.name for k in keys]), ("key", [k.secret for k in keys])):
        if len(set(values)) < len(values):
            raise ValueError(f"must not use one {what} twice")
    return tuple(keys)


def routes(text: str) -> dict[str, tuple[RoutedModel, ...]]:
    routes: dict[str, tuple[RoutedModel, ...]] = {}
    for entry in filter(None, (part.strip() for part in text.split(";"))):
        name, separator, targets = entry.partition("=")
        parsed = [re.fullmatch(ROUTED_MODEL, target.strip()) for target in targets.split(">")]
        if not separator or not re.fullmatch(MODEL, name.strip()) or not all(parsed):
            raise ValueError(
                f"must look like name=provider/model>provider/model;… ({entry!r} does not)"
            )
        if name.strip() in routes:
            raise ValueError(f"must not name a route twice ({name.strip()!r} is)")
        routes[name.strip()] = tuple(
            RoutedModel(found[1], found[2], int(found[3] or 0)) for found in parsed if found
        )
    return routes


def webhook_secret(text: str) -> bytes:
    """The bytes of a secret in the format of standardwebhooks.com."""
    try:
        secret = base64.b64decode(text.strip().removeprefix("whsec_"), validate=True)
    except ValueError:
        secret = b""
    if text.strip() and len(secret) < 16:
        raise ValueError("must be whsec_ and the base64 of at least 16 random bytes")
    return secret


def prices(text: str) -> dict[str, ConfiguredPrice]:
    prices: dict[str, ConfiguredPrice] = {}
    for entry in filter(None, (part.strip() for part in text.split(";"))):
        name, _, rates = entry.partition(": ")
        given = dict(rate.strip().partition("=")[::2] for rate in rates.split(","))
        unknown = given.keys() - set(ConfiguredPrice._fields)
        if not re.fullmatch(PRICED_MODEL, name.strip()) or unknown or "input" not in given:
            raise ValueError(
                "must look like provider/model: input=0.15, cached_input=0.075, output=0.6, "
                f"max_output=16384; … ({entry!r} does not)"
            )
        try:
            most = given.pop("max_output", None)
            nano = {rate: money.to_nano(usd) for rate, usd in given.items()}
            prices[name.strip()] = ConfiguredPrice(
                nano["input"],
                nano.get("cached_input", nano["input"]),
                nano.get("output", 0),
                integer(1, 100_000_000)(most) if most else None,
            )
        except ValueError as error:
            raise ValueError(f"{entry!r}: {error}") from None
    return prices
