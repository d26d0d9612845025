"""The check of providers and of the models that settings name."""

from __future__ import annotations

from collections.abc import Iterator

from webapp import local_model
from webapp.diagnosis.finding import Finding
from webapp.errors import WeirError
from webapp.llm.routing import Target
from webapp.services import Services

CHECK_TIMEOUT = 5.0


def check_providers(services: Services) -> Iterator[Finding]:
    if not services.settings.has_provider:
        served = services.settings.wants_local_model and local_model.is_installed()
        who = f"`make run` serves {local_model.LABEL}" if served else "Weir answers offline"
        yield Finding(
            "providers", "warning", f"none is configured: {who}",
            "Set OPENAI_API_KEY or OPENAI_BASE_URL, or configure another provider.",
        )  # fmt: skip
    listed: dict[str, set[str]] = {}
    for provider in services.gateway.router.providers:
        try:
            provider.check(CHECK_TIMEOUT)
            yield Finding("providers", "ok", f"{provider.name} answers")
            listed[provider.name] = {str(model["id"]) for model in provider.models()}
        except WeirError as error:
            advice = "Check its API key and its quota."
            if error.name != "ProviderRefusedWeir":
                advice = "Check its base URL, and the network from here."
            found = f"{provider.name}: {error.name}: {error.message}"
            yield Finding("providers", "problem", found, advice)
    for target in targets_of(services):
        models = listed.get(target.provider.name)
        if models and target.model not in models:
            yield Finding(
                "providers", "warning", f"{target.name} is not in the provider's model list",
                "Check MODEL_ROUTES and DEFAULT_MODEL for typos.",
            )  # fmt: skip


def targets_of(services: Services) -> list[Target]:
    """The targets that the settings name."""
    router = services.gateway.router
    named = list(router.routed)
    if services.settings.default_model and not named:
        named = list(router.resolve(None).targets)
    return named
