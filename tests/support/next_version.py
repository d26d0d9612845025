"""Makes a next version of Weir: a copy of this one with one more migration."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.support.servers import REPOSITORY
from webapp.storage import migrations

NUMBER = int(migrations.head()[:4]) + 1
REVISION = f"{NUMBER:04}_next_version"
MIGRATION = f'''"""All that a migration may add."""

import sqlalchemy as sa
from alembic import op

revision = "{REVISION}"
down_revision = "{migrations.head()}"


def upgrade():
    # In the order in which the ledger's writer locks them. In another one, its transactions and
    # this one wait for each other, and under load the migration hardly ever gets all locks.
    for name in ("ledger", "usage", "budgets", "api_keys", "key_secrets", "accounts", "audit"):
        op.add_column(name, sa.Column("of_the_next", sa.String(40)))
        counted = sa.Column("counted", sa.Integer, nullable=False, server_default="7")
        op.add_column(name, counted)
    op.create_table(
        "teams",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(100), nullable=False, unique=True),
    )
    op.create_index("ix_ledger_model", "ledger", ["model"])
'''


def make_next_version(folder: Path) -> Path:
    """Copy the files that run into a new folder, and add the migration."""
    folder.mkdir()
    for name in ("webapp", "migrations"):
        shutil.copytree(REPOSITORY / name, folder / name)
    for name in ("wsgi.py", "gunicorn.conf.py"):
        shutil.copy(REPOSITORY / name, folder / name)
    for name in ("models", "static", "templates"):
        (folder / name).symlink_to(REPOSITORY / name)
    (folder / "migrations" / "versions" / f"{REVISION}.py").write_text(MIGRATION)
    return folder
