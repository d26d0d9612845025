"""The parts that create_app() has put together, for whoever needs one of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from flask import current_app

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from webapp.accounts.accounts import AccountStore
    from webapp.accounts.audit import AuditLog
    from webapp.accounts.ended_sessions import EndedSessions
    from webapp.accounts.first_administrator import FirstAdministrator
    from webapp.accounts.key_changes import KeyChanges
    from webapp.accounts.key_listing import KeyListing
    from webapp.accounts.keys import KeyStore
    from webapp.accounts.tokens import Tokens
    from webapp.admission.idempotency_store import IdempotencyStore
    from webapp.admission.identity import Identities
    from webapp.admission.rate_limits import RateLimits
    from webapp.admission.session_store import SessionStore
    from webapp.batches.batch_store import BatchStore
    from webapp.batches.batch_work import BatchWork
    from webapp.batches.executor import Executor
    from webapp.batches.lines import LineStore
    from webapp.files.file_store import FileStore
    from webapp.inference.predictions import Predictions
    from webapp.llm.gateway import Gateway
    from webapp.metering.alerts import Alerts
    from webapp.metering.calls import Calls
    from webapp.metering.heartbeats import Heartbeats
    from webapp.metering.ledger import Ledger
    from webapp.metering.overview import Overview
    from webapp.metering.prices import PriceTable
    from webapp.metering.request_log import RequestLog
    from webapp.metering.request_search import RequestSearch
    from webapp.metering.stats import Stats
    from webapp.metering.traffic import Traffic
    from webapp.metering.usage import UsageReports
    from webapp.observability.gauges import Gauges
    from webapp.observability.health import Health
    from webapp.observability.lifecycle import Lifecycle
    from webapp.observability.metrics import ModelLabels
    from webapp.providers.base import BaseProvider
    from webapp.providers.remaining_limits import RemainingLimits
    from webapp.settings import Settings
    from webapp.storage.breakers import CircuitBreakers
    from webapp.storage.busy_targets import BusyTargets
    from webapp.storage.database import Database
    from webapp.storage.redis_client import RedisClient


@dataclass(kw_only=True)
class Services:
    """One of each, for the life of a process."""

    settings: Settings
    database: Database
    redis: RedisClient | None
    keys: KeyStore
    key_changes: KeyChanges
    key_listing: KeyListing
    accounts: AccountStore
    first_administrator: FirstAdministrator
    ended_sessions: EndedSessions
    tokens: Tokens
    audit: AuditLog
    identities: Identities
    rate_limits: RateLimits
    idempotency: IdempotencyStore
    sessions: SessionStore
    heartbeats: Heartbeats
    ledger: Ledger
    calls: Calls
    alerts: Alerts
    prices: PriceTable
    traffic: Traffic
    request_log: RequestLog
    request_search: RequestSearch
    overview: Overview
    stats: Stats
    usage: UsageReports
    lifecycle: Lifecycle
    health: Health
    gauges: Gauges
    counted_models: ModelLabels
    breakers: CircuitBreakers
    busy_targets: BusyTargets
    remaining_limits: Callable[[str], RemainingLimits | None]
    gateway: Gateway
    providers: Mapping[str, BaseProvider]
    files: FileStore
    predictions: Predictions
    batches: BatchStore
    batch_lines: LineStore
    batch_endpoints: Collection[str]
    batch_work: BatchWork
    executor: Executor


def services() -> Services:
    """The parts of the application that handles the current request."""
    return cast("Services", current_app.extensions["weir"])
