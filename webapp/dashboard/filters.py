"""The filters of the overview and of the requests, as the query of a URL holds them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlencode

from flask import request, url_for

from webapp.accounts.keys import LARGEST_ID
from webapp.dashboard.pages import number_of
from webapp.dashboard.visibility import names_of_keys, visible_ids
from webapp.llm.messages import CacheState
from webapp.metering.ranges import RANGES
from webapp.metering.request_log import REPLAYED
from webapp.metering.request_outcome import Outcome
from webapp.metering.request_search import CACHED, UNCACHED
from webapp.services import services

# A select offers so many keys: all of them, or those with the latest requests.
MAX_KEYS = 300
CACHES = (CACHED, UNCACHED, *map(str, CacheState), REPLAYED)
OUTCOMES = {
    str(Outcome.SUCCESS): "Success",
    str(Outcome.ERROR): "Error",
    str(Outcome.REFUSED): "Refused",
    str(Outcome.INVALID): "Client error",
}
PERIOD = {"range", "since", "until"}
# Several outcomes, separated by commas: what the counters count as requests, and those of them
# that are no errors.
COUNTED = ",".join((Outcome.SUCCESS, Outcome.ERROR, Outcome.INVALID))
NO_ERROR = ",".join((Outcome.SUCCESS, Outcome.INVALID))
# The provider of requests that had none, in the URL. No provider's name has parentheses.
NO_PROVIDER = "(none)"


@dataclass(frozen=True, slots=True)
class Filters:
    """What the figures and the requests are restricted to; None does not restrict.

    `since` and `until` are Unix seconds; where one is set, `range` is None. `visible_ids` are the
    keys whose traffic the user can see; None means all. `outcome` may be several, separated by
    commas.
    """

    range: str | None = None
    since: float | None = None
    until: float | None = None
    key_id: int | None = None
    endpoint: str | None = None
    provider: str | None = None
    model: str | None = None
    outcome: str | None = None
    status: int | None = None
    cache: str | None = None
    visible_ids: Collection[int] | None = None

    @property
    def key_ids(self) -> Collection[int] | None:
        """The keys to select, None for all."""
        if self.key_id is None:
            return self.visible_ids
        return {self.key_id} if self.visible_ids is None else {self.key_id} & set(self.visible_ids)

    @property
    def texts(self) -> dict[str, str]:
        """What is set, by its name in the query."""
        values = {
            "range": self.range,
            "since": None if self.since is None else _iso_minute(self.since),
            "until": None if self.until is None else _iso_minute(self.until),
            "key": self.key_id,
            "endpoint": self.endpoint,
            "provider": self.provider,
            "model": self.model,
            "outcome": self.outcome,
            "status": self.status,
            "cache": self.cache,
        }
        return {name: str(value) for name, value in values.items() if value is not None}

    @property
    def has_period(self) -> bool:
        return bool(self.texts.keys() & PERIOD)

    @property
    def outcomes(self) -> list[str]:
        return self.outcome.split(",") if self.outcome else []

    @property
    def provider_name(self) -> str | None:
        """As stored: "" for none."""
        return "" if self.provider == NO_PROVIDER else self.provider

    @property
    def restricts(self) -> bool:
        """Whether anything but a time is selected."""
        return bool(self.texts.keys() - PERIOD)

    @property
    def needs_form(self) -> bool:
        """Whether something is selected that has no links of its own, as outcomes have."""
        return bool(self.texts.keys() - {"range", "outcome"})

    def query(self, **changes: str | float | None) -> dict[str, str]:
        """The query of a link: what is set, with these changes by name; None removes.

        Times are Unix seconds. A range removes `since` and `until`, and these remove a range.
        """
        query = self.texts
        if changes.get("range") is not None:
            changes = {"since": None, "until": None} | changes
        elif changes.get("since") is not None or changes.get("until") is not None:
            changes = {"range": None} | changes
        for name, value in changes.items():
            query.pop(name, None)
            if value is not None:
                is_time = name in {"since", "until"}
                query[name] = _iso_minute(float(value)) if is_time else str(value)
        return query

    def url(self, page: str, /, **changes: str | float | None) -> str:
        """The URL of a page with query(**changes): url_for() would take `endpoint` for its own."""
        return f"{url_for(page)}?{urlencode(self.query(**changes), safe=',')}".removesuffix("?")


@dataclass(frozen=True, slots=True)
class Choices:
    """What a filter bar offers: keys as (id, name), names of the latest requests, outcomes with
    their titles. `key_names` are of all keys that the user can see."""

    key_names: Mapping[int, str]
    keys: list[tuple[int, str]]
    endpoints: list[str]
    providers: list[str]
    models: list[str]
    outcomes: Mapping[str, str]
    caches: Collection[str]


def read_filters(default_range: str | None = None) -> Filters:
    """The filters in the query of this request. Values that are not valid are ignored."""
    sent = {name: value for name, value in request.args.items() if value and "\0" not in value}
    since, until = _moment(sent.get("since")), _moment(sent.get("until"))
    selected = sent.get("range") if sent.get("range") in RANGES else default_range
    key = sent.get("key", "")
    return Filters(
        range=selected if since is None and until is None else None,
        since=since,
        until=until,
        key_id=(number_of(key, LARGEST_ID) or 0) if key.isdecimal() else None,
        endpoint=sent.get("endpoint"),
        provider=sent.get("provider"),
        model=sent.get("model"),
        outcome=_outcome(sent.get("outcome")),
        status=number_of(sent.get("status"), LARGEST_ID),
        cache=_one_of(CACHES, sent.get("cache")),
        visible_ids=visible_ids(),
    )


def choices(filters: Filters) -> Choices:
    """What the filter bar offers, with what is selected."""
    key_names = names_of_keys()
    used = services().request_search.names(filters.visible_ids)
    offered: Collection[int | None] = key_names
    if len(key_names) > MAX_KEYS:
        offered = {*used.key_ids[:MAX_KEYS], filters.key_id}
    keys = [key for key in key_names.items() if key[0] in offered]
    return Choices(
        key_names,
        sorted(keys, key=lambda key: key[1].lower()),
        _with(used.endpoints, filters.endpoint),
        _with(used.providers, filters.provider),
        _with(used.models, filters.model),
        OUTCOMES,
        CACHES,
    )


def _with(offered: list[str], selected: str | None) -> list[str]:
    return offered if selected is None or selected in offered else sorted([*offered, selected])


def _outcome(sent: str | None) -> str | None:
    return sent if sent and OUTCOMES.keys() >= set(sent.split(",")) else None


def _one_of(names: Collection[str], sent: str | None) -> str | None:
    return sent if sent in names else None


def _moment(sent: str | None) -> float | None:
    """Unix seconds of a date and time, which is UTC if it names no offset."""
    try:
        at = datetime.fromisoformat(sent) if sent else None
        if at is None:
            return None
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
        return at.replace(second=0, microsecond=0).timestamp()
    except (ValueError, OverflowError):
        return None


def _iso_minute(moment: float) -> str:
    """`2026-11-29T00:45` in UTC, as <input type="datetime-local"> has it."""
    return datetime.fromtimestamp(moment, UTC).replace(tzinfo=None).isoformat(timespec="minutes")
