"""`flask worker` as an operator starts it."""

from __future__ import annotations

import signal
import sys
from typing import Any

import pytest

from tests.conftest import MakeWeir
from tests.support.servers import DidNotStart, Server, Weir


class FlaskWorker(Server):
    """`flask worker` with the settings of a Weir that is not started."""

    def __init__(self, weir: Weir) -> None:
        super().__init__()
        self._weir = weir

    def _command(self) -> list[str]:
        return [sys.executable, "-m", "flask", "worker"]

    def _process_options(self) -> dict[str, Any]:
        return self._weir._process_options()

    def _is_ready(self) -> bool:
        return "Working on batches" in self.output()


def test_the_command_becomes_the_worker(new_weir: MakeWeir) -> None:
    with FlaskWorker(new_weir(OFFLINE=1)) as worker:
        assert worker.process
        worker.process.send_signal(signal.SIGTERM)
        assert worker.process.wait(10) == 0


def test_a_wrong_setting_is_told_as_gunicorn_tells_it(new_weir: MakeWeir) -> None:
    weir = new_weir(OFFLINE=1, BATCH_CONCURRENCY="many", BROKER_URL="kafka://broker")
    with pytest.raises(DidNotStart) as serving:
        weir.start()
    with pytest.raises(DidNotStart) as working, FlaskWorker(weir):
        pass
    assert working.value.exit_code == serving.value.exit_code == 1
    assert "BATCH_CONCURRENCY" in working.value.output
    assert working.value.output == serving.value.output
