"""The routes: groups of deployments with their weights, fallbacks and aliases."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from typing import Any

from webapp.imports.document import Document, Path
from webapp.imports.litellm.advice import TARGET_LIMIT
from webapp.imports.litellm.deployments import Deployment, Deployments
from webapp.imports.litellm.values import listed, mapping, number
from webapp.imports.report import Report
from webapp.model_names import quoted
from webapp.setting_parsers import RoutedModel

SHUFFLE = "simple-shuffle"  # LiteLLM's default strategy
# It draws by the first of these that the first deployment of a group has.
WEIGHTS = ("weight", "rpm", "tpm")
MAX_WEIGHT = 1000
Routes = dict[str, list[RoutedModel]]


def read(
    document: Document,
    report: Report,
    deployments: Deployments,
    targets: Mapping[Path, tuple[str, str]],
) -> Routes:
    """The routes by name; none where clients name models of providers, as wildcards let them.

    `targets` has the provider and model of each deployment, by its path.
    """
    groups = deployments.groups()
    wildcards = {name: group for name, group in groups.items() if "*" in name}
    named = {name: group for name, group in groups.items() if name not in wildcards}
    strategy = document.section("router_settings").get("routing_strategy") or SHUFFLE
    # With another strategy, requests and tokens a minute are limits alone.
    weights = WEIGHTS if strategy == SHUFFLE else WEIGHTS[:1]
    direct = {name: _group(group, targets, weights, report) for name, group in named.items()}
    fallbacks = _Fallbacks(document, report, deployments, direct, targets)
    routes: Routes = {name: fallbacks.extend(name, models) for name, models in direct.items()}
    _add_aliases(document, report, routes)
    if not wildcards:
        return routes
    return _beside_wildcards(routes, wildcards, targets, _first(deployments, targets), report)


def as_text(routes: Routes) -> str:
    """MODEL_ROUTES."""
    return ";".join(
        f"{_name(name)}=" + ">".join(map(_target, models)) for name, models in routes.items()
    )


def _name(name: str) -> str:
    return quoted(name) if "*" not in name else f'"{name}"'


def _target(model: RoutedModel) -> str:
    return f"{model.provider}/{_name(model.model)}" + (f"*{model.weight}" if model.weight else "")


def _group(
    group: list[Deployment],
    targets: Mapping[Path, tuple[str, str]],
    weights: tuple[str, ...],
    report: Report,
) -> list[RoutedModel]:
    """The targets of a group: those with the lowest `order` share the first attempts."""
    orders = [number(one.params.get("order")) or Fraction(0) for one in group]
    first = [one for one, order in zip(group, orders, strict=True) if order == min(orders)]
    later = sorted(
        (pair for pair in zip(orders, group, strict=True) if pair[1] not in first),
        key=lambda pair: pair[0],
    )
    by = next((name for name in weights if _weight_of(group[0], name) is not None), "")
    shares: dict[tuple[str, str], Fraction] = {}
    for one in first:
        share = (_weight_of(one, by) or Fraction(0)) if by else Fraction(1)
        target = targets[one.path]
        shares[target] = shares.get(target, Fraction(0)) + share
    if len(first) > len(shares):
        report.differs(
            first[-1].path,
            "Deployments of a group with the same model, address and key become one target.",
        )
    if by in {"rpm", "tpm"} and len(shares) > 1:
        report.differs(
            (*first[0].path, "litellm_params", by),
            f"{by} becomes the target's weight. " + TARGET_LIMIT,
        )
    models = [
        RoutedModel(*target, weight)
        for target, weight in zip(shares, _integers(shares.values()), strict=True)
    ]
    rest = (targets[one.path] for _, one in later)
    return _distinct([*models, *(RoutedModel(*target, 0) for target in rest)])


def _weight_of(deployment: Deployment, name: str) -> Fraction | None:
    value = number(deployment.params.get(name)) if name else None
    return value if value is not None and value >= 0 else None


def _integers(shares: Iterable[Fraction]) -> Iterator[int]:
    """The weights as small whole numbers; none where one target gets everything."""
    listed_shares = list(shares)
    positive = [share for share in listed_shares if share]
    if len(listed_shares) == 1 or not positive:
        yield from (0 for _ in listed_shares)
        return
    unit = Fraction(
        math.gcd(*(share.numerator for share in positive)),
        math.lcm(*(share.denominator for share in positive)),
    )
    scale = min(Fraction(1), MAX_WEIGHT * unit / max(positive)) / unit
    for share in listed_shares:
        yield max(1, round(share * scale)) if share else 0


def _distinct(models: list[RoutedModel]) -> list[RoutedModel]:
    seen = {(model.provider, model.model): model for model in reversed(models)}
    return [model for model in models if seen[model.provider, model.model] is model]


class _Fallbacks:
    """`fallbacks` by group: the groups, or the ids of deployments, to go on with."""

    def __init__(
        self,
        document: Document,
        report: Report,
        deployments: Deployments,
        direct: Routes,
        targets: Mapping[Path, tuple[str, str]],
    ) -> None:
        self._report = report
        self._direct = direct
        self._by_id = {
            one.id: [RoutedModel(*targets[one.path], 0)] for one in deployments.served if one.id
        }
        self._of: dict[str, list[tuple[Path, Any]]] = {}
        for section in ("router_settings", "litellm_settings"):
            settings = document.section(section)
            for index, entry in enumerate(listed(settings.get("fallbacks"))):
                for group, names in mapping(entry).items():
                    path: Path = (section, "fallbacks", index, str(group))
                    self._of.setdefault(str(group), [(path, name) for name in listed(names)])
            default: Path = (section, "default_fallbacks")
            defaults = [(default, name) for name in listed(settings.get("default_fallbacks"))]
            if defaults:
                self._of.setdefault("*", defaults)
        for group, entries in self._of.items():
            if group != "*" and group not in direct:
                report.missing(
                    entries[0][0] if entries else (),
                    "A fallback of a group that is not served. It is left out.",
                )

    def extend(self, group: str, models: list[RoutedModel]) -> list[RoutedModel]:
        """The targets of the group, and those of its fallbacks, and theirs, each once."""
        return _distinct([*models, *self._after(group, {group})])

    def _after(self, group: str, seen: set[str]) -> Iterator[RoutedModel]:
        for path, entry in self._of.get(group, self._of.get("*", [])):
            name = entry.get("model") if isinstance(entry, dict) else entry
            if isinstance(entry, dict):
                self._report.differs(
                    path,
                    "A fallback gets the same request in Weir: messages and "
                    "parameters of its own are left out.",
                )
            if not isinstance(name, str) or name in seen:
                continue
            seen.add(name)
            models = self._direct.get(name) or self._by_id.get(name)
            if models is None:
                self._report.missing(
                    path, f"The fallback {name!r} is no group that is served. It is left out."
                )
                continue
            yield from (model._replace(weight=0) for model in models)
            yield from self._after(name, seen)


def _add_aliases(document: Document, report: Report, routes: Routes) -> None:
    aliases = mapping(document.section("router_settings").get("model_group_alias"))
    for alias, entry in aliases.items():
        path: Path = ("router_settings", "model_group_alias", str(alias))
        group = mapping(entry).get("model") if isinstance(entry, dict) else entry
        if group not in routes:
            report.missing(path, "An alias of a group that is not served. It is left out.")
            continue
        if mapping(entry).get("hidden"):
            report.differs(path, "A hidden alias is listed by GET /v1/models, as all routes are.")
        routes.setdefault(str(alias), routes[str(group)])


def _beside_wildcards(
    routes: Routes,
    wildcards: Mapping[str, list[Deployment]],
    targets: Mapping[Path, tuple[str, str]],
    first: str,
    report: Report,
) -> Routes:
    """Without routes, clients name any model of a provider: as wildcards, if nothing else is
    named. With routes, they name these alone."""
    plain = all(
        len(models) == 1 and name in _plain_names(models[0], first)
        for name, models in routes.items()
    )
    for name, group in wildcards.items():
        providers = ", ".join(dict.fromkeys(targets[one.path][0] for one in group))
        if plain:
            report.differs(
                group[0].path,
                f"{name}: without MODEL_ROUTES, clients name any model, as "
                f"provider/model ({providers}); a bare name is a model of {first}.",
            )
        else:
            report.todo(
                group[0].path,
                f"{name}: beside routes, Weir has no wildcards. Add a route for "
                f"each model that clients use: name={providers.partition(',')[0]}/model.",
            )
    return {} if plain else routes


def _first(deployments: Deployments, targets: Mapping[Path, tuple[str, str]]) -> str:
    """The provider that a model without one belongs to: the built-in ones come first."""
    family = {
        targets[one.path][0] for one in deployments.served if one.maker.type in {"openai", "azure"}
    }
    order = sorted(family, key=lambda name: (name != "openai", name != "azure", name))
    return next(iter(order), "the first provider")


def _plain_names(model: RoutedModel, first: str) -> set[str]:
    """What a client may call a model without MODEL_ROUTES."""
    bare = {model.model} if model.provider == first else set()
    return {f"{model.provider}/{model.model}", *bare}
