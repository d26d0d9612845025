"""The table of figures: measured values and their targets."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

Format = Callable[[float], str]


def number(value: float) -> str:
    return f"{value:,.0f}"


def microseconds(value: float) -> str:
    return f"{value:,.0f} µs"


def milliseconds(value: float) -> str:
    return f"{value:,.1f} ms"


def seconds(value: float) -> str:
    return f"{value:.2f} s"


def megabytes(value: float) -> str:
    return f"{value / 1024 / 1024:.0f} MB"


def bytes_of(value: float) -> str:
    return f"{value:,.0f} B"


def decimal(value: float) -> str:
    return f"{value:,.1f}"


def times(value: float) -> str:
    return f"{value:.2f} ×"


def percent(value: float) -> str:
    return f"{value:.0%}"


def precise_percent(value: float) -> str:
    return f"{value:.1%}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table. A figure without a target has no result."""

    name: str
    value: float
    shown: Format
    least: float | None = None
    most: float | None = None

    @property
    def target(self) -> str:
        if self.least is not None:
            return f"≥ {self.shown(self.least)}"
        if self.most is not None:
            return self.shown(self.most) if not self.most else f"≤ {self.shown(self.most)}"
        return ""

    @property
    def result(self) -> str:
        if not self.target:
            return ""
        too_low = self.least is not None and self.value < self.least
        too_high = self.most is not None and self.value > self.most
        return "miss" if too_low or too_high else "pass"

    def line(self) -> str:
        return f"| {self.name} | {self.shown(self.value)} | {self.target} | {self.result} |"


def markdown(figures: Iterable[Figure]) -> str:
    head = ["| measure | figure | target | |", "|---|--:|--:|---|"]
    return "\n".join([*head, *(figure.line() for figure in figures)])


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a comparison: a value for each column, or None."""

    name: str
    values: tuple[float | None, ...]
    shown: Format

    def line(self) -> str:
        values = ("—" if value is None else self.shown(value) for value in self.values)
        return f"| {self.name} | {' | '.join(values)} |"


def comparison(columns: Iterable[str], rows: Iterable[Row]) -> str:
    names = list(columns)
    head = [f"| measure | {' | '.join(names)} |", f"|---|{'--:|' * len(names)}"]
    return "\n".join([*head, *(row.line() for row in rows)])
