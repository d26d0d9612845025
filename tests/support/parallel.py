"""Distributes the tests to the processes of pytest-xdist (a plugin of pytest).

The tests of a module that shares a fixture stay together, by database; any other test goes where
there is room. What takes longest begins first. A test marked `serial` measures wall-clock time: it
runs while no other test does.
"""

from __future__ import annotations

import fcntl
import gc
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling

TESTS = Path(__file__).resolve().parents[1]
# The values of module-scoped fixtures: each has its own servers.
VALUES = re.compile(
    r"\[(sqlite|postgres|postgresql|memory|redis|alone|one process"
    r"|two (?:workers|replicas)[^-\]]*)\b"
)
# The modules that take longest run first.
LONGEST_FIRST = (
    "batches/test_batch_survival.py", "metering/test_survival.py", "storage/test_upgrade.py",
    "browser/test_dashboard.py", "batches/test_batches.py", "batches/test_worker.py",
    "batches/test_brokers.py", "api/test_jobs.py", "batches/test_native.py",
    "batches/test_same_script.py",
    "test_rolling_update.py", "test_smoke.py", "deploy/test_aws.py",
    "api/test_flights.py", "secrets_managers/test_rotation.py", "policy/test_additions.py",
    "test_observability.py", "test_image.py",
    "clients/test_litellm.py", "clients/test_llm.py", "storage/test_migrations.py",
    "storage/test_redis_problems.py", "api/test_openapi.py", "admission/test_allowances.py",
    "accounts/test_accounts.py", "accounts/test_keys.py", "api/test_routes.py",
    "metering/test_budgets.py", "metering/test_stats.py", "metering/test_alerts.py",
    "api/test_fault_table.py", "admission/test_identity.py", "cli/test_doctor.py", "test_memory.py",
    "test_slow_clients.py", "dashboard/test_pages.py", "clients/test_langchain.py",
    "inference/test_predict.py", "observability/test_metrics.py", "metering/test_exact_money.py",
    "api/test_mutated_answers.py", "providers/test_base_url.py", "metering/test_refused_writes.py",
    "cli/test_prices.py", "clients/test_real_model.py", "api/test_what_operators_see.py",
    "api/test_provider_habits.py",
)  # fmt: skip


class ByModule(LoadScopeScheduling):
    """Distributes groups of tests. (xdist's own `loadgroup` does not work with pytest 9.2.)"""

    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid)


def group(nodeid: str) -> str:
    """The name of the group of a test. A group runs in one process."""
    module = nodeid.split("::")[0]
    if not _shares_a_fixture(module):
        return nodeid
    value = VALUES.search(nodeid)
    return f"{module} {value[1]}" if value else module


@cache
def _shares_a_fixture(module: str) -> bool:
    return 'scope="module"' in (TESTS.parent / module).read_text()


# What is imported and collected stays: looking for garbage among it takes a fifth of that time.
gc.disable()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "serial: runs while no other test does")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ByModule:
    config.option.loadscopereorder = False
    return ByModule(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_order)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Hold a lock that all tests share, and that a serial test holds exclusively."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return (yield)
    # The parent folder has the temporary folders of all processes.
    folder = Path(item.config.option.basetemp).parent
    mode = fcntl.LOCK_EX if _is_serial(item) else fcntl.LOCK_SH
    with ExitStack() as locks:
        running = locks.enter_context((folder / "running.lock").open("w"))
        # A waiting serial test holds this lock, so that no further tests start before it.
        with (folder / "next.lock").open("w") as first:
            fcntl.flock(first, mode)
            fcntl.flock(running, mode)
        return (yield)


def _order(item: pytest.Item) -> tuple[bool, int]:
    module = item.nodeid.split("::")[0].removeprefix("tests/")
    place = LONGEST_FIRST.index(module) if module in LONGEST_FIRST else len(LONGEST_FIRST)
    return _is_serial(item), place


def _is_serial(item: pytest.Item) -> bool:
    return item.get_closest_marker("serial") is not None
