"""What the figures of the dashboard are restricted to."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Table


@dataclass(frozen=True, slots=True)
class Selected:
    """Keys, an endpoint, a provider and a model; None stands for all, the provider "" for none."""

    key_ids: Collection[int] | None = None
    endpoint: str | None = None
    provider: str | None = None
    model: str | None = None

    @property
    def by_target(self) -> bool:
        """Whether figures by key are not enough."""
        return any(value is not None for value in (self.endpoint, self.provider, self.model))

    def conditions(self, table: Table) -> list[Any]:
        conditions = [
            table.c[name].is_(None)
            if value == "" and table.c[name].nullable
            else table.c[name] == value
            for name in ("endpoint", "provider", "model")
            if (value := getattr(self, name)) is not None
        ]
        if self.key_ids is not None:
            conditions.append(table.c.key_id.in_(self.key_ids))
        return conditions
