"""LiteLLM's own example configurations, as its package has them: all become settings that load."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.environments import python_environment
from webapp.imports.litellm.conversion import convert
from webapp.imports.report import DIFFERS, MISSING, TODO
from webapp.settings import Settings

# By example: the routes, and keys of which the report must tell. `server` is a server of one's own.
MEANINGS: dict[str, tuple[dict[str, str], set[str]]] = {
    "simple_config": ({"gpt-5-mini": "openai/gpt-5-mini"}, set()),
    "aliases_config": (
        {"text-davinci-003": "ollama/zephyr", "gpt-4": "ollama/llama2",
         "gpt-3.5-turbo": "ollama/llama2"}, {"temperature", "max_tokens"},
    ),
    "azure_config": (
        {"gpt-4-team1": "azure/chatgpt-v-2", "gpt-4-team2": "openai_gpt_4_test_v_2/gpt-4"},
        {"tpm", "stream_timeout", "max_retries"},
    ),
    "load_balancer": (
        {"gpt-3.5-turbo": "openai/gpt-3.5-turbo*1>openai_gpt_3_5_turbo/gpt-3.5-turbo*1>"
         "openrouter/gpt-3.5-turbo*1"}, {"drop_params", "model"},
    ),
    "enterprise_config": ({"gpt-4": "fake_openai/fake"}, {"tags", "enable_tag_filtering"}),
    "spend_tracking_config": (
        {"fake-openai-endpoint": "fake_openai/gpt-5-mini"}, {"use_redis_transaction_buffer"},
    ),
    "store_model_db_config": (
        {"fake-openai-endpoint": "fake_openai/my-fake-model"}, {"store_model_in_db"},
    ),
    "adaptive_router_example": (
        {"fast": "openai/gpt-4o-mini", "smart": "openai/gpt-4o"},
        {"model", "adaptive_router_preferences", "master_key"},
    ),
    "websearch_interception_config": (
        {"claude-3-5-sonnet": "bedrock/us.anthropic.claude-haiku-4-5-20251001-v1:0"}, {"model"},
    ),
    "_health_check_test_config": (
        {"text-embedding-ada-002": "azure/azure-embedding-model"}, {"background_health_checks"},
    ),
    "tool_permission_example": (
        {"claude-3-5-sonnet": "anthropic/claude-3-5-sonnet-20241022"}, {"guardrails"},
    ),
    "pass_through_config": (
        {"claude-special-alias": "anthropic/claude-haiku-4-5-20251001"},
        {"custom_auth", "pass_through_endpoints"},
    ),
    "otel_test_config": (
        {"fake-azure-endpoint": "fake_openai/429",
         "llava-hf": "server/llava-hf/llava-v1.6-vicuna-7b-hf"},
        {"callbacks", "guardrails", "tags"},
    ),
    "oai_misc_config": (
        {"gpt-5-mini-end-user-test": "openai/gpt-5-mini"},
        {"context_window_fallbacks", "finetune_settings", "default_team_settings"},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def examples() -> dict[str, Path]:
    """The files of the pinned version (tests/clients/litellm/requirements.txt) by name."""
    environment = python_environment("litellm").parents[1]
    [folder] = environment.glob("lib/python3*/site-packages/litellm/proxy/example_config_yaml")
    return {file.stem: file for file in folder.glob("*.yaml")}


def routes_of(settings: Settings) -> Iterator[tuple[str, str]]:
    for name, models in settings.model_routes.items():
        weights = (f"*{model.weight}" if model.weight else "" for model in models)
        named = (f"{model.provider}/{model.model}" for model in models)
        yield name, ">".join(map("".join, zip(named, weights, strict=True)))


def test_every_example_becomes_settings_that_load(
    examples: dict[str, Path], tmp_path: Path
) -> None:
    assert len(examples) > 20
    for file in examples.values():
        convert(file.read_text()).check({}, str(tmp_path))


@pytest.mark.parametrize("name", MEANINGS)
def test_an_example_means_the_same(examples: dict[str, Path], name: str, tmp_path: Path) -> None:
    routes, told = MEANINGS[name]
    conversion = convert(examples[name].read_text())

    found = dict(routes_of(conversion.check({}, str(tmp_path))))
    assert routes.items() <= found.items()
    notes = (conversion.report.about(kind).values() for kind in (TODO, DIFFERS, MISSING))
    keys = {path[-1] for paths in notes for some in paths for path in some}
    assert told <= keys
