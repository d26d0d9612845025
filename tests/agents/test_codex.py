"""Codex, through a provider of its own in config.toml, over Responses."""

from __future__ import annotations

import pytest

from tests.agents import installed
from tests.agents.conftest import KEY, POOR, check_ledger, refused
from tests.agents.running import FILE, Run, Workplace
from tests.support.books import Books
from tests.support.servers import Provider, Weir

# With a model whose provider has Responses itself, and with those that are translated.
PATHS = {
    "stand-in-1": "/v1/responses",
    "stand-in-2": "/v1/chat/completions",
    "anthropic/stand-in-claude": "/anthropic/v1/messages",
}
# `web_search` is a tool of OpenAI's server, which other models do not have. Nothing is told or
# fetched: plugins would be, from GitHub.
SETTINGS = """
model = "{model}"
model_provider = "weir"
web_search = "disabled"
check_for_update_on_startup = false

[features]
plugins = false

[analytics]
enabled = false

[feedback]
enabled = false

[model_providers.weir]
name = "Weir"
base_url = "{url}/v1"
env_key = "WEIR_API_KEY"
wire_api = "responses"
"""


def run(weir: Weir, workplace: Workplace, model: str, key: str) -> Run:
    settings = workplace.home / ".codex" / "config.toml"
    settings.parent.mkdir()
    settings.write_text(SETTINGS.format(model=model, url=weir.url))
    asked = f"Who built the weir? [[call:exec_command,cmd=cat {FILE}]]"
    # Its sandbox wants rights that a container may not give; the folder is thrown away.
    options = ["--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"]
    return workplace.run([*installed.codex(), "exec", *options, asked], {"WEIR_API_KEY": key})


@pytest.mark.parametrize("model", PATHS)
def test_codex_reads_a_file_and_answers_from_it(
    weir: Weir, provider: Provider, books: Books, workplace: Workplace, model: str
) -> None:
    provider.fault(status=404, path="/v1/responses", model="stand-in-2")
    ended = run(weir, workplace, model, KEY)
    assert ended.exit_code == 0, ended
    assert workplace.secret in ended.stdout, ended
    check_ledger(books, provider.calls(PATHS[model]))


def test_codex_tells_of_a_used_up_budget_and_asks_once(
    weir: Weir, provider: Provider, workplace: Workplace
) -> None:
    ended = run(weir, workplace, "stand-in-1", POOR)
    assert ended.exit_code == 1, ended
    # Its own words for the error type `insufficient_quota`.
    assert "ERROR: Quota exceeded. Check your plan and billing details." in ended.stderr, ended
    assert refused(weir, "/v1/responses") == 1
    assert provider.calls() == []
