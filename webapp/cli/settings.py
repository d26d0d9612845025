"""`flask settings table`: all settings, as the documentation shows them."""

from __future__ import annotations

import click
from flask.cli import AppGroup

from webapp import settings

group = AppGroup("settings", help="Show the settings.")


@group.command("table")
def table() -> None:
    """Print all settings as a Markdown table."""
    click.echo("| variable | default | meaning |\n|---|---|---|")
    for declared in settings.table():
        data = declared.metadata
        shown = data["shown"]
        default = shown if " " in shown or "`" in shown or shown == "none" else f"`{shown}`"
        meaning = data["meaning"].replace("|", "\\|")
        click.echo(f"| `{data['variable']}` | {default} | {meaning} |")
