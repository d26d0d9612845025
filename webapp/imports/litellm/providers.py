"""Gives each address and key of the deployments a provider of Weir's settings."""

from __future__ import annotations

import re
from ipaddress import ip_address
from urllib.parse import urlsplit

from webapp.imports.env_file import EnvFile, literal, reference
from webapp.imports.litellm.deployments import Deployment
from webapp.imports.litellm.makers import Maker
from webapp.imports.litellm.values import template, variable
from webapp.imports.report import Report
from webapp.named_settings import NAMED_PROVIDERS

BUILT_IN = {
    "openai": ("OPENAI_BASE_URL", "OPENAI_API_KEY"),
    "azure": ("AZURE_OPENAI_ENDPOINT", "AZURE_OPENAI_API_KEY"),
    "anthropic": ("ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY"),
}
# How a provider is reached: its type, and the templates of its base URL and key.
Access = tuple[str, str, str]


class Providers:
    """The providers by how they are reached, each with its name."""

    def __init__(self, env: EnvFile, report: Report) -> None:
        self._env = env
        self._report = report
        self._names: dict[Access, str] = {}

    def of(self, deployment: Deployment) -> str:
        """The name of the deployment's provider, which is added to the settings if it is new."""
        access = self._access(deployment)
        if access not in self._names:
            self._names[access] = self._name(deployment, access)
            self._write(self._names[access], access)
        return self._names[access]

    def _access(self, deployment: Deployment) -> Access:
        maker, params = deployment.maker, deployment.params
        path = (*deployment.path, "litellm_params")
        given = params.get("api_base") or params.get("base_url")
        base_url = _base_url(maker, template(given))
        key = template(params.get("api_key"))
        if not key and maker.key:
            key = reference(maker.key)
            if given and maker.name == "openai":
                key = ""
                self._report.todo(
                    (*path, "api_base"),
                    "It has no api_key. LiteLLM would send "
                    "OPENAI_API_KEY there; set the provider's _API_KEY if the server "
                    "needs one.",
                )
        version = str(params.get("api_version") or "")
        if maker.type == "azure" and version and "?" not in base_url:
            base_url += f"?api-version={template(version)}"
        if maker.type == "langchain:bedrock_converse":
            # Who asks Amazon is in the environment of the process, the same for all.
            return maker.type, base_url, ""
        if maker.name == "azure_ai":
            self._report.differs(
                (*path, "model"),
                "azure_ai/ becomes a server of OpenAI's protocol. "
                "Check its base URL: Weir adds /chat/completions to it. For Claude, set its "
                "_TYPE to anthropic.",
            )
        return maker.type, base_url, key

    def _name(self, deployment: Deployment, access: Access) -> str:
        taken = set(self._names.values())
        maker = deployment.maker
        given = deployment.params.get("api_base") or deployment.params.get("base_url")
        own = maker.name not in NAMED_PROVIDERS
        if not own and (maker.name == "azure" or not given) and maker.name not in taken:
            return maker.name
        wanted = [maker.name] if own else []
        wanted += [_slug(_host_label(str(given or ""))), f"{maker.name}_{_slug(deployment.group)}"]
        numbered = [f"{maker.name}_{number}" for number in range(2, len(taken) + 3)]
        for name in [*wanted, *numbered]:
            if re.fullmatch(r"[a-z][a-z0-9_]{0,31}", name) and name not in NAMED_PROVIDERS | taken:
                return name
        raise AssertionError("one of the numbered names is free")

    def _write(self, name: str, access: Access) -> None:
        provider_type, base_url, key = access
        comment = f"Provider {name}."
        if name in BUILT_IN:
            base_variable, key_variable = BUILT_IN[name]
        else:
            prefix = f"PROVIDER_{name.upper()}"
            base_variable, key_variable = f"{prefix}_BASE_URL", f"{prefix}_API_KEY"
            self._env.put(f"{prefix}_TYPE", provider_type, comment)
            comment = ""
            if provider_type == "openai" and not base_url:
                base_url = "https://api.openai.com/v1"
        if base_url:
            self._env.put(base_variable, base_url, comment)
            comment = ""
        if key:
            self._env.put(key_variable, key, comment)


def _base_url(maker: Maker, given: str) -> str:
    """The template of the base URL, "" for the maker's own."""
    if not given:
        return literal(maker.base_url) or (reference(maker.address) if maker.address else "")
    if not maker.v1 or given.rstrip("/").endswith("/v1"):
        return given
    return f"{given.rstrip('/')}/v1"


def _host_label(base_url: str) -> str:
    """What tells one server from another in its address, or in the variable that holds it."""
    if name := variable(base_url):
        return re.sub(r"_?(API_BASE|BASE_URL|ENDPOINT|URL)$", "", name)
    try:
        host = urlsplit(base_url).hostname or ""
    except ValueError:
        return ""
    try:
        ip_address(host)
    except ValueError:
        labels = [label for label in host.split(".") if label not in {"api", "www"}]
        return labels[0] if labels and labels[0] != "localhost" else "server"
    return "server"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:32].strip("_")
