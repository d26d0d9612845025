"""The timer that is set for every wait of a stream: it rings in time, once, or not at all."""

from __future__ import annotations

import time

import gevent
from gevent.event import Event

from webapp.deadline_timer import DeadlineTimer


def test_it_rings_at_the_earliest_moment_it_is_set_for_and_once() -> None:
    rung: list[float] = []
    timer = DeadlineTimer(lambda: rung.append(time.monotonic()))
    # A loop that has not run since an earlier test has the clock of that test.
    gevent.get_hub().loop.update_now()
    now = time.monotonic()
    for seconds in (60.0, 0.05, 30.0):
        timer.fire_by(now + seconds)
    with gevent.Timeout(5):
        while not rung:
            gevent.sleep(0.01)
    # The loop's clock may be a little behind.
    assert now + 0.04 <= rung[0]
    gevent.sleep(0.06)
    assert len(rung) == 1


def test_it_can_be_set_again_when_it_has_rung_and_for_what_is_past() -> None:
    heard = Event()
    timer = DeadlineTimer(heard.set)
    for moment in (0.0, time.monotonic() + 0.01):
        heard.clear()
        timer.fire_by(moment)
        assert heard.wait(5)


def test_it_does_not_ring_when_it_was_stopped() -> None:
    heard = Event()
    timer = DeadlineTimer(heard.set)
    timer.fire_by(time.monotonic() + 0.01)
    timer.stop()
    assert not heard.wait(0.05)
