"""Small tables of prices in LiteLLM's format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# A model of each maker, in USD per token.
MODELS = {
    "gpt-4o-mini": ("openai", 1e-6, 2e-6),
    "azure/o3": ("azure", 2e-6, 8e-6),
    "claude-haiku-4-5": ("anthropic", 1e-6, 5e-6),
    "gemini/gemini-2.5-pro": ("gemini", 1.25e-6, 1e-5),
    "mistral/codestral-2508": ("mistral", 3e-7, 9e-7),
    "groq/gemma": ("groq", 1e-7, 2e-7),
    "deepseek/deepseek-chat": ("deepseek", 2.8e-7, 4.2e-7),
    "xai/grok-4.3": ("xai", 1.25e-6, 2.5e-6),
}


def table(**models: Mapping[str, Any]) -> dict[str, Any]:
    """All MODELS, and fields of these, which add to them or override them."""
    entries: dict[str, dict[str, Any]] = {
        name: {
            "litellm_provider": maker,
            "mode": "chat",
            "input_cost_per_token": given,
            "output_cost_per_token": answered,
        }
        for name, (maker, given, answered) in MODELS.items()
    }
    for name, fields in models.items():
        entries[name] = entries.get(name, {}) | dict(fields)
    return {"sample_spec": {"mode": "one of: chat"}, **entries}


def write(folder: Path, **models: Mapping[str, Any]) -> str:
    """The path of a file with this table."""
    file = folder / "prices.json"
    file.write_text(json.dumps(table(**models)))
    return str(file)
