"""How the tests are shared out over the processes of pytest-xdist (a plugin of pytest).

Tests that share a fixture of their module stay together, in one process and in their order; any
other goes where there is room. What takes longest begins first. A test marked `serial` measures
wall-clock time: it runs while no other test does.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# The modules that take longest, by their groups' longest; the others come after them.
LONGEST_FIRST = ()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "serial: runs while no other test does")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_order)
    for item in items:
        group = _group(item)
        if group:
            item.add_marker(pytest.mark.xdist_group(group))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Hold a lock that the tests of all processes share, and that a serial one has alone."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return (yield)
    # Beside the temporary folder of this process are those of the others.
    with (Path(item.config.option.basetemp).parent / "serial.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if _is_serial(item) else fcntl.LOCK_SH)
        return (yield)


def _order(item: pytest.Item) -> tuple[bool, int]:
    """Serial tests come last: they wait until the other processes have nothing left to do."""
    module = item.nodeid.split("::")[0].removeprefix("tests/")
    place = LONGEST_FIRST.index(module) if module in LONGEST_FIRST else len(LONGEST_FIRST)
    return _is_serial(item), place


def _group(item: pytest.Item) -> str | None:
    """The tests that must stay together: of one module, with the same values of its fixtures."""
    if not isinstance(item, pytest.Function):
        return None
    known = item._fixtureinfo.name2fixturedefs
    shared = [name for name, definitions in known.items() if definitions[-1].scope == "module"]
    if not shared:
        return None
    values = getattr(item, "callspec", None)
    chosen = [str(values.params[name]) for name in shared if values and name in values.params]
    return " ".join([item.nodeid.split("::")[0], *chosen, *["serial"][: _is_serial(item)]])


def _is_serial(item: pytest.Item) -> bool:
    return item.get_closest_marker("serial") is not None
