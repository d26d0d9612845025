"""The pages of docs/deploying: a reader finds the same things in the same order on each."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.support.servers import REPOSITORY

FOLDER = REPOSITORY / "docs" / "deploying"
PAGES = sorted(FOLDER.glob("*.md"))
# Of no platform.
OTHERS = {"README.md", "containers-or-functions.md", "pipelines.md", "secrets.md"}
SECTIONS = [
    "What you get", "What it costs", "From clone to a smoke-tested address",
    "Custom domain and TLS", "Secrets and rotation", "Scaling", "Logs", "Upgrade", "Roll back",
    "Remove everything",
]  # fmt: skip


def name(page: Path) -> str:
    return page.name


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in OTHERS], ids=name)
def test_a_platform_s_page_has_all_sections_in_their_order(page: Path) -> None:
    headings = re.findall(r"^## (.+)$", page.read_text(), re.MULTILINE)
    of_all = [next((s for s in SECTIONS if heading.startswith(s)), None) for heading in headings]
    assert [section for section in of_all if section] == SECTIONS


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in OTHERS], ids=name)
def test_a_price_has_a_date_and_the_way_ends_with_the_smoke_test(page: Path) -> None:
    text = page.read_text()
    costs = text.partition("## What it costs")[2].partition("\n## ")[0]
    assert re.search(r"\b20\d\d\b", costs)
    way = text.partition("## From clone to a smoke-tested address")[2].partition("\n## ")[0]
    assert "scripts/smoke.py" in way


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_index_leads_to_every_page(page: Path) -> None:
    assert page.name == "README.md" or f"({page.name})" in (FOLDER / "README.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_commands_are_lines_that_a_shell_reads(page: Path) -> None:
    for block in re.findall(r"^ *```sh\n(.*?)^ *```", page.read_text(), re.MULTILINE | re.DOTALL):
        read = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True)
        assert read.returncode == 0, block + read.stderr


def files_made(page: Path) -> list[str]:
    """The files that a page's commands make in the clone. `$FILE` is one of mktemp."""
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```", page.read_text(), re.MULTILINE | re.DOTALL)
    targets = re.findall(
        r'(?:> |docker cp \S+ )("[^"]*"|[^\s"]+)', re.sub(r"\$\(.*?\)", "now", "".join(blocks))
    )
    return [made for target in targets if (made := target.strip('"'))[0] not in "/$"]


@pytest.mark.parametrize("page", [page for page in PAGES if files_made(page)], ids=name)
def test_what_a_page_writes_into_the_clone_is_in_no_commit_and_no_upload(page: Path) -> None:
    """git and `gcloud builds submit` leave out what .gitignore names, Docker all but a list."""
    made = files_made(page)
    command = ["git", "check-ignore", "--no-index", *made]
    ignored = subprocess.run(command, cwd=REPOSITORY / "docs", capture_output=True, text=True)
    assert ignored.stdout.split() == made


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in OTHERS], ids=name)
def test_a_platform_s_page_says_what_runs_batches_there(page: Path) -> None:
    text = page.read_text()
    scaling = text.partition("\n## Scaling")[2].partition("\n## ")[0]
    assert "[workers](README.md#workers)" in scaling
    assert "`flask worker`" in scaling
