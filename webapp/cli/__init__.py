"""The command line for operators: `flask keys …`, `flask accounts …`, `flask db …` and others."""

from __future__ import annotations

from flask import Flask

from webapp.cli import accounts, database, doctor, keys, settings, usage


def register(app: Flask) -> None:
    """Add Weir's commands to `flask`."""
    for group in (keys.group, accounts.group, usage.group, database.group, settings.group):
        app.cli.add_command(group)
    app.cli.add_command(doctor.command)
