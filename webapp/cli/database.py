"""`flask db upgrade`, the release step of a deployment, and `flask db backup`."""

from __future__ import annotations

from pathlib import Path

import click
from flask.cli import AppGroup

from webapp.cli.ready import name_database, unavailable
from webapp.errors import StoreUnavailable
from webapp.services import services
from webapp.storage import migrations
from webapp.storage.backup import BackupFailed, copy_sqlite

group = AppGroup("db", help="Migrate and back up the database.")


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


@group.command("backup")
@click.argument("file", type=click.Path(path_type=Path))
def backup(file: Path) -> None:
    """Copy the SQLite database into FILE, a new one, while Weir runs.

    For PostgreSQL it names the command of PostgreSQL that does so: docs/backup.md.
    """
    database = services().database
    if not database.is_sqlite:
        raise click.ClickException(
            "The database is PostgreSQL, which has its own command: "
            f'pg_dump --format=custom --file={file} "$DATABASE_URL"'
        )
    source = Path(database.url.database or "")
    if not source.exists():
        raise click.ClickException(f"There is no database {source} yet.")
    try:
        size = copy_sqlite(source, file)
    except BackupFailed as error:
        raise click.ClickException(f"No backup was made. {error}.") from None
    click.echo(f"Copied {source} into {file} ({size:,} bytes).")
