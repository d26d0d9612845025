"""What a worker does beside its requests ends before the worker does."""

from __future__ import annotations

import gevent

from webapp.observability.lifecycle import Lifecycle


def test_the_last_tick_waits_for_the_one_that_runs() -> None:
    said: list[str] = []

    def tick() -> None:
        said.append("began")
        gevent.sleep(0.3)
        said.append("ended")

    lifecycle = Lifecycle(lambda: None, ticks=[tick], ends=[lambda: said.append("end")], grace=9)
    lifecycle.start()
    with gevent.Timeout(5):
        while not said:
            gevent.sleep(0.01)
    lifecycle.stop()
    assert said == ["began", "end", "ended", "began", "ended"]
