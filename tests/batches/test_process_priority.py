"""A process that works on batches comes second, whoever started it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.servers import REPOSITORY

LOWER = (
    "import os; from webapp.batches.process_priority import lower_priority; lower_priority(); "
    "print(os.nice(0), open('/proc/self/autogroup').read().split()[-1])"
)


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="no groups by session here")
@pytest.mark.parametrize(
    ("leads", "group"), [(True, "10"), (False, "0")], ids=["own session", "another's session"]
)
def test_it_lowers_its_group_only_if_that_is_its_own(leads: bool, group: str) -> None:
    before = os.nice(0)
    # A session of its own for what stands for the shell that starts several processes.
    code = f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', {LOWER!r}]))"
    done = subprocess.run(
        [sys.executable, "-c", LOWER if leads else code],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        start_new_session=True,
    )
    assert done.stdout.split() == [str(min(19, before + 10)), group], done.stderr
