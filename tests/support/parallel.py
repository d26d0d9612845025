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
from contextlib import ExitStack, suppress
from functools import cache
from importlib import import_module
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
    "batches/test_batch_survival.py", "batches/test_batches.py",
    "admission/test_credential_limits.py", "deploy/test_google.py", "browser/test_dashboard.py",
    "metering/test_survival.py", "storage/test_upgrade.py", "storage/test_backup.py",
    "admission/test_identity.py", "admission/test_limits.py", "api/test_jobs.py",
    "deploy/test_kubernetes.py", "providers/test_contract.py", "local_model/test_local_model.py",
    "test_first_minute.py", "test_image.py", "storage/test_redis_problems.py", "test_memory.py",
    "cli/test_doctor.py", "batches/test_same_script.py", "batches/test_native.py",
    "batches/test_worker.py", "batches/test_brokers.py", "observability/test_tracing.py",
    "clients/test_anthropic_python.py", "dashboard/test_batches.py", "test_slow_clients.py",
    "api/test_mutated_answers.py", "secrets_managers/test_rotation.py", "test_observability.py",
    "api/test_flights.py", "dashboard/test_session.py", "api/test_routes.py",
    "accounts/test_accounts.py", "metering/test_stats.py", "api/test_streams.py",
    "api/test_idempotency.py", "clients/test_openai_python.py", "cli/test_batches.py",
    "accounts/test_keys.py", "api/test_fault_table.py", "dashboard/test_pages.py",
    "inference/test_predict.py", "api/test_anthropic.py", "clients/test_real_model.py",
    "api/test_files.py", "test_forwarded.py", "api/test_provider_faults.py", "api/test_openapi.py",
    "cli/test_prices.py", "observability/test_metrics.py", "api/test_answers.py",
    "api/test_fidelity.py", "test_support.py", "api/test_model_names.py",
    "admission/test_allowances.py", "metering/test_budgets.py", "api/test_what_operators_see.py",
    "batches/test_callbacks.py", "deploy/test_aws.py", "metering/test_alerts.py",
    "api/test_provider_habits.py", "api/test_stale.py", "api/test_bad_input.py",
    "metering/test_ledger.py", "providers/test_anthropic_provider.py", "test_frozen_process.py",
    "browser/test_docs.py", "cli/test_keys.py", "metering/test_usage.py", "test_smoke.py",
    "metering/test_refused_writes.py", "cli/test_worker.py", "test_server_files.py",
    "policy/test_guards.py", "observability/test_logs_uncaught.py", "batches/test_pacing.py",
    "test_rolling_update.py", "metering/test_ceilings.py", "test_life.py", "storage/test_pooler.py",
    "policy/test_policy.py", "providers/test_base_url.py", "policy/test_additions.py",
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
def pytest_collection(session: pytest.Session) -> Iterator[None]:
    if session.config.args == session.config.getini("testpaths"):
        _import_from_another_one_in_each_process()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def _import_from_another_one_in_each_process() -> None:
    """Import all modules, so that each is compiled by one process, and read by the others.

    In the order of collection, all processes would compile all of them, at the same time.
    """
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    files = sorted(set(TESTS.rglob("test_*.py")) - set(TESTS.glob("agents/*")))
    first = len(files) * number // count
    for file in files[first:] + files[:first]:
        # Its collection tells of what is wrong, or skips it.
        with suppress(Exception, pytest.skip.Exception):
            import_module(".".join(file.relative_to(TESTS.parent).with_suffix("").parts))


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
