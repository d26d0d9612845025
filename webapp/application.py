"""create_app(): the one place where the parts are put together."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from flask import Flask, request
from flask.json.provider import DefaultJSONProvider
from werkzeug.middleware.proxy_fix import ProxyFix

from webapp import api, cli, dashboard
from webapp.accounts import configured_keys
from webapp.accounts.accounts import AccountStore
from webapp.accounts.audit import AuditLog
from webapp.accounts.key_changes import KeyChanges
from webapp.accounts.keys import KeyStore
from webapp.accounts.tokens import Tokens
from webapp.admission import limits
from webapp.admission.idempotency_store import IdempotencyStore
from webapp.admission.identity import Identities
from webapp.admission.rate_limits import RateLimits
from webapp.admission.token_limits import TokenRateLimits
from webapp.admission.top_budget_usage import TopBudgetUsage
from webapp.extensions import cache, cors
from webapp.inference.predictions import Predictions
from webapp.inference.registry import Registry
from webapp.library_internals import take_latest_after_request
from webapp.llm.attempts import Attempts
from webapp.llm.flight import Flights
from webapp.llm.gateway import Gateway
from webapp.llm.ports import Provider
from webapp.llm.routing import Router
from webapp.metering.alerts import Alerts
from webapp.metering.calls import Calls
from webapp.metering.heartbeats import Heartbeats
from webapp.metering.ledger import Ledger
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
from webapp.services import Services
from webapp.settings import Settings, load
from webapp.storage import migrations
from webapp.storage.answer_cache import FlaskAnswerCache, MemoryBackend, RedisBackend
from webapp.storage.breakers import CircuitBreakers
from webapp.storage.database import Database
from webapp.storage.flight_coordinator import LocalCoordinator, RedisCoordinator
from webapp.storage.redis_client import RedisClient
from webapp.worker_count import worker_count

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "models"
EXPOSED = [
    "Age", "Idempotency-Replayed", "Retry-After", "X-Cache", "X-Process-Time", "X-RateLimit-Limit",
    "X-RateLimit-Remaining", "X-RateLimit-Reset", "X-Request-ID", "X-Weir-Attempts",
    "X-Weir-Provider", "X-Weir-Route",
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
    services = app.extensions["weir"] = assemble(app, settings)

    limits.configure(app)
    if settings.allowed_origins:
        origins = list(settings.allowed_origins)
        cors.init_app(app, origins=origins, expose_headers=EXPOSED, always_send=False)
        # Only browsers send an Origin; nobody else needs to pay for the headers.
        answer_browsers = take_latest_after_request(app)
        app.after_request(lambda r: answer_browsers(r) if "Origin" in request.headers else r)
    if settings.trusted_proxies:
        hops = settings.trusted_proxies
        app.wsgi_app = ProxyFix(app.wsgi_app, hops, hops, hops)  # type: ignore[method-assign]

    api.register(app, services)
    dashboard.register(app, services)
    cli.register(app)
    return app


def assemble(app: Flask, settings: Settings) -> Services:
    """One of each part, wired to the others."""
    database = Database(settings.database_url, telemetry.database_hook(settings.database_url))
    redis = _redis(settings)
    keys = KeyStore(database)
    accounts = AccountStore(database, settings.tiers)
    tokens = Tokens(settings.secret_key)
    key_changes = KeyChanges(database, settings.tiers)
    traffic = Traffic(database)
    usage = UsageReports(database)
    request_log = RequestLog(database, settings.request_log_retention)
    idempotency = IdempotencyStore(database)
    prices = PriceTable(settings.model_prices)
    alerts = Alerts(database, settings.alert_webhook_url, settings.alert_webhook_secret)
    ledger = Ledger(
        database,
        Heartbeats(database),
        alerts,
        allow_unpriced=settings.unpriced_models == "allow",
    )
    calls = Calls(database, settings.ledger_retention)
    providers = make_providers(settings)
    breakers = CircuitBreakers(redis, settings.breaker_failures, settings.breaker_pause)
    flights = Flights(RedisCoordinator(redis) if redis else LocalCoordinator())
    router = Router(providers, settings.model_routes, settings.default_model)

    identities = Identities(keys, accounts, tokens, settings.tiers)
    labels = ModelLabels(router.configured | _priced(prices, providers.values()))

    workers = worker_count(settings)[0]
    tokens_a_minute = TokenRateLimits(redis, workers)
    rate_limits = RateLimits(redis, workers, traffic.counted_today, tokens_a_minute.used_here)

    def prepare() -> None:
        migrations.upgrade(database)
        configured_keys.sync_configured_keys(database, settings.api_keys)
        _ensure_admin(accounts, settings)

    lifecycle = Lifecycle(
        prepare,
        ticks=[
            rate_limits.tick,
            traffic.flush,
            request_log.flush,
            ledger.tick,
            calls.forget,
            traffic.forget,
            request_log.forget,
            alerts.tick,
            idempotency.tick,
            database.seen_lately,
            partial(telemetry.sample, database),
        ],
        ends=[flights.close, ledger.close],
        grace=settings.shutdown_grace,
    )
    answers = _answer_cache(app, settings, redis)
    attempts = Attempts(breakers, settings.llm_max_retries)
    return Services(
        settings=settings,
        database=database,
        redis=redis,
        keys=keys,
        key_changes=key_changes,
        accounts=accounts,
        tokens=tokens,
        audit=AuditLog(database),
        identities=identities,
        rate_limits=rate_limits,
        idempotency=idempotency,
        ledger=ledger,
        calls=calls,
        alerts=alerts,
        prices=prices,
        traffic=traffic,
        request_log=request_log,
        overview=Overview(database),
        stats=Stats(traffic, usage, keys),
        usage=usage,
        lifecycle=lifecycle,
        health=Health(database, redis, providers, lifecycle, offline=not settings.has_provider),
        breakers=breakers,
        gauges=Gauges(
            database=database,
            redis=redis,
            breakers=breakers,
            labels=labels,
            drift=calls.drift,
            budgets=TopBudgetUsage(ledger, identities),
            data_dir=settings.data_dir,
        ),
        gateway=Gateway(
            router,
            answers,
            flights,
            attempts,
            ledger,
            prices,
            tokens_a_minute,
            Telemetry(labels),
        ),
        predictions=Predictions(Registry(settings.model_path or MODELS), answers),
    )


def _ensure_admin(accounts: AccountStore, settings: Settings) -> None:
    """Make the first administrator; in development with a password that is told only now."""
    password = settings.admin_password or secrets.token_urlsafe(12)
    made = accounts.ensure_admin(settings.admin_username, password)
    if made and not settings.admin_password:
        log.warning(
            "The first administrator is %s, with the password %s (told only once)",
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


def _redis(settings: Settings) -> RedisClient | None:
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
