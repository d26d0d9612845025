"""Migrations only add, so that an older version works on the schema of a newer one."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection

from tests.support import next_version
from tests.support.additions import broken_by
from tests.support.kept_database import MIGRATIONS, engine_of, load

OLDEST = "0004_dashboard"
MIGRATION = """
import sqlalchemy as sa
from alembic import op

revision = "{revision}"
down_revision = "{before}"


def upgrade():
    {body}
"""
ADDITIONS = [
    "op.add_column('ledger', sa.Column('note', sa.Text))",
    "op.add_column('api_keys', sa.Column('n', sa.Integer, nullable=False, server_default='0'))",
    "op.create_table('more', sa.Column('id', sa.Integer, primary_key=True))",
    "op.create_index('ix_more', 'usage', ['model'])",
    "op.add_column('ledger', sa.Column('n', sa.Integer)); op.execute('UPDATE ledger SET n = 1')",
    "op.alter_column('ledger', 'error', type_=sa.String(80))",
]
CHANGES = {
    "op.drop_table('activity')": "activity is gone",
    "op.rename_table('activity', 'acts')": "activity is gone",
    "op.drop_column('ledger', 'error')": "ledger has lost error",
    "op.alter_column('ledger', 'error', new_column_name='fault')": "ledger has lost error",
    "op.alter_column('ledger', 'error', type_=sa.Text)": "ledger has another error",
    "op.alter_column('ledger', 'error', type_=sa.String(20))": "ledger has another error",
    "op.alter_column('ledger', 'model', nullable=True)": "ledger has another model",
    "op.alter_column('audit', 'address', server_default='::1')": "audit has another address",
    "op.add_column('ledger', sa.Column('n', sa.Integer))\n"
    "    op.execute('UPDATE ledger SET n = 1')\n"
    "    op.alter_column('ledger', 'n', nullable=False)": "ledger has a new n that older versions",
    "op.create_unique_constraint('one', 'api_keys', ['id', 'name'])": "api_keys has a new rule",
    "op.create_index('one', 'api_keys', ['id'], unique=True)": "api_keys has a new rule: unique",
    "op.create_check_constraint('some', 'usage', 'calls >= 0')": "usage has a new rule: the check",
    "op.create_foreign_key('of', 'key_secrets', 'api_keys', ['key_id'], ['id'])": (
        "key_secrets has a new rule: references"
    ),
    "op.drop_constraint('usage_pkey', 'usage')": "usage has lost the primary key",
    "op.drop_constraint('accounts_username_key', 'accounts')": "accounts has lost unique",
    "op.drop_index('ix_ledger_key_id', 'ledger')": "ledger has lost the index",
    "op.execute('UPDATE budgets SET spent_nano = 0')": "budgets has other rows",
    "op.execute('DELETE FROM audit')": "audit has other rows",
}


@pytest.fixture(scope="module")
def kept(empty_shared_database: str) -> str:
    load(empty_shared_database, OLDEST)
    return empty_shared_database


@pytest.fixture
def connection(kept: str) -> Iterator[Connection]:
    """To PostgreSQL with the data of 0004; what a test does there is undone."""
    engine = engine_of(kept)
    with engine.connect() as connection:
        yield connection
        connection.rollback()
    engine.dispose()


def folder_with(tmp_path: Path, *bodies: str) -> Path:
    """A folder of migrations with some more after 0004."""
    folder = tmp_path / "migrations"
    shutil.copytree(MIGRATIONS, folder)
    for path in (folder / "versions").glob("[0-9]*.py"):
        if path.stem > OLDEST:
            path.unlink()
    before = OLDEST
    for number, body in enumerate(bodies, 5):
        revision = f"{number:04}_of_the_test"
        migration = MIGRATION.format(revision=revision, before=before, body=body)
        (folder / "versions" / f"{revision}.py").write_text(migration)
        before = revision
    return folder


def test_every_migration_since_0004_only_adds(connection: Connection, tmp_path: Path) -> None:
    assert broken_by(connection, MIGRATIONS) == []
    url = f"sqlite:///{tmp_path}/weir.db"
    load(url, OLDEST)
    engine = engine_of(url)
    with engine.connect() as sqlite:
        assert broken_by(sqlite, MIGRATIONS) == []
    engine.dispose()


def test_what_only_adds_is_fine(connection: Connection, tmp_path: Path) -> None:
    assert broken_by(connection, folder_with(tmp_path, *ADDITIONS)) == []


@pytest.mark.parametrize(("body", "found"), CHANGES.items(), ids=CHANGES)
def test_what_an_older_version_would_trip_over_is_found(
    connection: Connection, tmp_path: Path, body: str, found: str
) -> None:
    broken = broken_by(connection, folder_with(tmp_path, body))
    assert any(one.startswith(f"0005_of_the_test: {found}") for one in broken), broken


def test_a_later_migration_makes_nothing_good(connection: Connection, tmp_path: Path) -> None:
    broken = broken_by(
        connection,
        folder_with(
            tmp_path,
            "op.drop_index('ix_ledger_key_id', 'ledger')",
            "op.create_index('ix_ledger_key_id', 'ledger', ['key_id', 'reserved_at'])",
        ),
    )
    assert [one.partition(":")[0] for one in broken] == ["0005_of_the_test"]


def test_revisions_count_up_one_by_one() -> None:
    names = sorted(path.stem for path in (MIGRATIONS / "versions").glob("*.py"))
    assert [name[:5] for name in names] == [f"{number:04}_" for number in range(1, len(names) + 1)]
    # Longer ones do not fit into alembic_version.
    assert max(map(len, names)) <= 32
    before = "None"
    for name in names:
        lines = (MIGRATIONS / "versions" / f"{name}.py").read_text().splitlines()
        assert f'revision = "{name}"' in lines
        assert f"down_revision = {before}" in lines
        before = f'"{name}"'


# The order in which settlements lock them. The rule is younger than the first migrations.
OF_THE_LEDGER = ("ledger", "usage", "activity", "budgets")
FIRST_IN_ORDER = 7


def test_migrations_lock_the_tables_of_the_ledger_in_the_order_of_its_writer() -> None:
    """In another one, they and running workers wait for each other, and under load too long."""
    files = sorted((MIGRATIONS / "versions").glob("[0-9]*.py"))[FIRST_IN_ORDER - 1 :]
    for source in (next_version.MIGRATION, *(file.read_text() for file in files)):
        named = list(dict.fromkeys(re.findall(rf'"({"|".join(OF_THE_LEDGER)})"', source)))
        assert named == sorted(named, key=OF_THE_LEDGER.index), source
