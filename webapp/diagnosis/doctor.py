"""Runs all checks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from webapp.diagnosis.batches import check_batch_workers, check_broker, check_files
from webapp.diagnosis.clock import check_clock
from webapp.diagnosis.database import check_database, check_ledger
from webapp.diagnosis.finding import Finding
from webapp.diagnosis.prices import check_prices
from webapp.diagnosis.providers import check_providers
from webapp.diagnosis.public_url import check_streaming, check_url
from webapp.diagnosis.redis import check_redis
from webapp.diagnosis.secret_references import check_secrets
from webapp.diagnosis.settings import check_settings, check_workers
from webapp.services import Services


def findings(
    services: Services, environment: Mapping[str, str], url: str = ""
) -> Iterator[Finding]:
    """Check the installation that the settings describe; `url` is its public address.

    A check that fails does not stop the others.
    """
    url = url.rstrip("/")
    checks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("settings", partial(check_settings, services, environment)),
        ("secrets", partial(check_secrets, services, url)),
        ("database", partial(check_database, services)),
        ("ledger", partial(check_ledger, services)),
        ("redis", partial(check_redis, services)),
        ("clock", partial(check_clock, services, url)),
        ("providers", partial(check_providers, services)),
        ("prices", partial(check_prices, services)),
        ("workers", partial(check_workers, services)),
        ("broker", partial(check_broker, services)),
        ("batches", partial(check_batch_workers, services)),
        ("files", partial(check_files, services)),
    ]
    if url:
        checks += [
            ("url", partial(check_url, url)),
            ("streaming", partial(check_streaming, services, url)),
        ]
    for name, check in checks:
        try:
            yield from check()
        except Exception as error:  # noqa: BLE001 the other checks must still run
            yield _broken(name, error)


def _broken(check: str, error: Exception) -> Finding:
    found = f"cannot be checked: {type(error).__name__}: {error}"[:200]
    return Finding(check, "problem", found, "See the other checks.")
