"""From LiteLLM's `config.yaml` to a file of Weir's settings, and a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from webapp import settings
from webapp.imports.document import Document
from webapp.imports.env_file import EnvFile
from webapp.imports.litellm import deployments, prices, providers, routes
from webapp.imports.litellm import settings as proxy_settings
from webapp.imports.report import Report
from webapp.metering.makers import maker_of
from webapp.metering.prices import PriceTable
from webapp.setting_parsers import RoutedModel
from webapp.settings import Settings, SettingsError

# For the check of the settings: what an operator sets that no file of LiteLLM has.
STAND_INS = {"SECRET_KEY": "a-stand-in-for-the-check", "ADMIN_PASSWORD": "a-stand-in-too"}
HEAD = """\
# Weir's settings, made of LiteLLM's config.yaml by `flask import litellm`.
#
#   set -a; . ./weir.env; set +a
#
# Compose reads it as an env_file. Docker's --env-file and systemd do not replace ${NAME}: write the
# values there. In production also set these (openssl rand -hex 32, openssl rand -hex 12):
#APP_ENV=production
#SECRET_KEY=
#ADMIN_PASSWORD=
#DATABASE_URL=
"""


@dataclass(frozen=True)
class Conversion:
    """The settings, the report, and what groups of models keys may name (`access_groups`)."""

    env: EnvFile
    report: Report
    routes: dict[str, list[RoutedModel]]
    access_groups: dict[str, list[str]]

    @property
    def text(self) -> str:
        return HEAD + "\n" + self.env.text()

    def check(self, environment: Mapping[str, str], data_dir: str) -> Settings:
        """The settings as Weir loads them. Raises SettingsError.

        Variables that are not set here have a stand-in, as has what only an operator can set.
        """

        def value_of(name: str) -> str:
            return environment.get(name) or _stand_in(name)

        given = {"APP_ENV": "production", "DATA_DIR": data_dir, **STAND_INS}
        return settings.load({**given, **self.env.values(value_of)})


def convert(text: str) -> Conversion:
    """Read a `config.yaml`. Raises DocumentError."""
    document = Document(text)
    env, report = EnvFile(), Report(document)
    found = deployments.read(document, report)
    known = providers.Providers(env, report)
    targets = {one.path: (known.of(one), one.model) for one in found.served}
    routed = routes.read(document, report, found, targets) if targets else {}
    if routed:
        env.put("MODEL_ROUTES", routes.as_text(routed).replace("$", "$$"), "What clients may name.")
    if priced := prices.read(found, targets, report):
        env.put(
            "MODEL_PRICES", prices.as_text(priced).replace("$", "$$"), "USD per million tokens."
        )
    proxy_settings.read(document, report, found, env)
    proxy_settings.environment(document, report, env)
    groups: dict[str, list[str]] = {}
    for one in found.served:
        names = one.info.get("access_groups")
        for name in names if isinstance(names, list) else []:
            groups.setdefault(str(name), []).append(one.group)
    conversion = Conversion(env, report, routed, groups)
    _note_unpriced(conversion)
    return conversion


def _note_unpriced(conversion: Conversion) -> None:
    try:
        loaded = conversion.check({}, ".")
    except SettingsError:
        return  # the caller reports it
    makers = {one.name: maker_of(one) for one in loaded.providers}
    kinds = {one.name: one.type for one in loaded.providers}
    table = PriceTable(loaded.model_prices, makers)
    targets = {(m.provider, m.model) for models in loaded.model_routes.values() for m in models}
    unpriced = [
        f"{provider}/{model}"
        for provider, model in sorted(targets)
        if table.of(provider, kinds[provider], model) is None
    ]
    if unpriced:
        conversion.report.todo(
            (),
            "No price is known of " + ", ".join(unpriced) + ". Keys with a "
            "budget may not use them: set MODEL_PRICES, or UNPRICED_MODELS=allow.",
        )


def _stand_in(name: str) -> str:
    """A value of the right form for a variable that is not set here."""
    if name.endswith(("_BASE", "_URL", "_ENDPOINT")):
        return "https://stand-in.invalid"
    return "6379" if name.endswith("_PORT") else f"a-stand-in-for-{name}"
