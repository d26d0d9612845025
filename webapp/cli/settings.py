"""`flask settings`: the table of all settings, as docs/settings.md shows it."""

from __future__ import annotations

import click
from flask.cli import AppGroup

from webapp import settings

INTRODUCTION = """\
# Settings

Environment variables. A bad value stops the start with a message that names it.
This page is printed by `flask settings table`.
"""

group = AppGroup("settings", help="Show the settings.")


@group.command("table")
def table() -> None:
    """Print docs/settings.md: all settings as a Markdown table."""
    click.echo(INTRODUCTION)
    click.echo("| variable | default | meaning |\n|---|---|---|")
    for declared in settings.table():
        data = declared.metadata
        shown = data["shown"]
        default = shown if " " in shown or "`" in shown or shown == "none" else f"`{shown}`"
        meaning = data["meaning"].replace("|", "\\|")
        click.echo(f"| `{data['variable']}` | {default} | {meaning} |")
