"""Statements that are written often, compiled once and executed with plain tuples.

SQLAlchemy prepares every row of parameters anew, which took longer than the database's own work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, Dialect, Insert, Update, bindparam

_Write = Insert | Update
# Up to so many parameters, rows are inserted by one statement, which takes PostgreSQL's driver one
# round trip instead of three. It does not remember statements with more.
MAX_PARAMETERS = 50


def execute_rows(
    connection: Connection, statement: _Write, rows: Sequence[Mapping[str, Any]]
) -> None:
    """Execute a statement for each row. All rows have the names of the first, two or more.

    It should be the same object each time, as that is what finds the compiled one.
    """
    names = tuple(rows[0])
    together = isinstance(statement, Insert) and len(rows) * len(names) <= MAX_PARAMETERS
    compiled = _compiled(statement, connection.dialect, names, len(rows) if together else 1)
    parameters = [compiled.parameters(row) for row in rows]
    if together or len(rows) == 1:
        connection.exec_driver_sql(compiled.sql, tuple(chain.from_iterable(parameters)))
    else:
        connection.exec_driver_sql(compiled.sql, parameters)


class _CompiledStatement:
    """The SQL of a statement for one driver, and how a row becomes its parameters."""

    def __init__(
        self, statement: _Write, dialect: Dialect, names: tuple[str, ...], count: int
    ) -> None:
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
        if count > 1:
            assert isinstance(statement, Insert)
            several = [
                {
                    name: bindparam(f"{name}_{row}", type_=type_)
                    for name, type_ in zip(ordered, types, strict=True)
                }
                for row in range(count)
            ]
            self.sql = str(statement.values(several).compile(dialect=dialect))

    def parameters(self, row: Mapping[str, Any]) -> tuple[Any, ...]:
        values = self._values(row)
        if not self._processors:
            return values
        processed = list(values)
        for position, process in self._processors:
            processed[position] = process(values[position])
        return tuple(processed)


@lru_cache
def _compiled(
    statement: _Write, dialect: Dialect, names: tuple[str, ...], count: int
) -> _CompiledStatement:
    return _CompiledStatement(statement, dialect, names, count)
