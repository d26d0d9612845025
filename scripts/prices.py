"""Writes webapp/metering/prices.toml from LiteLLM's table of the makers' prices.

    pip download --no-deps litellm && unzip litellm-*.whl 'litellm/model_prices*'
    python -m scripts.prices litellm/model_prices_and_context_window_backup.json 1.106.2 2026-10-21

The arguments are the table, LiteLLM's version and the date of its release. LiteLLM is MIT licensed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

from webapp.metering import price_import

TARGET = Path(__file__).resolve().parents[1] / "webapp" / "metering" / "prices.toml"
INTRODUCTION = """\
# What models cost, in USD per million tokens (image, web_search: USD each), and how much they
# answer and read at most, in tokens. `above_272000.` stands before the rates of calls with more
# input than that, `priority.` before those of a service tier. A tier's factor multiplies all rates
# that it does not name; `regional` multiplies all at the maker's regional hosts.
# LiteLLM takes the prices from the makers' pages. Made by scripts/prices.py; MODEL_PRICES and
# `flask prices update` override them.
"""


def main() -> None:
    path, version, dated = sys.argv[1:]
    table = json.loads(Path(path).read_text(), parse_float=Decimal)
    edition = price_import.read(table, f"LiteLLM {version}", date.fromisoformat(dated))
    lines = [f'{INTRODUCTION}source = "{edition.source}"', f"date = {edition.date}"]
    for section, models in edition.sections.items():
        lines += ["", f"[{section}]"]
        lines += [f'"{name}" = {_inline(fields)}' for name, fields in sorted(models.items())]
    TARGET.write_text("\n".join(lines) + "\n")


def _inline(fields: Mapping[str, Any]) -> str:
    return f"{{ {', '.join(f'{name} = {_toml(value)}' for name, value in fields.items())} }}"


def _toml(value: Any) -> str:
    if value is True:
        return "true"
    return format(value.normalize(), "f") if isinstance(value, Decimal) else str(value)


if __name__ == "__main__":
    main()
