"""opencode, through its providers of Anthropic's and OpenAI's, and an OpenAI-compatible one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.agents import installed
from tests.agents.conftest import KEY, POOR, USED_UP, check_ledger, refused
from tests.agents.running import FILE, Run, Workplace
from tests.support.books import Books
from tests.support.servers import Provider, Weir

# By model: the endpoint of Weir's, and the provider's.
ENDPOINTS = {
    "anthropic/stand-in-claude": "/v1/messages",
    "openai/stand-in-1": "/v1/responses",
    "weir/stand-in-1": "/v1/chat/completions",
}
PATHS = ENDPOINTS | {"anthropic/stand-in-claude": "/anthropic/v1/messages"}
# Nothing is fetched: no update, no list of models, no package, no language server.
OFF = {
    "OPENCODE_DISABLE_AUTOUPDATE": "1",
    "OPENCODE_DISABLE_MODELS_FETCH": "1",
    "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
    "OPENCODE_DISABLE_DEFAULT_PLUGINS": "1",
    "OPENCODE_DISABLE_SHARE": "1",
    "npm_config_offline": "true",
}


def settings(weir: Weir) -> dict[str, Any]:
    base_url = {"baseURL": f"{weir.url}/v1"}
    return {
        "provider": {
            "anthropic": {"options": base_url, "models": {"stand-in-claude": {}}},
            "openai": {"options": base_url, "models": {"stand-in-1": {}}},
            "weir": {
                "npm": "@ai-sdk/openai-compatible",
                "options": base_url | {"apiKey": "{env:WEIR_API_KEY}"},
                "models": {"stand-in-1": {}},
            },
        },
    }


def run(weir: Weir, workplace: Workplace, model: str, key: str, until: str | None = None) -> Run:
    (workplace.work / "opencode.json").write_text(json.dumps(settings(weir)))
    asked = f"Who built the weir? [[call:read,filePath={workplace.work / FILE}]]"
    options = ["--model", model, "--title", "weir", "--print-logs", "--log-level", "ERROR"]
    names = ("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "WEIR_API_KEY")
    environ = OFF | dict.fromkeys(names, key)
    return workplace.run([*installed.opencode(), "run", *options, asked], environ, until=until)


@pytest.mark.parametrize("model", PATHS)
def test_opencode_reads_a_file_and_answers_from_it(
    weir: Weir, provider: Provider, books: Books, workplace: Workplace, model: str
) -> None:
    ended = run(weir, workplace, model, KEY)
    assert ended.exit_code == 0, ended
    assert workplace.secret in ended.stdout, ended
    check_ledger(books, provider.calls(PATHS[model]))


@pytest.mark.parametrize("model", PATHS)
def test_opencode_tells_of_a_used_up_budget_and_asks_once(
    weir: Weir, provider: Provider, workplace: Workplace, model: str
) -> None:
    # It goes on to wait for the time in Retry-After, in silence.
    ended = run(weir, workplace, model, POOR, until="USD left")
    assert USED_UP in ended.stderr, ended
    assert refused(weir, ENDPOINTS[model]) == 1
    assert provider.calls() == []
