"""The command line for operators: `flask keys …`, `flask accounts …`, `flask db …` and others."""

from __future__ import annotations

from flask import Flask

from webapp.cli import (
    accounts,
    batches,
    database,
    doctor,
    imports,
    keys,
    prices,
    settings,
    usage,
    worker,
)


def register(app: Flask) -> None:
    """Add Weir's commands to `flask`."""
    for module in (keys, accounts, batches, usage, prices, database, settings, imports):
        app.cli.add_command(module.group)
    app.cli.add_command(doctor.command)
    app.cli.add_command(worker.command)
