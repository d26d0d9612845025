"""Health of Weir and its dependencies. No check costs money."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from gevent.lock import BoundedSemaphore

from webapp.errors import WeirError
from webapp.llm.calls import Outcome
from webapp.observability.lifecycle import Lifecycle
from webapp.storage.database import Database

if TYPE_CHECKING:
    from webapp.storage.redis_client import RedisClient

HEALTHY, DEGRADED, UNHEALTHY = "healthy", "degraded", "unhealthy"
WEIGHTS = {"api": 20, "llm": 25, "cache": 15, "database": 40, "secrets": 10}
SHARES = {HEALTHY: 1.0, DEGRADED: 0.5, UNHEALTHY: 0.0}
PROVIDER_CHECK_TTL = 30.0  # seconds
PROVIDER_CHECK_TIMEOUT = 2.0  # seconds


@dataclass(frozen=True, slots=True)
class Check:
    """The status of one dependency. The error contains no host name and no secret."""

    status: str
    latency_ms: float
    error: str | None = None


class CheckedProvider(Protocol):
    """What the health check needs of a provider."""

    name: str
    latest: Outcome | None

    def check(self, timeout: float) -> object:
        """Make a free call, and record its outcome in `latest`. May raise WeirError."""


class Health:
    """Checks each dependency. `offline` means that no provider is configured; `secrets` says which
    secrets could not be refreshed, where any are."""

    def __init__(
        self,
        database: Database,
        redis: RedisClient | None,
        providers: Mapping[str, CheckedProvider],
        lifecycle: Lifecycle,
        *,
        offline: bool,
        secrets: Callable[[], str | None] | None = None,
    ) -> None:
        self._database = database
        self._redis = redis
        self._providers = providers
        self._lifecycle = lifecycle
        self._offline = offline
        self._secrets = secrets
        self._checking = BoundedSemaphore()

    def checks(self, *, ask_providers: bool = True) -> dict[str, Check]:
        """Every check by name. `ask_providers` calls providers that had no recent call."""
        checks: dict[str, Callable[[], tuple[str, str | None]]] = {
            "api": self._api,
            "llm": partial(self._llm, ask=ask_providers),
            "cache": self._cache,
            "database": self._storage,
        }
        if self._secrets:
            checks["secrets"] = partial(_secrets, self._secrets)
        return {name: _timed(check) for name, check in checks.items()}

    @property
    def provider_names(self) -> list[str]:
        return list(self._providers)

    def conditions(self) -> dict[str, bool]:
        """The conditions of readiness. Providers and Redis are left out: if one of them is down,
        no replica should be taken out of service."""
        return {
            "migrated": self._lifecycle.prepared,
            "database": self._lifecycle.prepared and self._database.seen_lately(),
            "not_draining": not self._lifecycle.draining,
        }

    def not_ready_because(self) -> str | None:
        """The reason why Weir cannot take requests now, or None."""
        reasons = {
            "not_draining": "shutting down",
            "migrated": "the database schema is not migrated yet",
            "database": "the database is unreachable",
        }
        conditions = self.conditions()
        return next((reason for name, reason in reasons.items() if not conditions[name]), None)

    def _api(self) -> tuple[str, str | None]:
        return (DEGRADED, "shutting down") if self._lifecycle.draining else (HEALTHY, None)

    def _llm(self, *, ask: bool) -> tuple[str, str | None]:
        if self._offline:
            return DEGRADED, "no provider is configured"
        errors = self.provider_errors(ask=ask)
        failed = [f"{name}: {error}" for name, error in errors.items() if error]
        if not failed:
            return HEALTHY, None
        return UNHEALTHY if len(failed) == len(errors) else DEGRADED, ", ".join(failed)

    def provider_errors(self, *, ask: bool) -> dict[str, str | None]:
        """By provider, the error of its latest call, or None if that succeeded.

        With `ask`, a provider without a recent call gets a free one, which may take
        PROVIDER_CHECK_TIMEOUT.
        """
        if ask:
            return {name: self._error_of(provider) for name, provider in self._providers.items()}
        latest = {name: provider.latest for name, provider in self._providers.items()}
        return {name: outcome.error if outcome else None for name, outcome in latest.items()}

    def _error_of(self, provider: CheckedProvider) -> str | None:
        """The error of a provider's latest call, or of a free call if that is too old."""
        with self._checking:
            latest = provider.latest
            if latest is None or time.monotonic() - latest.at > PROVIDER_CHECK_TTL:
                with contextlib.suppress(WeirError):
                    provider.check(PROVIDER_CHECK_TIMEOUT)
                latest = provider.latest
        return latest.error if latest else None

    def _cache(self) -> tuple[str, str | None]:
        if self._redis is None:
            return HEALTHY, None
        problem = self._redis.problem()
        if problem:
            found = f"{problem.found}; each process counts limits by itself. {problem.advice}"
            return DEGRADED, found
        return HEALTHY, None

    def _storage(self) -> tuple[str, str | None]:
        if not self._lifecycle.prepared:
            return UNHEALTHY, "schema not migrated yet"
        if problem := self._database.problem:
            return UNHEALTHY, f"{problem.found}. {problem.advice}"
        return (HEALTHY, None) if self._database.ping() else (UNHEALTHY, "unreachable")


def overall(checks: Mapping[str, Check]) -> tuple[str, int]:
    """(status, score 0..100) of all checks. Only without the database is Weir unhealthy."""
    reached = sum(WEIGHTS[name] * SHARES[check.status] for name, check in checks.items())
    score = round(100 * reached / sum(WEIGHTS[name] for name in checks))
    if checks["database"].status == UNHEALTHY:
        return UNHEALTHY, score
    return (HEALTHY if score == 100 else DEGRADED), score


def _secrets(problem: Callable[[], str | None]) -> tuple[str, str | None]:
    found = problem()
    return (DEGRADED if found else HEALTHY), found


def _timed(check: Callable[[], tuple[str, str | None]]) -> Check:
    started = time.perf_counter()
    status, error = check()
    return Check(status, round((time.perf_counter() - started) * 1000, 2), error)
