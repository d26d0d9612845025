"""The prices of models: MODEL_PRICES, then the newer of the database's and the shipped table."""

from __future__ import annotations

import logging
import re
import time
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Column, Connection, Date, Float, String, Table, Text, func, select

from webapp import json_codec
from webapp.metering.makers import Maker
from webapp.metering.price import Price, free, make_price
from webapp.model_names import matches
from webapp.setting_parsers import PriceEntry, price_entry
from webapp.storage.database import Database, metadata, upsert

log = logging.getLogger(__name__)

FILE = Path(__file__).with_name("prices.toml")
# A version suffix of a model's name, which the table leaves out.
VERSION = re.compile(r"(-\d{4}-\d{2}-\d{2}|[-@]20\d{6}|-\d{4}|-latest)$")
CHECK_INTERVAL = 5.0  # seconds between two looks for new prices in the database

prices = Table(
    "prices",
    metadata,
    Column("provider", String(32), primary_key=True),
    Column("model", String(256), primary_key=True),
    # A JSON object of the fields of MODEL_PRICES.
    Column("entry", Text, nullable=False),
    Column("source", String(200), nullable=False),
    Column("source_date", Date, nullable=False),
    # Unix seconds.
    Column("updated_at", Float, nullable=False),
)

# The fields of a price by section and model, as text or numbers.
Sections = Mapping[str, Mapping[str, Mapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class Edition:
    """All prices of one source: `source` says which, `date` when they were true."""

    source: str
    date: date
    sections: Sections


class Found(NamedTuple):
    """A price in the tables: the fields of its entry."""

    section: str
    model: str
    fields: Mapping[str, Any]
    source: str


class PriceTable:
    """Finds the price of a model: first in `overrides` (`provider/model`, with wildcards).

    `makers` says whose prices each provider has. A provider that is not in it has no others.
    """

    def __init__(
        self,
        overrides: Mapping[str, PriceEntry],
        makers: Mapping[str, Maker | None],
        database: Database | None = None,
    ) -> None:
        # Exact names first, then patterns, the longest first.
        names = sorted(overrides, key=lambda name: ("*" in name, -len(name)))
        self.overrides = {name: overrides[name] for name in names}
        self._makers = makers
        self._database = database
        self._version: Any = None
        self._next_check = 0.0
        self._broken: set[tuple[str, str]] = set()
        self._use(None)

    def names(self, provider: str, kind: str) -> set[str]:
        """The models of a provider that have a price under their exact name."""
        priced = (name.partition("/") for name in self.overrides if "*" not in name)
        models = {model for owner, _, model in priced if owner == provider}
        maker = self._makers.get(provider)
        sections = maker.sections if maker else ()
        return models.union(
            *(edition.sections.get(name, {}) for edition in self.editions for name in sections)
        )

    def tick(self) -> None:
        """Look for new prices in the database, if due. Raises StoreUnavailable."""
        if time.monotonic() >= self._next_check:
            self.refresh()

    def refresh(self) -> None:
        """Take over the prices of the database, if they have changed. Raises StoreUnavailable."""
        if self._database is None:
            return
        self._next_check = time.monotonic() + CHECK_INTERVAL
        state = select(func.count(), func.max(prices.c.updated_at))
        version = self._database.read(lambda connection: connection.execute(state).one())
        if tuple(version) != self._version:
            rows = self._database.read(lambda connection: connection.execute(select(prices)).all())
            self._use(self._edition(rows))
            self._version = tuple(version)

    def _edition(self, rows: Any) -> Edition | None:
        sections: dict[str, dict[str, Mapping[str, Any]]] = {}
        for row in rows:
            try:
                fields = json_codec.loads(row.entry)
                price_entry(fields)
            except (ValueError, TypeError, AttributeError) as error:
                if (row.provider, row.model) not in self._broken:
                    self._broken.add((row.provider, row.model))
                    log.warning(
                        "The price of %s/%s in the database is skipped: %s",
                        row.provider, row.model, error,
                    )  # fmt: skip
                continue
            sections.setdefault(row.provider, {})[row.model] = fields
        newest = max(rows, key=lambda row: row.source_date, default=None)
        return newest and Edition(newest.source, newest.source_date, sections)

    def _use(self, imported: Edition | None) -> None:
        """Find prices in these tables from now on, in the newer one first."""
        editions = [imported, shipped()] if imported else [shipped()]
        self.editions = sorted(editions, key=lambda edition: edition.date, reverse=True)
        self.of = lru_cache(10_000)(partial(self._find, tuple(self.editions)))

    def _find(
        self, editions: tuple[Edition, ...], provider: str, kind: str, model: str
    ) -> Price | None:
        """The price of a model. `provider` is the configured name, `kind` the type of provider."""
        if provider == "offline":
            return free(provider)
        claude = kind.endswith("anthropic") or "claude" in model
        name = f"{provider}/{model}"
        for pattern, entry in self.overrides.items():
            if matches(name, pattern):
                return make_price(entry, "MODEL_PRICES", claude=claude)
        if kind == "local":
            return free(provider)
        maker = self._makers.get(provider)
        if maker is None:
            return None
        for edition in editions:
            for section in maker.sections:
                models = edition.sections.get(section, {})
                if fields := models.get(model) or models.get(VERSION.sub("", model)):
                    entry = price_entry(fields)
                    return make_price(entry, edition.source, claude=claude, regional=maker.regional)
        return None

    def listed(self) -> Iterator[Found]:
        """The prices in use of all sections, without MODEL_PRICES."""
        keys = {
            (section, model)
            for edition in self.editions
            for section, models in edition.sections.items()
            for model in models
        }
        for section, model in sorted(keys):
            for edition in self.editions:
                if fields := edition.sections.get(section, {}).get(model):
                    yield Found(section, model, fields, edition.source)
                    break


@cache
def shipped() -> Edition:
    """The table that comes with this version."""
    content = tomllib.loads(FILE.read_text(), parse_float=Decimal)
    source, dated = content.pop("source"), content.pop("date")
    sections = {
        section: {model: _flat(fields) for model, fields in models.items()}
        for section, models in content.items()
    }
    return Edition(f"{source} ({dated})", dated, sections)


def _flat(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The fields of nested tables, with dots in their names."""
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        nested = isinstance(value, dict)
        flat |= _flat(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return flat


def store(connection: Connection, edition: Edition) -> None:
    """Replace all prices in the database by these."""
    now = time.time()
    rows = [
        {
            "provider": section,
            "model": model,
            "entry": json_codec.dumps({name: str(v) for name, v in fields.items()}).decode(),
            "source": edition.source,
            "source_date": edition.date,
            "updated_at": now,
        }
        for section, models in sorted(edition.sections.items())
        for model, fields in sorted(models.items())
    ]
    insert = upsert(connection.dialect.name, prices)
    changed = {
        name: insert.excluded[name] for name in ("entry", "source", "source_date", "updated_at")
    }
    keys = list(prices.primary_key.columns)
    connection.execute(insert.on_conflict_do_update(index_elements=keys, set_=changed), rows)
    connection.execute(prices.delete().where(prices.c.updated_at != now))
