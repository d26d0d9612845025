"""`flask usage export`: usage and costs as CSV."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import click
from flask.cli import AppGroup

from webapp.cli.ready import ready
from webapp.metering.csv import lines
from webapp.metering.usage import DIMENSIONS, Selection
from webapp.services import services

group = AppGroup("usage", help="Export usage and costs.")


@group.command("export")
@click.option("--since", type=click.DateTime(["%Y-%m-%d"]), help="Default: 29 days before --until.")
@click.option("--until", type=click.DateTime(["%Y-%m-%d"]), help="Default: today (UTC).")
@click.option(
    "--by", default="day", show_default=True, help=f"Group by any of {','.join(DIMENSIONS)}."
)
@click.option("--rows", is_flag=True, help="Print every call of the ledger instead.")
@ready
def export(since: datetime | None, until: datetime | None, by: str, rows: bool) -> None:
    """Print usage as CSV: totals grouped by --by, or call by call."""
    last = (until or datetime.now(UTC)).date()
    first = since.date() if since else last - timedelta(days=29)
    names = by.split(",")
    if unknown := [name for name in names if name not in DIMENSIONS]:
        raise click.BadParameter(f"{unknown[0]!r} is not one of {', '.join(DIMENSIONS)}.")
    selection = Selection(first, last)
    result: Any = services().usage.report(selection, names)
    if rows:
        result = services().calls.of_days(first, last)
    for line in lines(result):
        click.echo(line, nl=False)
