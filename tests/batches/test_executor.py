"""A serving process that works on batches until a worker comes."""

from __future__ import annotations

import shutil
from pathlib import Path

from sqlalchemy import func, select

from tests.batches.native_weir import NativeWeir, settings_of
from tests.support.gevent_process import GeventProcess
from tests.support.servers import Provider, wait_until
from webapp.batches.tables import LineState, batch_lines


def lines_that_run_for_ever(environment: dict[str, str]) -> tuple[int, int]:
    """The lines that a process holds after its turn, and when it has left them to others."""
    weir = NativeWeir(environment)
    body = {"model": "gpt-4o-mini", "max_tokens": 10}
    said = [{"role": "user", "content": "hello"}]
    weir.batch(
        [body | {"messages": said, "user": str(number)} for number in range(30)], mode="direct"
    )
    running = select(func.count()).where(batch_lines.c.state == LineState.RUNNING)

    def held() -> int:
        return weir.database.read(lambda connection: connection.execute(running).scalar_one())

    executor = weir.services.executor
    executor.run_for(0.5)
    before = held()
    executor.leave_to_others()
    wait_until(lambda: not held(), 10, "the end of those that run")
    weir.close()
    return before, held()


def test_what_is_claimed_and_not_begun_when_a_turn_ends_is_left_to_others_too(
    provider: Provider, tmp_path: Path, migrated_file: Path
) -> None:
    shutil.copy(migrated_file, tmp_path)
    provider.fault(slow=1)
    with GeventProcess() as process:
        before, after = process.run(lines_that_run_for_ever, settings_of(provider, tmp_path, ""))
    assert before > 8, "more than run at once"
    assert after == 0
