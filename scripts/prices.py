"""Writes webapp/metering/prices.toml from LiteLLM's table of the providers' prices.

    pip download --no-deps litellm && unzip litellm-*.whl 'litellm/model_prices*'
    python scripts/prices.py litellm/model_prices_and_context_window_backup.json 1.106.2 2026-10-21

The arguments are the table, LiteLLM's version and the date of its release. LiteLLM is MIT licensed.
"""

from __future__ import annotations

import json
import re
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

TARGET = Path(__file__).resolve().parents[1] / "webapp" / "metering" / "prices.toml"
# Our section, LiteLLM's name of the provider, and the prefix of its models there.
SECTIONS = [
    ("openai", "openai", ""),
    ("azure", "azure", "azure/"),
    ("anthropic", "anthropic", ""),
    ("google_genai", "gemini", "gemini/"),
    ("mistral", "mistral", "mistral/"),
    ("groq", "groq", "groq/"),
    ("deepseek", "deepseek", "deepseek/"),
    ("xai", "xai", "xai/"),
]
LEFT_OUT = re.compile(
    r"^ft:|audio|realtime|container|lyria|-exp-|experimental|beta|tts|^eu/|^us/|^global"
)
DATED = re.compile(r"(-\d{4}-\d{2}-\d{2}|-20\d{6}|-\d{4})$")
PRICES = {
    "input": "input_cost_per_token",
    "cached_input": "cache_read_input_token_cost",
    "output": "output_cost_per_token",
}


def main() -> None:
    table, version, date = json.loads(Path(sys.argv[1]).read_text()), sys.argv[2], sys.argv[3]
    lines = [
        "# What models cost, in USD per million tokens, and how much they answer and read at most,",
        "# in tokens. With more than `above` tokens of input a call is charged as `*_above`.",
        f"# Source: LiteLLM {version} ({date}), which takes them from the providers' pages.",
        "# Made by scripts/prices.py; MODEL_PRICES overrides any of them.",
    ]
    known: dict[str, dict[str, dict[str, Any]]] = {}
    for section, provider, prefix in SECTIONS:
        found = {
            name.removeprefix(prefix): entry
            for name, entry in table.items()
            if entry.get("litellm_provider") == provider
            and entry.get("mode") in {"chat", "embedding"}
            and not LEFT_OUT.search(name.removeprefix(prefix))
        }
        models = {name: model for name, entry in found.items() if (model := _model(entry))}
        if section == "azure":
            openai = known["openai"]
            models = {
                name: model
                for name, model in models.items()
                if name in openai and _cost(model) != _cost(openai[name])
            }
        known[section] = models = _undated(models)
        pages = sorted({e["source"] for e in found.values() if "/pricing" in e.get("source", "")})
        lines += ["", *(f"# {page}" for page in pages), f"[{section}]"]
        lines += [f'"{name}" = {_inline(model)}' for name, model in sorted(models.items())]
    TARGET.write_text("\n".join(lines) + "\n")


def _model(entry: dict[str, Any]) -> dict[str, Any] | None:
    model = {ours: _million(entry[theirs]) for ours, theirs in PRICES.items() if entry.get(theirs)}
    if "input" not in model:
        return None
    above = {
        int(found[1]) * 1000
        for name in entry
        if (found := re.fullmatch(r"input_cost_per_token_above_(\d+)k_tokens", name))
    }
    if len(above) == 1:
        [limit] = above
        higher = {
            f"{ours}_above": _million(entry[name])
            for ours, theirs in PRICES.items()
            if (name := f"{theirs}_above_{limit // 1000}k_tokens") in entry
        }
        model |= {"above": limit, **higher}
    if entry.get("mode") == "chat":
        model["max_output"] = entry.get("max_output_tokens")
        model["context"] = entry.get("max_input_tokens")
        model["reasoning"] = entry.get("supports_reasoning") or None
    return {name: value for name, value in model.items() if value is not None}


def _million(per_token: float) -> Decimal:
    return (Decimal(str(per_token)) * 1_000_000).normalize()


def _cost(model: dict[str, Any]) -> list[Any]:
    return [model.get(name) for name in PRICES]


def _undated(models: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Drop dated names with the price of the undated name, which Weir looks up as a fallback."""
    return {
        name: model
        for name, model in models.items()
        if models.get(DATED.sub("", name)) != model or not DATED.search(name)
    }


def _inline(model: dict[str, Any]) -> str:
    values = ", ".join(f"{name} = {_toml(value)}" for name, value in model.items())
    return f"{{ {values} }}"


def _toml(value: Any) -> str:
    if value is True:
        return "true"
    return format(value, "f") if isinstance(value, Decimal) else str(value)


if __name__ == "__main__":
    main()
