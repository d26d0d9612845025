"""Statements that are written often, compiled once and executed with plain tuples.

SQLAlchemy prepares every row of parameters anew, which took longer than the database's own work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, Dialect, Insert, Update

_Write = Insert | Update


def execute_rows(
    connection: Connection, statement: _Write, rows: Sequence[Mapping[str, Any]]
) -> None:
    """Execute a statement for each row. All rows have the names of the first, two or more.

    It should be the same object each time, as that is what finds the compiled one.
    """
    compiled = _compiled(statement, connection.dialect, tuple(rows[0]))
    parameters = [compiled.parameters(row) for row in rows]
    connection.exec_driver_sql(compiled.sql, parameters if len(rows) > 1 else parameters[0])


class _CompiledStatement:
    """The SQL of a statement for one driver, and how a row becomes its parameters."""

    def __init__(self, statement: _Write, dialect: Dialect, names: tuple[str, ...]) -> None:
        compiled = statement.compile(dialect=dialect, column_keys=names, for_executemany=True)
        ordered: list[str] = compiled.positiontup or []
        types = [compiled.binds[name].type.dialect_impl(dialect) for name in ordered]
        self.sql = str(compiled)
        self._values: Callable[[Mapping[str, Any]], tuple[Any, ...]] = itemgetter(*ordered)
        self._processors = [
            (position, processor)
            for position, type_ in enumerate(types)
            if (processor := type_.bind_processor(dialect))
        ]

    def parameters(self, row: Mapping[str, Any]) -> tuple[Any, ...]:
        values = self._values(row)
        if not self._processors:
            return values
        processed = list(values)
        for position, process in self._processors:
            processed[position] = process(values[position])
        return tuple(processed)


@lru_cache
def _compiled(statement: _Write, dialect: Dialect, names: tuple[str, ...]) -> _CompiledStatement:
    return _CompiledStatement(statement, dialect, names)
