"""The providers: one file each, behind one base class, created from the settings."""

from __future__ import annotations

from collections.abc import Mapping

from webapp import local_model
from webapp.providers.anthropic import AnthropicProvider
from webapp.providers.base import BaseProvider
from webapp.providers.local import LocalProvider
from webapp.providers.offline import OfflineProvider
from webapp.providers.openai import AzureProvider, OpenAIProvider
from webapp.providers.remaining_limits import RemainingLimits
from webapp.setting_parsers import ConfiguredProvider
from webapp.settings import Settings, SettingsError


def make_providers(settings: Settings) -> dict[str, BaseProvider]:
    """The configured providers by name. If there are none, the offline provider; before it the
    small local model, where that was started."""
    if not settings.has_provider:
        made: list[BaseProvider] = [OfflineProvider(settings.llm_timeout)]
        if address := local_model.address():
            made.insert(0, LocalProvider(address, settings.llm_timeout))
        return {provider.name: provider for provider in made}
    return {
        provider.name: _make(provider, settings.openai_api_version, settings.llm_timeout)
        for provider in settings.providers
    }


def remaining_limits(providers: Mapping[str, BaseProvider], target: str) -> RemainingLimits | None:
    """What the provider of `provider/model` said last is left of its limits there."""
    name, _, model = target.partition("/")
    return providers[name].limits.of(model) if name in providers else None


def _make(provider: ConfiguredProvider, azure_version: str, timeout: float) -> BaseProvider:
    name, key, address = provider.name, provider.api_key, provider.address
    match provider.type:
        case "openai":
            return OpenAIProvider(name, api_key=key, address=address, timeout=timeout)
        case "azure":
            version = azure_version or address.api_version
            return AzureProvider(
                name, api_key=key, address=address, api_version=version, timeout=timeout
            )
        case "anthropic":
            return AnthropicProvider(name, api_key=key, address=address, timeout=timeout)
        case other:
            return _langchain(provider, other.removeprefix("langchain:"), timeout)


def _langchain(provider: ConfiguredProvider, model_provider: str, timeout: float) -> BaseProvider:
    from webapp.providers.langchain import LangChainProvider, check_installed

    if missing := check_installed(model_provider):
        raise SettingsError(f"PROVIDER_{provider.name.upper()}_TYPE: {missing}")
    return LangChainProvider(
        provider.name,
        model_provider,
        api_key=provider.api_key,
        address=provider.address,
        timeout=timeout,
    )
