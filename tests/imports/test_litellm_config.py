"""LiteLLM's `config.yaml` in Weir's settings: what they mean, and what is told of the rest."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest

from webapp.imports.document import DocumentError
from webapp.imports.litellm.conversion import Conversion, convert
from webapp.imports.report import DIFFERS, MISSING, TODO
from webapp.setting_parsers import RoutedModel
from webapp.settings import Settings

FILE = Path(__file__).parents[1] / "fixtures" / "litellm" / "config.yaml"
ENVIRONMENT = {
    "AZURE_KEY_GERMANY": "german-key", "AZURE_API_BASE": "https://rest.openai.azure.com",
    "AZURE_API_KEY": "azure-key", "ANTHROPIC_API_KEY": "sk-ant", "GEMINI_API_KEY": "g-key",
    "GROQ_API_KEY": "gsk", "REDIS_PASSWORD": "red", "LITELLM_MASTER_KEY": "sk-master-0123456789",
}  # fmt: skip
LITERAL = "sk-literal$ecret'0123456789"


@pytest.fixture(scope="module")
def converted() -> Conversion:
    return convert(FILE.read_text())


@pytest.fixture
def loaded(converted: Conversion, tmp_path: Path) -> Settings:
    return converted.check(ENVIRONMENT, str(tmp_path))


def reported(conversion: Conversion, kind: str) -> dict[str, str]:
    """The messages of a kind by the last key that they are about."""
    notes = conversion.report.about(kind)
    return {str(path[-1]): message for message, paths in notes.items() for path in paths or [("",)]}


def test_each_address_and_key_is_a_provider(loaded: Settings) -> None:
    found = {one.name: (one.type, one.address.complete, one.api_key) for one in loaded.providers}

    assert found == {
        "azure": ("azure", "https://weather-de.openai.azure.com", "german-key"),
        "azure_large": ("azure", "https://rest.openai.azure.com", "azure-key"),
        "openai": ("openai", "", LITERAL),
        "anthropic": ("anthropic", "", "sk-ant"),
        "vllm": ("openai", "http://10.0.0.5:8000/v1", ""),
        "ollama": ("openai", "http://10.0.0.6:11434/v1", ""),
        "bedrock": ("langchain:bedrock_converse", "", ""),
        "gemini": ("openai", "https://generativelanguage.googleapis.com/v1beta/openai", "g-key"),
        "groq": ("openai", "https://api.groq.com/openai/v1", "gsk"),
    }
    [azure] = [one for one in loaded.providers if one.name == "azure"]
    assert azure.address.api_version == "2024-10-21"


def test_groups_orders_fallbacks_and_aliases_become_routes(loaded: Settings) -> None:
    weighted = (
        RoutedModel("azure", "large-deployment", 3),
        RoutedModel("azure_large", "large-deployment", 1),
    )
    claude = RoutedModel("anthropic", "claude-haiku-4-5", 0)
    germany = RoutedModel("azure", "large-deployment", 0)

    assert loaded.model_routes == {
        "large": weighted,
        "gpt-4": weighted,
        # The fallback of a fallback is tried after it; one names a deployment by its id.
        "small": (RoutedModel("openai", "gpt-4o-mini", 0), claude, germany),
        "claude": (claude, germany),
        "house": (
            RoutedModel("vllm", "meta-llama/Llama-3.1-8B-Instruct", 0),
            RoutedModel("ollama", "llama3.1", 0),
        ),
        "bedrock-claude": (
            RoutedModel("bedrock", "us.anthropic.claude-sonnet-4-5-20250929-v1:0", 0),
        ),
        "gemini": (RoutedModel("gemini", "gemini-2.5-flash", 0),),
        "odd;name": (RoutedModel("groq", "llama-3.1-8b-instant", 0),),
    }


def test_prices_are_for_a_million_tokens_and_azure_has_those_of_its_base_model(
    loaded: Settings,
) -> None:
    prices = loaded.model_prices

    llama = prices["vllm/meta-llama/Llama-3.1-8B-Instruct"]
    assert (llama["input"], llama["output"]) == (100_000_000, 400_000_000)
    assert prices["ollama/llama3.1"] == {"input": 0, "output": 0}
    azure = prices["azure/large-deployment"]
    assert (azure["input"], azure["output"]) == (2_500_000_000, 10_000_000_000)


def test_settings_of_the_whole_proxy_are_taken_over(loaded: Settings) -> None:
    assert loaded.llm_max_retries == 3
    # A plain call of LiteLLM lasts as long as its timeout: Weir's deadline must not end it before.
    assert (loaded.llm_timeout, loaded.plain_deadline) == (300, 300)
    assert (loaded.breaker_failures, loaded.breaker_pause) == (3, 30)
    assert loaded.redis_url == "redis://:red@redis.internal:6380/0"
    assert loaded.cache_ttl == 600
    [key] = loaded.api_keys
    assert (key.name, key.tier, key.secret) == (
        "litellm-master", "enterprise", "sk-master-0123456789",
    )  # fmt: skip
    assert loaded.database_url.startswith("sqlite"), "LiteLLM's database is not Weir's"


def test_what_has_no_counterpart_is_told_with_its_key_and_line(converted: Conversion) -> None:
    todo, differs, missing = (reported(converted, kind) for kind in (TODO, DIFFERS, MISSING))

    assert {"database_url", "store_model_in_db", "cache_params"} <= todo.keys()
    assert "pip install langchain-aws" in " ".join(todo.values())
    assert "bedrock/us.anthropic.claude-sonnet-4-5" in todo[""], "it has no price"
    assert {"master_key", "allowed_fails"} <= differs.keys()
    assert missing.keys() == {
        "temperature", "model", "aws_access_key_id", "context_window_fallbacks",
        "success_callback", "unheard_of", "routing_strategy", "guardrails",
    }  # fmt: skip
    line = FILE.read_text().splitlines().index("  unheard_of: 1") + 1
    assert f"litellm_settings.unheard_of (line {line}): Weir has no such" in converted.report.text()


def test_no_secret_is_in_the_report(converted: Conversion) -> None:
    assert "literal" not in converted.report.text()
    assert "hush-hush" not in converted.report.text() + converted.text


def test_a_shell_reads_the_file_as_weir_does(converted: Conversion, tmp_path: Path) -> None:
    file = tmp_path / "weir.env"
    file.write_text(converted.text)
    names = " ".join(f'"${name}"' for name in converted.env.templates)
    script = f"set -a; . {shlex.quote(str(file))}; printf '%s\\0' {names}"

    done = subprocess.run(["sh", "-c", script], env=ENVIRONMENT, capture_output=True, text=True)

    assert done.stderr == ""
    values = dict(zip(converted.env.templates, done.stdout.split("\0"), strict=False))
    assert values == converted.env.values(ENVIRONMENT.__getitem__)
    assert values["OPENAI_API_KEY"] == LITERAL


def lines(**sections: str) -> str:
    return "\n".join(f"{name}:\n{text}" for name, text in sections.items())


OPENAI = "  - {model_name: %s, litellm_params: {model: %s, api_key: os.environ/OPENAI_API_KEY}}\n"


def test_wildcards_alone_leave_the_models_of_the_providers_to_the_clients() -> None:
    models = OPENAI % ('"*"', "openai/*") + OPENAI % ("gpt-4o", "gpt-4o")
    conversion = convert(lines(model_list=models))

    assert "MODEL_ROUTES" not in conversion.env.templates
    assert "clients name any model" in conversion.report.text()


def test_a_wildcard_beside_other_names_is_told_to_be_done_by_hand() -> None:
    models = OPENAI % ('"openai/*"', "openai/*") + OPENAI % ("fast", "gpt-4o-mini")
    conversion = convert(lines(model_list=models))

    assert conversion.env.templates["MODEL_ROUTES"] == "fast=openai/gpt-4o-mini"
    assert "openai/*: beside routes, Weir has no wildcards" in conversion.report.text()


@pytest.mark.parametrize(
    ("strategy", "weights"),
    [("simple-shuffle", ["1", "3"]), ("usage-based-routing-v2", ["1", "1"])],
)
def test_requests_a_minute_are_weights_where_litellm_draws_by_them(
    strategy: str, weights: list[str]
) -> None:
    models = "".join(
        f"  - {{model_name: a, litellm_params: {{model: openai/m-{rpm}, rpm: {rpm}}}}}\n"
        for rpm in (20, 60)
    )
    conversion = convert(
        lines(model_list=models, router_settings=f"  routing_strategy: {strategy}")
    )

    routes = conversion.env.templates["MODEL_ROUTES"]
    assert [target.rpartition("*")[2] for target in routes.split(">")] == weights


def test_models_of_the_database_are_read_from_what_litellm_answers_of_them(tmp_path: Path) -> None:
    # GET /model/info | jq '{model_list: .data}': JSON, which YAML reads, without secrets.
    entry = {
        "model_name": "fast",
        "litellm_params": {"model": "openai/gpt-4o-mini", "use_in_pass_through": None},
        "model_info": {
            "id": "0f6c", "db_model": True, "key": "gpt-4o-mini", "max_tokens": 16384,
            "input_cost_per_token": 1.5e-07, "output_cost_per_token": 6e-07, "mode": "chat",
            "litellm_provider": "openai", "supports_vision": True, "created_at": "2026-01-01",
            "input_cost_per_audio_token": None, "supported_openai_params": ["stream"],
        },
    }  # fmt: skip
    conversion = convert(json.dumps({"model_list": [entry]}, indent=1))

    loaded = conversion.check({}, str(tmp_path))
    assert loaded.model_routes["fast"] == (RoutedModel("openai", "gpt-4o-mini", 0),)
    assert loaded.model_prices["openai/gpt-4o-mini"]["output"] == 600_000_000
    assert conversion.env.templates["OPENAI_API_KEY"] == "${OPENAI_API_KEY}"
    assert not conversion.report.about(MISSING)


def test_nothing_is_cached_where_litellm_cached_nothing() -> None:
    conversion = convert(lines(model_list=OPENAI % ("a", "gpt-4o")))

    assert conversion.env.templates["CACHE_TTL"] == "0"


def test_a_model_of_ollama_is_free_as_it_was() -> None:
    conversion = convert(lines(model_list=OPENAI % ("a", "ollama/llama3.1")))

    assert conversion.env.templates["MODEL_PRICES"] == "ollama/llama3.1: input=0.00, output=0.00"
    assert "No price is known" not in conversion.report.text()


def test_one_rate_of_a_price_leaves_the_other_as_the_maker_has_it(tmp_path: Path) -> None:
    entry = (
        "  - model_name: a\n    litellm_params: {model: gpt-4o-mini, input_cost_per_token: 1e-6}"
    )
    prices = convert(lines(model_list=entry)).check({}, str(tmp_path)).model_prices

    assert (prices["openai/gpt-4o-mini"]["input"], prices["openai/gpt-4o-mini"]["output"]) == (
        1_000_000_000, 600_000_000,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("- a\n- b", "no mapping"),
        ("a: [1\nb: 2", "line 2"),
        ("key: {sk-secret: [}", "line 1"),
        ("a: !!python/object/apply:os.system ['true']", "line 1"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused_with_its_line(text: str, problem: str) -> None:
    with pytest.raises(DocumentError, match=problem) as caught:
        convert(text)
    assert "sk-secret" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "model_list: null", "model_list: 5", "model_list: [5, null, {}]",
        "model_list: [{model_name: a, litellm_params: [1]}]",
        "litellm_settings: [1]\nrouter_settings: 2\ngeneral_settings: null\n",
        "router_settings: {fallbacks: {a: b}, model_group_alias: [1]}",
        "router_settings: {fallbacks: [{a: [b, {model: c}]}], num_retries: many, timeout: -1}",
        "router_settings: {num_retries: 1e999999999, timeout: .nan, allowed_fails: .inf}",
        "credential_list: [1, {credential_name: a}]",
        "x: &x [*x]",
    ],
)  # fmt: skip
def test_odd_shapes_make_no_settings_and_no_traceback(text: str, tmp_path: Path) -> None:
    convert(text).check({}, str(tmp_path))
