"""The values of settings, and their parsers from the text of environment variables.

A parser returns the value, or raises a ValueError that describes a valid value.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from limits import RateLimitItem, parse_many

from webapp import base_url, money
from webapp.allowance import Allowance
from webapp.base_url import BaseURL
from webapp.model_names import NAME, UNQUOTED_NAME, UNQUOTED_PATTERN, hide_quoted, reveal

DEMO_KEYS = "Development:free:dev_key_123,Production:premium:prod_key_456"
DEMO_SECRETS = frozenset(entry.split(":")[2] for entry in DEMO_KEYS.split(","))
DEFAULT_TIERS = "free=5/minute;premium=20/minute;enterprise=1000/minute"
# In texts whose quoted separators are hidden: provider/model, with or without *weight.
ROUTED_MODEL = rf"([a-z][a-z0-9_-]{{0,31}})/({UNQUOTED_NAME})(?:\*(\d{{1,6}}))?"
PRICED_MODEL = rf"[a-z][a-z0-9_-]{{0,31}}/{UNQUOTED_PATTERN}"
# The fields of a price: of tokens, at a service tier and beyond a length of the input where these
# stand before it (priority.above_272000.output); a tier's factor stands for all that it leaves out.
TOKEN_RATES = (
    "input", "cached_input", "cache_write_5m", "cache_write_1h", "output", "audio_input",
    "audio_output",
)  # fmt: skip
TIER_RATE = re.compile(
    rf"(?:(?!standard|default)([a-z][a-z_]{{0,19}})\.)?(?:above_([1-9]\d{{0,8}})\.)?({'|'.join(TOKEN_RATES)})"
)
TIER_FACTOR = re.compile(r"(?!standard|default)([a-z][a-z_]{0,19})\.factor")
FEES = ("image", "web_search")
TOKEN_COUNTS = ("max_output", "context")


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
    address: BaseURL = BaseURL()
    api_key: str = field(default="", repr=False)
    prices: str = ""
    """`maker`: its base URL leads to the maker, whose prices it has."""

    @property
    def base_url(self) -> str:
        return self.address.url


# A price by its fields: rates in nano-USD per million tokens, fees in nano-USD each, factors in
# billionths, counts in tokens.
PriceEntry = dict[str, int]


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


def two_integers(least: int, most: int) -> Callable[[str], tuple[int, int]]:
    def parse(text: str) -> tuple[int, int]:
        first, _, second = text.partition(",")
        try:
            return integer(least, most)(first), integer(least, most)(second)
        except ValueError:
            raise ValueError(f"must be two whole numbers from {least} to {most}") from None

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


def files_url(text: str) -> str:
    """Where files lie. An object store has a bucket, a folder is absolute."""
    text = url("file", "database", "s3", "gs", "az")(text)
    scheme, _, place = text.partition("://")
    if scheme == "file" and (not place.startswith("/") or not place.strip("/")):
        raise ValueError("must name an absolute folder, as file:///folder")
    if scheme == "database" and place:
        raise ValueError("must be database:// alone, as the files lie in DATABASE_URL")
    if scheme in {"s3", "gs", "az"} and not place.partition("/")[0]:
        raise ValueError(f"must name a bucket or container, as {scheme}://bucket/prefix")
    return text


def api_key(text: str) -> str:
    """A provider's key, which a header must be able to carry."""
    if not re.fullmatch(r"[\x20-\x7e]*", text.strip()):
        raise ValueError("must be one line of ASCII characters")
    return text.strip()


def host(text: str) -> str:
    """An address, an IPv6 one without brackets, or a name."""
    bare = text.strip()
    if bare.startswith("[") and bare.endswith("]"):
        bare = bare[1:-1]
    with suppress(ValueError):
        if "%" not in bare:
            return str(ip_address(bare))
    # As in URLs, what has a number as its last label is no name.
    if bare and not re.fullmatch(r"(?!(?:.*\.)?\d+$)[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}", bare):
        raise ValueError("must be an IPv4 or IPv6 address, or a host name")
    return bare


def host_names(text: str) -> tuple[str, ...]:
    """Comma-separated names of hosts in lower case, `*.` before some."""
    names = tuple(filter(None, (part.strip().lower() for part in text.split(","))))
    for name in names:
        host(name.removeprefix("*."))
    return names


def provider_url(provider_type: str) -> Callable[[str], BaseURL]:
    return lambda text: base_url.parse(text, provider_type)


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
    for entry in filter(None, (part.strip() for part in hide_quoted(text).split(";"))):
        name, separator, targets = entry.partition("=")
        name = name.strip()
        parsed = [re.fullmatch(ROUTED_MODEL, target.strip()) for target in targets.split(">")]
        if not separator or not re.fullmatch(UNQUOTED_NAME, name) or not all(parsed):
            raise ValueError(
                "must look like name=provider/model>provider/model;…, with names in double quotes "
                f"where they have ; > = or * ({reveal(entry)!r} does not)"
            )
        if reveal(name) in routes:
            raise ValueError(f"must not name a route twice ({reveal(name)!r} is)")
        routes[reveal(name)] = tuple(
            RoutedModel(found[1], reveal(found[2]), int(found[3] or 0)) for found in parsed if found
        )
    return routes


def model_name(text: str) -> str:
    if text.strip() and not re.fullmatch(NAME, text.strip()):
        raise ValueError("must be a model's name: 1 to 256 visible ASCII characters")
    return text.strip()


def webhook_secret(text: str) -> bytes:
    """The bytes of a secret in the format of standardwebhooks.com."""
    try:
        secret = base64.b64decode(text.strip().removeprefix("whsec_"), validate=True)
    except ValueError:
        secret = b""
    if text.strip() and len(secret) < 16:
        raise ValueError("must be whsec_ and the base64 of at least 16 random bytes")
    return secret


def prices(text: str) -> dict[str, PriceEntry]:
    prices: dict[str, PriceEntry] = {}
    for entry in filter(None, (part.strip() for part in hide_quoted(text).split(";"))):
        name, separator, fields = entry.partition(": ")
        if not separator or not re.fullmatch(PRICED_MODEL, name.strip()):
            raise ValueError(
                "must look like provider/model: input=0.15, cached_input=0.075, output=0.6, "
                f"max_output=16384; … ({reveal(entry)!r} does not)"
            )
        given = [field.strip().partition("=")[::2] for field in fields.split(",")]
        try:
            prices[reveal(name.strip())] = price_entry(dict(given))
        except ValueError as error:
            raise ValueError(f"{reveal(entry)!r}: {error}") from None
    return prices


def price_entry(fields: Mapping[str, object]) -> PriceEntry:
    """A price of its fields, as text or numbers. Raises ValueError, which names the field."""
    entry: PriceEntry = {}
    for name, value in fields.items():
        try:
            if name in TOKEN_COUNTS:
                entry[name] = integer(1, 100_000_000)(str(value))
            elif name == "reasoning":
                entry[name] = flag(str(value))
            elif _is_price_field(name):
                entry[name] = money.to_nano(value)
            else:
                raise ValueError("is no field of a price")
        except ValueError as error:
            raise ValueError(f"{name} {error}") from None
    if "input" not in entry:
        raise ValueError("input must be given")
    return entry


def _is_price_field(name: str) -> bool:
    known = name in FEES or name == "regional"
    return bool(known or TIER_RATE.fullmatch(name) or TIER_FACTOR.fullmatch(name))
