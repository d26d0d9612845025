"""Health, readiness and liveness, for people, load balancers and schedulers."""

from __future__ import annotations

import contextlib
import platform
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from webapp import local_model, money
from webapp.admission import credential_sent, identify, is_admin, public
from webapp.api.blueprint import Blueprint
from webapp.api.schemas import HealthSchema
from webapp.errors import StoreUnavailable
from webapp.observability import request_context
from webapp.observability.gauges import BREAKER_STATES
from webapp.observability.health import UNHEALTHY, overall
from webapp.observability.metrics import OTHER
from webapp.services import services
from webapp.version import VERSION

blueprint = public(Blueprint("health", __name__, description="Health"))


@blueprint.get("/health")
@blueprint.response(200, HealthSchema)
@blueprint.alt_response(503, schema=HealthSchema, description="Weir cannot serve requests")
def health() -> Any:
    """Overall health; 503 when Weir cannot serve"""
    checks = services().health.checks()
    status, score = overall(checks)
    return {
        "status": status,
        "score": score,
        "version": VERSION,
        "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "checks": {name: check.status for name, check in checks.items()},
        "response_time_ms": round(request_context.current().milliseconds, 2),
    }, (503 if status == UNHEALTHY else 200)


@blueprint.get("/health/detailed")
@blueprint.response(200)
@blueprint.alt_response(503, description="Weir cannot serve requests")
def detailed() -> Any:
    """Health of each dependency; with a credential, or in development, also providers and build"""
    checks = services().health.checks()
    status, score = overall(checks)
    shown: dict[str, Any] = {
        "status": status,
        "score": score,
        "version": VERSION,
        "checks": {
            name: {field: value for field, value in asdict(check).items() if value is not None}
            for name, check in checks.items()
        },
    }
    if credential_sent() or not services().settings.production:
        admin = credential_sent() and is_admin(identify())
        shown["providers"] = services().health.provider_names
        if label := local_model.label():
            shown["local_model"] = label
        shown["breakers"] = services().breakers.states() if admin else _named_breakers()
        shown["models"] = [model.name for model in services().gateway.router.names()]
        shown["inference"] = services().predictions.registry.listed()
        with contextlib.suppress(StoreUnavailable):
            shown["weir_ledger_drift"] = money.to_usd(services().calls.drift())
        shown["build"] = {"version": VERSION, "python": platform.python_version()}
    return shown, (503 if status == UNHEALTHY else 200)


def _named_breakers() -> dict[str, dict[str, Any]]:
    """The circuit breakers; of models that only clients have named, the worst one as `other`.

    Clients may send any name, even a secret by mistake, which other keys must not see.
    """
    named = {f"{provider}/{model}" for provider, model in _named_models()}
    shown: dict[str, dict[str, Any]] = {}
    for circuit, breaker in services().breakers.states().items():
        target, space, operation = circuit.partition(" ")
        if target not in named:
            target = f"{target.partition('/')[0]}/{OTHER}"
        name = f"{target}{space}{operation}"
        shown[name] = max(shown.get(name, breaker), breaker, key=_severity)
    return shown


def _severity(breaker: dict[str, Any]) -> int:
    return BREAKER_STATES.index(breaker["state"])


def _named_models() -> set[tuple[str, str]]:
    """(provider, model) of all that the operator, a price or a provider's list names."""
    router, prices = services().gateway.router, services().prices
    named = router.configured
    if router.routes:
        return named
    named |= {(target.provider.name, target.model) for target in router.resolve(None).targets}
    for provider in router.providers:
        models = {str(listed["id"]) for listed in provider.models()}
        models |= prices.names(provider.name, provider.kind)
        named |= {(provider.name, model) for model in models}
    return named


@blueprint.get("/health/ready")
@blueprint.response(200)
@blueprint.alt_response(503, description="Not ready for requests")
def ready() -> Any:
    """Readiness, with each condition"""
    conditions = services().health.conditions()
    is_ready = all(conditions.values())
    status = "ready" if is_ready else "not_ready"
    return {"status": status, "checks": conditions}, 200 if is_ready else 503


@blueprint.get("/readiness")
@blueprint.response(200)
@blueprint.alt_response(503, description="Not ready for requests")
def readiness() -> Any:
    """Readiness, for a load balancer"""
    reason = services().health.not_ready_because()
    return ({"ready": False, "reason": reason}, 503) if reason else ({"ready": True}, 200)


@blueprint.get("/liveness")
@blueprint.response(200)
def liveness() -> Any:
    """Liveness; checks no dependency"""
    return {"alive": True}
