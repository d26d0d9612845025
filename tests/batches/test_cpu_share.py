"""Lines wait while other threads want the core that they run on."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from webapp.batches.cpu_share import (
    CALM,
    GAP,
    GROUP,
    INTERVAL,
    SCHEDULED,
    CpuShare,
    CpuTime,
    cpu_time_of_this_thread,
)


@dataclass
class Core:
    """What the system says of a thread, and the time."""

    now: float = 0.0
    ran: float = 0.0
    waited: float = 0.0

    def read(self) -> CpuTime:
        return CpuTime(self.ran, self.waited)

    def pass_time(self, seconds: float, ran: float = 0.0, waited: float = 0.0) -> None:
        self.now += seconds
        self.ran += ran
        self.waited += waited


@pytest.fixture
def core() -> Core:
    return Core()


@pytest.fixture
def share(core: Core) -> CpuShare:
    return CpuShare(core.read, lambda: core.now)


def begun(share: CpuShare) -> int:
    """How many lines may begin now, of many."""
    lines = 0
    while lines < 100 and not share.pause():
        share.began()
        lines += 1
    return lines


def test_on_a_core_of_its_own_nothing_waits(core: Core, share: CpuShare) -> None:
    core.pass_time(1.0, ran=0.9, waited=0.1)
    assert begun(share) == 100


def test_on_a_core_that_others_want_few_lines_begin_at_a_time(core: Core, share: CpuShare) -> None:
    core.pass_time(INTERVAL, ran=0.01, waited=0.04)
    assert begun(share) == GROUP
    assert share.pause() == pytest.approx(GAP)
    core.pass_time(GAP / 2)
    assert share.pause() == pytest.approx(GAP / 2)
    core.pass_time(GAP / 2 + 0.001, ran=0.01, waited=0.04)
    assert begun(share) == GROUP


def test_all_may_begin_when_nobody_has_wanted_the_core_for_a_while(
    core: Core, share: CpuShare
) -> None:
    core.pass_time(INTERVAL, ran=0.01, waited=0.04)
    assert begun(share) == GROUP
    core.pass_time(CALM, ran=0.01)
    assert begun(share) == 100


def test_a_moment_of_waiting_says_nothing(core: Core, share: CpuShare) -> None:
    core.pass_time(INTERVAL, waited=0.001)
    assert begun(share) == 100
    core.pass_time(INTERVAL, waited=0.001)
    assert begun(share) == GROUP, "two do"


def test_where_the_system_does_not_tell_nothing_waits(core: Core) -> None:
    share = CpuShare(lambda: None, lambda: core.now)
    core.pass_time(1.0)
    assert begun(share) == 100


@pytest.mark.skipif(not SCHEDULED.exists(), reason="the system does not tell")
def test_the_time_of_a_thread_is_read() -> None:
    before = cpu_time_of_this_thread()
    assert before
    sum(range(1_000_000))
    after = cpu_time_of_this_thread()
    assert after
    assert after.ran > before.ran
    assert after.waited >= before.waited
