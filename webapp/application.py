"""create_app(): the one place where the parts are put together."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from flask import Flask, request
from flask.json.provider import DefaultJSONProvider

from webapp import api, cli, dashboard
from webapp.accounts import configured_keys, ended_sessions
from webapp.accounts.accounts import AccountStore
from webapp.accounts.audit import AuditLog
from webapp.accounts.ended_sessions import EndedSessions
from webapp.accounts.key_changes import KeyChanges
from webapp.accounts.keys import KeyStore
from webapp.accounts.tokens import Tokens
from webapp.admission import idempotency_store, limits
from webapp.admission.bodies import BodyBudget
from webapp.admission.idempotency_store import IdempotencyStore
from webapp.admission.identity import Identities
from webapp.admission.parts import AdmissionParts, bind
from webapp.admission.rate_limits import RateLimits
from webapp.admission.token_limits import TokenRateLimits
from webapp.admission.top_budget_usage import TopBudgetUsage
from webapp.api.blueprint import FORM_BYTES
from webapp.extensions import cache, cors
from webapp.forwarded import Forwarded
from webapp.frozen_process import FinishBeforeTheEnd
from webapp.inference.predictions import Predictions
from webapp.inference.registry import Registry
from webapp.library_internals import take_latest_after_request
from webapp.llm.attempts import Attempts
from webapp.llm.flight import Flights
from webapp.llm.gateway import Gateway
from webapp.llm.ports import Provider
from webapp.llm.routing import Router
from webapp.metering import activity, calls, request_log
from webapp.metering.alerts import Alerts
from webapp.metering.calls import Calls
from webapp.metering.heartbeats import Heartbeats
from webapp.metering.ledger import Ledger
from webapp.metering.makers import maker_of
from webapp.metering.overview import Overview
from webapp.metering.prices import PriceTable
from webapp.metering.request_log import RequestLog
from webapp.metering.stats import Stats
from webapp.metering.traffic import Traffic
from webapp.metering.usage import UsageReports
from webapp.observability import telemetry
from webapp.observability.gauges import Gauges
from webapp.observability.health import Health
from webapp.observability.lifecycle import Lifecycle
from webapp.observability.metrics import ModelLabels
from webapp.observability.telemetry import Telemetry
from webapp.providers import make_providers
from webapp.providers.base import BaseProvider
from webapp.secret_refresh import SecretRefresh
from webapp.services import Services
from webapp.settings import Settings, load
from webapp.storage import migrations
from webapp.storage.answer_cache import FlaskAnswerCache, MemoryBackend, RedisBackend
from webapp.storage.breakers import CircuitBreakers
from webapp.storage.database import Database
from webapp.storage.flight_coordinator import LocalCoordinator, RedisCoordinator
from webapp.storage.redis_client import RedisClient
from webapp.storage.retention import Retention
from webapp.worker_count import worker_count

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "models"
# What programs in browsers may read, of all that responses carry (tests/api/test_cors.py).
EXPOSED = [
    "Age", "Allow", "Content-Disposition", "Idempotency-Replayed", "Retry-After",
    "WWW-Authenticate", "X-Cache", "X-Process-Time", "X-RateLimit-Limit",
    "X-RateLimit-Remaining", "X-RateLimit-Reset", "X-Request-ID", "X-Weir-Attempts",
    "X-Weir-Cost-USD", "X-Weir-Provider", "X-Weir-Route",
    "retry-after-ms", "x-should-retry",
    *(
        f"x-ratelimit-{figure}-{what}"
        for what in ("requests", "tokens")
        for figure in ("limit", "remaining", "reset")
    ),
]  # fmt: skip


class PlainJSON(DefaultJSONProvider):
    """Fields in the order they were given; escaped, as half a surrogate pair has no bytes."""

    sort_keys = False


class WeirFlask(Flask):
    """Flask without what Weir does not use and every request would pay for."""

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """No view is a coroutine."""
        return func


def create_app(settings: Settings | None = None) -> Flask:
    """The application. Raises SettingsError where it must not start."""
    settings = settings or load()
    app = WeirFlask(__name__, static_folder=ROOT / "static", template_folder=ROOT / "templates")
    app.json = PlainJSON(app)
    # Of what has no limit of its own. It also lets Werkzeug see how a chunked body ends.
    app.config["MAX_CONTENT_LENGTH"] = min(FORM_BYTES, settings.max_body_bytes)
    services = app.extensions["weir"] = assemble(app, settings)

    admission = AdmissionParts(
        services.identities,
        services.rate_limits,
        services.idempotency,
        BodyBudget(settings.max_body_bytes_in_flight),
    )
    bind(app, admission)
    limits.configure(app)
    if settings.allowed_origins:
        origins = list(settings.allowed_origins)
        cors.init_app(app, origins=origins, expose_headers=EXPOSED, always_send=False)
        # Only browsers send an Origin; nobody else needs to pay for the headers.
        answer_browsers = take_latest_after_request(app)
        app.after_request(lambda r: answer_browsers(r) if "Origin" in request.headers else r)
    app.wsgi_app = Forwarded(app.wsgi_app, settings.trusted_proxies)  # type: ignore[method-assign]
    if settings.platform == "lambda":
        finish = services.lifecycle.finish_request
        app.wsgi_app = FinishBeforeTheEnd(app.wsgi_app, finish)  # type: ignore[method-assign]

    api.register(app, services)
    dashboard.register(app, services)
    cli.register(app)
    return app


@dataclass(frozen=True, slots=True)
class _Stores:
    """What is kept outside this process, and who may ask for it."""

    database: Database
    redis: RedisClient | None
    answers: FlaskAnswerCache
    keys: KeyStore
    accounts: AccountStore
    ended_sessions: EndedSessions
    identities: Identities


@dataclass(frozen=True, slots=True)
class _Metering:
    """What counts requests, and what knows money."""

    traffic: Traffic
    request_log: RequestLog
    usage: UsageReports
    alerts: Alerts
    ledger: Ledger
    calls: Calls
    prices: PriceTable
    rate_limits: RateLimits
    token_limits: TokenRateLimits
    idempotency: IdempotencyStore


@dataclass(frozen=True, slots=True)
class _Models:
    """What answers."""

    providers: Mapping[str, BaseProvider]
    labels: ModelLabels
    breakers: CircuitBreakers
    flights: Flights
    gateway: Gateway
    predictions: Predictions


def assemble(app: Flask, settings: Settings) -> Services:
    """One of each part, wired to the others."""
    stores = _make_stores(app, settings)
    metering = _make_metering(settings, stores)
    models = _make_models(settings, stores, metering)
    return _make_services(settings, stores, metering, models)


def _make_stores(app: Flask, settings: Settings) -> _Stores:
    database = Database(settings.database_url, telemetry.database_hook(settings.database_url))
    redis = _redis_client(settings)
    keys, accounts = KeyStore(database), AccountStore(database, settings.tiers)
    return _Stores(
        database=database,
        redis=redis,
        answers=_answer_cache(app, settings, redis),
        keys=keys,
        accounts=accounts,
        ended_sessions=EndedSessions(database),
        identities=Identities(keys, accounts, Tokens(settings.secret_key), settings.tiers),
    )


def _make_metering(settings: Settings, stores: _Stores) -> _Metering:
    database = stores.database
    traffic = Traffic(database)
    alerts = Alerts(database, settings.alert_webhook_url, settings.alert_webhook_secret)
    allow_unpriced = settings.unpriced_models == "allow"
    workers = worker_count(settings)[0]
    token_limits = TokenRateLimits(stores.redis, workers)
    makers = {provider.name: maker_of(provider) for provider in settings.providers}
    return _Metering(
        traffic=traffic,
        request_log=RequestLog(database, settings.request_log_retention),
        usage=UsageReports(database),
        alerts=alerts,
        ledger=Ledger(database, Heartbeats(database), alerts, allow_unpriced=allow_unpriced),
        calls=Calls(database),
        prices=PriceTable(settings.model_prices, makers, database),
        rate_limits=RateLimits(
            stores.redis, workers, traffic.counted_today, token_limits.used_here
        ),
        token_limits=token_limits,
        idempotency=IdempotencyStore(database),
    )


def _make_models(settings: Settings, stores: _Stores, metering: _Metering) -> _Models:
    providers = make_providers(settings)
    router = Router(providers, settings.model_routes, settings.default_model)
    labels = ModelLabels(router.configured | _priced(metering.prices, providers.values()))
    breakers = CircuitBreakers(stores.redis, settings.breaker_failures, settings.breaker_pause)
    flights = Flights(RedisCoordinator(stores.redis) if stores.redis else LocalCoordinator())
    gateway = Gateway(
        router,
        stores.answers,
        flights,
        Attempts(breakers, settings.llm_max_retries),
        metering.ledger,
        metering.prices,
        metering.token_limits,
        Telemetry(labels, settings.log_redact),
    )
    predictions = Predictions(Registry(settings.model_path or MODELS), stores.answers)
    return _Models(providers, labels, breakers, flights, gateway, predictions)


def _make_services(
    settings: Settings, stores: _Stores, metering: _Metering, models: _Models
) -> Services:
    database, redis = stores.database, stores.redis
    secret_refresh = SecretRefresh(settings, database, redis, models.providers)
    lifecycle = _make_lifecycle(settings, stores, metering, models, secret_refresh)
    return Services(
        settings=settings,
        database=database,
        redis=redis,
        keys=stores.keys,
        key_changes=KeyChanges(database, settings.tiers),
        accounts=stores.accounts,
        ended_sessions=stores.ended_sessions,
        tokens=Tokens(settings.secret_key),
        audit=AuditLog(database),
        identities=stores.identities,
        rate_limits=metering.rate_limits,
        idempotency=metering.idempotency,
        ledger=metering.ledger,
        calls=metering.calls,
        alerts=metering.alerts,
        prices=metering.prices,
        traffic=metering.traffic,
        request_log=metering.request_log,
        overview=Overview(database),
        stats=Stats(metering.traffic, metering.usage, stores.keys),
        usage=metering.usage,
        lifecycle=lifecycle,
        health=Health(
            database,
            redis,
            models.providers,
            lifecycle,
            offline=not settings.has_provider,
            secrets=secret_refresh.problem if settings.secret_references else None,
        ),
        breakers=models.breakers,
        gauges=Gauges(
            database=database,
            redis=redis,
            breakers=models.breakers,
            labels=models.labels,
            drift=metering.calls.drift,
            budgets=TopBudgetUsage(metering.ledger, stores.identities),
            data_dir=settings.data_dir,
        ),
        gateway=models.gateway,
        predictions=models.predictions,
    )


def _make_lifecycle(
    settings: Settings,
    stores: _Stores,
    metering: _Metering,
    models: _Models,
    secret_refresh: SecretRefresh,
) -> Lifecycle:
    """What a worker does at its start, every second, and at its end."""
    database = stores.database

    def prepare() -> None:
        migrations.upgrade(database)
        configured_keys.sync_configured_keys(database, settings.api_keys)
        _ensure_admin(stores.accounts, settings)
        metering.prices.refresh()

    expired = [
        request_log.expired(settings.request_log_retention),
        idempotency_store.expired(),
        ended_sessions.expired(),
        *activity.expired(),
    ]
    if settings.ledger_retention:
        expired.append(calls.expired(settings.ledger_retention))
    return Lifecycle(
        prepare,
        starts=[secret_refresh.start],
        ticks=[
            metering.rate_limits.tick,
            metering.traffic.flush,
            metering.request_log.flush,
            metering.ledger.tick,
            metering.alerts.tick,
            metering.idempotency.tick,
            stores.ended_sessions.tick,
            metering.prices.tick,
            Retention(database, expired).tick,
            database.seen_lately,
            partial(telemetry.sample, database),
        ],
        finishes=[
            metering.ledger.settle_all,
            metering.traffic.flush,
            metering.request_log.flush,
        ],
        ends=[models.flights.close, metering.ledger.close],
        grace=settings.shutdown_grace,
    )


def _ensure_admin(accounts: AccountStore, settings: Settings) -> None:
    """Make the first administrator; in development with a password that is told only now."""
    password = settings.admin_password or secrets.token_urlsafe(12)
    made = accounts.ensure_admin(settings.admin_username, password)
    if made and not settings.admin_password:
        log.warning(
            "Created the first administrator %s with password %s (shown only once)",
            settings.admin_username,
            password,
        )


def _priced(prices: PriceTable, providers: Iterable[Provider]) -> set[tuple[str, str]]:
    """(provider, model) of all that have a price of their own."""
    return {
        (provider.name, model)
        for provider in providers
        for model in prices.names(provider.name, provider.kind)
    }


def _redis_client(settings: Settings) -> RedisClient | None:
    if not settings.redis_url:
        return None
    # Heroku's Redis has a certificate of its own making.
    return RedisClient(
        settings.redis_url,
        verify_certificate=settings.platform != "heroku",
        instrument=telemetry.redis_hook,
    )


def _answer_cache(app: Flask, settings: Settings, redis: RedisClient | None) -> FlaskAnswerCache:
    backend = RedisBackend if redis else MemoryBackend
    cache.init_app(
        app,
        {
            "CACHE_TYPE": f"{backend.__module__}.{backend.__name__}",
            "CACHE_DEFAULT_TIMEOUT": settings.cache_ttl,
            "CACHE_OPTIONS": {"redis": redis} if redis else {},
        },
    )
    return FlaskAnswerCache(app, cache, settings.cache_ttl, settings.cache_stale_if_error)
