"""The checks of `flask doctor`: problems of an installation, found without paid calls."""

from __future__ import annotations

import difflib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import gevent
from geventhttpclient import HTTPClient
from geventhttpclient.response import HTTPParseError
from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from webapp import money
from webapp.errors import StoreUnavailable, WeirError
from webapp.llm.routing import Target
from webapp.metering.makers import host_of, maker_of
from webapp.metering.prices import Edition
from webapp.named_settings import PROVIDER_VARIABLE, TIER_VARIABLE
from webapp.services import Services
from webapp.setting_parsers import DEMO_SECRETS, ConfiguredProvider
from webapp.settings import table
from webapp.storage import migrations
from webapp.storage.redis_client import RedisUnavailable
from webapp.worker_count import worker_count

CHECK_TIMEOUT = 5.0
SKEW_WARNING, SKEW_PROBLEM = 2.0, 30.0
CONNECTIONS_PER_WORKER = 10  # the maximum of a worker's connections to PostgreSQL
DISK_WARNING = 500 * 1024 * 1024
EVENT_INTERVAL = 0.2
PRICE_AGE_WARNING = 60  # days
MAKER_VARIABLES = {
    "openai": "OPENAI_PRICES",
    "azure": "AZURE_OPENAI_PRICES",
    "anthropic": "ANTHROPIC_PRICES",
}

Status = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check, and advice if it is not "ok"."""

    check: str
    status: Status
    found: str
    advice: str = ""


class Doctor:
    """Checks the installation that the settings describe; `url` is its public address."""

    def __init__(self, services: Services, environment: Mapping[str, str], url: str = "") -> None:
        self._services = services
        self._settings = services.settings
        self._environment = environment
        self._url = url.rstrip("/")

    def findings(self) -> Iterator[Finding]:
        """Run all checks in order; a check that fails does not stop the others."""
        checks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
            ("settings", self._settings_check),
            ("database", self._database_check),
            ("ledger", self._ledger_check),
            ("redis", self._redis_check),
            ("clock", self._clock_check),
            ("providers", self._providers_check),
            ("prices", self._prices_check),
            ("workers", self._workers_check),
        ]
        if self._url:
            checks += [("url", self._url_check), ("streaming", self._streaming_check)]
        for name, check in checks:
            try:
                yield from check()
            except Exception as error:  # noqa: BLE001 the other checks must still run
                yield _broken(name, error)

    def _settings_check(self) -> Iterator[Finding]:
        settings = self._settings
        yield Finding("settings", "ok", f"valid for {settings.app_env}")
        known = {field.metadata["variable"] for field in table()}
        for name in sorted(self._environment):
            if name in known or PROVIDER_VARIABLE.fullmatch(name) or TIER_VARIABLE.fullmatch(name):
                continue
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.85)
            if near or name.startswith(("PROVIDER_", "TIER_")):
                meant = near[0] if near else "another setting"
                yield Finding("settings", "warning", f"{name} is unknown", f"Did you mean {meant}?")
        demo = any(key.secret in DEMO_SECRETS for key in settings.api_keys)
        if demo and settings.host not in {"127.0.0.1", "::1", "localhost"}:
            yield Finding(
                "settings", "warning", "the demo keys are public knowledge",
                "Set API_KEYS, or APP_ENV=production.",
            )  # fmt: skip
        if settings.production and self._services.database.is_sqlite:
            yield Finding(
                "settings", "warning", "SQLite in production",
                "It supports one process. For more, set DATABASE_URL to PostgreSQL.",
            )  # fmt: skip

    def _database_check(self) -> Iterator[Finding]:
        database = self._services.database
        began = time.perf_counter()
        try:
            revision = database.read(migrations.current)
        except StoreUnavailable:
            if problem := database.problem:
                yield Finding("database", "problem", *problem)
                return
            yield Finding(
                "database", "problem", "cannot be reached",
                "Check DATABASE_URL, and that the database is running.",
            )  # fmt: skip
            return
        except migrations.UnknownRevision as error:
            yield Finding("database", "problem", str(error), "Is DATABASE_URL right?")
            return
        took = (time.perf_counter() - began) * 1000
        yield Finding(
            "database", "ok", f"{database.url.get_backend_name()} answers in {took:.1f} ms"
        )
        if revision:
            yield from self._write_check()
        if migrations.is_later(revision):
            found = f"at {revision}, newer than this version's {migrations.head()}: both work"
            yield Finding("database", "ok", found)
        elif revision != migrations.head():
            yield Finding(
                "database", "warning",
                f"schema is {revision or 'missing'}, expected {migrations.head()}",
                "Run flask db upgrade, or start Weir: it migrates at start.",
            )  # fmt: skip
        if database.is_sqlite:
            folder = Path(database.url.database or ".").resolve().parent
            free = shutil.disk_usage(folder).free
            if free < DISK_WARNING:
                yield Finding(
                    "database",
                    "warning",
                    f"{free // 2**20} MB are free on its disk",
                    "Free up disk space.",
                )
            return
        most, used = database.read(
            lambda c: c.execute(
                text(
                    "SELECT current_setting('max_connections')::int, count(*) FROM pg_stat_activity"
                )
            ).one()
        )
        wanted = CONNECTIONS_PER_WORKER * worker_count(self._settings)[0]
        if wanted > most - 5:
            yield Finding(
                "database", "warning",
                f"this replica may open {wanted} connections, the server allows {most}",
                "Raise max_connections, put a pooler in front, or lower WEB_CONCURRENCY.",
            )  # fmt: skip
        else:
            yield Finding("database", "ok", f"{used} of {most} connections are in use")

    def _write_check(self) -> Iterator[Finding]:
        """Whether the database takes a write, which is rolled back."""
        database = self._services.database

        def write(connection: Connection) -> None:
            with connection.begin_nested() as attempt:
                connection.execute(text("CREATE TABLE weir_doctor AS SELECT 1 AS number"))
                attempt.rollback()

        try:
            database.write(write)
        except StoreUnavailable:
            if problem := database.problem:
                yield Finding("database", "problem", *problem)
            else:
                found = "takes no write now"
                yield Finding("database", "warning", found, "Is another transaction very long?")
        except SQLAlchemyError:
            pass  # this user may not create tables: that does not matter here

    def _ledger_check(self) -> Iterator[Finding]:
        try:
            drift = self._services.calls.drift()
        except (StoreUnavailable, SQLAlchemyError):
            return  # reported by the database check
        if drift:
            yield Finding(
                "ledger", "problem", f"budgets and ledger differ by {money.text(drift)} USD",
                "This is a bug in Weir. Please report it with the log.",
            )  # fmt: skip
        else:
            yield Finding("ledger", "ok", "budgets and ledger agree")

    def _redis_check(self) -> Iterator[Finding]:
        redis = self._services.redis
        if redis is None:
            yield Finding("redis", "ok", "not configured: one process, with its own cache")
            return
        if problem := redis.problem():
            yield Finding("redis", "problem", problem.found, problem.advice)
            return
        began = time.perf_counter()
        redis.execute("PING")
        took = (time.perf_counter() - began) * 1000
        yield Finding("redis", "ok", f"answers in {took:.1f} ms")
        values = redis.info()
        policy = values.get("maxmemory_policy", "noeviction")
        if policy.startswith("allkeys") and values.get("maxmemory", "0") != "0":
            yield Finding(
                "redis", "warning", f"{policy} may evict rate limits when memory is full",
                "Use volatile-lru: it evicts the least recently used keys, mostly cached answers.",
            )  # fmt: skip

    def _clock_check(self) -> Iterator[Finding]:
        clocks: dict[str, Callable[[], float]] = {}
        database, redis = self._services.database, self._services.redis
        if not database.is_sqlite:
            now = text("SELECT extract(epoch FROM clock_timestamp())")
            clocks["the database"] = lambda: float(
                database.read(lambda c: c.execute(now).scalar_one())
            )
        if redis is not None:
            clocks["Redis"] = lambda: int(redis.execute("TIME")[0])
        if self._url:
            clocks["the public address"] = lambda: _date_of(_get(self._url + "/liveness"))
        for owner, read in clocks.items():
            try:
                skew = abs(read() - time.time())
            except (StoreUnavailable, RedisUnavailable, OSError, ValueError, TypeError):
                continue  # reported by its own check
            # Redis and HTTP have a resolution of whole seconds.
            if skew > SKEW_WARNING:
                status: Status = "problem" if skew > SKEW_PROBLEM else "warning"
                found = f"differs from {owner} by {skew:.0f} s"
                yield Finding("clock", status, found, "Synchronize both clocks with NTP.")
            else:
                yield Finding("clock", "ok", f"agrees with {owner}")

    def _providers_check(self) -> Iterator[Finding]:
        if not self._settings.has_provider:
            yield Finding(
                "providers", "warning", "none is configured: Weir answers offline",
                "Set OPENAI_API_KEY or OPENAI_BASE_URL, or configure another provider.",
            )  # fmt: skip
        listed: dict[str, set[str]] = {}
        for provider in self._services.gateway.router.providers:
            try:
                provider.check(CHECK_TIMEOUT)
                yield Finding("providers", "ok", f"{provider.name} answers")
                listed[provider.name] = {str(model["id"]) for model in provider.models()}
            except WeirError as error:
                advice = "Check its API key and its quota."
                if error.name != "ProviderRefusedWeir":
                    advice = "Check its base URL, and the network from here."
                found = f"{provider.name}: {error.name}: {error.message}"
                yield Finding("providers", "problem", found, advice)
        for target in self._targets():
            models = listed.get(target.provider.name)
            if models and target.model not in models:
                yield Finding(
                    "providers", "warning", f"{target.name} is not in the provider's model list",
                    "Check MODEL_ROUTES and DEFAULT_MODEL for typos.",
                )  # fmt: skip

    def _prices_check(self) -> Iterator[Finding]:
        targets = self._targets()
        prices = self._services.prices
        # Without the database, which has its own check, the built-in prices are checked.
        with suppress(StoreUnavailable, SQLAlchemyError):
            prices.refresh()
        for provider in self._settings.providers:
            yield from self._maker_check(provider)
        for target in targets:
            if prices.of(target.provider.name, target.provider.kind, target.model) is None:
                yield Finding(
                    "prices", "warning", f"{target.name} has no price: its calls are unpriced, and "
                    "refused for keys with a budget", "Set MODEL_PRICES, or UNPRICED_MODELS=allow.",
                )  # fmt: skip
        if targets:
            yield Finding("prices", "ok", f"{len(targets)} models checked")
        if any(maker_of(provider) for provider in self._settings.providers):
            yield price_age(prices.editions[0], datetime.now(UTC).date())

    def _maker_check(self, provider: ConfiguredProvider) -> Iterator[Finding]:
        """Whose prices hold for a provider whose host is not the maker's own."""
        maker, host = maker_of(provider), host_of(provider)
        variable = MAKER_VARIABLES.get(provider.name, f"PROVIDER_{provider.name.upper()}_PRICES")
        if maker and maker.by_setting:
            found = f"{provider.name}: {host} leads to the maker ({variable}=maker)"
            yield Finding("prices", "ok", f"{found}: the prices of {maker.sections[0]} hold")
        elif not maker:
            found = f"{provider.name}: {host} is not the maker's own host"
            owners = {name.partition("/")[0] for name in self._services.prices.overrides}
            if provider.name in owners:
                yield Finding("prices", "ok", f"{found}: only those of MODEL_PRICES hold")
            else:
                advice = f"Set MODEL_PRICES, or {variable}=maker if it leads to the maker."
                yield Finding("prices", "warning", f"{found}: no prices hold", advice)

    def _targets(self) -> list[Target]:
        """The targets that the settings name."""
        router = self._services.gateway.router
        named = list(router.routed)
        if self._settings.default_model and not named:
            named = list(router.resolve(None).targets)
        return named

    def _workers_check(self) -> Iterator[Finding]:
        count, why = worker_count(self._settings)
        wanted = self._settings.web_concurrency
        if wanted and wanted > count:
            advice = "Set REDIS_URL, or WEB_CONCURRENCY=1."
            yield Finding("workers", "warning", f"{count} of {wanted} started", advice)
        else:
            yield Finding("workers", "ok", f"{count} ({why})")

    def _url_check(self) -> Iterator[Finding]:
        for path in ("/liveness", "/readiness"):
            try:
                status = _get(self._url + path).status_code
            except (OSError, HTTPParseError, RuntimeError, ValueError) as error:
                found = f"{path} cannot be reached ({type(error).__name__})"
                yield Finding("url", "problem", found, "Check the address and its certificate.")
                return
            if status != 200:
                advice = "See the logs of Weir and of the proxy."
                yield Finding("url", "problem", f"{path} answers {status}", advice)
                return
        yield Finding("url", "ok", "alive and ready")
        sent = {"X-Request-ID": "weir-doctor"}
        if _get(self._url + "/liveness", sent).get("x-request-id") != "weir-doctor":
            yield Finding(
                "url", "warning", "X-Request-ID is not passed through",
                "Configure the proxy to pass headers in both directions.",
            )  # fmt: skip

    def _streaming_check(self) -> Iterator[Finding]:
        settings = self._settings
        if not settings.admin_password:
            yield Finding(
                "streaming", "warning", "not checked: needs an administrator token",
                "Run it where ADMIN_USERNAME and ADMIN_PASSWORD are set.",
            )  # fmt: skip
            return
        body = {"username": settings.admin_username, "password": settings.admin_password}
        answer = _request("POST", self._url + "/token", body=body)
        if answer.status_code != 200:
            yield Finding(
                "streaming", "warning", f"not checked: /token answers {answer.status_code}",
                "Check ADMIN_PASSWORD: the password may have been changed since.",
            )  # fmt: skip
            return
        token = json.loads(answer.read())["access_token"]
        headers = {"Authorization": f"Bearer {token}"}
        arrivals = []
        events = _request("GET", self._url + "/admin/stream-check", headers)
        while line := events.readline(b"\n"):
            if line.startswith(b"data:"):
                arrivals.append(time.monotonic())
        gaps = [later - earlier for earlier, later in pairwise(arrivals)]
        if gaps and min(gaps) > EVENT_INTERVAL / 4:
            yield Finding("streaming", "ok", "events arrive unbuffered")
        else:
            yield Finding(
                "streaming", "problem", "events arrive together: a proxy buffers them",
                "Disable buffering in the proxy (nginx: proxy_buffering off).",
            )  # fmt: skip


def price_age(edition: Edition, today: date) -> Finding:
    """Whether the prices in use are recent."""
    days = (today - edition.date).days
    if days <= PRICE_AGE_WARNING:
        return Finding("prices", "ok", f"{edition.source}, {days} days old")
    found = f"{edition.source} is {days} days old"
    return Finding("prices", "warning", found, "Run flask prices update.")


def _broken(check: str, error: Exception) -> Finding:
    found = f"cannot be checked: {type(error).__name__}: {error}"[:200]
    return Finding(check, "problem", found, "See the other checks.")


def _get(url: str, headers: Mapping[str, str] | None = None) -> Any:
    return _request("GET", url, headers)


def _request(
    method: str, url: str, headers: Mapping[str, str] | None = None, body: Any = None
) -> Any:
    parts = urlsplit(url)
    client = HTTPClient.from_url(
        f"{parts.scheme}://{parts.netloc}",
        connection_timeout=CHECK_TIMEOUT,
        network_timeout=CHECK_TIMEOUT,
    )
    sent = dict(headers or {})
    content = b""
    if body is not None:
        content, sent["Content-Type"] = json.dumps(body).encode(), "application/json"
    with gevent.Timeout(CHECK_TIMEOUT, TimeoutError):
        return client.request(method, parts.path or "/", content, sent)


def _date_of(response: Any) -> float:
    """The Date header of a response, in Unix seconds."""
    return parsedate_to_datetime(response.get("date")).timestamp()
