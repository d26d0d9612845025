"""Rules that nobody has to remember."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from webapp import errors, settings
from webapp.admission import PUBLIC, _admit, _identify_only
from webapp.api import ANTHROPIC_ENDPOINTS, ENDPOINTS, OPENAI_ENDPOINTS, dialects, openapi
from webapp.api.dialects.anthropic import ANTHROPIC
from webapp.api.dialects.openai import OPENAI
from webapp.cli import settings as settings_command
from webapp.dashboard import PAGES, session

ROOT = Path(__file__).resolve().parents[2]


def tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [ROOT / line for line in listed.stdout.splitlines()]


ALL_ENDPOINTS = [*ENDPOINTS, *ANTHROPIC_ENDPOINTS, *OPENAI_ENDPOINTS, openapi.blueprint]


@pytest.mark.parametrize("endpoint", ALL_ENDPOINTS, ids=lambda endpoint: endpoint.name)
def test_every_blueprint_is_guarded_or_named_public(endpoint: Any) -> None:
    hooks = endpoint.before_request_funcs.get(None, [])
    assert [_admit in hooks, _identify_only in hooks, getattr(endpoint, PUBLIC, False)].count(
        True
    ) == 1


@pytest.mark.parametrize("pages", PAGES, ids=lambda pages: pages.name)
def test_every_page_is_for_those_who_are_signed_in(pages: Any) -> None:
    hooks = pages.before_request_funcs.get(None, [])
    assert (session._admit in hooks) == (pages is not session.blueprint)


@pytest.mark.parametrize("endpoint", ALL_ENDPOINTS, ids=lambda endpoint: endpoint.name)
def test_every_endpoint_has_its_dialect(endpoint: object) -> None:
    assert (dialects.of(endpoint) is OPENAI) == (endpoint in OPENAI_ENDPOINTS)
    assert (dialects.of(endpoint) is ANTHROPIC) == (endpoint in ANTHROPIC_ENDPOINTS)


def test_the_page_of_all_settings_is_the_generated_one() -> None:
    page = CliRunner().invoke(settings_command.table).output
    assert page == (ROOT / "docs/settings.md").read_text(), (
        "write it: .venv/bin/flask settings table > docs/settings.md"
    )


def rows_of_the_readme() -> list[str]:
    _, _, section = (ROOT / "README.md").read_text().partition("\n## Settings\n")
    return re.findall(r"^\| `.+", section.partition("\n## ")[0], re.MULTILINE)


def test_the_readme_has_ten_rows_of_the_page_of_all_settings() -> None:
    assert len(rows_of_the_readme()) == 10
    page = (ROOT / "docs/settings.md").read_text().splitlines()
    assert set(rows_of_the_readme()) <= set(page)


def test_the_example_of_an_environment_names_the_settings_of_the_readme() -> None:
    example = (ROOT / ".env.example").read_text()
    names = re.findall(r"^#?([A-Z][A-Z0-9_]*)=", example, re.MULTILINE)
    assert sorted(names) == sorted(row.split("`")[1] for row in rows_of_the_readme())


def test_only_the_settings_read_the_environment() -> None:
    readers = {
        path.relative_to(ROOT).as_posix()
        for path in tracked("webapp/*.py")
        if re.search(r"os\.environ(?!\.setdefault)|getenv|environb", path.read_text())
    }
    assert readers == {"webapp/settings.py"}


def test_every_file_says_what_it_is_for() -> None:
    silent = [
        path.relative_to(ROOT).as_posix()
        for path in tracked("*.py")
        if not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []


def test_every_error_is_in_the_documentation() -> None:
    documented = (ROOT / "docs/errors.md").read_text()
    names = [
        name
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.WeirError)
    ]
    assert len(names) > 15
    for name in names:
        assert f"`{name}`" in documented, name
        assert name in (errors.__doc__ or ""), name


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_every_requirement_is_pinned_and_has_hashes(name: str) -> None:
    without_comments = re.sub(r"^ *#.*\n", "", (ROOT / name).read_text(), flags=re.MULTILINE)
    requirements = without_comments.replace("\\\n", "").splitlines()
    assert len(requirements) > 30
    pinned = re.compile(r"[a-z0-9_.-]+==[^ ]+( ; .+?)?( +--hash=sha256:[0-9a-f]{64})+")
    for requirement in requirements:
        assert pinned.fullmatch(requirement), requirement


def test_no_secret_of_a_setting_has_a_default() -> None:
    for declared in settings.table():
        if declared.metadata["secret"]:
            assert declared.metadata["default"] == ""
