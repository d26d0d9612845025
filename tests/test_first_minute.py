"""What a new user does first: starts Weir, reads the banner, and follows the README."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import MakeWeir
from tests.support.administrator import Administrator
from tests.support.marked_blocks import agrees, marked_blocks, run
from tests.support.servers import REPOSITORY, Weir, wait_until
from tests.support.visitor import Visitor
from webapp.settings import table
from webapp.storage.database import Database

# In this order, against one Weir.
PAGES = (
    "README.md",
    "docs/get-started.md",
    "docs/keys-and-limits.md",
    "docs/predict.md",
)
STAND_IN = REPOSITORY / "tests/local_model/stand_in"


@pytest.fixture(scope="module")
def weir(start_shared_weir: MakeWeir, migrated_file: Path) -> Weir:
    """One that was never started."""
    return start_shared_weir(LOCAL_MODEL="on", PYTHONPATH=STAND_IN, database_file=migrated_file)


def stderr(weir: Weir) -> str:
    return (weir.folder / "stderr.log").read_text()


@pytest.fixture(scope="module")
def banner(weir: Weir) -> str:
    return wait_until(lambda: stderr(weir) if "first request" in stderr(weir) else "")


@pytest.fixture(scope="module")
def password(banner: str) -> str:
    [shown] = re.findall(r"Password +(\S+) \(shown only now\)", banner)
    return shown


def test_the_readme_and_the_first_steps_work_in_their_own_order(weir: Weir, password: str) -> None:
    blocks = [block for page in PAGES for block in marked_blocks(REPOSITORY / page)]
    assert len(blocks) > 30
    printed = [(block, run(block, weir, {"PASSWORD": password})) for block in blocks]
    wrong = [(b, text) for b, text in printed if b.output and not agrees(text, b.output)]
    assert wrong == []


def test_each_page_opens_where_no_provider_is_configured(weir: Weir, password: str) -> None:
    visitor = Visitor(weir)
    visitor.sign_in(password=password)
    pages = ("", "keys", "requests", "batches", "playground", "providers", "accounts", "audit")
    opened = {page: visitor.get(f"/dashboard/{page}").status_code for page in pages}
    assert set(opened.values()) == {200}, opened


def test_the_banner_says_what_is_needed_next(weir: Weir, banner: str, password: str) -> None:
    for row in (
        f"Address     {weir.url}\n",
        f"Dashboard   {weir.url}/dashboard/\n",
        "User        admin\n",
        "accounts set-password admin\n",
        "Answers     local: SmolLM2 135M Instruct, a small local model for trying things out\n",
        f"Data        sqlite:///{weir.data_dir}/weir.db\n",
    ):
        assert row in banner
    assert Administrator(weir, "admin", password).get("/admin/accounts").status_code == 200
    command = banner[banner.index("curl ") :]
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=30)
    assert '"provider":"local"' in done.stdout
    # The log is JSON, and without the password.
    lines = (weir.folder / "stdout.log").read_text()
    assert all(line.startswith("{") for line in lines.splitlines())
    assert password not in lines


def test_the_password_is_shown_once_and_commands_name_the_database(
    weir: Weir, password: str
) -> None:
    done = weir.run_flask("keys", "list", "--json")
    assert done.stderr == f"Database: sqlite:///{weir.data_dir}/weir.db\n"
    assert done.stdout.startswith("[")
    weir.kill()
    weir.start()
    later = wait_until(
        lambda: stderr(weir) if "Password    set at the first start\n" in stderr(weir) else ""
    )
    assert later.count(password) == 1


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql+psycopg://ada:secret@db:5432/weir", "postgresql://ada@db:5432/weir"),
        (
            "postgresql+psycopg:///weir?host=a&host=b&sslpassword=x",
            "postgresql:///weir?host=a&host=b",
        ),
    ],
)
def test_a_database_is_named_without_its_secrets(url: str, shown: str) -> None:
    assert Database(url).shown == shown


def test_the_data_lie_in_the_same_place_wherever_commands_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    [data_dir] = [setting for setting in table() if setting.name == "data_dir"]
    assert data_dir.metadata["default"] == str(REPOSITORY / "data")
