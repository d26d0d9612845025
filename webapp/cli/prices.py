"""`flask prices update|list`: what models cost."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import gevent
from flask.cli import AppGroup
from sqlalchemy import Connection

from webapp.accounts import audit
from webapp.cli.ready import ACTOR, ready
from webapp.metering import price_import
from webapp.metering.prices import Edition, shipped, store
from webapp.providers.http import BROKEN, AnswerTooLong, Endpoint, RefusedByStatus
from webapp.services import services
from webapp.setting_parsers import price_entry

DOWNLOAD_TIMEOUT = 60.0  # seconds; the table has some megabytes

group = AppGroup("prices", help="List and update the prices of models.")


@group.command("update")
@click.argument("source", required=False, metavar="[FILE]")
@click.option("--date", "dated", type=click.DateTime(["%Y-%m-%d"]),
              help="The date of these prices. Default: today (UTC).")  # fmt: skip
@click.option("--yes", is_flag=True, help="Do not ask.")
@ready
def update(source: str | None, dated: datetime | None, yes: bool) -> None:
    """Read LiteLLM's table of prices, show what changes, and write it into the database.

    FILE is the table as JSON, or its URL; without one, the current table is downloaded. All
    replicas use the new prices within a minute. MODEL_PRICES still come first.
    """
    origin = "LiteLLM" if source is None else source.rpartition("/")[2]
    date = (dated or datetime.now(UTC)).date()
    try:
        table = _table(source or price_import.URL)
        edition = price_import.read(table, f"flask prices update: {origin} ({date})", date)
    except ValueError as error:
        raise click.ClickException(
            f"{source or 'LiteLLM'} is no table of prices: {error}"
        ) from None
    services().prices.refresh()
    changes = list(price_import.differences(services().prices, edition))
    for change in changes:
        click.echo(f"{change.kind:<8} {change.model}: {change.detail}")
    kinds = Counter[str](change.kind for change in changes)
    click.echo(", ".join(f"{kinds[kind]} {kind}" for kind in ("added", "changed", "removed")))
    if date < shipped().date:
        click.echo(f"The prices of this version are newer, and come first: {shipped().source}")
    if changes and not yes:
        click.confirm("Write these prices?", abort=True)
    services().database.write(lambda connection: _store(connection, edition, kinds))
    click.echo(f"Prices of {date} written.")


def _store(connection: Connection, edition: Edition, kinds: Counter[str]) -> None:
    after = {"source": edition.source, **kinds}
    store(connection, edition)
    audit.record(connection, ACTOR, "prices.update", "prices", None, after)


def _table(source: str) -> Any:
    """The JSON of a file or an address. Raises ValueError if it is none."""
    if not source.startswith(("http://", "https://")):
        try:
            return json.loads(Path(source).read_bytes())
        except OSError as error:
            raise click.ClickException(f"{source}: {error.strerror}") from None
    parts = urlsplit(source)
    endpoint = Endpoint(f"{parts.scheme}://{parts.netloc}", {}, DOWNLOAD_TIMEOUT)
    try:
        with gevent.Timeout(DOWNLOAD_TIMEOUT, TimeoutError("it took too long")):
            return endpoint.get(parts.path + (f"?{parts.query}" if parts.query else ""))
    except (*BROKEN, RefusedByStatus, AnswerTooLong, RuntimeError) as error:
        reason = str(error) or type(error).__name__
        raise click.ClickException(
            f"{parts.hostname} gave no prices: {reason}. Without access to it, download "
            f"{price_import.URL} elsewhere, and run flask prices update FILE."
        ) from None


@group.command("list")
@click.argument("pattern", default="*")
@ready
def show(pattern: str) -> None:
    """Print the prices in use, as in MODEL_PRICES, each with its source.

    PATTERN selects some by `provider/model`: openai/gpt-5*, or a part of the name.
    """
    table = services().prices
    table.refresh()
    wanted = pattern if "*" in pattern else f"*{pattern}*"
    lines = [
        (name, price_import.listed(entry), "MODEL_PRICES")
        for name, entry in table.overrides.items()
    ]
    lines += [
        (
            f"{found.section}/{found.model}",
            price_import.listed(price_entry(found.fields)),
            found.source,
        )
        for found in table.listed()
    ]
    for name, fields, source in lines:
        if fnmatchcase(name, wanted):
            click.echo(f"{name}: {fields}  # {source}")
