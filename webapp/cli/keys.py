"""`flask keys create|list|show|rotate|revoke|set-tier|set-limits|set-budget|import`."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, TextIO

import click
from flask.cli import AppGroup

from webapp import allowance
from webapp.accounts.key_changes import DEFAULT_GRACE, NewKey
from webapp.accounts.key_listing import ORIGINS, STATES
from webapp.cli.ready import ACTOR, ready, show
from webapp.services import services

group = AppGroup("keys", help="Manage API keys.")

DURATION = re.compile(r"(\d{1,5})([smhd])")
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
IMPORTED = ("name", "tier", "owner", "limits", "expires_at", "key", "sha256")


class Moment(click.ParamType[datetime]):
    """A date, an ISO 8601 date and time, or a duration from now such as 30d."""

    name = "moment"

    def convert(self, value: Any, param: Any, ctx: Any) -> datetime:
        if found := DURATION.fullmatch(str(value)):
            return datetime.now(UTC) + timedelta(**{UNITS[found[2]]: int(found[1])})
        try:
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(f"{value!r} is neither a date nor a duration such as 30d.", param, ctx)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _limits(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, Any]:
    given = dict(value.partition("=")[::2] for value in values)
    try:
        # An empty value removes the limit.
        allowance.parse_overrides({name: value or None for name, value in given.items()})
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    return {name: value or None for name, value in given.items()}


limits_option = click.option(
    "--set", "limits", multiple=True, callback=_limits, metavar="LIMIT=VALUE",
    help=f"Override a tier limit: {', '.join(allowance.OVERRIDES)}. Empty removes it.",
)  # fmt: skip


@group.command("create")
@click.argument("name")
@click.option("--tier", default="free", show_default=True, help="A tier of TIERS.")
@click.option("--owner", help="The account that owns the key.")
@click.option("--expires", type=Moment(), help="2027-01-31, or 30d.")
@limits_option
@ready
def create(
    name: str, tier: str, owner: str | None, expires: datetime | None, limits: dict[str, Any]
) -> None:
    """Create a key called NAME and print its secret, which cannot be shown again."""
    key, secret = services().key_changes.create(ACTOR, NewKey(name, tier, owner, limits, expires))
    click.echo(
        f"Created key {key['id']} ({name}, {tier}). The secret is shown only once:", err=True
    )
    click.echo(secret)


@group.command("list")
@click.option("--owner", help="Only keys of this account.")
@click.option(
    "--origin",
    type=click.Choice(ORIGINS),
    help="Only keys set in API_KEYS (settings), or the others (operator).",
)
@click.option("--state", type=click.Choice(STATES), help="Only keys in this state.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@ready
def list_all(owner: str | None, origin: str | None, state: str | None, as_json: bool) -> None:
    """List all keys, without their secrets."""
    keys = services().key_listing.all(owner=owner, origin=origin, state=state)
    if as_json:
        click.echo(json.dumps(keys, indent=2))
        return
    click.echo(
        f"{'id':>4}  {'key':<14}{'tier':<12}{'origin':<10}{'state':<9}{'owner':<12}name  limits"
    )
    for key in keys:
        limits = " ".join(f"{name}={value}" for name, value in key["limits"].items())
        click.echo(
            f"{key['id']:>4}  {key['key']:<14}{key['tier']:<12}{key['origin']:<10}"
            f"{key['state']:<9}{key['owner'] or '-':<12}{key['name']}  {limits}".rstrip()
        )


@group.command("show")
@click.argument("key_id", type=int)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@ready
def show_one(key_id: int, as_json: bool) -> None:
    """Show the key with this id."""
    key = services().key_listing.show(key_id)
    if as_json:
        click.echo(json.dumps(key, indent=2))
    else:
        show(key)


@group.command("rotate")
@click.argument("key_id", type=int)
@click.option(
    "--grace",
    default=DEFAULT_GRACE,
    show_default=True,
    help="Seconds during which the old secret stays valid.",
)
@ready
def rotate(key_id: int, grace: int) -> None:
    """Rotate a key and print its new secret. The old one is valid for the grace period."""
    _, secret = services().key_changes.rotate(ACTOR, key_id, grace)
    click.echo(f"Rotated key {key_id}. The new secret is shown only once:", err=True)
    click.echo(secret)


@group.command("revoke")
@click.argument("key_id", type=int)
@ready
def revoke(key_id: int) -> None:
    """Revoke a key by id (see `flask keys list`). It is refused everywhere within 5 seconds."""
    services().key_changes.revoke(ACTOR, key_id)
    click.echo(f"Key {key_id} revoked. It is refused everywhere within 5 seconds.")


@group.command("set-tier")
@click.argument("key_id", type=int)
@click.argument("tier")
@ready
def set_tier(key_id: int, tier: str) -> None:
    """Set the tier of a key."""
    show(services().key_changes.change(ACTOR, key_id, {"tier": tier}))


@group.command("set-limits")
@click.argument("key_id", type=int)
@limits_option
@ready
def set_limits(key_id: int, limits: dict[str, Any]) -> None:
    """Override limits of a key's tier."""
    show(services().key_changes.change(ACTOR, key_id, {"limits": limits}))


@group.command("set-budget")
@click.argument("key_id", type=int)
@click.option(
    "--per-day", "usd_per_day", metavar="USD", help="Budget per UTC day; `none` removes it."
)
@click.option(
    "--per-month", "usd_per_month", metavar="USD", help="Budget per UTC month; `none` removes it."
)
@click.option(
    "--increase", metavar="USD", help="Increase each budget until --until; 0 ends the increase."
)
@click.option("--until", type=Moment(), help="2027-01-31, or 2d.")
@ready
def set_budget(
    key_id: int,
    usd_per_day: str | None,
    usd_per_month: str | None,
    increase: str | None,
    until: datetime | None,
) -> None:
    """Set the budgets of a key, or increase them temporarily."""
    if until is not None and increase is None:
        raise click.UsageError("--until requires --increase.")
    changes = services().key_changes
    budgets = {"usd_per_day": usd_per_day, "usd_per_month": usd_per_month}
    given = {name: None if usd == "none" else usd for name, usd in budgets.items() if usd}
    if not given and increase is None:
        raise click.UsageError("Set --per-day, --per-month or --increase.")
    if given:
        show(changes.change(ACTOR, key_id, {"limits": given}))
    if increase is not None:
        show(changes.increase_budget(ACTOR, key_id, increase, until))


@group.command("import")
@click.argument("file", type=click.File(encoding="utf-8-sig"))
@ready
def import_all(file: TextIO) -> None:
    """Create the keys of FILE: CSV with a header, or one JSON object per line.

    Columns: name, and any of tier, owner, limits (usd_per_month=20,models=a|b), expires_at, key,
    sha256. With `key`, or its `sha256`, clients keep their present secret; otherwise a new one is
    created and printed. Creates all keys or none.
    """
    keys = [_imported(line, row) for line, row in _rows(file)]
    for key, secret in services().key_changes.create_all(ACTOR, keys):
        click.echo(f"{key['id']}\t{key['name']}\t{secret or key['key']}")
    click.echo(f"{len(keys)} keys created.", err=True)


def _rows(file: TextIO) -> Iterator[tuple[int, Any]]:
    """Each row with its line number."""
    try:
        text = file.read()
    except UnicodeDecodeError:
        raise click.ClickException(f"{file.name} is not UTF-8.") from None
    if not text.lstrip().startswith("{"):
        reader = csv.DictReader(io.StringIO(text), restkey="values beyond the header")
        try:
            for row in reader:
                yield reader.line_num, row
        except csv.Error as error:
            raise click.ClickException(f"Line {reader.line_num}: {error}.") from None
        return
    for line, entry in enumerate(text.split("\n"), 1):
        if entry.strip():
            try:
                yield line, json.loads(entry)
            except ValueError:
                raise click.ClickException(f"Line {line}: invalid JSON.") from None


def _imported(line: int, row: Any) -> NewKey:
    if not isinstance(row, dict):
        raise click.ClickException(f"Line {line}: not a JSON object.")
    given = {name: value for name, value in row.items() if value not in (None, "")}
    unknown = given.keys() - set(IMPORTED)
    if unknown or "name" not in given:
        problem = f"unknown column {min(unknown)!r}" if unknown else "name is missing"
        raise click.ClickException(f"Line {line}: {problem}. Columns: {', '.join(IMPORTED)}.")
    limits = given.pop("limits", {})
    for name, value in given.items():
        if not isinstance(value, str):
            raise click.ClickException(f"Line {line}: {name} must be a string.")
    try:
        if isinstance(limits, str):
            limits = allowance.shown(allowance.parse_text(limits))
        if not isinstance(limits, dict):
            raise ValueError("limits must be an object")
        expires = given.get("expires_at")
        return NewKey(
            given["name"],
            given.get("tier", "free"),
            given.get("owner"),
            limits,
            Moment().convert(expires, None, None) if expires else None,
            given.get("key"),
            given.get("sha256"),
            line,
        )
    except (ValueError, click.BadParameter) as error:
        raise click.ClickException(f"Line {line}: {error}") from None
