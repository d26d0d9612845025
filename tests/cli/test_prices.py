"""`flask prices`: an update is shown, asked for, written, and seen by all that run."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from tests.conftest import MakeWeir
from tests.support import price_lists
from tests.support.servers import Weir, free_port, wait_until
from webapp.metering.prices import shipped

KEYS = {
    "API_KEYS": "test:enterprise:a-test-key-of-16-chars,poor:poor:a-poor-key-of-16-chars",
    "TIERS": "enterprise=9999/minute;poor=9999/minute", "TIER_POOR": "usd_per_day=1",
    "OPENAI_API_KEY": "sk-none",
}  # fmt: skip
KEY, POOR = "a-test-key-of-16-chars", "a-poor-key-of-16-chars"
ASKED = {"model": "gpt-4o-mini", "max_tokens": 100, "messages": [{"role": "user", "content": "x"}]}


def explained(weir: Weir, **changed: Any) -> dict[str, Any]:
    answer = weir.post("/v1/explain", key=KEY, json=ASKED | changed)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def replicas(
    request: pytest.FixtureRequest,
    start_shared_weir: MakeWeir,
    migrated_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Weir, Weir]:
    """Two that run on one database."""
    url = f"sqlite:///{shutil.copy(migrated_file, tmp_path_factory.mktemp('shared'))}"
    if request.param == "postgresql":
        url = request.getfixturevalue("fresh_shared_database")
    settings = KEYS | {"DATABASE_URL": url, "MODEL_PRICES": "openai/mine: input=3"}
    return start_shared_weir(**settings), start_shared_weir(**settings)


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Weir looks for new prices every five seconds."""
    wait_until(condition, 15, what, pause=0.1)


AUDITED = "SELECT actor, action, target FROM audit WHERE action LIKE 'prices%' ORDER BY id"


def test_an_update_is_seen_by_all_that_run_and_by_all_that_start(
    replicas: tuple[Weir, Weir], tmp_path: Path
) -> None:
    first, second = replicas
    rows(first, "DELETE FROM prices")  # of another test
    for weir in replicas:
        wait_for(lambda weir=weir: explained(weir)["price_source"] == shipped().source, "its end")
    earlier = len(rows(first, AUDITED))
    before = explained(first)
    assert before["price_source"] == shipped().source == explained(second)["price_source"]
    file = price_lists.write(tmp_path, **{"gpt-new": price_lists.table()["gpt-4o-mini"]})
    done = first.run_flask("prices", "update", file, "--yes", "--date", "2030-01-31")
    assert done.returncode == 0, done.stderr
    assert "added    openai/gpt-new: input=1.00, output=2.00" in done.stdout
    assert "changed  openai/gpt-4o-mini: input 0.15 → 1.00" in done.stdout
    assert f"removed  openai/gpt-4.1: its price of {shipped().source} stays" in done.stdout
    source = "flask prices update: prices.json (2030-01-31)"
    for weir in replicas:
        wait_for(lambda weir=weir: explained(weir)["price_source"] == source, "the update")
        bound = (before["cost_ceiling_usd"] - 100 * 0.6e-6) / 0.15e-6
        now = explained(weir)["cost_ceiling_usd"]
        assert now == pytest.approx(bound * 1e-6 + 100 * 2e-6, abs=1e-9)
        # A model that the update does not have keeps its price, and MODEL_PRICES come first.
        assert explained(weir, model="gpt-4.1")["price_source"] == shipped().source
        assert explained(weir, model="mine")["price_source"] == "MODEL_PRICES"
        assert explained(weir, model="nobody-s")["price_source"] is None
    second.stop()
    second.start()
    assert explained(second)["price_source"] == source, "from its first request on"
    assert rows(first, AUDITED)[earlier:] == [("cli", "prices.update", "prices")]
    # What is written again replaces all of it.
    done = first.run_flask("prices", "update", price_lists.write(tmp_path), "--yes")
    assert "removed  openai/gpt-new: has no price then" in done.stdout
    assert rows(first, "SELECT count(*) FROM prices WHERE model = 'gpt-new'") == [(0,)]


def rows(weir: Weir, query: str) -> list[tuple[Any, ...]]:
    engine = engine_of(weir)
    with engine.begin() as connection:
        result = connection.execute(text(query))
        found = [tuple(row) for row in result] if result.returns_rows else []
    engine.dispose()
    return found


def engine_of(weir: Weir) -> Any:
    url = weir.env.get("DATABASE_URL") or f"sqlite:///{weir.data_dir / 'weir.db'}"
    return create_engine(str(url).replace("postgresql://", "postgresql+psycopg://"))


@pytest.mark.parametrize("replicas", ["sqlite"], indirect=True)
def test_a_broken_row_is_skipped_and_logged_once(
    replicas: tuple[Weir, Weir], tmp_path: Path
) -> None:
    weir, _ = replicas
    weir.run_flask("prices", "update", price_lists.write(tmp_path), "--yes")
    rows(
        weir,
        "INSERT INTO prices SELECT provider, 'odd', '[]', source, source_date, updated_at "
        "FROM prices WHERE model = 'gpt-4o-mini'",
    )
    broken = "The price of openai/odd in the database is skipped"
    wait_for(lambda: broken in weir.raw_logs(), "The log line")
    rows(
        weir,
        "UPDATE prices SET updated_at = updated_at + 1, "
        """entry = '{"input": "7", "output": "9"}' WHERE model = 'gpt-4o-mini'""",
    )
    wait_for(lambda: explained(weir)["cost_ceiling_usd"] > 100 * 9e-6, "The other row")
    assert weir.raw_logs().count(broken) == 1


def test_an_update_asks_and_writes_nothing_without_a_yes(
    new_weir: MakeWeir, tmp_path: Path
) -> None:
    weir = new_weir(**KEYS)
    done = weir.run_flask("prices", "update", price_lists.write(tmp_path))
    assert done.returncode == 1
    assert "Write these prices? [y/N]" in done.stdout
    assert rows(weir, "SELECT count(*) FROM prices") == [(0,)]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("no JSON", "is no table of prices"),
        ("[]", "it is no JSON object of models"),
        ("{}", "it has no prices of openai"),
        (json.dumps(price_lists.table(**{"gpt-4o-mini": {"input_cost_per_token": -1}})),
         "gpt-4o-mini: input must be an amount in USD"),
        (json.dumps(price_lists.table(**{"gpt-4o-mini": {"input_cost_per_token": "free"}})),
         "gpt-4o-mini: 'free' is no price"),
    ],
)  # fmt: skip
def test_what_is_no_table_is_refused(
    new_weir: MakeWeir, tmp_path: Path, content: str, words: str
) -> None:
    file = tmp_path / "file"
    file.write_text(content)
    done = new_weir(**KEYS).run_flask("prices", "update", str(file), "--yes")
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@contextmanager
def mirror(content: bytes, status: int = 200) -> Iterator[str]:
    """A web server that serves this for any path."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/a/prices.json"
    finally:
        server.shutdown()
        server.server_close()


def test_a_table_is_downloaded_and_a_failure_says_what_to_do(new_weir: MakeWeir) -> None:
    weir = new_weir(**KEYS)
    with mirror(json.dumps(price_lists.table()).encode()) as url:
        done = weir.run_flask("prices", "update", url, "--yes")
        assert done.returncode == 0, done.stderr
        assert "written" in done.stdout
    with mirror(b"gone", 404) as gone:
        for address in (gone, f"http://127.0.0.1:{free_port()}/prices.json"):
            done = weir.run_flask("prices", "update", address, "--yes")
            assert done.returncode == 1
            assert "127.0.0.1 gave no prices" in done.stderr
            assert "flask prices update FILE" in done.stderr


def test_prices_are_listed_as_model_prices_has_them(new_weir: MakeWeir) -> None:
    weir = new_weir(**KEYS, MODEL_PRICES="openai/mine*: input=3, priority.output=9.5")
    listed = weir.run_flask("prices", "list").stdout
    assert "openai/mine*: input=3.00, priority.output=9.50  # MODEL_PRICES\n" in listed
    assert len(listed.splitlines()) > 200
    [line] = weir.run_flask("prices", "list", "openai*/gpt-5.4-mini*").stdout.splitlines()
    fields, _, source = line.removeprefix("openai/gpt-5.4-mini: ").partition("  # ")
    assert source == shipped().source
    # As it is printed, it can be set.
    weir = new_weir(**KEYS, MODEL_PRICES=f"openai/again: {fields}")
    assert f"openai/again: {fields}  # MODEL_PRICES" in weir.run_flask("prices", "list").stdout


def test_a_server_of_one_s_own_has_no_prices_of_openai(start_weir: MakeWeir, provider: Any) -> None:
    """Asked for gpt-4o-mini, it is unpriced: for keys with a budget, too."""
    weir = start_weir(**KEYS, OPENAI_BASE_URL=provider.base_url)
    assert explained(weir)["price_source"] is None
    assert explained(weir)["cost_ceiling_usd"] is None
    answer = weir.post("/chat", key=KEY, json={"message": "x", "model": "gpt-4o-mini"})
    assert answer.json()["cost_usd"] is None
    refused = weir.post("/chat", key=POOR, json={"message": "y", "model": "gpt-4o-mini"})
    assert (refused.status_code, refused.json()["error"]) == (403, "ModelNotPriced")

    weir = start_weir(**KEYS, OPENAI_BASE_URL=provider.base_url, OPENAI_PRICES="maker")
    assert explained(weir)["price_source"] == shipped().source
    answer = weir.post("/chat", key=POOR, json={"message": "y", "model": "gpt-4o-mini"})
    assert answer.json()["tokens_used"] == 3
    assert answer.json()["cost_usd"] == (1 * 150 + 2 * 600) / 1e9
