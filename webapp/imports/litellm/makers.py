"""How Weir reaches each provider that LiteLLM names in front of a model."""

from __future__ import annotations

import re
from typing import NamedTuple


class Maker(NamedTuple):
    """A provider of LiteLLM: its type and name in Weir, and where it is called.

    `key` and `address` are the variables that LiteLLM reads where the file says nothing.
    """

    type: str
    name: str
    base_url: str = ""
    key: str = ""
    address: str = ""
    v1: bool = False
    """LiteLLM's base URL stands without the /v1 that Weir needs."""


def _openai(name: str, base_url: str, key: str) -> Maker:
    return Maker("openai", name, base_url, key)


def _server(name: str, prefix: str, *, base_url: str = "", v1: bool = False) -> Maker:
    """A server of one's own that speaks OpenAI's protocol."""
    return Maker("openai", name, base_url, "", f"{prefix}_API_BASE", v1)


OLLAMA = _server("ollama", "OLLAMA", base_url="http://localhost:11434/v1", v1=True)
BEDROCK = Maker("langchain:bedrock_converse", "bedrock")
VERTEX = Maker("langchain:google_vertexai", "vertex")

MAKERS = {
    "openai": Maker("openai", "openai", "", "OPENAI_API_KEY"),
    "azure": Maker("azure", "azure", "", "AZURE_API_KEY", "AZURE_API_BASE"),
    "azure_ai": Maker("openai", "azure_ai", "", "AZURE_AI_API_KEY", "AZURE_AI_API_BASE"),
    "anthropic": Maker("anthropic", "anthropic", "", "ANTHROPIC_API_KEY"),
    "bedrock": BEDROCK,
    "bedrock_converse": BEDROCK,
    "vertex_ai": VERTEX,
    "vertex_ai_beta": VERTEX,
    "gemini": _openai(
        "gemini", "https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY"
    ),
    "ollama": OLLAMA,
    "ollama_chat": OLLAMA,
    "hosted_vllm": _server("vllm", "HOSTED_VLLM"),
    "lm_studio": _server("lm_studio", "LM_STUDIO"),
    "llamafile": _server("llamafile", "LLAMAFILE", base_url="http://127.0.0.1:8080/v1"),
    "xinference": _server("xinference", "XINFERENCE", base_url="http://127.0.0.1:9997/v1"),
    "docker_model_runner": _server("docker_models", "DOCKER_MODEL_RUNNER"),
    "litellm_proxy": Maker(
        "openai", "litellm", "", "LITELLM_PROXY_API_KEY", "LITELLM_PROXY_API_BASE"
    ),
    "huggingface": _openai("huggingface", "https://router.huggingface.co/v1", "HF_TOKEN"),
    "groq": _openai("groq", "https://api.groq.com/openai/v1", "GROQ_API_KEY"),
    "openrouter": _openai("openrouter", "https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
    "mistral": _openai("mistral", "https://api.mistral.ai/v1", "MISTRAL_API_KEY"),
    "codestral": _openai("codestral", "https://codestral.mistral.ai/v1", "CODESTRAL_API_KEY"),
    "deepseek": _openai("deepseek", "https://api.deepseek.com/v1", "DEEPSEEK_API_KEY"),
    "xai": _openai("xai", "https://api.x.ai/v1", "XAI_API_KEY"),
    "together_ai": _openai("together", "https://api.together.xyz/v1", "TOGETHERAI_API_KEY"),
    "fireworks_ai": _openai(
        "fireworks", "https://api.fireworks.ai/inference/v1", "FIREWORKS_AI_API_KEY"
    ),
    "perplexity": _openai("perplexity", "https://api.perplexity.ai", "PERPLEXITYAI_API_KEY"),
    "deepinfra": _openai("deepinfra", "https://api.deepinfra.com/v1/openai", "DEEPINFRA_API_KEY"),
    "cerebras": _openai("cerebras", "https://api.cerebras.ai/v1", "CEREBRAS_API_KEY"),
    "nvidia_nim": _openai("nvidia", "https://integrate.api.nvidia.com/v1", "NVIDIA_NIM_API_KEY"),
    "sambanova": _openai("sambanova", "https://api.sambanova.ai/v1", "SAMBANOVA_API_KEY"),
    "moonshot": _openai("moonshot", "https://api.moonshot.ai/v1", "MOONSHOT_API_KEY"),
    "dashscope": _openai(
        "dashscope", "https://dashscope-intl.aliyuncs.com/compatible-mode/v1", "DASHSCOPE_API_KEY"
    ),
    "nebius": _openai("nebius", "https://api.studio.nebius.ai/v1", "NEBIUS_API_KEY"),
    "hyperbolic": _openai("hyperbolic", "https://api.hyperbolic.xyz/v1", "HYPERBOLIC_API_KEY"),
    "novita": _openai("novita", "https://api.novita.ai/v3/openai", "NOVITA_API_KEY"),
    "cohere": _openai("cohere", "https://api.cohere.ai/compatibility/v1", "COHERE_API_KEY"),
    "cohere_chat": _openai("cohere", "https://api.cohere.ai/compatibility/v1", "COHERE_API_KEY"),
}  # fmt: skip

# The packages that LangChain needs for them.
PACKAGES = {BEDROCK.type: "langchain-aws", VERTEX.type: "langchain-google-vertexai"}

# What LiteLLM takes a model without a provider for, by its name.
BARE = [
    (re.compile(r"(gpt|chatgpt|text-embedding|o\d)\b|ft:gpt|davinci|babbage"), "openai"),
    (re.compile(r"claude-"), "anthropic"),
    (re.compile(r"gemini-"), "vertex_ai"),
    (re.compile(r"command-"), "cohere"),
    (re.compile(r"(\w+\.)?(anthropic|amazon|meta|mistral|cohere|ai21|deepseek|qwen)\."), "bedrock"),
]
# Between the provider and the model, LiteLLM may name how it is called.
MANNERS = re.compile(r"(responses|converse|converse_like|invoke|o_series|gpt5_series)/")


def split(model: str, named: str = "") -> tuple[str, str]:
    """The provider as LiteLLM calls it, and the provider's model. "" where LiteLLM's rules tell
    none. `named` is what the file calls `custom_llm_provider`."""
    provider, slash, rest = model.partition("/")
    if slash and (provider == named or (not named and provider in MAKERS)):
        return provider, MANNERS.sub("", rest, count=1)
    if named:
        return named, model
    if slash:
        return "", model
    return next((maker for pattern, maker in BARE if pattern.match(model)), ""), model
