"""What commands share: naming and migration of the database, printing of errors and objects."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import click

from webapp.accounts.audit import Actor
from webapp.errors import StoreUnavailable, ValidationError, WeirError
from webapp.services import services
from webapp.storage import migrations
from webapp.storage.database import Database

ACTOR = Actor("cli")

Command = TypeVar("Command", bound=Callable[..., Any])


def ready(command: Command) -> Command:
    """Migrate the database before a command, as it may run before the first start of Weir."""

    @wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        name_database()
        try:
            migrations.upgrade(services().database)
            return command(*args, **kwargs)
        except StoreUnavailable:
            raise click.ClickException(unavailable(services().database)) from None
        except migrations.UnknownRevision as error:
            raise click.ClickException(str(error)) from None
        except WeirError as error:
            raise click.ClickException(_message(error)) from None

    return cast(Command, wrapper)


def name_database() -> None:
    """Say which database a command works on: the settings of a shell may differ from Weir's."""
    click.echo(f"Database: {services().database.shown}", err=True)


def unavailable(database: Database) -> str:
    """What a command says when the database has failed."""
    if problem := database.problem:
        return f"The database refuses to write: {problem.found}. {problem.advice}"
    return "The database is unreachable. Check DATABASE_URL."


def _message(error: WeirError) -> str:
    # Other errors than those of validation have figures as details.
    if not isinstance(error, ValidationError) or not error.details:
        return error.message
    return "; ".join(f"{name}: {' '.join(messages)}" for name, messages in error.details.items())


def show(fields: dict[str, Any]) -> None:
    """Print an object, one line per field."""
    for name, value in fields.items():
        click.echo(f"{name + ':':<17}{value if isinstance(value, str) else json.dumps(value)}")
