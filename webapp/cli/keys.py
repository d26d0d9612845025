"""`flask keys create|list|show|rotate|revoke|set-tier|set-budget|import`: API keys by hand."""

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
from webapp.accounts.key_changes import DEFAULT_GRACE, ORIGINS, STATES, NewKey
from webapp.cli.ready import ACTOR, ready, show
from webapp.services import services

group = AppGroup("keys", help="API keys.")

DURATION = re.compile(r"(\d{1,5})([smhd])")
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
IMPORTED = ("name", "tier", "owner", "limits", "expires_at", "key", "sha256")


class Moment(click.ParamType[datetime]):
    """A date, a moment in ISO 8601, or a time from now such as 30d."""

    name = "moment"

    def convert(self, value: Any, param: Any, ctx: Any) -> datetime:
        if found := DURATION.fullmatch(str(value)):
            return datetime.now(UTC) + timedelta(**{UNITS[found[2]]: int(found[1])})
        try:
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(f"{value!r} is neither a date nor a time such as 30d.", param, ctx)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _limits(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, Any]:
    given = dict(value.partition("=")[::2] for value in values)
    try:
        # An empty value takes the limit away.
        allowance.parse_overrides({name: value or None for name, value in given.items()})
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    return {name: value or None for name, value in given.items()}


limits_option = click.option(
    "--set", "limits", multiple=True, callback=_limits, metavar="LIMIT=VALUE",
    help=f"Instead of the tier's: any of {', '.join(allowance.OVERRIDES)}; empty takes it away.",
)  # fmt: skip


@group.command("create")
@click.argument("name")
@click.option("--tier", default="free", show_default=True, help="One of the tiers of TIERS.")
@click.option("--owner", help="The account that it belongs to.")
@click.option("--expires", type=Moment(), help="2027-01-31, or 30d.")
@limits_option
@ready
def create(
    name: str, tier: str, owner: str | None, expires: datetime | None, limits: dict[str, Any]
) -> None:
    """Create a key called NAME and print it. It is not kept and cannot be shown again."""
    key, secret = services().key_changes.create(ACTOR, NewKey(name, tier, owner, limits, expires))
    click.echo(f"Key {key['id']} ({name}, {tier}). Keep it, it is shown only now:", err=True)
    click.echo(secret)


@group.command("list")
@click.option("--owner", help="Only the keys of this account.")
@click.option("--origin", type=click.Choice(ORIGINS), help="Only those of API_KEYS, or the others.")
@click.option("--state", type=click.Choice(STATES), help="Only the keys in this state.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@ready
def list_all(owner: str | None, origin: str | None, state: str | None, as_json: bool) -> None:
    """List all keys, without their secrets."""
    keys = services().key_changes.all(owner=owner, origin=origin, state=state)
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
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@ready
def show_one(key_id: int, as_json: bool) -> None:
    """Show the key with this id."""
    facts = services().key_changes.show(key_id)
    if as_json:
        click.echo(json.dumps(facts, indent=2))
    else:
        show(facts)


@group.command("rotate")
@click.argument("key_id", type=int)
@click.option("--grace", default=DEFAULT_GRACE, show_default=True, help="Seconds for the old one.")
@ready
def rotate(key_id: int, grace: int) -> None:
    """Print a new secret for a key. The one before works for the grace period too."""
    _, secret = services().key_changes.rotate(ACTOR, key_id, grace)
    click.echo(f"Key {key_id} has a new secret. It is shown only now:", err=True)
    click.echo(secret)


@group.command("revoke")
@click.argument("key_id", type=int)
@ready
def revoke(key_id: int) -> None:
    """Revoke the key with this id (see `flask keys list`). It stops everywhere within 5 s."""
    services().key_changes.revoke(ACTOR, key_id)
    click.echo(f"Key {key_id} is revoked. It stops working everywhere within 5 seconds.")


@group.command("set-tier")
@click.argument("key_id", type=int)
@click.argument("tier")
@ready
def set_tier(key_id: int, tier: str) -> None:
    """Move a key to another TIER."""
    show(services().key_changes.change(ACTOR, key_id, {"tier": tier}))


@group.command("set-limits")
@click.argument("key_id", type=int)
@limits_option
@ready
def set_limits(key_id: int, limits: dict[str, Any]) -> None:
    """Give a key limits of its own."""
    show(services().key_changes.change(ACTOR, key_id, {"limits": limits}))


@group.command("set-budget")
@click.argument("key_id", type=int)
@click.option("--per-day", "usd_per_day", metavar="USD", help="A UTC day; `none` takes it away.")
@click.option("--per-month", "usd_per_month", metavar="USD", help="A UTC month.")
@click.option("--increase", metavar="USD", help="More of each until --until; 0 ends it.")
@click.option("--until", type=Moment(), help="2027-01-31, or 2d.")
@ready
def set_budget(
    key_id: int,
    usd_per_day: str | None,
    usd_per_month: str | None,
    increase: str | None,
    until: datetime | None,
) -> None:
    """Give a key a budget of its own, or raise what it has for a while."""
    if until is not None and increase is None:
        raise click.UsageError("--until goes with --increase.")
    changes = services().key_changes
    budgets = {"usd_per_day": usd_per_day, "usd_per_month": usd_per_month}
    given = {name: None if usd == "none" else usd for name, usd in budgets.items() if usd}
    if not given and increase is None:
        raise click.UsageError("Give --per-day, --per-month or --increase.")
    if given:
        show(changes.change(ACTOR, key_id, {"limits": given}))
    if increase is not None:
        show(changes.increase_budget(ACTOR, key_id, increase, until))


@group.command("import")
@click.argument("file", type=click.File(encoding="utf-8-sig"))
@ready
def import_all(file: TextIO) -> None:
    """Create the keys of FILE: CSV with a header, or an object of JSON a line.

    Columns: name, and any of tier, owner, limits (usd_per_month=20,models=a|b), expires_at, key,
    sha256. With `key`, or `sha256` of it, clients keep the secret that they have; else one is made
    and printed. All or none.
    """
    keys = [_imported(line, row) for line, row in _rows(file)]
    for facts, secret in services().key_changes.create_all(ACTOR, keys):
        click.echo(f"{facts['id']}\t{facts['name']}\t{secret or facts['key']}")
    click.echo(f"{len(keys)} keys were created.", err=True)


def _rows(file: TextIO) -> Iterator[tuple[int, Any]]:
    """Each row with the number of its line."""
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
                raise click.ClickException(f"Line {line}: not JSON.") from None


def _imported(line: int, row: Any) -> NewKey:
    if not isinstance(row, dict):
        raise click.ClickException(f"Line {line}: not an object of JSON.")
    given = {name: value for name, value in row.items() if value not in (None, "")}
    unknown = given.keys() - set(IMPORTED)
    if unknown or "name" not in given:
        wrong = f"there is no column {min(unknown)!r}" if unknown else "it has no name"
        raise click.ClickException(f"Line {line}: {wrong}. Columns: {', '.join(IMPORTED)}.")
    limits = given.pop("limits", {})
    for name, value in given.items():
        if not isinstance(value, str):
            raise click.ClickException(f"Line {line}: {name} must be text.")
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
