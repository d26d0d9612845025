"""LiteLLM's virtual keys, from the JSON of `GET /key/list?return_full_object=true`.

LiteLLM stores the SHA-256 of a whole key, as Weir does: clients keep their secrets.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

from webapp.accounts.key_changes import SHA256, NewKey
from webapp.allowance import parse_overrides
from webapp.imports.litellm.values import listed, mapping, number

DURATION = re.compile(r"(\d+)\s*(s|m|h|d|w|mo)")
DAYS: dict[str, Fraction] = {
    "s": Fraction(1, 86400),
    "m": Fraction(1, 1440),
    "h": Fraction(1, 24),
    "d": Fraction(1),
    "w": Fraction(7),
    "mo": Fraction(30),
}
NAMED_DURATIONS = {"daily": "1d", "weekly": "7d", "monthly": "1mo"}
MONTH = 28
DASHBOARD_TEAM = "litellm-dashboard"  # the keys of sessions in LiteLLM's UI
ALL_MODELS = {"all-proxy-models", "*"}
# What Weir has no counterpart of, where a key has it.
LEFT_OUT = {
    "team_id": "its team: Weir has no teams, so budgets and limits of the team are gone",
    "organization_id": "its organization",
    "aliases": "its aliases of models",
    "model_max_budget": "its budgets of models",
    "budget_limits": "its further budgets",
    "soft_budget": "its soft budget: alerts are at 50, 80 and 100 %",
    "tpd_limit": "its limit of tokens a day",
    "permissions": "its permissions",
    "allowed_routes": "its list of endpoints",
    "guardrails": "its guardrails",
    "object_permission": "its permissions for MCP and vector stores",
    "auto_rotate": "its rotation by itself: flask keys rotate",
    "router_settings": "its own router settings",
    "budget_fallbacks": "its fallbacks when a budget is spent",
    "access_group_ids": "its access groups of LiteLLM's database",
}
# The same, in its metadata.
LEFT_OUT_METADATA = {
    "model_rpm_limit": "its requests a minute of models",
    "model_tpm_limit": "its tokens a minute of models",
    "guardrails": "its guardrails",
    "tags": "its tags",
}


class KeysError(Exception):
    """The file is not what GET /key/list answers."""


@dataclass
class ImportedKeys:
    """The keys to create, and what is to be told of each by its name."""

    keys: list[NewKey] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)


def read(texts: list[str], tier: str, access_groups: Mapping[str, list[str]]) -> ImportedKeys:
    """The keys of all pages. Raises KeysError."""
    imported = ImportedKeys()
    seen: set[str] = set()
    names: set[str] = set()
    for text in texts:
        for entry in _entries(text):
            token = str(entry.get("token") or entry.get("api_key") or "")
            if token in seen:
                continue
            seen.add(token)
            name = _free_name(entry, token, names)
            names.add(name)
            if reason := _why_not(entry, token):
                imported.notes.append((name, f"not created: {reason}"))
                continue
            limits, notes = _limits(entry, access_groups)
            owner = entry.get("user_id")
            left_out = [what for key, what in LEFT_OUT.items() if entry.get(key)]
            metadata = mapping(entry.get("metadata"))
            left_out += [what for key, what in LEFT_OUT_METADATA.items() if metadata.get(key)]
            if owner and owner != "default_user_id":
                left_out.append(
                    f"its user {owner}: its owner can be an account (PATCH /admin/keys/{id})"
                )
            if left_out:
                notes.append(f"without {'; '.join(left_out)}")
            imported.notes += [(name, note) for note in notes]
            imported.keys.append(NewKey(name, tier, None, limits, _expiry(entry), None, token))
    return imported


def _entries(text: str) -> Iterator[dict[str, Any]]:
    try:
        content = json.loads(text)
    except ValueError:
        raise KeysError("it is not JSON") from None
    entries = content.get("keys") if isinstance(content, dict) else content
    if not isinstance(entries, list):
        raise KeysError('it has no list "keys"')
    for entry in entries:
        if not isinstance(entry, dict):
            raise KeysError("it has no key objects: ask with return_full_object=true")
        yield entry


def _free_name(entry: Mapping[str, Any], token: str, taken: set[str]) -> str:
    wanted = str(entry.get("key_alias") or entry.get("key_name") or f"litellm-{token[:8]}")
    name = "".join(sign for sign in wanted if sign.isprintable()).strip()[:90]
    name = name or f"litellm-{token[:8]}"
    return f"{name} {token[:8]}" if name in taken else name


def _why_not(entry: Mapping[str, Any], token: str) -> str:
    if not SHA256.fullmatch(token):
        return "its token is no SHA-256. Create a new key: flask keys create"
    if entry.get("team_id") == DASHBOARD_TEAM:
        return "it is a session of LiteLLM's UI"
    if entry.get("blocked"):
        return "it is blocked"
    expires = _expiry(entry)
    return "it has expired" if expires and expires <= datetime.now(UTC) else ""


def _expiry(entry: Mapping[str, Any]) -> datetime | None:
    text = entry.get("expires")
    if not isinstance(text, str) or not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise KeysError(f"{text!r} is no time") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _limits(
    entry: Mapping[str, Any], access_groups: Mapping[str, list[str]]
) -> tuple[dict[str, Any], list[str]]:
    """The overrides of a key's tier, and what is to be told of them."""
    notes: list[str] = []
    limits: dict[str, Any] = {}
    for ours, theirs in (
        ("requests_per_minute", "rpm_limit"),
        ("tokens_per_minute", "tpm_limit"),
        ("parallel_requests", "max_parallel_requests"),
    ):
        value = number(entry.get(theirs))
        if value is not None and value >= 1:
            limits[ours] = int(value)
        elif value is not None:
            limits[ours] = 1
            notes.append(
                f"{theirs} was {value}: {ours} is 1, the least there is. Revoke it instead?"
            )
    budget = number(entry.get("max_budget"))
    table = mapping(entry.get("litellm_budget_table"))
    if budget is None:
        budget = number(table.get("max_budget"))
    if budget is not None:
        duration = str(entry.get("budget_duration") or table.get("budget_duration") or "")
        name, usd, note = _budget(budget, duration, number(entry.get("spend")) or Fraction(0))
        limits[name] = f"{float(usd):.9f}"
        notes += [note] if note else []
    models = _models(entry, access_groups, notes)
    if models:
        limits["models"] = models
    try:
        parse_overrides(limits)
    except ValueError as error:
        raise KeysError(f"the limits of a key: {error}") from None
    return limits, notes


def _budget(budget: Fraction, duration: str, spent: Fraction) -> tuple[str, Fraction, str]:
    """The limit, its amount, and what differs. It never allows more than LiteLLM's."""
    found = DURATION.fullmatch(NAMED_DURATIONS.get(duration, duration).strip().lower())
    if not found:
        left = max(budget - spent, Fraction(0))
        return (
            "usd_per_month",
            left,
            (
                f"its budget was for life: what is left of it ({float(left):.2f} USD) is now that "
                "of each month. Lower it as it is spent, or let the key expire"
            ),
        )
    days = int(found[1]) * DAYS[found[2]]
    if days <= 1:
        note = "" if days == 1 else f"its budget was for {duration}; it is now that of a UTC day"
        return "usd_per_day", budget, note
    if days < MONTH:
        return (
            "usd_per_month",
            budget,
            f"its budget was for {duration}; it is now that of a UTC month",
        )
    if days <= MONTH + 3:
        return "usd_per_month", budget, ""
    share = budget * 30 / days
    return (
        "usd_per_month",
        share,
        (f"its budget was for {duration}; a month has its share of that, {float(share):.2f} USD"),
    )


def _models(
    entry: Mapping[str, Any], access_groups: Mapping[str, list[str]], notes: list[str]
) -> list[str]:
    names = [str(name) for name in listed(entry.get("models"))]
    if "all-team-models" in names:
        notes.append(
            "it could use the models of its team; now it can use all: flask keys set-limits"
        )
        return []
    if not names or ALL_MODELS & set(names):
        return []
    allowed = [model for name in names for model in access_groups.get(name, [name])]
    return list(dict.fromkeys(allowed))
