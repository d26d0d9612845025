"""Routing: from the model that a client names to an ordered list of targets."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial
from typing import Any

from webapp.errors import ModelNotFound
from webapp.llm.ports import Provider
from webapp.setting_parsers import RoutedModel

FALLBACK_MODEL = "gpt-4o-mini"
DEFAULT_ROUTE = "default"
ANTHROPIC = "anthropic"  # the kind of Anthropic's family
OFFLINE = "offline"  # the kind of what answers where no provider is configured, and its model
ANTHROPICS_OPERATION = "messages"
MAX_KEPT_ROUTES = 1_000  # without MODEL_ROUTES, clients may name any model


@dataclass(frozen=True, slots=True)
class Target:
    """A provider and its model; `weight` is its share of the first attempts.

    `stands_in` says that it only answers while the others cannot: its answers are not cached.
    """

    provider: Provider
    model: str
    weight: int = 0
    stands_in: bool = False
    name: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", f"{self.provider.name}/{self.model}")


@dataclass(frozen=True)
class Route:
    """An ordered list of targets; `named` says that the name is configured in MODEL_ROUTES."""

    name: str
    targets: tuple[Target, ...]
    named: bool = False

    @cached_property
    def identity(self) -> list[list[str]]:
        """Distinguishes its answers from those of other routes in the cache."""
        return [[target.provider.identity, target.model] for target in self.targets]

    @property
    def names(self) -> tuple[str, ...]:
        """All names of this route: without MODEL_ROUTES also the bare name of the model."""
        return (self.name,) if self.named else (self.name, self.targets[0].model)

    @property
    def max_input_tokens(self) -> int | None:
        """The longest text, in tokens, that all its targets accept in one request."""
        known = [t.provider.max_input_tokens for t in self.targets if t.provider.max_input_tokens]
        return min(known, default=None)

    def stands_in(self, target: tuple[str, str] | None) -> bool:
        """Whether this one, by provider and model, only answers while the others cannot."""
        return any(t.stands_in and (t.provider.name, t.model) == target for t in self.targets)

    @property
    def is_weighted(self) -> bool:
        return any(target.weight for target in self.targets)

    def in_order(self, conversation: bytes | None) -> Route:
        """The route with its targets that have weights first, in an order that is the same for all
        requests of a conversation, and drawn where there is none.

        Weighted rendezvous hashing: without a target, only its own conversations go elsewhere.
        """
        weighted = [target for target in self.targets if target.weight]
        seed = conversation or random.randbytes(16)  # noqa: S311 no secret
        weighted.sort(key=lambda target: _distance(seed, target))
        others = (target for target in self.targets if not target.weight)
        return replace(self, targets=(*weighted, *others))


def _distance(seed: bytes, target: Target) -> float:
    """Exponentially distributed, with the weight as its rate: the share of the seeds for which a
    target has the smallest is its share of the weights."""
    digest = hashlib.sha256(seed + target.name.encode()).digest()
    uniform = (int.from_bytes(digest[:8]) + 1) / 2**64
    return -math.log(uniform) / target.weight


def circuit_name(target: str, operation: str) -> str:
    """The circuit of calls to a target, by its name."""
    return target if operation == "chat/completions" else f"{target} {operation}"


@dataclass(frozen=True, slots=True)
class NamedModel:
    """A model that may be named; `listed` is what its provider says of it, if that is known."""

    name: str
    owner: str
    created: int = 0
    """Unix seconds; 0 if unknown."""
    listed: Mapping[str, Any] = field(default_factory=dict)


class Router:
    """Resolves model names. A name without a provider means the first OpenAI-compatible one, and
    in a request of Anthropic's API the first of Anthropic's family, if there is one."""

    def __init__(
        self,
        providers: Mapping[str, Provider],
        routes: Mapping[str, tuple[RoutedModel, ...]],
        default_model: str = "",
    ) -> None:
        self._providers = providers
        self._default_model = default_model
        offline = [one for one in providers.values() if one.kind == OFFLINE and len(providers) > 1]
        self._stand_in = next((Target(one, OFFLINE, stands_in=True) for one in offline), None)
        self._single = lru_cache(MAX_KEPT_ROUTES)(partial(_single, self._stand_in))
        family = [provider for provider in providers.values() if provider.openai_family]
        self._first = next(iter([*family, *providers.values()]))
        anthropic = [one for one in providers.values() if one.kind == ANTHROPIC]
        self._first_for = {ANTHROPICS_OPERATION: next(iter(anthropic), self._first)}
        self._routes = {
            name: Route(name, tuple(self._target(*model) for model in models), named=True)
            for name, models in routes.items()
        }

    def resolve(self, model: str | None, operation: str = "") -> Route:
        """The route of a name: one of MODEL_ROUTES; without these, `provider/model` or a bare
        model. None means the default.

        The text before the first slash is a provider only if one of that name is configured.
        Raises ModelNotFound.
        """
        name = model or (DEFAULT_ROUTE if DEFAULT_ROUTE in self._routes else self._default_model)
        if name in self._routes:
            return self._routes[name]
        if model and self._routes:
            raise ModelNotFound(f"Model {model!r} not found. See GET /v1/models.")
        prefix, slash, rest = name.partition("/")
        if slash and rest and prefix in self._providers:
            return self._single(self._providers[prefix], rest)
        first = self._first_for.get(operation, self._first) if model else self._first
        return self._single(first, name or self._default_of_first())

    def names(self, operation: str = "") -> Iterator[NamedModel]:
        """Every model that may be named in a request of this operation."""
        if self._routes:
            yield from (NamedModel(name, "weir") for name in self._routes)
            return
        for provider in self._providers.values():
            if not (self._stand_in and provider is self._stand_in.provider):
                yield from self.names_of(provider, operation)

    def names_of(self, provider: Provider, operation: str = "") -> Iterator[NamedModel]:
        """The models of a provider, as they may be named without MODEL_ROUTES."""
        first = self._first_for.get(operation, self._first)
        prefix = "" if provider is first else f"{provider.name}/"
        for listed in provider.models():
            created = listed.get("created")
            yield NamedModel(
                f"{prefix}{listed['id']}",
                str(listed.get("owned_by") or provider.name),
                created if isinstance(created, int) else 0,
                listed,
            )

    @property
    def summary_model(self) -> str | None:
        """What summaries without a model are asked of, if that is not the default: the small local
        model summarizes worse than the offline provider, which extracts sentences."""
        return self._stand_in.name if self._stand_in else None

    @property
    def routes(self) -> list[Route]:
        """The routes of MODEL_ROUTES, as configured."""
        return list(self._routes.values())

    @property
    def routed(self) -> list[Target]:
        """All targets of MODEL_ROUTES, sorted by name."""
        targets = (target for route in self._routes.values() for target in route.targets)
        return [target for _, target in sorted({t.name: t for t in targets}.items())]

    @property
    def configured(self) -> set[tuple[str, str]]:
        """(provider, model) of all targets of MODEL_ROUTES and DEFAULT_MODEL."""
        targets = list(self.routed)
        if self._default_model:
            targets += self.resolve(None).targets
        return {(target.provider.name, target.model) for target in targets}

    def provider(self, name: str) -> Provider | None:
        return self._providers.get(name)

    @property
    def providers(self) -> list[Provider]:
        return list(self._providers.values())

    def _default_of_first(self) -> str:
        return self._first.default_model() or FALLBACK_MODEL

    def _target(self, provider: str, model: str, weight: int) -> Target:
        return Target(self._providers[provider], model, weight)


def _single(stand_in: Target | None, provider: Provider, model: str) -> Route:
    """The route of a model that a client names."""
    target = Target(provider, model)
    others = (stand_in,) if stand_in and provider is not stand_in.provider else ()
    return Route(target.name, (target, *others))
