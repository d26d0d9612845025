"""Checks that migrations only add: a version must work on the schema of every later one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, MetaData, inspect, select, text

from tests.support.kept_database import migrate

LENGTH = re.compile(r"VARCHAR\((\d+)\)")


@dataclass(frozen=True)
class Table:
    """What a version relies on: columns by name, constraints and indexes, rows."""

    columns: dict[str, Any]
    rules: set[str]
    indexes: set[str]
    rows: list[str]


def broken_by(connection: Connection, folder: Path) -> list[str]:
    """Run the migrations of a folder one by one, and return what would break older versions."""
    broken = []
    for revision in later_revisions(connection, folder):
        before = _tables(connection)
        migrate(connection, revision, folder)
        after = _tables(connection, before)
        for name, table in before.items():
            found = _differences(table, after[name]) if name in after else iter(["is gone"])
            broken += [f"{revision}: {name} {difference}" for difference in found]
    return broken


def later_revisions(connection: Connection, folder: Path) -> list[str]:
    """The revisions of a folder that the database has not seen, in order."""
    current = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one()
    names = (path.stem for path in (folder / "versions").glob("[0-9]*.py"))
    return sorted(name for name in names if name > current)


def _differences(before: Table, after: Table) -> Iterator[str]:
    for name, column in before.columns.items():
        if name not in after.columns:
            yield f"has lost {name}"
        elif not _fits(column, after.columns[name]):
            yield f"has another {name}: {after.columns[name]} instead of {column}"
    for name, column in after.columns.items():
        if name not in before.columns and not column["nullable"] and column["default"] is None:
            yield f"has a new {name} that older versions do not fill"
    for rule in sorted(after.rules - before.rules):
        yield f"has a new rule: {rule}"
    for gone in sorted(before.rules - after.rules | before.indexes - after.indexes):
        yield f"has lost {gone}"
    if before.rows != after.rows:
        yield "has other rows"


def _fits(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Whether a column is the same, or a longer text: what an older version writes still fits."""
    lengths = [LENGTH.fullmatch(column["type"]) for column in (before, after)]
    if all(lengths) and int(lengths[0][1]) <= int(lengths[1][1]):  # type: ignore[index]
        return before | {"type": ""} == after | {"type": ""}
    return before == after


def _tables(connection: Connection, before: dict[str, Table] | None = None) -> dict[str, Table]:
    """All tables. Rows of tables in `before` have only the columns that they had there."""
    inspector = inspect(connection)
    metadata = MetaData()
    metadata.reflect(connection)
    tables = {}
    for name in sorted(set(inspector.get_table_names()) - {"alembic_version"}):
        columns = {
            column["name"]: {
                "type": str(column["type"]),
                "nullable": column["nullable"],
                "default": column["default"],
            }
            for column in inspector.get_columns(name)
        }
        known = before[name].columns if before and name in before else columns
        of_rows = [metadata.tables[name].c[one] for one in known if one in columns]
        found = connection.execute(select(*of_rows)).all() if of_rows else []
        indexes = [one for one in inspector.get_indexes(name) if not one["unique"]]
        tables[name] = Table(
            columns,
            set(_rules(inspector, name)),
            {f"the index {_written(one)}" for one in indexes},
            sorted(map(repr, found)),
        )
    return tables


def _rules(inspector: Any, table: str) -> Iterator[str]:
    """The constraints of a table."""
    yield f"the primary key {_written(inspector.get_pk_constraint(table))}"
    # PostgreSQL lists a unique constraint as an index too.
    for one in inspector.get_indexes(table):
        if one["unique"] and not one.get("duplicates_constraint"):
            yield f"unique {_written(one)}"
    for one in inspector.get_unique_constraints(table):
        yield f"unique {_written(one)}"
    for one in inspector.get_foreign_keys(table):
        yield f"references {_written(one)}"
    for one in inspector.get_check_constraints(table):
        yield f"the check {_written(one)}"


def _written(constraint: Any) -> str:
    return json.dumps(constraint, sort_keys=True, default=str)
