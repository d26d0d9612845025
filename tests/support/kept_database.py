"""Stored databases of older versions: tests/fixtures/schema_NNNN, for SQLite and PostgreSQL.

Each holds the rows of all tables (rows.jsonl) and the secrets of its keys (secrets.json), written
by `python -m scripts.schema_fixture` when its schema was the newest. Never write one anew: the
version that did it is gone.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, MetaData, Table, create_engine, insert, select, text

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
MIGRATIONS = Path(__file__).resolve().parents[2] / "migrations"


def engine_of(url: str) -> Engine:
    return create_engine(url.replace("postgresql://", "postgresql+psycopg://"))


def migrate(connection: Connection, revision: str, folder: Path = MIGRATIONS) -> None:
    """Bring the database to a revision, as webapp/storage/migrations.py does."""
    config = Config()
    config.set_main_option("script_location", str(folder))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def load(url: str, revision: str) -> dict[str, str]:
    """Fill an empty database with the stored rows of a revision. Returns the secrets by name."""
    folder = folder_of(revision)
    engine = engine_of(url)
    with engine.begin() as connection:
        migrate(connection, revision)
        tables = _tables(connection)
        for table in tables.values():
            connection.execute(table.delete())
        for line in (folder / "rows.jsonl").read_text().splitlines():
            name, row = json.loads(line)
            columns = tables[name].columns
            values = {key: _read(columns[key].type.python_type, row[key]) for key in row}
            connection.execute(insert(tables[name]).values(values))
        if connection.dialect.name == "postgresql":
            _continue_sequences(connection, tables)
    engine.dispose()
    secrets: dict[str, str] = json.loads((folder / "secrets.json").read_text())
    return secrets


def save(url: str, revision: str, secrets: dict[str, str]) -> Path:
    """Store all rows of a database. Returns the folder."""
    folder = folder_of(revision)
    folder.mkdir(parents=True)
    engine = engine_of(url)
    with engine.connect() as connection:
        lines = [json.dumps(one, default=_written) for one in _rows(connection)]
    engine.dispose()
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "secrets.json").write_text(json.dumps(secrets, indent=2) + "\n")
    return folder


def folder_of(revision: str) -> Path:
    return FIXTURES / f"schema_{revision[:4]}"


def _rows(connection: Connection) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, table in sorted(_tables(connection).items()):
        query = select(table).order_by(*table.primary_key.columns)
        for row in connection.execute(query).mappings():
            yield name, dict(row)


def _tables(connection: Connection) -> dict[str, Table]:
    """The tables of the database itself: those of the code may have later columns."""
    metadata = MetaData()
    metadata.reflect(connection)
    tables = dict(metadata.tables)
    del tables["alembic_version"]
    return tables


def _continue_sequences(connection: Connection, tables: dict[str, Table]) -> None:
    """Let sequences continue after the inserted ids."""
    for table in tables.values():
        counted = "pg_get_serial_sequence(:name, 'id')"
        newest = f"(SELECT max(id) FROM {table.name})"
        if "id" in table.columns:
            statement = f"SELECT setval({counted}, {newest}) WHERE {newest} > 0"
            if connection.execute(text(f"SELECT {counted}"), {"name": table.name}).scalar():
                connection.execute(text(statement), {"name": table.name})


def _written(value: Any) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    assert isinstance(value, date), value
    return value.isoformat()


def _read(kind: type, value: Any) -> Any:
    if value is None:
        return None
    if kind is bytes:
        return base64.b64decode(value)
    if issubclass(kind, date):
        return (datetime if kind is datetime else date).fromisoformat(value)
    return value
