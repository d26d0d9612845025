"""Keys: list, details, create, edit, rotate, revoke."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from flask import redirect, request, url_for
from markupsafe import Markup

from webapp.accounts.key_changes import DEFAULT_GRACE, NewKey
from webapp.accounts.key_listing import STATES
from webapp.allowance import MONEY
from webapp.dashboard import key_list
from webapp.dashboard.charts import money_chart, requests_chart, step_links
from webapp.dashboard.filters import Filters
from webapp.dashboard.formatting import key_state, sentence
from webapp.dashboard.key_form import (
    GROUPS,
    TITLES,
    KeyForm,
    form_of,
    known_models,
    sent_form,
    shown_limits,
    tier_defaults,
    version_of,
)
from webapp.dashboard.pages import Blueprint, page
from webapp.dashboard.session import actor, is_admin, members
from webapp.dashboard.sparklines import sparkline
from webapp.dashboard.visibility import cached_inputs_of, usage_bars, visible_key
from webapp.errors import Conflict, NotAllowed, ValidationError
from webapp.metering.request_search import Wanted
from webapp.metering.selected import Selected
from webapp.metering.usage import DIMENSIONS, Selection
from webapp.services import services

blueprint = members(Blueprint("keys", __name__))

USED_DAYS = 30
RECENT = 10
RAISED_DAYS = ("1", "7", "30")
CHANGED = (
    "This key was changed after you opened this form. Compare with the page of the key. "
    "To overwrite those changes, save again."
)
GRACES = {0: "None", 3_600: "1 hour", 86_400: "1 day", 604_800: "1 week"}


@blueprint.get("/keys")
def all_keys() -> Any:
    """The keys that match, sorted, with their tightest limit and usage"""
    owners = services().key_listing.owners() if is_admin() else []
    query = key_list.read_query(owners)
    found = key_list.find(query)
    ids = [key["id"] for key in found.keys]
    totals = services().overview.by_key(key_list.RANGE, ids)
    return page(
        "keys.html",
        query=query,
        found=found,
        tiers={tier: tier for tier in services().settings.tiers},
        owners={key_list.UNOWNED: "No owner"} | {owner: owner for owner in owners},
        states={state: key_state(state) for state in STATES},
        orders=key_list.ORDERS,
        limits=key_list.tightest(ids),
        totals=totals,
        sparklines=_sparklines(ids),
        last_used=services().request_search.last_used(ids),
    )


@blueprint.get("/keys/new")
def new() -> Any:
    """The form to create a key"""
    _admins_only()
    return _form(None, form_of(None))


@blueprint.post("/keys/new")
def create() -> Any:
    """Create a key; its secret is shown once"""
    _admins_only()
    form = sent_form()
    limits, expires_at = form.limits({}), form.expiry()
    form.check(limits)
    if form.errors:
        return _form(None, form, 422)
    values = form.values
    new_key = NewKey(values["name"], values["tier"], values["owner"] or None, limits, expires_at)
    try:
        key, secret = services().key_changes.create(actor(), new_key)
    except (ValidationError, Conflict) as error:
        form.refused(error)
        return _form(None, form, error.status)
    return _secret(key, secret)


@blueprint.get("/keys/<int:key_id>")
def one(key_id: int) -> Any:
    """One key: limits, usage, recent requests"""
    return _show(visible_key(key_id))


@blueprint.get("/keys/<int:key_id>/edit")
def edit(key_id: int) -> Any:
    """The form to edit a key"""
    _admins_only()
    key = visible_key(key_id)
    return _form(key, form_of(key))


@blueprint.post("/keys/<int:key_id>/edit")
def change(key_id: int) -> Any:
    """Change name, tier, owner, expiry or limits"""
    _admins_only()
    key, form = visible_key(key_id), sent_form()
    changes: dict[str, Any] = {}
    if key["origin"] == "settings":
        form.values |= {"name": key["name"], "tier": key["tier"]}
    else:
        changes = {"name": form.values["name"], "tier": form.values["tier"]}
    limits = form.limits(key["limits"])
    form.check(limits)
    if request.form.get("key_version", version_of(key)) != version_of(key):
        form.errors[""] = CHANGED
        return _form(key, form, Conflict.status)
    changes |= {"owner": form.values["owner"] or None, "limits": limits}
    if form.values["expires_at"] != form_of(key).values["expires_at"]:
        changes["expires_at"] = form.expiry()
    if form.errors:
        return _form(key, form, 422)
    try:
        services().key_changes.change(actor(), key_id, changes)
    except (ValidationError, Conflict) as error:
        form.refused(error)
        return _form(key, form, error.status)
    return redirect(url_for("keys.one", key_id=key_id))


@blueprint.post("/keys/<int:key_id>/budget")
def raise_budgets(key_id: int) -> Any:
    """Increase each budget for some days; 0 ends the increase"""
    _admins_only()
    key = visible_key(key_id)
    days = request.form.get("days", "")
    until = datetime.now(UTC) + timedelta(days=int(days) if days in RAISED_DAYS else 1)
    try:
        services().key_changes.increase_budget(actor(), key_id, request.form.get("usd", ""), until)
    except ValidationError as error:
        return _show(key, {"usd": sentence((error.details or {})["usd"][0])}, error.status)
    return redirect(url_for("keys.one", key_id=key_id))


@blueprint.post("/keys/<int:key_id>/rotate")
def rotate(key_id: int) -> Any:
    """Create a new secret, shown once; the old one is valid for the grace period"""
    visible_key(key_id)
    grace = request.form.get("grace")
    seconds = next((choice for choice in GRACES if str(choice) == grace), DEFAULT_GRACE)
    return _secret(*services().key_changes.rotate(actor(), key_id, seconds))


@blueprint.get("/keys/<int:key_id>/revoke")
def ask_to_revoke(key_id: int) -> Any:
    """Confirm the revocation"""
    return page("revoke.html", key=visible_key(key_id))


@blueprint.post("/keys/<int:key_id>/revoke")
def revoke(key_id: int) -> Any:
    """Revoke a key; it is refused everywhere within 5 seconds"""
    visible_key(key_id)
    services().key_changes.revoke(actor(), key_id)
    return redirect(url_for("keys.one", key_id=key_id))


def _admins_only() -> None:
    if not is_admin():
        raise NotAllowed("Only administrators can create and change keys.")


def _show(key: dict[str, Any], errors: dict[str, str] | None = None, status: int = 200) -> Any:
    key_id = key["id"]
    services().traffic.flush()
    services().request_log.flush()
    today = datetime.now(UTC).date()
    month = Selection(today - timedelta(days=USED_DAYS - 1), today, key_id=key_id)
    principal = services().identities.of_key_id(key_id)
    figures = services().overview.figures(key_list.RANGE, Selected([key_id]))
    traffic = Filters(range=key_list.RANGE.name, key_id=key_id)
    links = partial(traffic.url, "requests.latest")
    charts = [
        requests_chart(figures.steps, True, links, "Requests, last 30 days"),
        money_chart(figures.steps, True, "Cost and cache savings, last 30 days"),
    ]
    response = page(
        "key.html",
        key=key,
        bars=usage_bars(principal) if principal else [],
        limits=shown_limits(key["limits"]),
        last_used=services().request_search.last_used([key_id]).get(key_id),
        raised_days=RAISED_DAYS,
        errors=errors or {},
        entered=request.form if errors else {},
        graces=GRACES,
        default_grace=DEFAULT_GRACE,
        figures=figures,
        charts=charts,
        step_links=step_links(charts[0], key_list.RANGE.step, links),
        traffic=traffic,
        by_model=_calls_by("model", month),
        cached_inputs=cached_inputs_of(USED_DAYS, [key_id]),
        sessions=services().sessions.latest(key_id, RECENT),
        by_endpoint=_calls_by("endpoint", month),
        requests=services().request_search.page(Wanted(key_ids=[key_id]), count=RECENT).rows,
    )
    response.status_code = status
    return response


def _form(key: dict[str, Any] | None, form: KeyForm, status: int = 200) -> Any:
    tiers = services().settings.tiers
    response = page(
        "key_form.html",
        key=key,
        key_version=version_of(key) if key else None,
        form=form,
        groups=GROUPS,
        titles=TITLES,
        money=MONEY,
        tiers=tier_defaults(tiers),
        accounts=[account.username for account in services().accounts.all()],
        known_models=known_models(),
    )
    response.status_code = status
    return response


def _calls_by(dimension: str, selection: Selection) -> list[dict[str, Any]]:
    """The totals of a key's calls; `names` is what those of a row have in common."""
    rows = services().usage.report(selection, [dimension])
    for row in rows:
        row["names"] = {column: row[column] for column in DIMENSIONS[dimension]}
    return rows


def _sparklines(key_ids: Sequence[int]) -> dict[int, Markup]:
    """The requests of each day, of each key that had some."""
    steps = services().overview.steps_by_key(key_list.RANGE, key_ids, ["requests"])
    drawn = {}
    for key_id, totals in steps.items():
        values = [total.requests for total in totals]
        if any(values):
            words = f"Requests per day, last {len(values)} days: at most {max(values):,}, today "
            drawn[key_id] = sparkline(values, f"{words}{values[-1]:,}")
    return drawn


def _secret(key: dict[str, Any], secret: str | None) -> Any:
    return page("secret.html", key=key, secret=secret, base_url=request.url_root.rstrip("/"))
