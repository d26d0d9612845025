"""The command line for operators: `flask keys …`, `flask accounts …`, `flask db …` and others."""

from __future__ import annotations

import click
from flask import Flask
from flask.cli import AppGroup


class _Commands(AppGroup):
    """Weir's commands. They are imported when one is looked for: what serves needs none."""

    def list_commands(self, context: click.Context) -> list[str]:
        self._import()
        return super().list_commands(context)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        self._import()
        return super().get_command(context, name)

    def _import(self) -> None:
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

        for module in (keys, accounts, batches, usage, prices, database, settings, imports):
            self.add_command(module.group)
        self.add_command(doctor.command)
        self.add_command(worker.command)


def register(app: Flask) -> None:
    """Add Weir's commands to `flask`."""
    app.cli = _Commands(app.name)
