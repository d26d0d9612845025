"""The figures of the dashboard: totals of a time range, compared with the range before.

Totals of whole UTC days are those of the usage reports; shorter ranges are sums of their steps.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from datetime import date
from functools import partial

from sqlalchemy import Connection, select

from webapp.accounts.account_table import accounts
from webapp.accounts.keys import api_keys
from webapp.metering.activity import DAY
from webapp.metering.counters import Sums, sums
from webapp.metering.latencies import LatencyFigures, read_latencies
from webapp.metering.ranges import Range, Window, unix_of
from webapp.metering.selected import Selected
from webapp.metering.totals import REFUSALS, WITHOUT_CALLS, UsageTotals
from webapp.observability.metrics import OTHER
from webapp.storage.database import Database

TOP_KEYS = 5
MAX_TARGETS = 40  # clients can name as many models as they like
EVERYTHING = Selected()


@dataclass(frozen=True, slots=True)
class TargetFigures:
    """The figures of a provider's model, and of each step. Both names are "" for requests that
    had no target; the model OTHER stands for all that have no figures of their own."""

    provider: str
    model: str
    total: UsageTotals
    steps: list[UsageTotals]


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of a range.

    `before` are the totals of the range before, scaled to the share of this range that is over;
    they are 0 where they are not stored any more. `steps` are (Unix seconds, totals). `top_keys`
    are the keys with most requests, or another field: (id, name, whether it is an account's own,
    totals). `targets` are sorted by cost, then requests.
    """

    now: UsageTotals
    before: UsageTotals
    steps: list[tuple[int, UsageTotals]]
    top_keys: list[tuple[int, str, bool, UsageTotals]]
    targets: list[TargetFigures]


class Overview:
    """Reads the figures from the counters. Methods may raise StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def figures(
        self, range_: Range, selected: Selected = EVERYTHING, *, top_by: str = "requests"
    ) -> Figures:
        """`top_by` is the field of the totals that ranks the top keys."""
        return self._database.read(
            lambda connection: _figures(connection, range_, selected, top_by)
        )

    def latencies(self, range_: Range, selected: Selected = EVERYTHING) -> LatencyFigures:
        return self._database.read(lambda connection: read_latencies(connection, range_, selected))

    def by_key(
        self, range_: Range, key_ids: Collection[int], fields: Collection[str] = WITHOUT_CALLS
    ) -> dict[int, UsageTotals]:
        """These totals of each of these keys that has any."""
        window = range_.window.totals

        def work(connection: Connection) -> dict[int, UsageTotals]:
            found = sums(connection, window, Selected(key_ids), "key_id", fields=fields)
            return {key_id: totals for (key_id,), totals in found.items()}

        return self._database.read(work)

    def steps_by_key(
        self, range_: Range, key_ids: Collection[int], fields: Collection[str] = WITHOUT_CALLS
    ) -> dict[int, list[UsageTotals]]:
        """As by_key(), for each step."""
        window = range_.window

        def work(connection: Connection) -> dict[int, list[UsageTotals]]:
            found: defaultdict[int, list[UsageTotals]] = defaultdict(partial(_empty, window))
            by = ("time", "key_id")
            read = sums(connection, window, Selected(key_ids), *by, fields=fields)
            for (at, key_id), totals in read.items():
                found[key_id][window.index(at)].add(totals)
            return dict(found)

        return self._database.read(work)

    def inputs(
        self, since: date, until: date, key_ids: Collection[int] | None = None
    ) -> list[tuple[str, str, int, int]]:
        """Provider, model, its input tokens and those of them that its provider's cache knew, of
        these UTC days, both included, and of these keys or of all; the largest inputs first."""
        window = Window(unix_of(since), unix_of(until) + DAY, DAY, DAY)
        fields = ("input_tokens", "cached_input_tokens")

        def work(connection: Connection) -> Sums:
            return sums(connection, window, Selected(key_ids), "provider", "model", fields=fields)

        found = sorted(
            self._database.read(work).items(), key=lambda entry: (-entry[1].input_tokens, entry[0])
        )
        return [
            (provider, model, totals.input_tokens, totals.cached_input_tokens)
            for (provider, model), totals in found
            if totals.input_tokens
        ]


def _figures(connection: Connection, range_: Range, selected: Selected, top_by: str) -> Figures:
    window = range_.window
    total = window.totals
    by_target = sums(connection, window, selected, "time", "provider", "model")
    steps = _steps(connection, window, selected, by_target)
    if total == window:
        now, of_targets = _sum(steps), _without_time(by_target)
    else:
        now = _total(connection, total, selected)
        of_targets = sums(connection, total, selected, "provider", "model")
    before = _total(connection, window.before.totals, selected)
    return Figures(
        now,
        before.scaled(range_.elapsed),
        list(zip(window.times, steps, strict=True)),
        _top_keys(connection, total, selected, top_by),
        _targets(window, of_targets, by_target),
    )


def _steps(
    connection: Connection, window: Window, selected: Selected, by_target: Sums
) -> list[UsageTotals]:
    """The totals of each step. Without a restriction to targets, the tables that have no targets
    are read for what they have: they are older than the others."""
    steps = _empty(window)
    read = by_target if selected.by_target else sums(connection, window, selected, "time")
    for (at, *_), totals in read.items():
        steps[window.index(at)].add(totals)
    return steps


def _total(connection: Connection, window: Window, selected: Selected) -> UsageTotals:
    """0 where not all of it is stored any more: a part would look like less."""
    return _sum(sums(connection, window, selected).values()) if window.is_stored else UsageTotals()


def _targets(window: Window, of_targets: Sums, by_step: Sums) -> list[TargetFigures]:
    """The largest by name, and for each provider the sum of its others."""
    largest = sorted(of_targets, key=lambda target: _size(of_targets[target]))
    shown_as: dict[tuple[str, ...], tuple[str, str]] = {
        (provider, model): (provider, model if place < MAX_TARGETS else OTHER)
        for place, (provider, model) in enumerate(largest)
    }
    found = {
        target: TargetFigures(*target, UsageTotals(), _empty(window))
        for target in dict.fromkeys(shown_as.values())
    }
    for target, totals in of_targets.items():
        found[shown_as[target]].total.add(totals)
    for (at, provider, model), totals in by_step.items():
        if shown := shown_as.get((provider, model)):
            found[shown].steps[window.index(at)].add(totals)
    return sorted(found.values(), key=lambda one: _size(one.total))


def _size(totals: UsageTotals) -> tuple[int, int, int]:
    return -totals.cost_nano, -totals.requests, -totals.calls


def _without_time(by_target: Sums) -> Sums:
    found: defaultdict[tuple[str, ...], UsageTotals] = defaultdict(UsageTotals)
    for (_, *target), totals in by_target.items():
        found[tuple(target)].add(totals)
    return found


def _top_keys(
    connection: Connection, window: Window, selected: Selected, by: str
) -> list[tuple[int, str, bool, UsageTotals]]:
    """The keys with most of a field: (id, name, whether it is an account's own, totals)."""
    fields = REFUSALS if by == "refused" else (by,)
    ranked = sums(connection, window, selected, "key_id", fields=fields)
    top_ids = [
        key_id for (key_id,), _ in sorted(ranked.items(), key=lambda entry: -getattr(entry[1], by))
    ][:TOP_KEYS]
    of_top = replace(selected, key_ids=top_ids)
    top = sums(connection, window, of_top, "key_id", fields=WITHOUT_CALLS)
    query = (
        select(api_keys.c.id, api_keys.c.name, accounts.c.id.is_not(None).label("is_account"))
        .outerjoin(accounts, accounts.c.key_id == api_keys.c.id)
        .where(api_keys.c.id.in_(top_ids))
    )
    found = {row.id: row for row in connection.execute(query)}
    return [
        (key_id, found[key_id].name, bool(found[key_id].is_account), top[(key_id,)])
        for key_id in top_ids
        if key_id in found
    ]


def _sum(parts: Iterable[UsageTotals]) -> UsageTotals:
    total = UsageTotals()
    for part in parts:
        total.add(part)
    return total


def _empty(window: Window) -> list[UsageTotals]:
    return [UsageTotals() for _ in window.times]
