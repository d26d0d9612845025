"""Reads the secrets that settings refer to again, and takes up what has changed.

Keys of providers and the URLs of database and Redis are taken up at once, the rest at the next
start, so that all workers have the same. What cannot be read or used leaves the last value in use.
"""

from __future__ import annotations

import logging
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import gevent
from sqlalchemy.exc import SQLAlchemyError

from webapp import secrets_managers
from webapp.errors import StoreUnavailable
from webapp.observability import logs
from webapp.providers.base import BaseProvider
from webapp.secrets_managers import ManagerUnavailable, SecretError
from webapp.settings import Settings, SettingsError, with_secrets
from webapp.storage import migrations
from webapp.storage.database import Database
from webapp.storage.redis_commands import RedisUnavailable

if TYPE_CHECKING:
    from webapp.storage.redis_client import RedisClient

log = logging.getLogger(__name__)

LOOK_INTERVAL = 1.0  # seconds
READ_TIMEOUT = 60.0
# While a provider or a store refuses what is in use, it may have been rotated: it is read sooner.
MIN_EARLY_DELAY, MAX_EARLY_DELAY = 2.0, 30.0
REMIND_INTERVAL = 3600.0
REFUSED = "ProviderRefusedWeir"
# These make one URL, and are only good together.
DATABASE_VARIABLES = ("DATABASE_URL", "DATABASE_PASSWORD")


class _Unusable(Exception):
    """A new value that cannot be used, and why: in words for everybody, and more for the log."""

    def __init__(self, reason: str, details: str = "") -> None:
        super().__init__(reason)
        self.details = details


@dataclass(frozen=True, slots=True)
class _Problem:
    """Why the last value of a setting is still in use, and since when (Unix seconds).

    The reason is for everybody; `details` may hold names, and are for the log.
    """

    reason: str
    details: str
    since: float
    logged_at: float

    def __str__(self) -> str:
        since = datetime.fromtimestamp(self.since, UTC).isoformat(timespec="seconds")
        return f"{self.reason}; the last value is in use since {since}"

    def with_details(self) -> str:
        return f"{self} ({self.details})" if self.details else str(self)


class SecretRefresh:
    """Refreshes the secrets of one worker every `settings.secrets_refresh` seconds."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        redis: RedisClient | None,
        providers: Mapping[str, BaseProvider],
    ) -> None:
        self._settings = settings
        self._database = database
        self._redis = redis
        self._providers = providers
        self._references = settings.secret_references
        self._values = dict(settings.secret_values)
        self._waiting_for_a_start: dict[str, str] = {}
        self._problems: dict[str, _Problem] = {}

    def problem(self) -> str | None:
        """Which settings still have their last value, why and since when; no host and no value."""
        by_text = _by_text({name: str(problem) for name, problem in self._problems.items()})
        return "; ".join(f"{', '.join(names)} {text}" for text, names in by_text.items()) or None

    def start(self) -> None:
        """Refresh from now on, at once in a worker that starts later than others."""
        if not self._references or not self._settings.secrets_refresh:
            return
        try:
            secrets_managers.prepare(self._references.values())
        except SecretError as error:
            log.warning("Secrets cannot be refreshed: an SDK %s", error)
        except Exception as error:  # noqa: BLE001 a worker that did not start would end all of Weir
            log.warning("An SDK for secrets cannot start yet (%s)", type(error).__name__)
        gevent.spawn(self._refresh_forever)

    def refresh(self) -> None:
        """Read all secrets, and take up what has changed."""
        problems: dict[str, tuple[str, str]] = {}
        changed: dict[str, dict[str, str]] = defaultdict(dict)
        for variable, found in self._read().items():
            if isinstance(found, SecretError):
                problems[variable] = (str(found), "")
            elif found != self._values[variable]:
                group = DATABASE_VARIABLES[0] if variable in DATABASE_VARIABLES else variable
                changed[group][variable] = found
        for values in changed.values():
            try:
                self._take_up(values)
            except _Unusable as unusable:
                reason = f"has a new value that cannot be used: {unusable}"
                problems |= dict.fromkeys(values, (reason, unusable.details))
            except Exception as error:
                log.exception("A new secret could not be taken up")
                reason = f"has a new value that could not be taken up ({type(error).__name__})"
                problems |= dict.fromkeys(values, (reason, ""))
        self._update_problems(problems)

    def _refresh_forever(self) -> None:
        if secrets_managers.age() < self._settings.secrets_refresh:
            self._wait(MIN_EARLY_DELAY)
        early_delay = MIN_EARLY_DELAY
        while True:
            try:
                self.refresh()
            except Exception:
                log.exception("Secrets could not be refreshed")
            is_early = self._wait(early_delay)
            early_delay = min(2 * early_delay, MAX_EARLY_DELAY) if is_early else MIN_EARLY_DELAY

    def _wait(self, early_delay: float) -> bool:
        """Wait for the next read. True if it is early, as something refuses what is in use."""
        began = time.monotonic()
        # Workers do not all ask in the same second.
        due = began + self._settings.secrets_refresh * random.uniform(0.9, 1.1)  # noqa: S311
        while (now := time.monotonic()) < due:
            gevent.sleep(min(LOOK_INTERVAL, due - now))
            if self._is_refused() and time.monotonic() - began >= early_delay:
                return True
        return False

    def _is_refused(self) -> bool:
        """Whether something does not work that another secret may mend."""
        if self._database.unavailable and self._references.keys() & DATABASE_VARIABLES:
            return True
        if "REDIS_URL" in self._references and self._redis and self._redis.unavailable:
            return True
        if not any(variable.endswith("_API_KEY") for variable in self._references):
            return False
        latest = [provider.latest for provider in self._providers.values()]
        return any(outcome and outcome.error == REFUSED for outcome in latest)

    def _read(self) -> dict[str, str | SecretError]:
        """By variable, what its reference leads to now."""
        try:
            with gevent.Timeout(READ_TIMEOUT):
                found = secrets_managers.read(set(self._references.values()))
        except gevent.Timeout:
            slow = ManagerUnavailable("cannot be reached in time")
            return dict.fromkeys(self._references, slow)
        return {variable: found[reference] for variable, reference in self._references.items()}

    def _take_up(self, changed: Mapping[str, str]) -> None:
        """Use other values, or tell once that it takes a start. Raises _Unusable."""
        values = {**self._values, **changed}
        # Before anything can log them.
        logs.add_secrets(changed.values())
        try:
            new = with_secrets(self._settings, values)
        except SettingsError as error:
            raise _Unusable("it is not valid", "; ".join(error.problems)) from None
        logs.add_secrets(new.secrets)
        use = self._use_of(changed, new)
        named = ", ".join(changed)
        if use is None:
            if not changed.items() <= self._waiting_for_a_start.items():
                self._waiting_for_a_start.update(changed)
                log.warning("%s has changed: it is taken up at the next start", named)
            return
        use()
        self._values, self._settings = values, new
        log.info("%s has changed: it is in use", named)

    def _use_of(self, changed: Iterable[str], new: Settings) -> Callable[[], None] | None:
        """How to use the new values of these variables; None if that takes a start."""
        variable = next(iter(changed))
        if variable in DATABASE_VARIABLES:
            if self._database.is_sqlite or new.database_url.startswith("sqlite"):
                return None
            return lambda: self._use_database(new.database_url)
        if variable == "REDIS_URL":
            return lambda: self._use_redis(new.redis_url)
        if variable.endswith("_API_KEY"):
            return lambda: self._use_keys(new)
        return None

    def _use_database(self, url: str) -> None:
        try:
            usable = self._database.use(url, check=migrations.is_usable)
        except (StoreUnavailable, SQLAlchemyError):
            raise _Unusable("the database cannot be reached with it, or refuses it") from None
        except migrations.NotWritable:
            raise _Unusable("it leads to a database that it may not write to") from None
        except migrations.UnknownRevision:
            usable = False
        if not usable:
            raise _Unusable("it leads to a database without this version's tables")

    def _use_redis(self, url: str) -> None:
        assert self._redis
        try:
            self._redis.use(url)
        except RedisUnavailable:
            raise _Unusable("Redis cannot be reached with it, or refuses it") from None

    def _use_keys(self, new: Settings) -> None:
        old = {provider.name: provider.api_key for provider in self._settings.providers}
        for provider in new.providers:
            if provider.api_key != old[provider.name]:
                self._providers[provider.name].use_key(provider.api_key)

    def _update_problems(self, problems: Mapping[str, tuple[str, str]]) -> None:
        """Keep what is wrong, and log what is new, or has lasted for long, or is over."""
        now = time.time()
        over = [variable for variable in self._problems if variable not in problems]
        if over:
            log.warning("%s can be read and used again", ", ".join(over))
        problems_now: dict[str, _Problem] = {}
        to_log: dict[str, str] = {}
        for variable, reason_and_details in problems.items():
            before = self._problems.get(variable)
            since, logged_at = (before.since, before.logged_at) if before else (now, 0.0)
            is_known = before and reason_and_details == (before.reason, before.details)
            if not is_known or now - logged_at > REMIND_INTERVAL:
                logged_at = now
            problems_now[variable] = _Problem(*reason_and_details, since, logged_at)
            if logged_at == now:
                to_log[variable] = problems_now[variable].with_details()
        for text, variables in _by_text(to_log).items():
            named = [f"{variable} ({self._references[variable]})" for variable in variables]
            log.warning("%s %s", ", ".join(named), text)
        self._problems = problems_now


def _by_text(texts: Mapping[str, str]) -> dict[str, list[str]]:
    """The names that have the same text."""
    names = defaultdict(list)
    for name, text in texts.items():
        names[text].append(name)
    return names
