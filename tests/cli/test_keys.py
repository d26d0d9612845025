"""`flask keys`: on an empty database, and where something is wrong."""

from __future__ import annotations

import json
from pathlib import Path

from tests.conftest import MakeWeir
from tests.support.servers import free_port


def test_keys_are_created_listed_and_revoked_before_the_first_start(
    new_weir: MakeWeir, tmp_path: Path
) -> None:
    weir = new_weir(data_dir=tmp_path)
    limits = ("--set", "requests_per_session=500", "--set", "usd_per_session=2.5")
    created = weir.run_flask("keys", "create", "Web shop", "--tier", "premium", *limits)
    assert created.returncode == 0, created.stderr
    assert created.stdout.startswith("weir_")
    listed = weir.run_flask("keys", "list").stdout
    assert "Web shop" in listed
    assert "premium" in listed
    assert "requests_per_session=500 usd_per_session=2.5" in listed
    assert created.stdout.strip() not in listed
    assert weir.run_flask("keys", "revoke", "1").returncode == 0
    again = weir.run_flask("keys", "revoke", "1")
    assert again.returncode == 1
    assert "This key has been revoked" in again.stderr
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
        assert "The database is unreachable" in result.stderr


def test_an_import_that_is_refused_names_the_line_and_makes_no_key(
    new_weir: MakeWeir, tmp_path: Path
) -> None:
    weir, file = new_weir(), tmp_path / "keys"
    refused = {
        b"name,colour\nx,red\n": "Line 2: unknown column 'colour'",
        b"name\nx,y\n": "Line 2: unknown column 'values beyond the header'",
        b"name\ndup\n\ndup\n": "Line 4: A key 'dup' that is not revoked already exists",
        b'{"name": "one"}\n{"name": "two", "tier": "gold"}\n': "line 2, tier: Must be one of",
        b'{"name": "one"}\n{"name": "two", "key": "sk-too-short"}\n': "line 2, key: Must be 16",
        b'{"name": "one", "key": "looks.like.a-token-of-an-account"}': "line 1, key: ",
        b'{"name": "one", "sha256": "ABC"}': "line 1, sha256: Must be 64",
        b'{"name": "one", "owner": 5}': "Line 1: owner must be a string",
        b'{"name": "one"}\n[1]\n': "Line 2: not a JSON object",
        b'{"name": "one"}\n{"name"': "Line 2: invalid JSON",
        b"name\n\xff\xfe\n": "is not UTF-8",
    }

    for content, message in refused.items():
        file.write_bytes(content)
        done = weir.run_flask("keys", "import", str(file))
        assert (done.returncode, done.stdout) == (1, "")
        assert message in done.stderr
    assert json.loads(weir.run_flask("keys", "list", "--json").stdout) == []
