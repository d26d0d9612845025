"""Prices of `model_info` and `litellm_params`, and of Azure's deployments by their `base_model`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from webapp.imports.document import Path
from webapp.imports.litellm.deployments import Deployment, Deployments
from webapp.imports.litellm.makers import OLLAMA
from webapp.imports.litellm.values import number
from webapp.imports.report import Report
from webapp.metering import price_import
from webapp.metering.prices import VERSION, shipped
from webapp.model_names import quoted
from webapp.setting_parsers import PriceEntry, price_entry

# Where the table has the models of a maker.
SECTIONS = {
    "openai": ("openai",),
    "azure": ("azure", "openai"),
    "gemini": ("google_genai",),
    **{name: (name,) for name in ("anthropic", "mistral", "groq", "deepseek", "xai")},
}


def read(
    deployments: Deployments, targets: Mapping[Path, tuple[str, str]], report: Report
) -> dict[tuple[str, str], PriceEntry]:
    """The prices by provider and model."""
    prices: dict[tuple[str, str], PriceEntry] = {}
    for deployment in deployments.served:
        target = targets[deployment.path]
        entry = _given(deployment, report) or _of_base_model(deployment, report)
        if entry is None and deployment.maker is OLLAMA:
            entry = price_entry({"input": 0, "output": 0})  # as in LiteLLM's table
        if entry is None:
            continue
        if prices.setdefault(target, entry) != entry:
            report.differs(
                deployment.path,
                f"A target has one price: {'/'.join(target)} has that of its first deployment.",
            )
    return prices


def as_text(prices: Mapping[tuple[str, str], PriceEntry]) -> str:
    """MODEL_PRICES."""
    return "; ".join(
        f"{provider}/{quoted(model)}: {price_import.listed(entry)}"
        for (provider, model), entry in prices.items()
    )


def _given(deployment: Deployment, report: Report) -> PriceEntry | None:
    given = {**deployment.info, **deployment.params}
    costs = {
        name: Decimal(value.numerator) / Decimal(value.denominator)
        for name in given
        if "cost_per" in name or "_token_cost" in name
        if (value := number(given[name])) is not None and value >= 0
    }
    if not costs or all(name.endswith("_per_second") for name in costs):
        return None
    counts = {name: given.get(name) for name in ("max_input_tokens", "max_output_tokens")}
    if counts["max_output_tokens"] is None:
        counts["max_output_tokens"] = given.get("max_tokens") if given is not None else None
    fields: dict[str, Any] = {"mode": given.get("mode") or "chat", **costs, **counts}
    path = (*deployment.path, "litellm_params")
    try:
        if costs.get("input_cost_per_token"):
            own = price_import.fields_of(fields) or {}
        else:
            output = costs.get("output_cost_per_token", Decimal(0)) * 1_000_000
            own = {"output": output} | ({"input": 0} if "input_cost_per_token" in costs else {})
        if {"input", "output"} <= own.keys() or given.get("mode") == "embedding":
            return price_entry({"input": 0, **own})
        # LiteLLM has the other rates in its table, where it knows the model.
        known = _shipped(SECTIONS.get(deployment.maker.name, ()), deployment.model)
        if known is None:
            report.todo(
                path,
                "It has a price for one direction only. The other one is 0, as LiteLLM has "
                "it: check MODEL_PRICES.",
            )
        return price_entry({"input": 0, **(known or {}), **own})
    except ValueError as error:
        report.missing(path, f"Its price cannot be read: {error}.")
        return None


def _of_base_model(deployment: Deployment, report: Report) -> PriceEntry | None:
    """An Azure deployment is named by its owner; `base_model` says which model's price it has."""
    base = str(deployment.info.get("base_model") or deployment.params.get("base_model") or "")
    section, slash, model = base.partition("/")
    if not base or deployment.maker.type != "azure":
        return None
    model = model if slash and section in {"azure", "openai"} else base
    if fields := _shipped(SECTIONS["azure"], model):
        return price_entry(fields)
    report.todo(
        (*deployment.path, "model_info", "base_model"),
        "Weir has no price of this model. Set MODEL_PRICES.",
    )
    return None


def _shipped(sections: Iterable[str], model: str) -> Mapping[str, Any] | None:
    """The fields of a model in the table that comes with this version."""
    for section in sections:
        models = shipped().sections.get(section, {})
        if fields := models.get(model) or models.get(VERSION.sub("", model)):
            return fields
    return None
