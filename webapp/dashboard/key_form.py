"""The form of a key: its fields, what it sent, and what is wrong with each field."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import gevent
from flask import request

from webapp import json_codec, money
from webapp.accounts.key_changes import check_name
from webapp.allowance import MINUTE, MONEY, Allowance, parse_overrides
from webapp.api.schemas import MAX_TEXT_LENGTH
from webapp.dashboard.formatting import sentence, usd
from webapp.errors import ValidationError, WeirError
from webapp.llm.routing import Router
from webapp.services import services

MODELS_LISTED = 200
# A provider that does not respond must not delay the page. Its list may be there the next time.
MODELS_TIMEOUT = 0.5  # seconds


@dataclass(frozen=True, slots=True)
class Field:
    """A limit in the form. `note` says what its value counts, where its title does not."""

    title: str
    note: str = ""


GROUPS: dict[str, dict[str, Field]] = {
    "Requests": {
        "requests_per_minute": Field("Requests per minute"),
        "requests_per_day": Field("Requests per day", "(UTC)"),
        "requests_per_session": Field("Requests per session"),
        "parallel_requests": Field("Parallel requests"),
    },
    "Tokens": {
        "tokens_per_minute": Field("Tokens per minute"),
        "max_text": Field("Max input characters", "of /summarize"),
    },
    "Money": {
        "usd_per_day": Field("USD per day", "(UTC)"),
        "usd_per_month": Field("USD per month", "(UTC)"),
        "usd_per_session": Field("USD per session"),
    },
    "Access": {
        "models": Field("Allowed models"),
        "networks": Field("Allowed networks"),
        "own_cache": Field("Private cache"),
    },
}
LIMITS = {name: field for group in GROUPS.values() for name, field in group.items()}
# The titles of all fields, in the order of the page.
TITLES = {
    "name": "Name",
    "tier": "Tier",
    "owner": "Owner",
    "expires_at": "Expires",
    **{f"limits.{name}": field.title for name, field in LIMITS.items()},
}

JsonObject = dict[str, Any]


@dataclass(slots=True)
class KeyForm:
    """What the fields hold, by their names; and the errors, by field or under "" for the form."""

    values: dict[str, str] = field(default_factory=dict)
    models: list[str] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)

    @property
    def problems(self) -> list[tuple[str, str]]:
        """The errors of the fields, in the order of the page."""
        return [(name, self.errors[name]) for name in TITLES if name in self.errors]

    def limits(self, before: Mapping[str, Any]) -> dict[str, Any]:
        """The limits that were sent; None for those that were there `before` and are blank now."""
        sent: dict[str, Any] = {name: self.values.get(f"limits.{name}", "") for name in LIMITS}
        sent["models"] = self.models
        sent["networks"] = (
            re.split(r"[\s,|]+", sent["networks"].strip()) if sent["networks"] else ""
        )
        return {name: value or None for name, value in sent.items() if value or name in before}

    def check(self, limits: Mapping[str, Any]) -> None:
        """Find what is wrong with the name and each of these limits."""
        try:
            check_name(self.values["name"])
        except ValidationError as error:
            self.refused(error)
        for name, value in limits.items():
            try:
                parse_overrides({name: value})
            except ValueError as error:
                self.errors[f"limits.{name}"] = sentence(str(error).removeprefix(f"{name} "))

    def expiry(self) -> datetime | None:
        """The time that was sent."""
        sent = self.values["expires_at"]
        try:
            return datetime.fromisoformat(sent).replace(tzinfo=UTC) if sent else None
        except ValueError:
            self.errors["expires_at"] = "Must be a date and a time."
            return None

    def refused(self, error: WeirError) -> None:
        """Note what the core says is wrong."""
        told = {
            name: " ".join(messages)
            for name, messages in (error.details or {}).items()
            if name in TITLES
        }
        self.errors |= told or {"": error.message}


def form_of(key: JsonObject | None) -> KeyForm:
    """The form as it is before anything is entered."""
    if key is None:
        return KeyForm({"tier": next(iter(services().settings.tiers))})
    values = {name: str(key[name] or "") for name in ("name", "tier", "owner")}
    values["expires_at"] = (key["expires_at"] or "")[:16]
    for name, value in key["limits"].items():
        values[f"limits.{name}"] = _entered(name, value)
    return KeyForm(values, key["limits"].get("models", []))


def version_of(key: JsonObject) -> str:
    """Differs whenever something that the form changes does."""
    form = form_of(key)
    state = json_codec.dumps([form.values, form.models], sort_keys=True)
    return hashlib.sha256(state).hexdigest()[:16]


def sent_form() -> KeyForm:
    """The form as it was sent."""
    values = {name: request.form.get(name, "").strip() for name in TITLES}
    # From the boxes of known models, and a line for each other one.
    lines = [line for sent in request.form.getlist("limits.models") for line in sent.splitlines()]
    return KeyForm(values, list(dict.fromkeys(filter(None, map(str.strip, lines)))))


def known_models() -> list[str]:
    """Models that a key can be allowed to use: routes, else what the providers list."""
    greenlet = gevent.spawn(_listed_models, services().gateway.router)
    greenlet.join(MODELS_TIMEOUT)
    return greenlet.value or []


def _listed_models(router: Router) -> list[str]:
    try:
        return [model.name for model, _ in zip(router.names(), range(MODELS_LISTED), strict=False)]
    except WeirError:
        return []


def tier_defaults(tiers: Mapping[str, Allowance]) -> dict[str, dict[str, str]]:
    """Each limit of each tier in words, by tier and name of the limit."""
    return {
        tier: {name: _default(tier, allowance, name) for name in LIMITS}
        for tier, allowance in tiers.items()
    }


def shown_limits(limits: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Titles and values of the limits of a key, for its page."""
    return [
        (field.title, usd(limits[name]) if name in MONEY else _shown(limits[name]))
        for name, field in LIMITS.items()
        if name in limits
    ]


def _default(tier: str, allowance: Allowance, name: str) -> str:
    if name == "requests_per_minute":
        per_minute = [item.amount for item in allowance.windows if item.get_expiry() == MINUTE]
        return f"{per_minute[0]:,}" if per_minute else "No limit"
    value = getattr(allowance, name)
    if name == "max_text":
        value = value or MAX_TEXT_LENGTH.get(tier, MAX_TEXT_LENGTH["premium"])
    if name in ("models", "networks"):
        return "\n".join(map(str, value)) if value is not None else f"All {name}"
    if name == "own_cache":
        return _shown(value)
    if value is None:
        return "No limit"
    return money.text(value) if name in MONEY else f"{value:,}"


def _entered(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "\n".join(value)
    return money.text(money.to_nano(value)) if name in MONEY else str(value)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "On" if value else "Off"
    if isinstance(value, list):
        return ", ".join(value)
    return f"{value:,}"
