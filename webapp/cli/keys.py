"""`flask keys create|list|revoke`: API keys by hand."""

from __future__ import annotations

import click
from flask.cli import AppGroup

from webapp.errors import StoreUnavailable
from webapp.services import services
from webapp.storage import migrations

group = AppGroup("keys", help="API keys.")


@group.command("create")
@click.argument("name")
@click.option("--tier", default="free", show_default=True, help="One of the tiers of TIERS.")
def create(name: str, tier: str) -> None:
    """Create a key called NAME and print it. It is not kept and cannot be shown again."""
    tiers = services().settings.tiers
    if tier not in tiers:
        raise click.BadParameter(f"{tier!r} is not one of {', '.join(tiers)}.", param_hint="--tier")
    if not 1 <= len(name) <= 100 or not name.isprintable():
        raise click.BadParameter("must be 1 to 100 printable characters.", param_hint="NAME")
    _ready()
    key, secret = services().keys.create(name, tier)
    click.echo(f"Key {key.id} ({key.name}, {key.tier}). Keep it, it is shown only now:", err=True)
    click.echo(secret)


@group.command("list")
def list_all() -> None:
    """List all keys, without their secrets."""
    _ready()
    click.echo(f"{'id':>4}  {'key':<14}{'tier':<12}{'origin':<10}{'state':<9}name")
    for key in services().keys.all():
        state = "revoked" if key.revoked_at else "works"
        click.echo(f"{key.id:>4}  {key.mask:<14}{key.tier:<12}{key.origin:<10}{state:<9}{key.name}")


@group.command("revoke")
@click.argument("key_id", type=int)
def revoke(key_id: int) -> None:
    """Revoke the key with this id (see `flask keys list`). It stops everywhere within 5 s."""
    _ready()
    if not services().keys.revoke(key_id):
        raise click.ClickException(f"There is no working key with id {key_id}.")
    click.echo(f"Key {key_id} is revoked. It stops working everywhere within 5 seconds.")


def _ready() -> None:
    """Make sure the tables are there: a command may well come before the first start."""
    try:
        migrations.upgrade(services().database)
    except StoreUnavailable:
        raise click.ClickException(
            "The database cannot be reached. Is DATABASE_URL right?"
        ) from None
