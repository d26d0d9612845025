"""Finds and counts requests in the request log, and what the latest of them name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Connection, Select, cast, func, not_, or_, select

from webapp.accounts.keys import api_keys
from webapp.llm.messages import CacheState
from webapp.metering.calls import ledger
from webapp.metering.request_log import MAX_REQUEST_ID_LENGTH, MODELS, requests
from webapp.metering.request_outcome import CONDITIONS, Outcome
from webapp.metering.timeline import TOLERANCE
from webapp.storage.database import Database

# Rows are written up to a second after the request ended, or later after an outage: then those of
# one worker follow those of another. Of a period of at most EXACT_PERIOD all are looked at.
MAX_WRITE_DELAY = 60.0  # seconds
EXACT_PERIOD = 1_800.0  # seconds
READ_BATCH = 1_000
# A page reads at most this many rows, even if few of them match.
MAX_ROWS_SCANNED = 100_000
MAX_COUNTED = 10_000
NAMES_BATCH = 5_000
MAX_NAMES = 100  # of a kind
# Values of the filter by cache: answered from it, as the counters count hits, and not.
CACHED, UNCACHED = "cached", "uncached"
_FROM_CACHE = [str(state) for state in CacheState if state.from_cache]


# A request that failed does not know what its calls cost: some end after it. The ledger does.
def _with_calls(name: str, of_call: ColumnElement[Any]) -> ColumnElement[Any]:
    """A column of requests, where it is empty the sum of the request's calls."""
    began = requests.c.at - requests.c.milliseconds / 1000 - TOLERANCE
    calls = select(func.sum(of_call)).where(
        ledger.c.request_id == requests.c.request_id,
        ledger.c.key_id == requests.c.key_id,
        ledger.c.reserved_at.between(began, requests.c.at + TOLERANCE),
    )
    total = func.coalesce(requests.c[name], calls.correlate(requests).scalar_subquery())
    return cast(total, BigInteger).label(name)


_COLUMNS = {
    **requests.columns,
    "cost_nano": _with_calls("cost_nano", ledger.c.cost_nano),
    "tokens": _with_calls("tokens", ledger.c.input_tokens + ledger.c.output_tokens),
}
LISTED = [column for name, column in _COLUMNS.items() if name not in {"prompt", "answer"}]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Filters for requests; None matches all, and the provider "" requests that had none. `model`
    is that of the target, or what the client or the provider called it. `cache` is an X-Cache
    value, CACHED or UNCACHED. Of a time, `since` is included and `until` is not."""

    key_ids: Collection[int] | None = None
    endpoint: str | None = None
    provider: str | None = None
    model: str | None = None
    cache: str | None = None
    status: int | None = None
    outcomes: Collection[Outcome] | None = None
    since: float | None = None
    until: float | None = None

    @property
    def needs_search(self) -> bool:
        filters = (
            self.endpoint, self.provider, self.model, self.cache, self.status, self.outcomes,
        )  # fmt: skip
        several_keys = self.key_ids is not None and len(self.key_ids) > 1
        return several_keys or any(value is not None for value in filters)


@dataclass(frozen=True, slots=True)
class Page:
    """Rows, the newest first. `older` and `newer` are the ids before and after which the next pages
    begin; None at the end.

    `looked_back_to` is the time of the oldest row that was read, if the search ended early.
    """

    rows: list[Any]
    older: int | None
    newer: int | None = None
    looked_back_to: float | None = None


@dataclass(frozen=True, slots=True)
class Count:
    """The number of requests that match; at least so many if it is not `exact`."""

    number: int
    exact: bool


@dataclass(frozen=True, slots=True)
class Names:
    """What the latest requests name most often, each sorted."""

    key_ids: list[int]
    endpoints: list[str]
    providers: list[str]
    models: list[str]


class RequestSearch:
    """Reads the request log. Every method may raise StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(
        self,
        wanted: Wanted,
        *,
        before: int | None = None,
        after: int | None = None,
        count: int = 50,
    ) -> Page:
        """The newest requests; or those before the row with the id `before`, or next after `after`,
        unless that is the newest page."""

        def work(connection: Connection) -> Page:
            bottom, top = _ids_of_period(connection, wanted)
            if after is not None:
                page = _page_after(connection, wanted, max(bottom, after + 1), top, count)
                if page is not None:
                    return page
            page = _page_before(connection, wanted, bottom, min(top, before or top), count)
            if before is None:
                return page
            return replace(page, newer=page.rows[0].id if page.rows else before - 1)

        return self._database.read(work)

    def count(self, wanted: Wanted) -> Count:
        """How many requests match, of those that a page would read; at most MAX_COUNTED."""

        def work(connection: Connection) -> Count:
            bottom, top = _ids_of_period(connection, wanted)
            scanned = max(bottom, top - MAX_ROWS_SCANNED) if wanted.needs_search else bottom
            matching = select(requests.c.id).where(
                requests.c.id >= scanned, requests.c.id < top, *_conditions(wanted)
            )
            limited = matching.limit(MAX_COUNTED + 1).subquery()
            query = select(func.count()).select_from(limited)
            number = connection.execute(query).scalar_one()
            is_exact = number <= MAX_COUNTED and not _has_older(connection, scanned, bottom)
            return Count(min(number, MAX_COUNTED), is_exact)

        return self._database.read(work)

    def all(self, wanted: Wanted, limit: int) -> Iterator[Any]:
        """The newest requests, at most `limit`, read in short transactions."""
        before: int | None = None
        while limit > 0:
            page = self.page(wanted, before=before, count=min(limit, READ_BATCH))
            yield from page.rows
            limit -= len(page.rows)
            before = page.older
            if before is None:
                return

    def find_by_prefix(
        self, prefix: str, key_ids: Collection[int] | None, count: int = 50
    ) -> list[Any]:
        """The requests whose id begins so, sorted by id."""
        request_id = requests.c.request_id
        # `z` is the last of the characters of an id in every collation, so the index is used.
        query = select(*LISTED).where(
            request_id.between(prefix, prefix.ljust(MAX_REQUEST_ID_LENGTH, "z")),
            func.substr(request_id, 1, len(prefix)) == prefix,
        )
        if key_ids is not None:
            query = query.where(requests.c.key_id.in_(key_ids))
        query = query.order_by(request_id, requests.c.id.desc()).limit(count)
        return list(self._database.read(lambda connection: connection.execute(query).all()))

    def find(self, request_id: str, key_ids: Collection[int] | None) -> list[Any]:
        """The requests with this id, newest first: a client may use an id twice."""
        query = select(*_COLUMNS.values()).where(requests.c.request_id == request_id)
        if key_ids is not None:
            query = query.where(requests.c.key_id.in_(key_ids))
        newest = query.order_by(requests.c.id.desc()).limit(10)
        return list(self._database.read(lambda connection: connection.execute(newest).all()))

    def last_used(self, key_ids: Collection[int]) -> dict[int, float]:
        """Unix seconds of the last request of each key that has one in the log."""
        newest = (
            select(requests.c.at)
            .where(requests.c.key_id == api_keys.c.id)
            .order_by(requests.c.id.desc())
            .limit(1)
            .scalar_subquery()
        )
        query = select(api_keys.c.id, newest).where(api_keys.c.id.in_(key_ids))
        rows = self._database.read(lambda connection: connection.execute(query).all())
        return {key_id: at for key_id, at in rows if at is not None}

    def names(self, key_ids: Collection[int] | None) -> Names:
        """What the latest requests name, for the filters to offer."""

        def work(connection: Connection) -> Names:
            columns = (requests.c.key_id, requests.c.endpoint, requests.c.provider, *MODELS)
            latest = select(*columns)
            if key_ids is not None:
                latest = latest.where(requests.c.key_id.in_(key_ids), *_newest(connection))
            latest = latest.order_by(requests.c.id.desc()).limit(NAMES_BATCH)
            named = latest.subquery()
            rows = connection.execute(select(*named.c, func.count()).group_by(*named.c)).all()
            key_ids_found: set[int] = set()
            endpoints, providers, models = (Counter[str | None]() for _ in range(3))
            for key_id, endpoint, provider, *names, count in rows:
                key_ids_found.add(key_id)
                endpoints[endpoint] += count
                providers[provider] += count
                models.update(dict.fromkeys(names, count))
            found = (_most_frequent(names) for names in (endpoints, providers, models))
            return Names(sorted(key_ids_found), *found)

        return self._database.read(work)


def _most_frequent(names: Counter[str | None]) -> list[str]:
    """The names, at most MAX_NAMES, sorted: clients can send any model name."""
    named = (name for name, _ in names.most_common() if name is not None)
    return sorted(islice(named, MAX_NAMES))


def _newest(connection: Connection) -> list[Any]:
    """The condition that rows are among the newest: there is no index for several keys by id."""
    newest = connection.execute(select(func.max(requests.c.id))).scalar() or 0
    return [requests.c.id > newest - MAX_ROWS_SCANNED]


def _ids_of_period(connection: Connection, wanted: Wanted) -> tuple[int, int]:
    """The ids of the rows of a period are in `range(*ids)`: rows are written some time later."""
    if (
        wanted.since is not None
        and wanted.until is not None
        and wanted.until - wanted.since <= EXACT_PERIOD
    ):
        in_period = (requests.c.at >= wanted.since, requests.c.at < wanted.until)
        # In this order, as PostgreSQL else may go through the ids from the first one on.
        rows = select(requests.c.id).where(*in_period).order_by(requests.c.at).subquery()
        ids = select(func.min(rows.c.id), func.max(rows.c.id))
        first, last = connection.execute(ids).one()
        return first or 0, (last or 0) + 1
    # SQLite reads the whole table for both in one SELECT, and the ends of its index for each.
    ends = (select(end(requests.c.id)).scalar_subquery() for end in (func.min, func.max))
    bottom, last = connection.execute(select(*ends)).one()
    bottom, top = bottom or 0, (last or 0) + 1
    if wanted.until is not None:
        top = _first_id(connection, wanted.until + MAX_WRITE_DELAY) or top
    if wanted.since is not None:
        first = _first_id(connection, wanted.since - MAX_WRITE_DELAY)
        bottom = top if first is None else max(bottom, first)
    return bottom, top


def _page_before(connection: Connection, wanted: Wanted, bottom: int, top: int, count: int) -> Page:
    """The newest rows below `top`."""
    # There is an index for the rows of one key. Other filters read row by row.
    scanned = max(bottom, top - MAX_ROWS_SCANNED) if wanted.needs_search else bottom
    query = _within(wanted, scanned, top).order_by(requests.c.id.desc()).limit(count + 1)
    rows = list(connection.execute(query).all())
    if len(rows) > count:
        return Page(rows[:count], rows[count - 1].id)
    if not _has_older(connection, scanned, bottom):
        return Page(rows, None)
    oldest = select(requests.c.at).where(requests.c.id >= scanned).order_by(requests.c.id)
    looked_back_to = connection.execute(oldest.limit(1)).scalar()
    return Page(rows, scanned, looked_back_to=looked_back_to)


def _page_after(
    connection: Connection, wanted: Wanted, bottom: int, top: int, count: int
) -> Page | None:
    """The oldest rows from `bottom` on; None if newer ones than these are too few for a page."""
    scanned = min(top, bottom + MAX_ROWS_SCANNED) if wanted.needs_search else top
    query = _within(wanted, bottom, scanned).order_by(requests.c.id).limit(count + 1)
    rows = list(connection.execute(query).all())
    if len(rows) > count:
        rows, newer = rows[:count], rows[count - 1].id
    elif scanned < top:
        newer = scanned - 1
    else:
        return None
    return Page(rows[::-1], rows[0].id if rows else bottom, newer)


def _within(wanted: Wanted, bottom: int, top: int) -> Select[Any]:
    conditions = _conditions(wanted)
    return select(*LISTED).where(requests.c.id >= bottom, requests.c.id < top, *conditions)


def _has_older(connection: Connection, scanned: int, bottom: int) -> bool:
    """Whether there are rows from `bottom` to `scanned`."""
    older = select(requests.c.id).where(requests.c.id >= bottom, requests.c.id < scanned).limit(1)
    return scanned > bottom and connection.execute(older).first() is not None


def _first_id(connection: Connection, moment: float) -> int | None:
    """The id of the first row after a time (Unix seconds)."""
    later = select(requests.c.id).where(requests.c.at > moment).order_by(requests.c.at).limit(1)
    return connection.execute(later).scalar()


def _conditions(wanted: Wanted) -> list[Any]:
    equal = {
        name: value
        for name in ("endpoint", "provider", "cache", "status")
        if (value := getattr(wanted, name)) is not None
    }
    conditions: list[Any] = [_equals(name, value) for name, value in equal.items()]
    if wanted.model is not None:
        conditions.append(or_(*(column == wanted.model for column in MODELS)))
    if wanted.key_ids is not None:
        conditions.append(requests.c.key_id.in_(wanted.key_ids))
    if wanted.outcomes is not None:
        conditions.append(or_(*(CONDITIONS[outcome] for outcome in wanted.outcomes)))
    if wanted.since is not None:
        conditions.append(requests.c.at >= wanted.since)
    if wanted.until is not None:
        conditions.append(requests.c.at < wanted.until)
    return conditions


def _equals(name: str, value: Any) -> ColumnElement[bool]:
    column = requests.c[name]
    if name == "cache" and value in {CACHED, UNCACHED}:
        from_cache = func.coalesce(column, "").in_(_FROM_CACHE)
        return from_cache if value == CACHED else not_(from_cache)
    return column.is_(None) if value == "" else column == value
