"""`flask db upgrade`: the release step of a deployment."""

from __future__ import annotations

import click
from flask.cli import AppGroup

from webapp.cli.ready import name_database, unavailable
from webapp.errors import StoreUnavailable
from webapp.services import services
from webapp.storage import migrations

group = AppGroup("db", help="Manage the database schema.")


@group.command("upgrade")
def upgrade() -> None:
    """Migrate the database to the newest schema. Safe to run several times in parallel."""
    name_database()
    database = services().database
    try:
        changed = migrations.upgrade(database)
        revision = database.read(migrations.current)
    except migrations.UnknownRevision as error:
        raise click.ClickException(str(error)) from None
    except StoreUnavailable:
        raise click.ClickException(unavailable(database)) from None
    if migrations.is_later(revision):
        newest = migrations.head()
        click.echo(f"At {revision}, newer than this version's {newest}: nothing to do.")
    else:
        click.echo(f"{'Migrated to' if changed else 'Already at'} {revision}.")
