"""`flask keys`: on an empty database, and where something is wrong."""

from __future__ import annotations

from tests.conftest import MakeWeir
from tests.support.servers import free_port


def test_keys_are_created_listed_and_revoked_before_the_first_start(new_weir: MakeWeir) -> None:
    weir = new_weir()
    created = weir.run_flask("keys", "create", "Web shop", "--tier", "premium")
    assert created.returncode == 0, created.stderr
    assert created.stdout.startswith("weir_")
    listed = weir.run_flask("keys", "list").stdout
    assert "Web shop" in listed
    assert "premium" in listed
    assert created.stdout.strip() not in listed
    assert weir.run_flask("keys", "revoke", "1").returncode == 0
    again = weir.run_flask("keys", "revoke", "1")
    assert again.returncode == 1
    assert "This key is revoked" in again.stderr
    assert "revoked" in weir.run_flask("keys", "list").stdout


def test_a_mistake_is_named_and_leaves_no_traceback(new_weir: MakeWeir) -> None:
    weir = new_weir()
    unknown = weir.run_flask("keys", "create", "x", "--tier", "gold")
    assert unknown.returncode == 1
    assert "gold" in unknown.stderr
    away = new_weir(DATABASE_URL=f"postgresql://weir:pw@127.0.0.1:{free_port()}/weir")
    for command in (["keys", "list"], ["keys", "create", "x"], ["db", "upgrade"]):
        result = away.run_flask(*command)
        assert result.returncode == 1
        assert "The database cannot be reached" in result.stderr
        assert "Traceback" not in result.stderr
