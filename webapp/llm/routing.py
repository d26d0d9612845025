"""From the model that a client names to the provider that has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from webapp.llm.ports import Provider

LAST_RESORT = "gpt-4o-mini"


@dataclass(frozen=True, slots=True)
class Target:
    """A provider and the model to ask it for."""

    provider: Provider
    model: str


class Router:
    """Resolves model names. The first provider is meant where a name names none."""

    def __init__(self, providers: Mapping[str, Provider], default_model: str = "") -> None:
        self._providers = providers
        self._first = next(iter(providers.values()))
        self._default_model = default_model

    def resolve(self, model: str | None) -> Target:
        """The target of `provider/model`, of a bare model, or of None for the default.

        What stands before the first slash counts only if it is a configured provider's name.
        """
        name = model or self._default_model
        prefix, slash, rest = name.partition("/")
        if slash and rest and prefix in self._providers:
            return Target(self._providers[prefix], rest)
        return Target(self._first, name or self._first.default_model() or LAST_RESORT)
