"""assemble(): one of each part, wired to the others."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from flask import Flask

from webapp import local_model
from webapp.accounts import configured_keys, ended_sessions
from webapp.accounts.accounts import AccountStore
from webapp.accounts.audit import AuditLog
from webapp.accounts.ended_sessions import EndedSessions
from webapp.accounts.first_administrator import FirstAdministrator
from webapp.accounts.key_changes import KeyChanges
from webapp.accounts.key_listing import KeyListing
from webapp.accounts.keys import KeyStore
from webapp.accounts.tokens import Tokens
from webapp.admission import idempotency_store
from webapp.admission.idempotency_store import IdempotencyStore
from webapp.admission.identity import Identities
from webapp.admission.rate_limits import RateLimits
from webapp.admission.session_store import SessionStore
from webapp.admission.token_limits import TokenRateLimits
from webapp.admission.top_budget_usage import TopBudgetUsage
from webapp.api.line_format import OpenAILineFormat
from webapp.batches import retention as batches_retention
from webapp.batches.batch_store import BatchStore
from webapp.batches.batch_work import BatchWork
from webapp.batches.callbacks import Callbacks
from webapp.batches.cpu_share import CpuShare
from webapp.batches.doorbell import Doorbell
from webapp.batches.executor import Executor
from webapp.batches.figures import read_figures
from webapp.batches.finalization import Finalization
from webapp.batches.job_runner import JobRunner
from webapp.batches.line_runner import GatewayLineRunner
from webapp.batches.lines import LineStore, without_body, write_updates
from webapp.batches.native.assembly import make_native
from webapp.batches.native.held_budget import held_by_batches
from webapp.batches.pacing import Pacing
from webapp.batches.sweep import Sweep
from webapp.batches.tables import Kind
from webapp.batches.validator import Validator
from webapp.batches.worker_presence import WorkerPresence
from webapp.extensions import cache
from webapp.files.file_store import FileStore
from webapp.inference.predictions import Predictions
from webapp.inference.registry import Registry
from webapp.llm.attempts import Attempts
from webapp.llm.flight import Flights
from webapp.llm.gateway import Gateway
from webapp.llm.ports import Provider
from webapp.llm.routing import Router
from webapp.metering import (
    activity,
    calls,
    request_log,
    rollups,
    target_activity,
    target_latency,
)
from webapp.metering.alerts import Alerts
from webapp.metering.calls import Calls
from webapp.metering.heartbeats import Heartbeats
from webapp.metering.ledger import Ledger
from webapp.metering.makers import maker_of
from webapp.metering.overview import Overview
from webapp.metering.prices import PriceTable
from webapp.metering.request_log import RequestLog
from webapp.metering.request_search import RequestSearch
from webapp.metering.rollup_writer import RollupWriter
from webapp.metering.stats import Stats
from webapp.metering.traffic import Traffic
from webapp.metering.usage import UsageReports
from webapp.observability import telemetry
from webapp.observability.gauges import Gauges
from webapp.observability.health import Health
from webapp.observability.lifecycle import Lifecycle
from webapp.observability.metrics import ModelLabels
from webapp.observability.telemetry import Telemetry
from webapp.providers import make_providers, remaining_limits
from webapp.providers.base import BaseProvider
from webapp.secret_refresh import SecretRefresh
from webapp.services import Services
from webapp.settings import Settings
from webapp.storage import migrations, response_ids
from webapp.storage.answer_cache import FlaskAnswerCache, MemoryBackend, RedisBackend
from webapp.storage.blobs import BlobStore, make_blob_store
from webapp.storage.breakers import CircuitBreakers
from webapp.storage.busy_targets import BusyTargets
from webapp.storage.database import Database
from webapp.storage.flight_coordinator import LocalCoordinator, RedisCoordinator
from webapp.storage.response_ids import ResponseIds
from webapp.storage.retention import Retention
from webapp.worker_count import worker_count

if TYPE_CHECKING:
    from webapp.storage.redis_client import RedisClient

MODELS = Path(__file__).resolve().parent.parent / "models"
SHARE_OF_SERVING = 4  # of BATCH_CONCURRENCY, serving processes have a quarter


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
    heartbeats: Heartbeats
    blobs: BlobStore
    files: FileStore
    responses: ResponseIds


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
    sessions: SessionStore


@dataclass(frozen=True, slots=True)
class _Models:
    """What answers."""

    providers: Mapping[str, BaseProvider]
    labels: ModelLabels
    counted_models: ModelLabels
    telemetry: Telemetry
    breakers: CircuitBreakers
    busy_targets: BusyTargets
    flights: Flights
    gateway: Gateway
    predictions: Predictions


@dataclass(frozen=True, slots=True)
class _Batches:
    """What answers later."""

    batches: BatchStore
    lines: LineStore
    endpoints: Collection[str]
    executor: Executor
    sweep: Sweep
    callbacks: Callbacks
    work: BatchWork


def assemble(app: Flask, settings: Settings, *, batch_worker: bool) -> Services:
    """One of each part, wired to the others."""
    stores = _make_stores(app, settings)
    metering = _make_metering(settings, stores)
    models = _make_models(settings, stores, metering)
    batches = _make_batches(app, settings, stores, metering, models, batch_worker=batch_worker)
    return _make_services(settings, stores, metering, models, batches, batch_worker=batch_worker)


def _make_stores(app: Flask, settings: Settings) -> _Stores:
    database = Database(settings.database_url, telemetry.database_hook(settings.database_url))
    redis = _redis_client(settings)
    keys, accounts = KeyStore(database), AccountStore(database, settings.tiers)
    blobs = make_blob_store(settings.files_url, settings.data_dir, database)
    heartbeats = Heartbeats(database)
    return _Stores(
        database=database,
        redis=redis,
        answers=_answer_cache(app, settings, redis),
        keys=keys,
        accounts=accounts,
        ended_sessions=EndedSessions(database),
        identities=Identities(keys, accounts, Tokens(settings.secret_key), settings.tiers),
        heartbeats=heartbeats,
        blobs=blobs,
        files=FileStore(
            database,
            blobs,
            quota=settings.files_quota_bytes,
            max_bytes=settings.files_max_bytes,
            retention=settings.files_retention,
            worker_id=heartbeats.register,
        ),
        responses=ResponseIds(database),
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
        ledger=Ledger(
            database,
            stores.heartbeats,
            alerts,
            allow_unpriced=allow_unpriced,
            write_results=write_updates,
            without_body=without_body,
            held_by_batches=held_by_batches,
        ),
        calls=Calls(database),
        prices=PriceTable(settings.model_prices, makers, database),
        rate_limits=RateLimits(
            stores.redis, workers, traffic.counted_today, token_limits.used_here
        ),
        token_limits=token_limits,
        idempotency=IdempotencyStore(database),
        sessions=SessionStore(database),
    )


def _make_models(settings: Settings, stores: _Stores, metering: _Metering) -> _Models:
    providers = make_providers(settings)
    router = Router(providers, settings.model_routes, settings.default_model)
    known = router.configured | _priced(metering.prices, providers.values())
    labels, counted_models = ModelLabels(known), ModelLabels(known, target_activity.MAX_MODELS)
    breakers = CircuitBreakers(stores.redis, settings.breaker_failures, settings.breaker_pause)
    busy_targets = BusyTargets(stores.redis)
    flights = Flights(RedisCoordinator(stores.redis) if stores.redis else LocalCoordinator())
    observer = Telemetry(labels, settings.log_redact)
    gateway = Gateway(
        router,
        stores.answers,
        flights,
        Attempts(breakers, busy_targets, settings.llm_max_retries),
        metering.ledger,
        metering.prices,
        metering.token_limits,
        observer,
        stores.responses,
    )
    predictions = Predictions(Registry(settings.model_path or MODELS), stores.answers)
    return _Models(
        providers,
        labels,
        counted_models,
        observer,
        breakers,
        busy_targets,
        flights,
        gateway,
        predictions,
    )


def _make_batches(
    app: Flask,
    settings: Settings,
    stores: _Stores,
    metering: _Metering,
    models: _Models,
    *,
    batch_worker: bool,
) -> _Batches:
    database, ledger = stores.database, metering.ledger
    blobs, files = stores.blobs, stores.files
    batches, lines = BatchStore(database), LineStore(database)
    finalization = Finalization(batches, lines, files)
    line_format = OpenAILineFormat()
    most = settings.batch_concurrency
    if not batch_worker:
        most = max(1, most // SHARE_OF_SERVING)
    pacing = Pacing(
        most,
        partial(remaining_limits, models.providers),
        models.busy_targets,
        models.breakers,
    )
    runner = GatewayLineRunner(
        models.gateway,
        stores.identities,
        line_format,
        deadline=settings.stream_deadline,
        own_cache=settings.cache_scope == "key",
        refused=pacing.refused,
    )
    native = make_native(
        database,
        blobs,
        batches,
        ledger,
        metering.prices,
        models.gateway,
        line_format,
        runner.principal,
        models.telemetry.redact,
    )
    validator = Validator(batches, lines, blobs, finalization, runner, line_format, native.choice)
    executor = Executor(
        batches,
        lines,
        blobs,
        finalization,
        validator,
        ledger,
        {
            Kind.BATCH: runner,
            Kind.JOB: JobRunner(app, stores.identities, models.gateway.router),
        },
        native.batches,
        pacing,
        most,
        CpuShare() if batch_worker else None,
    )
    doorbell = Doorbell(settings.broker, verify_certificate=settings.platform != "heroku")
    presence = WorkerPresence(database)
    # On Lambda a process is frozen between requests.
    never_here = batch_worker or settings.platform == "lambda"
    return _Batches(
        batches,
        lines,
        line_format.endpoints,
        executor,
        Sweep(
            batches,
            lines,
            # Its workers are scaled by the log.
            figures=partial(database.read, read_figures) if settings.platform == "ecs" else None,
        ),
        Callbacks(database, lines, settings.callback_hosts, settings.callback_secret),
        BatchWork(
            executor,
            batches,
            doorbell.ring,
            (lambda **_: False) if never_here else presence.works_here,
        ),
    )


def _make_services(
    settings: Settings,
    stores: _Stores,
    metering: _Metering,
    models: _Models,
    batches: _Batches,
    *,
    batch_worker: bool,
) -> Services:
    database, redis = stores.database, stores.redis
    secret_refresh = SecretRefresh(settings, database, redis, models.providers)
    first_administrator = FirstAdministrator(
        stores.accounts, settings.admin_username, settings.admin_password
    )
    lifecycle = _make_lifecycle(
        settings,
        stores,
        metering,
        models,
        batches,
        secret_refresh,
        first_administrator,
        batch_worker=batch_worker,
    )
    return Services(
        settings=settings,
        database=database,
        redis=redis,
        keys=stores.keys,
        key_changes=KeyChanges(database, settings.tiers),
        key_listing=KeyListing(database),
        accounts=stores.accounts,
        first_administrator=first_administrator,
        ended_sessions=stores.ended_sessions,
        tokens=Tokens(settings.secret_key),
        audit=AuditLog(database),
        identities=stores.identities,
        rate_limits=metering.rate_limits,
        idempotency=metering.idempotency,
        sessions=metering.sessions,
        heartbeats=stores.heartbeats,
        ledger=metering.ledger,
        calls=metering.calls,
        alerts=metering.alerts,
        prices=metering.prices,
        traffic=metering.traffic,
        request_log=metering.request_log,
        request_search=RequestSearch(database),
        overview=Overview(database),
        stats=Stats(metering.traffic, metering.usage, stores.keys),
        usage=metering.usage,
        lifecycle=lifecycle,
        health=Health(
            database,
            redis,
            models.providers,
            lifecycle,
            offline=not settings.has_provider and not local_model.address(),
            secrets=secret_refresh.problem if settings.secret_references else None,
        ),
        counted_models=models.counted_models,
        breakers=models.breakers,
        busy_targets=models.busy_targets,
        remaining_limits=partial(remaining_limits, models.providers),
        gauges=Gauges(
            database=database,
            redis=redis,
            breakers=models.breakers,
            labels=models.labels,
            drift=metering.calls.drift,
            budgets=TopBudgetUsage(metering.ledger, stores.identities),
            batches=partial(database.read, read_figures),
            stale_secrets=secret_refresh.problem,
            data_dir=settings.data_dir,
        ),
        gateway=models.gateway,
        providers=models.providers,
        files=stores.files,
        predictions=models.predictions,
        batches=batches.batches,
        batch_lines=batches.lines,
        batch_endpoints=batches.endpoints,
        batch_work=batches.work,
        executor=batches.executor,
    )


def _make_lifecycle(
    settings: Settings,
    stores: _Stores,
    metering: _Metering,
    models: _Models,
    batches: _Batches,
    secret_refresh: SecretRefresh,
    first_administrator: FirstAdministrator,
    *,
    batch_worker: bool,
) -> Lifecycle:
    """What a worker does at its start, every second, and at its end."""
    database = stores.database

    def prepare() -> None:
        migrations.upgrade(database)
        if not batch_worker:
            # A worker may be without API_KEYS, and would revoke those of the serving processes.
            configured_keys.sync_configured_keys(database, settings.api_keys)
            first_administrator.ensure()
        metering.prices.refresh()

    expired = [
        request_log.expired(settings.request_log_retention),
        idempotency_store.expired(),
        ended_sessions.expired(),
        response_ids.expired(),
        *activity.expired(),
        target_activity.expired(),
        target_latency.expired(),
        rollups.expired(),
        *batches_retention.expired(settings.files_retention[1], settings.jobs_retention),
    ]
    if settings.ledger_retention:
        expired.append(calls.expired(settings.ledger_retention))
    lifecycle = Lifecycle(
        prepare,
        starts=[secret_refresh.start],
        ticks=[
            metering.rate_limits.tick,
            metering.traffic.flush,
            metering.request_log.flush,
            metering.ledger.tick,
            metering.alerts.tick,
            metering.idempotency.tick,
            metering.sessions.tick,
            stores.ended_sessions.tick,
            stores.responses.tick,
            metering.prices.tick,
            stores.files.tick,
            Retention(database, expired).tick,
            RollupWriter(database).tick,
            batches.sweep.tick,
            batches.callbacks.tick,
            lambda: batches.work.tick(draining=lifecycle.draining),
            database.seen_lately,
            partial(telemetry.sample, database),
        ],
        finishes=[
            stores.responses.tick,
            metering.ledger.settle_all,
            metering.traffic.flush,
            metering.request_log.flush,
        ],
        ends=[
            lambda: batches.executor.stop(min(lifecycle.grace_left, settings.shutdown_grace)),
            models.flights.close,
            stores.responses.tick,
            stores.files.close,
            metering.ledger.close,
        ],
        grace=settings.shutdown_grace,
    )
    return lifecycle


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
    from webapp.storage.redis_client import RedisClient

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
