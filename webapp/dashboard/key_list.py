"""The list of keys as its URL selects it: search, filters, order and page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flask import request

from webapp.accounts.key_listing import NO_OWNER, STATES, KeyFilter
from webapp.accounts.keys import LARGEST_ID
from webapp.dashboard.pages import number_of
from webapp.dashboard.session import is_admin, user
from webapp.dashboard.visibility import usage_bars_by_key
from webapp.metering.ranges import RANGES
from webapp.services import services

LISTED = 50
RANGE = RANGES["30d"]
# The orders that the list can have, as in the URL: "-" begins with the highest.
ORDERS = {
    "name": "Name, A to Z",
    "-name": "Name, Z to A",
    "-limit": "Tightest limit, most used first",
    "limit": "Tightest limit, least used first",
    "-requests": "Requests, most first",
    "requests": "Requests, fewest first",
    "-cost": "Cost, highest first",
    "cost": "Cost, lowest first",
    "-last_used": "Last used, newest first",
    "last_used": "Last used, oldest first",
}
# The owner of keys that have none, in the URL. No username has parentheses.
UNOWNED = "(none)"
MAX_TEXT = 200

JsonObject = dict[str, Any]


@dataclass(frozen=True, slots=True)
class KeyQuery:
    """What the URL selects; what it says wrongly is ignored."""

    text: str = ""
    tier: str | None = None
    owner: str | None = None
    state: str | None = None
    sort: str = "name"
    descending: bool = False
    page: int = 1

    @property
    def is_filtered(self) -> bool:
        return bool(self.text or self.tier or self.owner or self.state)

    @property
    def order(self) -> str:
        """Column and direction in the URL: `cost`, `-cost` for the highest first."""
        return f"-{self.sort}" if self.descending else self.sort

    def order_by(self, sort: str) -> str:
        """The order that the heading of a column leads to: the other one of the present column."""
        descending = not self.descending if sort == self.sort else sort != "name"
        return f"-{sort}" if descending else sort

    def link(self, **changes: str | int | None) -> dict[str, Any]:
        """The parameters of a link to this list with these changes; None removes one."""
        selected = {
            "q": self.text or None,
            "tier": self.tier,
            "owner": self.owner,
            "state": self.state,
            "sort": None if self.order == "name" else self.order,
        }
        return {name: value for name, value in {**selected, **changes}.items() if value is not None}


def read_query(owners: Sequence[str]) -> KeyQuery:
    """The query of this request; `owners` are those that it may name."""
    args = request.args
    order = next((order for order in ORDERS if order == args.get("sort")), "name")
    tier, owner, state = args.get("tier"), args.get("owner"), args.get("state")
    return KeyQuery(
        text=args.get("q", "").strip()[:MAX_TEXT],
        tier=tier if tier in services().settings.tiers else None,
        owner=owner if owner in {*owners, UNOWNED} else None,
        state=state if state in STATES else None,
        sort=order.removeprefix("-"),
        descending=order.startswith("-"),
        page=number_of(args.get("page"), LARGEST_ID) or 1,
    )


@dataclass(frozen=True, slots=True)
class KeyPage:
    """A page of the list. `first` is the place of its first key, from 1."""

    keys: list[JsonObject]
    count: int
    first: int
    page: int
    has_next: bool


def find(query: KeyQuery) -> KeyPage:
    """The page of the keys that this user can see."""
    owner = (NO_OWNER if query.owner == UNOWNED else query.owner) if is_admin() else user().username
    matching = services().key_listing.matching(
        KeyFilter(query.text, query.tier, owner, query.state)
    )
    ids = [key_id for key_id, _ in matching]
    if query.sort == "name":
        ids = ids[::-1] if query.descending else ids
    else:
        values = _values(query.sort, ids)
        # Keys that have no value come after those that have the least.
        ids.sort(key=lambda key_id: values.get(key_id, -1), reverse=query.descending)
    pages = max(1, -(-len(ids) // LISTED))
    page = min(query.page, pages)
    start = (page - 1) * LISTED
    keys = services().key_listing.with_ids(ids[start : start + LISTED])
    return KeyPage(keys, len(ids), start + 1, page, page < pages)


def _values(sort: str, ids: Sequence[int]) -> dict[int, float]:
    """What the list is sorted by, of each key that has it."""
    if sort == "last_used":
        return services().request_search.last_used(ids)
    if sort == "limit":
        return {key_id: bar["share"] for key_id, bar in tightest(ids).items()}
    field = "requests" if sort == "requests" else "cost_nano"
    totals = services().overview.by_key(RANGE, ids, [field])
    return {key_id: getattr(total, field) for key_id, total in totals.items()}


def tightest(ids: Sequence[int]) -> dict[int, JsonObject]:
    """Of each of these keys that works and has limits, the one that is used most."""
    bars = usage_bars_by_key(services().identities.of_key_ids(ids))
    return {
        key_id: max(of_key, key=lambda bar: bar["share"])
        for key_id, of_key in bars.items()
        if of_key
    }
