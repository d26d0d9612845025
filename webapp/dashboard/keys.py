"""Keys: list, details, create, edit, rotate, revoke."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from flask import redirect, request, url_for

from webapp.accounts.key_changes import DEFAULT_GRACE, STATES, NewKey
from webapp.accounts.keys import LARGEST_ID
from webapp.allowance import OVERRIDES
from webapp.dashboard.charts import money_chart, requests_chart, step_links
from webapp.dashboard.filters import Filters
from webapp.dashboard.pages import Blueprint, number_of, page
from webapp.dashboard.session import actor, is_admin, members
from webapp.dashboard.visibility import (
    cached_inputs_of,
    usage_bars,
    usage_bars_by_key,
    visible_key,
    visible_keys,
)
from webapp.errors import Conflict, NotAllowed, ValidationError, WeirError
from webapp.metering.ranges import RANGES
from webapp.metering.request_log import Wanted
from webapp.metering.selected import Selected
from webapp.metering.usage import Selection
from webapp.model_names import quoted
from webapp.services import services

blueprint = members(Blueprint("keys", __name__))

USED_DAYS = 30
RECENT = 20
LISTED = 50
RAISED_DAYS = ("1", "7", "30")
GRACES = {0: "None", 3_600: "1 hour", 86_400: "1 day", 604_800: "1 week"}
# Label and example value of each field in the form.
LIMITS = {
    "requests_per_minute": ("Requests per minute", "20"),
    "requests_per_day": ("Requests per day", "1000"),
    "tokens_per_minute": ("Tokens per minute", "100000"),
    "parallel_requests": ("Parallel requests", "5"),
    "requests_per_session": ("Requests per session", "500"),
    "usd_per_day": ("USD per day", "5"),
    "usd_per_month": ("USD per month", "50"),
    "usd_per_session": ("USD per session", "5"),
    "models": ("Allowed models", "gpt-4o-mini|anthropic/*"),
    "max_text": ("Max input characters", "50000"),
    "networks": ("Allowed networks", "10.0.0.0/8|192.0.2.7"),
    "own_cache": ("Private cache", "true"),
}
assert LIMITS.keys() == OVERRIDES.keys()


@blueprint.get("/keys")
def all_keys() -> Any:
    """All keys by id, with limits and usage"""
    state, after = request.args.get("state"), request.args.get("after", "")
    keys = visible_keys(
        state=state if state in STATES else None,
        after_id=number_of(after, LARGEST_ID) or 0,
        count=LISTED + 1,
    )
    more, keys = len(keys) > LISTED, keys[:LISTED]
    ids = [key["id"] for key in keys]
    return page(
        "keys.html",
        keys=keys,
        after=ids[-1] if more else None,
        states=STATES,
        state=state,
        bars=usage_bars_by_key(services().identities.of_key_ids(ids)),
        used=services().overview.by_key(RANGES["30d"], ids),
        last_used=services().request_log.last_used(ids),
    )


@blueprint.get("/keys/new")
def new() -> Any:
    """The form to create a key"""
    _admins_only()
    return _form(None)


@blueprint.post("/keys/new")
def create() -> Any:
    """Create a key; its secret is shown once"""
    _admins_only()
    form = request.form
    try:
        key, secret = services().key_changes.create(
            actor(),
            NewKey(
                name=form.get("name", "").strip(),
                tier=form.get("tier", ""),
                owner=form.get("owner") or None,
                limits=_limits(None),
                expires_at=_expiry(),
            ),
        )
    except (ValidationError, Conflict) as error:
        return _form(None, error)
    return _secret(key, secret)


@blueprint.get("/keys/<int:key_id>")
def one(key_id: int) -> Any:
    """One key: limits, usage, recent requests"""
    key = visible_key(key_id)
    services().traffic.flush()
    today = datetime.now(UTC).date()
    month = Selection(today - timedelta(days=USED_DAYS - 1), today, key_id=key_id)
    report = services().usage.report
    principal = services().identities.of_key_id(key_id)
    month_range = RANGES["30d"]
    figures = services().overview.figures(month_range, Selected([key_id]))
    links = partial(Filters(range=month_range.name, key_id=key_id).url, "requests.latest")
    charts = [
        requests_chart(figures.steps, True, links, "Requests, last 30 days"),
        money_chart(figures.steps, True, "Cost and cache savings, last 30 days"),
    ]
    return page(
        "key.html",
        key=key,
        bars=usage_bars(principal) if principal else [],
        limits=LIMITS,
        raised_days=RAISED_DAYS,
        graces=GRACES,
        default_grace=DEFAULT_GRACE,
        figures=figures,
        charts=charts,
        step_links=step_links(charts[0], month_range.step, links),
        by_model=report(month, ["model"]),
        cached_inputs=cached_inputs_of(USED_DAYS, [key_id]),
        sessions=services().sessions.latest(key_id, RECENT),
        by_endpoint=report(month, ["endpoint"]),
        requests=services().request_log.page(Wanted(key_ids=[key_id]), count=RECENT).rows,
    )


@blueprint.get("/keys/<int:key_id>/edit")
def edit(key_id: int) -> Any:
    """The form to edit a key"""
    _admins_only()
    return _form(visible_key(key_id))


@blueprint.post("/keys/<int:key_id>/edit")
def change(key_id: int) -> Any:
    """Change name, tier, owner, expiry or limits"""
    _admins_only()
    key, form = visible_key(key_id), request.form
    try:
        changes: dict[str, Any] = {
            "owner": form.get("owner") or None,
            "limits": _limits(key),
        }
        if request.form.get("expires_at", "") != _entered(key)["expires_at"]:
            changes["expires_at"] = _expiry()
        if key["origin"] != "settings":
            changes |= {"name": form.get("name", "").strip(), "tier": form.get("tier", "")}
        services().key_changes.change(actor(), key_id, changes)
    except (ValidationError, Conflict) as error:
        return _form(key, error)
    return redirect(url_for("keys.one", key_id=key_id))


@blueprint.post("/keys/<int:key_id>/budget")
def raise_budgets(key_id: int) -> Any:
    """Increase each budget for some days; 0 ends the increase"""
    _admins_only()
    visible_key(key_id)
    days = request.form.get("days", "")
    until = datetime.now(UTC) + timedelta(days=int(days) if days in RAISED_DAYS else 1)
    services().key_changes.increase_budget(actor(), key_id, request.form.get("usd", ""), until)
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


def _form(key: dict[str, Any] | None, error: WeirError | None = None) -> Any:
    response = page(
        "key_form.html",
        key=key,
        entered=request.form if error else _entered(key),
        error=error,
        tiers=list(services().settings.tiers),
        accounts=[account.username for account in services().accounts.all()],
        limits=LIMITS,
    )
    response.status_code = error.status if error else 200
    return response


def _entered(key: dict[str, Any] | None) -> dict[str, str]:
    """The initial values of the form."""
    if key is None:
        return {}
    entered = {name: str(key[name] or "") for name in ("name", "tier", "owner")}
    entered["expires_at"] = (key["expires_at"] or "")[:16]
    for name, value in key["limits"].items():
        text = "|".join(map(quoted, value)) if isinstance(value, list) else str(value)
        entered[f"limits.{name}"] = text.lower() if isinstance(value, bool) else text
    return entered


def _limits(key: dict[str, Any] | None) -> dict[str, Any]:
    """The limits in the form; None for those of the key that were cleared."""
    sent = {name: request.form.get(f"limits.{name}", "").strip() for name in LIMITS}
    before = key["limits"] if key else {}
    return {name: text or None for name, text in sent.items() if text or name in before}


def _expiry() -> datetime | None:
    sent = request.form.get("expires_at", "")
    if not sent:
        return None
    try:
        return datetime.fromisoformat(sent).replace(tzinfo=UTC)
    except ValueError:
        details = {"expires_at": ["Must be a date and a time."]}
        raise ValidationError("The request is not valid: expires_at.", details=details) from None


def _secret(key: dict[str, Any], secret: str | None) -> Any:
    return page("secret.html", key=key, secret=secret, base_url=request.url_root.rstrip("/"))
