"""`flask import litellm`: settings and keys of another gateway."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

import click
from flask.cli import AppGroup

from webapp import settings
from webapp.cli.ready import ACTOR, ready
from webapp.imports.document import DocumentError
from webapp.imports.litellm import keys as litellm_keys
from webapp.imports.litellm.conversion import Conversion, convert
from webapp.imports.litellm.keys import ImportedKeys, KeysError
from webapp.services import services
from webapp.settings import SettingsError

group = AppGroup("import", help="Take over the settings and keys of another gateway.")


@group.command("litellm")
@click.argument("config", type=click.File(encoding="utf-8-sig"), metavar="FILE")
@click.option(
    "--write",
    type=click.Path(path_type=Path),
    metavar="ENV_FILE",
    help="Write the settings into a new file, instead of printing them.",
)
@click.option(
    "--keys",
    "key_files",
    type=click.File(encoding="utf-8-sig"),
    multiple=True,
    metavar="JSON",
    help="The answer of LiteLLM's GET /key/list?return_full_object=true; one option for each page.",
)
@click.option(
    "--tier",
    default="enterprise",
    show_default=True,
    help="The tier of the keys. Their own limits override it.",
)
@click.option("--apply", is_flag=True, help="Create the keys of --keys in this Weir.")  # fmt: skip
def litellm(
    config: TextIO,
    write: Path | None,
    key_files: tuple[TextIO, ...],
    tier: str,
    apply: bool,
) -> None:
    """Turn LiteLLM's config.yaml (FILE) into Weir's settings.

    Prints the settings, and on standard error what has no counterpart. Changes nothing, unless
    --write or --apply say so. Clients keep the keys that they have.
    """
    if apply and not key_files:
        raise click.UsageError("--apply requires --keys.")
    try:
        conversion = convert(config.read())
    except (DocumentError, UnicodeDecodeError) as error:
        raise click.ClickException(f"{config.name} cannot be read: {error}") from None
    imported = _read_keys(key_files, tier, conversion.access_groups)
    _write(conversion, write)
    click.echo(conversion.report.text(), err=True)
    _check(conversion)
    if key_files:
        _tell(imported)
    if apply:
        _create(imported)


def _read_keys(
    files: tuple[TextIO, ...], tier: str, access_groups: Mapping[str, list[str]]
) -> ImportedKeys:
    try:
        return litellm_keys.read([file.read() for file in files], tier, access_groups)
    except (KeysError, UnicodeDecodeError) as error:
        raise click.ClickException(f"--keys: {error}.") from None


def _write(conversion: Conversion, file: Path | None) -> None:
    if file is None:
        click.echo(conversion.text, nl=False)
        return
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise click.ClickException(f"{file}: {error.strerror}.") from None
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(conversion.text)
    click.echo(f"Settings written to {file}, readable by you alone.\n", err=True)


def _check(conversion: Conversion) -> None:
    """Load the settings as Weir does at its start."""
    try:
        conversion.check(settings.environment(), str(services().settings.data_dir))
    except SettingsError as error:
        problems = "\n".join(f"  - {problem}" for problem in error.problems)
        raise click.ClickException(
            f"Weir would not start with these settings:\n{problems}"
        ) from None


def _tell(imported: ImportedKeys) -> None:
    click.echo(f"\nKeys: {len(imported.keys)} to create.", err=True)
    for name, note in imported.notes:
        click.echo(f"  - {name}: {note}.", err=True)


@ready
def _create(imported: ImportedKeys) -> None:
    """Create the keys that this Weir does not have yet, all or none."""
    known = [key for key in imported.keys if services().keys.find(key.sha256 or "")]
    new = [key for key in imported.keys if key not in known]
    for key, _ in services().key_changes.create_all(ACTOR, new):
        click.echo(f"Created key {key['id']} ({key['name']}, {key['tier']}).", err=True)
    click.echo(f"{len(new)} keys created, {len(known)} were here already.", err=True)
