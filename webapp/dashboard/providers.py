"""Providers: connection, latest calls, circuit breakers; routes; models and their prices now."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from flask import redirect, request, session, url_for

from webapp.admission.credential_limits import count_connection_test
from webapp.dashboard.pages import Blueprint, page
from webapp.dashboard.session import admins
from webapp.dashboard.visibility import names_of_keys
from webapp.errors import NotFound, RateLimitExceeded, WeirError
from webapp.llm.routing import Target
from webapp.metering.calls import ProviderCalls
from webapp.metering.price import STANDARD
from webapp.metering.prices import shipped
from webapp.metering.usage import Selection
from webapp.observability.health import PROVIDER_CHECK_TIMEOUT
from webapp.providers.base import BaseProvider
from webapp.services import services
from webapp.storage.breakers import EVERYBODY, OpenCircuit

blueprint = admins(Blueprint("providers", __name__))

SHOWN_DAYS = 7
SHOWN_MODELS = 100
FIGURES_PERIOD = 86_400  # seconds
MAX_TESTED_LENGTH = 500  # characters of what is kept in the session's cookie
ORDER = ["open", "half-open", "closed"]
KINDS = {
    "openai": "OpenAI API",
    "azure": "Azure OpenAI",
    "anthropic": "Anthropic API",
    "local": "Built in",
    "offline": "Built in",
}
# Failed calls of which the ledger knows no status of the provider, in words.
WORDS = {
    "ProviderTimedOut": "No answer in time",
    "ProviderRefusedWeir": "Weir's credentials were rejected, or its quota is exhausted",
    "ProviderFailed": "Unreachable, or its answer was cut off or unreadable",
    "UnsupportedParameter": "A request had a parameter that it does not support",
}
# Errors that say nothing of the provider's health.
CLIENTS_ERRORS = {"ProviderRefusedRequest", "ModelNotFound", "UnsupportedParameter"}


@dataclass(frozen=True, slots=True)
class Breaker:
    """A circuit that is not closed: for which operation, and for whom it is open."""

    target: str
    operation: str
    probe_in: float
    key_id: int | None
    batches: bool
    """Whether only calls of the key's batches are kept away."""


@blueprint.get("/providers")
def providers() -> Any:
    """Providers, routes and models"""
    router = services().gateway.router
    figures, counted_since = services().calls.by_provider(time.time() - FIGURES_PERIOD)
    targets = {f"{provider}/{model}" for provider, model in router.configured}
    breakers = [*map(_breaker, services().breakers.open_circuits(targets))]
    wanted = request.args.get("model", "").strip()
    models = _models()
    found = [one for one in models if wanted.lower() in f"{one['provider']}/{one['model']}".lower()]
    return page(
        "providers.html",
        providers=[_provider(one, figures, breakers) for one in services().providers.values()],
        counted_since=counted_since,
        is_cut=counted_since > time.time() - FIGURES_PERIOD + 60,
        tested=session.pop("connection_test", None),
        routes=[_route(route.name, route.targets, breakers) for route in router.routes],
        names=names_of_keys() if any(breaker.key_id for breaker in breakers) else {},
        models=[
            one | {"price": _price(one["provider"], one["model"])} for one in found[:SHOWN_MODELS]
        ],
        found=len(found),
        total=len(models),
        wanted=wanted,
        days=SHOWN_DAYS,
    )


@blueprint.post("/providers/<name>/test")
def test_connection(name: str) -> Any:
    """List the models of a provider by a call that costs nothing"""
    provider = services().providers.get(name)
    if provider is None or not provider.has_free_call:
        raise NotFound(f"Provider {name!r} cannot be tested.")
    began = time.perf_counter()
    error = None
    listed = 0
    try:
        count_connection_test(name)
        began = time.perf_counter()
        listed = provider.check(PROVIDER_CHECK_TIMEOUT)
    except RateLimitExceeded as exceeded:
        error = f"Too many tests of this provider. Try again in {exceeded.retry_after} s."
    except WeirError as failure:
        error = _in_words(failure.name, failure.provider_status, failure.provider_message)
    session["connection_test"] = {
        "provider": name,
        "error": error and error[:MAX_TESTED_LENGTH],
        "models": listed,
        "milliseconds": (time.perf_counter() - began) * 1000,
    }
    return redirect(url_for("providers.providers"))


def states(*, ask: bool) -> list[dict[str, Any]]:
    """Each provider: name, kind, the error of its last call, its worst circuit breaker.

    With `ask`, providers without a recent call are probed, free of charge.
    """
    health = services().health.provider_errors(ask=ask)
    breakers = services().breakers.states()
    result = []
    for provider in services().gateway.router.providers:
        breaker_states = [
            state["state"] for target, state in breakers.items()
            if target.partition("/")[0] == provider.name
        ]  # fmt: skip
        result.append(
            {
                "name": provider.name,
                "kind": provider.kind,
                "error": health.get(provider.name),
                "breaker": min(breaker_states, key=ORDER.index, default="closed"),
            }
        )
    return result


def _provider(
    provider: BaseProvider, figures: dict[str, ProviderCalls], breakers: list[Breaker]
) -> dict[str, Any]:
    """What the page shows of a provider."""
    calls = figures.get(provider.name)
    failure = calls and calls.last_failure
    checked_at, check_error = _latest(provider)
    if failure and failure["settled_at"] >= checked_at:
        check_error = None
    return {
        "provider": provider,
        "kind": KINDS.get(provider.kind) or provider.kind.replace("langchain:", "LangChain: "),
        "state": _state(provider, calls),
        "calls": calls,
        "failure": failure,
        "failure_words": failure
        and _in_words(failure["error"], failure["provider_status"], failure["provider_message"]),
        "check_error": check_error and _in_words(check_error, None, None),
        "checked_at": checked_at,
        "breakers": [one for one in breakers if one.target.partition("/")[0] == provider.name],
    }


def _state(provider: BaseProvider, calls: ProviderCalls | None) -> str | None:
    """`ok` or `failing`, by the latest call: of all processes in the ledger, or a health check of
    this one. None where there was none."""
    ends: list[tuple[float, str]] = []
    if calls and calls.last_success:
        ends.append((calls.last_success, "ok"))
    if calls and (row := calls.last_failure) and row["error"] not in CLIENTS_ERRORS:
        ends.append((row["settled_at"], "failing"))
    checked_at, check_error = _latest(provider)
    if checked_at and (provider.has_free_call or check_error):
        ends.append((checked_at, "failing" if check_error else "ok"))
    return max(ends)[1] if ends else None


def _latest(provider: BaseProvider) -> tuple[float, str | None]:
    """When this process last called the provider or checked its connection, 0 for never (Unix
    seconds); and the error."""
    if provider.latest is None:
        return 0, None
    return time.time() - (time.monotonic() - provider.latest.at), provider.latest.error


def _in_words(error: str | None, status: int | None, message: str | None) -> str:
    """Why a call failed: the provider's status and words, else what is known."""
    if status is None:
        return WORDS.get(error or "", error or "Failed")
    return f"Status {status}: {message}" if message else f"Status {status}, without a message"


def _breaker(circuit: OpenCircuit) -> Breaker:
    target, _, operation = circuit.circuit.partition(" ")
    key_id = None
    if circuit.who != EVERYBODY:
        key_id = int(circuit.who.split("-")[1])
    return Breaker(
        target, operation or "chat", circuit.probe_in, key_id, circuit.who.endswith("-batches")
    )


def _route(name: str, targets: tuple[Target, ...], breakers: list[Breaker]) -> dict[str, Any]:
    weights = sum(target.weight for target in targets)
    return {
        "name": name,
        "targets": [
            {
                "name": target.name,
                "provider": target.provider.name,
                "model": target.model,
                "weight": target.weight,
                "share": target.weight / weights if target.weight else None,
                "breakers": [one for one in breakers if one.target == target.name],
                "priced": _price(target.provider.name, target.model) is not None,
            }
            for target in targets
        ],
    }


def _models() -> list[dict[str, Any]]:
    """The models that settings name or that were used lately."""
    today = datetime.now(UTC).date()
    week = Selection(today - timedelta(days=SHOWN_DAYS - 1), today)
    used = {
        (row["provider"], row["model"]): row for row in services().usage.report(week, ["model"])
    }
    names = used.keys() | services().gateway.router.configured
    models: list[dict[str, Any]] = [
        {"provider": provider, "model": model, "used": used.get((provider, model))}
        for provider, model in sorted(names)
    ]
    return sorted(models, key=lambda one: -(one["used"] or {"calls": 0})["calls"])


def _price(provider: str, model: str) -> dict[str, Any] | None:
    """The price of a model per million tokens as it is now, at the standard tier, and where it is
    from."""
    configured = services().providers.get(provider)
    price = services().prices.of(provider, configured.kind if configured else "", model)
    if price is None:
        return None
    bands = price.bands[STANDARD]
    sources = {
        "MODEL_PRICES": "MODEL_PRICES",
        "offline": "Free",
        "local": "Free",
        shipped().source: "Shipped list",
    }
    return {
        "rates": bands[0][1],
        "longer": bands[1][0] if len(bands) > 1 else None,
        "source": sources.get(price.source, "Database"),
        "edition": price.source,
    }
