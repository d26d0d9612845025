"""How many workers are started."""

from __future__ import annotations

import subprocess
import sys

from tests.support.servers import REPOSITORY


def test_where_there_are_no_affinities_all_processors_count() -> None:
    """As on macOS."""
    script = (
        "import os; vars(os).pop('sched_getaffinity', None);"
        "from webapp.worker_count import _container_processors as found;"
        "assert 1 <= found() <= os.cpu_count()"
    )
    subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, check=True)
