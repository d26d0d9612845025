"""What a Weir does not use is not imported: it would take time at each start, and memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.servers import REPOSITORY

# Each stands for all that it imports.
LATE = {"alembic", "redis", "webapp.cli.keys", "webapp.diagnosis", "webapp.imports"}


def test_a_server_imports_neither_redis_nor_commands_nor_migrations(tmp_path: Path) -> None:
    code = f"import sys, wsgi; print({LATE} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, env={"DATA_DIR": str(tmp_path)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "set()\n", done.stderr
